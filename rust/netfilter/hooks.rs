// SPDX-License-Identifier: GPL-2.0

//! Hooks of the module's own, at LOCAL_IN and LOCAL_OUT of both families. Needed on a stock kernel
//! only.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use super::{HookPacket, Verdict};
use crate::base::synchronize_rcu;
use crate::bindings;
use crate::net::Family;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use kernel::{
    error::to_result,
    ffi::{c_int, c_uint, c_void},
    prelude::*,
    types::Opaque,
};

/// A hook for all packets that are delivered to this machine or sent by it.
pub trait Hook: Sized + 'static {
    /// Before or after which other hooks at LOCAL_IN. Lower priorities see a packet earlier.
    const LOCAL_IN_PRIORITY: i32;

    /// The same at LOCAL_OUT.
    const LOCAL_OUT_PRIORITY: i32;

    /// The static that netfilter knows the hook by.
    const OPS: &'static HookOps<Self>;

    /// Decides about one packet. Softirq or process context, in an RCU read-side critical section.
    fn packet(packet: HookPacket<'_>) -> Verdict<'_>;
}

/// What netfilter keeps of a [`Hook`], by address: `struct nf_hook_ops` for each place.
pub struct HookOps<H: Hook>([bindings::nf_hook_ops; 4], PhantomData<H>);

// SAFETY: Nobody writes to the operations. Netfilter, and under RCU whoever lists hooks, reads
// them.
unsafe impl<H: Hook> Sync for HookOps<H> {}

impl<H: Hook> HookOps<H> {
    /// The priority of destination NAT, the same for both families.
    pub const NAT_DST: i32 = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_DST;
    /// The priority of source NAT.
    pub const NAT_SRC: i32 = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_SRC;

    /// The operations of `H`.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        const IN: c_uint = bindings::nf_inet_hooks_NF_INET_LOCAL_IN;
        const OUT: c_uint = bindings::nf_inet_hooks_NF_INET_LOCAL_OUT;

        Self(
            [
                Self::at(Family::Ipv4, IN, H::LOCAL_IN_PRIORITY),
                Self::at(Family::Ipv4, OUT, H::LOCAL_OUT_PRIORITY),
                Self::at(Family::Ipv6, IN, H::LOCAL_IN_PRIORITY),
                Self::at(Family::Ipv6, OUT, H::LOCAL_OUT_PRIORITY),
            ],
            PhantomData,
        )
    }

    const fn at(family: Family, hooknum: c_uint, priority: i32) -> bindings::nf_hook_ops {
        bindings::nf_hook_ops {
            hook: Some(Self::hook_callback),
            pf: family.number(),
            hooknum,
            priority,
            // SAFETY: Zeroes are integers, null pointers, and a list entry that only nf_tables
            // looks at, in hooks of its own.
            ..unsafe { MaybeUninit::zeroed().assume_init() }
        }
    }

    fn as_ptr(&'static self) -> *const bindings::nf_hook_ops {
        self.0.as_ptr()
    }

    const COUNT: c_uint = 4;

    /// # Safety
    ///
    /// May be called only by netfilter, for operations of this type.
    unsafe extern "C" fn hook_callback(
        _: *mut c_void,
        skb: *mut bindings::sk_buff,
        state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: `nf_hook_slow()` passes a packet and a state that are valid for this call, in an
        // RCU read-side critical section, and takes the verdict. At LOCAL_IN and LOCAL_OUT the
        // packet's data starts at its network header: `ip_local_deliver()`, `__ip_local_out()` and
        // so on have it there.
        let packet = unsafe { HookPacket::from_raw(skb, state) };
        H::packet(packet).into_raw()
    }
}

/// Keeps the hooks of `H` registered in every namespace, also in those that are made later, until
/// dropped. Then no packet is in the hook any more.
#[pin_data(PinnedDrop)]
pub struct Hooks<H: Hook> {
    #[pin]
    ops: Opaque<bindings::pernet_operations>,
    _hook: PhantomData<H>,
}

// SAFETY: A registration can only be dropped, and `unregister_pernet_subsys()` may be called
// from any thread.
unsafe impl<H: Hook> Send for Hooks<H> {}
// SAFETY: A shared reference to a registration gives access to nothing.
unsafe impl<H: Hook> Sync for Hooks<H> {}

impl<H: Hook> Hooks<H> {
    /// Registers the hooks in all namespaces. May sleep. `ENOMEM`, or netfilter's error; after an
    /// error no packet is in the hook.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|ops: *mut bindings::pernet_operations| {
                let callbacks = bindings::pernet_operations {
                    init: Some(Self::init_callback),
                    pre_exit: Some(Self::pre_exit_callback),
                    ..Default::default()
                };
                // SAFETY: `ops` is memory for the operations.
                unsafe { ops.write(callbacks) };
                // SAFETY: `ops` is pinned, and stays until the unregistration in `drop`. That, and
                // the end of a registration that failed, wait for a grace period between taking
                // the hooks away and returning (`ops_undo_list()`): no packet is in our code then.
                to_result(unsafe { bindings::register_pernet_subsys(ops) })
            }),
            _hook: PhantomData,
        })
    }

    /// # Safety
    ///
    /// May be called only by the core, for a registration of this type.
    unsafe extern "C" fn init_callback(net: *mut bindings::net) -> c_int {
        // SAFETY: The core passes a namespace that is being set up, or one in use. Netfilter keeps
        // the addresses of the hooks and reads them (`nf_hook_entries_grow()`): they are static. If
        // one cannot be registered, it takes away those before.
        let err =
            unsafe { bindings::nf_register_net_hooks(net, H::OPS.as_ptr(), HookOps::<H>::COUNT) };
        if err != 0 {
            // Some may have been registered for a moment, and `ops_init()` waits for nothing.
            synchronize_rcu();
        }
        err
    }

    /// # Safety
    ///
    /// May be called only by the core, for a registration of this type.
    unsafe extern "C" fn pre_exit_callback(net: *mut bindings::net) {
        // SAFETY: The core calls this once, after `init_callback` has registered them; the
        // namespace ends, if it does, after this.
        unsafe { bindings::nf_unregister_net_hooks(net, H::OPS.as_ptr(), HookOps::<H>::COUNT) };
    }
}

#[pinned_drop]
impl<H: Hook> PinnedDrop for Hooks<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It was registered by `new`, or this object would not be.
        unsafe { bindings::unregister_pernet_subsys(self.ops.get()) };
    }
}
