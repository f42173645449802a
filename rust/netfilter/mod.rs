// SPDX-License-Identifier: GPL-2.0

//! Abstractions of netfilter: hooks, the packets of hooks and the conntracks of those packets.

mod hooks;
mod packet;
mod state;

pub use self::hooks::{Hook, HookOps, HookRegistration, NamespaceHooks};
pub use self::packet::{HookPacket, Obstacles, ReplayablePacket, Verdict};
pub use self::state::HookState;
