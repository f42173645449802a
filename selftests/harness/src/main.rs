// SPDX-License-Identifier: GPL-2.0

//! The traffic of the tests, one subcommand a role. This file is the command line only.

mod bulk;
mod crowd;
mod datagrams;
mod flows;
mod handmade;
mod load;
mod net;
mod packets;
mod questions;
mod reconnect;
mod serve;
mod statistics;
mod storm;
mod stray;
mod stream;
mod table;
mod wire;

use std::io;
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context as _};
use clap::{Args, Parser, Subcommand, ValueEnum as _};
use serde_json::json;

#[derive(Parser)]
#[command(
    version,
    about = "Traffic for the tests of IPVS: real servers and their clients"
)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Be a real server: greet each client with NAME and the address it is seen as, then obey it
    Serve {
        /// What clients are greeted with
        #[arg(long)]
        name: String,
        /// Where to listen; may be given more than once
        #[arg(long, required = true, value_name = "ADDR:PORT")]
        listen: Vec<SocketAddr>,
        /// On each of the addresses; may be given more than once
        #[arg(long, value_enum, default_value = "tcp")]
        proto: Vec<net::Proto>,
        /// Be as many servers as there are ports: greet with NAME:PORT
        #[arg(long)]
        with_port: bool,
    },
    /// Connect, end the connection, and connect again from the same port; report as JSON
    Reconnect {
        #[arg(long, value_name = "ADDR:PORT")]
        from: SocketAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        #[arg(long, value_enum, default_value = "tcp")]
        proto: net::Proto,
        /// Another address for the second connection, with the same port
        #[arg(long, value_name = "ADDR")]
        then_from: Option<IpAddr>,
        /// Bytes in a UDP client's datagram
        #[arg(long, default_value = "1")]
        size: usize,
        /// Send TCP over IPv6 with a destination options header
        #[arg(long)]
        extended: bool,
        /// Open the second connection by a SYN made by hand, and hear the answer to it only
        #[arg(long, value_enum, requires = "link")]
        handmade: Option<handmade::Kind>,
        /// Where that one is sent: the interface, and the Ethernet address of the director behind it
        #[arg(long, value_name = "NAME=MAC", value_parser = link)]
        link: Option<handmade::Via>,
        /// How the first connection ends
        #[arg(long, value_enum)]
        end: reconnect::End,
        /// Between the two, tell the first server's name, and wait for a line from standard input
        #[arg(long)]
        pause: bool,
        /// Before the first ends, have it make a data connection known, as passive FTP does
        #[arg(long)]
        passive: bool,
        /// Make each datagram a SIP request with this Call-ID
        #[arg(long, value_name = "ID")]
        call_id: Option<String>,
        /// How long one connection may take until its greeting
        #[arg(long, default_value = "5s", value_parser = duration)]
        timeout: Duration,
    },
    /// Do for many flows at the same time what `reconnect --pause` does for one
    ///
    /// Standard input lists them, a line each, `NAME FROM TO END`, and an empty line after the
    /// last. When all first connections are open, those that end alike end at the same time, in
    /// the order of the list. It says so by a line, and waits for one before it makes the second
    /// connections, at the same time, but the last of the list first. Then it reports a line of
    /// JSON for each flow.
    #[command(verbatim_doc_comment)]
    Flows {
        /// Begin the second connections one after the other, evenly over this time
        #[arg(long, default_value = "0s", value_parser = duration)]
        over: Duration,
        /// How long one of the second connections may take until its greeting
        #[arg(long, default_value = "5s", value_parser = duration)]
        timeout: Duration,
    },
    /// Open connections at a steady rate and hold each; one JSON line a second, and a summary
    Load {
        #[command(flatten)]
        clients: Clients,
        /// Connections to open in a second
        #[arg(long)]
        rate: u32,
        /// Seconds to go on
        #[arg(long)]
        seconds: u32,
        /// How long each connection is held
        #[arg(long, default_value = "1s", value_parser = duration)]
        hold: Duration,
        /// Stop after so many connections, if that is earlier
        #[arg(long)]
        connections: Option<u32>,
    },
    /// Open connections as fast as they are accepted, hold them all, and report their spread as JSON
    Burst {
        #[command(flatten)]
        clients: Clients,
        /// How many
        #[arg(long)]
        connections: u32,
        /// How long all stay open after the report
        #[arg(long, default_value = "0s", value_parser = duration)]
        hold: Duration,
        /// They stay until a line comes from standard input; then report how many have ended well
        #[arg(long, conflicts_with = "hold")]
        pause: bool,
    },
    /// Keep so many short connections going, each opened as soon as another is over; report as JSON
    ///
    /// With few source ports nearly each of them reopens a flow; with many none does.
    Storm {
        #[command(flatten)]
        clients: Clients,
        /// Connections that are under way at any time
        #[arg(long)]
        concurrency: u32,
        /// Seconds to go on
        #[arg(long)]
        seconds: u32,
        /// How long each connection is held
        #[arg(long, default_value = "0s", value_parser = duration)]
        hold: Duration,
        /// Count from when so many have been opened (default: one from each source port)
        #[arg(long)]
        warm_up: Option<u32>,
        /// Stop after so many connections, if that is earlier
        #[arg(long)]
        connections: Option<u32>,
        /// Besides, print a JSON line so often: how many each server got since the line before
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        every: Option<Duration>,
    },
    /// Send UDP datagrams without waiting for replies; report the time of one as JSON
    Datagrams {
        #[arg(long, value_name = "ADDR:PORT")]
        from: SocketAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// How many
        #[arg(long, default_value = "1")]
        count: u32,
        /// Send to these ports in turn
        #[arg(long, value_parser = port_range)]
        ports: Option<RangeInclusive<u16>>,
        /// Send one from each of these ports
        #[arg(long, value_parser = port_range, conflicts_with_all = ["count", "ports"])]
        from_ports: Option<RangeInclusive<u16>>,
    },
    /// Be the receiver of a stream: discard UDP datagrams in the kernel
    Sink {
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
    },
    /// Send UDP datagrams one way; report the time of one as JSON
    Stream {
        #[arg(long, value_name = "ADDR:PORT")]
        from: SocketAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// How many
        #[arg(long)]
        count: u32,
        /// Bytes of payload in each
        #[arg(long, default_value = "1")]
        size: usize,
    },
    /// Send UDP queries, each after the reply to the last; report the time of one as JSON
    Queries {
        #[arg(long, value_name = "ADDR:PORT")]
        from: SocketAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// Open TCP connections one after another and reset each; report the time of one as JSON
    Connections {
        #[arg(long, value_name = "ADDR")]
        from: IpAddr,
        /// Source ports: one for each connection
        #[arg(long, value_parser = port_range)]
        ports: RangeInclusive<u16>,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// Send bytes over TCP to a server that discards them; report number and time as JSON
    Bulk {
        #[arg(long, value_name = "ADDR:PORT")]
        from: SocketAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// How many
        #[arg(long)]
        bytes: u64,
        /// Stop early when a line arrives on standard input
        #[arg(long)]
        until_line: bool,
        /// How long the connection may make no progress
        #[arg(long, default_value = "60s", value_parser = duration)]
        patience: Duration,
    },
    /// Send bad packets, and good ones among them, at flows; report how many of each kind as JSON
    Packets {
        /// The interface to send by, and the Ethernet address of the director behind it. With
        /// more than one, each packet goes by all of them at once, from a processor each
        #[arg(long = "link", required = true, value_name = "NAME=MAC", value_parser = link)]
        links: Vec<(String, [u8; 6])>,
        /// The flows' clients; may be given more than once
        #[arg(long, required = true, value_name = "ADDR", value_delimiter = ',')]
        from: Vec<IpAddr>,
        /// The flows' services; may be given more than once
        #[arg(long, required = true, value_name = "ADDR:PORT", value_delimiter = ',')]
        to: Vec<SocketAddr>,
        /// The flows' client ports
        #[arg(long, value_parser = port_range)]
        ports: RangeInclusive<u16>,
        /// The flows' protocols
        #[arg(long, value_enum, value_delimiter = ',', default_value = "tcp")]
        proto: Vec<net::Proto>,
        /// What to send (default: everything)
        #[arg(long, value_enum, value_delimiter = ',')]
        kind: Vec<packets::Kind>,
        /// What the packets are drawn from (default: it is drawn itself, and reported)
        #[arg(long)]
        seed: Option<u64>,
        /// The first of the seed's packets to send
        #[arg(long, default_value = "0")]
        first: u64,
        /// How many
        #[arg(long)]
        count: u64,
    },
    /// Send a SYN past the TCP of this machine: a stranger's, or a late duplicate
    Syn {
        #[arg(long, value_name = "ADDR:PORT")]
        from: SocketAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// With a wrong checksum
        #[arg(long)]
        damaged: bool,
        /// A RST in place of the SYN
        #[arg(long)]
        reset: bool,
    },
    /// Send SYNs as fast as they go, from each port in turn, and report as JSON how many
    Flood {
        /// The interface to send by, and the Ethernet address of the director behind it
        #[arg(long, value_name = "NAME=MAC", value_parser = link)]
        link: (String, [u8; 6]),
        #[arg(long, value_name = "ADDR")]
        from: IpAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        #[arg(long, value_parser = port_range)]
        ports: RangeInclusive<u16>,
        /// For how long
        #[arg(long, value_parser = duration)]
        time: Duration,
        /// Before each SYN, a FIN of the flow that is to be reopened
        #[arg(long)]
        reopen: bool,
    },
    /// Ask over UDP from one socket, tell the first server's name, and go on until a line comes from
    /// standard input; report as JSON the answers and the servers that gave them
    Questions {
        #[arg(long, value_name = "ADDR:PORT")]
        from: SocketAddr,
        #[arg(long, value_name = "ADDR:PORT")]
        to: SocketAddr,
        /// Time between two questions
        #[arg(long, default_value = "5ms", value_parser = duration)]
        every: Duration,
    },
    /// Fail unless COUNT of TOTAL can be what a share of PERCENT has come to by chance
    Share {
        #[arg(value_enum)]
        bound: statistics::Bound,
        count: u32,
        total: u32,
        percent: f64,
    },
    /// Print the most connections of any server that two choices explain
    TwoChoices { connections: u32, servers: u32 },
    /// Read a load's summary, and print how many connections were refused outside of these windows
    RefusedOutside {
        /// In milliseconds since 1970
        #[arg(value_name = "START-END")]
        windows: Vec<String>,
    },
    /// Print the results of the cases (their RESULTS file) as a table
    Table {
        file: PathBuf,
        #[arg(long, default_value = "A client reuses its port")]
        title: String,
    },
    /// Do what each line of standard input says, as the arguments of this program
    Console,
}

#[derive(Args)]
struct Clients {
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// Source addresses; may be given more than once
    #[arg(long, required = true, value_name = "ADDR", value_delimiter = ',')]
    from: Vec<IpAddr>,
    /// Source ports, used in turn and used again as they become free
    #[arg(long, default_value = "1024-65535", value_parser = port_range)]
    ports: RangeInclusive<u16>,
    /// How each connection ends
    #[arg(long, value_enum, default_value = "fin")]
    end: crowd::End,
    /// How long one connection may take until its greeting
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

impl Clients {
    fn crowd(self) -> anyhow::Result<crowd::Crowd> {
        crowd::Crowd::new(self.to, self.from, self.ports, self.end, self.timeout)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.strip_suffix("ms") {
        Some(ms) => ms.parse().map(Duration::from_millis).ok(),
        None => text
            .strip_suffix('s')
            .and_then(|s| s.parse().ok())
            .and_then(|s| Duration::try_from_secs_f64(s).ok()),
    };
    parsed.ok_or_else(|| "write it like 5s, 0.5s or 300ms".into())
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    text.split_once('-')
        .and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)))
        .filter(|(low, high)| (1..=*high).contains(low))
        .map(|(low, high)| low..=high)
        .ok_or_else(|| "write it like 20000-29999".into())
}

fn link(text: &str) -> Result<(String, [u8; 6]), String> {
    let parsed = text.split_once('=').and_then(|(name, mac)| {
        let bytes: Option<Vec<u8>> = (mac.split(':'))
            .map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();
        Some((name.to_string(), bytes?.try_into().ok()?))
    });
    parsed.ok_or_else(|| "write it like eth0=02:00:00:00:00:01".into())
}

fn main() -> ExitCode {
    match play(Cli::parse().role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("harness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(role: Role) -> anyhow::Result<()> {
    match role {
        Role::Serve {
            name,
            listen,
            proto,
            with_port,
        } => serve::serve(&name, &listen, &proto, with_port),
        Role::Reconnect {
            from,
            to,
            proto,
            then_from,
            size,
            extended,
            handmade,
            link,
            end,
            pause,
            passive,
            call_id,
            timeout,
        } => {
            let client = reconnect::Client {
                then_from: then_from.map_or(from, |ip| SocketAddr::new(ip, from.port())),
                passive,
                call_id,
                size,
                extended,
                handmade: handmade.zip(link),
                ..reconnect::Client::new(from, to, proto, timeout)
            };
            client
                .reconnect(end, pause)
                .and_then(|report| net::print_json(&report))
        }
        Role::Flows { over, timeout } => flows::flows(over, timeout),
        Role::Load {
            clients,
            rate,
            seconds,
            hold,
            connections,
        } => clients
            .crowd()
            .and_then(|crowd| load::load(crowd, rate, seconds, hold, connections)),
        Role::Burst {
            clients,
            connections,
            hold,
            pause,
        } => clients.crowd().and_then(|crowd| {
            let hold = (!pause).then_some(hold);
            load::burst(crowd, connections, hold)
        }),
        Role::Storm {
            clients,
            concurrency,
            seconds,
            hold,
            warm_up,
            connections,
            every,
        } => clients.crowd().and_then(|crowd| {
            let plan = storm::Plan {
                concurrency,
                seconds,
                hold,
                warm_up: warm_up.unwrap_or(crowd.capacity() as u32),
                connections,
                every,
            };
            storm::storm(crowd, &plan)
        }),
        Role::Datagrams {
            from,
            to,
            count,
            ports,
            from_ports,
        } => match (from_ports, ports) {
            (Some(from_ports), _) => datagrams::send_from_each(from, to, from_ports),
            (None, Some(ports)) => datagrams::send_to_each(from, to, count, ports),
            (None, None) => datagrams::send(from, to, count),
        },
        Role::Sink { listen } => stream::sink(listen),
        Role::Stream {
            from,
            to,
            count,
            size,
        } => stream::stream(from, to, count, size),
        Role::Queries { from, to, count } => stream::queries(from, to, count),
        Role::Connections {
            from,
            ports,
            to,
            count,
        } => stream::connections(from, ports, to, count),
        Role::Bulk {
            from,
            to,
            bytes,
            until_line,
            patience,
        } => bulk::send(
            from,
            to,
            &bulk::Plan {
                bytes,
                until_line,
                patience,
            },
        ),
        Role::Packets {
            links,
            from,
            to,
            ports,
            proto: protos,
            mut kind,
            seed,
            first,
            count,
        } => {
            if kind.is_empty() {
                kind = packets::Kind::value_variants().to_vec();
            }
            let links: Vec<_> = (links.iter())
                .map(|(name, mac)| {
                    net::Link::new(name, *mac).with_context(|| format!("cannot send by {name}"))
                })
                .collect::<anyhow::Result<_>>()?;
            let flows = packets::Flows {
                from,
                to,
                ports,
                protos,
            };
            packets::send(
                &flows,
                &kind,
                packets::Series { seed, first, count },
                &links,
            )
        }
        Role::Syn {
            from,
            to,
            damaged,
            reset,
        } => stray::send_syn(from, to, damaged, reset)
            .map_err(anyhow::Error::from)
            .and_then(|()| net::print_json(&json!({ "sent": "syn" }))),
        Role::Flood {
            link: (name, mac),
            from,
            to,
            ports,
            time,
            reopen,
        } => net::Link::new(&name, mac)
            .with_context(|| format!("cannot send by {name}"))
            .and_then(|link| stray::flood(&link, from, to, ports, time, reopen)),
        Role::Questions { from, to, every } => questions::ask(from, to, every),
        Role::Share {
            bound,
            count,
            total,
            percent,
        } => {
            if !statistics::is_share(bound, count, total, percent) {
                bail!("{count} of {total} cannot be a share of {percent} %");
            }
            Ok(())
        }
        Role::TwoChoices {
            connections,
            servers,
        } => {
            println!("{}", statistics::most_of_two_choices(connections, servers));
            Ok(())
        }
        Role::RefusedOutside { windows } => {
            let summary = io::read_to_string(io::stdin())?;
            println!("{}", statistics::refused_outside(&summary, &windows)?);
            Ok(())
        }
        Role::Table { file, title } => table::print(&file, &title),
        Role::Console => console(),
    }
}

/// One process for many connections: where processes are slow to start, tests are not.
///
/// A line of input is answered by what it plays, or by an error, but never by both.
fn console() -> anyhow::Result<()> {
    let mut line = String::new();
    // Standard input is not kept locked: `--pause` reads a line of it.
    while io::stdin().read_line(&mut line)? > 0 {
        let words = iter::once("harness").chain(line.split_whitespace());
        let played = Cli::try_parse_from(words)
            .map_err(anyhow::Error::from)
            .and_then(|cli| play(cli.role));
        match played {
            Err(error) if !error.is::<load::SomeFailed>() => {
                net::print_json(&json!({ "error": format!("{error:#}") }))?;
            }
            // Whatever was played has printed its report.
            _ => {}
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_milliseconds() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("2.5s"), Ok(Duration::from_millis(2500)));
        for wrong in ["5", "s", "-1s", "1m", "NaNs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn links_are_a_name_and_an_address() {
        assert_eq!(
            link("a=02:0:0:0:0:1f"),
            Ok(("a".into(), [2, 0, 0, 0, 0, 31]))
        );
        for wrong in ["a", "a=", "a=1:2:3:4:5", "a=1:2:3:4:5:6:7", "a=x:2:3:4:5:6"] {
            assert!(link(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn port_ranges_are_not_empty() {
        assert_eq!(port_range("20000-20009"), Ok(20000..=20009));
        for wrong in ["20000", "0-9", "9-8", "1-65536"] {
            assert!(port_range(wrong).is_err(), "{wrong}");
        }
    }
}
