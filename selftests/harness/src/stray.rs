// SPDX-License-Identifier: GPL-2.0

//! Segments with the addresses of flows: a stranger's, or a late duplicate.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use oorandom::Rand32;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{self, Link};
use crate::wire;

/// Sends a SYN from `from` to `to` past the TCP of this machine, on request with a wrong
/// checksum, or a RST in its place. Takes `CAP_NET_RAW`.
pub fn send_syn(from: SocketAddr, to: SocketAddr, damaged: bool, reset: bool) -> io::Result<()> {
    const SEQUENCE: u32 = 0x5eed_5eed;
    let flags = if reset { wire::RST } else { wire::SYN };
    let mut segment = wire::tcp(from, to, flags, SEQUENCE, 0, &[]);
    if damaged {
        segment[16] ^= 0xff;
    }
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
    // Raw sockets know no ports, and IPv6 refuses them.
    socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into())?;
    Ok(())
}

#[derive(Serialize)]
struct Flood {
    sent: u64,
    per_second: u64,
}

/// Sends SYNs for so long, as fast as they go: from each port in turn, each with another sequence
/// number. With `reopen`, each comes behind a FIN, which for the director ends the port's last flow.
/// Takes `CAP_NET_RAW`, and not the address.
pub fn flood(
    link: &Link,
    from: IpAddr,
    to: SocketAddr,
    ports: RangeInclusive<u16>,
    time: Duration,
    reopen: bool,
) -> anyhow::Result<()> {
    let mut sequence = Rand32::new(0x5eed);
    let start = Instant::now();
    let mut sent = 0;
    for port in ports.cycle() {
        if start.elapsed() >= time {
            break;
        }
        let from = SocketAddr::new(from, port);
        let end = reopen.then_some(wire::FIN | wire::ACK);
        for flags in end.into_iter().chain([wire::SYN]) {
            let segment = wire::tcp(from, to, flags, sequence.rand_u32(), 0, &[]);
            link.send(&wire::ip(from.ip(), to.ip(), wire::TCP, &segment))?;
        }
        sent += 1;
    }
    net::print_json(&Flood {
        sent,
        per_second: (sent as f64 / start.elapsed().as_secs_f64()) as u64,
    })
}
