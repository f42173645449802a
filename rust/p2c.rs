// SPDX-License-Identifier: GPL-2.0

//! The scheduler `p2c`: weighted power of two choices, in constant time.
//!
//! It draws two destinations at random, in proportion to weight. The one with fewer active
//! connections per weight gets the connection. A new destination gets its share at once, and is
//! never flooded: it gets only connections for which it is drawn, at most about twice its share.
//! Connections in TIME_WAIT are not active, so they do not count as load.
//!
//! The draw uses a table ([`sampler`]), published by RCU. A change of the destinations makes a new
//! one. If its allocation fails, the old table stays in use, the failure is counted, and the next
//! successful change rebuilds the table. Weight, availability and overload are read from the
//! destinations at each pick, so a stale table sends no connection to a destination that is
//! drained, deleted or overloaded.

use crate::base::{random, rcu_barrier, Published, RcuBox};
use crate::ipvs::{Destination, Scheduler, Service};
use crate::net::Packet;
use crate::sampler::{self, Column, Load, Table};
use crate::trace;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, AtomicFlag, Relaxed},
        rcu::{self, Guard},
        Arc,
    },
};

/// The scheduler.
pub struct P2c;

/// The table, and the destinations that had weight when it was made. The index of a destination is
/// the index of its column.
struct DestinationTable {
    total: u64,
    columns: KVVec<Column>,
    /// The first destinations, shared with other tables. Otherwise each new table would get and put
    /// a reference to every destination, the largest cost of adding destinations one by one.
    shared: Arc<KVVec<ARef<Destination>>>,
    /// The other destinations, which were added after `shared` was made.
    added: KVVec<ARef<Destination>>,
    /// What this table adds to [`RETIRED_BYTES`]; 0 until it is replaced.
    retired_bytes: Atomic<usize>,
}

/// How many destinations can be added before the table gets a new `shared`.
const ADDED_MAX: usize = 64;

impl Drop for DestinationTable {
    fn drop(&mut self) {
        RETIRED_BYTES.fetch_sub(*self.retired_bytes.get_mut(), Relaxed);
    }
}

/// The data of a service.
pub struct State {
    table: Published<DestinationTable>,
    /// The last change has failed, so the next one must read the whole list of destinations.
    must_rebuild: AtomicFlag,
}

/// The number of failures to make a new table, in all namespaces, since the module was loaded.
static FAILED_REBUILDS: Atomic<usize> = Atomic::new(0);

/// The size of all replaced tables that wait for their grace period, in all namespaces.
static RETIRED_BYTES: Atomic<usize> = Atomic::new(0);

/// Limit of [`RETIRED_BYTES`]. Above it, a change of destinations waits for a grace period.
/// Otherwise, adding thousands of destinations one by one could retire tables faster than RCU frees
/// them.
const RETIRED_BYTES_MAX: usize = 4 << 20;

/// The number of failures to make a new table.
pub fn failed_rebuilds() -> usize {
    FAILED_REBUILDS.load(Relaxed)
}

impl DestinationTable {
    /// The table of a service's current destinations; `None` if none has weight. May sleep.
    fn from_service(service: &Service) -> Result<Option<RcuBox<Self>>> {
        let mut dests = KVVec::with_capacity(service.destination_count(), GFP_KERNEL)?;
        let guard = rcu::read_lock();
        for dest in service
            .destinations(&guard)
            .filter(|dest| dest.weight() > 0)
        {
            dests
                .push_within_capacity(dest.into())
                .map_err(|_| EAGAIN)?;
        }
        drop(guard);

        Self::new(Arc::new(dests, GFP_KERNEL)?, KVVec::new())
    }

    /// The table of these destinations; `None` if none has weight. May sleep.
    fn new(
        shared: Arc<KVVec<ARef<Destination>>>,
        added: KVVec<ARef<Destination>>,
    ) -> Result<Option<RcuBox<Self>>> {
        let count = shared.len().saturating_add(added.len());
        let mut columns = KVVec::with_capacity(count, GFP_KERNEL)?;
        for dest in Iterator::chain(shared.iter(), &added) {
            columns
                .push_within_capacity(Column::new(dest.weight()))
                .map_err(|_| EAGAIN)?;
        }

        let Some(total) = sampler::build(&mut columns) else {
            return Ok(None);
        };
        let table = Self {
            total,
            columns,
            shared,
            added,
            retired_bytes: Atomic::new(0),
        };
        RcuBox::new(table, GFP_KERNEL).map(Some)
    }

    /// The memory that this table does not share, in bytes.
    fn size(&self) -> usize {
        size_of::<Self>()
            .saturating_add(size_of_val(&*self.columns))
            .saturating_add(ADDED_MAX * size_of::<ARef<Destination>>())
    }

    #[inline]
    fn get(&self, number: usize) -> Option<&Destination> {
        let added = || self.added.get(number.checked_sub(self.shared.len())?);
        self.shared.get(number).or_else(added).map(|dest| &**dest)
    }

    /// Draws two destinations and takes the one with less load.
    #[inline]
    fn pick(&self) -> Option<&Destination> {
        let table = Table {
            total: self.total,
            columns: &self.columns,
        };
        let number = table.pick(sampler::random(random()), |number| {
            let dest = self.get(number)?;
            (dest.is_available() && !dest.is_overloaded()).then(|| Load {
                active: dest.active_connections(),
                weight: dest.weight(),
            })
        })?;
        self.get(number)
    }
}

impl State {
    /// Publishes a table of all destinations. May sleep.
    fn rebuild(&self, service: &Service) -> Result {
        self.publish(DestinationTable::from_service(service))
    }

    /// Publishes a table with one more destination. May sleep.
    fn add(&self, service: &Service, new: &Destination) -> Result {
        match self.table_with(new) {
            Ok(None) => self.rebuild(service),
            table => self.publish(table),
        }
    }

    /// A copy of the current table with one more destination; `None` if the table must be rebuilt.
    /// May sleep.
    fn table_with(&self, new: &Destination) -> Result<Option<RcuBox<DestinationTable>>> {
        let mut added = KVVec::with_capacity(ADDED_MAX, GFP_KERNEL)?;
        let guard = rcu::read_lock();
        let Some(old) = self
            .table
            .read(&guard)
            .filter(|_| !self.must_rebuild.load(Relaxed))
        else {
            return Ok(None);
        };
        for dest in Iterator::chain(old.added.iter().map(|dest| &**dest), [new]) {
            if added.push_within_capacity(dest.into()).is_err() {
                return Ok(None);
            }
        }
        let shared = old.shared.clone();
        drop(guard);

        DestinationTable::new(shared, added)
    }

    /// Publishes the new table, or counts the failure to make it. May sleep.
    fn publish(&self, new: Result<Option<RcuBox<DestinationTable>>>) -> Result {
        self.must_rebuild.store(new.is_err(), Relaxed);
        let new = new.inspect_err(|_| {
            FAILED_REBUILDS.fetch_add(1, Relaxed);
        })?;
        if let Some(old) = self.table.replace(new) {
            let size = old.size();
            old.retired_bytes.store(size, Relaxed);
            RETIRED_BYTES.fetch_add(size, Relaxed);
        }
        if RETIRED_BYTES.load(Relaxed) > RETIRED_BYTES_MAX {
            rcu_barrier();
        }
        Ok(())
    }
}

#[vtable]
impl Scheduler for P2c {
    const NAME: &'static CStr = c"p2c";

    type Data = State;

    fn init_service(service: &Service) -> Result<State> {
        let state = State {
            table: Published::default(),
            must_rebuild: AtomicFlag::new(false),
        };
        state.rebuild(service)?;
        Ok(state)
    }

    fn add_destination(state: &State, service: &Service, dest: &Destination) -> Result {
        state.add(service, dest)
    }

    fn delete_destination(state: &State, service: &Service, _: &Destination) -> Result {
        state.rebuild(service)
    }

    fn update_destination(state: &State, service: &Service, _: &Destination) -> Result {
        state.rebuild(service)
    }

    #[inline]
    fn schedule<'a>(
        state: &'a State,
        service: &'a Service,
        _: &Packet,
        guard: &'a Guard,
    ) -> Option<&'a Destination> {
        let Some(picked) = state.table.read(guard).and_then(DestinationTable::pick) else {
            service.report_error(c"no destination available", guard);
            return None;
        };
        trace::pick(service, picked);
        Some(picked)
    }
}
