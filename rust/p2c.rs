// SPDX-License-Identifier: GPL-2.0

//! The scheduler `p2c`: weighted power of two choices, in constant time. How to add another one is
//! in `ipvs/scheduler.rs`.
//!
//! It draws two destinations at random, in proportion to weight. The one with fewer active
//! connections per weight gets the connection; if neither has any, the one with fewer entries of
//! any kind per weight. So connections in TIME_WAIT do not count where there are active ones, and
//! UDP, whose flows are never active, is balanced too. A new destination gets its share within
//! milliseconds, and at most twice that unless others are unusable.
//!
//! With `ipvsadm -b flag-1`, a destination that is new, or back from weight 0, starts slowly
//! ([`slow_start`]): only a part of its weight goes into the table, which is rebuilt each second
//! until the whole does.
//!
//! The draw uses a table ([`sampler`]), published by RCU. A workqueue rebuilds it after changes, at
//! most once per grace period. If an allocation fails, the old table stays in use, the failure is
//! counted, and the rebuild is tried again a second later. Weight, availability and overload are
//! read from the destinations at each pick, so an old table sends no connection to a destination
//! that is drained, deleted or overloaded.

use crate::base::{random_seed, uptime_ms, Published, RcuBox};
use crate::ipvs::{Destination, Scheduler, Service};
use crate::net::Packet;
use crate::sampler::{self, Column, Load, Table};
use crate::slow_start::{self, Index, Slot};
use crate::trace;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        rcu::{self, Guard},
    },
    time::Msecs,
};

/// The scheduler.
pub struct P2c;

/// The table, and the destinations that had weight when it was made. The index of a destination is
/// the index of its column.
struct DestinationTable {
    total: u64,
    columns: KVVec<Column>,
    dests: KVVec<ARef<Destination>>,
    /// With slow start: since when each has had weight ([`uptime_ms`]).
    since: KVVec<i64>,
}

/// The data of a service: its table, unless no destination had weight.
pub struct State(Published<DestinationTable>);

/// The number of failures to make a new table, in all namespaces, since the module was loaded.
static FAILED_REBUILDS: Atomic<usize> = Atomic::new(0);

/// The number of failures to make a new table.
pub fn failed_rebuilds() -> usize {
    FAILED_REBUILDS.load(Relaxed)
}

impl DestinationTable {
    /// The table of a service's current destinations, or none if none has weight. If `old` is
    /// given, destinations that are not in it start slowly. While any does, the delay until the
    /// next rebuild is returned. May sleep.
    fn new(
        service: &Service,
        old: Option<&Published<Self>>,
    ) -> Result<(Option<RcuBox<Self>>, Option<Msecs>)> {
        // With room for destinations that are added meanwhile. If there are more, the oldest ones
        // are left out until the next rebuild.
        let count = service.destination_count();
        let room = count.saturating_add(count / 8).saturating_add(8);
        let mut columns = KVVec::with_capacity(room, GFP_KERNEL)?;
        let mut dests = KVVec::with_capacity(room, GFP_KERNEL)?;
        let guard = rcu::read_lock();
        for dest in service.destinations(&guard).take(room) {
            let weight = dest.weight();
            if weight > 0 {
                columns
                    .push_within_capacity(Column::new(weight))
                    .map_err(|_| EAGAIN)?;
                dests
                    .push_within_capacity(dest.into())
                    .map_err(|_| EAGAIN)?;
            }
        }
        drop(guard);

        let mut table = Self {
            total: 0,
            columns,
            dests,
            since: KVVec::new(),
        };
        let due = old.map_or(Ok(None), |old| table.start_slowly(old))?;
        let Some(total) = sampler::build(&mut table.columns) else {
            return Ok((None, None));
        };
        table.total = total;
        Ok((Some(RcuBox::new(table, GFP_KERNEL)?), due))
    }

    /// Reduces the columns of destinations that got their weight lately. Returns the delay until
    /// the next rebuild, if there are any. May sleep.
    fn start_slowly(&mut self, old: &Published<Self>) -> Result<Option<Msecs>> {
        let now = uptime_ms();
        let count = self.dests.len();
        let mut slots = KVVec::from_elem(Slot::default(), Index::slots(count), GFP_KERNEL)?;
        let index = Index::new(&mut slots, self.dests.iter().map(address_of));
        self.since = KVVec::from_elem(now, count, GFP_KERNEL)?;

        let guard = rcu::read_lock();
        if let Some(old) = old.read(&guard) {
            for (place, dest) in old.dests.iter().enumerate() {
                let new = index.place_of(address_of(dest));
                if let Some(since) = new.and_then(|new| self.since.get_mut(new)) {
                    // It had weight before slow start was turned on, if the old table has no time.
                    // A destination that is there twice has had it since the earlier time.
                    *since = (*since).min(old.since.get(place).copied().unwrap_or(i64::MIN));
                }
            }
        }
        drop(guard);

        let mut due = None;
        for ((column, dest), since) in self.columns.iter_mut().zip(&self.dests).zip(&self.since) {
            let percent = slow_start::percent(now.saturating_sub(*since));
            if percent < 100 {
                *column = Column::with_part(dest.weight(), percent);
                due = Some(1000);
            }
        }
        Ok(due)
    }

    /// Draws two destinations and takes the one with less load.
    #[inline]
    fn pick(&self) -> Option<&Destination> {
        let table = Table {
            total: self.total,
            columns: &self.columns,
        };
        let number = table.pick(sampler::random(random_seed()), |number| {
            let dest = self.dests.get(number)?;
            is_usable(dest).then(|| Load {
                active: dest.active_connections(),
                total: dest.total_connections(),
                weight: dest.weight(),
            })
        })?;
        self.dests.get(number).map(|dest| &**dest)
    }
}

fn address_of(dest: &ARef<Destination>) -> usize {
    (&raw const **dest).addr()
}

#[inline]
fn is_usable(dest: &Destination) -> bool {
    dest.is_available() && !dest.is_overloaded()
}

impl State {
    /// Publishes a table of the current destinations, or counts the failure to make it. Returns the
    /// delay until the next rebuild, if one is needed. May sleep.
    fn update(&self, service: &Service, slow_start: bool) -> Result<Option<Msecs>> {
        let old = slow_start.then_some(&self.0);
        let (new, due) = DestinationTable::new(service, old).inspect_err(|_| {
            FAILED_REBUILDS.fetch_add(1, Relaxed);
        })?;
        drop(self.0.replace(new));
        Ok(due)
    }
}

#[vtable]
impl Scheduler for P2c {
    const NAME: &'static CStr = c"p2c";

    type Data = State;

    fn init_service(service: &Service) -> Result<State> {
        let state = State(Published::default());
        // The destinations of a service that had another scheduler are not new.
        state.update(service, false)?;
        Ok(state)
    }

    fn update_service(state: &State, service: &Service) -> Result<Option<Msecs>> {
        state.update(service, service.has_first_flag())
    }

    #[inline]
    fn schedule<'a>(
        state: &'a State,
        service: &'a Service,
        _: &Packet,
        guard: &'a Guard,
    ) -> Option<&'a Destination> {
        let drawn = state.0.read(guard).and_then(DestinationTable::pick);
        // If none was found, one may have been added since the table was made: try the newest.
        let picked = drawn.or_else(|| {
            let newest = service.destinations(guard).take(Table::SEARCH_MAX);
            newest
                .into_iter()
                .find(|dest| dest.weight() > 0 && is_usable(dest))
        });
        let Some(picked) = picked else {
            service.report_error(c"no destination available", guard);
            return None;
        };
        trace::pick(service, picked);
        Some(picked)
    }
}
