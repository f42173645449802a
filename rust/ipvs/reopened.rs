// SPDX-License-Identifier: GPL-2.0

//! Flows that a client opens a second time.

use super::conn::{Conn, HeldConn};
use crate::net::Transport;
use crate::netfilter::{HookPacket, ReplayablePacket, Verdict};

/// A packet in a hook, and the connection entry of an older flow with its addresses.
///
/// It can be given back, so that IPVS goes on with both, or its conntrack can be killed.
pub struct ReopenedFlow<'a> {
    packet: HookPacket<'a>,
    transport: Transport,
    pub(super) conn: HeldConn,
}

impl<'a> ReopenedFlow<'a> {
    #[inline]
    pub(super) fn new(packet: HookPacket<'a>, transport: Transport, conn: HeldConn) -> Self {
        Self {
            packet,
            transport,
            conn,
        }
    }

    /// The packet.
    #[inline]
    pub fn packet(&self) -> &HookPacket<'a> {
        &self.packet
    }

    /// Its transport header.
    #[inline]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The entry.
    #[inline]
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Gives up the entry for the packet.
    #[inline]
    pub fn into_packet(self) -> HookPacket<'a> {
        self.packet
    }

    /// Kills the old flow's conntrack, and tells IPVS that it is gone. Gives everything back where
    /// [`HookPacket::kill_conntrack`] does.
    pub fn kill_conntrack(self) -> Result<ReplayableFlow<'a>, Self> {
        let Self {
            packet,
            transport,
            conn,
        } = self;

        match packet.kill_conntrack() {
            Ok(packet) => {
                conn.forget_conntrack();
                Ok(ReplayableFlow { packet, conn })
            }
            Err(packet) => Err(Self::new(packet, transport, conn)),
        }
    }
}

/// A [`ReopenedFlow`] flow whose conntrack was killed.
pub struct ReplayableFlow<'a> {
    packet: ReplayablePacket<'a>,
    conn: HeldConn,
}

impl<'a> ReplayableFlow<'a> {
    /// The entry.
    #[inline]
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Replays the packet as [`ReplayablePacket::replay`] does.
    ///
    /// The reference to the entry goes first: IPVS makes the entry expire when the packet comes
    /// again, and keeps an entry for a minute that somebody refers to at that moment.
    #[inline]
    pub fn replay(self) -> (Verdict<'a>, bool) {
        drop(self.conn);
        self.packet.replay()
    }
}
