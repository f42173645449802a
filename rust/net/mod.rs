// SPDX-License-Identifier: GPL-2.0

//! Network namespaces and packets.

mod counters;
mod family;
mod for_each;
mod namespace;
mod packet;
mod transport;

pub use self::counters::PerCpuCounters;
pub use self::family::Family;
pub use self::namespace::{Id, Namespace, PerNamespace, ProcFile, Registration, StaticId};
pub use self::packet::Packet;
pub use self::transport::Transport;
