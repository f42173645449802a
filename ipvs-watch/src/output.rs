// SPDX-License-Identifier: GPL-2.0

//! Formats events and summaries: as JSON, one object a line, as a table for people, and as metrics
//! for Prometheus. Pure.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::event::{Event, Reason, What};

/// An event at its time, in a namespace that may have a name.
pub struct Dated<'a> {
    pub event: &'a Event,
    pub time: SystemTime,
    pub netns_name: Option<&'a str>,
}

/// What was seen since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    drops: u64,
    replays: u64,
    misdirects: u64,
    /// Records that did not fit into the ring buffer.
    pub missed: u64,
    by_reason: [u64; Reason::ALL.len()],
}

impl Tally {
    pub fn count(&mut self, event: &Event) {
        match event.what {
            What::Replay => {
                self.replays += 1;
                return;
            }
            What::Drop => self.drops += 1,
            What::Misdirect => self.misdirects += 1,
        }
        self.by_reason[event.reason as usize] += 1;
    }

    /// How many packets were dropped or misdirected for each reason.
    fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().zip(self.by_reason)
    }
}

pub mod json {
    use super::*;

    pub fn ready() -> String {
        r#"{"event":"ready"}"#.into()
    }

    pub fn event(dated: &Dated) -> serde_json::Result<String> {
        serde_json::to_string(dated)
    }

    pub fn summary(tally: &Tally) -> serde_json::Result<String> {
        serde_json::to_string(tally)
    }

    impl Serialize for Dated<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            let event = self.event;
            let mut map = to.serialize_map(None)?;
            map.serialize_entry("event", event.what.token())?;
            map.serialize_entry("time", &timestamp(self.time))?;
            map.serialize_entry("netns", &event.netns)?;
            if let Some(name) = self.netns_name {
                map.serialize_entry("netns_name", name)?;
            }
            map.serialize_entry("protocol", &event.protocol)?;
            map.serialize_entry("client", &event.client)?;
            map.serialize_entry("virtual", &event.virtual_service)?;
            map.serialize_entry("server", &event.server)?;
            map.serialize_entry("ipvs_state", &event.ipvs_state)?;
            map.serialize_entry("conntrack_state", &event.conntrack_state)?;
            map.serialize_entry("reason", &event.reason)?;
            map.end()
        }
    }

    impl Serialize for Tally {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            struct ByReason<'a>(&'a Tally);

            impl Serialize for ByReason<'_> {
                fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    to.collect_map(self.0.reasons())
                }
            }

            let mut map = to.serialize_map(None)?;
            map.serialize_entry("event", "summary")?;
            map.serialize_entry("drops", &self.drops)?;
            map.serialize_entry("replays", &self.replays)?;
            map.serialize_entry("misdirects", &self.misdirects)?;
            map.serialize_entry("missed", &self.missed)?;
            map.serialize_entry("by_reason", &ByReason(self))?;
            map.end()
        }
    }
}

/// What was seen since the start, in the format that Prometheus and node_exporter read.
pub fn metrics(tally: &Tally) -> String {
    let of_reasons = |misdirects: bool| -> Vec<(String, u64)> {
        tally
            .reasons()
            .filter(|(reason, _)| reason.misdirects() == misdirects)
            .map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), count))
            .collect()
    };
    let total = |count| vec![(String::new(), count)];
    let mut text = String::new();
    for (name, help, samples) in [
        (
            "dropped_packets",
            "Packets that would have opened a flow and were dropped.",
            of_reasons(false),
        ),
        (
            "misdirected_packets",
            "Answers to which IPVS gave a source address that the client has not addressed.",
            of_reasons(true),
        ),
        (
            "replayed_packets",
            "Packets that ip_vs_reuse replayed and IPVS would have dropped.",
            total(tally.replays),
        ),
        (
            "missed_events",
            "Events that came too fast. No other metric counts them.",
            total(tally.missed),
        ),
    ] {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "# HELP ipvs_watch_{name}_total {help}\n# TYPE ipvs_watch_{name}_total counter\n"
        );
        for (labels, count) in samples {
            let _ = writeln!(text, "ipvs_watch_{name}_total{labels} {count}");
        }
    }
    text
}

/// The table's columns and their initial widths, in which IPv4 fits. The first address that does
/// not fit widens its column for good. The last column has no width and is not listed.
const COLUMNS: [(&str, usize); 8] = [
    ("TIME (UTC)", 12),
    ("NETNS", 10),
    ("PROTO", 5),
    ("CLIENT", 21),
    ("VIRTUAL SERVICE", 21),
    ("OLD REAL SERVER", 21),
    ("IPVS", 11),
    ("CONNTRACK", 11),
];

/// A table that is written row by row.
pub struct Table {
    widths: [usize; COLUMNS.len()],
    has_header: bool,
}

impl Table {
    pub fn new() -> Self {
        Self {
            widths: COLUMNS.map(|(_, width)| width),
            has_header: false,
        }
    }

    /// All rows under one header, a line each. None if there is no event.
    pub fn of(events: &[Dated]) -> Vec<String> {
        let mut table = Self::new();
        for dated in events {
            table.row(dated);
        }
        // Each column is as wide as its widest cell by now.
        table.has_header = false;
        events
            .iter()
            .flat_map(|dated| {
                let text = table.row(dated);
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The event's row, preceded by a header if there was none, or if a column became wider.
    pub fn row(&mut self, dated: &Dated) -> String {
        let event = dated.event;
        let dash = || "-".into();
        let cells: [String; COLUMNS.len()] = [
            time_of_day(dated.time),
            dated
                .netns_name
                .map_or_else(|| event.netns.to_string(), str::to_owned),
            event.protocol.to_string(),
            event.client.to_string(),
            event.virtual_service.to_string(),
            event.server.map_or_else(dash, |server| server.to_string()),
            event.ipvs_state.as_deref().map_or_else(dash, str::to_owned),
            event
                .conntrack_state
                .as_deref()
                .map_or_else(dash, str::to_owned),
        ];

        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            if cell.chars().count() > *width {
                *width = cell.chars().count();
                self.has_header = false;
            }
        }
        let mut text = String::new();
        if !self.has_header {
            self.write(&mut text, COLUMNS.map(|(name, _)| name), "WHAT HAPPENED");
            text.push('\n');
            self.has_header = true;
        }
        self.write(&mut text, cells.each_ref().map(String::as_str), said(event));
        text
    }

    fn write(&self, to: &mut String, cells: [&str; COLUMNS.len()], last: &str) {
        for (cell, width) in cells.into_iter().zip(self.widths) {
            // Writing to a string does not fail.
            let _ = write!(to, "{cell:width$}  ");
        }
        to.push_str(last);
    }
}

/// What happened, for an operator who knows IPVS but not this program.
fn said(event: &Event) -> &'static str {
    match (event.what, event.reason) {
        (What::Replay, Reason::Closed) => "saved: old connection ended, packet replayed",
        (What::Replay, Reason::Drained) => "saved: old server drained, packet replayed",
        (What::Replay, Reason::Gone) => "saved: old server left the service, packet replayed",
        (What::Replay, _) => "saved: packet replayed",
        (_, Reason::Closed) => "dropped: old connection ended, its conntrack still there",
        (_, Reason::Drained) => "dropped: old server drained, old conntrack still there",
        (_, Reason::Gone) => "dropped: old server left the service, old conntrack still there",
        (_, Reason::Unavailable) => "dropped: old server left the service, expire_nodest_conn=0",
        (_, Reason::NotScheduled) => {
            "dropped: no real server to choose (weights, thresholds, drop_packet)"
        }
        (_, Reason::NoScheduler) => "dropped: the service has no scheduler, or is changing it",
        (_, Reason::Clash) => "dropped: by conntrack, which knows this port and server already",
        (_, Reason::Other) => "dropped: by IPVS, for another reason",
        (_, Reason::Direct) => "misdirected: the client addressed the real server, not the service",
        (_, Reason::OtherService) => "misdirected: the client addressed another service",
    }
}

/// One line, short enough for a terminal.
pub fn summary(tally: &Tally) -> String {
    let reasons: Vec<_> = tally
        .reasons()
        .filter(|&(reason, count)| count > 0 && !reason.misdirects())
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let mut text = format!("{} dropped", tally.drops);
    if !reasons.is_empty() {
        let _ = write!(text, " ({})", reasons.join(", "));
    }
    let _ = write!(text, ", {} replayed", tally.replays);
    if tally.misdirects > 0 {
        let _ = write!(text, ", {} misdirected", tally.misdirects);
    }
    if tally.missed > 0 {
        let _ = write!(text, ", {} more not shown: too many at once", tally.missed);
    }
    text
}

pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

pub fn time_of_day(time: SystemTime) -> String {
    let timestamp = humantime::format_rfc3339_millis(time).to_string();
    let day = timestamp.split_once('T').map_or("", |(_, day)| day);
    day.trim_end_matches('Z').into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::time::{Duration, UNIX_EPOCH};

    fn dated(event: &Event) -> Dated {
        Dated {
            event,
            time: UNIX_EPOCH + Duration::from_micros(1_795_350_896_789_012),
            netns_name: Some("director"),
        }
    }

    fn tally() -> Tally {
        let mut tally = Tally::default();
        let mut event = Event::closed();
        tally.count(&event);
        tally.count(&event);
        event.reason = Reason::NotScheduled;
        tally.count(&event);
        event.what = What::Replay;
        tally.count(&event);
        event.what = What::Misdirect;
        event.reason = Reason::Direct;
        tally.count(&event);
        tally
    }

    #[test]
    fn json_of_a_drop() {
        let mut event = Event::closed();
        assert_eq!(
            json::event(&dated(&event)).unwrap(),
            concat!(
                r#"{"event":"drop","time":"2026-11-22T12:34:56.789012Z","netns":4026532008,"#,
                r#""netns_name":"director","protocol":"TCP","client":"10.0.0.2:20001","#,
                r#""virtual":"10.9.0.1:80","server":"10.2.1.2:80","ipvs_state":"CLOSE","#,
                r#""conntrack_state":"CLOSE","reason":"closed"}"#
            )
        );
        event.what = What::Replay;
        event.conntrack_state = None;
        let nameless = Dated {
            netns_name: None,
            ..dated(&event)
        };
        let line = json::event(&nameless).unwrap();
        assert!(line.starts_with(r#"{"event":"replay","time":""#), "{line}");
        assert!(line.contains(r#""netns":4026532008,"protocol""#), "{line}");
        assert!(line.contains(r#""conntrack_state":null"#), "{line}");
    }

    #[test]
    fn json_of_a_summary_has_every_reason() {
        assert_eq!(
            json::summary(&tally()).unwrap(),
            concat!(
                r#"{"event":"summary","drops":3,"replays":1,"misdirects":1,"missed":0,"by_reason":"#,
                r#"{"closed":2,"drained":0,"gone":0,"unavailable":0,"not_scheduled":1,"#,
                r#""no_scheduler":0,"clash":0,"other":0,"direct":1,"other_service":0}}"#
            )
        );
    }

    #[test]
    fn a_summary_for_people_has_what_was_seen() {
        let mut tally = tally();
        assert_eq!(
            summary(&tally),
            "3 dropped (2 closed, 1 not_scheduled), 1 replayed, 1 misdirected"
        );
        tally.missed = 7;
        assert!(summary(&tally).ends_with(", 7 more not shown: too many at once"));
        assert_eq!(summary(&Tally::default()), "0 dropped, 0 replayed");
    }

    #[test]
    fn metrics_have_every_reason() {
        let text = metrics(&tally());
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                r#"ipvs_watch_dropped_packets_total{reason="closed"} 2"#,
                r#"ipvs_watch_dropped_packets_total{reason="drained"} 0"#,
                r#"ipvs_watch_dropped_packets_total{reason="gone"} 0"#,
                r#"ipvs_watch_dropped_packets_total{reason="unavailable"} 0"#,
                r#"ipvs_watch_dropped_packets_total{reason="not_scheduled"} 1"#,
                r#"ipvs_watch_dropped_packets_total{reason="no_scheduler"} 0"#,
                r#"ipvs_watch_dropped_packets_total{reason="clash"} 0"#,
                r#"ipvs_watch_dropped_packets_total{reason="other"} 0"#,
                r#"ipvs_watch_misdirected_packets_total{reason="direct"} 1"#,
                r#"ipvs_watch_misdirected_packets_total{reason="other_service"} 0"#,
                "ipvs_watch_replayed_packets_total 1",
                "ipvs_watch_missed_events_total 0",
            ]
        );
        assert_eq!(text.matches("# TYPE").count(), 4);
        assert!(text.ends_with('\n'));
    }

    /// grafana.json asks for each metric, and for no other metric or reason.
    #[test]
    fn the_dashboard_asks_for_what_there_is() {
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../grafana.json")).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let queries: Vec<_> = panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().unwrap())
            .map(|target| target["expr"].as_str().unwrap())
            .chain(dashboard["templating"]["list"][1]["query"]["query"].as_str())
            .collect();
        assert!(queries.len() > panels.len(), "{queries:?}");

        let text = metrics(&Tally::default());
        let exported: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let asked: BTreeSet<_> = queries
            .iter()
            .flat_map(|query| query.split(|c: char| !c.is_alphanumeric() && c != '_'))
            .filter(|word| word.starts_with("ipvs_"))
            .collect();
        assert_eq!(asked, exported);

        let reasons = queries
            .iter()
            .flat_map(|query| query.split("reason"))
            .filter_map(|rest| rest.strip_prefix("=~").or(rest.strip_prefix("!~")))
            .filter_map(|rest| rest.split('"').nth(1))
            .flat_map(|reasons| reasons.split('|'))
            .collect::<Vec<_>>();
        assert_eq!(reasons.len(), 6, "{reasons:?}");
        for reason in reasons {
            assert!(
                Reason::ALL.iter().any(|known| known.token() == reason),
                "{reason}"
            );
        }
    }

    #[test]
    fn rows_stand_under_their_header() {
        let event = Event::closed();
        let mut table = Table::new();
        let text = table.row(&dated(&event));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        for (header, cell) in [
            ("TIME", "12:34:56.789 "),
            ("NETNS", "director"),
            ("CLIENT", "10.0.0.2:20001"),
            ("VIRTUAL", "10.9.0.1:80"),
            ("OLD REAL", "10.2.1.2:80"),
            ("IPVS", "CLOSE"),
            ("WHAT", "dropped: old connection ended"),
        ] {
            assert_eq!(lines[0].find(header), lines[1].find(cell), "{text}");
        }
        assert_eq!(table.row(&dated(&event)).lines().count(), 1);
    }

    #[test]
    fn a_wide_address_widens_its_column_for_good() {
        let narrow = Event::closed();
        let mut wide = Event::closed();
        let longest = "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535";
        wide.client = longest.parse::<SocketAddr>().unwrap();
        let mut table = Table::new();
        table.row(&dated(&narrow));
        let text = table.row(&dated(&wide));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0].find("VIRTUAL"), lines[1].find("10.9.0.1:80"));
        let later = table.row(&dated(&narrow));
        assert_eq!(lines[0].find("VIRTUAL"), later.find("10.9.0.1:80"));

        let rows = Table::of(&[dated(&narrow), dated(&wide)]);
        assert_eq!(rows.len(), 3, "{rows:?}");
        for row in &rows[1..] {
            assert_eq!(rows[0].find("VIRTUAL"), row.find("10.9.0.1:80"));
        }
    }
}
