// SPDX-License-Identifier: GPL-2.0

//! Netfilter: hooks, the packets that they are given, and the conntracks of those.

mod hooks;
mod packet;
mod state;

pub use self::hooks::{Hook, HookOps, HookRegistration, NamespaceHooks};
pub use self::packet::{HookPacket, Obstacles, ReplayablePacket, Verdict};
pub use self::state::HookState;
