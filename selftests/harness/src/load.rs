// SPDX-License-Identifier: GPL-2.0

//! What a crowd does: a steady load, or one burst. Both are bounded and stop by themselves.

use std::error::Error;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _};
use serde::Serialize;
use serde_json::json;

use crate::crowd::{ByServer, Crowd, Tally};
use crate::{net, reconnect};

/// One second of a load: how many connections each server got in it.
#[derive(Serialize)]
struct Second {
    t: u32,
    #[serde(flatten)]
    servers: ByServer,
}

#[derive(Serialize)]
struct Summary<'a> {
    summary: &'a Tally,
}

#[derive(Serialize)]
struct Spread<'a> {
    connections: u32,
    failed: u32,
    slow: u32,
    ms: u128,
    servers: &'a ByServer,
    max_over_mean: f64,
}

/// Opens `rate` connections a second for so many `seconds`, and holds each for `hold`.
pub fn load(
    mut crowd: Crowd,
    rate: u32,
    seconds: u32,
    hold: Duration,
    connections: Option<u32>,
) -> anyhow::Result<()> {
    ensure!(
        rate > 0 && seconds > 0,
        "nothing to do: --rate and --seconds are at least 1"
    );
    let total = rate
        .checked_mul(seconds)
        .context("too many: lower --rate or --seconds")?;
    let total = connections.map_or(total, |most| total.min(most));
    let at_once = f64::from(total).min(f64::from(rate) * hold.as_secs_f64());
    ensure!(
        at_once <= crowd.capacity() as f64,
        "about {at_once} connections are open at once, from {} ports: \
         give more of them by --ports or --from, or lower --rate or --hold",
        crowd.capacity()
    );

    crowd.hold_each_for(hold);
    let start = Instant::now();
    let due_at = |n: u32| start + Duration::from_secs(1) * n / rate;
    let mut second = 1;
    while second <= seconds && (crowd.tally().opened < total || crowd.open_count() > 0) {
        let now = Instant::now();
        while crowd.tally().opened < total && due_at(crowd.tally().opened) <= now {
            crowd.open()?;
        }
        let end_of_second = start + Duration::from_secs(1) * second;
        if now >= end_of_second {
            net::print_json(&Second {
                t: second,
                servers: crowd.take_greeted(),
            })?;
            second += 1;
            continue;
        }
        let wake = match crowd.tally().opened {
            opened if opened < total => end_of_second.min(due_at(opened)),
            _ => end_of_second,
        };
        crowd.run_until(wake)?;
    }
    crowd.end_all()?;
    // What was greeted last, or all of it when --connections ended the load.
    let rest = crowd.take_greeted();
    if !rest.is_empty() {
        net::print_json(&Second {
            t: second,
            servers: rest,
        })?;
    }
    net::print_json(&Summary {
        summary: crowd.tally(),
    })?;
    none_failed(&crowd)
}

/// Opens all connections at once, as far as the servers' queues allow, and reports their spread.
/// They stay open for so long, or until a line comes from standard input.
pub fn burst(mut crowd: Crowd, connections: u32, hold: Option<Duration>) -> anyhow::Result<()> {
    /// Well below a listen queue, so that no SYN is dropped for want of room in it.
    const AT_ONCE: usize = 256;

    ensure!(
        connections as usize <= crowd.capacity(),
        "{connections} connections need as many source ports and there are {}: \
         give more of them by --ports or --from",
        crowd.capacity()
    );
    let start = Instant::now();
    while crowd.tally().opened < connections || crowd.connecting() > 0 {
        while crowd.tally().opened < connections && crowd.connecting() < AT_ONCE {
            crowd.open()?;
        }
        crowd.run_until(Instant::now() + Duration::from_secs(1))?;
    }
    let tally = crowd.tally();
    net::print_json(&Spread {
        connections: tally.connected,
        failed: tally.failed,
        slow: tally.slow,
        ms: start.elapsed().as_millis(),
        servers: &tally.servers,
        max_over_mean: max_over_mean(&tally.servers),
    })?;
    match hold {
        Some(time) => thread::sleep(time),
        None => reconnect::wait_for_line()?,
    }
    crowd.end_all()?;
    none_failed(&crowd)?;
    match hold {
        Some(_) => Ok(()),
        None => net::print_json(&json!({ "ended": connections })),
    }
}

/// Some connections failed. The report, which is printed before, says so already.
#[derive(Debug)]
pub struct SomeFailed {
    failed: u32,
    opened: u32,
}

impl fmt::Display for SomeFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} connections failed", self.failed, self.opened)
    }
}

impl Error for SomeFailed {}

fn none_failed(crowd: &Crowd) -> anyhow::Result<()> {
    let &Tally { failed, opened, .. } = crowd.tally();
    ensure!(failed == 0, SomeFailed { failed, opened });
    Ok(())
}

/// How much more the busiest server has than the mean of those that have any, to three decimals; 1
/// is perfectly even.
pub fn max_over_mean(by_server: &ByServer) -> f64 {
    let count = by_server.len() as u32;
    let total: u32 = by_server.values().sum();
    let max = by_server.values().max().copied().unwrap_or_default();
    let ratio = f64::from(max) * f64::from(count) / f64::from(total);
    (ratio * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_is_compared_with_the_mean() {
        let by_server = ByServer::from([("rs1".into(), 30), ("rs2".into(), 10)]);
        assert_eq!(max_over_mean(&by_server), 1.5);
    }
}
