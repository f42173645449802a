// SPDX-License-Identifier: GPL-2.0

//! A closed loop: so many short connections are always under way, and each that is over makes
//! room for the next. What it reaches in a second, and how long each takes, is what is asked.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use serde::Serialize;

use crate::crowd::{ByServer, Crowd};
use crate::load::max_over_mean;
use crate::net;

pub struct Plan {
    pub concurrency: u32,
    pub seconds: u32,
    pub hold: Duration,
    /// Connections to open before it counts: the first through each port reopens nothing.
    pub warm_up: u32,
    pub connections: Option<u32>,
    pub every: Option<Duration>,
}

/// Who got how many connections since the line before.
#[derive(Serialize)]
struct Interval {
    /// When it ended, in milliseconds since 1970.
    at_ms: u128,
    servers: ByServer,
    /// Those that have failed so far.
    failed: u32,
}

#[derive(Serialize)]
struct Report {
    concurrency: u32,
    ports: usize,
    /// Until the last greeting in time.
    seconds: f64,
    /// Greeted in time.
    connections: u32,
    per_second: f64,
    /// From the first packet to the greeting, of all that were opened within that time.
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// Connections that sent their first packet again, and those whose first packet was lost.
    slow: u32,
    first_lost: u32,
    syn_retransmits: u32,
    failed: u32,
    over_500_ms: u64,
    servers: ByServer,
    max_over_mean: f64,
}

/// Connections that take longer stand out, whatever the machine.
const LONG_US: u64 = 500_000;
/// The longest that a warm-up may take: one in which each first packet is lost is long enough.
const WARM_UP: Duration = Duration::from_secs(10);

pub fn storm(mut crowd: Crowd, plan: &Plan) -> anyhow::Result<()> {
    ensure!(
        plan.concurrency > 0 && plan.seconds > 0,
        "nothing to do: --concurrency and --seconds are at least 1"
    );
    ensure!(
        (plan.concurrency as usize) < crowd.capacity(),
        "{} connections at once need more than {} ports: give more of them by --ports or --from",
        plan.concurrency,
        crowd.capacity()
    );
    crowd.hold_each_for(plan.hold);
    let warm = Instant::now() + WARM_UP;
    while crowd.tally().opened < plan.warm_up && Instant::now() < warm {
        crowd.keep_open(plan.concurrency, plan.warm_up)?;
        crowd.run_until(warm)?;
    }
    crowd.start_counting();

    let start = Instant::now();
    let end = start + Duration::from_secs(plan.seconds.into());
    let most = plan.connections.unwrap_or(u32::MAX);
    let mut line = plan.every.map(|every| start + every);
    loop {
        let now = Instant::now();
        if now >= end || crowd.tally().connected + crowd.tally().failed >= most {
            break;
        }
        if let (Some(due), Some(every)) = (line, plan.every) {
            if now >= due {
                print_interval(&mut crowd)?;
                line = Some(due + every);
                continue;
            }
        }
        crowd.keep_open(plan.concurrency, most)?;
        crowd.run_until(line.map_or(end, |due| due.min(end)))?;
    }
    // Where all wait for the same second, they come in volleys: up to the last of them is what
    // the number of connections belongs to.
    let last = crowd.last_greeted().filter(|&last| last > start);
    let took = last
        .map_or(start.elapsed(), |last| last - start)
        .as_secs_f64();
    let connections = crowd.tally().connected;
    crowd.end_all()?;
    if plan.every.is_some() {
        print_interval(&mut crowd)?;
    }

    let tally = crowd.tally();
    let ms = |us: u64| us as f64 / 1000.0;
    let times = crowd.times();
    net::print_json(&Report {
        concurrency: plan.concurrency,
        ports: crowd.capacity(),
        seconds: took,
        connections,
        per_second: (f64::from(connections) / took * 10.0).round() / 10.0,
        p50_ms: ms(times.value_at_quantile(0.5)),
        p99_ms: ms(times.value_at_quantile(0.99)),
        p999_ms: ms(times.value_at_quantile(0.999)),
        max_ms: ms(times.max()),
        slow: tally.slow,
        first_lost: tally.first_lost,
        syn_retransmits: tally.syn_retransmits,
        failed: tally.failed,
        over_500_ms: times.count_between(LONG_US, u64::MAX),
        servers: tally.servers.clone(),
        max_over_mean: max_over_mean(&tally.servers),
    })
}

fn print_interval(crowd: &mut Crowd) -> anyhow::Result<()> {
    net::print_json(&Interval {
        at_ms: SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis(),
        servers: crowd.take_greeted(),
        failed: crowd.tally().failed,
    })
}
