// SPDX-License-Identifier: GPL-2.0

//! Bytes in one TCP connection, for what a packet costs that opens nothing.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::net::{self, Proto};

#[derive(Serialize)]
struct Report {
    bytes: u64,
    ns: u128,
}

/// Sends so many bytes to a server that throws them away, and waits until it has closed.
pub fn send(from: SocketAddr, to: SocketAddr, bytes: u64) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(60);

    let mut socket = Proto::Tcp.socket(from)?;
    socket.bind(&from.into())?;
    net::connect(&socket, to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    socket.set_nonblocking(false)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let chunk = vec![0; 1 << 16];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let len = left.min(chunk.len() as u64);
        socket.write_all(&chunk[..len as usize])?;
        left -= len;
    }
    socket.shutdown(Shutdown::Write)?;
    while socket.read(&mut [0; 64])? > 0 {}
    net::print_json(&Report {
        bytes,
        ns: start.elapsed().as_nanos(),
    })
}
