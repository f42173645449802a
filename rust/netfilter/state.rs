// SPDX-License-Identifier: GPL-2.0

//! The state that netfilter passes to a hook.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use crate::bindings;
use crate::net::{Family, Namespace};
use kernel::types::Opaque;

/// The state of one call of a hook (`struct nf_hook_state`).
///
/// # Invariants
///
/// The hook has not returned. So this is an RCU read-side critical section (`nf_hook()`, or
/// `nfqnl_recv_verdict()` for a packet that user space has reinjected), and the packet's namespace
/// has devices.
#[repr(transparent)]
pub struct HookState(Opaque<bindings::nf_hook_state>);

impl HookState {
    /// Wraps the state of a hook.
    ///
    /// # Safety
    ///
    /// For `'a`, `ptr` satisfies the invariants of [`HookState`].
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(ptr: *const bindings::nf_hook_state) -> &'a Self {
        // SAFETY: By the contract; `HookState` is a transparent wrapper.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::nf_hook_state {
        self.0.get()
    }

    /// The network namespace.
    #[inline]
    pub fn namespace(&self) -> &Namespace {
        // SAFETY: The state is valid by the type's invariants.
        let net = unsafe { (*self.as_ptr()).net };
        // SAFETY: A namespace outlives the hooks that its packets are in: `cleanup_net()` frees it
        // after all devices have gone, and a grace period.
        unsafe { Namespace::from_raw(net) }
    }

    /// The family of the packet.
    #[inline]
    pub fn family(&self) -> Family {
        // SAFETY: The state is valid by the type's invariants.
        match unsafe { (*self.as_ptr()).pf } {
            pf if pf == Family::Ipv6.number() => Family::Ipv6,
            _ => Family::Ipv4,
        }
    }
}
