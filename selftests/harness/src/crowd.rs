// SPDX-License-Identifier: GPL-2.0

//! Many TCP clients at once, on one thread. Each connects, is greeted, is held, and ends.
//! Whoever owns the crowd decides when to open and when to end; the crowd keeps the books.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{bail, Context as _};
use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use socket2::Socket;

use crate::net::{self, Proto};
use crate::serve::Command;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum End {
    /// The server closes, then the client
    Fin,
    /// The server resets
    ServerRst,
    /// The client resets
    ClientRst,
}

/// Connections by the name of the server that greeted them.
pub type ByServer = BTreeMap<String, u32>;

#[derive(Debug, Default, Serialize)]
pub struct Tally {
    pub opened: u32,
    /// Greeted by a server.
    pub connected: u32,
    /// Refused, without a greeting in time, or ended without being told, or otherwise.
    pub failed: u32,
    /// The failed ones that were refused: from when to when, in milliseconds since 1970.
    pub refused: Vec<[u128; 2]>,
    /// Connected, but only after the first packet was sent again.
    pub slow: u32,
    pub syn_retransmits: u32,
    /// The slow ones that waited for TCP's timer, a second: nothing came of the first packet. To
    /// others a server answered that it still has the old connection, and they tried again at once.
    pub first_lost: u32,
    /// The longest time from first packet to greeting.
    pub worst_ms: u128,
    pub servers: ByServer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Held,
    Ending,
}

struct Client {
    socket: Socket,
    from: SocketAddr,
    opened: Instant,
    phase: Phase,
    /// When the phase is over: for `Held` as planned, for the others as a failure.
    due: Option<Instant>,
}

/// What takes longer is counted as so long.
const LONGEST_US: u64 = 1_000_000_000;

/// What TCP waits for an answer to its first packet, and not quite.
const RETRANSMIT_TIMEOUT: Duration = Duration::from_millis(950);

pub struct Crowd {
    to: SocketAddr,
    sources: Sources,
    end: End,
    timeout: Duration,
    /// How long each is held; `None` is until `end_all`.
    hold: Option<Duration>,
    poll: Poll,
    events: Events,
    clients: HashMap<usize, Client>,
    next_id: usize,
    /// Whom to look at, and when. What is left here of clients that moved on does no harm.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    connecting: usize,
    tally: Tally,
    /// From first packet to greeting, in microseconds, to three digits.
    times: Histogram<u64>,
    last_greeted: Option<Instant>,
    greeted: ByServer,
}

impl Crowd {
    pub fn new(
        to: SocketAddr,
        from: Vec<IpAddr>,
        ports: RangeInclusive<u16>,
        end: End,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        net::raise_file_limit()?;
        Ok(Self {
            to,
            sources: Sources {
                addrs: from,
                ports,
                next: 0,
            },
            end,
            timeout,
            hold: None,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: HashMap::new(),
            next_id: 0,
            timers: BinaryHeap::new(),
            connecting: 0,
            tally: Tally::default(),
            times: Histogram::new_with_max(LONGEST_US, 3)?,
            last_greeted: None,
            greeted: ByServer::new(),
        })
    }

    /// From now on, ends each connection when it has been held for so long.
    pub fn hold_each_for(&mut self, hold: Duration) {
        self.hold = Some(hold);
    }

    /// How many connections can be open at once.
    pub fn capacity(&self) -> usize {
        self.sources.len()
    }

    /// Connections that are not over.
    pub fn open_count(&self) -> usize {
        self.clients.len()
    }

    /// Connections that wait for their greeting.
    pub fn connecting(&self) -> usize {
        self.connecting
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How long each connection took from its first packet to its greeting, in microseconds.
    pub fn times(&self) -> &Histogram<u64> {
        &self.times
    }

    /// When the last connection was greeted.
    pub fn last_greeted(&self) -> Option<Instant> {
        self.last_greeted
    }

    /// From now on, counts anew.
    pub fn start_counting(&mut self) {
        self.tally = Tally::default();
        self.times.clear();
        self.greeted.clear();
    }

    /// The connections that were greeted since this was last asked.
    pub fn take_greeted(&mut self) -> ByServer {
        mem::take(&mut self.greeted)
    }

    /// Opens a connection from the next source that is free.
    pub fn open(&mut self) -> anyhow::Result<()> {
        let opened = Instant::now();
        let (socket, from) = self.connect()?;
        let id = self.next_id;
        self.next_id += 1;
        let registry = self.poll.registry();
        registry.register(
            &mut SourceFd(&socket.as_raw_fd()),
            Token(id),
            Interest::READABLE,
        )?;
        let phase = Phase::Connecting;
        self.clients.insert(
            id,
            Client {
                socket,
                from,
                opened,
                phase,
                due: None,
            },
        );
        self.connecting += 1;
        self.tally.opened += 1;
        self.enter(id, phase, Some(self.timeout));
        Ok(())
    }

    /// Opens connections until so many are not over, or `most` have been opened.
    pub fn keep_open(&mut self, at_once: u32, most: u32) -> anyhow::Result<()> {
        while self.clients.len() < at_once as usize && self.tally.opened < most {
            self.open()?;
        }
        Ok(())
    }

    fn connect(&mut self) -> anyhow::Result<(Socket, SocketAddr)> {
        for _ in 0..self.sources.len() {
            let from = self.sources.take();
            let socket = Proto::Tcp
                .socket(self.to)
                .context("cannot open a socket: raise the limit of open files (ulimit -Hn)")?;
            socket.set_nonblocking(true)?;
            match socket
                .bind(&from.into())
                .and_then(|()| socket.connect(&self.to.into()))
            {
                Err(error) if net::port_is_busy(&error) => {}
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                    return Err(error).context(format!("cannot connect {from} to {}", self.to));
                }
                _ => return Ok((socket, from)),
            }
        }
        bail!("every source port is in use: give more of them by --ports or --from")
    }

    /// Lets things happen, until `deadline` or until something has happened.
    pub fn run_until(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let wake = self
            .timers
            .peek()
            .map_or(deadline, |Reverse((due, _))| deadline.min(*due));
        let wait = wake.saturating_duration_since(Instant::now());
        let mut events = mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = self.poll.poll(&mut events, Some(wait));
        for event in &events {
            self.hear(event.token().0);
        }
        self.events = events;
        match polled {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }

        let now = Instant::now();
        while let Some(&Reverse((due, id))) = self.timers.peek().filter(|t| t.0 .0 <= now) {
            self.timers.pop();
            self.phase_is_over(id, due);
        }
        Ok(())
    }

    /// Ends every connection, and waits until all are over.
    pub fn end_all(&mut self) -> anyhow::Result<()> {
        self.hold = Some(Duration::ZERO);
        let held = |(&id, client): (&usize, &Client)| (client.phase == Phase::Held).then_some(id);
        for id in self.clients.iter().filter_map(held).collect::<Vec<_>>() {
            self.begin_end(id);
        }
        while !self.clients.is_empty() {
            self.run_until(Instant::now() + self.timeout)?;
        }
        Ok(())
    }

    fn enter(&mut self, id: usize, phase: Phase, at_most: Option<Duration>) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.phase = phase;
        client.due = at_most.map(|time| Instant::now() + time);
        self.timers.extend(client.due.map(|due| Reverse((due, id))));
    }

    /// The client's socket has something to read, or an error. All of it is read: the poll
    /// tells of each arrival once.
    fn hear(&mut self, id: usize) {
        let mut buffer = [0; 128];
        while let Some(client) = self.clients.get(&id) {
            match ((&client.socket).read(&mut buffer), client.phase) {
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => return,
                (Ok(0), Phase::Ending) => drop(self.forget(id)),
                (Err(_), Phase::Ending) if self.end == End::ServerRst => drop(self.forget(id)),
                (Ok(0), _) => self.fail(id, "the server closed"),
                (Ok(len), Phase::Connecting) => self.greet(id, &buffer[..len]),
                (Ok(_), _) => {}
                (Err(error), _) => {
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        self.tally.refused.push(until_now(client.opened));
                    }
                    self.fail(id, &error.to_string());
                }
            }
        }
    }

    fn greet(&mut self, id: usize, greeting: &[u8]) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let name = greeting
            .split(u8::is_ascii_whitespace)
            .next()
            .unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        let retransmits = net::tcp_info(&client.socket).map_or(0, |info| info.tcpi_total_retrans);
        let tally = &mut self.tally;
        tally.connected += 1;
        tally.slow += u32::from(retransmits > 0);
        tally.syn_retransmits += retransmits;
        let now = Instant::now();
        let took = now - client.opened;
        self.last_greeted = Some(now);
        tally.worst_ms = tally.worst_ms.max(took.as_millis());
        tally.first_lost += u32::from(retransmits > 0 && took >= RETRANSMIT_TIMEOUT);
        self.times.saturating_record(took.as_micros() as u64);
        *tally.servers.entry(name.to_string()).or_default() += 1;
        *self.greeted.entry(name.to_string()).or_default() += 1;
        self.connecting -= 1;
        self.enter(id, Phase::Held, self.hold);
    }

    fn phase_is_over(&mut self, id: usize, due: Instant) {
        match self
            .clients
            .get(&id)
            .filter(|client| client.due == Some(due))
            .map(|c| c.phase)
        {
            Some(Phase::Connecting) => self.fail(id, "no greeting in time"),
            Some(Phase::Held) => self.begin_end(id),
            Some(Phase::Ending) => self.fail(id, "the server does not close"),
            None => {}
        }
    }

    fn begin_end(&mut self, id: usize) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let command = match self.end {
            End::Fin => Command::Fin,
            End::ServerRst => Command::Rst,
            End::ClientRst => {
                drop(client.socket.set_linger(Some(Duration::ZERO)));
                drop(self.forget(id));
                return;
            }
        };
        match (&client.socket).write_all(&[command as u8]) {
            Ok(()) => self.enter(id, Phase::Ending, Some(self.timeout)),
            Err(error) => self.fail(id, &error.to_string()),
        }
    }

    fn fail(&mut self, id: usize, why: &str) {
        const SHOWN: u32 = 10;

        let Some(client) = self.forget(id) else {
            return;
        };
        self.tally.failed += 1;
        if self.tally.failed <= SHOWN {
            eprintln!("harness: {}, {:?}: {why}", client.from, client.phase);
        }
    }

    fn forget(&mut self, id: usize) -> Option<Client> {
        let client = self.clients.remove(&id)?;
        self.connecting -= usize::from(client.phase == Phase::Connecting);
        Some(client)
    }
}

/// From `start` to now, in milliseconds since 1970.
fn until_now(start: Instant) -> [u128; 2] {
    let now = SystemTime::now();
    [now - start.elapsed(), now].map(|time| {
        time.duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis()
    })
}

/// Every source address with every source port, addresses first, around and around.
struct Sources {
    addrs: Vec<IpAddr>,
    ports: RangeInclusive<u16>,
    next: usize,
}

impl Sources {
    fn len(&self) -> usize {
        self.addrs.len() * self.ports.len()
    }

    fn take(&mut self) -> SocketAddr {
        let addr = self.addrs[self.next % self.addrs.len()];
        let port = self.ports.start() + (self.next / self.addrs.len()) as u16;
        self.next = (self.next + 1) % self.len();
        SocketAddr::new(addr, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_use_every_address_and_port_and_start_again() {
        let addrs = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let mut sources = Sources {
            addrs,
            ports: 65534..=65535,
            next: 0,
        };
        let taken: Vec<String> = (0..5).map(|_| sources.take().to_string()).collect();
        assert_eq!(
            taken,
            [
                "10.0.0.1:65534",
                "10.0.0.2:65534",
                "10.0.0.1:65535",
                "10.0.0.2:65535",
                "10.0.0.1:65534"
            ]
        );
    }
}
