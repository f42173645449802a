// SPDX-License-Identifier: GPL-2.0

//! Finds the packets on a stock kernel: netfilter hooks just before those of IPVS.
//!
//! They are registered where IPVS has hooks, so that other namespaces pay nothing. IPVS tells nobody
//! about a namespace's first service: we look once a second.
//!
//! What a packet costs on top of the hook itself:
//!
//! | packet | cost |
//! | --- | --- |
//! | that IPVS sends to a real server | one load |
//! | without a conntrack | two loads |
//! | TCP without SYN | the loads of its protocol and flags |
//! | UDP | the load of `expire_nodest_conn`; if that is 1, two more |
//! | TCP SYN, SCTP, IPv6 with extension headers; UDP while IPVS remembers servers that have left | a look at its conntrack; if that is confirmed, its headers are parsed |
//! | opens a flow and carries a confirmed conntrack | one lookup in IPVS's table |
//! | matches an old entry | see [`replay`] |

use crate::ipvs::{IpHeader, Ipvs, ReopenedFlow};
use crate::net::{Family, Id, Namespace, Packet, StaticId, Transport};
use crate::netfilter::{Hook, HookOps, HookPacket, HookRegistration, NamespaceHooks, Verdict};
use crate::policy::FirstPacket;
use crate::replay;
use kernel::prelude::*;

/// Keeps the hooks registered until dropped.
pub type Registration = HookRegistration<BeforeIpvs>;

/// Registers the hooks, and says so in the kernel's log. May sleep. Errors are those of
/// [`HookRegistration::new`].
pub fn register() -> impl PinInit<Registration, Error> {
    Registration::new().pin_chain(|_| {
        pr_info!(
            "version {}: replays packets that IPVS would drop for an old conntrack\n",
            env!("IP_VS_REUSE_VERSION")
        );
        Ok(())
    })
}

/// Runs just before `ip_vs_in_hook()`.
pub struct BeforeIpvs;

static OPS: HookOps<BeforeIpvs> = HookOps::new();

static ID: Id<NamespaceHooks<BeforeIpvs>> = Id::new();

impl Hook for BeforeIpvs {
    // One less than `ip_vs_in_hook()`, which is registered with a namespace's first service: of two
    // hooks with the same priority the one that was registered later runs first. It is the priority
    // of `ip_vs_out_hook()`, which looks for replies and so takes no packet that reopens a flow.
    const LOCAL_IN_PRIORITY: i32 = HookOps::<Self>::NAT_SRC - 2;
    const LOCAL_OUT_PRIORITY: i32 = HookOps::<Self>::NAT_DST + 1;

    const OPS: &'static HookOps<Self> = &OPS;

    const ID: StaticId<NamespaceHooks<Self>> = StaticId::new(&ID);

    fn is_needed(namespace: &Namespace) -> bool {
        Ipvs::of(namespace).is_some_and(Ipvs::has_services)
    }

    #[inline]
    fn handle(packet: HookPacket<'_>) -> Verdict<'_> {
        if may_reopen_flow(&packet) {
            find_reopened(packet)
        } else {
            packet.accept()
        }
    }
}

/// Most packets show at a glance that they open no flow.
#[inline]
fn may_reopen_flow(packet: &HookPacket<'_>) -> bool {
    if packet.is_handled_by_ipvs() || !packet.has_conntrack() {
        return false;
    }
    let state = packet.state();
    let Some(Transport { protocol, offset }) = peek_transport(packet, state.family()) else {
        return true;
    };
    match protocol {
        Transport::TCP => packet
            .peek(offset + Transport::TCP_FLAGS)
            .is_none_or(|[flags]| Transport::is_syn(flags)),
        Transport::UDP => Ipvs::of(state.namespace()).is_some_and(may_reschedule_udp),
        Transport::SCTP => true,
        _ => state.family() == Family::Ipv6 && Transport::is_extension(protocol),
    }
}

/// Where the transport header is, unless the packet has IPv6 extension headers. `None` if the
/// network header is not in the linear part. (No fragment has come this far.)
#[inline]
fn peek_transport(packet: &Packet, family: Family) -> Option<Transport> {
    let (protocol, offset) = match family {
        Family::Ipv4 => {
            let [first] = packet.peek(0)?;
            (packet.peek(9)?, u32::from(first & 0xf) * 4)
        }
        Family::Ipv6 => (packet.peek(6)?, 40),
    };
    let [protocol] = protocol;

    Some(Transport { protocol, offset })
}

/// Whether IPVS may give up the entry of a datagram: its server has left, or is just leaving.
#[inline]
fn may_reschedule_udp(ipvs: &Ipvs) -> bool {
    ipvs.expire_nodest_conn() && ipvs.may_have_removed_destinations()
}

/// Slow path, for packets that may open a flow.
#[cold]
#[inline(never)]
fn find_reopened(packet: HookPacket<'_>) -> Verdict<'_> {
    match lookup_key(&packet) {
        Some((ipvs, header)) => match ReopenedFlow::find(ipvs, packet, &header) {
            Ok(flow) => replay::reopened(flow).unwrap_or_else(|flow| flow.into_packet().accept()),
            Err(packet) => packet.accept(),
        },
        None => packet.accept(),
    }
}

/// Where to look for the old entry: IPVS would look at the packet, which opens a flow and carries a
/// confirmed conntrack.
#[inline]
fn lookup_key<'a>(packet: &HookPacket<'a>) -> Option<(&'a Ipvs, IpHeader)> {
    let ipvs = Ipvs::of(packet.state().namespace())?;

    if !packet.has_confirmed_conntrack() || !ipvs.would_look_up(packet) {
        return None;
    }
    let header = IpHeader::parse(packet)?;
    let opens = match replay::first_packet(packet, header.transport())? {
        FirstPacket::UdpDatagram => may_reschedule_udp(ipvs),
        FirstPacket::TcpSyn | FirstPacket::SctpInit => true,
    };
    opens.then_some((ipvs, header))
}
