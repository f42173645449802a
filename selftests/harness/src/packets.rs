// SPDX-License-Identifier: GPL-2.0

//! Bad packets, and good ones among them, aimed at flows that the director remembers. What the
//! n-th packet of a seed is depends on nothing but the two and the flows: a run can be repeated,
//! in whole or from any packet on, and several senders can send the same packets at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{hint, io, thread};

use anyhow::{ensure, Context as _};
use oorandom::Rand64;
use serde::Serialize;

use crate::net::{self, Proto};
use crate::wire::{self, FRAGMENT};

/// What is sent. The order is that of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A SYN, an INIT, or a datagram, as it should be
    Opener,
    /// A SYN with data
    SynData,
    /// TCP ACKs and data, SCTP chunks of an association that is up
    Middle,
    /// FIN, RST, ABORT, SHUTDOWN and their like
    End,
    SynFin,
    SynRst,
    SynAck,
    /// Any other flags but a SYN alone
    OddFlags,
    /// An opener whose checksum is wrong
    BadChecksum,
    /// An opener cut within its transport header, the IP header in agreement
    Truncated,
    /// TCP's data offset, SCTP's chunk length or UDP's length: too small or too large
    LyingLength,
    /// The IP header's length is less than the opener's, or more
    LyingTotal,
    /// An opener, and bytes behind its end
    Padded,
    /// An opener in fragments, all there, in any order, some twice
    Fragments,
    /// Some fragment of an opener, but not the others
    LoneFragment,
    /// An opener in fragments that overlap
    Overlap,
    /// An opener behind IPv4 options, good ones and bad
    Options,
    /// An opener behind IPv6 extension headers, some of them more than once
    Extensions,
    /// The same with chains that are cut, too long, or lie about their length
    BadExtensions,
    /// An ICMP error that quotes a packet of the flow, well or badly
    IcmpError,
    /// Any of the first four, some bytes of it changed
    Mutated,
    /// The same with checksums that are right again
    Repaired,
    /// No IP packet at all but for its first digit
    Garbage,
}

impl Kind {
    /// How often it comes beside the others.
    fn weight(self) -> u64 {
        match self {
            // They bring entries into the states in which the others find them.
            Kind::Opener => 6,
            Kind::Middle | Kind::End => 4,
            Kind::Mutated | Kind::Repaired => 2,
            _ => 1,
        }
    }

    /// Whether a flow can have such a packet.
    fn fits(self, flow: &Flow) -> bool {
        match self {
            Kind::SynData | Kind::SynFin | Kind::SynRst | Kind::SynAck | Kind::OddFlags => {
                flow.proto == Proto::Tcp
            }
            // All of UDP's packets are openers.
            Kind::Middle | Kind::End => flow.proto != Proto::Udp,
            Kind::Options => flow.from.is_ipv4(),
            Kind::Extensions | Kind::BadExtensions => flow.from.is_ipv6(),
            _ => true,
        }
    }
}

/// The flows to hit: each client with the services of its family, from each port.
pub struct Flows {
    pub from: Vec<IpAddr>,
    pub to: Vec<SocketAddr>,
    pub ports: RangeInclusive<u16>,
    pub protos: Vec<Proto>,
}

#[derive(Clone, Copy)]
struct Flow {
    proto: Proto,
    from: SocketAddr,
    to: SocketAddr,
}

impl Flow {
    fn protocol(&self) -> u8 {
        match self.proto {
            Proto::Tcp => wire::TCP,
            Proto::Udp => wire::UDP,
            Proto::Sctp => wire::SCTP,
        }
    }

    /// The client's packet with such a transport header and payload.
    fn packet(&self, segment: &[u8]) -> Vec<u8> {
        wire::ip(self.from.ip(), self.to.ip(), self.protocol(), segment)
    }

    fn sign(&self, segment: &mut [u8]) {
        wire::sign(self.from.ip(), self.to.ip(), self.protocol(), segment);
    }
}

/// One packet; several frames where it comes in fragments.
#[derive(Debug, PartialEq, Eq)]
pub struct Crafted {
    pub kind: Kind,
    pub frames: Vec<Vec<u8>>,
}

/// What is drawn for one packet.
struct Dice(Rand64);

impl Dice {
    fn new(seed: u64, index: u64) -> Self {
        Self(Rand64::new((u128::from(seed) << 64) | u128::from(index)))
    }

    fn within(&mut self, range: Range<usize>) -> usize {
        self.0.rand_range(range.start as u64..range.end as u64) as usize
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.0.rand_range(0..n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0..from.len())]
    }

    fn byte(&mut self) -> u8 {
        self.word() as u8
    }

    fn word(&mut self) -> u32 {
        self.0.rand_u64() as u32
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}

/// Packet `index` of `seed`: one of `kinds`, of which some fit some of the `flows`.
fn craft(seed: u64, index: u64, flows: &Flows, kinds: &[Kind]) -> Crafted {
    let mut dice = Dice::new(seed, index);
    let (flow, kind) = loop {
        let flow = flows.draw(&mut dice);
        if let Some(kind) = draw_kind(&mut dice, &flow, kinds) {
            break (flow, kind);
        }
    };
    Crafted {
        kind,
        frames: frames(&mut dice, kind, &flow, index),
    }
}

impl Flows {
    fn draw(&self, dice: &mut Dice) -> Flow {
        let to = dice.pick(&self.to);
        let same_family: Vec<_> = (self.from.iter().copied())
            .filter(|from| from.is_ipv4() == to.is_ipv4())
            .collect();
        let port = self.ports.start() + dice.within(0..self.ports.len()) as u16;
        Flow {
            proto: dice.pick(&self.protos),
            from: SocketAddr::new(dice.pick(&same_family), port),
            to,
        }
    }

    /// Whether each service has a client, and there are packets for some flow.
    fn check(&self, kinds: &[Kind]) -> anyhow::Result<()> {
        for &to in &self.to {
            let from = self.from.iter().find(|from| from.is_ipv4() == to.is_ipv4());
            let from = from.with_context(|| format!("no address in --from can talk to {to}"))?;
            let some_fits = self.protos.iter().any(|&proto| {
                let from = SocketAddr::new(*from, *self.ports.start());
                kinds
                    .iter()
                    .any(|kind| kind.fits(&Flow { proto, from, to }))
            });
            ensure!(some_fits, "no --kind fits {to} by any --proto");
        }
        Ok(())
    }
}

fn draw_kind(dice: &mut Dice, flow: &Flow, kinds: &[Kind]) -> Option<Kind> {
    let fitting = || kinds.iter().copied().filter(|kind| kind.fits(flow));
    let mut left = match fitting().map(Kind::weight).sum() {
        0 => return None,
        all => dice.0.rand_range(0..all),
    };
    fitting().find(|kind| match left.checked_sub(kind.weight()) {
        Some(less) => {
            left = less;
            false
        }
        None => true,
    })
}

fn frames(dice: &mut Dice, kind: Kind, flow: &Flow, index: u64) -> Vec<Vec<u8>> {
    let one = |packet| vec![packet];
    match kind {
        Kind::Opener | Kind::SynData | Kind::Middle | Kind::End => {
            one(flow.packet(&good(dice, kind, flow)))
        }
        Kind::SynFin => one(flagged(dice, flow, wire::SYN | wire::FIN)),
        Kind::SynRst => one(flagged(dice, flow, wire::SYN | wire::RST)),
        Kind::SynAck => one(flagged(dice, flow, wire::SYN | wire::ACK)),
        Kind::OddFlags => {
            const ALL: u8 = wire::SYN | wire::ACK | wire::RST | wire::FIN;
            let flags = match dice.byte() {
                alone if alone & ALL == wire::SYN => alone | wire::FIN,
                flags => flags,
            };
            one(flagged(dice, flow, flags))
        }
        Kind::BadChecksum => {
            let mut segment = opener(dice, flow, 0);
            let at = match flow.proto {
                Proto::Tcp => 16,
                Proto::Udp => 6,
                Proto::Sctp => 8,
            };
            // Never to zero, which in a datagram says that there is none.
            let wrong = dice.within(1..256) as u8;
            segment[at] ^= wrong;
            segment[at + 1] |= u8::from(segment[at] == 0);
            one(flow.packet(&segment))
        }
        Kind::Truncated => {
            let header = match flow.proto {
                Proto::Tcp => 20,
                Proto::Udp => 8,
                Proto::Sctp => 32,
            };
            let mut segment = opener(dice, flow, 0);
            segment.truncate(dice.within(0..header));
            one(flow.packet(&segment))
        }
        Kind::LyingLength => {
            let mut segment = opener(dice, flow, 0);
            let room = segment.len();
            match flow.proto {
                Proto::Tcp => segment[12] = dice.pick(&[0, 1, 4, 6, 8, 15]) << 4,
                Proto::Udp => lie(dice, &mut segment[4..6], 8, room),
                Proto::Sctp => lie(dice, &mut segment[14..16], 20, room),
            }
            flow.sign(&mut segment);
            one(flow.packet(&segment))
        }
        Kind::LyingTotal => {
            let segment = opener(dice, flow, 0);
            let mut packet = flow.packet(&segment);
            let length = packet.len();
            if flow.from.is_ipv4() {
                lie(dice, &mut packet[2..4], length, length);
                wire::sign_ipv4(&mut packet);
            } else {
                lie(dice, &mut packet[4..6], length - 40, length - 40);
            }
            one(packet)
        }
        Kind::Padded => {
            let mut packet = flow.packet(&opener(dice, flow, 0));
            let padding = dice.within(1..64);
            packet.extend(dice.bytes(padding));
            one(packet)
        }
        Kind::Fragments => {
            let segment = fragmentable(dice, flow);
            let split = dice.within(1..segment.len().div_ceil(8)) * 8;
            let mut frames = vec![
                fragment(flow, &segment, 0..split, index),
                fragment(flow, &segment, split..segment.len(), index),
            ];
            if dice.one_in(2) {
                frames.swap(0, 1);
            }
            if dice.one_in(4) {
                frames.insert(1, frames[0].clone());
            }
            frames
        }
        Kind::LoneFragment => {
            let segment = fragmentable(dice, flow);
            let start = dice.within(0..segment.len() / 8) * 8;
            let range = match start {
                0 => 0..8 * dice.within(1..segment.len().div_ceil(8)),
                _ => start..segment.len(),
            };
            one(fragment(flow, &segment, range, index))
        }
        Kind::Overlap => {
            let segment = fragmentable(dice, flow);
            let mut frames = vec![
                fragment(flow, &segment, 0..24, index),
                fragment(flow, &segment, dice.pick(&[8, 16])..segment.len(), index),
            ];
            if dice.one_in(2) {
                frames.swap(0, 1);
            }
            frames
        }
        Kind::Options => one(with_options(dice, flow)),
        Kind::Extensions => {
            let headers = dice.within(1..6);
            one(behind_extensions(dice, flow, headers))
        }
        Kind::BadExtensions => one(behind_bad_extensions(dice, flow)),
        Kind::IcmpError => one(icmp_error(dice, flow)),
        Kind::Mutated => one(mutated(dice, flow)),
        Kind::Repaired => {
            let mut packet = mutated(dice, flow);
            wire::repair(&mut packet);
            one(packet)
        }
        Kind::Garbage => {
            let length = dice.within(1..200);
            let mut bytes = dice.bytes(length);
            bytes[0] = dice.pick(&[0x40, 0x45, 0x4f, 0x60]) | bytes[0] & 0xf;
            one(bytes)
        }
    }
}

/// A good packet's transport header and payload.
fn good(dice: &mut Dice, kind: Kind, flow: &Flow) -> Vec<u8> {
    let data = dice.within(1..100);
    match (kind, flow.proto) {
        (Kind::Middle, Proto::Tcp) => {
            let data = if dice.one_in(2) { data } else { 0 };
            segment(dice, flow, wire::ACK | wire::PSH, data)
        }
        (Kind::End, Proto::Tcp) => {
            let flags = dice.pick(&[wire::FIN | wire::ACK, wire::RST, wire::RST | wire::ACK]);
            segment(dice, flow, flags, 0)
        }
        (Kind::Middle, Proto::Sctp) => {
            const DATA: u8 = 0;
            const SACK: u8 = 3;
            const HEARTBEAT: u8 = 4;
            const COOKIE_ECHO: u8 = 10;
            const COOKIE_ACK: u8 = 11;
            let chunk = dice.pick(&[DATA, SACK, HEARTBEAT, COOKIE_ECHO, COOKIE_ACK]);
            wire::sctp(flow.from, flow.to, dice.word(), chunk, &dice.bytes(data))
        }
        (Kind::End, Proto::Sctp) => {
            const ABORT: u8 = 6;
            const SHUTDOWN: u8 = 7;
            const SHUTDOWN_ACK: u8 = 8;
            const SHUTDOWN_COMPLETE: u8 = 14;
            let chunk = dice.pick(&[ABORT, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE]);
            wire::sctp(flow.from, flow.to, dice.word(), chunk, &dice.bytes(4))
        }
        (Kind::SynData, _) => opener(dice, flow, data),
        _ => opener(dice, flow, 0),
    }
}

/// A packet that opens the flow: with so much data behind it where that is possible.
fn opener(dice: &mut Dice, flow: &Flow, data: usize) -> Vec<u8> {
    match flow.proto {
        Proto::Tcp => segment(dice, flow, wire::SYN, data),
        Proto::Udp => wire::udp(flow.from, flow.to, &dice.bytes(data)),
        Proto::Sctp => {
            const INIT: u8 = 1;
            // Tag, window, streams out and in, first number.
            let mut init = vec![0, 0, 0, 1, 0, 1, 0, 0, 0, 5, 0, 5];
            init.extend(dice.bytes(4));
            wire::sctp(flow.from, flow.to, 0, INIT, &init)
        }
    }
}

/// A TCP segment; half of them have numbers that agree with the flow's other ones.
fn segment(dice: &mut Dice, flow: &Flow, flags: u8, data: usize) -> Vec<u8> {
    let first = u32::from(flow.from.port()) << 16;
    let sequence = match dice.one_in(2) {
        true if flags & wire::SYN != 0 => first,
        true => first + 1,
        false => dice.word(),
    };
    let data = dice.bytes(data);
    wire::tcp(flow.from, flow.to, flags, sequence, dice.word(), &data)
}

fn flagged(dice: &mut Dice, flow: &Flow, flags: u8) -> Vec<u8> {
    let data = if dice.one_in(2) { 10 } else { 0 };
    flow.packet(&segment(dice, flow, flags, data))
}

/// Makes a length field of 16 bits say less than `least`, or more than `most`.
fn lie(dice: &mut Dice, field: &mut [u8], least: usize, most: usize) {
    let length = match dice.one_in(2) {
        true => dice.within(0..least),
        false => dice.within(most + 1..usize::from(u16::MAX) + 1),
    };
    field.copy_from_slice(&(length as u16).to_be_bytes());
}

/// An opener of at least 32 bytes.
fn fragmentable(dice: &mut Dice, flow: &Flow) -> Vec<u8> {
    let data = dice.within(24..200);
    opener(dice, flow, data)
}

/// The part `range` of the segment, of a datagram that is numbered by the packet's index.
fn fragment(flow: &Flow, segment: &[u8], range: Range<usize>, index: u64) -> Vec<u8> {
    let (from, to) = (flow.from.ip(), flow.to.ip());
    wire::fragment(from, to, flow.protocol(), segment, range, index as u32)
}

fn with_options(dice: &mut Dice, flow: &Flow) -> Vec<u8> {
    const NOP: u8 = 1;
    // Record route, timestamp, loose and strict source route, security, router alert, and nothing.
    const KINDS: [u8; 7] = [7, 68, 131, 137, 130, 148, 99];

    let room = 4 * dice.within(1..11);
    let mut options = Vec::new();
    while options.len() < room {
        let left = room - options.len();
        if left < 4 || dice.one_in(3) {
            options.push(NOP);
            continue;
        }
        let length = dice.within(3..left + 1);
        options.extend([dice.pick(&KINDS), length as u8, 4]);
        options.resize(options.len() + length - 3, 0);
    }
    if dice.one_in(3) {
        let at = dice.within(0..room);
        options[at] = dice.byte();
    }
    let segment = opener(dice, flow, 0);
    match (flow.from.ip(), flow.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            wire::ipv4(from, to, flow.protocol(), &options, &segment)
        }
        _ => flow.packet(&segment),
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const NO_NEXT: u8 = 59;

/// An opener behind so many extension headers that say the truth. Fragment headers among them
/// are of datagrams in one piece.
fn behind_extensions(dice: &mut Dice, flow: &Flow, headers: usize) -> Vec<u8> {
    let mut payload = opener(dice, flow, 0);
    let mut next = flow.protocol();
    for left in (0..headers).rev() {
        let number = match left {
            // Elsewhere it makes the packet invalid.
            0 if dice.one_in(2) => HOP_BY_HOP,
            _ => dice.pick(&[ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, DESTINATION]),
        };
        let mut header = vec![next, 0];
        match number {
            FRAGMENT => header.resize(8, 0),
            // In words, less two.
            AUTHENTICATION => {
                header[1] = 4;
                header.resize(24, 0);
            }
            // A type that nobody knows, and nothing left to visit.
            ROUTING => header.extend([253, 0, 0, 0, 0, 0]),
            // Padding, up to the end of one or two times eight bytes.
            _ => {
                let words = dice.pick(&[0, 1]);
                header[1] = words;
                header.extend([1, 4 + 8 * words]);
                header.resize(8 + 8 * usize::from(words), 0);
            }
        }
        header.extend(payload);
        payload = header;
        next = number;
    }
    wire::ip(flow.from.ip(), flow.to.ip(), next, &payload)
}

fn behind_bad_extensions(dice: &mut Dice, flow: &Flow) -> Vec<u8> {
    const HEADER: usize = 40;

    let headers = match dice.one_in(4) {
        true => dice.within(20..50),
        false => dice.within(1..6),
    };
    let mut packet = behind_extensions(dice, flow, headers);
    match dice.within(0..4) {
        // Cut, and the IPv6 header knows.
        0 => {
            packet.truncate(HEADER + dice.within(0..8 * headers));
            let length = (packet.len() - HEADER) as u16;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        // The first header's length.
        1 => packet[HEADER + 1] = dice.byte(),
        // The chain goes astray: to itself, to nowhere, to anything.
        2 => packet[HEADER] = dice.pick(&[HOP_BY_HOP, DESTINATION, NO_NEXT, AUTHENTICATION, 255]),
        _ => {
            let at = HEADER + dice.within(0..8 * headers);
            packet[at] = dice.byte();
        }
    }
    packet
}

/// From the client or a router on its side, about a packet that it got, or one that it sent.
fn icmp_error(dice: &mut Dice, flow: &Flow) -> Vec<u8> {
    let mut quoted = match dice.one_in(4) {
        true => flow.packet(&opener(dice, flow, 0)),
        false => {
            let reply = Flow {
                from: flow.to,
                to: flow.from,
                ..*flow
            };
            reply.packet(&opener(dice, &reply, 8))
        }
    };
    match dice.within(0..4) {
        0 => quoted.truncate(dice.within(0..quoted.len())),
        1 => {
            let at = dice.within(0..quoted.len());
            quoted[at] = dice.byte();
        }
        _ => {}
    }
    let rest = match dice.one_in(2) {
        // An MTU, in both families' messages.
        true => dice.pick(&[0u32, 68, 552, 1280, 1400, u32::MAX]),
        false => dice.word(),
    };
    let (kind, code) = match flow.from.is_ipv4() {
        // Unreachable, quench, redirect, time exceeded, bad parameter
        true => (dice.pick(&[3, 3, 3, 4, 5, 11, 12]), dice.within(0..16)),
        // Unreachable, too big, time exceeded, bad parameter
        false => (dice.pick(&[1, 2, 2, 3, 4]), dice.within(0..8)),
    };
    let (from, to) = (flow.from.ip(), flow.to.ip());
    wire::icmp(from, to, kind, code as u8, rest.to_be_bytes(), &quoted)
}

fn mutated(dice: &mut Dice, flow: &Flow) -> Vec<u8> {
    const GOOD: [Kind; 4] = [Kind::Opener, Kind::SynData, Kind::Middle, Kind::End];

    let kind = draw_kind(dice, flow, &GOOD).unwrap_or(Kind::Opener);
    let mut packet = flow.packet(&good(dice, kind, flow));
    for _ in 0..dice.within(1..5) {
        let at = dice.within(0..packet.len());
        packet[at] = match dice.one_in(2) {
            true => dice.byte(),
            false => packet[at] ^ (1 << dice.within(0..8)),
        };
    }
    packet
}

/// Which of a seed's packets to send.
pub struct Series {
    /// Drawn at random where it is not given.
    pub seed: Option<u64>,
    pub first: u64,
    pub count: u64,
}

/// What was sent, and all that it takes to send it again.
#[derive(Default, Serialize)]
struct Report {
    seed: u64,
    first: u64,
    packets: u64,
    frames: u64,
    kinds: BTreeMap<Kind, u64>,
}

/// Sends a series of packets by each of the links: all send the same packet at the same time,
/// each on a processor of its own.
pub fn send(
    flows: &Flows,
    kinds: &[Kind],
    series: Series,
    links: &[net::Link],
) -> anyhow::Result<()> {
    flows.check(kinds)?;
    let seed = series.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap_or_default().as_nanos() as u64
    });
    let line = StartingLine::new(links.len());
    let send_all = |processor: usize, link: &net::Link| -> io::Result<Report> {
        if links.len() > 1 {
            net::run_on_processor(processor)?;
        }
        let mut report = Report {
            seed,
            first: series.first,
            ..Report::default()
        };
        for n in 0..series.count {
            let crafted = craft(seed, series.first.wrapping_add(n), flows, kinds);
            line.wait_for_round(n);
            for frame in &crafted.frames {
                link.send(frame)?;
                report.frames += 1;
            }
            report.packets += 1;
            *report.kinds.entry(crafted.kind).or_default() += 1;
        }
        Ok(report)
    };

    let reports: Vec<_> = thread::scope(|scope| {
        let senders: Vec<_> = (links.iter().enumerate())
            .map(|(n, link)| {
                let (line, send_all) = (&line, &send_all);
                scope.spawn(move || {
                    let report = send_all(n, link);
                    line.leave();
                    report
                })
            })
            .collect();
        let ended = senders.into_iter().map(|sender| sender.join());
        ended
            .map(|report| report.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    for report in reports {
        let report = report.with_context(|| format!("cannot send seed {seed}'s packets"))?;
        net::print_json(&report)?;
    }
    Ok(())
}

/// Where threads wait for each other: busily at first, as to wake up takes longer than what they
/// then do; but one of them may have lost its processor, in a virtual machine also to the other.
struct StartingLine {
    threads: u64,
    arrived: AtomicU64,
}

impl StartingLine {
    fn new(threads: usize) -> Self {
        Self {
            threads: threads as u64,
            arrived: AtomicU64::new(0),
        }
    }

    fn wait_for_round(&self, n: u64) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut looks = 0u32;
        while self.arrived.load(Ordering::Acquire) < (n + 1) * self.threads {
            looks = looks.wrapping_add(1);
            match looks % 1000 {
                0 => thread::sleep(Duration::from_micros(50)),
                _ => hint::spin_loop(),
            }
        }
    }

    /// Nobody waits any more: whoever leaves does not arrive again.
    fn leave(&self) {
        self.arrived.fetch_max(u64::MAX / 2, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;
    use etherparse::{SlicedPacket, TransportSlice};

    fn flows() -> Flows {
        Flows {
            from: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            to: vec![
                "10.9.0.1:80".parse().unwrap(),
                "[fd00:9::1]:80".parse().unwrap(),
            ],
            ports: 20000..=20063,
            protos: vec![Proto::Tcp, Proto::Udp, Proto::Sctp],
        }
    }

    fn crafted(count: u64, kinds: &[Kind]) -> impl Iterator<Item = Crafted> + '_ {
        let flows = flows();
        (0..count).map(move |index| craft(7, index, &flows, kinds))
    }

    #[test]
    fn the_same_seed_makes_the_same_packets() {
        let (flows, kinds) = (flows(), Kind::value_variants());
        let made = |seed, index| craft(seed, index, &flows, kinds);
        for index in 0..1000 {
            assert_eq!(made(7, index), made(7, index));
            assert_ne!(made(7, index), made(8, index));
            assert_ne!(made(7, index), made(7, index + 1));
        }
    }

    #[test]
    fn every_kind_comes_as_often_as_its_weight_says() {
        let mut seen = BTreeMap::<Kind, u64>::new();
        for packet in crafted(20_000, Kind::value_variants()) {
            *seen.entry(packet.kind).or_default() += 1;
        }
        for kind in Kind::value_variants() {
            let count = seen.get(kind).copied().unwrap_or_default();
            // The rarest fit one of six flows: of TCP, and of one family.
            assert!(count >= 20_000 / 30 / 6, "{kind:?}: {count}");
        }
        assert!(seen[&Kind::Opener] > 20_000 / 7, "{seen:?}");
        assert!(seen[&Kind::Garbage] < 20_000 / 15, "{seen:?}");
    }

    #[test]
    fn frames_fit_a_link() {
        for packet in crafted(20_000, Kind::value_variants()) {
            assert!(!packet.frames.is_empty());
            for frame in &packet.frames {
                assert!((1..=1500).contains(&frame.len()), "{packet:?}");
            }
        }
    }

    #[test]
    fn openers_open_the_flows_that_they_are_told_to() {
        for packet in crafted(1000, &[Kind::Opener, Kind::SynData]) {
            let parsed = SlicedPacket::from_ip(&packet.frames[0]).unwrap();
            let (from, to) = match parsed.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    assert!(tcp.syn() && !(tcp.ack() || tcp.rst() || tcp.fin()));
                    assert_eq!(tcp.payload().is_empty(), packet.kind == Kind::Opener);
                    (tcp.source_port(), tcp.destination_port())
                }
                Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
                // SCTP, which the parser does not know.
                None => {
                    let frame = &packet.frames[0];
                    let sctp = &frame[frame.len() - 32..];
                    assert_eq!((sctp[12], &sctp[14..16]), (1, &[0, 20][..]));
                    (
                        u16::from_be_bytes([sctp[0], sctp[1]]),
                        u16::from_be_bytes([sctp[2], sctp[3]]),
                    )
                }
                other => panic!("{other:?}"),
            };
            assert!(flows().ports.contains(&from) && to == 80);
        }
    }

    /// Bytes that an IPv4 fragment covers in its datagram, and whether more follow.
    fn covers(frame: &[u8]) -> (Range<usize>, bool) {
        let field = usize::from(u16::from_be_bytes([frame[6], frame[7]]));
        let start = (field & 0x1fff) * 8;
        (start..start + frame.len() - 20, field & 0x2000 != 0)
    }

    #[test]
    fn fragments_are_what_their_kind_says() {
        let kinds = [Kind::Fragments, Kind::LoneFragment, Kind::Overlap];
        for packet in crafted(3000, &kinds) {
            if packet.frames[0][0] >> 4 == 6 {
                continue;
            }
            let mut parts: Vec<_> = packet.frames.iter().map(|frame| covers(frame)).collect();
            parts.sort_by_key(|(range, _)| (range.start, range.end));
            parts.dedup();
            let whole = parts[0].0.start == 0 && !parts[parts.len() - 1].1;
            let touch = parts.len() == 2 && parts[0].0.end == parts[1].0.start;
            let overlap = parts.len() == 2
                && parts[0].0.end > parts[1].0.start
                && parts[0].0.end < parts[1].0.end;
            match packet.kind {
                Kind::Fragments => assert!(whole && touch, "{parts:?}"),
                Kind::Overlap => assert!(whole && overlap, "{parts:?}"),
                _ => assert!(parts.len() == 1 && !whole, "{parts:?}"),
            }
        }
    }

    #[test]
    fn kinds_that_fit_no_flow_are_refused() {
        let mut flows = flows();
        flows.protos = vec![Proto::Udp];
        assert!(flows.check(&[Kind::SynFin]).is_err());
        assert!(flows.check(&[Kind::SynFin, Kind::Opener]).is_ok());
        flows.from.pop();
        assert!(flows.check(&[Kind::Opener]).is_err());
    }

    #[test]
    fn threads_start_each_round_together() {
        let line = StartingLine::new(2);
        let round = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for n in 0..1000 {
                        line.wait_for_round(n);
                        // The other is at most on its way to the next round.
                        let other = round.swap(n, Ordering::AcqRel);
                        assert!(other.abs_diff(n) <= 1);
                    }
                    line.leave();
                });
            }
        });
    }
}
