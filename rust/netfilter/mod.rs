// SPDX-License-Identifier: GPL-2.0

//! Netfilter: hooks and connection tracking.

mod conntrack;
mod hook;

pub use self::conntrack::{attached, Attached, Conntrack, Direction, Template};
pub use self::hook::{Handler, HookState, Hooks, Place, Point, PRIORITY_CONNTRACK};
