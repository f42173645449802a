// SPDX-License-Identifier: GPL-2.0

//! A connection that is opened by a SYN as this machine's TCP would not send it. The SYN-ACK shows
//! that it has arrived, and is all there is of the connection: TCP here knows nothing of it, and
//! resets it.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{self, until};
use crate::wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// In two fragments; of IPv4, with the flags in the second one
    Fragments,
    /// Whole, behind a fragment header all the same (RFC 8200, 4.5); of IPv4, as any packet
    Atomic,
    /// Its sequence number and its timestamp are less than the first connection's
    Old,
}

/// The interface to send by, and the Ethernet address of the director behind it.
pub type Via = (String, [u8; 6]);

/// The SYN's sequence number and timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    sequence: u32,
    timestamp: u32,
}

impl Age {
    /// Less than what the connection's packets have, by more than any window or clock explains.
    pub fn before(connection: &Socket) -> io::Result<Self> {
        let (sequence, timestamp) = net::sequence_and_clock(connection)?;
        Ok(Self {
            sequence: sequence.wrapping_sub(0x1000_0000),
            timestamp: timestamp.wrapping_sub(1_000_000),
        })
    }
}

impl Default for Age {
    fn default() -> Self {
        Self {
            sequence: 0x5eed_5eed,
            timestamp: 0x5eed_5eed,
        }
    }
}

/// Sends the SYN once a second until it is answered. How often it was sent again, and the socket
/// that heard the answer.
pub fn open(
    (interface, mac): &Via,
    kind: Kind,
    age: Age,
    from: SocketAddr,
    to: SocketAddr,
    timeout: Duration,
) -> io::Result<(u32, io::Result<Socket>)> {
    const TRY: Duration = Duration::from_secs(1);

    let link = net::Link::new(interface, *mac)?;
    // It hears everything that comes from there for any port of this machine's TCP.
    let mut socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    socket.connect(&SocketAddr::new(to.ip(), 0).into())?;
    let deadline = Instant::now() + timeout;
    let mut sent_again = 0;
    loop {
        for frame in frames(kind, age, from, to, sent_again) {
            link.send(&frame)?;
        }
        let wait_until = deadline.min(Instant::now() + TRY);
        match wait_for_answer(&mut socket, age, from, to, wait_until) {
            Ok(true) => return Ok((sent_again, Ok(socket))),
            Ok(false) if Instant::now() < deadline => sent_again += 1,
            Ok(false) => return Ok((sent_again, Err(io::ErrorKind::TimedOut.into()))),
            Err(error) => return Err(error),
        }
    }
}

fn frames(kind: Kind, age: Age, from: SocketAddr, to: SocketAddr, number: u32) -> Vec<Vec<u8>> {
    let segment = syn(age, from, to);
    let (from, to) = (from.ip(), to.ip());
    match kind {
        Kind::Atomic => vec![wire::fragment(
            from,
            to,
            wire::TCP,
            &segment,
            0..segment.len(),
            number ^ age.sequence,
        )],
        Kind::Old => vec![wire::ip(from, to, wire::TCP, &segment)],
        Kind::Fragments => {
            // IPv6 wants a whole header in the first one (RFC 8200, 4.5).
            let split = if from.is_ipv4() { 8 } else { 24 };
            // Of another datagram than those of the client's port before it.
            let number = number ^ age.sequence;
            [0..split, split..segment.len()]
                .map(|range| wire::fragment(from, to, wire::TCP, &segment, range, number))
                .into()
        }
    }
}

/// With a timestamp, which TCP on the other side may judge it by.
fn syn(age: Age, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const NOP: u8 = 1;
    const TIMESTAMPS: [u8; 2] = [8, 10];

    let mut options = vec![NOP, NOP];
    options.extend(TIMESTAMPS);
    options.extend(age.timestamp.to_be_bytes());
    options.extend([0; 4]);
    let mut segment = wire::tcp(from, to, wire::SYN, age.sequence, 0, &options);
    segment[12] = ((segment.len() / 4) as u8) << 4;
    wire::sign(from.ip(), to.ip(), wire::TCP, &mut segment);
    segment
}

fn wait_for_answer(
    socket: &mut Socket,
    age: Age,
    from: SocketAddr,
    to: SocketAddr,
    deadline: Instant,
) -> io::Result<bool> {
    let mut packet = [0; 2048];
    while Instant::now() < deadline {
        socket.set_read_timeout(Some(until(deadline)))?;
        match socket.read(&mut packet) {
            Ok(length) if answers(&packet[..length], age, from, to) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether it is the SYN-ACK. What a raw socket hears begins with the header, of IPv4 only.
fn answers(packet: &[u8], age: Age, from: SocketAddr, to: SocketAddr) -> bool {
    let header = match (from.is_ipv4(), packet.first()) {
        (true, Some(first)) => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    let Some(segment) = packet.get(header..).filter(|segment| segment.len() >= 20) else {
        return false;
    };
    segment[..2] == to.port().to_be_bytes()
        && segment[2..4] == from.port().to_be_bytes()
        && segment[8..12] == age.sequence.wrapping_add(1).to_be_bytes()
        && segment[13] & (wire::SYN | wire::ACK | wire::RST) == wire::SYN | wire::ACK
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};

    fn pairs() -> [(SocketAddr, SocketAddr); 2] {
        [
            ("10.0.0.2:1024", "10.9.0.1:80"),
            ("[fd00::2]:1024", "[fd00:9::1]:80"),
        ]
        .map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()))
    }

    #[test]
    fn the_syn_has_its_age_and_no_data() {
        let age = Age {
            sequence: 7,
            timestamp: 9,
        };
        for (from, to) in pairs() {
            let frames = frames(Kind::Old, age, from, to, 0);
            let parsed = SlicedPacket::from_ip(&frames[0]).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = parsed.transport else {
                panic!("{parsed:?}")
            };
            assert!(tcp.syn() && !tcp.ack() && tcp.payload().is_empty());
            assert_eq!(tcp.sequence_number(), 7);
            assert_eq!(tcp.options()[4..8], [0, 0, 0, 9]);
        }
    }

    #[test]
    fn the_fragments_are_the_syn() {
        for (from, to) in pairs() {
            let header = if from.is_ipv4() { 20 } else { 48 };
            let frames = frames(Kind::Fragments, Age::default(), from, to, 1);
            let parts: Vec<u8> = (frames.iter())
                .flat_map(|frame| frame[header..].to_vec())
                .collect();
            assert_eq!(frames.len(), 2);
            assert_eq!(parts, syn(Age::default(), from, to));

            let whole = super::frames(Kind::Atomic, Age::default(), from, to, 1);
            assert_eq!(whole.len(), 1);
            assert_eq!(whole[0][header..], parts);
        }
    }

    #[test]
    fn only_its_own_syn_ack_answers() {
        let age = Age::default();
        for (from, to) in pairs() {
            let heard = |flags, acknowledged| {
                let segment = wire::tcp(to, from, flags, 1, acknowledged, &[]);
                match from.is_ipv4() {
                    true => wire::ip(to.ip(), from.ip(), wire::TCP, &segment),
                    false => segment,
                }
            };
            let next = age.sequence + 1;
            let answer = heard(wire::SYN | wire::ACK, next);
            assert!(answers(&answer, age, from, to));
            assert!(!answers(&answer[..answer.len() - 1], age, from, to));
            assert!(!answers(&heard(wire::SYN | wire::ACK, 1), age, from, to));
            assert!(!answers(&heard(wire::RST | wire::ACK, next), age, from, to));
            assert!(!answers(&[], age, from, to));
        }
    }
}
