// SPDX-License-Identifier: GPL-2.0

//! IPVS without the lost first packet, on a stock kernel.
//!
//! [`evict`] stands in every network namespace, one step before conntrack, and takes away the
//! stale conntracks for which IPVS would drop the first packet of a new flow. [`policy`] is the
//! decision. Below them are the abstractions over C: [`ipvs`], [`netfilter`] and [`net`], and
//! nothing above them is unsafe.

pub mod bindings;
pub mod counters;
pub mod evict;
pub mod ipvs;
pub mod net;
pub mod netfilter;
pub mod policy;

use kernel::prelude::*;

module! {
    type: Reuse,
    name: "ip_vs_reuse",
    authors: ["The ipvs-reuse authors"],
    description: "IPVS: no lost first packet when a client reuses its port",
    license: "GPL",
}

/// What the module has registered, in the order in which it goes away.
#[pin_data]
struct Reuse {
    #[pin]
    evict: net::Registration<evict::Evict>,
}

impl kernel::InPlaceModule for Reuse {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            evict <- net::Registration::new(),
        })
    }
}
