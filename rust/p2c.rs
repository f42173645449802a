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
use crate::ipvs::{Destination, HeldDestination, Scheduler, Service};
use crate::net::Packet;
use crate::sampler::{self, Column, Load, Table};
use crate::trace;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, AtomicFlag, Relaxed},
        rcu::{self, Guard},
        Arc,
    },
};

/// The scheduler.
pub struct P2c;

/// The real servers that had weight when the table was made, and the table. A server's number
/// is its column's.
struct Servers {
    total: u64,
    columns: KVVec<Column>,
    /// Shared with earlier and later tables: two atomics a server for each table, to take and
    /// give back references, is what would cost most where servers are added one by one.
    settled: Arc<KVVec<HeldDestination>>,
    /// Added since `settled` was made.
    newcomers: KVVec<HeldDestination>,
    /// This table's part of [`WAITING`]: nothing until it has been replaced.
    waiting: Atomic<usize>,
}

/// How many servers may be added before the list of all is made anew.
const NEWCOMERS_MAX: usize = 64;

impl Drop for Servers {
    fn drop(&mut self) {
        WAITING.fetch_sub(*self.waiting.get_mut(), Relaxed);
    }
}

/// What is kept for a service.
pub struct State {
    servers: Published<Servers>,
    /// The last change found no memory: the next must look at all servers.
    stale: AtomicFlag,
}

/// Changes that found no memory for a new table, in all namespaces, since the module was loaded.
static FAILED_REBUILDS: Atomic<usize> = Atomic::new(0);

/// Bytes of old tables that wait for their grace period, in all namespaces.
static WAITING: Atomic<usize> = Atomic::new(0);

/// How many may wait before a change waits with them: thousands of real servers that are added
/// one by one can leave old tables faster than grace periods pass.
const WAITING_MAX: usize = 4 << 20;

/// The number of changes that found no memory for a new table.
pub fn failed_rebuilds() -> usize {
    FAILED_REBUILDS.load(Relaxed)
}

impl Servers {
    /// Makes the table of a service as it is now; `None` if no server has weight. May sleep.
    fn of(service: &Service) -> Result<Option<RcuBox<Self>>> {
        let mut servers = KVVec::with_capacity(service.destination_count(), GFP_KERNEL)?;
        let guard = rcu::read_lock();
        for server in service.destinations(&guard).filter(|s| s.weight() > 0) {
            servers
                .push_within_capacity(server.hold())
                .map_err(|_| EAGAIN)?;
        }
        drop(guard);

        Self::new(Arc::new(servers, GFP_KERNEL)?, KVVec::new())
    }

    /// Makes the table of these servers; `None` if none has weight. May sleep.
    fn new(
        settled: Arc<KVVec<HeldDestination>>,
        newcomers: KVVec<HeldDestination>,
    ) -> Result<Option<RcuBox<Self>>> {
        let count = settled.len().saturating_add(newcomers.len());
        let mut columns = KVVec::with_capacity(count, GFP_KERNEL)?;
        for server in Iterator::chain(settled.iter(), &newcomers) {
            columns
                .push_within_capacity(Column::new(server.weight()))
                .map_err(|_| EAGAIN)?;
        }

        let Some(total) = sampler::build(&mut columns) else {
            return Ok(None);
        };
        let servers = Self {
            total,
            columns,
            settled,
            newcomers,
            waiting: Atomic::new(0),
        };
        RcuBox::new(servers, GFP_KERNEL).map(Some)
    }

    /// Bytes that are this table's alone.
    fn size(&self) -> usize {
        size_of::<Self>()
            .saturating_add(size_of_val(&*self.columns))
            .saturating_add(NEWCOMERS_MAX * size_of::<HeldDestination>())
    }

    #[inline]
    fn get(&self, number: usize) -> Option<&Destination> {
        let newcomer = || self.newcomers.get(number.checked_sub(self.settled.len())?);
        self.settled
            .get(number)
            .or_else(newcomer)
            .map(|server| &**server)
    }

    /// Draws two servers and takes the better one.
    #[inline]
    fn pick(&self) -> Option<&Destination> {
        let table = Table {
            total: self.total,
            columns: &self.columns,
        };
        let number = table.pick(sampler::random(random()), |number| {
            let server = self.get(number)?;
            (server.is_available() && !server.is_overloaded()).then(|| Load {
                active: server.active_connections(),
                weight: server.weight(),
            })
        })?;
        self.get(number)
    }
}

impl State {
    /// Makes the table anew. May sleep.
    fn rebuild(&self, service: &Service) -> Result {
        self.publish(Servers::of(service))
    }

    /// Makes the table with one server more. May sleep.
    fn add(&self, service: &Service, new: &Destination) -> Result {
        match self.with(new) {
            Ok(None) => self.rebuild(service),
            servers => self.publish(servers),
        }
    }

    /// The table in force and this server; `None` where that will not do, and all servers have
    /// to be looked at. May sleep.
    fn with(&self, new: &Destination) -> Result<Option<RcuBox<Servers>>> {
        let mut newcomers = KVVec::with_capacity(NEWCOMERS_MAX, GFP_KERNEL)?;
        let guard = rcu::read_lock();
        let Some(old) = self
            .servers
            .read(&guard)
            .filter(|_| !self.stale.load(Relaxed))
        else {
            return Ok(None);
        };
        for server in Iterator::chain(old.newcomers.iter().map(|server| &**server), [new]) {
            if newcomers.push_within_capacity(server.hold()).is_err() {
                return Ok(None);
            }
        }
        let settled = old.settled.clone();
        drop(guard);

        Servers::new(settled, newcomers)
    }

    /// Puts a new table in force, or counts that it could not be made. May sleep.
    fn publish(&self, new: Result<Option<RcuBox<Servers>>>) -> Result {
        self.stale.store(new.is_err(), Relaxed);
        let new = new.inspect_err(|_| {
            FAILED_REBUILDS.fetch_add(1, Relaxed);
        })?;
        if let Some(old) = self.servers.replace(new) {
            let size = old.size();
            old.waiting.store(size, Relaxed);
            WAITING.fetch_add(size, Relaxed);
        }
        if WAITING.load(Relaxed) > WAITING_MAX {
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
            servers: Published::default(),
            stale: AtomicFlag::new(false),
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
        let Some(picked) = state.servers.read(guard).and_then(Servers::pick) else {
            service.report(c"no destination available", guard);
            return None;
        };
        trace::pick(service, picked);
        Some(picked)
    }
}
