// SPDX-License-Identifier: GPL-2.0

//! UDP datagrams that wait for no reply, to measure how long a virtual service takes to schedule
//! one. If the director itself sends them, each has reached the real server's device before
//! `send()` returns.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Instant;

use anyhow::{ensure, Context as _};
use serde::Serialize;

use crate::net::{self, Proto};

#[derive(Serialize)]
struct Report {
    datagrams: u32,
    ns_each: u128,
}

/// Sends `count` datagrams from `from` to `to`.
pub fn send(from: SocketAddr, to: SocketAddr, count: u32) -> anyhow::Result<()> {
    ensure!(count > 0, "--count must be at least 1");
    let socket = Proto::Udp.socket(from)?;
    socket
        .bind(&from.into())
        .and_then(|()| socket.connect(&to.into()))
        .with_context(|| format!("no socket from {from} to {to}"))?;
    let start = Instant::now();
    for _ in 0..count {
        socket
            .send(b"?")
            .with_context(|| format!("cannot send to {to}: is a real server there?"))?;
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

/// Sends one datagram from each of these ports of `from`'s address.
pub fn send_from_each(
    from: SocketAddr,
    to: SocketAddr,
    ports: RangeInclusive<u16>,
) -> anyhow::Result<()> {
    let count = ports.len() as u32;
    let start = Instant::now();
    for port in ports {
        let from = SocketAddr::new(from.ip(), port);
        let socket = Proto::Udp.socket(from)?;
        socket
            .bind(&from.into())
            .and_then(|()| socket.send_to(b"?", &to.into()))
            .with_context(|| format!("cannot send from {from} to {to}"))?;
    }
    net::print_json(&Report {
        datagrams: count,
        ns_each: start.elapsed().as_nanos() / u128::from(count.max(1)),
    })
}
