// SPDX-License-Identifier: GPL-2.0

//! Counts, in one network namespace, what became of the packets that opened a flow and came with
//! the conntrack and the IPVS entry of an older one: `/proc/net/ip_vs_reuse`, one `name value` a
//! line. And, for all namespaces together, how often `p2c` had to keep an old table.

use crate::net::PerCpuCounters;
use crate::p2c;
use crate::policy::{FirstPacket, LeaveReason, ReplayReason};
use kernel::{prelude::*, seq_file::SeqFile, seq_print};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $event:ident = $name:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy)]
        pub enum Event { $($(#[doc = $doc])* $event),* }

        impl Event {
            const ALL: [Event; [$($name),*].len()] = [$(Event::$event),*];

            /// The event's name, in `/proc/net/ip_vs_reuse` and in the tracepoints' `reason`.
            pub fn name(self) -> &'static CStr {
                match self { $(Event::$event => $name),* }
            }
        }
    };
}

counters! {
    /// A packet opened a flow, carried a confirmed conntrack, and matched an old entry. The sum of
    /// all the others.
    Matched = c"matched",
    /// TCP: replayed, the old flow had ended.
    ReplayedTcpClosed = c"replayed_tcp_closed",
    /// TCP: replayed, the real server had weight 0.
    ReplayedTcpDrained = c"replayed_tcp_drained",
    /// TCP: replayed, the real server had left the service.
    ReplayedTcpGone = c"replayed_tcp_gone",
    /// SCTP: replayed, the old association had ended.
    ReplayedSctpClosed = c"replayed_sctp_closed",
    /// SCTP: replayed, the real server had weight 0.
    ReplayedSctpDrained = c"replayed_sctp_drained",
    /// SCTP: replayed, the real server had left the service.
    ReplayedSctpGone = c"replayed_sctp_gone",
    /// UDP: replayed, the real server had left the service.
    ReplayedUdpGone = c"replayed_udp_gone",
    /// Left to IPVS, which goes on with the old flow.
    LeftInUse = c"left_in_use",
    /// Left to IPVS: other entries depend on this one.
    LeftControlling = c"left_controlling",
    /// Left to IPVS, which drops it: its server is gone and `expire_nodest_conn` is 0.
    LeftUnavailable = c"left_unavailable",
    /// Left to IPVS, which never kills this entry's conntrack.
    LeftUntracked = c"left_untracked",
    /// Left to IPVS: NAT has changed the packet.
    LeftTranslated = c"left_translated",
    /// Left to IPVS: SYNPROXY's own SYN.
    LeftSynproxy = c"left_synproxy",
    /// Left to IPVS: it came over the loopback device.
    LeftLoopback = c"left_loopback",
    /// Left to IPVS: it has options that a router writes to.
    LeftOptions = c"left_options",
    /// Left to IPVS: an IPv6 packet that is larger than the fragments it was made from.
    LeftFragments = c"left_fragments",
    /// Left to IPVS: it came through a VRF, and its conntrack is in a zone.
    LeftVrfZone = c"left_vrf_zone",
    /// Left to IPVS: a rule has changed its mark on output.
    LeftMarked = c"left_marked",
    /// Left to IPVS: it is being replayed on output already.
    LeftNested = c"left_nested",
    /// Left to IPVS: somebody else was killing the conntrack.
    LeftDying = c"left_dying",
    /// The conntrack was killed, but the receive queue was full: the packet is lost.
    DroppedBacklog = c"dropped_backlog",
}

impl Event {
    /// The event that a packet was replayed.
    pub fn replayed(packet: FirstPacket, reason: ReplayReason) -> Self {
        match (packet, reason) {
            (FirstPacket::TcpSyn, ReplayReason::Closed) => Event::ReplayedTcpClosed,
            (FirstPacket::TcpSyn, ReplayReason::Drained) => Event::ReplayedTcpDrained,
            (FirstPacket::TcpSyn, ReplayReason::Gone) => Event::ReplayedTcpGone,
            (FirstPacket::SctpInit, ReplayReason::Closed) => Event::ReplayedSctpClosed,
            (FirstPacket::SctpInit, ReplayReason::Drained) => Event::ReplayedSctpDrained,
            (FirstPacket::SctpInit, ReplayReason::Gone) => Event::ReplayedSctpGone,
            // A datagram is never `is_new_conn()`: its server's absence is the only reason.
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

/// One namespace's counters.
pub struct Counters(PerCpuCounters<{ Event::ALL.len() }>);

impl Counters {
    /// All 0. May sleep. `ENOMEM` where there is no memory.
    pub fn new() -> Result<Self> {
        PerCpuCounters::new().map(Self)
    }

    /// Counts one event. Any context.
    #[inline]
    pub fn count(&self, event: Event) {
        self.0.increment(event as usize);
    }

    /// Writes them all, one `name value` a line.
    pub fn show(&self, file: &SeqFile) {
        for event in Event::ALL {
            if let Ok(name) = event.name().to_str() {
                seq_print!(file, "{} {}\n", name, self.0.sum(event as usize));
            }
        }
        seq_print!(file, "p2c_failed_rebuilds {}\n", p2c::failed_rebuilds());
    }
}
