// SPDX-License-Identifier: GPL-2.0

//! Where on its way through netfilter a packet is.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use crate::bindings;
use crate::net::{Namespace, Packet, Transport};
use kernel::types::Opaque;

/// The circumstances of one packet (`struct nf_hook_state`).
///
/// # Invariants
///
/// The state is one that netfilter passed to a hook, which has not returned: this is an RCU read
/// side (`nf_hook()`; `nfqnl_recv_verdict()` for a packet that user space gives back), and the
/// packet's namespace has devices.
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

    /// Whether the packet's checksum is good in conntrack's eyes, by its own setting
    /// (`nf_conntrack_checksum`). A sum that was computed is kept for those who ask later.
    pub fn checksum_is_good(&self, packet: &Packet, transport: Transport) -> bool {
        if transport.offset > packet.length() {
            return false;
        }
        // SAFETY: Packet and state are valid by their invariants, and the header is not behind the
        // packet's end, which `nf_ip_checksum()` takes for granted. That the packet's memory may
        // be another one afterwards (`skb_ensure_writable()`) is no matter: nobody keeps pointers
        // to it.
        unsafe {
            bindings::ip_vs_reuse_checksum_ok(
                packet.as_ptr(),
                transport.offset,
                transport.protocol,
                self.as_ptr(),
            )
        }
    }
}
