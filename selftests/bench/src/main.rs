// SPDX-License-Identifier: GPL-2.0

//! What `make bench` makes of its measurements. This file is the command line only.

mod data;
mod plot;
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
    /// Write report.md and its pictures beside the raw data
    Report {
        /// Has the measurements, *.jsonl, and environment.json
        folder: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().role {
        Role::Simulate { directors, servers } => simulate(&directors, &servers),
        Role::Report { folder } => {
            let read = |file: &Path| {
                fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
            };
            let mut files = fs::read_dir(&folder)
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
            report::write(&folder, &measured, &environment)
        }
    }
}

fn simulate(directors: &[usize], servers: &[usize]) -> anyhow::Result<()> {
    /// The same results in every run.
    const SEED: u128 = 20_261_123;

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
