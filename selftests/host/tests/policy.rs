// SPDX-License-Identifier: GPL-2.0

//! `policy::reschedules` agrees with stock IPVS about every packet that may open a flow, and
//! `policy::decide` excludes from that what must not be replayed.
//!
//! The oracle runs `ip_vs_in_hook()` (net/netfilter/ipvs/ip_vs_core.c, Linux 7.3) from the lookup
//! of the entry on, statement by statement, over what the kernel works with: protocol numbers,
//! states, flag words, sysctls as they are written. It does not use the policy's terms.
//! [`situation`] translates the former into the latter, as the module's hook must.

use host::policy::{
    decide, reschedules, ConnState, DestState, FirstPacket, LeaveReason, Phase, ReplayReason,
    Settings, Situation,
};
use std::collections::BTreeSet;

// include/uapi/linux/in.h, include/linux/sctp.h
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_SCTP: u8 = 132;
const SCTP_CID_INIT: u8 = 1;

// include/net/ip_vs.h: the states in the order in which they are numbered there.
const IP_VS_TCP_S_FIN_WAIT: u16 = 4;
const IP_VS_TCP_S_TIME_WAIT: u16 = 5;
const IP_VS_TCP_S_CLOSE: u16 = 6;
const IP_VS_TCP_S_LAST: u16 = 11;
const IP_VS_UDP_S_LAST: u16 = 1;
const IP_VS_SCTP_S_CLOSED: u16 = 13;
const IP_VS_SCTP_S_LAST: u16 = 14;
const IP_VS_DEST_CF_AVAILABLE: u32 = 0x0001;

// include/uapi/linux/ip_vs.h
const IP_VS_CONN_F_DROUTE: u32 = 0x0003;
const IP_VS_CONN_F_NOOUTPUT: u32 = 0x0080;
const IP_VS_CONN_F_INACTIVE: u32 = 0x0100;
const IP_VS_CONN_F_NFCT: u32 = 1 << 16;

/// `struct sk_buff`: what the function reads of it.
#[derive(Clone, Copy, Debug)]
struct Skb {
    protocol: u8,
    fragoffs: u16,
    syn: bool,
    ack: bool,
    rst: bool,
    fin: bool,
    chunk_type: u8,
    /// Its conntrack is confirmed: `ip_vs_conn_uses_old_conntrack()`.
    old_conntrack: bool,
}

/// `struct ip_vs_dest`.
#[derive(Clone, Copy, Debug)]
struct Dest {
    weight: i32,
    cflags: u32,
}

/// `struct ip_vs_conn`.
#[derive(Clone, Copy, Debug)]
struct Conn {
    protocol: u8,
    state: u16,
    flags: u32,
    control: bool,
    n_control: i32,
    dest: Option<Dest>,
}

/// `struct netns_ipvs`.
#[derive(Clone, Copy, Debug)]
struct Ipvs {
    sysctl_conn_reuse_mode: i32,
    sysctl_expire_nodest_conn: i32,
}

#[derive(Clone, Copy, Debug)]
struct Raw {
    ipvs: Ipvs,
    skb: Skb,
    cp: Conn,
}

/// The branch in which the function drops a packet, or gives an entry up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Branch {
    /// `expire_nodest_conn` and a weight of 0.
    Weight,
    /// `conn_reuse_mode`.
    Reuse,
    /// `expire_nodest_conn` and not `IP_VS_DEST_CF_AVAILABLE`.
    Status,
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It goes to the real server of the old entry.
    Kept,
    /// The same, but only because a controlling entry must not lose its conntrack.
    KeptForControl,
    /// A new entry is scheduled.
    Scheduled(Branch),
    /// It is dropped: it carries the conntrack of the old flow.
    DroppedForConntrack(Branch),
    /// It is dropped: the real server is not available.
    DroppedUnavailable,
}

/// The statements of `ip_vs_in_hook()` that matter.
#[derive(Clone, Copy)]
enum Statement {
    IfNewConn,
    IfWeightZero,
    IfReuse,
    IfControlling,
    Resched(Branch),
    IfUnavailable,
    IfExpireNodest,
    Transmit,
}

fn is_new_conn(skb: &Skb) -> bool {
    match skb.protocol {
        IPPROTO_TCP => skb.syn,
        IPPROTO_SCTP => skb.chunk_type == SCTP_CID_INIT,
        _ => false,
    }
}

fn is_new_conn_expected(cp: &Conn, conn_reuse_mode: i32) -> bool {
    if cp.control {
        return false;
    }
    match cp.protocol {
        IPPROTO_TCP => {
            cp.state == IP_VS_TCP_S_TIME_WAIT
                || cp.state == IP_VS_TCP_S_CLOSE
                || (conn_reuse_mode & 2 != 0
                    && cp.state == IP_VS_TCP_S_FIN_WAIT
                    && cp.flags & IP_VS_CONN_F_NOOUTPUT != 0)
        }
        IPPROTO_SCTP => cp.state == IP_VS_SCTP_S_CLOSED,
        _ => false,
    }
}

/// Stock IPVS, with the entry found.
fn ip_vs_in_hook(Raw { ipvs, skb, cp }: &Raw) -> Fate {
    let expire_nodest_conn = ipvs.sysctl_expire_nodest_conn != 0;
    let conn_reuse_mode = ipvs.sysctl_conn_reuse_mode;
    let mut spared = false;
    let mut next = Statement::IfNewConn;

    loop {
        next = match next {
            Statement::IfNewConn => {
                if skb.fragoffs == 0 && is_new_conn(skb) {
                    Statement::IfWeightZero
                } else {
                    Statement::IfUnavailable
                }
            }
            Statement::IfWeightZero => match cp.dest {
                Some(Dest { weight: 0, .. }) if expire_nodest_conn => {
                    Statement::Resched(Branch::Weight)
                }
                _ => Statement::IfReuse,
            },
            Statement::IfReuse => {
                if conn_reuse_mode != 0 && is_new_conn_expected(cp, conn_reuse_mode) {
                    Statement::IfControlling
                } else {
                    Statement::IfUnavailable
                }
            }
            Statement::IfControlling => {
                spared = cp.n_control != 0 && skb.old_conntrack;
                if spared {
                    Statement::IfUnavailable
                } else {
                    Statement::Resched(Branch::Reuse)
                }
            }
            Statement::Resched(branch) => {
                return if skb.old_conntrack {
                    Fate::DroppedForConntrack(branch)
                } else {
                    Fate::Scheduled(branch)
                };
            }
            Statement::IfUnavailable => match cp.dest {
                Some(dest) if dest.cflags & IP_VS_DEST_CF_AVAILABLE == 0 => {
                    Statement::IfExpireNodest
                }
                _ => Statement::Transmit,
            },
            Statement::IfExpireNodest => {
                if !expire_nodest_conn {
                    return Fate::DroppedUnavailable;
                }
                Statement::Resched(Branch::Status)
            }
            Statement::Transmit => {
                return if spared {
                    Fate::KeptForControl
                } else {
                    Fate::Kept
                };
            }
        }
    }
}

/// The policy's view of it; `None` where the module does not ask the policy.
fn situation(Raw { ipvs, skb, cp }: &Raw) -> Option<Situation> {
    let packet = match skb.protocol {
        _ if skb.fragoffs != 0 => return None,
        IPPROTO_TCP if skb.syn && !(skb.ack || skb.rst || skb.fin) => FirstPacket::TcpSyn,
        IPPROTO_SCTP if skb.chunk_type == SCTP_CID_INIT => FirstPacket::SctpInit,
        IPPROTO_UDP => FirstPacket::UdpDatagram,
        _ => return None,
    };
    let phase = match (cp.protocol, cp.state) {
        (IPPROTO_TCP, IP_VS_TCP_S_TIME_WAIT | IP_VS_TCP_S_CLOSE) => Phase::Closed,
        (IPPROTO_SCTP, IP_VS_SCTP_S_CLOSED) => Phase::Closed,
        (IPPROTO_TCP, IP_VS_TCP_S_FIN_WAIT) => Phase::HalfClosed,
        _ => Phase::Open,
    };
    Some(Situation {
        packet,
        conn: ConnState {
            phase,
            one_way: cp.flags & IP_VS_CONN_F_NOOUTPUT != 0,
            controlled: cp.control,
            controlling: cp.n_control != 0,
            tracked: cp.flags & IP_VS_CONN_F_NFCT != 0,
        },
        dest: cp.dest.map(|dest| DestState {
            drained: dest.weight == 0,
            available: dest.cflags & IP_VS_DEST_CF_AVAILABLE != 0,
        }),
        settings: Settings {
            conn_reuse_mode: ipvs.sysctl_conn_reuse_mode,
            expire_nodest_conn: ipvs.sysctl_expire_nodest_conn != 0,
        },
    })
}

const MODES: [i32; 8] = [-1, 0, 1, 2, 3, 4, 6, i32::MIN];
const BOOLS: [bool; 2] = [false, true];

/// Every packet of the three protocols that matches an entry, with a confirmed conntrack.
fn packets() -> Vec<Skb> {
    let plain = Skb {
        protocol: IPPROTO_UDP,
        fragoffs: 0,
        syn: false,
        ack: false,
        rst: false,
        fin: false,
        chunk_type: 0,
        old_conntrack: true,
    };
    let mut all = Vec::new();

    for fragoffs in [0, 185] {
        let plain = Skb { fragoffs, ..plain };
        all.push(plain);
        all.extend((0..16).map(|flags| Skb {
            protocol: IPPROTO_TCP,
            syn: flags & 1 != 0,
            ack: flags & 2 != 0,
            rst: flags & 4 != 0,
            fin: flags & 8 != 0,
            ..plain
        }));
        all.extend(
            (0..=u8::MAX)
                .step_by(15)
                .chain([1, 2])
                .map(|chunk_type| Skb {
                    protocol: IPPROTO_SCTP,
                    chunk_type,
                    ..plain
                }),
        );
    }
    all
}

/// Calls `check` with every packet, entry, real server and settings.
fn for_each_raw(mut check: impl FnMut(Raw)) {
    let mut dests = vec![None];
    for weight in [0, 1, i32::MAX] {
        // The other bits of `cflags` mean nothing here.
        for cflags in [0, 1, 2, 3] {
            dests.push(Some(Dest { weight, cflags }));
        }
    }
    let flags = [
        0,
        IP_VS_CONN_F_NFCT | IP_VS_CONN_F_INACTIVE,
        IP_VS_CONN_F_NOOUTPUT,
        IP_VS_CONN_F_NOOUTPUT | IP_VS_CONN_F_DROUTE | IP_VS_CONN_F_NFCT,
    ];

    for skb in packets() {
        let protocol = skb.protocol;
        let states = match protocol {
            IPPROTO_TCP => IP_VS_TCP_S_LAST,
            IPPROTO_SCTP => IP_VS_SCTP_S_LAST,
            _ => IP_VS_UDP_S_LAST,
        };
        for state in 0..states {
            for flags in flags {
                for (control, n_control) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
                    for &dest in &dests {
                        for sysctl_conn_reuse_mode in MODES {
                            for sysctl_expire_nodest_conn in [0, 1, 2] {
                                check(Raw {
                                    ipvs: Ipvs {
                                        sysctl_conn_reuse_mode,
                                        sysctl_expire_nodest_conn,
                                    },
                                    skb,
                                    cp: Conn {
                                        protocol,
                                        state,
                                        flags,
                                        control,
                                        n_control,
                                        dest,
                                    },
                                });
                            }
                        }
                    }
                }
            }
        }
    }
}

// The number of cases, so that none gets lost unnoticed. Counted by hand: 4 flag words, 4 kinds of
// control, 13 servers (12 real), 8 modes, 3 values of expire_nodest_conn, and 11 TCP, 14 SCTP and 1
// UDP states, each with one packet that opens a flow.
const CASES: u32 = (11 + 14 + 1) * 4 * 4 * 13 * 8 * 3;

/// A choice of entries, to count those of them that are given up.
#[derive(Clone, Copy)]
struct Count {
    /// Flag words, of which half have `NOOUTPUT`.
    flags: u32,
    /// Kinds of control.
    controls: u32,
    /// How many of these have neither `control` nor `n_control`.
    free: u32,
}

impl Count {
    /// All entries.
    const DROPS: Self = Self {
        flags: 4,
        controls: 4,
        free: 1,
    };
    /// With `NFCT`, and without `n_control`.
    const REPLAYS: Self = Self {
        flags: 2,
        controls: 2,
        free: 1,
    };
    /// Without `NFCT`, and without `n_control`.
    const UNTRACKED: Self = Self::REPLAYS;
    /// With `n_control`.
    const CONTROLLING: Self = Self {
        flags: 4,
        controls: 2,
        free: 0,
    };

    /// Entries in so many states, in all modes.
    const fn entries(self, states: u32) -> u32 {
        states * self.flags * self.controls * 8
    }

    /// Gone, and nothing else: 6 servers are not available, 2 values of expire_nodest_conn.
    const fn by_status(self, states: u32) -> u32 {
        self.entries(states) * 6 * 2
    }

    /// Mode not 0 and neither control: TCP `TIME_WAIT` and `CLOSE`; `FIN_WAIT` in 4 modes (2, 3, 6 and
    /// -1) and with `NOOUTPUT`.
    const fn tcp_closed(self) -> u32 {
        self.free * (2 * self.flags * 7 + self.flags / 2 * 4)
    }

    /// The same for SCTP `CLOSED`.
    const fn sctp_closed(self) -> u32 {
        self.free * self.flags * 7
    }

    /// By weight: 4 servers, 2 values of expire_nodest_conn. By reuse: all other pairs of the two,
    /// and no server too. By status: what is not by reuse, 4 servers that have weight, 2 values.
    const fn first_packets(self, states: u32, closed: u32) -> u32 {
        let (by_weight, by_status) = (4 * 2, 4 * 2);
        let all = self.entries(states);
        all * by_weight + closed * (13 * 3 - by_weight) + (all - closed) * by_status
    }

    const fn tcp(self) -> u32 {
        self.first_packets(11, self.tcp_closed())
    }

    const fn all(self) -> u32 {
        self.tcp() + self.first_packets(14, self.sctp_closed()) + self.by_status(1)
    }
}

const DROPS: u32 = Count::DROPS.all();
const REPLAYS: u32 = Count::REPLAYS.all();
const UNTRACKED: u32 = Count::UNTRACKED.all();
const CONTROLLING: u32 = Count::CONTROLLING.all();
const _: () = assert!(DROPS == REPLAYS + UNTRACKED + CONTROLLING);
/// With 16 combinations of TCP flags, 20 types of SCTP chunks.
const FRAGMENTS: u32 =
    16 * Count::DROPS.by_status(11) + 20 * Count::DROPS.by_status(14) + Count::DROPS.by_status(1);
/// Of the TCP segments, 8 have SYN, and 7 of these another flag.
const ODD_SYNS: u32 = 7 * Count::DROPS.tcp();
const OTHER_PACKETS: u32 = 8 * Count::DROPS.by_status(11) + 19 * Count::DROPS.by_status(14);

/// What the policy must say about a packet with a confirmed conntrack, given what stock does.
fn expected(raw: &Raw) -> Result<ReplayReason, LeaveReason> {
    match ip_vs_in_hook(raw) {
        Fate::DroppedForConntrack(Branch::Weight) => Ok(ReplayReason::Drained),
        Fate::DroppedForConntrack(Branch::Reuse) => Ok(ReplayReason::Closed),
        Fate::DroppedForConntrack(Branch::Status) => Ok(ReplayReason::Gone),
        Fate::DroppedUnavailable => Err(LeaveReason::Unavailable),
        Fate::KeptForControl => Err(LeaveReason::Controlling),
        Fate::Kept => Err(LeaveReason::InUse),
        Fate::Scheduled(_) => unreachable!("its conntrack is confirmed"),
    }
}

/// What is not replayed although stock drops it: `ip_vs_conn_expire()` does not kill the conntrack
/// of these entries, or not yet.
fn excluded(cp: &Conn) -> Option<LeaveReason> {
    if cp.n_control != 0 {
        Some(LeaveReason::Controlling)
    } else if cp.flags & IP_VS_CONN_F_NFCT == 0 {
        Some(LeaveReason::Untracked)
    } else {
        None
    }
}

/// Every value that the policy can be given, with the modes above.
fn all_situations() -> Vec<Situation> {
    let mut dests = vec![None];
    for drained in BOOLS {
        for available in BOOLS {
            dests.push(Some(DestState { drained, available }));
        }
    }
    let mut all = Vec::new();
    for packet in [
        FirstPacket::TcpSyn,
        FirstPacket::SctpInit,
        FirstPacket::UdpDatagram,
    ] {
        for phase in [Phase::Closed, Phase::HalfClosed, Phase::Open] {
            for flags in 0..16 {
                for &dest in &dests {
                    for conn_reuse_mode in MODES {
                        for expire_nodest_conn in BOOLS {
                            all.push(Situation {
                                packet,
                                conn: ConnState {
                                    phase,
                                    one_way: flags & 1 != 0,
                                    controlled: flags & 2 != 0,
                                    controlling: flags & 4 != 0,
                                    tracked: flags & 8 != 0,
                                },
                                dest,
                                settings: Settings {
                                    conn_reuse_mode,
                                    expire_nodest_conn,
                                },
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

fn name(situation: &Situation) -> String {
    format!("{situation:?}")
}

#[test]
fn gives_the_entry_up_exactly_where_stock_drops_a_packet_for_its_conntrack() {
    let (mut cases, mut drops) = (0u32, 0u32);
    let mut seen = BTreeSet::new();

    for_each_raw(|raw| {
        let Some(situation) = situation(&raw) else {
            return;
        };
        let verdict = reschedules(&situation);
        assert_eq!(verdict, expected(&raw), "{raw:?} as {situation:?}");

        cases += 1;
        drops += u32::from(verdict.is_ok());
        seen.insert(name(&situation));
    });
    assert_eq!((cases, drops), (CASES, DROPS));

    // Only those situations were left out that no entry can be in: an SCTP flow is never half
    // closed, and a UDP flow is neither half closed nor closed.
    let all = all_situations();
    assert_eq!(all.len(), 11_520);
    for situation in &all {
        let possible = match (situation.packet, situation.conn.phase) {
            (FirstPacket::TcpSyn, _) | (_, Phase::Open) => true,
            (FirstPacket::SctpInit, phase) => phase == Phase::Closed,
            (FirstPacket::UdpDatagram, _) => false,
        };
        assert_eq!(seen.contains(&name(situation)), possible, "{situation:?}");
    }
}

#[test]
fn replays_what_stock_drops_but_for_controlling_and_untracked_entries() {
    let (mut replays, mut controlling, mut untracked) = (0u32, 0u32, 0u32);

    for_each_raw(|raw| {
        let Some(situation) = situation(&raw) else {
            return;
        };
        let expected = match (expected(&raw), excluded(&raw.cp)) {
            (Ok(_), Some(left)) => Err(left),
            (expected, _) => expected,
        };
        assert_eq!(decide(&situation), expected, "{raw:?} as {situation:?}");

        // Only these are dropped by stock and not replayed.
        if reschedules(&situation).is_ok() {
            match expected {
                Ok(_) => replays += 1,
                Err(LeaveReason::Controlling) => controlling += 1,
                Err(LeaveReason::Untracked) => untracked += 1,
                Err(left) => unreachable!("{left:?}"),
            }
        }
    });
    assert_eq!(
        (replays, controlling, untracked),
        (REPLAYS, CONTROLLING, UNTRACKED)
    );
}

#[test]
fn a_replayed_packet_is_scheduled_by_the_same_branch() {
    let mut replays = 0u32;

    for_each_raw(|mut raw| {
        let Some(Ok(reason)) = situation(&raw).as_ref().map(decide) else {
            return;
        };
        // Its conntrack was killed, and IPVS told so.
        raw.skb.old_conntrack = false;
        raw.cp.flags &= !IP_VS_CONN_F_NFCT;
        let branch = match reason {
            ReplayReason::Drained => Branch::Weight,
            ReplayReason::Closed => Branch::Reuse,
            ReplayReason::Gone => Branch::Status,
        };
        assert_eq!(ip_vs_in_hook(&raw), Fate::Scheduled(branch), "{raw:?}");
        replays += 1;
    });
    assert_eq!(replays, REPLAYS);
}

/// Stock drops more packets for their conntrack than the policy is asked about. These, and no
/// others: fragments, TCP segments with SYN and ACK, RST or FIN, and packets that open no flow and
/// whose server is gone.
#[test]
fn what_stock_drops_and_the_policy_is_not_asked_about_is_known() {
    let mut unasked = [0u32; 3];

    for_each_raw(|raw @ Raw { skb, .. }| {
        let Fate::DroppedForConntrack(branch) = ip_vs_in_hook(&raw) else {
            return;
        };
        if situation(&raw).is_some() {
            return;
        }
        unasked[if skb.fragoffs != 0 {
            assert_eq!(branch, Branch::Status);
            0
        } else if skb.syn {
            assert!(skb.ack || skb.rst || skb.fin);
            1
        } else {
            assert_eq!(branch, Branch::Status);
            2
        }] += 1;
    });
    assert_eq!(unasked, [FRAGMENTS, ODD_SYNS, OTHER_PACKETS]);
}
