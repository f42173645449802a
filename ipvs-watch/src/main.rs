// SPDX-License-Identifier: GPL-2.0

//! Shows every packet that IPVS drops instead of opening a flow, and why. This file parses the
//! command line and runs the main loop.

mod event;
mod netns;
mod output;
#[path = "../../rust/policy.rs"]
#[allow(dead_code)]
mod policy;
mod watch;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use clap::Parser;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::{clock_gettime, ClockId};

use crate::event::Event;
use crate::output::{json, Dated, Table, Tally};
use crate::watch::{Refusal, Watch};

/// Show every packet that IPVS drops instead of opening a flow, and why
///
/// A client that reuses a port may meet its old connection in IPVS. With conntrack, IPVS may then
/// drop the first packet of the new connection, and the client sends it again a second later. This
/// program shows each such packet when it is dropped, and every other packet that would have opened
/// a flow and was dropped by IPVS. If the module ip_vs_reuse is loaded, it also shows each packet
/// that the module replays instead.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Cli {
    /// Write each event as a JSON object on a line of its own
    #[arg(long)]
    json: bool,
    /// Write the number of events at the end, and also every INTERVAL (like 5s) if one is given
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, require_equals = true)]
    summary: Option<Option<humantime::Duration>>,
    /// Write only metrics, to this file, every 15 s and at the end: for the textfile collector of
    /// node_exporter
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "summary"])]
    prometheus: Option<PathBuf>,
    /// Watch this network namespace only: its name, a path to it, or a process in it
    #[arg(long, value_name = "NAME|PATH|PID", value_parser = netns::parse)]
    netns: Option<u32>,
    /// Exit after this time (like 10s or 5m)
    #[arg(long, value_name = "TIME")]
    duration: Option<humantime::Duration>,
}

const AFTER_HELP: &str = "\
Ctrl-C ends the program; SIGUSR1 makes it write the number of events so far. While it is running,
the modules that it watches (ip_vs, ip_vs_reuse) cannot be unloaded. When it ends, by whatever
signal, nothing is left in the kernel.

Exit status: 0 ended as requested, 1 an unexpected error, 2 a wrong command line, 3 not permitted,
4 the kernel has no type information (BTF) about its modules, 5 IPVS is not loaded.";

fn main() -> ExitCode {
    let Err(error) = run(&Cli::parse()) else {
        return ExitCode::SUCCESS;
    };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("ipvs-watch: {error:#}");
    match error.downcast_ref::<Refusal>() {
        Some(refusal) => refusal.status().into(),
        None => {
            let complaints = watch::complaints();
            if !complaints.is_empty() {
                eprintln!("{complaints}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The reader of the output has gone.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1] {
        wanted.add(signal);
    }
    wanted.thread_block()?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    let mut watch = Watch::start(cli.netns)?;
    let mut show = Show::new(cli);
    show.ready()?;

    let start = Instant::now();
    let end = cli.duration.map(|after| start + *after);
    let mut look = Every::new(start, Some(Duration::from_secs(1)));
    let mut summary = Every::new(start, interval(cli));
    loop {
        let next = [end, look.next, summary.next].into_iter().flatten().min();
        if wait(&watch, &signals, cli.prometheus.is_none(), next)? == Wait::NobodyReads {
            return Ok(());
        }
        if look.is_due() {
            watch.look_for_module();
        }
        show.events(&mut watch)?;
        if summary.is_due() {
            show.summary(&watch)?;
        }
        while let Some(info) = signals.read_signal()? {
            if info.ssi_signo != Signal::SIGUSR1 as u32 {
                return finish(cli, watch, show);
            }
            watch.look_for_module();
            show.events(&mut watch)?;
            show.summary(&watch)?;
        }
        if end.is_some_and(|end| end <= Instant::now()) {
            return finish(cli, watch, show);
        }
    }
}

fn finish(cli: &Cli, mut watch: Watch, mut show: Show) -> anyhow::Result<()> {
    show.events(&mut watch)?;
    if cli.summary.is_some() || cli.prometheus.is_some() {
        show.summary(&watch)?;
    }
    show.end()
}

/// How often a summary is written without being requested.
fn interval(cli: &Cli) -> Option<Duration> {
    match cli.prometheus {
        Some(_) => Some(Duration::from_secs(15)),
        None => cli.summary.flatten().map(Into::into),
    }
}

/// A timer that is due periodically, or never.
struct Every {
    interval: Option<Duration>,
    next: Option<Instant>,
}

impl Every {
    fn new(start: Instant, interval: Option<Duration>) -> Self {
        Self {
            interval,
            next: interval.map(|interval| start + interval),
        }
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = self.interval.map(|interval| now + interval);
        }
        due
    }
}

#[derive(PartialEq, Eq)]
enum Wait {
    Over,
    NobodyReads,
}

/// Waits for an event, a signal, or the time `until`; also, if standard output is `used`, until its
/// reader has gone.
fn wait(
    watch: &Watch,
    signals: &SignalFd,
    used: bool,
    until: Option<Instant>,
) -> anyhow::Result<Wait> {
    let stdout = io::stdout();
    let mut fds = vec![
        PollFd::new(watch.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    if used {
        // Reports errors only: a pipe without a reader.
        fds.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
    }
    let timeout = match until {
        // Rounded up, or the last millisecond would be spent spinning.
        Some(until) => until
            .saturating_duration_since(Instant::now())
            .as_millis()
            .saturating_add(1)
            .try_into()
            .unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("cannot wait"),
    }
    let gone = fds
        .get(2)
        .and_then(PollFd::revents)
        .is_some_and(|events| events.contains(PollFlags::POLLERR));
    Ok(if gone { Wait::NobodyReads } else { Wait::Over })
}

/// Standard output.
struct Show {
    format: Format,
    names: netns::Names,
    tally: Tally,
}

enum Format {
    Json,
    /// Summaries to this file, and no events.
    Metrics(PathBuf),
    Table {
        table: Table,
        /// On a terminal: the last line is the summary, and is rewritten each time.
        is_live: bool,
    },
}

impl Show {
    fn new(cli: &Cli) -> Self {
        let format = match &cli.prometheus {
            Some(file) => Format::Metrics(file.clone()),
            None if cli.json => Format::Json,
            None => Format::Table {
                table: Table::new(),
                is_live: io::stdout().is_terminal(),
            },
        };
        Self {
            format,
            names: netns::Names::default(),
            tally: Tally::default(),
        }
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        match &self.format {
            Format::Json => self.write(&[json::ready()]),
            Format::Metrics(file) => replace(file, &output::metrics(&self.tally)),
            Format::Table { .. } => self.write(&[]),
        }
    }

    /// Writes all events up to now.
    fn events(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
        loop {
            let events = watch.next_events()?;
            if events.is_empty() {
                return Ok(());
            }
            let ages = Ages::now()?;
            let mut lines = Vec::with_capacity(events.len());
            for event in &events {
                self.tally.count(event);
                let dated = Dated {
                    event,
                    time: ages.time_of(event),
                    netns_name: self.names.of(event.netns),
                };
                match &mut self.format {
                    Format::Json => lines.push(json::event(&dated)?),
                    Format::Metrics(_) => {}
                    Format::Table { table, .. } => lines.push(table.row(&dated)),
                }
            }
            self.tally.missed = watch.missed()?;
            self.write(&lines)?;
        }
    }

    fn summary(&mut self, watch: &Watch) -> anyhow::Result<()> {
        self.tally.missed = watch.missed()?;
        match &self.format {
            Format::Json => self.write(&[json::summary(&self.tally)?]),
            Format::Metrics(file) => replace(file, &output::metrics(&self.tally)),
            Format::Table { .. } => self.write(&[output::summary(&self.tally)]),
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if let Format::Table { is_live, .. } = &mut self.format {
            if *is_live {
                *is_live = false;
                io::stdout().write_all(b"\n")?;
            }
        }
        Ok(())
    }

    fn write(&self, lines: &[String]) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let is_live = matches!(self.format, Format::Table { is_live: true, .. });
        if is_live {
            out.write_all(b"\r\x1b[K")?;
        }
        for line in lines {
            writeln!(out, "{line}")?;
        }
        if is_live {
            write!(out, "{}", output::summary(&self.tally))?;
        }
        Ok(out.flush()?)
    }
}

/// Replaces a file, so that a reader finds either the old or the new one complete. node_exporter
/// ignores the temporary name.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Converts the kernel's monotonic time to the time of day.
struct Ages {
    monotonic: Duration,
    time: SystemTime,
}

impl Ages {
    fn now() -> anyhow::Result<Self> {
        Ok(Self {
            monotonic: clock_gettime(ClockId::CLOCK_MONOTONIC)?.into(),
            time: SystemTime::now(),
        })
    }

    fn time_of(&self, event: &Event) -> SystemTime {
        let age = self
            .monotonic
            .saturating_sub(Duration::from_nanos(event.monotonic));
        self.time - age
    }
}
