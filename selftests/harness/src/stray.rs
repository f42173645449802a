// SPDX-License-Identifier: GPL-2.0

//! A SYN with the addresses of a flow that is alive: a stranger's, or a late duplicate.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Sends a SYN from `from` to `to` past the TCP of this machine, on request with a wrong
/// checksum. Takes `CAP_NET_RAW`.
pub fn send_syn(from: SocketAddr, to: SocketAddr, damaged: bool) -> io::Result<()> {
    let mut segment = syn(from, to);
    if damaged {
        segment[16] ^= 0xff;
    }
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
    // Raw sockets know no ports, and IPv6 refuses them.
    socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into())?;
    Ok(())
}

/// A TCP header without options, checksum included.
fn syn(from: SocketAddr, to: SocketAddr) -> [u8; 20] {
    const SEQUENCE: u32 = 0x5eed_5eed;
    const HEADER_WORDS: u8 = 5;
    const SYN: u8 = 0x02;
    const WINDOW: u16 = 1024;

    let mut header = [0; 20];
    header[0..2].copy_from_slice(&from.port().to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..8].copy_from_slice(&SEQUENCE.to_be_bytes());
    header[12] = HEADER_WORDS << 4;
    header[13] = SYN;
    header[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    let sum = checksum(from.ip(), to.ip(), &header);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The Internet checksum over the pseudo header and an even number of bytes (RFC 9293, 3.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for addr in [from, to] {
        match addr {
            IpAddr::V4(addr) => bytes.extend(addr.octets()),
            IpAddr::V6(addr) => bytes.extend(addr.octets()),
        }
    }
    bytes.extend((segment.len() as u32).to_be_bytes());
    bytes.extend([0, libc::IPPROTO_TCP as u8]);
    bytes.extend(segment);

    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_finds_the_checksum_right() {
        for (from, to) in [
            ("10.0.0.1:1", "10.0.0.2:80"),
            ("[fd00::1]:1", "[fd00::2]:80"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            // Over a segment that carries its checksum the sum is zero.
            assert_eq!(checksum(from.ip(), to.ip(), &syn(from, to)), 0);
        }
    }
}
