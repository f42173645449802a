// SPDX-License-Identifier: GPL-2.0

//! Traffic for measuring the cost of a packet: a one-way stream of UDP datagrams and a sink for
//! it, UDP queries, and TCP connections, each kind one at a time.
//!
//! On a machine with one processor whose clock counts instructions, each of these is a fixed
//! amount of work, apart from what the kernel does beside it: timer ticks, RCU callbacks,
//! background workers. So the work is timed in small batches, of which fewer than a tenth contain a
//! tick, and the mean without the fastest and the slowest tenth is reported besides the plain mean.
//! A median would not do: the work of one connection varies by 20 %, in steps, and the median jumps
//! from one step to the next.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _};
use serde::Serialize;
use socket2::{SockFilter, Socket};

use crate::net::{self, Proto};

/// How long to wait for an answer before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long one of `count` things took, in nanoseconds.
#[derive(Serialize)]
struct Report {
    count: u32,
    /// The mean: all the time, by `count`.
    ns_each: u128,
    /// The mean without the fastest and the slowest tenth of the batches.
    ns_trimmed: f64,
}

/// Does `work` `count` times, rounded up to whole batches, and times each batch.
fn time(
    count: u32,
    batch: u32,
    mut work: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    ensure!(count > 0, "--count must be at least 1");
    let mut batches = Vec::with_capacity(count.div_ceil(batch) as usize);
    for _ in 0..count.div_ceil(batch) {
        let start = Instant::now();
        for _ in 0..batch {
            work()?;
        }
        batches.push(start.elapsed().as_nanos());
    }
    let count = batches.len() as u32 * batch;
    let total: u128 = batches.iter().sum();
    Ok(Report {
        count,
        ns_each: total / u128::from(count),
        ns_trimmed: (trimmed_mean(&mut batches) / f64::from(batch) * 100.0).round() / 100.0,
    })
}

/// The mean without the least and the greatest tenth of `values`, of which there is at least one.
fn trimmed_mean(values: &mut [u128]) -> f64 {
    values.sort_unstable();
    let tenth = values.len() / 10;
    let kept = &values[tenth..values.len() - tenth];
    kept.iter().sum::<u128>() as f64 / kept.len() as f64
}

/// A UDP socket from `from` to `to`.
fn connected(from: SocketAddr, to: SocketAddr) -> anyhow::Result<Socket> {
    let socket = Proto::Udp.socket(from)?;
    socket
        .bind(&from.into())
        .and_then(|()| socket.connect(&to.into()))
        .with_context(|| format!("no socket from {from} to {to}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Discards the datagrams that arrive at `addr`, and never returns.
///
/// A socket filter discards them, so no process wakes up for them, the receive buffer never fills,
/// and no ICMP error goes back. The socket counts them as dropped: last column of /proc/net/udp.
pub fn sink(addr: SocketAddr) -> anyhow::Result<()> {
    let accept_no_bytes = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    let socket = Proto::Udp.socket(addr)?;
    // First the filter, so that the queue stays empty.
    socket.attach_filter(&[accept_no_bytes])?;
    socket.bind(&addr.into()).with_context(|| {
        format!("cannot bind {addr}: find the process that has the port (ss -lnp)")
    })?;
    println!("READY");
    io::stdout().flush()?;
    loop {
        thread::park();
    }
}

/// Sends `count` datagrams with `size` bytes of payload from `from` to `to`, which sends nothing
/// back.
///
/// Where all links are veth devices or loopback, a datagram has reached its last socket before
/// `send()` returns: the softirq that each device raises runs before then. So there is always at
/// most one under way, and no queue can overflow.
pub fn stream(from: SocketAddr, to: SocketAddr, count: u32, size: usize) -> anyhow::Result<()> {
    /// Less than a tenth of a timer tick.
    const BATCH: u32 = 10;

    let socket = connected(from, to)?;
    let payload = vec![0; size];
    net::print_json(&time(count, BATCH, || {
        let sent = socket
            .send(&payload)
            .with_context(|| format!("cannot send to {to}: is a sink there?"))?;
        ensure!(sent == size, "only {sent} bytes of {size} were sent");
        Ok(())
    })?)
}

/// Sends `count` queries from `from` to `to`, each after the reply to the one before.
pub fn queries(from: SocketAddr, to: SocketAddr, count: u32) -> anyhow::Result<()> {
    let socket = connected(from, to)?;
    let mut reply = [0; 128];
    net::print_json(&time(count, 1, || {
        socket
            .send(b"?")
            .with_context(|| format!("cannot send to {to}"))?;
        (&socket)
            .read(&mut reply)
            .with_context(|| format!("no reply from {to}"))?;
        Ok(())
    })?)
}

/// Opens `count` TCP connections from the ports of `from` in turn, one after another, and resets
/// each after the server's greeting.
pub fn connections(
    from: IpAddr,
    ports: RangeInclusive<u16>,
    to: SocketAddr,
    count: u32,
) -> anyhow::Result<()> {
    ensure!(
        count as usize <= ports.len(),
        "there are fewer ports than connections"
    );
    let mut ports = ports;
    let mut greeting = [0; 128];
    net::print_json(&time(count, 1, || {
        let from = SocketAddr::new(from, ports.next().context("no port is left")?);
        let socket = Proto::Tcp.socket(from)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket
            .bind(&from.into())
            .and_then(|()| socket.connect(&to.into()))
            .with_context(|| format!("cannot connect from {from} to {to}"))?;
        let greeted = (&socket)
            .read(&mut greeting)
            .with_context(|| format!("no greeting from {to}"))?;
        ensure!(greeted > 0, "{to} has closed the connection");
        Ok(())
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trimmed_mean_leaves_out_a_tenth_at_each_end() {
        assert_eq!(trimmed_mean(&mut [7]), 7.0);
        assert_eq!(trimmed_mean(&mut [1, 2, 6]), 3.0);
        let mut values = [900, 3, 3, 3, 3, 5, 5, 5, 5, 0];
        assert_eq!(trimmed_mean(&mut values), 4.0);
    }

    #[test]
    fn batches_are_whole() {
        let mut done = 0;
        let report = time(11, 10, || {
            done += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!((done, report.count), (20, 20));
        assert!(time(0, 10, || Ok(())).is_err());
    }
}
