// SPDX-License-Identifier: GPL-2.0

//! The report: a table for each measurement, what the goals say of it, and the picture.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::data::{Figure, Measurements, Summary, Want};
use crate::plot::{self, Bars, Lines, Panel};

const COLUMNS: [(&str, &str); 8] = [
    ("none", "no IPVS"),
    ("unique", "unique ports"),
    ("mode0", "mode 0"),
    ("legacy", "legacy"),
    ("tencent", "tencent"),
    ("stock", "stock"),
    ("module", "module"),
    ("patched", "patched"),
];
const SETUPS: [(&str, &str); 3] = [
    ("fin", "closed by FIN"),
    ("server-rst", "closed by the server's RST"),
    ("kube-proxy", "server's RST, kube-proxy's masquerade"),
];

/// A load of price.sh.
struct Load {
    /// What price.sh calls it.
    id: &'static str,
    name: &'static str,
    /// What the picture calls it.
    short: &'static str,
    /// What module and patched IPVS may add at most, in percent.
    goals: [f64; 2],
}

/// What is compared with stock, in the order of [`Load::goals`].
const PRICED: [&str; 2] = ["module", "patched"];

const fn load(id: &'static str, name: &'static str, short: &'static str, goals: [f64; 2]) -> Load {
    Load {
        id,
        name,
        short,
        goals,
    }
}

const LOADS: [Load; 6] = [
    load("stream", "UDP, one-way stream", "stream", [0.7, 0.1]),
    load(
        "stream_expire_nodest",
        "UDP, one-way stream, expire_nodest_conn=1",
        "stream, expire",
        [0.7, 0.1],
    ),
    load("queries", "UDP, query and reply", "query", [0.7, 0.1]),
    load(
        "queries_expire_nodest",
        "UDP, query and reply, expire_nodest_conn=1",
        "query, expire",
        [0.7, 0.1],
    ),
    load(
        "fresh_ports",
        "TCP, new connection",
        "new connection",
        [0.4, 0.2],
    ),
    load(
        "elsewhere",
        "UDP, one-way stream over loopback, no IPVS",
        "no IPVS",
        [1.0, 0.0],
    ),
];
const SCHEDULERS: [&str; 7] = ["rr", "wrr", "wlc", "sed", "twos", "mh", "p2c"];

/// A ratio, and the lowest and the highest that the rounds allow.
fn ratio(of: Summary, to: Summary) -> Option<Summary> {
    (to.low > 0.0).then(|| Summary {
        median: of.median / to.median,
        low: of.low / to.high,
        high: of.high / to.low,
        count: of.count.min(to.count),
    })
}

/// Of two that are measured in the same round, the ratio in each round: what slows a round
/// slows both.
fn paired(
    measured: &Measurements,
    of: &[Want<'_>],
    to: &[Want<'_>],
    name: &str,
) -> Option<Summary> {
    let value = |wanted: &[Want<'_>], round: &Value| {
        let mut wanted = wanted.to_vec();
        wanted.push(("round", round.clone()));
        measured
            .summary(&wanted, name)
            .map(|summary| summary.median)
    };
    let rounds = measured.each(of, "round");
    Summary::of(rounds.iter().filter_map(|round| {
        let (of, to) = (value(of, round)?, value(to, round)?);
        (to > 0.0).then_some(of / to)
    }))
}

fn met(text: &mut String, goal: &str, is: Option<(bool, String)>) {
    let said = match is {
        Some((true, what)) => format!("**met**: {what}"),
        Some((false, what)) => format!("**MISSED**: {what}"),
        None => "not measured".to_string(),
    };
    let _ = writeln!(text, "- {goal}: {said}");
}

/// Whether a ratio's median keeps a goal, in words; and whether its rounds do not agree on it.
fn kept(ratio: Summary, keeps: impl Fn(f64) -> bool) -> (bool, String) {
    let noise = if ratio.count < 2 {
        "; measured once: noise may have swallowed it"
    } else if keeps(ratio.low) != keeps(ratio.high) {
        "; rounds differ on it: noise swallows the difference"
    } else {
        ""
    };
    (keeps(ratio.median), format!("{ratio}{noise}"))
}

fn cell(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn header(text: &mut String, cells: &[&str]) {
    row(
        text,
        &cells.iter().map(|c| c.to_string()).collect::<Vec<_>>(),
    );
    let _ = writeln!(text, "|{}", " --- |".repeat(cells.len()));
}

pub fn write(folder: &Path, measured: &Measurements, environment: &Value) -> anyhow::Result<()> {
    let mut text = String::from("# How fast, against everything it could be compared with\n\n");
    let _ = writeln!(
        text,
        "Written by `make bench`; the measurements are in *.jsonl, a line each.\n"
    );
    if let Some(members) = environment.as_object() {
        header(&mut text, &["environment", ""]);
        for (name, value) in members {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_string);
            row(&mut text, &[name.clone(), value]);
        }
    }
    text.push_str(
        "\nFigures are medians of the rounds, with their ranges in brackets. The variants take turns \
         within a round, so ratios are taken within it: the machine's speed at that moment is in both. \
         Where the ranges of two meet, the report says that noise swallows the difference.\n",
    );
    storm(&mut text, folder, measured)?;
    rollout(&mut text, folder, measured)?;
    kubernetes(&mut text, folder, measured)?;
    price(&mut text, folder, measured)?;
    scheduler(&mut text, folder, measured)?;
    scale(&mut text, folder, measured)?;
    fs::write(folder.join("report.md"), text)?;
    Ok(())
}

fn storm(text: &mut String, folder: &Path, measured: &Measurements) -> anyhow::Result<()> {
    let bench: Want<'_> = ("bench", "storm".into());
    if measured.of(&[bench.clone()]).next().is_none() {
        return Ok(());
    }
    text.push_str("\n## 1. Storm\n\nShort connections through few source ports: nearly each reopens a flow. \
        Lost: first packets that were sent again by TCP's timer, a second later. Times are from the first \
        packet to the server's greeting. Failed: reset, refused, or without a greeting in 10 s.\n\n![](storm.svg)\n");
    let of = |setup: &str, column: &str| {
        [
            bench.clone(),
            ("setup", setup.into()),
            ("column", column.into()),
        ]
    };
    let mut panels = Vec::new();
    for (setup, name) in SETUPS {
        if measured
            .of(&[bench.clone(), ("setup", setup.into())])
            .next()
            .is_none()
        {
            continue;
        }
        let concurrency =
            measured.summary(&[bench.clone(), ("setup", setup.into())], "concurrency");
        let at_once = concurrency.map_or(0.0, |c| c.median);
        let _ = writeln!(text, "\n### {name} ({at_once} at once)\n");
        header(
            text,
            &[
                "",
                "connections/s",
                "of unique ports' rate",
                "p50 ms",
                "p99 ms",
                "p99.9 ms",
                "max ms",
                "lost",
                "failed",
                "over 500 ms",
                "fullest / mean",
            ],
        );
        let mut quiet = Vec::new();
        for (column, name) in COLUMNS {
            let wanted = of(setup, column);
            let Some(rate) = measured.summary(&wanted, "per_second") else {
                continue;
            };
            let unique = of(setup, "unique");
            let worst = |what| measured.summary(&wanted, what).map(|s| Figure(s.high));
            row(
                text,
                &[
                    name.into(),
                    rate.to_string(),
                    cell(paired(measured, &wanted, &unique, "per_second")),
                    cell(
                        measured
                            .summary(&wanted, "p50_ms")
                            .map(|s| Figure(s.median)),
                    ),
                    cell(
                        measured
                            .summary(&wanted, "p99_ms")
                            .map(|s| Figure(s.median)),
                    ),
                    cell(
                        measured
                            .summary(&wanted, "p999_ms")
                            .map(|s| Figure(s.median)),
                    ),
                    cell(worst("max_ms")),
                    cell(measured.sum(&wanted, "first_lost")),
                    cell(measured.sum(&wanted, "failed")),
                    cell(measured.sum(&wanted, "over_500_ms")),
                    cell(
                        measured
                            .summary(&wanted, "max_over_mean")
                            .map(|s| Figure(s.median)),
                    ),
                ],
            );
            if let Some(unique) = measured.summary(&unique, "per_second") {
                if !["unique", "none"].contains(&column) && rate.overlaps(&unique) {
                    quiet.push(name);
                }
            }
        }
        if !quiet.is_empty() {
            let _ = writeln!(
                text,
                "\nNoise swallows the difference in rate from unique ports for: {}.",
                quiet.join(", ")
            );
        }
        let _ = writeln!(text);
        for (column, name) in [("module", "stock + module"), ("patched", "patched")] {
            let wanted = of(setup, column);
            if measured.of(&wanted).next().is_none() {
                continue;
            }
            let lost = measured.sum(&wanted, "first_lost");
            met(
                text,
                &format!("{name}: no first packet lost"),
                lost.map(|n| (n == 0.0, format!("{n}"))),
            );
            let share = paired(measured, &wanted, &of(setup, "unique"), "per_second");
            met(
                text,
                &format!("{name}: at least 0.95 of the unique ports' rate"),
                share.map(|s| kept(s, |r| r >= 0.95)),
            );
            let tail = paired(measured, &wanted, &of(setup, "unique"), "p999_ms");
            met(
                text,
                &format!("{name}: p99.9 within 2 times that of unique ports"),
                tail.map(|s| kept(s, |r| r <= 2.0)),
            );
            if setup == "server-rst" {
                let gain = paired(measured, &wanted, &of(setup, "stock"), "per_second");
                met(
                    text,
                    &format!("{name}: at least 15 times the stock rate"),
                    gain.map(|s| kept(s, |r| r >= 15.0)),
                );
            }
        }
        panels.push((setup, name));
    }
    let series = panels.iter().map(|(setup, name)| {
        let rates = COLUMNS
            .iter()
            .map(|(c, _)| measured.summary(&of(setup, c), "per_second"));
        (name.to_string(), rates.collect())
    });
    let mut pictures = vec![Panel::Bars(Bars {
        title: "Storm: short connections through few ports".into(),
        y: "connections per second".into(),
        groups: COLUMNS.iter().map(|(_, name)| name.to_string()).collect(),
        series: series.collect(),
        goal: None,
    })];

    witnesses(text, measured);
    known_tool(text, measured);

    let more = [bench.clone(), ("setup", "concurrency".into())];
    let mut levels: Vec<f64> = (measured.of(&more))
        .filter_map(|line| line["result"]["concurrency"].as_f64())
        .collect();
    levels.sort_by(f64::total_cmp);
    levels.dedup();
    if levels.len() > 1 {
        text.push_str("\n### How it depends on concurrency (server's RST)\n\nStock makes each client wait a second: \
            its rate is about one connection a second for each that is under way, whatever the machine. So the more \
            are under way, the smaller the ratio on a machine that can do no more.\n\n");
        header(
            text,
            &[
                "at once",
                "unique ports/s",
                "stock/s",
                "module/s",
                "module / stock",
                "module / unique",
            ],
        );
        let at = |column: &str, level: f64| {
            let lines = measured
                .of(&more)
                .filter(move |line| line["result"]["concurrency"].as_f64() == Some(level));
            let column: Value = column.into();
            Summary::of(
                lines
                    .filter(|line| line["column"] == column)
                    .filter_map(|l| l["result"]["per_second"].as_f64()),
            )
        };
        let mut lines = Vec::new();
        for &level in &levels {
            let (unique, stock, module) =
                (at("unique", level), at("stock", level), at("module", level));
            let over = |of: Option<Summary>, to: Option<Summary>| {
                of.zip(to).and_then(|(a, b)| ratio(a, b))
            };
            row(
                text,
                &[
                    level.to_string(),
                    cell(unique),
                    cell(stock),
                    cell(module),
                    cell(over(module, stock)),
                    cell(over(module, unique)),
                ],
            );
        }
        for (column, name) in [
            ("unique", "unique ports"),
            ("stock", "stock"),
            ("module", "stock + module"),
        ] {
            let points = levels
                .iter()
                .filter_map(|&level| Some((level, at(column, level)?.median)));
            lines.push((name.to_string(), points.collect()));
        }
        pictures.push(Panel::Lines(Lines {
            title: "The same, by concurrency (server's RST)".into(),
            x: "connections under way at once (log)".into(),
            y: "connections per second (log)".into(),
            log_x: true,
            log_y: true,
            series: lines,
        }));
    }
    plot::draw(&folder.join("storm.svg"), &pictures)
}

/// What clients say is lost, beside what ipvs-watch has seen IPVS drop.
fn witnesses(text: &mut String, measured: &Measurements) {
    let of = |column: &str| {
        [
            ("bench", "storm".into()),
            ("setup", "witness".into()),
            ("column", column.into()),
        ]
    };
    let seen = |column: &str, what: &str| -> f64 {
        let wanted = of(column);
        let lines = measured.of(&wanted);
        lines
            .filter_map(|line| line["result"]["witness"][what].as_f64())
            .sum()
    };
    let there = |column: &&(&str, &str)| measured.of(&of(column.0)).next().is_some();
    let columns: Vec<_> = COLUMNS.iter().filter(there).collect();
    if columns.is_empty() {
        return;
    }
    text.push_str("\n### The witness (server's RST)\n\nAnother storm, while ipvs-watch counts in the kernel: \
        packets that IPVS dropped instead of opening a flow, and packets that were replayed instead. TCP counts lost \
        first packets only; where IPVS dropped the retransmission as well, there are more drops than that.\n\n");
    header(
        text,
        &[
            "",
            "connections",
            "lost, say the clients",
            "dropped, saw ipvs-watch",
            "replayed",
            "missed by ipvs-watch",
        ],
    );
    for &&(column, name) in &columns {
        row(
            text,
            &[
                name.into(),
                cell(measured.sum(&of(column), "connections")),
                cell(measured.sum(&of(column), "first_lost")),
                Figure(seen(column, "drops")).to_string(),
                Figure(seen(column, "replays")).to_string(),
                Figure(seen(column, "missed")).to_string(),
            ],
        );
    }
}

/// Whether our own clients are as fast as known ones.
fn known_tool(text: &mut String, measured: &Measurements) {
    let of = |setup: &str| {
        [
            ("bench", "storm".into()),
            ("setup", setup.into()),
            ("column", "unique".into()),
        ]
    };
    let rate = |setup: &str| measured.summary(&of(setup), "per_second");
    let (Some(ab), Some(ours)) = (rate("ab"), rate("fin")) else {
        return;
    };
    let _ = writeln!(
        text,
        "\n### The tool\n\nOn ports that nobody used before, with connections that end by the server's FIN, ab \
         (ApacheBench) opens {ab} a second, our own storm {ours}: {} of ab's rate.",
        cell(paired(measured, &of("fin"), &of("ab"), "per_second"))
    );
}

/// When the new server begins to have four fifths of its share: the end of the first interval
/// from which on, over the next `ENOUGH` connections, it has. Seconds since it came.
fn share_after(line: &Value) -> Option<f64> {
    const ENOUGH: f64 = 30.0;
    const SERVERS: f64 = 3.0;

    let added = line["added_ms"].as_f64()?;
    let after: Vec<(f64, f64, f64)> = (line["intervals"].as_array()?.iter())
        .filter_map(|interval| {
            let at = interval["at_ms"].as_f64()?;
            let servers = interval["servers"].as_object()?;
            let all = servers.values().filter_map(Value::as_f64).sum();
            let new = servers
                .get("rs4")
                .and_then(Value::as_f64)
                .unwrap_or_default();
            (at > added).then_some((at, all, new))
        })
        .collect();
    (0..after.len()).find_map(|start| {
        let (mut all, mut new) = (0.0, 0.0);
        for (_, a, n) in &after[start..] {
            all += a;
            new += n;
            if all >= ENOUGH {
                return (new / all >= 0.8 / SERVERS).then_some((after[start].0 - added) / 1000.0);
            }
        }
        None
    })
}

fn rollout(text: &mut String, folder: &Path, measured: &Measurements) -> anyhow::Result<()> {
    let bench: Want<'_> = ("bench", "rollout".into());
    if measured.of(&[bench.clone()]).next().is_none() {
        return Ok(());
    }
    text.push_str("\n## 2. Rollout\n\nUnder the storm one of three real servers drains (weight 0), is deleted and \
        gone 1.5 s later, and a new one comes after another second; `expire_nodest_conn=1`, rr. Sums over all rounds; \
        `unique ports` shows what the machine does by itself.\n\n![](rollout.svg)\n");
    let mut panels = Vec::new();
    for (end, name) in &SETUPS[..2] {
        let of = |column: &str| {
            [
                bench.clone(),
                ("end", (*end).into()),
                ("column", column.into()),
            ]
        };
        let _ = writeln!(text, "\n### {name}\n");
        header(
            text,
            &[
                "",
                "connections/s",
                "failed",
                "over 500 ms",
                "first packets lost",
                "longest ms",
                "new server has its share after",
                "it got, of all since",
            ],
        );
        let mut failed = Vec::new();
        let mut slow = Vec::new();
        for (column, name) in COLUMNS {
            let wanted = of(column);
            let Some(rate) = measured.summary(&wanted, "per_second") else {
                failed.push(None);
                slow.push(None);
                continue;
            };
            let rounds = measured.of(&wanted).count();
            let after: Vec<f64> = measured.of(&wanted).filter_map(share_after).collect();
            let never = rounds - after.len();
            let mut shared = Summary::of(after.into_iter())
                .map(|s| format!("{s} s"))
                .unwrap_or_default();
            if never > 0 {
                let _ = write!(
                    shared,
                    "{}not within the measurement in {never} of {rounds}",
                    if shared.is_empty() { "" } else { "; " }
                );
            }
            row(
                text,
                &[
                    name.into(),
                    rate.to_string(),
                    cell(measured.sum(&wanted, "failed")),
                    cell(measured.sum(&wanted, "over_500_ms")),
                    cell(measured.sum(&wanted, "first_lost")),
                    cell(measured.summary(&wanted, "max_ms").map(|s| Figure(s.high))),
                    shared,
                    cell(
                        Summary::of(measured.of(&wanted).filter_map(part_of_new))
                            .map(|s| format!("{:.0} %", s.median * 100.0)),
                    ),
                ],
            );
            failed.push(measured.summary(&wanted, "failed"));
            slow.push(measured.summary(&wanted, "over_500_ms"));
        }
        let _ = writeln!(text);
        for (column, name) in [("module", "stock + module"), ("patched", "patched")] {
            let sum = |what| measured.sum(&of(column), what);
            let both = sum("failed").zip(sum("over_500_ms"));
            met(
                text,
                &format!("{name}: none failed, none over 500 ms"),
                both.map(|(failed, slow)| {
                    let mut said = format!("{failed} failed, {slow} over 500 ms");
                    let unique = measured
                        .sum(&of("unique"), "over_500_ms")
                        .unwrap_or_default();
                    if unique > 0.0 {
                        let _ = write!(said, " (without any reuse, by noise alone: {unique})");
                    }
                    (failed == 0.0 && slow == 0.0, said)
                }),
            );
        }
        panels.push(Panel::Bars(Bars {
            title: format!("Rollout under a storm {name}"),
            y: "connections a round".into(),
            groups: COLUMNS[1..]
                .iter()
                .map(|(_, name)| name.to_string())
                .collect(),
            series: vec![
                ("failed".into(), failed[1..].to_vec()),
                ("over 500 ms".into(), slow[1..].to_vec()),
            ],
            goal: None,
        }));
    }
    plot::draw(&folder.join("rollout.svg"), &panels)
}

/// What the new server got of all connections since it came.
fn part_of_new(line: &Value) -> Option<f64> {
    let added = line["added_ms"].as_f64()?;
    let (mut all, mut new) = (0.0, 0.0);
    for interval in line["intervals"].as_array()? {
        if interval["at_ms"].as_f64()? > added {
            let servers = interval["servers"].as_object()?;
            all += servers.values().filter_map(Value::as_f64).sum::<f64>();
            new += servers
                .get("rs4")
                .and_then(Value::as_f64)
                .unwrap_or_default();
        }
    }
    (all > 0.0).then_some(new / all)
}

/// The columns of interop/kubernetes_rollout.sh: how the table calls them, and the picture.
const KUBERNETES: [(&str, &str, &str); 6] = [
    (
        "legacy0",
        "IPVS of 4.6 to 5.8, `conn_reuse_mode=0`",
        "legacy, 0",
    ),
    (
        "legacy",
        "IPVS of 4.6 to 5.8, `conn_reuse_mode=1`",
        "legacy, 1",
    ),
    ("mode0", "stock, `conn_reuse_mode=0`", "stock, 0"),
    ("stock", "stock, `conn_reuse_mode=1`", "stock, 1"),
    ("module", "stock + module", "module"),
    ("patched", "patched", "patched"),
];

/// A rolling update and a scale-up with kube-proxy itself.
fn kubernetes(text: &mut String, folder: &Path, measured: &Measurements) -> anyhow::Result<()> {
    let bench: Want<'_> = ("bench", "kubernetes".into());
    let mut panels = Vec::new();
    for pods in measured.each(&[bench.clone()], "pods") {
        let of = |column: &str| {
            [
                bench.clone(),
                ("pods", pods.clone()),
                ("column", column.into()),
            ]
        };
        let pods = pods.as_str().unwrap_or_default();
        let _ = writeln!(
            text,
            "\n### Rolling update with kube-proxy, {pods} pods\n\n\
             kube-proxy itself, in ipvs mode. A client with 200 ports makes connections for three minutes, 20 at a time, \
             each held for 0.3 s and ended by the server's RST. Three pods are replaced one by one, and then the \
             service is scaled from three pods to six.\n"
        );
        header(
            text,
            &[
                "IPVS",
                "connections",
                "failed",
                "over 500 ms",
                "first packet lost",
                "to a drained pod",
                "the three new pods get",
            ],
        );
        for (column, name, _) in KUBERNETES {
            let wanted = of(column);
            let sum = |what| cell(measured.sum(&wanted, what).map(thousands));
            let Some(share) = measured.summary(&wanted, "share") else {
                continue;
            };
            row(
                text,
                &[
                    name.into(),
                    sum("connections"),
                    sum("failed"),
                    sum("over_500_ms"),
                    sum("first_lost"),
                    sum("to_drained"),
                    format!("{:.0} %", share.median),
                ],
            );
        }
        if pods != "bridged" {
            continue;
        }
        let _ = writeln!(text, "\n![](kubernetes.svg)");
        let columns = KUBERNETES.iter().filter_map(|(column, _, name)| {
            let line = measured.of(&of(column)).next()?.clone();
            Some((name.to_string(), line))
        });
        let columns: Vec<(String, Value)> = columns.collect();
        let results = |what: &str| {
            (columns.iter())
                .map(|(_, line)| Summary::of(line["result"][what].as_f64().into_iter()))
                .collect()
        };
        panels.push(Panel::Lines(Lines {
            title: "Scaled to six pods: what the three new ones get (0, 1: conn_reuse_mode)".into(),
            x: "seconds since kube-proxy has added them".into(),
            y: "% of connections".into(),
            log_x: false,
            log_y: false,
            series: (columns.iter())
                .map(|(name, line)| (name.clone(), share_of_scaled(line)))
                .collect(),
        }));
        panels.push(Panel::Bars(Bars {
            title: "Rolling update and scale-up: connections in trouble".into(),
            y: "connections".into(),
            groups: columns.iter().map(|(name, _)| name.clone()).collect(),
            series: vec![
                ("failed".into(), results("failed")),
                ("first packet lost".into(), results("first_lost")),
            ],
            goal: None,
        }));
    }
    if panels.is_empty() {
        return Ok(());
    }
    plot::draw(&folder.join("kubernetes.svg"), &panels)
}

/// What the pods got that came last, in percent, interval by interval, around the moment in which kube-proxy had
/// added them.
fn share_of_scaled(line: &Value) -> Vec<(f64, f64)> {
    const BEFORE: f64 = -10.0;
    const AFTER: f64 = 20.0;

    let scaled: Vec<&str> = (line["scaled"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let added = (line["events"].as_array().into_iter().flatten())
        .filter(|event| event["event"] == "added")
        .filter_map(|event| event["at_ms"].as_f64());
    let at = added.fold(0.0, f64::max);
    (line["intervals"].as_array().into_iter().flatten())
        .filter_map(|interval| {
            let seconds = (interval["at_ms"].as_f64()? - at) / 1000.0;
            let servers = interval["servers"].as_object()?;
            let all: f64 = servers.values().filter_map(Value::as_f64).sum();
            let new: f64 = (servers.iter())
                .filter(|(pod, _)| scaled.contains(&pod.as_str()))
                .filter_map(|(_, connections)| connections.as_f64())
                .sum();
            let shown = (BEFORE..=AFTER).contains(&seconds) && all > 0.0;
            shown.then_some((seconds, 100.0 * new / all))
        })
        .collect()
}

/// With a comma after the thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    match digits.len() {
        4.. => format!(
            "{},{}",
            &digits[..digits.len() - 3],
            &digits[digits.len() - 3..]
        ),
        _ => digits,
    }
}

/// What a column adds to stock's figure, in percent, round by round.
fn added(measured: &Measurements, entries: &Value, load: &str, column: &str) -> Option<Summary> {
    let of = |column: &str| {
        [
            ("bench", "price".into()),
            ("entries", entries.clone()),
            ("load", load.into()),
            ("column", column.into()),
        ]
    };
    let s = paired(measured, &of(column), &of("stock"), "ns_each")?;
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    Some(Summary {
        median: percent(s.median),
        low: percent(s.low),
        high: percent(s.high),
        ..s
    })
}

/// The range of a load's rounds on the stock kernel, in percent.
fn repeats(measured: &Measurements, entries: &Value, load: &str) -> Option<f64> {
    let wanted = [
        ("bench", "price".into()),
        ("entries", entries.clone()),
        ("load", load.into()),
        ("column", "stock".into()),
    ];
    let s = measured.summary(&wanted, "ns_each")?;
    Some((s.high - s.low) / s.median * 100.0)
}

/// Instructions for one datagram, query or connection: client, director and server together.
fn instructions(
    measured: &Measurements,
    entries: &Value,
    load: &str,
    column: &str,
) -> Option<Figure> {
    /// The time of an instruction on that clock (boot.sh).
    const NS: f64 = 2.0;

    let wanted = [
        ("bench", "price".into()),
        ("entries", entries.clone()),
        ("load", load.into()),
        ("column", column.into()),
    ];
    let ns = measured.summary(&wanted, "ns_each")?.median;
    Some(Figure(ns / NS))
}

fn price_table(
    text: &mut String,
    measured: &Measurements,
    entries: &Value,
) -> Vec<(String, Vec<Option<Summary>>)> {
    header(
        text,
        &[
            "instructions for one",
            "stock",
            "range of its rounds",
            "module",
            "adds %",
            "patched",
            "adds %",
        ],
    );
    for Load { id, name, .. } in LOADS {
        let Some(stock) = instructions(measured, entries, id, "stock") else {
            continue;
        };
        let mut cells = vec![
            name.into(),
            stock.to_string(),
            cell(repeats(measured, entries, id).map(|r| format!("{r:.2} %"))),
        ];
        for column in PRICED {
            cells.push(cell(instructions(measured, entries, id, column)));
            cells.push(cell(added(measured, entries, id, column)));
        }
        row(text, &cells);
    }
    PRICED
        .map(|column| {
            let values = LOADS.map(|load| added(measured, entries, load.id, column));
            (column.to_string(), values.to_vec())
        })
        .to_vec()
}

fn price(text: &mut String, folder: &Path, measured: &Measurements) -> anyhow::Result<()> {
    let none = Value::from(0);
    if measured
        .of(&[("bench", "price".into()), ("entries", none.clone())])
        .next()
        .is_none()
    {
        return Ok(());
    }
    text.push_str("\n## 3. Price of a packet\n\nThe same traffic through the stock IPVS, the stock IPVS with the module, \
        and the patched IPVS, on a machine whose clock counts instructions: 2 ns each. Caches do not show. A figure is the \
        work of client, director and server together, which are network namespaces of one kernel. It leaves out timer \
        ticks and other background work. The module has hooks where IPVS has them, in the director's namespace: \
        the last line shows what others pay.\n\n\
        ![](price.svg)\n\n");
    let series = price_table(text, measured, &none);
    let _ = writeln!(text);
    for load in LOADS {
        for (column, most) in PRICED.into_iter().zip(load.goals) {
            let noise = repeats(measured, &none, load.id).unwrap_or_default();
            met(
                text,
                &format!("{column}, {}: at most {most} %", load.name),
                added(measured, &none, load.id, column).map(|s| within(s, most, noise)),
            );
        }
    }
    plot::draw(
        &folder.join("price.svg"),
        &[price_panel(
            "Price of a packet, by instructions".into(),
            series,
            Some(("dashed: the goal for the module with UDP".into(), 0.7)),
        )],
    )
}

/// Whether `added` keeps a goal, in words. `noise` is the range of stock's rounds. All in percent.
fn within(added: Summary, most: f64, noise: f64) -> (bool, String) {
    // Both are compared with the precision with which they are printed.
    let rounded = |percent: f64| (percent * 100.0).round() / 100.0;
    let swallowed = if rounded(noise) > most {
        "; the range of stock's rounds is larger than the goal: noise swallows it"
    } else {
        ""
    };
    (
        rounded(added.median) <= most && swallowed.is_empty(),
        format!("{added} %{swallowed}"),
    )
}

/// What is added to each of the [`LOADS`].
fn price_panel(
    title: String,
    series: Vec<(String, Vec<Option<Summary>>)>,
    goal: Option<(String, f64)>,
) -> Panel {
    Panel::Bars(Bars {
        title,
        y: "added to stock (%)".into(),
        groups: LOADS.map(|load| load.short.into()).to_vec(),
        series,
        goal,
    })
}

fn scheduler(text: &mut String, folder: &Path, measured: &Measurements) -> anyhow::Result<()> {
    let of = |scheduler: &str, servers: &Value| {
        [
            ("bench", "pick".into()),
            ("scheduler", scheduler.into()),
            ("servers", servers.clone()),
        ]
    };
    let sizes = measured.each(&[("bench", "pick".into())], "servers");
    let mut panels = Vec::new();
    if !sizes.is_empty() {
        text.push_str("\n## 4. Scheduler\n\n![](scheduler.svg)\n\n### The cost of one choice\n\nMicroseconds for a whole \
            datagram, by instructions (2 ns each); what is not the scheduler's is about what rr takes with one server. \
            mh finds the same server for one client, whichever number there are.\n\n");
        let names: Vec<String> = sizes.iter().map(|n| format!("{n} servers")).collect();
        let mut head = vec![""];
        head.extend(names.iter().map(String::as_str));
        header(text, &head);
        for scheduler in SCHEDULERS {
            let mut cells = vec![scheduler.to_string()];
            for servers in &sizes {
                let us = measured
                    .summary(&of(scheduler, servers), "ns_each")
                    .map(|s| Figure(s.median / 1000.0));
                cells.push(cell(us));
            }
            row(text, &cells);
        }
        let _ = writeln!(text);
        let at = |scheduler: &str, servers: u64| {
            measured.summary(&of(scheduler, &servers.into()), "ns_each")
        };
        let grows = at("p2c", 10_000)
            .zip(at("p2c", 10))
            .and_then(|(many, few)| ratio(many, few));
        met(
            text,
            "p2c at 10,000 servers costs at most 1.05 times p2c at 10",
            grows.map(|s| (s.median <= 1.05, s.to_string())),
        );
        for servers in [4, 10, 100, 1000, 10_000] {
            let cost = at("p2c", servers)
                .zip(at("wlc", servers))
                .and_then(|(p2c, wlc)| ratio(p2c, wlc));
            met(
                text,
                &format!("p2c costs at most as much as wlc with {servers}"),
                cost.map(|s| (s.median <= 1.0, format!("{s} times"))),
            );
        }
        let lines = SCHEDULERS.iter().map(|scheduler| {
            let points = sizes.iter().filter_map(|servers| {
                let us = measured.summary(&of(scheduler, servers), "ns_each")?.median / 1000.0;
                Some((servers.as_f64()?, us))
            });
            (scheduler.to_string(), points.collect())
        });
        panels.push(Panel::Lines(Lines {
            title: "One choice (a whole datagram)".into(),
            x: "real servers (log)".into(),
            y: "microseconds (log)".into(),
            log_x: true,
            log_y: true,
            series: lines.collect(),
        }));
        let wanted = [("bench", "changes".into())];
        let changed: Vec<_> = measured.of(&wanted).collect();
        if !changed.is_empty() {
            text.push_str("\n### Changes, one by one by `ipvsadm -R`\n\n");
            header(
                text,
                &[
                    "",
                    "servers",
                    "add ms",
                    "edit ms",
                    "remove ms",
                    "bytes a server",
                ],
            );
            for line in changed {
                let r = &line["result"];
                row(
                    text,
                    &[
                        line["scheduler"].as_str().unwrap_or_default().into(),
                        line["servers"].to_string(),
                        r["add_ms"].to_string(),
                        r["edit_ms"].to_string(),
                        r["remove_ms"].to_string(),
                        r["bytes_each"].to_string(),
                    ],
                );
            }
            let _ = writeln!(text);
            for (what, member) in [
                ("add", "add_ms"),
                ("edit", "edit_ms"),
                ("remove", "remove_ms"),
            ] {
                let ms = |scheduler: &str| {
                    let wanted = [("bench", "changes".into()), ("scheduler", scheduler.into())];
                    measured.summary(&wanted, member)
                };
                let times = ms("p2c")
                    .zip(ms("wlc"))
                    .and_then(|(p2c, wlc)| ratio(p2c, wlc));
                met(
                    text,
                    &format!("to {what} servers of p2c costs at most 1.5 times wlc's"),
                    times.map(|s| (s.median <= 1.5, format!("{s} times"))),
                );
            }
        }
    }
    balance(text, measured);
    slow_start(text, folder, measured)?;
    queues(text, measured);
    let wanted = [("bench", "directors".into())];
    let simulated: Vec<_> = measured.of(&wanted).collect();
    if !simulated.is_empty() {
        text.push_str("\n### Many directors (simulated, with the module's sampler.rs)\n\nEach sees its own connections only; \
            20 are open for each server; a tenth of the servers is replaced. Fullest over mean before the rollout, the \
            worst of it after, and the new servers' part of new connections over their share by weight in the first ticks \
            after it (a connection stays for 20). Left out where wlc would take too long to simulate.\n\n");
        header(
            text,
            &[
                "directors",
                "servers",
                "scheduler",
                "fullest / mean",
                "worst after",
                "new: tick 1",
                "2",
                "5",
                "10",
                "20",
            ],
        );
        for line in &simulated {
            let r = &line["result"];
            let share = |tick: usize| cell(r["new_share"][tick - 1].as_f64().map(Figure));
            row(
                text,
                &[
                    line["directors"].to_string(),
                    line["servers"].to_string(),
                    line["scheduler"].as_str().unwrap_or_default().into(),
                    cell(r["fullest_over_mean"].as_f64().map(Figure)),
                    cell(r["worst_after_rollout"].as_f64().map(Figure)),
                    share(1),
                    share(2),
                    share(5),
                    share(10),
                    share(20),
                ],
            );
        }
        for directors in [1u64, 100] {
            let lines = (simulated.iter())
                .filter(|line| line["directors"] == directors && line["servers"] == 100)
                .map(|line| {
                    let shares = line["result"]["new_share"].as_array().into_iter().flatten();
                    let points = shares.take(30).enumerate();
                    let points = points
                        .filter_map(|(tick, share)| Some((tick as f64 + 1.0, share.as_f64()?)));
                    (
                        line["scheduler"].as_str().unwrap_or_default().to_string(),
                        points.collect(),
                    )
                });
            panels.push(Panel::Lines(Lines {
                title: format!("New servers' share: {directors} director(s), 100 servers"),
                x: "ticks since they came (a connection stays 20)".into(),
                y: "new connections over fair share".into(),
                log_x: false,
                log_y: false,
                series: lines.collect(),
            }));
        }
    }
    if panels.is_empty() {
        return Ok(());
    }
    plot::draw(&folder.join("scheduler.svg"), &panels)
}

/// Real servers as queues: time against `sed`'s, and how much of its share by weight each gets.
fn queues(text: &mut String, measured: &Measurements) {
    let simulated = |wanted: &[Want<'_>]| -> Vec<Value> {
        let wanted = [wanted, &[("bench", "queues".into())]].concat();
        measured.of(&wanted).cloned().collect()
    };
    let all = [("bench", "queues".into())];
    let schedulers = measured.each(&all, "scheduler");
    if schedulers.is_empty() {
        return;
    }
    text.push_str(
        "\n### Servers as queues (simulated, with the module's sampler.rs)\n\nThe speed of a server is its weight; \
        connections come at random. In each cell: the mean time until a connection has been served, over sed's; in \
        brackets the 99th percentile, over sed's; then what the server that is worst off and the one that is best off \
        get of their shares by weight.\n",
    );
    let mut names = vec!["weights", "load"];
    names.extend(schedulers.iter().filter_map(Value::as_str));
    for directors in measured.each(&all, "directors") {
        writeln!(text, "\nDirectors: {directors}\n").unwrap();
        header(text, &names);
        for weights in measured.each(&all, "weights") {
            for load in measured.each(&all, "load") {
                let of = |scheduler: &Value, member: &str| {
                    let wanted = [
                        ("weights", weights.clone()),
                        ("load", load.clone()),
                        ("directors", directors.clone()),
                        ("scheduler", scheduler.clone()),
                    ];
                    simulated(&wanted).first()?["result"][member].as_f64()
                };
                let cell = |scheduler: &Value| {
                    let over_sed =
                        |member| Some(Figure(of(scheduler, member)? / of(&"sed".into(), member)?));
                    Some(format!(
                        "{} ({}) {} to {}",
                        over_sed("mean")?,
                        over_sed("p99")?,
                        Figure(of(scheduler, "least_share")?),
                        Figure(of(scheduler, "most_share")?)
                    ))
                };
                let mut cells = vec![
                    weights.as_str().unwrap_or_default().to_string(),
                    load.to_string(),
                ];
                cells.extend(schedulers.iter().map(|it| cell(it).unwrap_or_default()));
                row(text, &cells);
            }
        }
    }
}

/// The share of a new server over time, with p2c's slow start and without.
fn slow_start(text: &mut String, folder: &Path, measured: &Measurements) -> anyhow::Result<()> {
    let bench: Want<'_> = ("bench", "slow_start".into());
    let series: Vec<_> = [("", "without the flag"), ("flag-1", "-b flag-1")]
        .into_iter()
        .map(|(flags, name)| {
            let wanted = [bench.clone(), ("flags", flags.into())];
            let points = measured.of(&wanted).filter_map(|line| {
                let ms = line["from_ms"].as_f64()? + line["to_ms"].as_f64()?;
                Some((ms / 2000.0, line["part"].as_f64()? * 100.0))
            });
            (name.to_string(), points.collect::<Vec<_>>())
        })
        .filter(|(_, points)| !points.is_empty())
        .collect();
    if series.is_empty() {
        return Ok(());
    }
    text.push_str(
        "\n### Slow start\n\nFour servers have a service; a fifth of equal weight comes. What p2c gives to it, of 2,000 \
        datagrams (`-o`, so that nothing but weight counts), by the time since it came. Its share by weight is 20 %.\n\n\
        ![](slow_start.svg)\n",
    );
    let lines = Lines {
        title: "A fifth server of equal weight, with and without slow start".into(),
        x: "seconds since it came".into(),
        y: "% of all datagrams".into(),
        log_x: false,
        log_y: false,
        series,
    };
    plot::draw(&folder.join("slow_start.svg"), &[Panel::Lines(lines)])
}

/// The fullest server over the mean, by weight.
fn balance(text: &mut String, measured: &Measurements) {
    let of = |scheduler: &str, weights: u64| {
        [
            ("bench", "balance".into()),
            ("scheduler", scheduler.into()),
            ("weights", weights.into()),
        ]
    };
    let fullest = |scheduler: &str, weights: u64| {
        Summary::of(
            measured
                .of(&of(scheduler, weights))
                .filter_map(|line| fullest_by_weight(&line["result"]["servers"], weights)),
        )
    };
    if fullest("p2c", 1).is_none() {
        return;
    }
    text.push_str("\n### Balance\n\n2,000 connections from as many ports, all held, on 32 real servers: the fullest, by \
        its weight, over the mean. mh goes by the client's address alone.\n\n");
    header(text, &["", "equal weights", "weights 1 to 4"]);
    for scheduler in SCHEDULERS {
        row(
            text,
            &[
                scheduler.into(),
                cell(fullest(scheduler, 1)),
                cell(fullest(scheduler, 4)),
            ],
        );
    }
}

/// Server N of the 32 has weight 1 + N % `weights` (balance.sh); its name ends with N.
fn fullest_by_weight(servers: &Value, weights: u64) -> Option<f64> {
    const SERVERS: u64 = 32;

    let weight = |n: u64| (1 + n % weights) as f64;
    let by_weight = servers.as_object()?.iter().filter_map(|(name, count)| {
        let n = name.rsplit(':').next()?.parse().ok()?;
        Some(count.as_f64()? / weight(n))
    });
    let most = by_weight.fold(0.0, f64::max);
    let all: f64 = servers
        .as_object()?
        .values()
        .filter_map(Value::as_f64)
        .sum();
    let mean = all / (1..=SERVERS).map(weight).sum::<f64>();
    Some(most / mean)
}

fn scale(text: &mut String, folder: &Path, measured: &Measurements) -> anyhow::Result<()> {
    let bench: Want<'_> = ("bench", "price".into());
    let full: Vec<Value> = measured
        .each(&[bench.clone()], "entries")
        .into_iter()
        .filter(|n| *n != 0)
        .collect();
    let Some(entries) = full.first() else {
        return Ok(());
    };
    let _ = writeln!(text, "\n## 5. Scale\n\nThe loads of 3 again, with {entries} other IPVS entries in place.\n\n![](scale.svg)\n");
    let many = price_table(text, measured, entries);
    let _ = writeln!(text);
    let bytes = |column: &str| {
        let lines = measured
            .of(&[])
            .filter(|line| line["entries"] == *entries && line["column"] == column);
        let each = lines.filter_map(|line| {
            Some(line["entries_kb"].as_f64()? * 1024.0 / line["entries"].as_f64()?)
        });
        Summary::of(each)
    };
    header(text, &["", "bytes an entry"]);
    for column in ["stock", "module", "patched"] {
        row(text, &[column.into(), cell(bytes(column))]);
    }
    let _ = writeln!(text);
    met(
        text,
        "memory that the module adds: none per flow",
        bytes("module").zip(bytes("stock")).map(|(module, stock)| {
            let more = module.median - stock.median;
            (
                more < 4.0,
                format!("{more:.1} bytes an entry more than stock"),
            )
        }),
    );
    let mut series = many;
    for (name, _) in &mut series {
        *name = format!("{name}, entries");
    }
    for column in PRICED {
        let none = Value::from(0);
        let values = LOADS.map(|load| added(measured, &none, load.id, column));
        series.push((format!("{column}, none"), values.to_vec()));
    }
    plot::draw(
        &folder.join("scale.svg"),
        &[price_panel(
            format!("The price with {entries} entries, and with none"),
            series,
            None,
        )],
    )
}
