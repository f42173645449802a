// SPDX-License-Identifier: GPL-2.0

//! Entry point on a stock kernel: netfilter hooks that run just before those of IPVS. This is the
//! module `flows` there; `flows.rs` is for a patched IPVS.
//!
//! The hooks are registered only in namespaces where IPVS has services, or has had some since the
//! module was loaded. Packets in other namespaces cost nothing. IPVS sends no notification when a
//! namespace gets its first service, so the module checks once a second.
//!
//! The cost per packet, on top of the call of the hook:
//!
//! | packet | cost |
//! | --- | --- |
//! | IPVS has handled it already | one load |
//! | has no conntrack | two loads |
//! | TCP without SYN | the loads of protocol and flags |
//! | UDP | the load of `expire_nodest_conn`; if it is 1, two more |
//! | TCP SYN, SCTP, IPv6 with extension headers | the load of the conntrack's status |
//! | UDP while IPVS keeps deleted destinations | the load of the conntrack's status |
//! | either of the two rows above, with a confirmed conntrack | the headers are parsed |
//! | opens a flow and has a confirmed conntrack | one lookup in IPVS's connection table |
//! | matches an old entry | see [`replay`] |

use crate::ipvs::{IpHeader, Ipvs, ReopenedFlow};
use crate::net::{Family, Id, Namespace, Packet, StaticId, Transport};
use crate::netfilter::{
    Hook, HookPacket, HookRegistration, NamespaceHooks, Verdict, PRIORITY_NAT_DST, PRIORITY_NAT_SRC,
};
use crate::policy::FirstPacket;
use crate::replay;
use kernel::prelude::*;

/// Keeps the hooks registered until dropped.
pub type Registration = HookRegistration<BeforeIpvs>;

/// Registers the hooks and logs a message. May sleep. Errors are those of
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

static ID: Id<NamespaceHooks<BeforeIpvs>> = Id::new();

impl Hook for BeforeIpvs {
    // These hooks must run before `ip_vs_in_hook()`, so their priority is one less. With an equal
    // priority, the hook that was registered last would run first: IPVS's, because IPVS registers
    // its hooks when a namespace gets its first service. `ip_vs_out_hook()` has the priority used
    // here. Its order does not matter: it handles only replies, which do not reopen a flow.
    const LOCAL_IN_PRIORITY: i32 = PRIORITY_NAT_SRC - 2;
    const LOCAL_OUT_PRIORITY: i32 = PRIORITY_NAT_DST + 1;

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

/// Fast path: rules out most packets with a few loads.
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
        Transport::UDP => Ipvs::of(state.namespace()).is_some_and(Ipvs::may_reschedule_udp),
        Transport::SCTP => true,
        _ => state.family() == Family::Ipv6 && Transport::is_extension(protocol),
    }
}

/// The transport header, or the first extension header of an IPv6 packet. `None` if the network
/// header is not in the linear part. Fragments were reassembled before.
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

/// Slow path, for packets that may reopen a flow.
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

/// The key of the old entry. `None` if the packet does not open a flow, has no confirmed conntrack,
/// or if IPVS would not look it up.
#[inline]
fn lookup_key<'a>(packet: &HookPacket<'a>) -> Option<(&'a Ipvs, IpHeader)> {
    let ipvs = Ipvs::of(packet.state().namespace())?;

    if !packet.has_confirmed_conntrack() || !ipvs.would_look_up(packet) {
        return None;
    }
    let header = IpHeader::parse(packet)?;
    let may_reopen = match replay::first_packet(packet, header.transport())? {
        FirstPacket::UdpDatagram => ipvs.may_reschedule_udp(),
        FirstPacket::TcpSyn | FirstPacket::SctpInit => true,
    };
    may_reopen.then_some((ipvs, header))
}
