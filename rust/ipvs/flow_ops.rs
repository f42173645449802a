// SPDX-License-Identifier: GPL-2.0

//! Deciding about reopened flows in place of IPVS.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::{Conn, Ipvs, Reopened};
use crate::bindings;
use crate::net::{Packet, Transport};
use crate::netfilter::{HookState, Template};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{error::to_result, prelude::*, types::Opaque};

/// Who decides about reopened flows (`struct ip_vs_flow_ops`).
pub trait FlowOps: 'static {
    /// Does what is to be done so that IPVS can schedule the flow anew, if it is going to: evicts
    /// the conntrack that the packet would be given. Softirq or process context, RCU read side.
    fn reopened(flow: &Reopened<'_>);
}

/// The C callbacks of a [`FlowOps`].
struct Adapter<T: FlowOps>(PhantomData<T>);

impl<T: FlowOps> Adapter<T> {
    /// # Safety
    ///
    /// To be called by IPVS only, for the operations of [`FlowOpsRegistration`].
    unsafe extern "C" fn reopened_callback(
        ipvs: *mut bindings::netns_ipvs,
        skb: *mut bindings::sk_buff,
        iph: *mut bindings::ip_vs_iphdr,
        cp: *mut bindings::ip_vs_conn,
        tmpl: *const bindings::nf_conn,
        state: *const bindings::nf_hook_state,
    ) {
        // SAFETY: `ip_vs_may_reopen()` passes what it was given itself or has found, all of it
        // valid for this call; it holds the entry, and the packet the template. Where IPVS's hook
        // stands the packet's data starts at its network header. `iph` is its local, with no
        // pointer to the packet's memory.
        let (ipvs, packet, conn, template, state, header) = unsafe {
            (
                Ipvs::from_raw(ipvs),
                Packet::from_raw(skb),
                NonNull::new(cp).map(|cp| Conn::from_raw(cp)),
                NonNull::new(tmpl.cast_mut()).map(|tmpl| Template::from_raw(tmpl)),
                HookState::from_raw(state),
                &*iph,
            )
        };
        let (Some(conn), Ok(protocol)) = (conn, header.protocol.try_into()) else {
            return;
        };
        T::reopened(&Reopened {
            ipvs,
            state,
            packet,
            transport: Transport {
                protocol,
                offset: header.len,
            },
            template,
            conn,
        });
    }
}

/// A [`FlowOps`] that decides in all namespaces until this is dropped. Then no packet is with it
/// any more.
#[pin_data(PinnedDrop)]
pub struct FlowOpsRegistration<T: FlowOps> {
    #[pin]
    ops: Opaque<bindings::ip_vs_flow_ops>,
    _ops: PhantomData<T>,
}

// SAFETY: Nothing of a registration can be reached but its end.
unsafe impl<T: FlowOps> Send for FlowOpsRegistration<T> {}
// SAFETY: As above.
unsafe impl<T: FlowOps> Sync for FlowOpsRegistration<T> {}

impl<T: FlowOps> FlowOpsRegistration<T> {
    /// Lets `T` decide. `EBUSY` where somebody does already.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|place: *mut bindings::ip_vs_flow_ops| {
                let ops = bindings::ip_vs_flow_ops {
                    reopened: Some(Adapter::<T>::reopened_callback),
                };
                // SAFETY: `place` is memory for the operations, pinned, and stays until they are
                // unregistered in `drop`. `register_ip_vs_flow_ops()` publishes it last, or keeps
                // nothing of it.
                unsafe {
                    place.write(ops);
                    to_result(bindings::register_ip_vs_flow_ops(place))
                }
            }),
            _ops: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: FlowOps> PinnedDrop for FlowOpsRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: They were registered by `new`, or this object would not be. IPVS waits for the
        // packets that are with them: `unregister_ip_vs_flow_ops()` ends with a grace period.
        unsafe { bindings::unregister_ip_vs_flow_ops(self.ops.get()) };
    }
}
