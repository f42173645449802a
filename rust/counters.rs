// SPDX-License-Identifier: GPL-2.0

//! What happened to the packets that opened a flow and matched an old entry, in one namespace:
//! `/proc/net/ip_vs_reuse`, one `name value` a line; and, for all namespaces together, how often
//! `p2c` had to keep an old table.

use crate::net::PerCpuCounters;
use crate::p2c;
use crate::policy::{Kept, Opener, Reason};
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
    /// A packet opened a flow and matched an old entry. The sum of all the others.
    Matched = c"matched",
    /// TCP: a conntrack was evicted, the old flow had ended.
    EvictedTcpClosed = c"evicted_tcp_closed",
    /// TCP: evicted, the real server had weight 0.
    EvictedTcpDrained = c"evicted_tcp_drained",
    /// TCP: evicted, the real server had left the service.
    EvictedTcpGone = c"evicted_tcp_gone",
    /// SCTP: evicted, the old association had ended.
    EvictedSctpClosed = c"evicted_sctp_closed",
    /// SCTP: evicted, the real server had weight 0.
    EvictedSctpDrained = c"evicted_sctp_drained",
    /// SCTP: evicted, the real server had left the service.
    EvictedSctpGone = c"evicted_sctp_gone",
    /// UDP: evicted, the real server had left the service.
    EvictedUdpGone = c"evicted_udp_gone",
    /// Left alone: IPVS goes on with the old flow.
    LeftInUse = c"left_in_use",
    /// Left alone: other entries depend on this one.
    LeftControlling = c"left_controlling",
    /// Left alone: IPVS drops the packet, its server is gone and `expire_nodest_conn` is 0.
    LeftUnavailable = c"left_unavailable",
    /// Left alone: the packet is damaged.
    LeftBadChecksum = c"left_bad_checksum",
    /// Left alone: there is no conntrack to evict.
    LeftNoConntrack = c"left_no_conntrack",
    /// Left alone: the packet goes against its conntrack's direction.
    LeftReply = c"left_reply",
    /// Left alone: the conntrack was announced by another (FTP data).
    LeftExpected = c"left_expected",
    /// Left alone: the conntrack was going away by itself.
    LeftDying = c"left_dying",
}

impl Event {
    /// The event that a conntrack was evicted for the sake of this packet.
    pub fn evicted(opener: Opener, reason: Reason) -> Self {
        match (opener, reason) {
            (Opener::TcpSyn, Reason::Closed) => Event::EvictedTcpClosed,
            (Opener::TcpSyn, Reason::Drained) => Event::EvictedTcpDrained,
            (Opener::TcpSyn, Reason::Gone) => Event::EvictedTcpGone,
            (Opener::SctpInit, Reason::Closed) => Event::EvictedSctpClosed,
            (Opener::SctpInit, Reason::Drained) => Event::EvictedSctpDrained,
            (Opener::SctpInit, Reason::Gone) => Event::EvictedSctpGone,
            // A datagram is never `is_new_conn()`: its server's absence is the only reason.
            (Opener::UdpDatagram, _) => Event::EvictedUdpGone,
        }
    }
}

impl From<Kept> for Event {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::InUse => Event::LeftInUse,
            Kept::Controlling => Event::LeftControlling,
            Kept::Unavailable => Event::LeftUnavailable,
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
