// SPDX-License-Identifier: GPL-2.0

//! What a record of the BPF programs means: whose packet was dropped, replayed or misdirected, and
//! why. If IPVS dropped it, the reason is what the module's policy says about the state that IPVS
//! found. Pure.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Serialize, Serializer};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::policy::{
    reschedules, ConnState, DestState, FirstPacket, LeaveReason, Phase, Settings, Situation,
};

/// `struct record` of bpf/record.h. Ports are in network byte order.
#[derive(Clone, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    time: u64,
    netns: u32,
    kind: u8,
    protocol: u8,
    af: u8,
    daf: u8,
    client: [u8; 16],
    virtual_: [u8; 16],
    server: [u8; 16],
    cport: [u8; 2],
    vport: [u8; 2],
    dport: [u8; 2],
    state: u16,
    flags: u32,
    known: u32,
    weight: i32,
    conn_reuse_mode: i32,
    expire_nodest_conn: i32,
    ct_status: u32,
    ct_state: u32,
    unused: u32,
    reason: [u8; 32],
}

// enum kind
const DROP: u8 = 1;
const REPLAY: u8 = 2;
const CLASH: u8 = 3;
const DIRECT: u8 = 4;
const OTHER_SERVICE: u8 = 5;

// Bits of `known`
const ENTRY: u32 = 1;
const CONTROLLED: u32 = 2;
const CONTROLLING: u32 = 4;
const SERVER: u32 = 8;
const AVAILABLE: u32 = 16;
const CONNTRACK: u32 = 32;
const UNSCHEDULED: u32 = 64;

const AF_INET6: u8 = 10;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_SCTP: u8 = 132;

// include/uapi/linux/ip_vs.h
const IP_VS_CONN_F_NOOUTPUT: u32 = 0x0080;
const IP_VS_CONN_F_NFCT: u32 = 1 << 16;

// include/uapi/linux/netfilter/nf_conntrack_common.h
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_ASSURED: u32 = 1 << 2;
const IPS_CONFIRMED: u32 = 1 << 3;

/// As `ipvsadm -Lc` shows them.
const IPVS_TCP: [&str; 11] = [
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
];
const IPVS_UDP: [&str; 1] = ["UDP"];
const IPVS_SCTP: [&str; 14] = [
    "NONE",
    "INIT1",
    "INIT",
    "C-SENT",
    "C-REPLIED",
    "C-WAIT",
    "COOKIE",
    "C-ECHOED",
    "ESTABLISHED",
    "S-SENT",
    "S-RECEIVED",
    "S-ACK-SENT",
    "REJECTED",
    "CLOSED",
];

/// As `conntrack -L` shows them.
const CONNTRACK_TCP: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];
const CONNTRACK_SCTP: [&str; 9] = [
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
];

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It would have opened a flow, and IPVS or conntrack dropped it.
    Drop,
    /// It opens a flow, and the module ip_vs_reuse replayed it.
    Replay,
    /// It is an answer, and IPVS gave it a source address that its client has not addressed.
    Misdirect,
}

impl What {
    /// One word for programs.
    pub fn token(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Replay => "replay",
            Self::Misdirect => "misdirect",
        }
    }
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The old connection has ended, and its conntrack is still there.
    Closed,
    /// The old real server has weight 0, and the conntrack is still there.
    Drained,
    /// The old real server has left the service, and the conntrack is still there.
    Gone,
    /// The old real server has left the service, and IPVS keeps the entry.
    Unavailable,
    /// No real server could be chosen.
    NotScheduled,
    /// The service has no scheduler, as while it is given another one.
    NoScheduler,
    /// Conntrack has another connection of this port to the real server.
    Clash,
    /// None of these.
    Other,
    /// The client has addressed the real server itself.
    Direct,
    /// The client has addressed another service with the same real server.
    OtherService,
}

impl Reason {
    pub const ALL: [Self; 10] = [
        Self::Closed,
        Self::Drained,
        Self::Gone,
        Self::Unavailable,
        Self::NotScheduled,
        Self::NoScheduler,
        Self::Clash,
        Self::Other,
        Self::Direct,
        Self::OtherService,
    ];

    /// Whether this is a reason for which packets are misdirected, not dropped.
    pub fn misdirects(self) -> bool {
        matches!(self, Self::Direct | Self::OtherService)
    }

    /// One word for programs.
    pub fn token(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Drained => "drained",
            Self::Gone => "gone",
            Self::Unavailable => "unavailable",
            Self::NotScheduled => "not_scheduled",
            Self::NoScheduler => "no_scheduler",
            Self::Clash => "clash",
            Self::Other => "other",
            Self::Direct => "direct",
            Self::OtherService => "other_service",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.token())
    }
}

impl From<crate::policy::ReplayReason> for Reason {
    fn from(reason: crate::policy::ReplayReason) -> Self {
        match reason {
            crate::policy::ReplayReason::Closed => Self::Closed,
            crate::policy::ReplayReason::Drained => Self::Drained,
            crate::policy::ReplayReason::Gone => Self::Gone,
        }
    }
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub what: What,
    /// Nanoseconds of the monotonic clock.
    pub monotonic: u64,
    /// The network namespace's inode number.
    pub netns: u32,
    pub protocol: Cow<'static, str>,
    pub client: SocketAddr,
    pub virtual_service: SocketAddr,
    /// The real server that the old flow went to. Of a clash, that of both flows.
    pub server: Option<SocketAddr>,
    pub ipvs_state: Option<Cow<'static, str>>,
    pub conntrack_state: Option<Cow<'static, str>>,
    pub reason: Reason,
}

impl Event {
    /// `None` if the bytes are not a record of this program's BPF programs.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let record = Record::read_from_bytes(bytes).ok()?;
        let (what, reason) = match record.kind {
            DROP => (What::Drop, record.why_dropped()),
            REPLAY => (What::Replay, record.why_replayed()),
            CLASH => (What::Drop, Reason::Clash),
            DIRECT => (What::Misdirect, Reason::Direct),
            OTHER_SERVICE => (What::Misdirect, Reason::OtherService),
            _ => return None,
        };
        Some(Self {
            what,
            monotonic: record.time,
            netns: record.netns,
            protocol: record.protocol_name(),
            client: address(record.af, record.client, record.cport),
            virtual_service: address(record.af, record.virtual_, record.vport),
            // The entry has the address even after it has lost its reference to the server.
            server: (record.has(ENTRY) || record.kind == CLASH)
                .then(|| address(record.daf, record.server, record.dport)),
            ipvs_state: record.has(ENTRY).then(|| record.ipvs_state()),
            conntrack_state: record.has(CONNTRACK).then(|| record.conntrack_state()),
            reason,
        })
    }
}

impl Record {
    fn has(&self, known: u32) -> bool {
        self.known & known != 0
    }

    fn why_dropped(&self) -> Reason {
        if !self.has(ENTRY) {
            return self.why_not_scheduled();
        }
        let Some(situation) = self.situation() else {
            return Reason::Other;
        };
        match reschedules(&situation) {
            // As ip_vs_conn_uses_old_conntrack() tests it.
            Ok(reason) if self.has(CONNTRACK) && self.ct_status & IPS_CONFIRMED != 0 => {
                reason.into()
            }
            // The entry was given up, and no server could be chosen.
            Ok(_) => self.why_not_scheduled(),
            Err(LeaveReason::Unavailable) => Reason::Unavailable,
            Err(_) => Reason::Other,
        }
    }

    fn why_not_scheduled(&self) -> Reason {
        match self.has(UNSCHEDULED) {
            true => Reason::NoScheduler,
            false => Reason::NotScheduled,
        }
    }

    /// The reason in the name of the module's counter, such as `replayed_tcp_closed`.
    fn why_replayed(&self) -> Reason {
        let end = self.reason.iter().position(|&byte| byte == 0);
        let name = &self.reason[..end.unwrap_or(self.reason.len())];
        Reason::ALL
            .into_iter()
            .find(|reason| name.ends_with(reason.token().as_bytes()))
            .unwrap_or(Reason::Other)
    }

    fn situation(&self) -> Option<Situation> {
        Some(Situation {
            packet: match self.protocol {
                IPPROTO_TCP => FirstPacket::TcpSyn,
                IPPROTO_SCTP => FirstPacket::SctpInit,
                IPPROTO_UDP => FirstPacket::UdpDatagram,
                _ => return None,
            },
            conn: ConnState {
                phase: match (self.protocol, self.ipvs_state().as_ref()) {
                    (IPPROTO_TCP, "TIME_WAIT" | "CLOSE") | (IPPROTO_SCTP, "CLOSED") => {
                        Phase::Closed
                    }
                    (IPPROTO_TCP, "FIN_WAIT") => Phase::HalfClosed,
                    _ => Phase::Open,
                },
                one_way: self.flags & IP_VS_CONN_F_NOOUTPUT != 0,
                controlled: self.has(CONTROLLED),
                controlling: self.has(CONTROLLING),
                tracked: self.flags & IP_VS_CONN_F_NFCT != 0,
            },
            dest: self.has(SERVER).then(|| DestState {
                drained: self.weight == 0,
                available: self.has(AVAILABLE),
            }),
            settings: Settings {
                conn_reuse_mode: self.conn_reuse_mode,
                expire_nodest_conn: self.expire_nodest_conn != 0,
            },
        })
    }

    fn protocol_name(&self) -> Cow<'static, str> {
        match self.protocol {
            IPPROTO_TCP => "TCP".into(),
            IPPROTO_UDP => "UDP".into(),
            IPPROTO_SCTP => "SCTP".into(),
            number => number.to_string().into(),
        }
    }

    fn ipvs_state(&self) -> Cow<'static, str> {
        let names: &[_] = match self.protocol {
            IPPROTO_TCP => &IPVS_TCP,
            IPPROTO_UDP => &IPVS_UDP,
            IPPROTO_SCTP => &IPVS_SCTP,
            _ => &[],
        };
        name(names, self.state.into())
    }

    /// `NEW` for one that was created for this packet. UDP has no states, only flags.
    fn conntrack_state(&self) -> Cow<'static, str> {
        let names: &[_] = match self.protocol {
            _ if self.ct_status & IPS_CONFIRMED == 0 => return "NEW".into(),
            IPPROTO_TCP => &CONNTRACK_TCP,
            IPPROTO_SCTP => &CONNTRACK_SCTP,
            _ if self.ct_status & IPS_ASSURED != 0 => return "ASSURED".into(),
            _ if self.ct_status & IPS_SEEN_REPLY != 0 => return "SEEN_REPLY".into(),
            _ => return "UNREPLIED".into(),
        };
        name(names, self.ct_state)
    }
}

/// The name of a state, or its number if a later kernel has added it.
fn name(names: &[&'static str], state: u32) -> Cow<'static, str> {
    match names.get(state as usize) {
        Some(name) => (*name).into(),
        None => state.to_string().into(),
    }
}

fn address(family: u8, bytes: [u8; 16], port: [u8; 2]) -> SocketAddr {
    let ip: IpAddr = match (family, bytes) {
        (AF_INET6, bytes) => Ipv6Addr::from(bytes).into(),
        (_, [a, b, c, d, ..]) => [a, b, c, d].into(),
    };
    (ip, u16::from_be_bytes(port)).into()
}

#[cfg(test)]
impl Event {
    /// The drop that the tests go by.
    pub fn closed() -> Self {
        Self {
            what: What::Drop,
            monotonic: 0,
            netns: 4_026_532_008,
            protocol: "TCP".into(),
            client: "10.0.0.2:20001".parse().unwrap(),
            virtual_service: "10.9.0.1:80".parse().unwrap(),
            server: Some("10.2.1.2:80".parse().unwrap()),
            ipvs_state: Some("CLOSE".into()),
            conntrack_state: Some("CLOSE".into()),
            reason: Reason::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// A SYN from 10.0.0.2:20001 to 10.9.0.1:80 that matches a closed flow to 10.2.1.2:80, and
    /// carries its conntrack. Laid out by hand as in bpf/record.h.
    fn closed() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(1_000_000_007_u64.to_ne_bytes());
        bytes.extend(4_026_532_008_u32.to_ne_bytes());
        bytes.extend([DROP, IPPROTO_TCP, 2, 2]);
        for address in [[10, 0, 0, 2], [10, 9, 0, 1], [10, 2, 1, 2]] {
            bytes.extend(address);
            bytes.extend([0; 12]);
        }
        for port in [20001_u16, 80, 80] {
            bytes.extend(port.to_be_bytes());
        }
        bytes.extend(6_u16.to_ne_bytes());
        for word in [
            0, // flags
            ENTRY | SERVER | AVAILABLE | CONNTRACK,
            1, // weight
            1, // conn_reuse_mode
            0, // expire_nodest_conn
            IPS_CONFIRMED | IPS_ASSURED | IPS_SEEN_REPLY,
            8, // CLOSE
            0,
        ] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([0; 32]);
        bytes
    }

    fn record() -> Record {
        Record::read_from_bytes(&closed()).unwrap()
    }

    fn why(change: impl FnOnce(&mut Record)) -> Reason {
        let mut record = record();
        change(&mut record);
        record.why_dropped()
    }

    #[test]
    fn the_layout_is_that_of_record_h() {
        assert_eq!(size_of::<Record>(), 136);
        assert_eq!(offset_of!(Record, kind), 12);
        assert_eq!(offset_of!(Record, client), 16);
        assert_eq!(offset_of!(Record, cport), 64);
        assert_eq!(offset_of!(Record, state), 70);
        assert_eq!(offset_of!(Record, known), 76);
        assert_eq!(offset_of!(Record, ct_state), 96);
        assert_eq!(offset_of!(Record, reason), 104);
    }

    #[test]
    fn a_drop_is_decoded() {
        let event = Event::from_bytes(&closed()).unwrap();
        assert_eq!(
            event,
            Event {
                monotonic: 1_000_000_007,
                ..Event::closed()
            }
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        let mut bytes = closed();
        assert!(Event::from_bytes(&bytes[..100]).is_none());
        bytes[12] = 7;
        assert!(Event::from_bytes(&bytes).is_none());
    }

    #[test]
    fn a_server_may_be_of_the_other_family() {
        let mut bytes = closed();
        bytes[15] = AF_INET6;
        bytes[48..64].copy_from_slice(&"fd00:2:1::2".parse::<Ipv6Addr>().unwrap().octets());
        let event = Event::from_bytes(&bytes).unwrap();
        assert_eq!(event.server, "[fd00:2:1::2]:80".parse().ok());
        assert_eq!(event.client, "10.0.0.2:20001".parse().unwrap());
    }

    #[test]
    fn a_conntrack_is_the_reason_only_if_it_is_confirmed() {
        assert_eq!(why(|_| {}), Reason::Closed);
        assert_eq!(why(|r| r.ct_status = 0), Reason::NotScheduled);
        assert_eq!(why(|r| r.known &= !CONNTRACK), Reason::NotScheduled);
    }

    #[test]
    fn the_reason_is_the_policys() {
        let drained = |r: &mut Record| {
            r.weight = 0;
            r.expire_nodest_conn = 1;
        };
        assert_eq!(why(drained), Reason::Drained);
        let open = |r: &mut Record| r.state = 1;
        assert_eq!(why(open), Reason::Other);
        let gone = |r: &mut Record| {
            open(r);
            r.known &= !AVAILABLE;
            r.expire_nodest_conn = 1;
        };
        assert_eq!(why(gone), Reason::Gone);
        let unavailable = |r: &mut Record| {
            gone(r);
            r.expire_nodest_conn = 0;
        };
        assert_eq!(why(unavailable), Reason::Unavailable);
        assert_eq!(why(|r| r.known |= CONTROLLED), Reason::Other);
        assert_eq!(why(|r| r.known |= CONTROLLING), Reason::Other);
        assert_eq!(why(|r| r.conn_reuse_mode = 0), Reason::Other);
        let half_closed = |r: &mut Record| {
            r.state = 4;
            r.conn_reuse_mode = 3;
        };
        assert_eq!(why(half_closed), Reason::Other);
        let one_way = |r: &mut Record| {
            half_closed(r);
            r.flags = 0x0183; // INACTIVE, NOOUTPUT, DROUTE
        };
        assert_eq!(why(one_way), Reason::Closed);
        // conn_reuse_mode applies to entries without a server, too.
        assert_eq!(why(|r| r.known &= !SERVER), Reason::Closed);
    }

    #[test]
    fn without_an_entry_there_is_no_server_and_no_state() {
        let mut bytes = closed();
        bytes[76..80].copy_from_slice(&CONNTRACK.to_ne_bytes());
        bytes[92..96].copy_from_slice(&0_u32.to_ne_bytes());
        let event = Event::from_bytes(&bytes).unwrap();
        assert_eq!(event.reason, Reason::NotScheduled);
        assert_eq!((event.server, event.ipvs_state), (None, None));
        assert_eq!(event.conntrack_state.as_deref(), Some("NEW"));
    }

    #[test]
    fn a_service_may_have_no_scheduler() {
        assert_eq!(
            why(|r| r.known = CONNTRACK | UNSCHEDULED),
            Reason::NoScheduler
        );
        // It had an entry whose server is drained, and no stale conntrack.
        let given_up = |r: &mut Record| {
            r.known |= UNSCHEDULED;
            r.ct_status = 0;
        };
        assert_eq!(why(given_up), Reason::NoScheduler);
        assert_eq!(why(|r| r.known |= UNSCHEDULED), Reason::Closed);
    }

    #[test]
    fn a_clash_has_a_server_and_no_entry() {
        let mut bytes = closed();
        bytes[12] = CLASH;
        bytes[76..80].copy_from_slice(&CONNTRACK.to_ne_bytes());
        bytes[92..96].copy_from_slice(&0_u32.to_ne_bytes());
        let event = Event::from_bytes(&bytes).unwrap();
        assert_eq!((event.what, event.reason), (What::Drop, Reason::Clash));
        assert_eq!(event.server, "10.2.1.2:80".parse().ok());
        assert_eq!(event.ipvs_state, None);
        assert_eq!(event.conntrack_state.as_deref(), Some("NEW"));
    }

    #[test]
    fn a_misdirected_answer_has_the_entry_that_it_was_translated_by() {
        for (kind, reason) in [
            (DIRECT, Reason::Direct),
            (OTHER_SERVICE, Reason::OtherService),
        ] {
            let mut bytes = closed();
            bytes[12] = kind;
            let event = Event::from_bytes(&bytes).unwrap();
            assert_eq!((event.what, event.reason), (What::Misdirect, reason));
            assert!(reason.misdirects());
            assert_eq!(event.server, "10.2.1.2:80".parse().ok());
            assert_eq!(event.ipvs_state.as_deref(), Some("CLOSE"));
        }
    }

    #[test]
    fn reasons_are_counted_by_their_place() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }

    #[test]
    fn udp_and_sctp_have_their_own_states() {
        let state = |protocol, state, ct_state, ct_status| {
            let record = Record {
                protocol,
                state,
                ct_state,
                ct_status: ct_status | IPS_CONFIRMED,
                ..record()
            };
            format!("{} {}", record.ipvs_state(), record.conntrack_state())
        };
        assert_eq!(state(IPPROTO_UDP, 0, 0, 0), "UDP UNREPLIED");
        assert_eq!(state(IPPROTO_UDP, 0, 0, IPS_SEEN_REPLY), "UDP SEEN_REPLY");
        let assured = IPS_SEEN_REPLY | IPS_ASSURED;
        assert_eq!(state(IPPROTO_UDP, 0, 0, assured), "UDP ASSURED");
        assert_eq!(state(IPPROTO_SCTP, 13, 1, 0), "CLOSED CLOSED");
        assert_eq!(state(IPPROTO_SCTP, 99, 98, 0), "99 98");
    }

    #[test]
    fn replays_have_the_counters_reason() {
        let reason = |name: &str| {
            let mut bytes = closed();
            bytes[12] = REPLAY;
            bytes[104..104 + name.len()].copy_from_slice(name.as_bytes());
            let event = Event::from_bytes(&bytes).unwrap();
            assert_eq!(event.what, What::Replay);
            event.reason
        };
        assert_eq!(reason("replayed_tcp_closed"), Reason::Closed);
        assert_eq!(reason("replayed_sctp_drained"), Reason::Drained);
        assert_eq!(reason("replayed_udp_gone"), Reason::Gone);
        assert_eq!(reason("replayed_by_a_later_version"), Reason::Other);
    }
}
