// SPDX-License-Identifier: GPL-2.0

//! Network namespaces and packets.

mod counters;
mod namespace;
mod packet;
mod stock;
mod transport;

pub use self::counters::PerCpuCounters;
pub use self::namespace::{Id, Namespace, PerNamespace, Registration};
pub use self::packet::Packet;
pub use self::stock::Family;
pub use self::transport::Transport;
