// SPDX-License-Identifier: GPL-2.0

//! Transport protocols.
//!
//! C header: [`include/uapi/linux/in.h`](srctree/include/uapi/linux/in.h)

use crate::bindings;

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
