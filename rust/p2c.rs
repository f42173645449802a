// SPDX-License-Identifier: GPL-2.0

//! `p2c`, a scheduler: weighted power of two choices, in a time that does not grow with the
//! number of real servers.
//!
//! Two real servers are drawn at random, in proportion to weight, and the one with fewer active
//! connections per weight gets the connection. A server that is new gets its share at once and
//! never a stampede: no more than it is drawn for, which is about twice its share. Connections
//! that have ended and wait do not count as load.
//!
//! The draw takes a table ([`sampler`]) that is made anew when real servers
//! come, go or change, and published by RCU. A change that finds no memory for a new one leaves
//! the old one in force, is counted, and is made good by the next. The table says who is asked;
//! who may be chosen is asked of the servers themselves, so that even an old table sends nothing
//! to a server that is drained, deleted or overloaded.

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

/// The real servers that had weight when the table was made, and the table. A server's number
/// is its column's.
struct DestinationTable {
    total: u64,
    columns: KVVec<Column>,
    /// Shared with earlier and later tables: two atomics a server for each table, to take and
    /// give back references, is what would cost most where servers are added one by one.
    shared: Arc<KVVec<ARef<Destination>>>,
    /// Added since `shared` was made.
    added: KVVec<ARef<Destination>>,
    /// This table's part of [`RETIRED_BYTES`]: nothing until it has been replaced.
    retired_bytes: Atomic<usize>,
}

/// How many servers may be added before the list of all is made anew.
const ADDED_MAX: usize = 64;

impl Drop for DestinationTable {
    fn drop(&mut self) {
        RETIRED_BYTES.fetch_sub(*self.retired_bytes.get_mut(), Relaxed);
    }
}

/// What is kept for a service.
pub struct State {
    table: Published<DestinationTable>,
    /// The last change found no memory: the next must look at all servers.
    must_rebuild: AtomicFlag,
}

/// Changes that found no memory for a new table, in all namespaces, since the module was loaded.
static FAILED_REBUILDS: Atomic<usize> = Atomic::new(0);

/// Bytes of old tables that wait for their grace period, in all namespaces.
static RETIRED_BYTES: Atomic<usize> = Atomic::new(0);

/// How many may wait before a change waits with them: thousands of real servers that are added
/// one by one can leave old tables faster than grace periods pass.
const RETIRED_BYTES_MAX: usize = 4 << 20;

/// The number of changes that found no memory for a new table.
pub fn failed_rebuilds() -> usize {
    FAILED_REBUILDS.load(Relaxed)
}

impl DestinationTable {
    /// Makes the table of a service as it is now; `None` if no server has weight. May sleep.
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

    /// Makes the table of these servers; `None` if none has weight. May sleep.
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
        let dests = Self {
            total,
            columns,
            shared,
            added,
            retired_bytes: Atomic::new(0),
        };
        RcuBox::new(dests, GFP_KERNEL).map(Some)
    }

    /// Bytes that are this table's alone.
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

    /// Draws two servers and takes the better one.
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
    /// Makes the table anew. May sleep.
    fn rebuild(&self, service: &Service) -> Result {
        self.publish(DestinationTable::from_service(service))
    }

    /// Makes the table with one server more. May sleep.
    fn add(&self, service: &Service, new: &Destination) -> Result {
        match self.table_with(new) {
            Ok(None) => self.rebuild(service),
            dests => self.publish(dests),
        }
    }

    /// The table in force and this server; `None` where that will not do, and all servers have
    /// to be looked at. May sleep.
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

    /// Puts a new table in force, or counts that it could not be made. May sleep.
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

    fn add_destination(state: &State, service: &Service, new: &Destination) -> Result {
        state.add(service, new)
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
