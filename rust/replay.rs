// SPDX-License-Identifier: GPL-2.0

//! Replays packets that IPVS would drop because they carry the conntrack of an older flow:
//! `first_packet()` knows the packets that open a flow, for each protocol; [`policy`] decides;
//! `obstacle()` finds what prevents a replay. The call into the network stack is in
//! `netfilter/helpers.c`.
//!
//! A client reuses a port while IPVS still has the entry of the old flow. If IPVS reschedules the
//! flow and the packet has a confirmed conntrack, `ip_vs_in_hook()` drops the packet: a confirmed
//! conntrack cannot be redirected to another real server. A second later the client retransmits.
//! By then entry and conntrack are gone.
//!
//! The module gets the same result without the wait. If [`policy`] says that IPVS would drop the
//! packet, the module kills the conntrack and passes the same packet through the stack again. Rules
//! see the packet twice. Without the module they see the packet and its retransmission. Nothing
//! else changes.
//!
//! A packet that cannot be replayed faithfully (`obstacle`) is left to IPVS, which drops it.

use crate::counters::{Counters, Event};
use crate::ipvs::{Conn, ReopenedFlow};
use crate::net::{Id, Namespace, Packet, PerNamespace, ProcFile, StaticId, Transport};
use crate::netfilter::{Obstacles, Verdict};
use crate::policy::{
    self, ConnState, DestState, FirstPacket, Phase, ReplayReason, Settings, Situation,
};
use crate::trace;
use kernel::prelude::*;

/// The data of one namespace.
pub struct Replay {
    counters: Counters,
}

static ID: Id<Replay> = Id::new();

impl PerNamespace for Replay {
    const ID: StaticId<Self> = StaticId::new(&ID);

    const PROC_FILE: Option<ProcFile<Self>> = Some(ProcFile {
        name: c"ip_vs_reuse",
        show: |replay, file| replay.counters.show(file),
    });

    fn new(_: &Namespace) -> Result<Self> {
        Ok(Self {
            counters: Counters::new()?,
        })
    }
}

/// The kind of first packet, or `None` if the packet cannot open a flow. Conntrack has already
/// validated the transport header.
#[inline]
pub fn first_packet(packet: &Packet, transport: Transport) -> Option<FirstPacket> {
    match transport.protocol {
        Transport::TCP => packet
            .read(transport.offset.checked_add(Transport::TCP_FLAGS)?)
            .filter(|[flags]| Transport::is_syn(*flags))
            .map(|_| FirstPacket::TcpSyn),
        Transport::SCTP => {
            let first_chunk = transport.offset.checked_add(Transport::SCTP_FIRST_CHUNK)?;

            (packet.read(first_chunk)? == [Transport::SCTP_INIT]).then_some(FirstPacket::SctpInit)
        }
        Transport::UDP => Some(FirstPacket::UdpDatagram),
        _ => None,
    }
}

/// Replays the packet if IPVS would drop it because of its conntrack. Otherwise gives the flow
/// back, and the caller must leave the packet to IPVS.
pub fn reopened(flow: ReopenedFlow<'_>) -> Result<Verdict<'_>, ReopenedFlow<'_>> {
    let packet = first_packet(flow.packet(), flow.transport());
    let (Some(packet), Some(replay)) = (packet, Replay::of(flow.packet().state())) else {
        return Err(flow);
    };
    // IPVS reschedules a UDP flow only after its destination was deleted, and only with
    // `expire_nodest_conn`. Other datagrams are ignored and not counted.
    let rescheduled = |conn: &Conn| {
        conn.ipvs().expire_nodest_conn()
            && conn.destination().is_some_and(|dest| !dest.is_available())
    };
    if packet == FirstPacket::UdpDatagram && !rescheduled(flow.conn()) {
        return Err(flow);
    }
    let leave = |flow: &ReopenedFlow<'_>, left: Event| {
        replay.counters.count(left);
        trace::leave(flow.conn(), left.name());
    };

    replay.counters.count(Event::Matched);
    let reason = match reason_to_replay(&flow, packet) {
        Ok(reason) => reason,
        Err(left) => {
            leave(&flow, left);
            return Err(flow);
        }
    };
    let replayed = Event::replayed(packet, reason);

    let flow = flow
        .kill_conntrack()
        .inspect_err(|flow| leave(flow, Event::LeftDying))?;
    trace::replay(flow.conn(), replayed.name());
    let (verdict, queued) = flow.replay();
    replay.counters.count(if queued {
        replayed
    } else {
        Event::DroppedBacklog
    });
    Ok(verdict)
}

/// Why the packet is replayed, or why it is left to IPVS.
fn reason_to_replay(flow: &ReopenedFlow<'_>, packet: FirstPacket) -> Result<ReplayReason, Event> {
    let reason = policy::decide(&situation(flow.conn(), packet))?;

    match obstacle(&flow.packet().obstacles()) {
        Some(obstacle) => Err(obstacle),
        None => Ok(reason),
    }
}

/// Reads everything that the policy depends on, each field once.
fn situation(conn: &Conn, packet: FirstPacket) -> Situation {
    let ipvs = conn.ipvs();
    let state = conn.state();

    Situation {
        packet,
        conn: ConnState {
            phase: if state.is_closed() {
                Phase::Closed
            } else if state.is_half_closed() {
                Phase::HalfClosed
            } else {
                Phase::Open
            },
            one_way: conn.is_one_way(),
            controlled: conn.is_controlled(),
            controlling: conn.is_controlling(),
            tracked: conn.is_tracked(),
        },
        dest: conn.destination().map(|dest| DestState {
            drained: dest.weight() == 0,
            available: dest.is_available(),
        }),
        settings: Settings {
            conn_reuse_mode: ipvs.conn_reuse_mode(),
            expire_nodest_conn: ipvs.expire_nodest_conn(),
        },
    }
}

/// The first reason why a replay would not be faithful, if there is one.
fn obstacle(obstacles: &Obstacles) -> Option<Event> {
    let obstacles = [
        // The addresses before NAT are those of the conntrack. To write them back is not worth it.
        (obstacles.is_translated, Event::LeftTranslated),
        // SYNPROXY has attached a template to the packet, and would not attach another.
        (obstacles.is_synproxy_syn, Event::LeftSynproxy),
        // Without the route that it came with, the packet would be martian.
        (obstacles.is_from_loopback, Event::LeftLoopback),
        // This machine has updated the options, and would do so again.
        (obstacles.has_ip_options, Event::LeftOptions),
        // `frag_max_size`, which limits the size of fragments on output, would be lost.
        (obstacles.exceeds_frag_max_size, Event::LeftFragments),
        // Its flow passes PRE_ROUTING twice, and may have a second conntrack, in another zone. The
        // expiry of the entry has to kill that.
        (obstacles.has_zone_in_vrf, Event::LeftVrfZone),
        // A rule may have set the mark for the old flow, and routing has used it.
        (obstacles.differs_from_socket_mark, Event::LeftMarked),
        // Nested replays could overflow the stack.
        (obstacles.is_nested, Event::LeftNested),
    ];

    obstacles
        .into_iter()
        .find_map(|(is_present, left)| is_present.then_some(left))
}
