// SPDX-License-Identifier: GPL-2.0

//! `policy::decide` agrees with stock IPVS about every packet that could open a flow.
//!
//! The oracle runs `ip_vs_in_hook()` (net/netfilter/ipvs/ip_vs_core.c, Linux 7.3) from the lookup
//! of the entry on, one statement after the other, over what the kernel has in its hands:
//! protocol numbers, states, flag words, sysctls as they are written. It knows nothing of the
//! policy's terms. [`situation`] translates from the one to the other, as the module's hook must.

use host::policy::{
    decide, Entry, Kept, Opener, Phase, Reason, Server, Settings, Situation, Verdict,
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

/// `struct sk_buff`, as far as it is looked at.
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

/// Where in the function a packet was dropped, or an entry given up.
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
    /// It goes where the old entry points.
    Kept,
    /// The same, and only because a controlling entry must not lose its conntrack.
    KeptForControl,
    /// A new entry is scheduled.
    Scheduled(Branch),
    /// It is dropped: its conntrack is of the old flow.
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

/// What the module makes of it; `None` where it does not even ask.
fn situation(Raw { ipvs, skb, cp }: &Raw) -> Option<Situation> {
    let opener = match skb.protocol {
        _ if skb.fragoffs != 0 => return None,
        IPPROTO_TCP if skb.syn && !(skb.ack || skb.rst || skb.fin) => Opener::TcpSyn,
        IPPROTO_SCTP if skb.chunk_type == SCTP_CID_INIT => Opener::SctpInit,
        IPPROTO_UDP => Opener::UdpDatagram,
        _ => return None,
    };
    let phase = match (cp.protocol, cp.state) {
        (IPPROTO_TCP, IP_VS_TCP_S_TIME_WAIT | IP_VS_TCP_S_CLOSE) => Phase::Closed,
        (IPPROTO_SCTP, IP_VS_SCTP_S_CLOSED) => Phase::Closed,
        (IPPROTO_TCP, IP_VS_TCP_S_FIN_WAIT) => Phase::HalfClosed,
        _ => Phase::Open,
    };
    Some(Situation {
        opener,
        entry: Entry {
            phase,
            one_way: cp.flags & IP_VS_CONN_F_NOOUTPUT != 0,
            controlled: cp.control,
            controlling: cp.n_control != 0,
        },
        server: cp.dest.map(|dest| Server {
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

// How many cases there must be, so that none is lost unseen. Counted by hand: 4 flag words, 4
// kinds of control, 13 servers (12 real), 8 modes, 3 values of expire_nodest_conn, and 11 TCP, 14
// SCTP and 1 UDP states, each with one packet that opens a flow.
const CASES: u32 = (11 + 14 + 1) * 4 * 4 * 13 * 8 * 3;
/// Mode not 0 and no control: TCP TIME_WAIT and CLOSE; FIN_WAIT in 4 modes and with 2 flag words.
const TCP_CLOSED: u32 = 2 * 4 * 7 + 2 * 4;
/// The same for SCTP CLOSED.
const SCTP_CLOSED: u32 = 4 * 7;
/// By weight: 4 servers, 2 values of expire_nodest_conn. By reuse: all other pairs of the two, no
/// server too. By status: what is not by reuse, 4 servers that have weight, 2 values.
const fn evictions(states: u32, closed: u32) -> u32 {
    let (by_weight, by_status) = (4 * 2, 4 * 2);
    let all = states * 4 * 4 * 8;
    all * by_weight + closed * (13 * 3 - by_weight) + (all - closed) * by_status
}
/// A status alone: 6 servers, 2 values of expire_nodest_conn.
const fn by_status(states: u32) -> u32 {
    states * 4 * 4 * 8 * 6 * 2
}
const EVICTIONS: u32 = evictions(11, TCP_CLOSED) + evictions(14, SCTP_CLOSED) + by_status(1);
/// With 16 combinations of TCP flags, 20 types of SCTP chunks.
const FRAGMENTS: u32 = 16 * by_status(11) + 20 * by_status(14) + by_status(1);
/// Of the TCP segments, 8 have SYN, and 7 of these another flag.
const ODD_SYNS: u32 = 7 * evictions(11, TCP_CLOSED);
const NO_OPENERS: u32 = 8 * by_status(11) + 19 * by_status(14);

/// What the policy must say where stock does that to a packet with a confirmed conntrack.
fn expected(raw: &Raw) -> Verdict {
    match ip_vs_in_hook(raw) {
        Fate::DroppedForConntrack(Branch::Weight) => Verdict::Evict(Reason::Drained),
        Fate::DroppedForConntrack(Branch::Reuse) => Verdict::Evict(Reason::Closed),
        Fate::DroppedForConntrack(Branch::Status) => Verdict::Evict(Reason::Gone),
        Fate::DroppedUnavailable => Verdict::Leave(Kept::Unavailable),
        Fate::KeptForControl => Verdict::Leave(Kept::Controlling),
        Fate::Kept => Verdict::Leave(Kept::InUse),
        Fate::Scheduled(_) => unreachable!("its conntrack is confirmed"),
    }
}

/// Every value that the policy can be given, with the modes above.
fn all_situations() -> Vec<Situation> {
    let mut servers = vec![None];
    for drained in BOOLS {
        for available in BOOLS {
            servers.push(Some(Server { drained, available }));
        }
    }
    let mut all = Vec::new();
    for opener in [Opener::TcpSyn, Opener::SctpInit, Opener::UdpDatagram] {
        for phase in [Phase::Closed, Phase::HalfClosed, Phase::Open] {
            for one_way in BOOLS {
                for controlled in BOOLS {
                    for controlling in BOOLS {
                        for &server in &servers {
                            for conn_reuse_mode in MODES {
                                for expire_nodest_conn in BOOLS {
                                    all.push(Situation {
                                        opener,
                                        entry: Entry {
                                            phase,
                                            one_way,
                                            controlled,
                                            controlling,
                                        },
                                        server,
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
        }
    }
    all
}

fn name(situation: &Situation) -> String {
    format!("{situation:?}")
}

#[test]
fn evicts_exactly_where_stock_drops_a_packet_for_its_conntrack() {
    let (mut cases, mut evictions) = (0u32, 0u32);
    let mut seen = BTreeSet::new();

    for_each_raw(|raw| {
        let Some(situation) = situation(&raw) else {
            return;
        };
        let verdict = decide(&situation);
        assert_eq!(verdict, expected(&raw), "{raw:?} as {situation:?}");

        cases += 1;
        evictions += u32::from(matches!(verdict, Verdict::Evict(_)));
        seen.insert(name(&situation));
    });
    assert_eq!((cases, evictions), (CASES, EVICTIONS));

    // No situation was left out but those that no entry can be in: an SCTP flow is never half
    // closed, a UDP flow neither that nor closed.
    let all = all_situations();
    assert_eq!(all.len(), 5_760);
    for situation in &all {
        let possible = match (situation.opener, situation.entry.phase) {
            (Opener::TcpSyn, _) | (_, Phase::Open) => true,
            (Opener::SctpInit, phase) => phase == Phase::Closed,
            (Opener::UdpDatagram, _) => false,
        };
        assert_eq!(seen.contains(&name(situation)), possible, "{situation:?}");
    }
}

#[test]
fn an_evicted_packet_is_scheduled_by_the_same_branch() {
    let mut evictions = 0u32;

    for_each_raw(|mut raw| {
        let Some(Verdict::Evict(reason)) = situation(&raw).as_ref().map(decide) else {
            return;
        };
        raw.skb.old_conntrack = false;
        let branch = match reason {
            Reason::Drained => Branch::Weight,
            Reason::Closed => Branch::Reuse,
            Reason::Gone => Branch::Status,
        };
        // A controlling entry is spared for its conntrack only: once that is gone, it is not.
        let by_reuse = raw.cp.n_control != 0 && reason == Reason::Gone;
        let fate = ip_vs_in_hook(&raw);
        assert!(
            fate == Fate::Scheduled(branch) || by_reuse && fate == Fate::Scheduled(Branch::Reuse),
            "{fate:?} of {raw:?}"
        );
        evictions += 1;
    });
    assert_eq!(evictions, EVICTIONS);
}

/// Stock drops more packets for their conntrack than the module saves. These, and no others: it
/// does not look at fragments, nor at TCP segments with SYN and ACK, RST or FIN, nor at anything
/// but openers for a server that is gone.
#[test]
fn what_stock_drops_and_the_module_leaves_is_known() {
    let mut left = [0u32; 3];

    for_each_raw(|raw @ Raw { skb, .. }| {
        let evicts = matches!(
            situation(&raw).as_ref().map(decide),
            Some(Verdict::Evict(_))
        );
        let Fate::DroppedForConntrack(branch) = ip_vs_in_hook(&raw) else {
            assert!(!evicts);
            return;
        };
        if evicts {
            return;
        }
        left[if skb.fragoffs != 0 {
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
    assert_eq!(left, [FRAGMENTS, ODD_SYNS, NO_OPENERS]);
}
