// SPDX-License-Identifier: GPL-2.0

//! What `make bench` makes of its measurements. This file is the command line only.

mod data;
mod plot;
mod queues;
mod report;
mod simulate;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde_json::json;

use crate::data::Measurements;

#[derive(Parser)]
#[command(version, about = "The benchmark's report, and its simulation")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Simulate many directors; a line of JSON for each simulation
    Simulate {
        /// How many directors; may be given more than once
        #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
        directors: Vec<usize>,
        /// How many real servers; may be given more than once
        #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
        servers: Vec<usize>,
    },
    /// Simulate real servers as queues whose speed is their weight; a line of JSON for each simulation
    Queues {
        /// The work that comes over the work that the servers can do; may be given more than once
        #[arg(long, value_delimiter = ',', default_value = "0.1,0.5,0.9,0.95")]
        loads: Vec<f64>,
        /// How many directors; may be given more than once
        #[arg(long, value_delimiter = ',', default_value = "1,10,1000")]
        directors: Vec<usize>,
        /// Connections in each simulation
        #[arg(long, default_value = "100000")]
        connections: usize,
    },
    /// Write report.md and its pictures beside the raw data
    Report {
        /// Has the measurements, *.jsonl, and environment.json
        folder: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().role {
        Role::Simulate { directors, servers } => simulate(&directors, &servers),
        Role::Queues {
            loads,
            directors,
            connections,
        } => simulate_queues(&loads, &directors, connections),
        Role::Report { folder } => report(&folder),
    }
}

/// Writes the report of the measurements in `folder`.
fn report(folder: &Path) -> anyhow::Result<()> {
    let read = |file: &Path| {
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
    };
    let mut files = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .with_context(|| format!("cannot list {}", folder.display()))?;
    files.retain(|file| file.extension().is_some_and(|it| it == "jsonl"));
    files.sort();
    let lines = files
        .iter()
        .map(|file| read(file))
        .collect::<anyhow::Result<String>>()?;
    let measured = Measurements::parse(&lines)?;
    let environment = serde_json::from_str(&read(&folder.join("environment.json"))?)?;
    report::write(folder, &measured, &environment)
}

/// The same results in every run.
const SEED: u128 = 20_261_123;

fn simulate_queues(loads: &[f64], directors: &[usize], connections: usize) -> anyhow::Result<()> {
    for (mix, weights) in queues::mixes() {
        for &directors in directors {
            for &load in loads {
                for (scheduler, name) in queues::Scheduler::ALL {
                    let setting = queues::Setting {
                        weights: &weights,
                        load,
                        directors,
                        connections,
                    };
                    let line = json!({
                        "bench": "queues", "scheduler": name, "weights": mix, "load": load,
                        "directors": directors,
                        "result": queues::simulate(scheduler, &setting, SEED),
                    });
                    writeln!(io::stdout(), "{line}")?;
                }
            }
        }
    }
    Ok(())
}

fn simulate(directors: &[usize], servers: &[usize]) -> anyhow::Result<()> {
    for &directors in directors {
        for &servers in servers {
            for (scheduler, name) in simulate::Scheduler::ALL {
                let Some(result) = simulate::simulate(scheduler, directors, servers, SEED) else {
                    continue;
                };
                let line = json!({
                    "bench": "directors", "scheduler": name, "directors": directors,
                    "servers": servers, "result": result,
                });
                writeln!(io::stdout(), "{line}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report in docs/bench, and its pictures, are what its measurements come to.
    #[test]
    fn the_report_is_made_from_its_measurements() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bench");
        let made = std::env::temp_dir().join(format!("bench-report-{}", std::process::id()));
        fs::create_dir(&made).unwrap();
        let files: Vec<_> = (fs::read_dir(&docs).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .collect();
        for name in &files {
            fs::copy(docs.join(name), made.join(name)).unwrap();
        }
        report(&made).unwrap();
        let differ: Vec<_> = (files.iter())
            .filter(|name| fs::read(docs.join(name)).ok() != fs::read(made.join(name)).ok())
            .collect();
        fs::remove_dir_all(&made).unwrap();
        assert!(differ.is_empty(), "make them anew: {differ:?}");
    }
}
