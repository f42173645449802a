// SPDX-License-Identifier: GPL-2.0

//! Where on its way through netfilter a packet is.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use crate::bindings;
use crate::net::{Family, Namespace};
use kernel::types::Opaque;

/// The circumstances of one packet (`struct nf_hook_state`).
///
/// # Invariants
///
/// The state is one that netfilter passed to a hook, which has not returned: this is an RCU
/// read-side critical section (`nf_hook()`; `nfqnl_recv_verdict()` for a packet that user space
/// gives back), and the packet's namespace has devices.
#[repr(transparent)]
pub struct HookState(Opaque<bindings::nf_hook_state>);

impl HookState {
    /// Wraps the state that a hook was given.
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

    /// The namespace that the packet passes.
    #[inline]
    pub fn namespace(&self) -> &Namespace {
        // SAFETY: By the type's invariants; a packet's namespace outlives its hooks:
        // `cleanup_net()` frees it after all devices have gone, and a grace period.
        unsafe { Namespace::from_raw((*self.as_ptr()).net) }
    }

    /// The packet's family.
    #[inline]
    pub fn family(&self) -> Family {
        // SAFETY: The state is valid by the type's invariants.
        match unsafe { (*self.as_ptr()).pf } {
            pf if pf == Family::Ipv6.number() => Family::Ipv6,
            _ => Family::Ipv4,
        }
    }
}
