// SPDX-License-Identifier: GPL-2.0

//! Flows that are opened a second time.

use super::{Conn, Ipvs};
use crate::net::{Packet, Transport};
use crate::netfilter::{HookState, Template};

/// A packet that may open a flow, one step before conntrack, and the entry of an older flow with
/// its addresses.
///
/// Its headers are sound, it is for or from this machine, and nothing is attached to it but perhaps
/// a template: both conntrack and IPVS are going to look at it.
pub struct Reopened<'a> {
    /// IPVS in the packet's namespace.
    pub ipvs: &'a Ipvs,
    /// The packet's circumstances.
    pub state: &'a HookState,
    /// The packet.
    pub packet: &'a Packet,
    /// Its transport header: TCP with SYN alone, an SCTP INIT, or any UDP.
    pub transport: Transport,
    /// What a rule of the raw table said about its conntrack to be.
    pub template: Option<&'a Template>,
    /// The entry.
    pub conn: &'a Conn,
}
