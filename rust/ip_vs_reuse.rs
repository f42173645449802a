// SPDX-License-Identifier: GPL-2.0

//! IPVS in Rust: no lost first packet when a client reuses its port, and a scheduler.
//!
//! - [`flows`] is where packets come from that reopen a flow.
//! - [`replay`] replays those that IPVS would drop; it has [`counters`].
//! - [`policy`] is the decision.
//! - [`p2c`] is a scheduler; [`sampler`] is its arithmetic.
//!
//! Below them are the abstractions over C, and nothing above those is unsafe:
//!
//! - [`base`], RCU and random numbers
//! - [`ipvs`]
//! - [`net`], namespaces and packets
//! - [`netfilter`], hooks, and packets with their conntracks
//! - [`trace`], the tracepoints

pub mod base;
pub mod bindings;
pub mod counters;
#[cfg_attr(not(IP_VS_FLOW_OPS), path = "hooks.rs")]
pub mod flows;
pub mod ipvs;
pub mod net;
pub mod netfilter;
pub mod p2c;
pub mod policy;
pub mod replay;
pub mod sampler;
pub mod trace;

use kernel::prelude::*;

module! {
    type: Reuse,
    name: "ip_vs_reuse",
    authors: ["The ipvs-reuse authors"],
    description: "IPVS: no lost first packet when a client reuses its port, and p2c",
    license: "GPL",
    alias: ["ip_vs_p2c"],
}

/// What the module has registered, in the order in which it goes away.
#[pin_data]
pub struct Reuse {
    #[pin]
    p2c: ipvs::SchedulerRegistration<p2c::P2c>,
    #[pin]
    flows: flows::Registration,
    #[pin]
    replay: net::Registration<replay::Replay>,
}

impl kernel::InPlaceModule for Reuse {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            replay <- net::Registration::new(),
            flows <- flows::register(),
            // Last: from here on services may use it.
            p2c <- ipvs::SchedulerRegistration::new(module),
        })
    }
}
