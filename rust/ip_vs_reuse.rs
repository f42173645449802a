// SPDX-License-Identifier: GPL-2.0

//! IPVS without the lost first packet, on a stock kernel.
//!
//! [`evict`] stands in every network namespace, one step before conntrack, and takes away the
//! stale conntracks for which IPVS would drop the first packet of a new flow. [`policy`] is the
//! decision. [`p2c`] is a scheduler; [`sampler`] is its arithmetic. Below them are the abstractions
//! over C, [`ipvs`], [`netfilter`], [`net`], [`trace`] and [`base`], and nothing above those is
//! unsafe.

pub mod base;
pub mod bindings;
pub mod counters;
pub mod evict;
pub mod ipvs;
pub mod net;
pub mod netfilter;
pub mod p2c;
pub mod policy;
pub mod sampler;
pub mod trace;

use kernel::prelude::*;

module! {
    type: Reuse,
    name: "ip_vs_reuse",
    authors: ["The ipvs-reuse authors"],
    description: "IPVS: no lost first packet when a client reuses its port",
    license: "GPL",
    alias: ["ip_vs_p2c"],
}

/// What the module has registered, in the order in which it goes away.
#[pin_data]
pub struct Reuse {
    #[pin]
    p2c: ipvs::SchedulerRegistration<p2c::P2c>,
    #[pin]
    evict: net::Registration<evict::Evict>,
}

impl kernel::InPlaceModule for Reuse {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            evict <- net::Registration::new(),
            // Last: from here on services may use it.
            p2c <- ipvs::SchedulerRegistration::new(module),
        })
    }
}
