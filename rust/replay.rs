// SPDX-License-Identifier: GPL-2.0

//! Replays a packet that IPVS would drop for the conntrack of its older connection.
//!
//! A client that reuses a port sends the first packet of a new flow, and IPVS still has the entry
//! of the old one. Where IPVS gives that entry up, `ip_vs_in_hook()` drops the packet if its
//! conntrack is confirmed: a confirmed conntrack cannot be redirected to another real server. The
//! client sends the packet again a second later, when entry and conntrack are gone.
//!
//! Here the same happens at once. Where [`policy`] says that IPVS would drop the
//! packet, its conntrack is killed, and the same packet arrives (or is sent) again. Nothing else
//! changes: rules see the packet twice, as they do when the client retransmits it.
//!
//! Whatever cannot be repeated faithfully is left to IPVS (`obstacle`), which drops it as ever.

use crate::counters::{Counters, Event};
use crate::ipvs::{Conn, ReopenedFlow};
use crate::net::{Id, Namespace, Packet, PerNamespace, ProcFile, StaticId, Transport};
use crate::netfilter::{Obstacles, Verdict};
use crate::policy::{
    self, ConnState, DestState, FirstPacket, Phase, ReplayReason, Settings, Situation,
};
use crate::trace;
use kernel::prelude::*;

/// What is kept in one namespace.
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

/// What flow the packet may be the first of, if any. Its transport header is `transport`, and
/// conntrack has found it valid.
#[inline]
pub fn first_packet(packet: &Packet, transport: Transport) -> Option<FirstPacket> {
    match transport.protocol {
        Transport::TCP => packet
            .read(transport.offset.checked_add(Transport::TCP_FLAGS)?)
            .filter(|[flags]| Transport::is_syn(*flags))
            .map(|_| FirstPacket::TcpSyn),
        Transport::SCTP => {
            const INIT: u8 = 1;
            let first_chunk = transport.offset.checked_add(12)?;

            (packet.read(first_chunk)? == [INIT]).then_some(FirstPacket::SctpInit)
        }
        Transport::UDP => Some(FirstPacket::UdpDatagram),
        _ => None,
    }
}

/// Replays the packet if IPVS would drop it, or gives it back to go on to IPVS.
pub fn reopened(flow: ReopenedFlow<'_>) -> Result<Verdict<'_>, ReopenedFlow<'_>> {
    let packet = first_packet(flow.packet(), flow.transport());
    let (Some(packet), Some(replay)) = (packet, Replay::of(flow.packet().state())) else {
        return Err(flow);
    };
    // Any datagram may be the first after its server has left. Other datagrams are not counted.
    let dest_gone = || {
        flow.conn()
            .destination()
            .is_some_and(|dest| !dest.is_available())
    };
    if packet == FirstPacket::UdpDatagram && !dest_gone() {
        return Err(flow);
    }
    let leave = |flow: &ReopenedFlow<'_>, left: Event| {
        replay.counters.count(left);
        trace::leave(flow.conn(), left.name());
    };

    replay.counters.count(Event::Matched);
    let reason = match decide(&flow, packet) {
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

/// Why IPVS would drop the packet that reopens the flow, or why it is left to IPVS all the same.
fn decide(flow: &ReopenedFlow<'_>, packet: FirstPacket) -> Result<ReplayReason, Event> {
    let reason = policy::decide(&situation(flow.conn(), packet))?;

    match obstacle(&flow.packet().obstacles()) {
        Some(obstacle) => Err(obstacle),
        None => Ok(reason),
    }
}

/// Reads all that the policy depends on, each once.
fn situation(conn: &Conn, packet: FirstPacket) -> Situation {
    let ipvs = conn.ipvs();

    Situation {
        packet,
        conn: ConnState {
            phase: if conn.is_closed() {
                Phase::Closed
            } else if conn.is_half_closed() {
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

/// Why the packet cannot be made to arrive again as it arrived first.
fn obstacle(obstacles: &Obstacles) -> Option<Event> {
    let obstacles = [
        // Its addresses were others before NAT.
        (obstacles.is_translated, Event::LeftTranslated),
        // Its template came from SYNPROXY, which makes no other.
        (obstacles.is_synproxy_syn, Event::LeftSynproxy),
        // It would need the route that it brought along: without, it is martian.
        (obstacles.is_from_loopback, Event::LeftLoopback),
        // This machine has written to them, and would do so again.
        (obstacles.has_ip_options, Event::LeftOptions),
        // How large they were, which limits what may be sent on, is forgotten.
        (obstacles.exceeds_frag_max_size, Event::LeftFragments),
        // It would pass the rules of the VRF only, not again those of the device that chose the
        // zone.
        (obstacles.has_zone_in_vrf, Event::LeftVrfZone),
        // A rule may have set it for the old connection, and it has chosen the route.
        (obstacles.differs_from_socket_mark, Event::LeftMarked),
        // One level, or the kernel's stack would be the limit.
        (obstacles.is_nested, Event::LeftNested),
    ];

    obstacles
        .into_iter()
        .find_map(|(is_present, left)| is_present.then_some(left))
}
