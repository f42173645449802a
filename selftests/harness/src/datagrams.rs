// SPDX-License-Identifier: GPL-2.0

//! Datagrams, for what a virtual service takes to schedule one. Sent by the director itself they
//! run the whole way to the real server's device before the call returns.

use std::net::SocketAddr;
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
    ensure!(count > 0, "nothing to do: --count is at least 1");
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
