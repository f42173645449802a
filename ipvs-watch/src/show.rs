// SPDX-License-Identifier: GPL-2.0

//! Where events go: to standard output as lines, to a terminal as a live view, or to a file as
//! metrics.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use nix::libc;
use nix::time::{clock_gettime, ClockId};

use crate::event::Event;
use crate::live::Live;
use crate::netns::Names;
use crate::output::{self, json, Dated, Table, Tally};
use crate::report::Report;
use crate::watch::Watch;

pub enum Format {
    Json,
    Table(Table),
    /// A live view, on a terminal.
    Live(Box<Live>, Screen),
    /// Summaries to this file, and no events.
    Metrics(PathBuf),
    /// Nothing before the end.
    Report(Box<Report>),
}

pub struct Show {
    pub format: Format,
    names: Names,
    pub tally: Tally,
}

impl Show {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            names: Names::default(),
            tally: Tally::default(),
        }
    }

    /// Everything is being watched from now on.
    pub fn ready(&mut self) -> anyhow::Result<()> {
        match &self.format {
            Format::Json => print(&[json::ready()]),
            Format::Table(_) | Format::Report(_) => Ok(()),
            Format::Live(live, screen) => screen.draw(live, &self.tally),
            Format::Metrics(file) => replace(file, &output::metrics(&self.tally)),
        }
    }

    /// Takes all events up to now, and writes their lines.
    pub fn events(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
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
                    Format::Table(table) => lines.push(table.row(&dated)),
                    Format::Live(live, _) => live.count(&dated),
                    Format::Metrics(_) => {}
                    Format::Report(report) => report.add(&dated),
                }
            }
            self.tally.missed = watch.missed()?;
            print(&lines)?;
        }
    }

    /// Once a second.
    pub fn refresh(&mut self, watch: &Watch) -> anyhow::Result<()> {
        match &self.format {
            Format::Live(..) => self.summary(watch),
            _ => Ok(()),
        }
    }

    pub fn summary(&mut self, watch: &Watch) -> anyhow::Result<()> {
        self.tally.missed = watch.missed()?;
        match &self.format {
            Format::Json => print(&[json::summary(&self.tally)?]),
            Format::Table(_) => print(&[output::summary(&self.tally)]),
            Format::Live(live, screen) => screen.draw(live, &self.tally),
            Format::Metrics(file) => replace(file, &output::metrics(&self.tally)),
            Format::Report(_) => Ok(()),
        }
    }

    /// Leaves the live view. What it showed last stays on the terminal.
    pub fn end(self) -> anyhow::Result<()> {
        let Format::Live(live, screen) = self.format else {
            return Ok(());
        };
        let (_, rows) = screen.size();
        drop(screen);
        let mut lines = live.last_events(rows.saturating_sub(3));
        lines.push(output::summary(&self.tally));
        print(&lines)
    }
}

fn print(lines: &[String]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

/// The terminal's second screen, while this exists. Its control sequences are those that all
/// terminals of today have in common.
pub struct Screen(());

impl Screen {
    pub fn enter() -> anyhow::Result<Self> {
        // The second screen, without a cursor and without wrapping lines.
        io::stdout().write_all(b"\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(Self(()))
    }

    fn draw(&self, live: &Live, tally: &Tally) -> anyhow::Result<()> {
        let lines = live.frame(tally, SystemTime::now(), self.size());
        // From the first line on, each cleared to its end, and everything below.
        let text = format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"));
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Columns and rows.
    fn size(&self) -> (usize, usize) {
        let mut size = libc::winsize {
            ws_row: 0,
            ws_col: 0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCGWINSZ writes a `winsize` to where the third argument points.
        let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
        match (result, size.ws_col, size.ws_row) {
            // A terminal that does not know.
            (-1, ..) | (_, 0, _) | (_, _, 0) => (80, 24),
            (_, columns, rows) => (columns.into(), rows.into()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        // It may have gone.
        let _ = out.write_all(b"\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
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
