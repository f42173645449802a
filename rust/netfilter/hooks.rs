// SPDX-License-Identifier: GPL-2.0

//! The abstraction of netfilter hooks at LOCAL_IN and LOCAL_OUT, for IPv4 and IPv6. For a stock
//! kernel only.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use super::{HookPacket, Verdict};
use crate::base::{Task, Work};
use crate::bindings;
use crate::net::{Family, Namespace, PerNamespace, Registration, StaticId};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use kernel::{
    error::to_result,
    ffi::{c_uint, c_void},
    prelude::*,
    sync::SetOnce,
    time::Msecs,
};

/// A hook at LOCAL_IN and LOCAL_OUT.
///
/// # Examples
///
/// ```
/// struct AcceptAll;
///
/// static ID: Id<NamespaceHooks<AcceptAll>> = Id::new();
///
/// impl Hook for AcceptAll {
///     const LOCAL_IN_PRIORITY: i32 = 0;
///     const LOCAL_OUT_PRIORITY: i32 = 0;
///     const ID: StaticId<NamespaceHooks<Self>> = StaticId::new(&ID);
///
///     fn is_needed(_: &Namespace) -> bool {
///         true
///     }
///
///     fn handle(packet: HookPacket<'_>) -> Verdict<'_> {
///         packet.accept()
///     }
/// }
/// ```
pub trait Hook: Sized + 'static {
    /// The priority at LOCAL_IN. Hooks with lower priorities run first.
    const LOCAL_IN_PRIORITY: i32;

    /// The priority at LOCAL_OUT.
    const LOCAL_OUT_PRIORITY: i32;

    /// The id of the hook's own data in a namespace.
    const ID: StaticId<NamespaceHooks<Self>>;

    /// Whether the hook is to be registered in a namespace. Called once a second, with `net_rwsem`
    /// held; may sleep, but must not take the RTNL. A hook that has been registered stays so,
    /// whatever this returns later.
    fn is_needed(namespace: &Namespace) -> bool;

    /// Handles one packet. Softirq or process context, in an RCU read-side critical section.
    fn handle(packet: HookPacket<'_>) -> Verdict<'_>;
}

/// `NF_IP_PRI_NAT_DST`, the same number for both families.
pub const PRIORITY_NAT_DST: i32 = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_DST;
/// `NF_IP_PRI_NAT_SRC`, the same number for both families.
pub const PRIORITY_NAT_SRC: i32 = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_SRC;

/// The operations of a [`Hook`]: a `struct nf_hook_ops` for each family and hook point.
struct HookOps<H: Hook>([bindings::nf_hook_ops; 4], PhantomData<H>);

// SAFETY: Nobody writes to the operations. Netfilter, and RCU readers that list hooks, read them.
unsafe impl<H: Hook> Sync for HookOps<H> {}

impl<H: Hook> HookOps<H> {
    const OPS: &'static Self = &Self::new();

    const fn new() -> Self {
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
            // SAFETY: The other fields are integers, null pointers, and an RCU head and a list
            // entry that only nf_tables uses. Zeroes are valid for all of them.
            ..unsafe { MaybeUninit::zeroed().assume_init() }
        }
    }

    fn as_ptr(&'static self) -> *const bindings::nf_hook_ops {
        self.0.as_ptr()
    }

    const COUNT: c_uint = 4;

    /// # Safety
    ///
    /// Only netfilter may call this, for operations of this type.
    unsafe extern "C" fn hook_callback(
        _: *mut c_void,
        skb: *mut bindings::sk_buff,
        state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: `nf_hook_slow()` passes a packet and a state that are valid for this call, in an
        // RCU read-side critical section, and applies the verdict. At LOCAL_IN and LOCAL_OUT the
        // packet's data starts at the network header (`ip_local_deliver()`, `__ip_local_out()` and
        // their IPv6 counterparts).
        let packet = unsafe { HookPacket::from_raw(skb, state) };
        H::handle(packet).into_raw()
    }
}

/// The operations that are registered in a namespace, if there are any. Netfilter knows a hook by
/// their address.
pub struct NamespaceHooks<H: Hook>(SetOnce<&'static HookOps<H>>);

impl<H: Hook> NamespaceHooks<H> {
    /// Registers the hooks, once. May sleep. `ENOMEM`, or netfilter's error; after an error none of
    /// them is registered. Calls for one namespace must not overlap.
    fn register(&self, namespace: &Namespace) -> Result {
        if self.0.as_ref().is_some() {
            return Ok(());
        }
        let ops = HookOps::<H>::OPS;
        // SAFETY: The namespace is alive. Netfilter keeps pointers to the operations and reads them
        // (`nf_hook_entries_grow()`); they stay for ever. `pre_exit` unregisters them.
        // `Registration` then waits for a grace period, until no packet is in the hooks any more.
        // On an error netfilter unregisters those that it has registered.
        to_result(unsafe {
            bindings::nf_register_net_hooks(namespace.as_ptr(), ops.as_ptr(), HookOps::<H>::COUNT)
        })?;
        self.0.populate(ops);
        Ok(())
    }
}

impl<H: Hook> PerNamespace for NamespaceHooks<H> {
    const ID: StaticId<Self> = H::ID;

    fn new(_: &Namespace) -> Result<Self> {
        Ok(Self(SetOnce::new()))
    }

    fn pre_exit(&self, namespace: &Namespace) {
        if let Some(ops) = self.0.as_ref() {
            // SAFETY: `register` has registered them, and the namespace is alive.
            unsafe {
                bindings::nf_unregister_net_hooks(
                    namespace.as_ptr(),
                    ops.as_ptr(),
                    HookOps::<H>::COUNT,
                )
            };
        }
    }
}

/// Keeps the hooks of `H` registered in the namespaces that need them, until dropped. After that no
/// packet is in the hook any more.
///
/// A namespace that needs the hooks later gets them within two seconds.
///
/// # Examples
///
/// ```
/// #[pin_data]
/// struct Module {
///     #[pin]
///     hooks: HookRegistration<AcceptAll>,
/// }
///
/// fn init() -> impl PinInit<Module, Error> {
///     try_pin_init!(Module { hooks <- HookRegistration::new() })
/// }
/// ```
#[pin_data]
pub struct HookRegistration<H: Hook> {
    #[pin]
    registrar: Work<Registrar<H>>,
}

impl<H: Hook> HookRegistration<H> {
    /// Registers the hooks in all namespaces that need them now. May sleep. `ENOMEM`, or `EBUSY` if
    /// they are registered already.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            registrar <- Work::new(try_pin_init!(Registrar {
                namespaces <- Registration::new(),
            })).pin_chain(|registrar| {
                if let Some(delay) = registrar.task().run() {
                    registrar.schedule(delay);
                }
                Ok(())
            }),
        })
    }
}

/// Registers the hooks of `H` in namespaces that need them and do not have them yet.
#[pin_data]
struct Registrar<H: Hook> {
    #[pin]
    namespaces: Registration<NamespaceHooks<H>>,
}

impl<H: Hook> Task for Registrar<H> {
    fn run(&self) -> Option<Msecs> {
        self.namespaces.for_each(|namespace, hooks| {
            // After an error it is tried again a second later. That one namespace has too many
            // hooks must affect no other, and must not keep the module from loading.
            if H::is_needed(namespace) {
                if let Err(err) = hooks.register(namespace) {
                    kernel::pr_warn_once!(
                        "cannot register hooks in a network namespace: {err:?}\n"
                    );
                }
            }
        });
        Some(1000)
    }
}
