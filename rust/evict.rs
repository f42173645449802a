// SPDX-License-Identifier: GPL-2.0

//! Evicts the stale conntrack of a packet that IPVS is about to schedule anew.
//!
//! A packet that opens a flow and meets an old IPVS entry is dropped by `ip_vs_in_hook()` where
//! its conntrack is confirmed: such a conntrack cannot follow to another real server. This hook
//! stands one step before conntrack. Where [`policy`](crate::policy) says that IPVS would drop,
//! it takes the stale conntrack out of the table; conntrack then gives the packet a new one by
//! itself, and everything behind (nat, filter, IPVS) does what it does for any new flow.
//!
//! What a packet costs on top of the hook itself:
//!
//! | packet | cost |
//! | --- | --- |
//! | namespace without a virtual service | two loads |
//! | opens no flow | the loads of its headers; no call (but to walk IPv6 extension headers), no lookup, nothing written |
//! | TCP SYN, SCTP INIT | one lookup in IPVS's table |
//! | UDP datagram | as one that opens no flow; one lookup in IPVS's table where `expire_nodest_conn` is 1 |
//! | matches an old entry (UDP: whose server has left) | a counter of this processor; where it is to be evicted, its checksum, which conntrack would compute a moment later and need not again, and one lookup in conntrack's table |

use crate::counters::{Counters, Event};
use crate::ipvs::{Conn, Ipvs};
use crate::net::{Family, Id, Namespace, Packet, PerNamespace, Transport};
use crate::netfilter::{
    attached, Attached, Conntrack, Direction, Handler, HookState, Place, Point, Template,
    PRIORITY_CONNTRACK,
};
use crate::policy::{decide, Entry, Opener, Server, Settings, Situation, Verdict};
use crate::trace;
use kernel::{prelude::*, seq_file::SeqFile};

/// The hook and its counters in one namespace.
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

const fn before_conntrack(family: Family, point: Point) -> Place {
    Place {
        family,
        point,
        priority: PRIORITY_CONNTRACK - 1,
    }
}

impl Handler for Evict {
    const PLACES: &'static [Place] = &[
        before_conntrack(Family::Ipv4, Point::PreRouting),
        before_conntrack(Family::Ipv4, Point::LocalOut),
        before_conntrack(Family::Ipv6, Point::PreRouting),
        before_conntrack(Family::Ipv6, Point::LocalOut),
    ];

    #[inline]
    fn packet(&self, state: &HookState, packet: &Packet) {
        let family = state.family();
        let Some(ipvs) = Ipvs::of(state.namespace()).filter(|ipvs| ipvs.has_hooks(family)) else {
            return;
        };
        let Some(transport) = packet.transport(family) else {
            return;
        };
        if let Some(opener) = opener(ipvs, packet, transport) {
            self.opens_flow(ipvs, state, packet, transport, opener);
        }
    }
}

/// What the packet opens, if anything. A packet that conntrack would call invalid opens nothing.
#[inline]
fn opener(ipvs: &Ipvs, packet: &Packet, transport: Transport) -> Option<Opener> {
    let Transport { protocol, offset } = transport;
    let room = packet.length().checked_sub(offset)?;

    match protocol {
        Transport::TCP => {
            const FIN: u8 = 0x01;
            const SYN: u8 = 0x02;
            const RST: u8 = 0x04;
            const ACK: u8 = 0x10;
            let [words, flags] = packet.read(offset.checked_add(12)?)?;
            let header = u32::from(words >> 4) * 4;

            (flags & (SYN | ACK | RST | FIN) == SYN && (20..=room).contains(&header))
                .then_some(Opener::TcpSyn)
        }
        Transport::SCTP => {
            const INIT: u8 = 1;
            // An INIT has no verification tag, and says so.
            let [_, _, _, _, tag @ .., _, _, _, _, chunk, _, high, low] =
                packet.read::<16>(offset)?;
            let length = u32::from(u16::from_be_bytes([high, low]));

            (chunk == INIT && tag == [0; 4] && (20..=room).contains(&length))
                .then_some(Opener::SctpInit)
        }
        Transport::UDP if ipvs.expire_nodest_conn() => {
            let [high, low] = packet.read(offset.checked_add(4)?)?;
            let length = u32::from(u16::from_be_bytes([high, low]));

            (8..=room).contains(&length).then_some(Opener::UdpDatagram)
        }
        _ => None,
    }
}

impl Evict {
    /// The way of a packet that opens a flow.
    fn opens_flow(
        &self,
        ipvs: &Ipvs,
        state: &HookState,
        packet: &Packet,
        transport: Transport,
        opener: Opener,
    ) {
        // IPVS itself would not look at these.
        let ours = match state.point() {
            Point::PreRouting => packet.is_to_host(),
            Point::LocalOut => !packet.is_from_nodefrag_socket(),
        };
        if !ours || packet.is_handled_by_ipvs() || ipvs.is_idle_backup() {
            return;
        }
        // Nor would conntrack at these.
        let template = match attached(packet) {
            Attached::Nothing => None,
            Attached::Template(template) => Some(template),
            Attached::Untracked | Attached::Conntrack => return,
        };
        let Some(conn) = ipvs.find_conn(state.family(), packet) else {
            return;
        };

        // Any datagram may be the first that meets a server's leaving. (That IPVS holds deleted
        // servers, `dest_trash`, says so too late: it marks a server before it moves it there.)
        let gone = || conn.destination().is_some_and(|s| !s.is_available());
        if opener == Opener::UdpDatagram && !gone() {
            return;
        }

        self.counters.count(Event::Matched);
        match matched(ipvs, state, packet, transport, opener, template, &conn) {
            Ok(evicted) => {
                self.counters.count(evicted);
                trace::evict(&conn, evicted.name());
            }
            Err(left) => {
                self.counters.count(left);
                trace::leave(&conn, left.name());
            }
        }
    }
}

/// The way of a packet that opens a flow and matches an old entry: what was done, or as error
/// why nothing was.
fn matched(
    ipvs: &Ipvs,
    state: &HookState,
    packet: &Packet,
    transport: Transport,
    opener: Opener,
    template: Option<&Template>,
    conn: &Conn,
) -> Result<Event, Event> {
    let reason = match decide(&situation(ipvs, opener, conn)) {
        Verdict::Evict(reason) => reason,
        Verdict::Leave(kept) => return Err(kept.into()),
    };
    if !state.checksum_is_good(packet, transport) {
        return Err(Event::LeftBadChecksum);
    }
    let conntrack = Conntrack::find(state, packet, template).ok_or(Event::LeftNoConntrack)?;

    if conntrack.direction() != Direction::Original {
        Err(Event::LeftReply)
    } else if conntrack.is_expected() {
        Err(Event::LeftExpected)
    } else if conntrack.is_dying() {
        Err(Event::LeftDying)
    } else {
        conntrack.kill();
        Ok(Event::evicted(opener, reason))
    }
}

/// Reads all that the decision depends on, each once.
fn situation(ipvs: &Ipvs, opener: Opener, conn: &Conn) -> Situation {
    Situation {
        opener,
        entry: Entry {
            phase: conn.phase(),
            one_way: conn.is_one_way(),
            controlled: conn.is_controlled(),
            controlling: conn.is_controlling(),
        },
        server: conn.destination().map(|server| Server {
            drained: server.weight() == 0,
            available: server.is_available(),
        }),
        settings: Settings {
            conn_reuse_mode: ipvs.conn_reuse_mode(),
            expire_nodest_conn: ipvs.expire_nodest_conn(),
        },
    }
}
