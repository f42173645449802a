// SPDX-License-Identifier: GPL-2.0

//! Decides whether a packet that opens a flow, and that IPVS is about to drop for its old
//! conntrack, is to be replayed.
//!
//! This is the decision of `ip_vs_in_hook()`
//! ([`net/netfilter/ipvs/ip_vs_core.c`](srctree/net/netfilter/ipvs/ip_vs_core.c)) for a packet
//! that carries a *confirmed* conntrack and matches a connection entry. Where that function drops
//! the packet because its conntrack cannot be redirected to another real server, [`decide`]
//! returns the reason for which IPVS gives the entry up. It never changes which flows are
//! rescheduled.
//!
//! Pure functions of plain values: any context. `selftests/host` compares them with the C
//! statements for every combination of their inputs.

/// A packet that may be the first of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// A TCP segment with SYN and without ACK, RST or FIN.
    TcpSyn,
    /// An SCTP packet whose first chunk is INIT.
    SctpInit,
    /// Any UDP datagram.
    UdpDatagram,
}

/// How far the flow of a connection entry has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// TCP `TIME_WAIT` or `CLOSE`, SCTP `CLOSED`.
    Closed,
    /// TCP `FIN_WAIT`.
    HalfClosed,
    /// Any other state.
    Open,
}

/// A connection entry (`struct ip_vs_conn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnState {
    /// The flow's state.
    pub phase: Phase,
    /// The director sees the client's packets only (`IP_VS_CONN_F_NOOUTPUT`: DR and TUN).
    pub one_way: bool,
    /// The entry depends on another (`control`: FTP data, persistence).
    pub controlled: bool,
    /// Other entries depend on this one (`n_control`).
    pub controlling: bool,
    /// IPVS kills the flow's conntrack when the entry expires (`IP_VS_CONN_F_NFCT`).
    pub tracked: bool,
}

/// The real server of the entry (`struct ip_vs_dest`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestState {
    /// Its weight is 0: it finishes what it has and gets nothing new.
    pub drained: bool,
    /// It is part of its service (`IP_VS_DEST_CF_AVAILABLE`).
    pub available: bool,
}

/// The namespace's settings, as in `/proc/sys/net/ipv4/vs/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `conn_reuse_mode`: 0 never, else reschedule closed flows; bit 2 half-closed ones too.
    pub conn_reuse_mode: i32,
    /// `expire_nodest_conn`: give up flows whose real server is drained or gone.
    pub expire_nodest_conn: bool,
}

/// All that the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The packet that arrived.
    pub packet: FirstPacket,
    /// The entry that it matches.
    pub conn: ConnState,
    /// The entry's real server; `None` where IPVS knows none, as on a director that got the entry
    /// by synchronization.
    pub dest: Option<DestState>,
    /// The settings in force.
    pub settings: Settings,
}

/// Why IPVS gives the entry up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayReason {
    /// The old flow has ended.
    Closed,
    /// The real server has weight 0.
    Drained,
    /// The real server has left the service.
    Gone,
}

/// Why the packet is left to IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// IPVS goes on with the old flow.
    InUse,
    /// Other entries depend on this one. IPVS keeps it and its conntrack: a forged SYN must not
    /// kill the conntrack of a live FTP control connection.
    Controlling,
    /// The real server is gone and, without `expire_nodest_conn`, IPVS drops the packet.
    Unavailable,
    /// IPVS never kills the conntrack of this entry.
    Untracked,
}

/// Decides as `ip_vs_in_hook()` does for a packet with a confirmed conntrack. `Ok`: IPVS gives the
/// entry up, would drop the packet, and would later kill its conntrack. Reads nothing but its
/// argument.
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

/// Why IPVS gives the entry up, and drops a packet that comes with a confirmed conntrack.
#[inline]
pub fn reschedules(s: &Situation) -> Result<ReplayReason, LeaveReason> {
    // IPVS asks nothing about a server that it does not know: the flow may have ended all the same.
    let drained = s.dest.is_some_and(|dest| dest.drained);
    let available = s.dest.is_none_or(|dest| dest.available);
    let mut left = LeaveReason::InUse;

    // Only these are `is_new_conn()`.
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

/// `conn_reuse_mode` and `is_new_conn_expected()`.
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
