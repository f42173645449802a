// SPDX-License-Identifier: GPL-2.0

//! A TCP connection that sends without a pause, to see whether it survives what is done to it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::net::{self, Proto};

#[derive(Serialize)]
struct Report {
    bytes: u64,
    ns: u128,
}

pub struct Plan {
    /// How many bytes to send.
    pub bytes: u64,
    /// Stop early when a line arrives on standard input. The line is waited for in any case.
    pub until_line: bool,
    /// How long the connection may make no progress.
    pub patience: Duration,
}

/// Sends bytes to a server that discards them, and waits until the server has closed.
pub fn send(from: SocketAddr, to: SocketAddr, plan: &Plan) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        if plan.until_line {
            scope.spawn(|| {
                // End of file counts as a line.
                let _ = io::stdin().read_line(&mut String::new());
                stop.store(true, Relaxed);
            });
        }
        send_until(from, to, plan, &stop)
    })?;
    net::print_json(&report)
}

fn send_until(
    from: SocketAddr,
    to: SocketAddr,
    plan: &Plan,
    stop: &AtomicBool,
) -> anyhow::Result<Report> {
    let mut socket = Proto::Tcp.socket(from)?;
    socket.bind(&from.into())?;
    net::connect(&socket, to, plan.patience).with_context(|| format!("cannot connect to {to}"))?;
    socket.set_nonblocking(false)?;
    socket.set_write_timeout(Some(plan.patience))?;
    socket.set_read_timeout(Some(plan.patience))?;
    let chunk = vec![0; 1 << 16];
    let start = Instant::now();
    let mut left = plan.bytes;
    while left > 0 && !stop.load(Relaxed) {
        let len = left.min(chunk.len() as u64);
        socket.write_all(&chunk[..len as usize])?;
        left -= len;
    }
    socket.shutdown(Shutdown::Write)?;
    while socket.read(&mut [0; 64])? > 0 {}
    Ok(Report {
        bytes: plan.bytes - left,
        ns: start.elapsed().as_nanos(),
    })
}
