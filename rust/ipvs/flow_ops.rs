// SPDX-License-Identifier: GPL-2.0

//! Operations through which IPVS lets a module decide about reopened flows.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::{Conn, ReopenedFlow};
use crate::bindings;
use crate::net::Transport;
use crate::netfilter::{HookPacket, Verdict};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{error::to_result, ffi::c_uint, prelude::*, sync::aref::ARef, types::Opaque};

/// Decides about reopened flows in place of IPVS (`struct ip_vs_flow_ops`).
///
/// # Examples
///
/// ```
/// struct LeaveAll;
///
/// impl FlowOps for LeaveAll {
///     fn reopened(flow: ReopenedFlow<'_>) -> Result<Verdict<'_>, ReopenedFlow<'_>> {
///         Err(flow)
///     }
/// }
/// ```
pub trait FlowOps: 'static {
    /// Takes the packet and returns a verdict, or gives the flow back. IPVS then handles the packet
    /// as if there were no operations.
    ///
    /// The packet carries a confirmed conntrack. Softirq or process context, in an RCU read-side
    /// critical section.
    fn reopened(flow: ReopenedFlow<'_>) -> Result<Verdict<'_>, ReopenedFlow<'_>>;
}

/// The C callbacks of a [`FlowOps`].
struct Adapter<T: FlowOps>(PhantomData<T>);

impl<T: FlowOps> Adapter<T> {
    /// # Safety
    ///
    /// Only IPVS may call this, for operations of [`FlowOpsRegistration`].
    unsafe extern "C" fn reopened_callback(
        cp: *mut bindings::ip_vs_conn,
        skb: *mut bindings::sk_buff,
        iph: *const bindings::ip_vs_iphdr,
        state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: `ip_vs_in_hook()` passes a header of its own, which it has filled.
        let iph = unsafe { &*iph };
        let (Some(cp), Ok(protocol)) = (NonNull::new(cp), iph.protocol.try_into()) else {
            return bindings::NF_ACCEPT;
        };
        let transport = Transport {
            protocol,
            offset: iph.len,
        };
        // SAFETY: `ip_vs_in_hook()` passes on its own packet and state, and returns our verdict to
        // netfilter. It is a hook at LOCAL_IN and LOCAL_OUT, where a packet's data starts at the
        // network header.
        let packet = unsafe { HookPacket::from_raw(skb, state) };
        // SAFETY: `ip_vs_in_hook()` holds a reference to the entry, and leaves it to us unless we
        // return `NF_ACCEPT`.
        let conn = unsafe { ARef::<Conn>::from_raw(cp.cast()) };

        match T::reopened(ReopenedFlow::new(packet, transport, conn)) {
            Ok(verdict) => verdict.into_raw(),
            Err(flow) => {
                // This is the flow that we passed: the lifetime is that of no other, and nothing
                // in a build with these operations takes a flow apart but to replay its packet.
                // IPVS puts the reference.
                let _ = ARef::into_raw(flow.conn);
                bindings::NF_ACCEPT
            }
        }
    }
}

/// Keeps a [`FlowOps`] registered in all namespaces until dropped. After that no packet is in the
/// callback any more.
///
/// # Examples
///
/// ```
/// #[pin_data]
/// struct Module {
///     #[pin]
///     ops: FlowOpsRegistration<LeaveAll>,
/// }
///
/// fn init() -> impl PinInit<Module, Error> {
///     try_pin_init!(Module { ops <- FlowOpsRegistration::new() })
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct FlowOpsRegistration<T: FlowOps> {
    #[pin]
    ops: Opaque<bindings::ip_vs_flow_ops>,
    _ops: PhantomData<T>,
}

// SAFETY: A registration can only be dropped, and any thread may call
// `unregister_ip_vs_flow_ops()`.
unsafe impl<T: FlowOps> Send for FlowOpsRegistration<T> {}
// SAFETY: A shared reference to a registration gives access to nothing.
unsafe impl<T: FlowOps> Sync for FlowOpsRegistration<T> {}

impl<T: FlowOps> FlowOpsRegistration<T> {
    /// Registers `T`. `EBUSY` if another module has registered its operations.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|place: *mut bindings::ip_vs_flow_ops| {
                let ops = bindings::ip_vs_flow_ops {
                    reopened: Some(Adapter::<T>::reopened_callback),
                };
                // SAFETY: `place` is valid for writes.
                unsafe { place.write(ops) };
                // SAFETY: `place` is pinned, and stays valid until `drop` has unregistered it. If
                // `register_ip_vs_flow_ops()` fails, it keeps no pointer to it.
                to_result(unsafe { bindings::register_ip_vs_flow_ops(place) })
            }),
            _ops: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: FlowOps> PinnedDrop for FlowOpsRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` has registered the operations. `unregister_ip_vs_flow_ops()` waits for a
        // grace period, and so for all packets in the callback.
        unsafe { bindings::unregister_ip_vs_flow_ops(self.ops.get()) };
    }
}
