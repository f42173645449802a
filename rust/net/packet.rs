// SPDX-License-Identifier: GPL-2.0

//! Packets in a netfilter hook.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use crate::bindings;
use kernel::types::Opaque;

/// An IPv4 or IPv6 packet in a netfilter hook (`struct sk_buff`).
///
/// # Examples
///
/// ```
/// fn is_ipv4_tcp(packet: &Packet) -> bool {
///     packet.peek(9) == Some([Transport::TCP])
/// }
/// ```
///
/// # Invariants
///
/// The packet is valid, the hook owns it, and its data starts at the network header.
#[repr(transparent)]
pub struct Packet(Opaque<bindings::sk_buff>);

impl Packet {
    /// Wraps the packet of a hook.
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

    /// Copies `N` bytes from `offset`, counted from the network header, if they are in the linear
    /// part of the packet, as headers usually are. Calls no function.
    #[inline]
    pub fn peek<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        const { assert!(N <= u16::MAX as usize) };
        let skb = self.as_ptr();
        let end = offset.checked_add(N as u32)?;
        // SAFETY: The packet is valid by the type's invariants.
        let data = unsafe { (*skb).data };
        // SAFETY: The packet is valid by the type's invariants.
        let len = unsafe { (*skb).len };
        // SAFETY: The packet is valid by the type's invariants.
        let data_len = unsafe { (*skb).data_len };

        // As `skb_headlen()`: the linear part is what is not in pages or fragments.
        if end > len.wrapping_sub(data_len) {
            return None;
        }
        // SAFETY: The linear part starts at `data` and is at least `offset + N` bytes long.
        let bytes = unsafe { data.add(offset as usize) };
        // SAFETY: `N` bytes from there on are valid, and arrays of bytes need no alignment.
        Some(unsafe { bytes.cast::<[u8; N]>().read() })
    }

    /// Copies `N` bytes from `offset`, counted from the network header.
    #[inline]
    pub fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.peek(offset).or_else(|| self.read_nonlinear(offset))
    }

    /// Slow path of [`Packet::read`], for headers that are not in the linear part.
    #[cold]
    fn read_nonlinear<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        const { assert!(N <= u16::MAX as usize) };
        let offset = offset.try_into().ok()?;
        let mut bytes = [0; N];
        // SAFETY: The packet is valid by the type's invariants, and `bytes` has room for `N` bytes.
        // `skb_copy_bits()` fails if the packet ends earlier (`net/core/skbuff.c`).
        let err = unsafe {
            bindings::skb_copy_bits(self.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as i32)
        };

        (err == 0).then_some(bytes)
    }

    /// Whether IPVS has handled this packet already (`ipvs_property`). One load.
    #[inline]
    pub fn is_handled_by_ipvs(&self) -> bool {
        // SAFETY: The packet is valid by the type's invariants.
        let headers = unsafe { &raw const (*self.as_ptr()).__bindgen_anon_4.headers };
        // SAFETY: The fields are integers, and only the hook that owns the packet writes them.
        let headers = unsafe { (*headers).as_ref() };
        headers.ipvs_property() != 0
    }
}
