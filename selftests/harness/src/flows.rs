// SPDX-License-Identifier: GPL-2.0

//! Many clients that reuse their ports, all at the same time: what would take minutes one after
//! the other takes as long as the slowest of them. One thread a flow, and the same client in it
//! as when there is but one.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context as _};
use clap::ValueEnum as _;
use serde::Serialize;

use crate::net::{self, Proto};
use crate::reconnect::{self, Client, End, Report};

/// The first connections come all at once, and what is tested is the second ones.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Flow {
    name: String,
    from: SocketAddr,
    to: SocketAddr,
    end: End,
}

#[derive(Serialize)]
struct NamedReport<'a> {
    name: &'a str,
    #[serde(flatten)]
    report: Report,
}

pub fn flows(over: Duration, timeout: Duration) -> anyhow::Result<()> {
    let flows = read_flows(io::stdin().lock())?;
    let each = over.div_f64(flows.len().max(1) as f64);

    let opened = at_once(&flows, |flow| {
        let opened = flow.client(PATIENCE).open(flow.end);
        opened.with_context(|| flow.name.clone())
    })?;
    let mut opened = opened.into_iter();
    let mut firsts = Vec::new();
    for alike in flows.chunk_by(|one, next| one.end == next.end) {
        let ended = at_once(alike.iter().zip(opened.by_ref()), |(flow, opened)| {
            let first = flow.client(PATIENCE).close(opened, flow.end);
            first.with_context(|| flow.name.clone())
        });
        firsts.extend(ended?);
    }
    net::print_json(&serde_json::json!({ "ended": flows.len() }))?;
    reconnect::wait_for_line()?;
    let turns = flows.iter().zip(firsts).rev().zip(0..);
    let reports = at_once(turns, |((flow, first), turn)| {
        thread::sleep(each * turn);
        let report = flow.client(timeout).second(first);
        report.with_context(|| flow.name.clone())
    })?;
    for (flow, report) in flows.iter().zip(reports.into_iter().rev()) {
        net::print_json(&NamedReport {
            name: &flow.name,
            report,
        })?;
    }
    Ok(())
}

/// Does `work` with all items at the same time. Of the errors, tells the first.
fn at_once<I: Send, T: Send>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(move || work(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a flow's thread panicked"),
            })
            .collect()
    })
}

impl Flow {
    fn client(&self, timeout: Duration) -> Client {
        Client::new(self.from, self.to, Proto::Tcp, timeout)
    }

    fn parse(line: &str) -> anyhow::Result<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, from, to, end] = words[..] else {
            bail!("a flow is NAME FROM TO END, and not: {line}");
        };
        let address = |text: &str| {
            text.parse()
                .with_context(|| format!("{text} is no ADDR:PORT"))
        };
        Ok(Self {
            name: name.into(),
            from: address(from)?,
            to: address(to)?,
            end: End::from_str(end, false)
                .ok()
                .with_context(|| format!("no flow ends by {end}"))?,
        })
    }
}

/// Up to an empty line, or the end.
fn read_flows(lines: impl io::BufRead) -> anyhow::Result<Vec<Flow>> {
    lines
        .lines()
        .take_while(|line| !matches!(line, Ok(line) if line.is_empty()))
        .map(|line| Flow::parse(&line?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_ends_with_an_empty_line() {
        let list: &[u8] = b"a 10.0.0.2:1 10.9.0.1:80 server-rst\nb [::1]:2 [::2]:80 fin\n\nnone\n";
        let flows = read_flows(list).unwrap();
        assert_eq!(flows.len(), 2);
        assert_eq!(
            (flows[0].name.as_str(), flows[0].end),
            ("a", End::ServerRst)
        );
        assert_eq!(flows[1].from, "[::1]:2".parse().unwrap());
    }

    #[test]
    fn what_is_no_flow_is_named() {
        for wrong in [
            "a 10.0.0.2:1 fin",
            "a 10.0.0.2 10.9.0.1:80 fin",
            "a 1.1.1.1:1 1.1.1.2:2 f",
        ] {
            assert!(Flow::parse(wrong).is_err(), "{wrong}");
        }
    }
}
