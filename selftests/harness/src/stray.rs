// SPDX-License-Identifier: GPL-2.0

//! A SYN with the addresses of a flow: a stranger's, or a late duplicate.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::wire;

/// Sends a SYN from `from` to `to` past the TCP of this machine, on request with a wrong
/// checksum. Takes `CAP_NET_RAW`.
pub fn send_syn(from: SocketAddr, to: SocketAddr, damaged: bool) -> io::Result<()> {
    const SEQUENCE: u32 = 0x5eed_5eed;
    let mut segment = wire::tcp(from, to, wire::SYN, SEQUENCE, 0, &[]);
    if damaged {
        segment[16] ^= 0xff;
    }
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
    // Raw sockets know no ports, and IPv6 refuses them.
    socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into())?;
    Ok(())
}
