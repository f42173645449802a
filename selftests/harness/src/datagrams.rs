// SPDX-License-Identifier: GPL-2.0

//! Datagrams, for what a virtual service takes to schedule one. Sent by the director itself they
//! run the whole way to the real server's device before the call returns.

use std::io::Read as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _};
use serde::Serialize;

use crate::net::{self, Proto};

#[derive(Serialize)]
struct Report {
    datagrams: u32,
    ns_each: u128,
}

/// Sends `count` datagrams from `from` to `to`; if they are `answered`, one at a time.
pub fn send(from: SocketAddr, to: SocketAddr, count: u32, answered: bool) -> anyhow::Result<()> {
    /// Then the answer is lost.
    const PATIENCE: Duration = Duration::from_secs(5);

    ensure!(count > 0, "nothing to do: --count is at least 1");
    let socket = Proto::Udp.socket(from)?;
    socket
        .bind(&from.into())
        .and_then(|()| socket.connect(&to.into()))
        .with_context(|| format!("no socket from {from} to {to}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; 128];
    let start = Instant::now();
    for _ in 0..count {
        socket
            .send(b"?")
            .with_context(|| format!("cannot send to {to}: is a real server there?"))?;
        if answered {
            (&socket)
                .read(&mut answer)
                .with_context(|| format!("no answer from {to}"))?;
        }
    }
    net::print_json(&Report {
        datagrams: count,
        ns_each: start.elapsed().as_nanos() / u128::from(count),
    })
}

/// Sends `count` datagrams from `from` to each of these ports of `to`'s address in turn.
pub fn send_to_each(
    from: SocketAddr,
    to: SocketAddr,
    count: u32,
    ports: RangeInclusive<u16>,
) -> anyhow::Result<()> {
    let socket = Proto::Udp.socket(from)?;
    socket
        .bind(&from.into())
        .with_context(|| format!("cannot bind {from}"))?;
    let start = Instant::now();
    for port in ports.cycle().take(count as usize) {
        let to = SocketAddr::new(to.ip(), port);
        socket
            .send_to(b"?", &to.into())
            .with_context(|| format!("cannot send to {to}: is a real server there?"))?;
    }
    net::print_json(&Report {
        datagrams: count,
        ns_each: start.elapsed().as_nanos() / u128::from(count.max(1)),
    })
}
