// SPDX-License-Identifier: GPL-2.0

//! The transport protocols that the module handles, and the offsets of the fields that it reads. To
//! add one, start here; next come `replay.rs`, `policy.rs`, `ipvs/conn.rs`, `counters.rs` and
//! `may_reopen_flow()` in `hooks.rs`.
//!
//! C headers: [`include/uapi/linux/in.h`](srctree/include/uapi/linux/in.h),
//! [`include/net/tcp.h`](srctree/include/net/tcp.h)

use crate::bindings;

/// The transport header of a packet that is not a fragment.
#[derive(Clone, Copy)]
pub struct Transport {
    /// The protocol number, such as [`Transport::TCP`].
    pub protocol: u8,
    /// The offset in bytes from the network header.
    pub offset: u32,
}

impl Transport {
    /// `IPPROTO_TCP`
    pub const TCP: u8 = bindings::IPPROTO_TCP as u8;
    /// `IPPROTO_UDP`
    pub const UDP: u8 = bindings::IPPROTO_UDP as u8;
    /// `IPPROTO_SCTP`
    pub const SCTP: u8 = bindings::IPPROTO_SCTP as u8;

    /// The offset in bytes of the flags in a TCP header.
    pub const TCP_FLAGS: u32 = 13;

    /// The offset in bytes of the first chunk's type in an SCTP packet.
    pub const SCTP_FIRST_CHUNK: u32 = 12;

    /// The type of the chunk that opens an SCTP association.
    pub const SCTP_INIT: u8 = 1;

    /// Whether these TCP flags have SYN, and neither ACK nor RST nor FIN.
    #[inline]
    pub const fn is_syn(flags: u8) -> bool {
        const FIN: u8 = 0x01;
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;

        flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// Whether an IPv6 next header is an extension header that another header follows: hop-by-hop
    /// options, routing, fragment, authentication, destination options.
    #[inline]
    pub const fn is_extension(next_header: u8) -> bool {
        matches!(next_header, 0 | 43 | 44 | 51 | 60)
    }
}
