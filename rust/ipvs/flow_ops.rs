// SPDX-License-Identifier: GPL-2.0

//! Operations by which IPVS lets a module decide about reopened flows.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::conn::HeldConn;
use super::ReopenedFlow;
use crate::bindings;
use crate::net::Transport;
use crate::netfilter::{HookPacket, Verdict};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{error::to_result, ffi::c_uint, prelude::*, types::Opaque};

/// Decides about reopened flows in place of IPVS (`struct ip_vs_flow_ops`).
pub trait FlowOps: 'static {
    /// Takes the packet, or gives it back so that IPVS goes on as a stock kernel does. The packet
    /// carries a confirmed conntrack. Softirq or process context, in an RCU read-side critical
    /// section.
    fn reopened(flow: ReopenedFlow<'_>) -> Result<Verdict<'_>, ReopenedFlow<'_>>;
}

/// The C callbacks of a [`FlowOps`].
struct Adapter<T: FlowOps>(PhantomData<T>);

impl<T: FlowOps> Adapter<T> {
    /// # Safety
    ///
    /// May be called only by IPVS, for operations of [`FlowOpsRegistration`].
    unsafe extern "C" fn reopened_callback(
        cp: *mut bindings::ip_vs_conn,
        skb: *mut bindings::sk_buff,
        iph: *const bindings::ip_vs_iphdr,
        state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: `ip_vs_in_hook()` passes a filled header, its own.
        let iph = unsafe { &*iph };
        let (Some(cp), Ok(protocol)) = (NonNull::new(cp), iph.protocol.try_into()) else {
            return bindings::NF_ACCEPT;
        };
        let transport = Transport {
            protocol,
            offset: iph.len,
        };
        // SAFETY: `ip_vs_in_hook()` passes the packet and the state that it was given itself, and
        // returns our verdict. It stands where the packet's data starts at its network header.
        let packet = unsafe { HookPacket::from_raw(skb, state) };
        // SAFETY: `ip_vs_in_hook()` has found the entry, and lets us have its reference unless we
        // return `NF_ACCEPT`.
        let conn = unsafe { HeldConn::from_raw(cp) };

        match T::reopened(ReopenedFlow::new(packet, transport, conn)) {
            Ok(verdict) => verdict.into_raw(),
            Err(flow) => {
                // It is the same flow, for there is no other of its lifetime: IPVS has its
                // reference back.
                core::mem::forget(flow.conn);
                bindings::NF_ACCEPT
            }
        }
    }
}

/// Keeps a [`FlowOps`] registered in all namespaces until dropped. Then no packet is in it any
/// more.
#[pin_data(PinnedDrop)]
pub struct FlowOpsRegistration<T: FlowOps> {
    #[pin]
    ops: Opaque<bindings::ip_vs_flow_ops>,
    _ops: PhantomData<T>,
}

// SAFETY: A registration can only be dropped, and `unregister_ip_vs_flow_ops()` may be called from
// any thread.
unsafe impl<T: FlowOps> Send for FlowOpsRegistration<T> {}
// SAFETY: A shared reference to a registration gives access to nothing.
unsafe impl<T: FlowOps> Sync for FlowOpsRegistration<T> {}

impl<T: FlowOps> FlowOpsRegistration<T> {
    /// Lets `T` decide. `EBUSY` if another module does already.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|place: *mut bindings::ip_vs_flow_ops| {
                let ops = bindings::ip_vs_flow_ops {
                    reopened: Some(Adapter::<T>::reopened_callback),
                };
                // SAFETY: `place` is memory for the operations.
                unsafe { place.write(ops) };
                // SAFETY: `place` is pinned, and stays until it is unregistered in `drop`.
                // `register_ip_vs_flow_ops()` publishes it last, or keeps nothing of it.
                to_result(unsafe { bindings::register_ip_vs_flow_ops(place) })
            }),
            _ops: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: FlowOps> PinnedDrop for FlowOpsRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: They were registered by `new`, or this object would not be. IPVS waits for the
        // packets that are in them: `unregister_ip_vs_flow_ops()` ends with a grace period.
        unsafe { bindings::unregister_ip_vs_flow_ops(self.ops.get()) };
    }
}
