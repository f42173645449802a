// SPDX-License-Identifier: GPL-2.0

//! A client that reuses its port. It connects, learns which real server it has, ends the
//! connection in one of several ways, and connects again from the same address and port.
//! Whether the second connection's first packet was lost is read from the retransmissions
//! that the kernel counts, never from the time: a slow machine must not look like a fault.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _};
use serde::Serialize;
use socket2::{SockFilter, Socket};

use crate::handmade;
use crate::net::{self, until, Proto};
use crate::serve::{passive_answer, Command};
use crate::stray;

/// How the first connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum End {
    /// The server closes, then the client
    Fin,
    /// The client closes, then the server
    ClientFin,
    /// Both close at the same time: their FINs cross
    BothFin,
    /// The server resets (SCTP: aborts)
    ServerRst,
    /// The client resets (SCTP: aborts)
    ClientRst,
    /// The client closes its side, the server does not; then the client vanishes
    HalfClose,
    /// Not at all: the client vanishes without a packet
    Hold,
    /// It never began: the server refuses it
    Refused,
    /// It never began: nobody answers the SYN, and the client does not wait
    Unanswered,
    /// Not at all: a stray SYN comes, and the "second" connection is the first one, asked again
    StraySyn,
    /// The same with a SYN whose checksum is wrong
    DamagedSyn,
    /// The same without a SYN: who pauses this client may have one sent from elsewhere
    Live,
}

/// What is left of the first connection.
pub struct First {
    /// Who had it, if anybody.
    server: Option<String>,
    end: End,
    /// The connection itself, if it goes on.
    kept: Option<Flow>,
    /// What the second one's SYN is to have, if it is made by hand.
    age: handmade::Age,
}

/// A connection as the client of it sees it.
pub struct Flow {
    socket: BufReader<Socket>,
    server: String,
    seen_as: IpAddr,
}

/// What became of an attempt to connect.
struct Attempt {
    flow: io::Result<Flow>,
    took: Duration,
    retransmits: u32,
    /// Segments without data that came in.
    bare_segments: u32,
}

#[derive(Debug, Serialize)]
pub struct Report {
    first: Option<String>,
    second: Option<String>,
    /// The client's address as the second server sees it.
    seen_as: Option<IpAddr>,
    ms: f64,
    /// First packets sent again: SYNs, INITs, or datagrams that had no answer.
    syn_retransmits: u32,
    /// The SYN met a server that still has the first connection, and answered for that one: the
    /// client resets it and sends its SYN again (RFC 9293, 3.5.1).
    challenged: bool,
    connected: bool,
    timed_out: bool,
    refused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone)]
pub struct Client {
    pub from: SocketAddr,
    /// Where the second connection comes from: another client that is given the same port.
    pub then_from: SocketAddr,
    pub to: SocketAddr,
    pub proto: Proto,
    /// The first connection is an FTP control connection, and has a data connection expected.
    pub passive: bool,
    /// Each datagram is a SIP request with this Call-ID.
    pub call_id: Option<String>,
    /// The size of a datagram.
    pub size: usize,
    /// Every IPv6 packet carries an extension header.
    pub extended: bool,
    /// How the second connection is opened, if not by TCP. Its server's name remains unknown.
    pub handmade: Option<(handmade::Kind, handmade::Via)>,
    /// For one connection, from its first packet to its greeting.
    pub timeout: Duration,
}

impl Client {
    /// One with nothing special about it.
    pub fn new(from: SocketAddr, to: SocketAddr, proto: Proto, timeout: Duration) -> Self {
        Self {
            from,
            then_from: from,
            to,
            proto,
            passive: false,
            call_id: None,
            size: 1,
            extended: false,
            handmade: None,
            timeout,
        }
    }

    /// Both connections. With `paused` whoever reads the report is told the first server's name
    /// between the two, and says when to go on.
    pub fn reconnect(&self, end: End, paused: bool) -> anyhow::Result<Report> {
        let first = self.close(self.open(end)?, end)?;
        if paused {
            pause(first.server())?;
        }
        self.second(first)
    }

    /// The first connection, unless it is to end before it begins.
    pub fn open(&self, end: End) -> anyhow::Result<Option<Flow>> {
        if matches!(end, End::Refused | End::Unanswered) {
            return Ok(None);
        }
        let flow = self.connect()?.flow.with_context(|| {
            format!(
                "no first connection from {} to {}: is the service up?",
                self.from, self.to
            )
        })?;
        match self.passive {
            true => self.expect_data_connection(flow).map(Some),
            false => Ok(Some(flow)),
        }
    }

    /// Ends it.
    pub fn close(&self, flow: Option<Flow>, end: End) -> anyhow::Result<First> {
        let server = flow.as_ref().map(|flow| flow.server.clone());
        let age = match (&self.handmade, &flow) {
            (Some((handmade::Kind::Old, _)), Some(flow)) => {
                handmade::Age::before(flow.socket.get_ref()).context("cannot tell its age")?
            }
            _ => handmade::Age::default(),
        };
        let kept = match flow {
            Some(flow) => self.end(flow, end),
            None => self.begin_in_vain(end).map(|()| None),
        };
        Ok(First {
            server,
            end,
            kept: kept.with_context(|| format!("cannot end it by {end:?}"))?,
            age,
        })
    }

    /// The second one, or what goes on of the first, asked again.
    pub fn second(&self, first: First) -> anyhow::Result<Report> {
        let First {
            server,
            end,
            kept,
            age,
        } = first;
        let second = match (kept, &self.handmade) {
            (Some(flow), _) => self.ask_again(flow, end),
            (None, Some((kind, via))) => self.successor().open_by_hand(via, *kind, age)?,
            (None, None) => self.successor().connect()?,
        };
        Ok(Report::new(server, end, second))
    }

    fn begin_in_vain(&self, end: End) -> anyhow::Result<()> {
        ensure!(self.proto == Proto::Tcp, "only TCP clients can");
        if end == End::Refused {
            return match self.connect()?.flow {
                Err(error) if is_refusal(&error) => Ok(()),
                Err(error) => Err(error).context("the server did not refuse"),
                Ok(flow) => bail!("{} did not refuse", flow.server),
            };
        }
        // One SYN, and nothing more: the socket is gone before it could be sent again.
        let socket = self.proto.socket(self.to)?;
        socket.bind(&self.from.into())?;
        match net::begin_to_connect(&socket, self.to) {
            Err(error) if net::is_in_progress(&error) => Ok(()),
            Err(error) => Err(error).context("cannot send a SYN"),
            Ok(()) => bail!("the SYN was answered"),
        }
    }

    fn successor(&self) -> Self {
        Self {
            from: self.then_from,
            ..self.clone()
        }
    }

    /// Connects and waits for the greeting. `Err` is for what makes any report worthless.
    fn connect(&self) -> io::Result<Attempt> {
        match self.proto {
            Proto::Udp => self.connect_udp(),
            Proto::Tcp | Proto::Sctp => self.connect_stream(),
        }
    }

    fn connect_stream(&self) -> io::Result<Attempt> {
        let deadline = Instant::now() + self.timeout;
        let inits = match self.proto {
            Proto::Sctp => net::sctp_init_retransmits()?,
            _ => 0,
        };
        loop {
            let socket = self.proto.socket(self.to)?;
            if self.extended {
                net::send_destination_options(&socket)?;
            }
            let start = Instant::now();
            let connected = socket
                .bind(&self.from.into())
                .and_then(|()| match self.proto {
                    Proto::Sctp => socket.connect_timeout(&self.to.into(), until(deadline)),
                    _ => net::connect(&socket, self.to, until(deadline)),
                });
            match connected {
                // The older connection is about to leave the port, its last ACK on the way.
                Err(error) if net::port_is_busy(&error) && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                // No first packet was sent, and so none can be lost.
                Err(error) if net::port_is_busy(&error) => return Err(error),
                _ => {}
            }
            let (retransmits, bare_segments) = match self.proto {
                Proto::Sctp => (net::sctp_init_retransmits()? - inits, 0),
                _ => {
                    let info = net::tcp_info(&socket)?;
                    let bare = info.tcpi_segs_in.saturating_sub(info.tcpi_data_segs_in);
                    (info.tcpi_total_retrans, bare)
                }
            };
            let answered = start.elapsed();
            let flow = connected.and_then(|()| Flow::greeted(socket, deadline));
            let took = match self.proto {
                // Data may overtake the COOKIE ACK, from another processor, and is then late by a
                // timeout of the server's.
                Proto::Sctp => answered,
                _ => start.elapsed(),
            };
            return Ok(Attempt {
                flow,
                took,
                retransmits,
                bare_segments,
            });
        }
    }

    fn open_by_hand(
        &self,
        via: &handmade::Via,
        kind: handmade::Kind,
        age: handmade::Age,
    ) -> io::Result<Attempt> {
        let start = Instant::now();
        let (retransmits, answer) =
            handmade::open(via, kind, age, self.from, self.to, self.timeout)?;
        let flow = answer.map(|socket| Flow {
            socket: BufReader::new(socket),
            server: String::new(),
            seen_as: self.from.ip(),
        });
        Ok(Attempt {
            flow,
            took: start.elapsed(),
            retransmits,
            bare_segments: 0,
        })
    }

    /// The next best to a connection: a datagram and its answer, asked for once a second.
    fn connect_udp(&self) -> io::Result<Attempt> {
        const TRY: Duration = Duration::from_secs(1);

        let socket = self.proto.socket(self.to)?;
        socket.bind(&self.from.into())?;
        socket.connect(&self.to.into())?;
        let mut socket = BufReader::new(socket);
        let start = Instant::now();
        let deadline = start + self.timeout;
        let mut retransmits = 0;
        loop {
            socket.get_ref().send(&self.datagram())?;
            let answer = Flow::read_greeting(&mut socket, deadline.min(Instant::now() + TRY));
            match answer {
                Err(error) if is_timeout(&error) && Instant::now() < deadline => retransmits += 1,
                answer => {
                    let flow = answer.map(|(server, seen_as)| Flow {
                        socket,
                        server,
                        seen_as,
                    });
                    return Ok(Attempt {
                        flow,
                        took: start.elapsed(),
                        retransmits,
                        bare_segments: 0,
                    });
                }
            }
        }
    }

    fn datagram(&self) -> Vec<u8> {
        match &self.call_id {
            None => vec![Command::Greet as u8; self.size],
            Some(id) => format!(
                "OPTIONS sip:{to} SIP/2.0\r\nCall-ID: {id}\r\nCSeq: 1 OPTIONS\r\n\r\n",
                to = self.to
            )
            .into(),
        }
    }

    /// Asks as an FTP client would. The answer must name the address that this client knows the
    /// server by: only if IPVS has written it there does IPVS expect the data connection, too.
    fn expect_data_connection(&self, mut flow: Flow) -> anyhow::Result<Flow> {
        let question = match self.to.is_ipv4() {
            true => "PASV\r\n",
            false => "EPSV\r\n",
        };
        let mut answer = String::new();
        flow.socket
            .get_ref()
            .set_read_timeout(Some(self.timeout))
            .and_then(|()| flow.socket.get_ref().write_all(question.as_bytes()))
            .and_then(|()| flow.socket.read_line(&mut answer))
            .context("no answer to PASV")?;
        let data = SocketAddr::new(self.to.ip(), self.from.port());
        ensure!(
            answer == passive_answer(data),
            "not what an FTP server says that awaits data at {data}: {answer:?}"
        );
        Ok(flow)
    }

    /// Ends the flow and returns when its end is known here, or gives back what goes on.
    fn end(&self, mut flow: Flow, end: End) -> anyhow::Result<Option<Flow>> {
        let deadline = Instant::now() + self.timeout;
        match end {
            _ if self.proto == Proto::Udp => {
                ensure!(end == End::Hold, "UDP flows do not end: use hold")
            }
            End::Fin => {
                flow.tell(Command::Fin)?;
                flow.wait_for_close(deadline)?;
            }
            End::ServerRst => {
                if self.proto == Proto::Tcp {
                    flow.delay_ack(deadline)?;
                }
                flow.tell(Command::Rst)?;
                flow.wait_for_reset(deadline)?;
            }
            End::ClientRst => {
                // The ACK of the greeting may leave from another processor. If the RST overtakes it,
                // the RST is not the last packet that conntrack sees, and the SYN opens no new conntrack.
                thread::sleep(Duration::from_millis(20));
                flow.socket.get_ref().set_linger(Some(Duration::ZERO))?;
            }
            _ if self.proto != Proto::Tcp => bail!("only TCP flows end by {end:?}"),
            End::ClientFin => {
                flow.socket.get_ref().shutdown(Shutdown::Write)?;
                flow.wait_for_close(deadline)?;
            }
            End::BothFin => flow.close_with_server(deadline)?,
            End::HalfClose => {
                flow.tell(Command::Stay)?;
                flow.half_close(deadline)?;
                flow.vanish()?;
            }
            End::Hold => flow.vanish()?,
            End::StraySyn | End::DamagedSyn | End::Live => return Ok(Some(flow)),
            End::Refused | End::Unanswered => unreachable!("it never began"),
        }
        Ok(None)
    }

    /// Asks an open flow for its server once more, maybe behind a stray SYN.
    fn ask_again(&self, mut flow: Flow, end: End) -> Attempt {
        let start = Instant::now();
        let stray = match end {
            End::Live => Ok(()),
            _ => stray::send_syn(self.from, self.to, end == End::DamagedSyn, false),
        };
        let answer = stray
            .and_then(|()| flow.tell(Command::Greet))
            .and_then(|()| Flow::read_greeting(&mut flow.socket, start + self.timeout));
        let retransmits =
            net::tcp_info(flow.socket.get_ref()).map_or(0, |info| info.tcpi_total_retrans);
        let flow = answer.map(|(server, seen_as)| Flow {
            server,
            seen_as,
            ..flow
        });
        Attempt {
            flow,
            took: start.elapsed(),
            retransmits,
            bare_segments: 0,
        }
    }
}

fn pause(first_server: Option<&str>) -> anyhow::Result<()> {
    net::print_json(&serde_json::json!({ "first": first_server }))?;
    wait_for_line()
}

/// Until whoever reads the report says by a line on standard input to go on.
pub fn wait_for_line() -> anyhow::Result<()> {
    let told = io::stdin().lock().read_line(&mut String::new())?;
    ensure!(
        told > 0,
        "standard input ended where it should have said when to go on"
    );
    Ok(())
}

impl First {
    fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }
}

impl Flow {
    fn greeted(socket: Socket, deadline: Instant) -> io::Result<Self> {
        let mut socket = BufReader::new(socket);
        let (server, seen_as) = Self::read_greeting(&mut socket, deadline)?;
        Ok(Self {
            socket,
            server,
            seen_as,
        })
    }

    fn read_greeting(
        socket: &mut BufReader<Socket>,
        deadline: Instant,
    ) -> io::Result<(String, IpAddr)> {
        let mut line = String::new();
        socket.get_ref().set_read_timeout(Some(until(deadline)))?;
        socket.read_line(&mut line)?;
        let greeting = line.trim_end().split_once(' ');
        let parsed = greeting.and_then(|(name, peer)| Some((name.into(), peer.parse().ok()?)));
        parsed.ok_or_else(|| io::Error::other(format!("the server said {line:?} and no name")))
    }

    fn tell(&self, command: Command) -> io::Result<()> {
        self.socket.get_ref().write_all(&[command as u8])
    }

    /// Keeps the server from sending an ACK of its own for the next command. In front of a RST it
    /// may leave from another processor, and arrive after it. The client answers such an ACK by a
    /// RST, and then conntrack lets the port be reused.
    fn delay_ack(&mut self, deadline: Instant) -> io::Result<()> {
        self.tell(Command::DelayAck)?;
        self.tell(Command::Greet)?;
        Self::read_greeting(&mut self.socket, deadline).map(drop)
    }

    /// Waits until the server has closed; dropping the socket then closes this side.
    fn wait_for_close(mut self, deadline: Instant) -> anyhow::Result<()> {
        match self.read_to_end(deadline) {
            Ok(()) => Ok(()),
            Err(error) => Err(error).context("the server did not close"),
        }
    }

    /// Closes this side when the server's FIN is here, but before TCP has seen it. The server
    /// sends it again.
    fn close_with_server(self, deadline: Instant) -> anyhow::Result<()> {
        // From a segment's first byte on: its flags, and of these FIN.
        let no_fin = [
            SockFilter::new(LOAD_BYTE, 0, 0, 13),
            SockFilter::new(JUMP_IF_SET, 0, 1, 0x01),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
        const JUMP_IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

        let socket = self.socket.get_ref();
        socket.attach_filter(&no_fin)?;
        self.tell(Command::Fin)?;
        while net::dropped(socket)? == 0 {
            ensure!(Instant::now() < deadline, "the server did not close");
            thread::sleep(Duration::from_millis(1));
        }
        self.half_close(deadline)?;
        socket.detach_filter()?;
        self.wait_for_close(deadline)
    }

    fn wait_for_reset(mut self, deadline: Instant) -> anyhow::Result<()> {
        match self.read_to_end(deadline) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error).context("the server did not reset"),
            Ok(()) => bail!("the server closed, where it should have reset"),
        }
    }

    fn read_to_end(&mut self, deadline: Instant) -> io::Result<()> {
        self.socket
            .get_ref()
            .set_read_timeout(Some(until(deadline)))?;
        self.socket.read_to_end(&mut Vec::new()).map(drop)
    }

    /// Closes this side and waits until the server has acknowledged it.
    fn half_close(&self, deadline: Instant) -> anyhow::Result<()> {
        const TCP_FIN_WAIT2: u8 = 5;

        let socket = self.socket.get_ref();
        socket.shutdown(Shutdown::Write)?;
        while net::tcp_info(socket)?.tcpi_state != TCP_FIN_WAIT2 {
            ensure!(
                Instant::now() < deadline,
                "the server did not acknowledge the FIN"
            );
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn vanish(self) -> anyhow::Result<()> {
        net::vanish(self.socket.into_inner())
            .context("a client that vanishes needs CAP_NET_ADMIN: run as root")
    }
}

impl Report {
    fn new(first: Option<String>, end: End, second: Attempt) -> Self {
        let ms = (second.took.as_secs_f64() * 10_000.0).round() / 10.0;
        let timed_out = second.flow.as_ref().is_err_and(is_timeout);
        let refused = second.flow.as_ref().is_err_and(is_refusal);
        let connected = second.flow.is_ok();
        let is_open_there = matches!(end, End::Hold | End::HalfClose);
        let challenged =
            is_open_there && second.retransmits > 0 && second.bare_segments > u32::from(connected);
        let (server, seen_as, error) = match second.flow {
            Ok(flow) => (Some(flow.server), Some(flow.seen_as), None),
            Err(_) if timed_out => (None, None, None),
            Err(error) => (None, None, Some(error.to_string())),
        };
        Self {
            first,
            second: server,
            seen_as,
            ms,
            syn_retransmits: second.retransmits,
            challenged,
            connected,
            timed_out,
            refused,
            error,
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

fn is_timeout(error: &io::Error) -> bool {
    // A read that ran into SO_RCVTIMEO says EAGAIN.
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener whose queue of one is taken, so that the kernel drops the next SYN.
    fn full_listener() -> (Socket, Socket, SocketAddr) {
        let addr: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = Proto::Tcp.socket(addr).unwrap();
        listener.bind(&addr.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let queued = Proto::Tcp.socket(addr).unwrap();
        queued.connect(&addr.into()).unwrap();
        (listener, queued, addr)
    }

    fn client(to: SocketAddr, timeout: Duration) -> Client {
        Client::new("127.0.0.1:0".parse().unwrap(), to, Proto::Tcp, timeout)
    }

    #[test]
    fn a_lost_syn_is_counted_and_not_guessed_from_the_time() {
        let (listener, _queued, addr) = full_listener();
        let server = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            listener.accept().unwrap();
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(b"rs1 127.0.0.1\n").unwrap();
        });
        let attempt = client(addr, Duration::from_secs(5)).connect().unwrap();
        server.join().unwrap();
        assert_eq!(attempt.retransmits, 1);
        let report = Report::new(Some("rs0".into()), End::Fin, attempt);
        assert!(report.connected && !report.timed_out, "{report:?}");
        assert_eq!(report.second.as_deref(), Some("rs1"));
    }

    #[test]
    fn a_connection_that_never_comes_is_a_timeout() {
        let (_listener, _queued, addr) = full_listener();
        let attempt = client(addr, Duration::from_millis(1200)).connect().unwrap();
        assert_eq!(attempt.retransmits, 1);
        let report = Report::new(Some("rs0".into()), End::Fin, attempt);
        assert!(!report.connected && report.timed_out, "{report:?}");
    }

    #[test]
    fn a_refused_connection_is_no_timeout() {
        let addr = {
            let (listener, ..) = full_listener();
            listener.local_addr().unwrap().as_socket().unwrap()
        };
        let report = Report::new(
            Some("rs0".into()),
            End::Fin,
            client(addr, Duration::from_secs(1)).connect().unwrap(),
        );
        assert!(
            !report.connected && !report.timed_out && report.refused && report.error.is_some(),
            "{report:?}"
        );
    }
}
