// SPDX-License-Identifier: GPL-2.0

//! Real servers as queues whose speed is their weight: how long does a connection take, and who gets
//! how many?
//!
//! Connections come at random (Poisson), each to a director drawn at random. A director knows its own
//! connections only. A real server serves one connection after the other; the work of each is drawn
//! from an exponential distribution, and a server of weight `w` does `w` of it in a unit of time.
//! `load` is the work that comes over the work that all servers can do. A connection is active until
//! it has been served, and then inactive (TIME_WAIT) for [`INACTIVE`] times the mean time that it
//! would take on a server of weight 1.
//!
//! `p2c` is the module's own code. The rules of the others are those of IPVS
//! (`net/netfilter/ipvs/ip_vs_*.c`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use host::sampler::{build, Column, Load, Table};
use oorandom::Rand64;
use serde_json::{json, Value};

/// How long an inactive connection is remembered.
const INACTIVE: f64 = 60.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    Sed,
    Wlc,
    Twos,
    /// `twos`, without its double count: the newest server is drawn by its weight.
    TwosMended,
    P2c,
    /// p2c's draws, compared as `sed` does: `(active + 1) / weight`.
    P2cSed,
    /// Two draws that are independent.
    P2cIndependent,
    /// Two draws that are repeated until they differ.
    P2cDistinct,
}

impl Scheduler {
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Sed, "sed"),
        (Self::Wlc, "wlc"),
        (Self::Twos, "twos"),
        (Self::TwosMended, "twos, mended"),
        (Self::P2c, "p2c"),
        (Self::P2cSed, "p2c, compared as sed"),
        (Self::P2cIndependent, "p2c, two that may be the same"),
        (Self::P2cDistinct, "p2c, two that differ"),
    ];
}

/// Weights of the servers, by name. The last one came last, and is the first in the list of IPVS.
pub fn mixes() -> Vec<(&'static str, Vec<i32>)> {
    let with = |mut weights: Vec<i32>, last| {
        weights.push(last);
        weights
    };
    vec![
        ("ten equal", vec![1; 10]),
        ("a hundred equal", vec![1; 100]),
        ("five of 1, five of 10", [[1; 5], [10; 5]].concat()),
        ("nine of 1, one of 91", with(vec![1; 9], 91)),
        ("1 to 10", (1..=10).collect()),
        ("99 and a canary of 1", vec![99, 1]),
        ("nine of 11 and a canary of 1", with(vec![11; 9], 1)),
    ]
}

/// What is simulated.
pub struct Setting<'a> {
    pub weights: &'a [i32],
    pub load: f64,
    pub directors: usize,
    pub connections: usize,
}

struct Director {
    active: Vec<i32>,
    inactive: Vec<i32>,
}

impl Director {
    fn load(&self, server: usize, weight: i32) -> Load {
        Load {
            active: self.active[server],
            total: self.active[server] + self.inactive[server],
            weight,
        }
    }

    /// `ip_vs_dest_conn_overhead()`
    fn overhead(&self, server: usize) -> i64 {
        (i64::from(self.active[server]) << 8)
            + i64::from(self.active[server] + self.inactive[server])
    }
}

/// The servers, as the schedulers see them.
struct Service<'a> {
    weights: &'a [i32],
    weight: u64,
    total: u64,
    columns: Vec<Column>,
}

impl Service<'_> {
    fn table(&self) -> Table<'_> {
        Table {
            total: self.total,
            columns: &self.columns,
        }
    }

    /// The first server with the least `cost` per weight, from the newest to the oldest.
    fn least(&self, cost: impl Fn(usize) -> i64) -> usize {
        let mut best = self.weights.len() - 1;
        for server in (0..best).rev() {
            let lighter = cost(server) * i64::from(self.weights[best])
                < cost(best) * i64::from(self.weights[server]);
            if lighter {
                best = server;
            }
        }
        best
    }

    /// `ip_vs_twos_schedule()`: draws a number from 0 to the sum of the weights, both included, and
    /// subtracts the weights from it until it is 0 or less: 0 is the newest server's, besides its
    /// weight. Mended: draws from 1.
    fn twos(&self, director: &Director, mended: bool, random: &mut Rand64) -> usize {
        let mut draw = || {
            let mut rest = random.rand_range(u64::from(mended)..self.weight + 1) as i64;
            (0..self.weights.len())
                .rev()
                .find(|&server| {
                    rest -= i64::from(self.weights[server]);
                    rest <= 0
                })
                .unwrap_or_default()
        };
        let (first, second) = (draw(), draw());
        let overhead = |server| director.overhead(server);
        let other = overhead(second) * i64::from(self.weights[first]);
        if overhead(first) * i64::from(self.weights[second]) > other {
            second
        } else {
            first
        }
    }

    fn choose(&self, scheduler: Scheduler, director: &Director, random: &mut Rand64) -> usize {
        // The lighter of the two with so many more connections each.
        let compared = |drawn: [Option<usize>; 2], more: i32| {
            let [first, second] = drawn.map(Option::unwrap_or_default);
            let cost = |server: usize, of: usize| {
                i64::from(director.active[server] + more) * i64::from(self.weights[of])
            };
            if cost(second, first) < cost(first, second) {
                second
            } else {
                first
            }
        };
        match scheduler {
            Scheduler::Sed => self.least(|server| i64::from(director.active[server]) + 1),
            Scheduler::Wlc => self.least(|server| director.overhead(server)),
            Scheduler::Twos => self.twos(director, false, random),
            Scheduler::TwosMended => self.twos(director, true, random),
            Scheduler::P2c => self
                .table()
                .pick(
                    || random.rand_u64(),
                    |server| Some(director.load(server, self.weights[server])),
                )
                .unwrap_or_default(),
            Scheduler::P2cSed => compared(self.table().draw_two(|| random.rand_u64()), 1),
            Scheduler::P2cIndependent | Scheduler::P2cDistinct => {
                // The first of the two is drawn from all.
                let mut draw = || self.table().draw_two(|| random.rand_u64())[0];
                let first = draw();
                let mut second = draw();
                while scheduler == Scheduler::P2cDistinct && second == first {
                    second = draw();
                }
                compared([first, second], 0)
            }
        }
    }
}

/// A moment, for the heap: what is earliest comes first.
struct At(f64);

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What happens to connections: when, and the director and the server of each.
type Events = BinaryHeap<(Reverse<At>, usize, usize)>;

/// Takes out the earliest event, if it is not later than `now`.
fn pop_until(events: &mut Events, now: f64) -> Option<(f64, usize, usize)> {
    let (Reverse(At(at)), ..) = events.peek()?;
    if *at > now {
        return None;
    }
    let (Reverse(At(at)), director, server) = events.pop()?;
    Some((at, director, server))
}

/// Of one simulation: mean and 99th percentile of the time from coming to having been served, the
/// share of each server over its share of the weight (the least and the most of all, and that of the
/// last server), and the most active connections of a server over its weight, to the mean.
pub fn simulate(scheduler: Scheduler, setting: &Setting<'_>, seed: u128) -> Value {
    let Setting { weights, load, .. } = *setting;
    let n = weights.len();
    let mut random = Rand64::new(seed);
    let mut columns: Vec<_> = weights.iter().copied().map(Column::new).collect();
    let service = Service {
        weights,
        weight: weights.iter().map(|&weight| weight as u64).sum(),
        total: build(&mut columns).expect("there is weight"),
        columns,
    };
    let capacity = service.weight as f64;
    let mut directors: Vec<_> = (0..setting.directors)
        .map(|_| Director {
            active: vec![0; n],
            inactive: vec![0; n],
        })
        .collect();
    // When the last connection of each server will have been served.
    let mut free_at = vec![0.0f64; n];
    let mut active = vec![0u32; n];
    let mut ends = Events::new();
    let mut forgotten = Events::new();
    let mut got = vec![0u32; n];
    let mut times = Vec::with_capacity(setting.connections);
    let mut fullest = 0.0;
    let mut now = 0.0f64;
    // The first tenth fills the queues, and does not count.
    let warm_up = setting.connections / 10;

    for number in 0..setting.connections + warm_up {
        now += exponential(&mut random) / (load * capacity);
        while let Some((end, director, server)) = pop_until(&mut ends, now) {
            directors[director].active[server] -= 1;
            active[server] -= 1;
            directors[director].inactive[server] += 1;
            forgotten.push((Reverse(At(end + INACTIVE)), director, server));
        }
        while let Some((_, director, server)) = pop_until(&mut forgotten, now) {
            directors[director].inactive[server] -= 1;
        }

        let director = random.rand_range(0..setting.directors as u64) as usize;
        let server = service.choose(scheduler, &directors[director], &mut random);
        directors[director].active[server] += 1;
        active[server] += 1;
        let work = exponential(&mut random) / f64::from(weights[server]);
        let end = now.max(free_at[server]) + work;
        free_at[server] = end;
        ends.push((Reverse(At(end)), director, server));
        if number >= warm_up {
            got[server] += 1;
            times.push(end - now);
            fullest += fullest_over_mean(&active, weights, service.weight);
        }
    }

    times.sort_by(f64::total_cmp);
    let count = times.len();
    let share = |server: usize| {
        let all: u32 = got.iter().sum();
        f64::from(got[server]) / f64::from(all) * capacity / f64::from(weights[server])
    };
    let shares = (0..n).map(share);
    json!({
        "mean": times.iter().sum::<f64>() / count as f64,
        "p99": times[count * 99 / 100],
        "least_share": round(shares.clone().fold(f64::MAX, f64::min)),
        "most_share": round(shares.fold(0.0, f64::max)),
        "last_share": round(share(n - 1)),
        "fullest_over_mean": round(fullest / count as f64),
    })
}

/// From an exponential distribution with mean 1.
fn exponential(random: &mut Rand64) -> f64 {
    -(1.0 - random.rand_float()).ln()
}

/// The most active connections per weight of any server, over those of all.
fn fullest_over_mean(active: &[u32], weights: &[i32], weight: u64) -> f64 {
    let most = (active.iter().zip(weights))
        .map(|(&active, &weight)| f64::from(active) / f64::from(weight))
        .fold(0.0, f64::max);
    most * weight as f64 / f64::from(active.iter().sum::<u32>().max(1))
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulated(scheduler: Scheduler, weights: &[i32], load: f64, member: &str) -> f64 {
        let setting = Setting {
            weights,
            load,
            directors: 1,
            connections: 50_000,
        };
        simulate(scheduler, &setting, 7)[member].as_f64().unwrap()
    }

    #[test]
    fn one_server_is_the_queue_of_the_textbook() {
        // M/M/1 of speed 1: the mean time is 1 / (1 - load).
        let mean = simulated(Scheduler::Sed, &[1], 0.5, "mean");
        assert!((1.9..=2.1).contains(&mean), "{mean}");
    }

    #[test]
    fn twos_counts_its_newest_server_double() {
        // Of two servers of weight 1 `twos` draws the newest in two of three cases. No server has an
        // entry nearly all the time: then the first that is drawn gets the connection.
        let twos = simulated(Scheduler::Twos, &[1, 1], 0.001, "last_share");
        assert!((1.28..=1.38).contains(&twos), "{twos}");
        let mended = simulated(Scheduler::TwosMended, &[1, 1], 0.001, "last_share");
        assert!((0.95..=1.05).contains(&mended), "{mended}");
    }

    #[test]
    fn a_canary_gets_its_share_of_p2c() {
        for load in [0.1, 0.5, 0.9] {
            let share = simulated(Scheduler::P2c, &[99, 1], load, "last_share");
            assert!((0.7..=1.3).contains(&share), "{share} at load {load}");
        }
    }
}
