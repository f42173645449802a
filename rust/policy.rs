// SPDX-License-Identifier: GPL-2.0

//! Decides whether IPVS would drop a packet because of its old conntrack. Then the packet is
//! replayed, unless `obstacle()` in `replay.rs` finds a reason against that.
//!
//! This is the decision of `ip_vs_in_hook()`
//! ([`net/netfilter/ipvs/ip_vs_core.c`](srctree/net/netfilter/ipvs/ip_vs_core.c)) about a packet
//! that has a *confirmed* conntrack and matches a connection entry. If IPVS reschedules the flow,
//! it drops the packet, because it cannot redirect a confirmed conntrack to another real server.
//! For such a packet, [`decide`] returns the reason why IPVS reschedules the flow. The policy never
//! changes which flows are rescheduled.
//!
//! The functions are pure: any context will do, and a test can compare them with the C statements
//! for all inputs.

/// A packet that may be the first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// A TCP segment with SYN and without ACK, RST or FIN.
    TcpSyn,
    /// An SCTP packet whose first chunk is INIT.
    SctpInit,
    /// Any UDP datagram.
    UdpDatagram,
}

/// The state of a flow, as far as the decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// TCP `TIME_WAIT` or `CLOSE`, SCTP `CLOSED`.
    Closed,
    /// TCP `FIN_WAIT`.
    HalfClosed,
    /// Any other state.
    Open,
}

/// The state of a connection entry (`struct ip_vs_conn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnState {
    /// The state of the flow.
    pub phase: Phase,
    /// The director sees only the client's packets (`IP_VS_CONN_F_NOOUTPUT`: DR and TUN).
    pub one_way: bool,
    /// Another entry controls this one (`control`: FTP data, persistence).
    pub controlled: bool,
    /// This entry controls others (`n_control`).
    pub controlling: bool,
    /// IPVS kills the flow's conntrack when the entry expires (`IP_VS_CONN_F_NFCT`).
    pub tracked: bool,
}

/// The state of the entry's destination (`struct ip_vs_dest`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestState {
    /// Its weight is 0: it keeps its connections and gets no new ones.
    pub drained: bool,
    /// It is in its service's list (`IP_VS_DEST_CF_AVAILABLE`).
    pub available: bool,
}

/// Settings of a namespace (`/proc/sys/net/ipv4/vs/`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `conn_reuse_mode`: whether closed flows are rescheduled (not 0), and half-closed ones too
    /// (bit 1).
    pub conn_reuse_mode: i32,
    /// `expire_nodest_conn`: whether flows with a drained or deleted destination are rescheduled.
    pub expire_nodest_conn: bool,
}

/// Everything that the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The packet.
    pub packet: FirstPacket,
    /// The connection entry that it matches.
    pub conn: ConnState,
    /// The entry's destination; `None` if IPVS does not know it, as on a backup director that has
    /// received the entry by synchronization.
    pub dest: Option<DestState>,
    /// The current settings.
    pub settings: Settings,
}

/// Why a packet is replayed: the reason why IPVS reschedules the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayReason {
    /// The old flow has ended.
    Closed,
    /// The destination has weight 0.
    Drained,
    /// The destination was deleted from the service.
    Gone,
}

/// Why a packet is left to IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// IPVS does not reschedule the flow.
    InUse,
    /// The entry controls others, so IPVS keeps it and its conntrack. Otherwise a spoofed SYN could
    /// kill the conntrack of a live FTP control connection.
    Controlling,
    /// The destination was deleted, and IPVS drops the packet because `expire_nodest_conn` is 0.
    Unavailable,
    /// IPVS does not kill the conntrack when the entry expires.
    Untracked,
}

/// Decides whether a packet with a confirmed conntrack is replayed. It is replayed only if
/// `ip_vs_in_hook()` would drop it to reschedule the flow, and the expiry of the entry would then
/// kill the conntrack.
#[inline]
pub fn decide(s: &Situation) -> Result<ReplayReason, LeaveReason> {
    let reason = reschedules(s)?;

    if s.conn.controlling {
        Err(LeaveReason::Controlling)
    } else if !s.conn.tracked {
        Err(LeaveReason::Untracked)
    } else {
        Ok(reason)
    }
}

/// Whether `ip_vs_in_hook()` reschedules the flow, and so drops a packet with a confirmed
/// conntrack.
#[inline]
pub fn reschedules(s: &Situation) -> Result<ReplayReason, LeaveReason> {
    // Without a destination only `conn_reuse_mode` can cause rescheduling.
    let drained = s.dest.is_some_and(|dest| dest.drained);
    let available = s.dest.is_none_or(|dest| dest.available);
    let mut left = LeaveReason::InUse;

    // `is_new_conn()`
    if matches!(s.packet, FirstPacket::TcpSyn | FirstPacket::SctpInit) {
        if s.settings.expire_nodest_conn && drained {
            return Ok(ReplayReason::Drained);
        }
        if conn_reuse_applies(s) {
            if !s.conn.controlling {
                return Ok(ReplayReason::Closed);
            }
            left = LeaveReason::Controlling;
        }
    }

    match (available, s.settings.expire_nodest_conn) {
        (true, _) => Err(left),
        (false, true) => Ok(ReplayReason::Gone),
        (false, false) => Err(LeaveReason::Unavailable),
    }
}

/// `conn_reuse_mode` and `is_new_conn_expected()`
#[inline]
fn conn_reuse_applies(s: &Situation) -> bool {
    let mode = s.settings.conn_reuse_mode;

    mode != 0
        && !s.conn.controlled
        && match s.conn.phase {
            Phase::Closed => true,
            Phase::HalfClosed => mode & 2 != 0 && s.conn.one_way,
            Phase::Open => false,
        }
}
