// SPDX-License-Identifier: GPL-2.0

//! Abstractions of netfilter: hooks, the packets of hooks and the conntracks of those packets.

mod hooks;
mod packet;
mod state;

pub use self::hooks::{Hook, HookRegistration, NamespaceHooks, PRIORITY_NAT_DST, PRIORITY_NAT_SRC};
pub use self::packet::{HookPacket, Obstacles, ReplayablePacket, Verdict};
pub use self::state::HookState;
