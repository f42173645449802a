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

    /// Copies `N` bytes that start `offset` bytes behind the network header, if they are in the
    /// packet's linear part, as headers are. No call.
    #[inline]
    pub fn peek<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let skb = self.as_ptr();
        let end = offset.checked_add(N as u32)?;
        // SAFETY: The packet is valid by the type's invariants; `data_len` is the part of `len`
        // that is not in one piece (`skb_headlen()`).
        let (data, linear) = unsafe { ((*skb).data, (*skb).len.wrapping_sub((*skb).data_len)) };

        // SAFETY: `linear` bytes from `data` on are the packet's, and `offset + N` is no more.
        (end <= linear).then(|| unsafe { data.add(offset as usize).cast::<[u8; N]>().read() })
    }

    /// Copies `N` bytes wherever they are in the packet.
    #[inline]
    pub fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.peek(offset).or_else(|| self.read_from_pages(offset))
    }

    /// Slow path, for packets whose headers are not in the linear part.
    #[cold]
    fn read_from_pages<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let offset = offset.try_into().ok()?;
        let mut bytes = [0; N];
        // SAFETY: The packet is valid by the type's invariants, and there is room for `N` bytes;
        // `skb_copy_bits()` refuses to read behind the packet's end (`net/core/skbuff.c`).
        let err = unsafe {
            bindings::skb_copy_bits(self.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as i32)
        };

        (err == 0).then_some(bytes)
    }

    /// Whether IPVS has handled this packet already (`ipvs_property`). A load.
    #[inline]
    pub fn is_handled_by_ipvs(&self) -> bool {
        // SAFETY: The packet is valid by the type's invariants, and the hook's alone.
        let fields = unsafe { (*self.as_ptr()).__bindgen_anon_4.headers.as_ref() };
        fields.ipvs_property() != 0
    }
}
