// SPDX-License-Identifier: GPL-2.0

//! Netfilter: hooks and connection tracking.

mod conntrack;
mod state;
mod stock;

pub use self::conntrack::{Conntrack, Direction, Template};
pub use self::state::HookState;
pub use self::stock::{attached, Attached, Handler, Hooks, Point, PRIORITY_CONNTRACK};
