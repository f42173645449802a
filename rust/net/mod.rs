// SPDX-License-Identifier: GPL-2.0

//! Abstractions of networking: namespaces, packets and per-CPU counters.

mod family;
mod for_each;
mod namespace;
mod packet;
mod per_cpu;
mod per_namespace;
mod registration;
mod transport;

pub use self::family::Family;
pub use self::namespace::Namespace;
pub use self::packet::Packet;
pub use self::per_cpu::PerCpuCounters;
pub use self::per_namespace::{Id, PerNamespace, ProcFile, StaticId};
pub use self::registration::Registration;
pub use self::transport::Transport;
