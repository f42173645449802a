// SPDX-License-Identifier: GPL-2.0

//! Evicts the stale conntrack of a packet that IPVS is about to schedule anew.
//!
//! A packet that opens a flow and meets an old IPVS entry is dropped by `ip_vs_in_hook()` where
//! its conntrack is confirmed: such a conntrack cannot follow to another real server. We are asked
//! one step before conntrack looks. Where [`policy`](crate::policy) says that IPVS would drop, the
//! stale conntrack is taken out of the table; conntrack then gives the packet a new one by itself,
//! and everything behind (nat, filter, IPVS) does what it does for any new flow.
//!
//! What it costs: a counter of this processor; and where the conntrack is to be evicted, the
//! packet's checksum, which conntrack would compute a moment later and need not again, and one
//! lookup in conntrack's table.

use crate::counters::{Counters, Event};
use crate::ipvs::Reopened;
use crate::net::{Id, Namespace, PerNamespace, Transport};
use crate::netfilter::{Conntrack, Direction};
use crate::policy::{decide, Entry, Opener, Reason, Server, Settings, Situation, Verdict};
use crate::trace;
use kernel::{prelude::*, seq_file::SeqFile};

/// What is kept in one namespace.
pub struct Evict {
    counters: Counters,
}

static ID: Id = Id::new();

impl PerNamespace for Evict {
    const PROC_NAME: &'static CStr = c"ip_vs_reuse";

    fn id() -> &'static Id {
        &ID
    }

    fn new(_: &Namespace) -> Result<Self> {
        Ok(Self {
            counters: Counters::new()?,
        })
    }

    fn show(&self, file: &SeqFile) {
        self.counters.show(file);
    }
}

/// A packet that may open a flow has matched an old entry. RCU read side.
pub fn reopened(flow: &Reopened<'_>) {
    let (Some(opener), Some(evict)) = (opener(flow.transport), Evict::of(flow.state)) else {
        return;
    };
    // Any datagram may be the first that meets a server's leaving. Others are not counted.
    let gone = || flow.conn.destination().is_some_and(|s| !s.is_available());
    if opener == Opener::UdpDatagram && !gone() {
        return;
    }

    evict.counters.count(Event::Matched);
    match matched(flow, opener) {
        Ok(reason) => {
            let evicted = Event::evicted(opener, reason);
            evict.counters.count(evicted);
            trace::evict(flow.conn, evicted.name());
        }
        Err(left) => {
            evict.counters.count(left);
            trace::leave(flow.conn, left.name());
        }
    }
}

fn opener(transport: Transport) -> Option<Opener> {
    match transport.protocol {
        Transport::TCP => Some(Opener::TcpSyn),
        Transport::SCTP => Some(Opener::SctpInit),
        Transport::UDP => Some(Opener::UdpDatagram),
        _ => None,
    }
}

/// The way of a packet that opens a flow and matches an old entry: why its conntrack was evicted,
/// or as error why it was left.
fn matched(flow: &Reopened<'_>, opener: Opener) -> Result<Reason, Event> {
    let reason = match decide(&situation(flow, opener)) {
        Verdict::Evict(reason) => reason,
        Verdict::Leave(kept) => return Err(kept.into()),
    };
    if !flow.state.checksum_is_good(flow.packet, flow.transport) {
        return Err(Event::LeftBadChecksum);
    }
    let conntrack =
        Conntrack::find(flow.state, flow.packet, flow.template).ok_or(Event::LeftNoConntrack)?;

    if conntrack.direction() != Direction::Original {
        Err(Event::LeftReply)
    } else if conntrack.is_expected() {
        Err(Event::LeftExpected)
    } else if conntrack.is_dying() {
        Err(Event::LeftDying)
    } else {
        conntrack.kill();
        Ok(reason)
    }
}

/// Reads all that the decision depends on, each once.
fn situation(flow: &Reopened<'_>, opener: Opener) -> Situation {
    Situation {
        opener,
        entry: Entry {
            phase: flow.conn.phase(),
            one_way: flow.conn.is_one_way(),
            controlled: flow.conn.is_controlled(),
            controlling: flow.conn.is_controlling(),
        },
        server: flow.conn.destination().map(|server| Server {
            drained: server.weight() == 0,
            available: server.is_available(),
        }),
        settings: Settings {
            conn_reuse_mode: flow.ipvs.conn_reuse_mode(),
            expire_nodest_conn: flow.ipvs.expire_nodest_conn(),
        },
    }
}
