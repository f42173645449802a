// SPDX-License-Identifier: GPL-2.0

//! Packets that nobody has looked at yet: on a stock kernel the module reads their headers itself.

use super::{Packet, Transport};
use crate::bindings;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`, also `NFPROTO_IPV4`.
    Ipv4,
    /// `AF_INET6`, also `NFPROTO_IPV6`.
    Ipv6,
}

impl Family {
    /// `AF_INET` or `AF_INET6`.
    #[inline]
    pub const fn number(self) -> u8 {
        match self {
            Family::Ipv4 => bindings::AF_INET as u8,
            Family::Ipv6 => bindings::AF_INET6 as u8,
        }
    }
}

impl Packet {
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

    /// Likewise, wherever they are in the packet.
    #[inline]
    pub fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.peek(offset).or_else(|| self.read_from_pages(offset))
    }

    /// The way of packets whose headers are not in the linear part.
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

    /// Where the transport header is, for a first look: a fragment has bytes of something else
    /// there. `None` if that is not to be seen: behind extension headers, and in pages. No call.
    #[inline]
    pub fn peek_transport(&self, family: Family) -> Option<Transport> {
        match family {
            Family::Ipv4 => {
                let [first] = self.peek(0)?;
                let [protocol] = self.peek(9)?;
                let offset = u32::from(first & 0xf) * 4;
                Some(Transport { protocol, offset })
            }
            Family::Ipv6 => {
                let [protocol] = self.peek(6)?;
                let offset = 40;
                Some(Transport { protocol, offset })
            }
        }
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
        // SAFETY: The packet is valid, the pointers are to locals; -1 asks for the last header, and
        // an offset of 0 starts at the first (`net/ipv6/exthdrs_core.c`).
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

    /// Whether IPVS has handled this packet already (`ipvs_property`). A load.
    #[inline]
    pub fn is_handled_by_ipvs(&self) -> bool {
        // SAFETY: The packet is valid by the type's invariants, and the hook's alone.
        let fields = unsafe { (*self.as_ptr()).__bindgen_anon_4.headers.as_ref() };
        fields.ipvs_property() != 0
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
        // SAFETY: The packet is valid by the type's invariants, and so is its socket, whatever that
        // is: `skb_to_full_sk()` tells a request and TIME_WAIT from a full one.
        unsafe { bindings::ip_vs_reuse_skb_nodefrag(self.as_ptr()) }
    }
}
