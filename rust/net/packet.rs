// SPDX-License-Identifier: GPL-2.0

//! Packets in a netfilter hook.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use crate::bindings;
use kernel::types::Opaque;

/// A packet (`struct sk_buff`) on its way through a hook of IPv4 or IPv6.
///
/// # Invariants
///
/// The packet is valid, belongs to the hook that looks at it, and its data starts at the
/// network header.
#[repr(transparent)]
pub struct Packet(Opaque<bindings::sk_buff>);

impl Packet {
    /// Wraps the packet that a hook was given.
    ///
    /// # Safety
    ///
    /// For `'a`, `ptr` satisfies the invariants of [`Packet`].
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::sk_buff) -> &'a Self {
        // SAFETY: By the contract; `Packet` is a transparent wrapper.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::sk_buff {
        self.0.get()
    }

    /// The packet's length in bytes, from the network header.
    #[inline]
    pub fn length(&self) -> u32 {
        // SAFETY: The packet is valid by the type's invariants, and no other processor has it.
        unsafe { (*self.as_ptr()).len }
    }
}
