// SPDX-License-Identifier: GPL-2.0

//! Packets in a netfilter hook.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::Family;
use crate::bindings;
use core::mem::MaybeUninit;
use kernel::types::Opaque;

/// A packet (`struct sk_buff`) on its way through a hook of IPv4 or IPv6.
///
/// # Invariants
///
/// The packet is valid, belongs to the hook that looks at it, and its data starts at the
/// network header.
#[repr(transparent)]
pub struct Packet(Opaque<bindings::sk_buff>);

/// Where the transport header of an unfragmented packet is.
#[derive(Clone, Copy)]
pub struct Transport {
    /// The protocol's number: [`Transport::TCP`] and so on.
    pub protocol: u8,
    /// Bytes from the network header.
    pub offset: u32,
}

impl Transport {
    /// `IPPROTO_TCP`
    pub const TCP: u8 = bindings::IPPROTO_TCP as u8;
    /// `IPPROTO_UDP`
    pub const UDP: u8 = bindings::IPPROTO_UDP as u8;
    /// `IPPROTO_SCTP`
    pub const SCTP: u8 = bindings::IPPROTO_SCTP as u8;
}

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
        // SAFETY: The packet is valid by the type's invariants.
        unsafe { (*self.as_ptr()).len }
    }

    /// Copies `N` bytes that start `offset` bytes behind the network header, or nothing where
    /// the packet is shorter. No call where the headers lie in the linear part, as they do.
    #[inline]
    pub fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let skb = self.as_ptr();
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let end = offset.checked_add(N as u32)?;
        // SAFETY: The packet is valid by the type's invariants.
        let (data, linear) = unsafe { ((*skb).data, (*skb).len.wrapping_sub((*skb).data_len)) };

        if end <= linear {
            // SAFETY: `linear` bytes from `data` on are the packet's, and `offset + N` is no more.
            unsafe {
                data.add(offset as usize)
                    .copy_to_nonoverlapping(bytes.as_mut_ptr().cast(), N)
            };
        } else {
            // SAFETY: The packet is valid, and there is room for `N` bytes.
            let err = unsafe {
                bindings::skb_copy_bits(
                    skb,
                    offset.try_into().ok()?,
                    bytes.as_mut_ptr().cast(),
                    N as i32,
                )
            };
            if err != 0 {
                return None;
            }
        }
        // SAFETY: Either way all `N` bytes were written.
        Some(unsafe { bytes.assume_init() })
    }

    /// Finds the transport header; `None` for a fragment and for a packet that cannot be read.
    #[inline]
    pub fn transport(&self, family: Family) -> Option<Transport> {
        match family {
            Family::Ipv4 => self.transport_ipv4(),
            Family::Ipv6 => self.transport_ipv6(),
        }
    }

    #[inline]
    fn transport_ipv4(&self) -> Option<Transport> {
        const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;
        let header = self.read::<20>(0)?;

        if u16::from_be_bytes([header[6], header[7]]) & MORE_FRAGMENTS_OR_OFFSET != 0 {
            return None;
        }
        Some(Transport {
            protocol: header[9],
            offset: u32::from(header[0] & 0xf) * 4,
        })
    }

    #[inline]
    fn transport_ipv6(&self) -> Option<Transport> {
        const LENGTH: u32 = 40;
        // Hop-by-hop options, routing, fragment, authentication, destination options
        const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];
        let [protocol] = self.read::<1>(6)?;

        if EXTENSIONS.contains(&protocol) {
            return self.transport_behind_extensions();
        }
        Some(Transport {
            protocol,
            offset: LENGTH,
        })
    }

    /// The way of packets with extension headers: they pay for a walk.
    #[cold]
    fn transport_behind_extensions(&self) -> Option<Transport> {
        let (mut offset, mut fragment, mut flags) = (0u32, 0u16, 0i32);
        // SAFETY: The packet is valid, the pointers are to locals; -1 asks for the last header.
        let protocol = unsafe {
            bindings::ipv6_find_hdr(self.as_ptr(), &mut offset, -1, &mut fragment, &mut flags)
        };

        if flags as u32 & bindings::IP6_FH_F_FRAG != 0 {
            return None;
        }
        Some(Transport {
            protocol: protocol.try_into().ok()?,
            offset,
        })
    }

    /// Whether IPVS has handled this packet already (`ipvs_property`).
    #[inline]
    pub fn is_handled_by_ipvs(&self) -> bool {
        // SAFETY: The packet is valid by the type's invariants.
        unsafe { bindings::ip_vs_reuse_skb_ipvs_property(self.as_ptr()) }
    }

    /// Whether the packet is for this machine on the link (`PACKET_HOST`).
    #[inline]
    pub fn is_to_host(&self) -> bool {
        // SAFETY: The packet is valid by the type's invariants.
        unsafe { bindings::ip_vs_reuse_skb_to_host(self.as_ptr()) }
    }

    /// Whether it comes from a socket with `IP_NODEFRAG`, which IPVS leaves alone.
    #[inline]
    pub fn is_from_nodefrag_socket(&self) -> bool {
        // SAFETY: The packet is valid by the type's invariants.
        unsafe { bindings::ip_vs_reuse_skb_nodefrag(self.as_ptr()) }
    }
}
