// SPDX-License-Identifier: GPL-2.0

//! A client like a resolver: one socket that asks on and on, whatever becomes of its servers.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _};
use serde::Serialize;
use serde_json::json;
use socket2::Socket;

use crate::net::{self, Proto};

/// How long the last answers may take.
const LAST: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Serialize)]
struct Report {
    questions: u32,
    answers: u32,
    /// Answers by the server that gave them.
    servers: BTreeMap<String, u32>,
}

/// Sends a query every so often, tells which server has answered first, and goes on until a line comes
/// from standard input.
pub fn ask(from: SocketAddr, to: SocketAddr, every: Duration) -> anyhow::Result<()> {
    let socket = Proto::Udp.socket(to)?;
    socket
        .bind(&from.into())
        .and_then(|()| socket.connect(&to.into()))
        .with_context(|| format!("no socket from {from} to {to}"))?;
    let told = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            // A line, or the end of the input.
            drop(io::stdin().read_line(&mut String::new()));
            told.store(true, Ordering::Relaxed);
        });
        ask_until(&told, &socket, every)
    })?;
    net::print_json(&report)
}

fn ask_until(told: &AtomicBool, socket: &Socket, every: Duration) -> anyhow::Result<Report> {
    let mut report = Report::default();
    while !told.load(Ordering::Relaxed) {
        send_question(socket)?;
        report.questions += 1;
        let next = Instant::now() + every;
        while Instant::now() < next {
            report.hear(socket, next)?;
        }
    }
    let end = Instant::now() + LAST;
    while report.answers < report.questions && Instant::now() < end {
        report.hear(socket, end)?;
    }
    Ok(report)
}

fn send_question(socket: &Socket) -> anyhow::Result<()> {
    const TRIES: u32 = 10;

    // What an earlier question met is told in place of sending this one, once.
    for _ in 0..TRIES {
        match socket.send(b"?") {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            sent => return sent.map(drop).context("cannot send a question"),
        }
    }
    bail!("question after question is refused: is the service up?")
}

impl Report {
    /// Counts an answer, if one comes before `deadline`.
    fn hear(&mut self, mut socket: &Socket, deadline: Instant) -> anyhow::Result<()> {
        let mut answer = [0; 256];
        socket.set_read_timeout(Some(net::until(deadline)))?;
        match socket.read(&mut answer) {
            Ok(len) => {
                let greeting = String::from_utf8_lossy(&answer[..len]);
                let name = greeting.split(' ').next().unwrap_or_default();
                if self.answers == 0 {
                    net::print_json(&json!({ "first": name }))?;
                }
                self.answers += 1;
                *self.servers.entry(name.into()).or_default() += 1;
                Ok(())
            }
            // None in time; or, as above, what an earlier question met.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error).context("cannot read an answer"),
        }
    }
}
