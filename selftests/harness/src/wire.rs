// SPDX-License-Identifier: GPL-2.0

//! Packets as bytes: the headers that the tests write themselves, lengths and checksums right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FRAGMENT: u8 = 44;
pub const ICMP6: u8 = 58;
pub const SCTP: u8 = 132;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// An IP packet without options or extension headers. Both addresses are of one family, or the
/// packet is an IPv6 one to or from no address.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, protocol, &[], payload),
        (from, to) => ipv6(as_ipv6(from), as_ipv6(to), protocol, payload),
    }
}

fn as_ipv6(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        IpAddr::V6(addr) => addr,
    }
}

/// `options` are at most 40 bytes, in words.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0; header];
    packet[0] = 0x40 | (header / 4) as u8;
    packet[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..].copy_from_slice(options);
    packet.extend(payload);
    sign_ipv4(&mut packet);
    packet
}

/// Makes the header's checksum right, as far as there is a header.
pub fn sign_ipv4(packet: &mut [u8]) {
    let header = usize::from(packet.first().unwrap_or(&0) & 0xf) * 4;
    if (20..=packet.len()).contains(&header) {
        packet[10..12].fill(0);
        let sum = !ones_complement_sum(&packet[..header]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Makes all checksums right that are where the packet itself says.
pub fn repair(packet: &mut [u8]) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            sign_ipv4(packet);
            let header = usize::from(packet[0] & 0xf) * 4;
            let addr = |at| {
                let octets: [u8; 4] = packet[at..at + 4].try_into().unwrap_or_default();
                IpAddr::from(octets)
            };
            let (from, to, protocol) = (addr(12), addr(16), packet[9]);
            if let Some(segment) = packet.get_mut(header..) {
                sign(from, to, protocol, segment);
            }
        }
        Some(6) if packet.len() >= 40 => {
            let addr = |at| {
                let octets: [u8; 16] = packet[at..at + 16].try_into().unwrap_or_default();
                IpAddr::from(octets)
            };
            let (from, to, protocol) = (addr(8), addr(24), packet[6]);
            sign(from, to, protocol, &mut packet[40..]);
        }
        _ => {}
    }
}

/// Extension headers are the payload's first bytes, and `next_header` the first one's number.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet[6] = next_header;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet.extend(payload);
    packet
}

/// The part `range` of a payload, in a datagram of this number. Where more follows, it ends at a
/// multiple of eight.
pub fn fragment(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload: &[u8],
    range: Range<usize>,
    number: u32,
) -> Vec<u8> {
    let more = range.end < payload.len();
    let part = &payload[range.clone()];
    if from.is_ipv4() {
        const MORE: usize = 0x2000;
        let mut packet = ip(from, to, protocol, part);
        let field = (range.start / 8) | if more { MORE } else { 0 };
        packet[4..6].copy_from_slice(&(number as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&(field as u16).to_be_bytes());
        sign_ipv4(&mut packet);
        return packet;
    }
    let field = range.start | usize::from(more);
    let mut behind = vec![protocol, 0];
    behind.extend((field as u16).to_be_bytes());
    behind.extend(number.to_be_bytes());
    behind.extend(part);
    ip(from, to, FRAGMENT, &behind)
}

/// A TCP segment without options.
pub fn tcp(
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    data: &[u8],
) -> Vec<u8> {
    const HEADER_WORDS: u8 = 5;
    const WINDOW: u16 = 1024;

    let mut segment = ports(from, to, 20);
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    segment[12] = HEADER_WORDS << 4;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    segment.extend(data);
    sign(from.ip(), to.ip(), TCP, &mut segment);
    segment
}

pub fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut datagram = ports(from, to, 8);
    datagram[4..6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    datagram.extend(data);
    sign(from.ip(), to.ip(), UDP, &mut datagram);
    datagram
}

/// An SCTP packet with one chunk.
pub fn sctp(from: SocketAddr, to: SocketAddr, tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut packet = ports(from, to, 16);
    packet[4..8].copy_from_slice(&tag.to_be_bytes());
    packet[12] = kind;
    packet[14..16].copy_from_slice(&((4 + value.len()) as u16).to_be_bytes());
    packet.extend(value);
    packet.resize(packet.len().next_multiple_of(4), 0);
    sign(from.ip(), to.ip(), SCTP, &mut packet);
    packet
}

/// An ICMP or ICMPv6 error: `rest` are the four bytes behind the checksum.
pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let protocol = if to.is_ipv4() { ICMP } else { ICMP6 };
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(quoted);
    sign(from, to, protocol, &mut message);
    ip(from, to, protocol, &message)
}

fn ports(from: SocketAddr, to: SocketAddr, header: usize) -> Vec<u8> {
    let mut bytes = vec![0; header];
    bytes[0..2].copy_from_slice(&from.port().to_be_bytes());
    bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
    bytes
}

/// Makes the transport's checksum right, as far as there is a header.
pub fn sign(from: IpAddr, to: IpAddr, protocol: u8, segment: &mut [u8]) {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        SCTP => 8,
        ICMP | ICMP6 => 2,
        _ => return,
    };
    if protocol == SCTP {
        if let Some(place) = segment.get_mut(at..at + 4) {
            place.fill(0);
            let sum = crc32c(segment);
            segment[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        }
    } else if let Some(place) = segment.get_mut(at..at + 2) {
        place.fill(0);
        let sum = match !ones_complement_sum(&checksummed(from, to, protocol, segment)) {
            // A datagram's zero would say that there is no checksum.
            0 if protocol == UDP => 0xffff,
            sum => sum,
        };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The segment behind what else its checksum covers: but for ICMP the pseudo header.
fn checksummed(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if protocol != ICMP {
        for addr in [from, to] {
            match addr {
                IpAddr::V4(addr) => bytes.extend(addr.octets()),
                IpAddr::V6(addr) => bytes.extend(addr.octets()),
            }
        }
        bytes.extend((segment.len() as u32).to_be_bytes());
        bytes.extend([0, protocol]);
    }
    bytes.extend(segment);
    bytes
}

/// The Internet checksum before it is inverted (RFC 1071).
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// SCTP's checksum (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;

    !bytes.iter().fold(!0, |mut crc, &byte| {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ ((crc & 1) * POLYNOMIAL);
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    /// A client and a service of each family.
    fn pairs() -> [(SocketAddr, SocketAddr); 2] {
        [
            ("10.0.0.1:1024", "10.0.0.2:80"),
            ("[fd00::1]:1024", "[fd00::2]:80"),
        ]
        .map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()))
    }

    #[test]
    fn an_independent_parser_finds_headers_and_checksums_right() {
        for (from, to) in pairs() {
            for data in [&b""[..], b"odd", b"even"] {
                for (protocol, segment) in [
                    (TCP, tcp(from, to, SYN, 1, 2, data)),
                    (UDP, udp(from, to, data)),
                ] {
                    let packet = ip(from.ip(), to.ip(), protocol, &segment);
                    let parsed = SlicedPacket::from_ip(&packet).unwrap();
                    let net = parsed.net.unwrap();
                    let (payload, sum, expected) = match parsed.transport.unwrap() {
                        TransportSlice::Tcp(tcp) => {
                            let header = tcp.to_header();
                            assert!(header.syn && !header.ack);
                            let sum = match &net {
                                NetSlice::Ipv4(ip) => header
                                    .calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()),
                                NetSlice::Ipv6(ip) => header
                                    .calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()),
                                NetSlice::Arp(_) => unreachable!(),
                            };
                            (tcp.payload().to_vec(), header.checksum, sum.unwrap())
                        }
                        TransportSlice::Udp(udp) => {
                            let header = udp.to_header();
                            let sum = match &net {
                                NetSlice::Ipv4(ip) => header
                                    .calc_checksum_ipv4(&ip.header().to_header(), udp.payload()),
                                NetSlice::Ipv6(ip) => header
                                    .calc_checksum_ipv6(&ip.header().to_header(), udp.payload()),
                                NetSlice::Arp(_) => unreachable!(),
                            };
                            (udp.payload().to_vec(), header.checksum, sum.unwrap())
                        }
                        other => panic!("{other:?}"),
                    };
                    assert_eq!((payload.as_slice(), sum), (data, expected));
                    if let NetSlice::Ipv4(ip) = net {
                        let header = ip.header().to_header();
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                    }
                }
            }
        }
    }

    #[test]
    fn the_checksum_of_an_icmp_error_is_right() {
        for (from, to) in pairs() {
            let packet = icmp(from.ip(), to.ip(), 3, 1, [0; 4], b"quoted");
            let transport = SlicedPacket::from_ip(&packet).unwrap().transport;
            match transport.unwrap() {
                // Over a message that carries its checksum the sum is inverted zero.
                TransportSlice::Icmpv4(icmp) => {
                    assert_eq!(ones_complement_sum(icmp.slice()), 0xffff)
                }
                TransportSlice::Icmpv6(icmp) => {
                    let (IpAddr::V6(from), IpAddr::V6(to)) = (from.ip(), to.ip()) else {
                        unreachable!()
                    };
                    assert!(icmp.is_checksum_valid(from.octets(), to.octets()))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn crc32c_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
