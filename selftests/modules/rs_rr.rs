// SPDX-License-Identifier: GPL-2.0

//! The scheduler `rs_rr`, round robin: a second user of the scheduler abstraction, for the tests
//! only. A template for another scheduler; CONTRIBUTING.md says what else one needs.

#[path = "../../rust/base/mod.rs"]
pub mod base;
#[path = "../../rust/bindings/mod.rs"]
pub mod bindings;
#[path = "../../rust/ipvs/mod.rs"]
pub mod ipvs;
#[path = "../../rust/net/mod.rs"]
pub mod net;
#[path = "../../rust/netfilter/mod.rs"]
pub mod netfilter;

use ipvs::{Destination, Scheduler, SchedulerRegistration, Service};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        rcu::Guard,
    },
};

module! {
    type: Module,
    name: "ip_vs_rs_rr",
    authors: ["The ipvs-reuse authors"],
    description: "IPVS: round robin in Rust, a test of the scheduler abstraction",
    license: "GPL",
}

/// The scheduler.
pub struct RoundRobin;

#[vtable]
impl Scheduler for RoundRobin {
    const NAME: &'static CStr = c"rs_rr";

    /// The number of connections so far. It wraps around.
    type Data = Atomic<usize>;

    fn init_service(_: &Service) -> Result<Atomic<usize>> {
        Ok(Atomic::new(0))
    }

    fn schedule<'a>(
        turn: &'a Atomic<usize>,
        service: &'a Service,
        _: &net::Packet,
        guard: &'a Guard,
    ) -> Option<&'a Destination> {
        let usable = |dest: &&Destination| dest.weight() > 0 && !dest.is_overloaded();
        let count = service.destinations(guard).filter(usable).count();
        let turn = turn.fetch_add(1, Relaxed).checked_rem(count)?;

        service.destinations(guard).filter(usable).nth(turn)
    }
}

/// The module.
#[pin_data]
pub struct Module {
    #[pin]
    scheduler: SchedulerRegistration<RoundRobin>,
}

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // SAFETY: This is the last step, and `module!` keeps `Module` until the module is
            // unloaded.
            scheduler <- unsafe { SchedulerRegistration::new(module) },
        })
    }
}
