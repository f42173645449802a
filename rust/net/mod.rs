// SPDX-License-Identifier: GPL-2.0

//! Network namespaces and packets.

mod counters;
mod namespace;
mod packet;

pub use self::counters::PerCpuCounters;
pub use self::namespace::{Id, Namespace, PerNamespace, Registration};
pub use self::packet::{Packet, Transport};

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
