// SPDX-License-Identifier: GPL-2.0

//! A real server. Each client is greeted with a line `NAME PEER` (the client's address as the
//! server sees it), and then rules its connection by single letters; see [`Command`].
//! One thread and one epoll instance: thousands of idle connections cost nothing but memory.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::Context as _;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{SockAddr, Socket};

use crate::net::{self, Proto};

/// What a client may ask of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Close with a FIN (SCTP: SHUTDOWN).
    Fin = b'f',
    /// Close with a RST (SCTP: ABORT).
    Rst = b'r',
    /// Delay the ACK of the next command, so that what the command makes of the connection is
    /// told first.
    DelayAck = b'd',
    /// Stay when the client closes its side.
    Stay = b's',
    /// Greet again.
    Greet = b'g',
    /// Wait for data connections, too, as an FTP server that is told PASV or EPSV (the letter is
    /// in both), at the port that the client has: that one no other flow of its uses.
    Passive = b'P',
}

impl Command {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Fin,
            Self::Rst,
            Self::DelayAck,
            Self::Stay,
            Self::Greet,
            Self::Passive,
        ]
        .into_iter()
        .find(|c| *c as u8 == byte)
    }
}

struct Listener {
    name: String,
    socket: Socket,
    proto: Proto,
}

struct Client {
    socket: Socket,
    greeting: String,
    stays: bool,
}

/// What is to become of a connection after its client was heard.
enum Fate {
    Open,
    AwaitsData,
    Closed,
}

pub fn serve(
    name: &str,
    addrs: &[SocketAddr],
    protos: &[Proto],
    with_port: bool,
) -> anyhow::Result<()> {
    net::raise_file_limit()?;
    let mut listeners = HashMap::new();
    for &proto in protos {
        for &addr in addrs {
            let name = match with_port {
                true => format!("{name}:{}", addr.port()),
                false => name.to_string(),
            };
            let socket = listen(addr, proto).with_context(|| cannot_listen(addr, proto))?;
            let listener = Listener {
                name,
                socket,
                proto,
            };
            listeners.insert(Token(listeners.len()), listener);
        }
    }

    let mut poll = Poll::new()?;
    for (token, listener) in &listeners {
        register(&poll, &listener.socket, *token)?;
    }
    println!("READY");
    io::stdout().flush()?;

    let mut next_token = listeners.len();
    let mut clients = HashMap::new();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let token = event.token();
            match listeners.get(&token) {
                Some(Listener {
                    name,
                    socket,
                    proto: Proto::Udp,
                }) => answer_datagrams(name, socket),
                Some(Listener { name, socket, .. }) => {
                    while let Some(client) = accept(name, socket)? {
                        register(&poll, &client.socket, Token(next_token))?;
                        clients.insert(Token(next_token), client);
                        next_token += 1;
                    }
                }
                // A client that is gone may have had an event left in this round.
                None => {
                    let Some(client) = clients.get_mut(&token) else {
                        continue;
                    };
                    let listener = match client.obey() {
                        Fate::Open => continue,
                        Fate::AwaitsData => client.await_data(name),
                        Fate::Closed => Err(io::ErrorKind::NotConnected.into()),
                    };
                    let Ok(listener) = listener else {
                        clients.remove(&token);
                        continue;
                    };
                    register(&poll, &listener.socket, Token(next_token))?;
                    listeners.insert(Token(next_token), listener);
                    next_token += 1;
                }
            }
        }
    }
}

fn listen(addr: SocketAddr, proto: Proto) -> io::Result<Socket> {
    let socket = proto.socket(addr)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    if proto != Proto::Udp {
        socket.listen(4096)?;
    }
    Ok(socket)
}

fn cannot_listen(addr: SocketAddr, proto: Proto) -> String {
    let advice = match proto {
        Proto::Sctp => "load the module sctp, or find the process that has the port",
        _ => "find the process that has the port (ss -lnp)",
    };
    format!("cannot listen on {addr} for {proto:?}: {advice}")
}

fn register(poll: &Poll, socket: &Socket, token: Token) -> io::Result<()> {
    poll.registry().register(
        &mut SourceFd(&socket.as_raw_fd()),
        token,
        Interest::READABLE,
    )
}

/// The next client in the queue, greeted, if there is one.
fn accept(name: &str, listener: &Socket) -> anyhow::Result<Option<Client>> {
    loop {
        let (socket, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // Reset again before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                return Err(error)
                    .context("cannot accept: raise the limit of open files (ulimit -Hn)")
            }
        };
        socket.set_nonblocking(true)?;
        let client = Client {
            socket,
            greeting: greeting(name, &peer),
            stays: false,
        };
        if client.greet().is_ok() {
            return Ok(Some(client));
        }
    }
}

fn greeting(name: &str, peer: &SockAddr) -> String {
    let peer = peer.as_socket().map(|peer| peer.ip().to_string());
    format!("{name} {}\n", peer.as_deref().unwrap_or("?"))
}

/// What an FTP server says when it awaits a data connection at this address.
pub fn passive_answer(addr: SocketAddr) -> String {
    let port = addr.port();
    match addr {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            let [high, low] = port.to_be_bytes();
            format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low})\r\n")
        }
        SocketAddr::V6(_) => format!("229 Entering Extended Passive Mode (|||{port}|)\r\n"),
    }
}

fn answer_datagrams(name: &str, socket: &Socket) {
    let mut datagram = [MaybeUninit::uninit(); 2048];
    // An error other than an empty queue is an earlier answer's (ICMP), and no reason to stop.
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((_, peer)) => drop(socket.send_to(greeting(name, &peer).as_bytes(), &peer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

impl Client {
    fn greet(&self) -> io::Result<()> {
        (&self.socket).write_all(self.greeting.as_bytes())
    }

    fn await_data(&self, name: &str) -> io::Result<Listener> {
        let here = self.socket.local_addr()?.as_socket();
        let there = self.socket.peer_addr()?.as_socket();
        let (Some(mut addr), Some(there)) = (here, there) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        addr.set_port(there.port());
        let socket = listen(addr, Proto::Tcp)?;
        (&self.socket).write_all(passive_answer(addr).as_bytes())?;
        Ok(Listener {
            name: name.to_string(),
            socket,
            proto: Proto::Tcp,
        })
    }

    /// Does what the client has asked for since it was last heard.
    fn obey(&mut self) -> Fate {
        // Room for all that a client says at once: what is not read makes a close a RST.
        let mut letters = [0; 256];
        loop {
            match (&self.socket).read(&mut letters) {
                Ok(0) if self.stays => return Fate::Open,
                Ok(0) => return Fate::Closed,
                Ok(len) => {
                    for &letter in &letters[..len] {
                        match self.obey_letter(letter) {
                            Fate::Open => {}
                            fate => return fate,
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Open,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Fate::Closed,
            }
        }
    }

    fn obey_letter(&mut self, letter: u8) -> Fate {
        match Command::from_byte(letter) {
            Some(Command::Fin) => Fate::Closed,
            Some(Command::Rst) => {
                // Without lingering, closing discards what is in flight and says so by a RST.
                drop(self.socket.set_linger(Some(Duration::ZERO)));
                Fate::Closed
            }
            Some(Command::DelayAck) => {
                // An SCTP socket knows no such option.
                drop(self.socket.set_tcp_quickack(false));
                Fate::Open
            }
            Some(Command::Stay) => {
                self.stays = true;
                Fate::Open
            }
            Some(Command::Greet) => match self.greet() {
                Ok(()) => Fate::Open,
                Err(_) => Fate::Closed,
            },
            Some(Command::Passive) => Fate::AwaitsData,
            None => Fate::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passive_answers_name_address_and_port() {
        for (addr, answer) in [
            (
                "10.9.0.1:258",
                "227 Entering Passive Mode (10,9,0,1,1,2)\r\n",
            ),
            (
                "[fd00:9::1]:258",
                "229 Entering Extended Passive Mode (|||258|)\r\n",
            ),
        ] {
            assert_eq!(passive_answer(addr.parse().unwrap()), answer);
        }
    }
}
