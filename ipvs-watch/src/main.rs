// SPDX-License-Identifier: GPL-2.0

//! Shows every packet that IPVS drops instead of opening a flow, and why. This file parses the
//! command line and runs the main loop.

mod event;
mod live;
mod netns;
mod output;
#[path = "../../rust/policy.rs"]
#[allow(dead_code)]
mod policy;
mod report;
mod show;
mod watch;

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::netns::Namespace;
use crate::output::{Table, Tally};
use crate::report::Report;
use crate::show::{Format, Screen, Show};
use crate::watch::{Refusal, Watch};

/// Show every packet that IPVS drops instead of opening a flow, and why
///
/// A client that reuses a port may meet its old connection in IPVS. With conntrack, IPVS may then
/// drop the first packet of the new connection, and the client sends it again a second later. This
/// program shows each such packet when it is dropped, and every other packet that would have opened
/// a flow and was dropped by IPVS. If the module ip_vs_reuse is loaded, it also shows each packet
/// that the module replays instead. Finally, it shows answers of real servers that IPVS translates by
/// the connection of another service, or though the client has addressed the server itself.
///
/// On a terminal this is a live view. Elsewhere it is a line for each event.
#[derive(Parser)]
#[command(version = env!("IP_VS_REUSE_VERSION"), after_help = AFTER_HELP)]
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
    /// Watch for a minute, and write what a report of a loss needs: kernel, modules, settings,
    /// services, counters and events, with each address replaced by a name
    #[arg(long, conflicts_with_all = ["json", "summary", "prometheus"])]
    report: bool,
    /// Leave addresses in the report as they are
    #[arg(long, requires = "report")]
    with_addresses: bool,
    /// Watch this network namespace only: its name, a path to it, or a process in it
    #[arg(long, value_name = "NAME|PATH|PID", value_parser = netns::parse)]
    netns: Option<Namespace>,
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

    let mut watch = match Watch::start(cli.netns.as_ref().map(|netns| netns.inode)) {
        Ok(watch) => watch,
        Err(error) if cli.report && error.is::<Refusal>() => {
            return report_without_events(cli, &error);
        }
        Err(error) => return Err(error),
    };
    let mut show = Show::new(format(cli)?);
    show.ready()?;
    if cli.report {
        eprintln!(
            "ipvs-watch: watching for {}; Ctrl-C ends it earlier",
            humantime::format_duration(report_duration(cli))
        );
    }

    let start = Instant::now();
    let end = match cli.report {
        true => Some(start + report_duration(cli)),
        false => cli.duration.map(|after| start + *after),
    };
    let mut look = Every::new(start, Some(Duration::from_secs(1)));
    let mut summary = Every::new(start, interval(cli));
    loop {
        let next = [end, look.next, summary.next].into_iter().flatten().min();
        if wait(&watch, &signals, cli.prometheus.is_none(), next)? == Wait::NobodyReads {
            return Ok(());
        }
        let is_second = look.is_due();
        if is_second {
            watch.look_for_module();
        }
        show.events(&mut watch)?;
        if is_second {
            show.refresh(&watch)?;
        }
        if summary.is_due() {
            show.summary(&watch)?;
        }
        while let Some(info) = signals.read_signal()? {
            if info.ssi_signo != Signal::SIGUSR1 as u32 {
                return finish(cli, watch, show, start.elapsed());
            }
            watch.look_for_module();
            show.events(&mut watch)?;
            show.summary(&watch)?;
        }
        if end.is_some_and(|end| end <= Instant::now()) {
            return finish(cli, watch, show, start.elapsed());
        }
    }
}

/// What the events are written as.
fn format(cli: &Cli) -> anyhow::Result<Format> {
    Ok(match &cli.prometheus {
        Some(file) => Format::Metrics(file.clone()),
        None if cli.json => Format::Json,
        None if cli.report => Format::Report(Box::new(Report::new(cli.with_addresses))),
        None if io::stdout().is_terminal() => Format::Live(Box::default(), Screen::enter()?),
        None => Format::Table(Table::new()),
    })
}

fn finish(cli: &Cli, mut watch: Watch, mut show: Show, watched: Duration) -> anyhow::Result<()> {
    show.events(&mut watch)?;
    if let Format::Report(report) = show.format {
        let watched = Duration::from_secs(watched.as_secs());
        let watched = format!("watched for {}", humantime::format_duration(watched));
        return print_report(cli, *report, &watched, &show.tally);
    }
    if cli.summary.is_some() || cli.prometheus.is_some() {
        show.summary(&watch)?;
    }
    show.end()
}

fn report_duration(cli: &Cli) -> Duration {
    cli.duration.map_or(Duration::from_secs(60), Into::into)
}

/// Settings and services tell something without events, too.
fn report_without_events(cli: &Cli, why: &anyhow::Error) -> anyhow::Result<()> {
    let report = Report::new(cli.with_addresses);
    print_report(
        cli,
        report,
        &format!("not watched: {why:#}"),
        &Tally::default(),
    )
}

fn print_report(cli: &Cli, report: Report, watched: &str, tally: &Tally) -> anyhow::Result<()> {
    if let Some(netns) = &cli.netns {
        netns.enter()?;
    }
    let text = report.text(Path::new("/"), &report::nft_chains(), watched, tally);
    Ok(io::stdout().write_all(text.as_bytes())?)
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
