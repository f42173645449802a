// SPDX-License-Identifier: GPL-2.0

//! How packets come here on a stock kernel: by hooks of our own, one step before conntrack.
//!
//! What a packet costs on top of the hook itself:
//!
//! | packet | cost |
//! | --- | --- |
//! | namespace without a virtual service | two loads |
//! | IPVS has sent it on | a load more |
//! | opens no flow | the loads of its headers, at a glance where it is TCP without SYN, or UDP; no call (but to walk IPv6 extension headers), no lookup, nothing written |
//! | TCP SYN, SCTP INIT | one lookup in IPVS's table |
//! | UDP datagram | where `expire_nodest_conn` is 1 two loads more, and while IPVS still knows servers that were deleted one lookup in its table |
//! | matches an old entry (UDP: whose server has left) | what [`evict`] says |

use crate::evict;
use crate::ipvs::{Ipvs, Reopened};
use crate::net::{Family, Packet, Transport};
use crate::netfilter::{attached, Attached, Handler, HookState, Hooks, Point, PRIORITY_CONNTRACK};
use kernel::prelude::*;

/// Where in TCP's header its flags are; in front of them, how long it is.
const TCP_FLAGS: u32 = 13;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// While there is one of these, packets come.
pub type Entrance = Hooks<BeforeConntrack>;

/// Opens the entrance, and says so in the kernel's log. May sleep. Errors are those of
/// [`Hooks::new`].
pub fn open() -> impl PinInit<Entrance, Error> {
    Entrance::new().pin_chain(|_| {
        pr_info!(
            "version {}: looks at packets before conntrack does\n",
            env!("IP_VS_REUSE_VERSION")
        );
        Ok(())
    })
}

/// Our place.
pub struct BeforeConntrack;

impl Handler for BeforeConntrack {
    const PRIORITY: i32 = PRIORITY_CONNTRACK - 1;

    #[inline]
    fn packet(state: &HookState, packet: &Packet) {
        let family = state.family();
        let Some(ipvs) = Ipvs::of(state.namespace()).filter(|ipvs| ipvs.has_hooks(family)) else {
            return;
        };
        // What IPVS has sent on comes by again, where NAT or direct routing passes LOCAL_OUT.
        if !packet.is_handled_by_ipvs() && !passes_by(ipvs, family, packet) {
            look_at(ipvs, state, packet);
        }
    }
}

/// Most packets show at a glance that they open no flow: TCP without SYN; UDP, while no datagram
/// does. Where that cannot be seen, or is not so, they are looked at.
#[inline]
fn passes_by(ipvs: &Ipvs, family: Family, packet: &Packet) -> bool {
    match packet.peek_transport(family) {
        Some(Transport {
            protocol: Transport::TCP,
            offset,
        }) => {
            let flags = packet.peek(offset + TCP_FLAGS);
            flags.is_some_and(|[flags]| flags & SYN == 0)
        }
        Some(Transport {
            protocol: Transport::UDP,
            ..
        }) => !ipvs.expire_nodest_conn(),
        _ => false,
    }
}

/// The way of packets that may open a flow.
#[inline(never)]
fn look_at(ipvs: &Ipvs, state: &HookState, packet: &Packet) {
    let Some(transport) = packet.transport(state.family()) else {
        return;
    };
    if may_open_flow(ipvs, packet, transport) == Some(true) {
        opens_flow(ipvs, state, packet, transport);
    }
}

/// Whether the packet may open a flow; `None` where it ends too early. One that conntrack would
/// call invalid does not.
#[inline]
fn may_open_flow(ipvs: &Ipvs, packet: &Packet, transport: Transport) -> Option<bool> {
    let Transport { protocol, offset } = transport;
    let room = packet.length().checked_sub(offset)?;

    match protocol {
        Transport::TCP => {
            let [words, flags] = packet.read(offset.checked_add(TCP_FLAGS - 1)?)?;
            let header = u32::from(words >> 4) * 4;

            Some(flags & (SYN | ACK | RST | FIN) == SYN && (20..=room).contains(&header))
        }
        Transport::SCTP => {
            const INIT: u8 = 1;
            // An INIT has no verification tag, and says so.
            let [_, _, _, _, tag @ .., _, _, _, _, chunk, _, high, low] =
                packet.read::<16>(offset)?;
            let length = u32::from(u16::from_be_bytes([high, low]));

            Some(chunk == INIT && tag == [0; 4] && (20..=room).contains(&length))
        }
        Transport::UDP if ipvs.expire_nodest_conn() && ipvs.may_have_lost_servers() => {
            let [high, low] = packet.read(offset.checked_add(4)?)?;
            let length = u32::from(u16::from_be_bytes([high, low]));

            Some((8..=room).contains(&length))
        }
        _ => Some(false),
    }
}

/// The way of a packet that may open a flow.
#[cold]
fn opens_flow(ipvs: &Ipvs, state: &HookState, packet: &Packet, transport: Transport) {
    // IPVS itself would not look at these.
    let ours = match state.point() {
        Point::PreRouting => packet.is_to_host(),
        Point::LocalOut => !packet.is_from_nodefrag_socket(),
    };
    if !ours || ipvs.is_idle_backup() {
        return;
    }
    // Nor would conntrack at these.
    let template = match attached(packet) {
        Attached::Nothing => None,
        Attached::Template(template) => Some(template),
        Attached::Untracked | Attached::Conntrack => return,
    };
    if let Some(conn) = ipvs.find_conn(state.family(), packet) {
        evict::reopened(&Reopened {
            ipvs,
            state,
            packet,
            transport,
            template,
            conn: &conn,
        });
    }
}
