// SPDX-License-Identifier: GPL-2.0

//! Whether a packet that opens a flow meets an IPVS entry that IPVS is about to give up.
//!
//! This is the decision of `ip_vs_in_hook()`
//! ([`net/netfilter/ipvs/ip_vs_core.c`](srctree/net/netfilter/ipvs/ip_vs_core.c)) for a packet
//! that arrives with a *confirmed* conntrack: exactly where that function schedules the flow
//! again, and drops the packet because its conntrack cannot follow, [`decide`] says
//! [`Verdict::Evict`]. It never changes which flows are scheduled again.
//!
//! Pure functions of plain values: any context, and the same code is tested on the host
//! against a table of every combination of its inputs (`selftests/host`).

/// The protocol of a packet that opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// A TCP segment with SYN and without ACK, RST or FIN.
    TcpSyn,
    /// An SCTP packet whose first chunk is INIT.
    SctpInit,
    /// A UDP datagram. Every one may open a flow.
    UdpDatagram,
}

/// How far the flow of an IPVS entry has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// TCP `TIME_WAIT` or `CLOSE`, SCTP `CLOSED`.
    Closed,
    /// TCP `FIN_WAIT`.
    HalfClosed,
    /// Any other state.
    Open,
}

/// What IPVS remembers of the flow (`struct ip_vs_conn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The flow's state.
    pub phase: Phase,
    /// The director sees the client's packets only (`IP_VS_CONN_F_NOOUTPUT`: DR and TUN).
    pub one_way: bool,
    /// The entry depends on another (`control`: FTP data, persistence).
    pub controlled: bool,
    /// Other entries depend on this one (`n_control`).
    pub controlling: bool,
}

/// The real server that the flow was sent to (`struct ip_vs_dest`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
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
    /// What arrived.
    pub opener: Opener,
    /// The entry it matches.
    pub entry: Entry,
    /// The entry's real server; `None` where IPVS knows none, as on a director that got the entry
    /// by synchronization.
    pub server: Option<Server>,
    /// The settings in force.
    pub settings: Settings,
}

/// Why IPVS gives the entry up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The old flow has ended.
    Closed,
    /// The real server has weight 0.
    Drained,
    /// The real server has left the service.
    Gone,
}

/// Why the packet stays with the old entry, or is none of our business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// IPVS goes on with the old flow.
    InUse,
    /// It would be rescheduled if other entries did not depend on it.
    Controlling,
    /// The real server is gone and, without `expire_nodest_conn`, IPVS drops the packet.
    Unavailable,
}

/// What to do about the packet's conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// IPVS would drop the packet for its stale conntrack: take that away first.
    Evict(Reason),
    /// Hands off.
    Leave(Kept),
}

/// Decides as `ip_vs_in_hook()` does. Reads nothing but its argument.
#[inline]
pub fn decide(s: &Situation) -> Verdict {
    // Of a server that it does not know IPVS asks nothing: the flow may have ended all the same.
    let drained = s.server.is_some_and(|server| server.drained);
    let available = s.server.is_none_or(|server| server.available);
    let mut kept = Kept::InUse;

    // Only these are `is_new_conn()`.
    if matches!(s.opener, Opener::TcpSyn | Opener::SctpInit) {
        if s.settings.expire_nodest_conn && drained {
            return Verdict::Evict(Reason::Drained);
        }
        if may_be_reused(s) {
            if !s.entry.controlling {
                return Verdict::Evict(Reason::Closed);
            }
            kept = Kept::Controlling;
        }
    }

    match (available, s.settings.expire_nodest_conn) {
        (true, _) => Verdict::Leave(kept),
        (false, true) => Verdict::Evict(Reason::Gone),
        (false, false) => Verdict::Leave(Kept::Unavailable),
    }
}

/// `conn_reuse_mode` and `is_new_conn_expected()`.
#[inline]
fn may_be_reused(s: &Situation) -> bool {
    let mode = s.settings.conn_reuse_mode;

    mode != 0
        && !s.entry.controlled
        && match s.entry.phase {
            Phase::Closed => true,
            Phase::HalfClosed => mode & 2 != 0 && s.entry.one_way,
            Phase::Open => false,
        }
}
