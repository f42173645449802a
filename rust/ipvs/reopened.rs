// SPDX-License-Identifier: GPL-2.0

//! Reopened flows: a packet that matches the connection entry of an older flow.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::Conn;
use crate::net::Transport;
use crate::netfilter::{HookPacket, ReplayablePacket, Verdict};
use kernel::sync::aref::ARef;

/// A packet in a hook, and the connection entry of an older flow with the same addresses.
///
/// A hook can kill the packet's conntrack and replay the packet, or leave the packet to IPVS.
///
/// # Examples
///
/// ```
/// fn reopened(flow: ReopenedFlow<'_>) -> Result<Verdict<'_>, ReopenedFlow<'_>> {
///     let (verdict, _queued) = flow.kill_conntrack()?.replay();
///     Ok(verdict)
/// }
/// ```
pub struct ReopenedFlow<'a> {
    pub(super) packet: HookPacket<'a>,
    transport: Transport,
    pub(super) conn: ARef<Conn>,
}

impl<'a> ReopenedFlow<'a> {
    #[inline]
    pub(super) fn new(packet: HookPacket<'a>, transport: Transport, conn: ARef<Conn>) -> Self {
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

    /// The packet's transport header.
    #[inline]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The connection entry.
    #[inline]
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Kills the packet's conntrack and clears the entry's `IP_VS_CONN_F_NFCT`. Gives the flow back
    /// if [`HookPacket::kill_conntrack`] fails.
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

/// A [`ReopenedFlow`] whose conntrack was killed.
pub struct ReplayableFlow<'a> {
    packet: ReplayablePacket<'a>,
    conn: ARef<Conn>,
}

impl<'a> ReplayableFlow<'a> {
    /// The connection entry.
    #[inline]
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Puts the connection entry and replays the packet, as [`ReplayablePacket::replay`] does.
    ///
    /// The put must come first. When the packet arrives again, IPVS expires the entry. An entry
    /// that somebody still holds would stay for another minute.
    #[inline]
    pub fn replay(self) -> (Verdict<'a>, bool) {
        let fwmark = self.conn.service_fwmark();

        drop(self.conn);
        self.packet.replay(fwmark)
    }
}
