// SPDX-License-Identifier: GPL-2.0

//! Many directors in front of the same real servers. In Kubernetes every node is a director and
//! sees only the connections that it made itself. Does each scheduler still spread, and what
//! becomes of a new server?
//!
//! Time goes in ticks. In each a number of clients come, each to a director drawn at random;
//! its director chooses by what it knows. Each connection stays for [`STAYS`] ticks, and is then
//! remembered as inactive (TIME_WAIT) for as long. As many are
//! open at once as make [`PER_SERVER`] for each server. Halfway a tenth of the servers (one at
//! least) are replaced, all directors knowing at once: the old ones get nothing more, and the new
//! ones are empty. All weights are 1.
//!
//! `p2c` is the module's own code. The rules of the others stand in [`Director::choose`], as
//! IPVS has them where all weights are 1. The server that came last is the first in the list.

use host::sampler::{build, Column, Load, Table};
use oorandom::Rand64;
use serde_json::{json, Value};

/// Ticks that a connection stays, and those from start to rollout, and from rollout to end.
const STAYS: usize = 20;
const HALF: usize = 60;
const PER_SERVER: usize = 20;
/// No more choices than that in one simulation: where `wlc` looks at every server, it takes long.
const WORK: usize = 20_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    Rr,
    Wlc,
    Twos,
    P2c,
}

impl Scheduler {
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Rr, "rr"),
        (Self::Wlc, "wlc"),
        (Self::Twos, "twos"),
        (Self::P2c, "p2c"),
    ];
}

/// The servers in service, by number: the same for all directors.
struct Service {
    serving: Vec<usize>,
    total: u64,
    columns: Vec<Column>,
}

impl Service {
    fn new(serving: Vec<usize>) -> Self {
        let mut columns = vec![Column::new(1); serving.len()];
        let total = build(&mut columns).unwrap_or_default();
        Self {
            serving,
            total,
            columns,
        }
    }
}

/// What one director knows: its own connections, by server.
struct Director {
    active: Vec<u16>,
    inactive: Vec<u16>,
    next: usize,
}

impl Director {
    /// A place in `service.serving`.
    fn choose(&mut self, scheduler: Scheduler, service: &Service, random: &mut Rand64) -> usize {
        let n = service.serving.len();
        let active = |place: usize| self.active[service.serving[place]];
        let inactive = |place: usize| self.inactive[service.serving[place]];
        // ip_vs_dest_conn_overhead()
        let overhead = |place: usize| {
            let server = service.serving[place];
            let (active, inactive) = (self.active[server], self.inactive[server]);
            (u32::from(active) << 8) + u32::from(active) + u32::from(inactive)
        };
        match scheduler {
            // The next one, whoever it is.
            Scheduler::Rr => {
                self.next = (self.next + 1) % n;
                self.next
            }
            // The first that has the least.
            Scheduler::Wlc => (0..n)
                .min_by_key(|&place| overhead(place))
                .unwrap_or_default(),
            // Two at random, which may be the same; the one with less.
            Scheduler::Twos => {
                let mut draw = || random.rand_range(0..n as u64) as usize;
                let (first, second) = (draw(), draw());
                if overhead(second) < overhead(first) {
                    second
                } else {
                    first
                }
            }
            Scheduler::P2c => {
                let table = Table {
                    total: service.total,
                    columns: &service.columns,
                };
                let look = |place| {
                    Some(Load {
                        active: active(place).into(),
                        total: (active(place) + inactive(place)).into(),
                        weight: 1,
                    })
                };
                table.pick(|| random.rand_u64(), look).unwrap_or_default()
            }
        }
    }
}

/// Of one simulation: fullest over mean before the rollout, and after it, tick by tick, the new
/// servers' part of the new connections over what is theirs by weight.
pub fn simulate(
    scheduler: Scheduler,
    directors: usize,
    servers: usize,
    seed: u128,
) -> Option<Value> {
    let open = servers * PER_SERVER;
    let each_tick = (open / STAYS).max(1);
    if scheduler == Scheduler::Wlc && 2 * HALF * each_tick * servers > WORK {
        return None;
    }
    let mut random = Rand64::new(seed);
    let replaced = (servers / 10).max(1);
    let mut service = Service::new((0..servers).rev().collect());
    let mut crowd: Vec<_> = (0..directors)
        .map(|_| Director {
            active: vec![0; servers + replaced],
            inactive: vec![0; servers + replaced],
            // They did not all start at the same moment.
            next: random.rand_range(0..servers as u64) as usize,
        })
        .collect();
    let mut all = vec![0u32; servers + replaced];
    // Connections by the tick in which they end: director and server.
    let mut ends: Vec<Vec<(usize, usize)>> = vec![Vec::new(); STAYS];
    let mut forgotten: Vec<Vec<(usize, usize)>> = vec![Vec::new(); STAYS];
    let mut shares = Vec::new();
    let mut imbalance = 0.0f64;
    let mut worst = 0.0f64;

    for tick in 0..2 * HALF {
        if tick == HALF {
            imbalance = fullest_over_mean(&all, &service.serving);
            service = Service::new((replaced..servers + replaced).rev().collect());
        }
        for (director, server) in std::mem::take(&mut forgotten[tick % STAYS]) {
            crowd[director].inactive[server] -= 1;
        }
        let mut gone = Vec::new();
        for (director, server) in std::mem::take(&mut ends[tick % STAYS]) {
            crowd[director].active[server] -= 1;
            crowd[director].inactive[server] += 1;
            all[server] -= 1;
            gone.push((director, server));
        }
        forgotten[tick % STAYS] = gone;
        let mut new = 0usize;
        for _ in 0..each_tick {
            let director = random.rand_range(0..directors as u64) as usize;
            let place = crowd[director].choose(scheduler, &service, &mut random);
            let server = service.serving[place];
            crowd[director].active[server] += 1;
            all[server] += 1;
            new += usize::from(server >= servers);
            ends[tick % STAYS].push((director, server));
        }
        if tick >= HALF {
            let fair = each_tick as f64 * replaced as f64 / servers as f64;
            shares.push(round(new as f64 / fair));
            worst = worst.max(fullest_over_mean(&all, &service.serving));
        }
    }
    Some(json!({
        "fullest_over_mean": round(imbalance),
        "worst_after_rollout": round(worst),
        "new_share": shares,
    }))
}

fn fullest_over_mean(all: &[u32], serving: &[usize]) -> f64 {
    let most = serving.iter().map(|&server| all[server]).max();
    let sum: u32 = serving.iter().map(|&server| all[server]).sum();
    f64::from(most.unwrap_or_default()) * serving.len() as f64 / f64::from(sum.max(1))
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_director_spreads_as_each_rule_says() {
        let fullest = |scheduler| {
            simulate(scheduler, 1, 10, 7).expect("it is small")["fullest_over_mean"]
                .as_f64()
                .unwrap()
        };
        assert_eq!(fullest(Scheduler::Rr), 1.0);
        assert_eq!(fullest(Scheduler::Wlc), 1.0);
        assert!(fullest(Scheduler::P2c) <= 1.2);
    }

    #[test]
    fn wlc_floods_a_new_server_and_p2c_gives_it_twice_its_share() {
        let first = |scheduler| {
            simulate(scheduler, 1, 10, 7).expect("it is small")["new_share"][0]
                .as_f64()
                .unwrap()
        };
        assert_eq!(first(Scheduler::Wlc), 10.0);
        assert!(first(Scheduler::P2c) <= 4.0);
        assert_eq!(first(Scheduler::Rr), 1.0);
    }
}
