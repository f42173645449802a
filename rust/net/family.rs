// SPDX-License-Identifier: GPL-2.0

//! Address families.
//!
//! C header: [`include/linux/socket.h`](srctree/include/linux/socket.h)

use crate::bindings;

/// An IP address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`, the same number as `NFPROTO_IPV4`.
    Ipv4,
    /// `AF_INET6`, the same number as `NFPROTO_IPV6`.
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
