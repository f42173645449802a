// SPDX-License-Identifier: GPL-2.0

//! Keeps IPVS from losing the first packet when a client reuses a port, and adds the scheduler p2c.
//!
//! - [`flows`], on a stock kernel `hooks.rs`, is where packets that reopen a flow enter the module.
//! - [`policy`] decides whether IPVS would drop the packet. Only then is it replayed.
//! - [`replay`] replays it, if nothing prevents that, and counts the outcome in [`counters`].
//! - [`p2c`] is the scheduler, and [`sampler`] and [`slow_start`] its arithmetic.
//!
//! They contain no unsafe code. Apart from the registration of the scheduler below, all unsafe code
//! is in the abstractions over C code:
//!
//! - [`base`], RCU, time and random numbers
//! - [`ipvs`], connection entries, services, destinations and schedulers
//! - [`net`], namespaces and packets
//! - [`netfilter`], hooks and their packets
//! - [`trace`], tracepoints

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
pub mod slow_start;
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

/// Everything that the module registers. The fields are dropped in this order.
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
            // SAFETY: This is the last step, and `module!` keeps `Reuse` until the module is
            // unloaded.
            p2c <- unsafe { ipvs::SchedulerRegistration::new(module) },
        })
    }
}
