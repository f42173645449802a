// SPDX-License-Identifier: GPL-2.0

//! The counters of `/proc/net/ip_vs_reuse`: one line `name value` each.
//!
//! They count packets by outcome, per network namespace. A packet is counted if it opens a flow
//! while an older flow with the same addresses still has its conntrack and its IPVS entry. The last
//! line is the same in all namespaces: it counts how often `p2c` failed to rebuild a table.

use crate::net::PerCpuCounters;
use crate::p2c;
use crate::policy::{FirstPacket, LeaveReason, ReplayReason};
use kernel::{prelude::*, seq_file::SeqFile, seq_print};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $event:ident = $name:literal,)*) => {
        /// An event that is counted.
        #[derive(Clone, Copy)]
        pub enum Event { $($(#[doc = $doc])* $event),* }

        impl Event {
            const ALL: [Event; [$($name),*].len()] = [$(Event::$event),*];

            /// The name in `/proc/net/ip_vs_reuse`, and the `reason` in the tracepoints.
            pub fn name(self) -> &'static CStr {
                match self { $(Event::$event => $name),* }
            }
        }
    };
}

counters! {
    /// A packet opened a flow, had a confirmed conntrack, and matched an old entry. This is the sum
    /// of all the others.
    Matched = c"matched",
    /// TCP, replayed: the old flow had ended.
    ReplayedTcpClosed = c"replayed_tcp_closed",
    /// TCP, replayed: the destination had weight 0.
    ReplayedTcpDrained = c"replayed_tcp_drained",
    /// TCP, replayed: the destination was deleted.
    ReplayedTcpGone = c"replayed_tcp_gone",
    /// SCTP, replayed: the old association had ended.
    ReplayedSctpClosed = c"replayed_sctp_closed",
    /// SCTP, replayed: the destination had weight 0.
    ReplayedSctpDrained = c"replayed_sctp_drained",
    /// SCTP, replayed: the destination was deleted.
    ReplayedSctpGone = c"replayed_sctp_gone",
    /// UDP, replayed: the destination was deleted.
    ReplayedUdpGone = c"replayed_udp_gone",
    /// Left to IPVS, which does not reschedule the flow.
    LeftInUse = c"left_in_use",
    /// Left to IPVS: the entry controls others.
    LeftControlling = c"left_controlling",
    /// Left to IPVS, which drops it: the destination was deleted and `expire_nodest_conn` is 0.
    LeftUnavailable = c"left_unavailable",
    /// Left to IPVS, which does not kill the conntrack of this entry.
    LeftUntracked = c"left_untracked",
    /// Left to IPVS: NAT has changed the packet.
    LeftTranslated = c"left_translated",
    /// Left to IPVS: SYNPROXY's own SYN.
    LeftSynproxy = c"left_synproxy",
    /// Left to IPVS: it was received on the loopback device or a VRF device, or its device is gone.
    LeftLoopback = c"left_loopback",
    /// Left to IPVS: it has IPv4 options or IPv6 hop-by-hop options.
    LeftOptions = c"left_options",
    /// Left to IPVS: it is a reassembled IPv6 packet, larger than its largest fragment.
    LeftFragments = c"left_fragments",
    /// Left to IPVS: it was received through a VRF, and its conntrack is in a zone.
    LeftVrfZone = c"left_vrf_zone",
    /// Left to IPVS: at LOCAL_OUT its mark is not the mark of its socket.
    LeftMarked = c"left_marked",
    /// Left to IPVS: it is already being replayed at LOCAL_OUT.
    LeftNested = c"left_nested",
    /// Left to IPVS: somebody else was killing the conntrack, or the event for that could not be
    /// delivered.
    LeftDying = c"left_dying",
    /// The packet is lost: its conntrack was killed, but the receive queue was full, or the device
    /// was down.
    DroppedBacklog = c"dropped_backlog",
}

impl Event {
    /// The event for a replayed packet.
    pub fn replayed(packet: FirstPacket, reason: ReplayReason) -> Self {
        match (packet, reason) {
            (FirstPacket::TcpSyn, ReplayReason::Closed) => Event::ReplayedTcpClosed,
            (FirstPacket::TcpSyn, ReplayReason::Drained) => Event::ReplayedTcpDrained,
            (FirstPacket::TcpSyn, ReplayReason::Gone) => Event::ReplayedTcpGone,
            (FirstPacket::SctpInit, ReplayReason::Closed) => Event::ReplayedSctpClosed,
            (FirstPacket::SctpInit, ReplayReason::Drained) => Event::ReplayedSctpDrained,
            (FirstPacket::SctpInit, ReplayReason::Gone) => Event::ReplayedSctpGone,
            // `is_new_conn()` is false for UDP, so no other reason is possible.
            (FirstPacket::UdpDatagram, _) => Event::ReplayedUdpGone,
        }
    }
}

impl From<LeaveReason> for Event {
    fn from(left: LeaveReason) -> Self {
        match left {
            LeaveReason::InUse => Event::LeftInUse,
            LeaveReason::Controlling => Event::LeftControlling,
            LeaveReason::Unavailable => Event::LeftUnavailable,
            LeaveReason::Untracked => Event::LeftUntracked,
        }
    }
}

/// The counters of one namespace.
pub struct Counters(PerCpuCounters<{ Event::ALL.len() }>);

impl Counters {
    /// Allocates the counters, all 0. May sleep. `ENOMEM` if the allocation fails.
    pub fn new() -> Result<Self> {
        PerCpuCounters::new().map(Self)
    }

    /// Counts one event. Any context.
    #[inline]
    pub fn count(&self, event: Event) {
        self.0.increment(event as usize);
    }

    /// Writes all counters to the file, a line `name value` for each.
    pub fn show(&self, file: &SeqFile) {
        for event in Event::ALL {
            if let Ok(name) = event.name().to_str() {
                seq_print!(file, "{} {}\n", name, self.0.sum(event as usize));
            }
        }
        seq_print!(file, "p2c_failed_rebuilds {}\n", p2c::failed_rebuilds());
    }
}
