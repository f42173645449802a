// SPDX-License-Identifier: GPL-2.0

//! Hooks of the module's own, at LOCAL_IN and LOCAL_OUT of both families. Needed on a stock kernel
//! only.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use super::{HookPacket, Verdict};
use crate::base::{Periodic, Task};
use crate::bindings;
use crate::net::{Family, Namespace, PerNamespace, Registration, StaticId};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use kernel::{
    error::to_result,
    ffi::{c_uint, c_void},
    prelude::*,
    sync::atomic::{AtomicFlag, Full, Relaxed},
};

/// A hook for all packets that are delivered to this machine or sent by it.
pub trait Hook: Sized + 'static {
    /// Before or after which other hooks at LOCAL_IN. Lower priorities see a packet earlier.
    const LOCAL_IN_PRIORITY: i32;

    /// The same at LOCAL_OUT.
    const LOCAL_OUT_PRIORITY: i32;

    /// The static that netfilter knows the hook by.
    const OPS: &'static HookOps<Self>;

    /// The static number of the hook's own state in a namespace.
    const ID: StaticId<NamespaceHooks<Self>>;

    /// Whether a namespace needs the hook. Asked once a second, also where it is registered by now:
    /// there it stays. May sleep.
    fn is_needed(namespace: &Namespace) -> bool;

    /// Decides about one packet. Softirq or process context, in an RCU read-side critical section.
    fn handle(packet: HookPacket<'_>) -> Verdict<'_>;
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
                Self::ops_for(Family::Ipv4, IN, H::LOCAL_IN_PRIORITY),
                Self::ops_for(Family::Ipv4, OUT, H::LOCAL_OUT_PRIORITY),
                Self::ops_for(Family::Ipv6, IN, H::LOCAL_IN_PRIORITY),
                Self::ops_for(Family::Ipv6, OUT, H::LOCAL_OUT_PRIORITY),
            ],
            PhantomData,
        )
    }

    const fn ops_for(family: Family, hooknum: c_uint, priority: i32) -> bindings::nf_hook_ops {
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
        H::handle(packet).into_raw()
    }
}

/// Whether the hooks of `H` are registered in a namespace.
pub struct NamespaceHooks<H: Hook>(AtomicFlag, PhantomData<fn() -> H>);

impl<H: Hook> NamespaceHooks<H> {
    /// May sleep. `ENOMEM`, or netfilter's error; after an error none of them is registered.
    fn register(&self, namespace: &Namespace) -> Result {
        if self.0.xchg(true, Full) {
            return Ok(());
        }
        // SAFETY: The namespace is alive. Netfilter keeps the addresses of the hooks and reads them
        // (`nf_hook_entries_grow()`): they are static. Those of before it takes away if one cannot
        // be registered. `pre_exit` takes them away otherwise, and a packet may be in them for
        // a grace period more: until then `Registration` keeps the module.
        to_result(unsafe {
            bindings::nf_register_net_hooks(
                namespace.as_ptr(),
                H::OPS.as_ptr(),
                HookOps::<H>::COUNT,
            )
        })
        .inspect_err(|_| self.0.store(false, Relaxed))
    }
}

impl<H: Hook> PerNamespace for NamespaceHooks<H> {
    const ID: StaticId<Self> = H::ID;

    fn new(_: &Namespace) -> Result<Self> {
        Ok(Self(AtomicFlag::new(false), PhantomData))
    }

    fn pre_exit(&self, namespace: &Namespace) {
        if self.0.load(Relaxed) {
            // SAFETY: They are registered, by `register`, and the namespace is alive.
            unsafe {
                bindings::nf_unregister_net_hooks(
                    namespace.as_ptr(),
                    H::OPS.as_ptr(),
                    HookOps::<H>::COUNT,
                )
            };
        }
    }
}

/// Keeps the hooks of `H` registered in the namespaces that need them, from the second on in which
/// they do, until dropped. Then no packet is in the hook any more.
#[pin_data]
pub struct HookRegistration<H: Hook> {
    #[pin]
    registrar: Periodic<Registrar<H>>,
}

impl<H: Hook> HookRegistration<H> {
    /// Registers the hooks where they are needed by now. May sleep. `ENOMEM`, or netfilter's error;
    /// after an error no packet is in the hook.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            registrar <- Periodic::new(try_pin_init!(Registrar {
                namespaces <- Registration::new(),
            })),
        })
    }
}

/// Registers the hooks of `H` where they are needed.
#[pin_data]
struct Registrar<H: Hook> {
    #[pin]
    namespaces: Registration<NamespaceHooks<H>>,
}

impl<H: Hook> Task for Registrar<H> {
    fn run(&self) -> Result {
        self.namespaces.for_each(|namespace, hooked| {
            if H::is_needed(namespace) {
                hooked.register(namespace)?;
            }
            Ok(())
        })
    }
}
