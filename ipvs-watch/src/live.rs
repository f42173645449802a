// SPDX-License-Identifier: GPL-2.0

//! The live view on a terminal: how many packets are lost now, by service and reason, and the last
//! events. Pure: a frame is a string.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::event::{Event, Reason, What};
use crate::output::{self, Dated, Table, Tally};

/// How many services and reasons are remembered. What was seen longest ago is forgotten first.
const MOST_FLOWS: usize = 1000;

/// How many events are remembered.
const MOST_EVENTS: usize = 200;

const MINUTE: Duration = Duration::from_secs(60);

/// Rates are averages over this time.
const AVERAGED: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    service: SocketAddr,
    protocol: Cow<'static, str>,
    what: What,
    reason: Reason,
}

struct Counts {
    total: u64,
    /// By second, the newest last.
    recent: VecDeque<(SystemTime, u64)>,
}

impl Counts {
    fn count(&mut self, time: SystemTime) {
        self.total += 1;
        match self.recent.back_mut() {
            // Processors may tell their events in another order.
            Some((start, count))
                if time
                    .duration_since(*start)
                    .map_or(true, |age| age < Duration::from_secs(1)) =>
            {
                *count += 1;
            }
            _ => self.recent.push_back((time, 1)),
        }
        while self.recent.len() > MINUTE.as_secs() as usize + 1 {
            self.recent.pop_front();
        }
    }

    fn since(&self, start: SystemTime) -> u64 {
        self.recent
            .iter()
            .filter(|&&(time, _)| time >= start)
            .map(|&(_, count)| count)
            .sum()
    }

    fn last(&self) -> Option<SystemTime> {
        self.recent.back().map(|&(time, _)| time)
    }
}

struct Seen {
    event: Event,
    time: SystemTime,
    netns_name: Option<String>,
}

/// What the view shows.
#[derive(Default)]
pub struct Live {
    groups: BTreeMap<Group, Counts>,
    events: VecDeque<Seen>,
}

impl Live {
    pub fn count(&mut self, dated: &Dated) {
        let event = dated.event;
        let group = Group {
            service: event.virtual_service,
            protocol: event.protocol.clone(),
            what: event.what,
            reason: event.reason,
        };
        if self.groups.len() >= MOST_FLOWS && !self.groups.contains_key(&group) {
            let oldest = self.groups.iter().min_by_key(|(_, counts)| counts.last());
            if let Some(oldest) = oldest.map(|(group, _)| group.clone()) {
                self.groups.remove(&oldest);
            }
        }
        self.groups
            .entry(group)
            .or_insert_with(|| Counts {
                total: 0,
                recent: VecDeque::new(),
            })
            .count(dated.time);
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Seen {
            event: event.clone(),
            time: dated.time,
            netns_name: dated.netns_name.map(str::to_owned),
        });
    }

    /// The lines of the view, as many and as long as the terminal takes. Services have up to half of
    /// it, those with the most packets in the last minute first.
    pub fn frame(
        &self,
        tally: &Tally,
        now: SystemTime,
        (columns, rows): (usize, usize),
    ) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{} UTC  {}",
                output::time_of_day(now),
                output::summary(tally)
            ),
            String::new(),
        ];
        if self.groups.is_empty() {
            lines.push("No packet has been lost so far. Ctrl-C ends the program.".into());
        } else {
            lines.extend(self.services(now, rows / 2));
            lines.push(String::new());
            // One for the table's header.
            let space = rows.saturating_sub(lines.len() + 1);
            lines.extend(self.last_events(space));
        }
        lines.truncate(rows);
        for line in &mut lines {
            *line = line.chars().take(columns).collect();
        }
        lines
    }

    fn services(&self, now: SystemTime, rows: usize) -> Vec<String> {
        let minute_ago = now.checked_sub(MINUTE).unwrap_or(now);
        let averaged = now.checked_sub(AVERAGED).unwrap_or(now);
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .map(|(group, counts)| (group, counts, counts.since(minute_ago)))
            .collect();
        groups.sort_by_key(|&(_, counts, minute)| (Reverse(minute), Reverse(counts.total)));
        let width = groups
            .iter()
            .map(|(group, ..)| group.service.to_string().len())
            .max()
            .unwrap_or(0)
            .max(21);

        let mut lines = vec![format!(
            "{:>8}  {:>8}  {:>8}  {:5}  {:width$}  {:9}  REASON",
            "PER S", "LAST MIN", "TOTAL", "PROTO", "VIRTUAL SERVICE", "EVENT"
        )];
        let hidden = (groups.len() + 3).saturating_sub(rows);
        let shown = match hidden {
            0 => groups.len(),
            _ => rows.saturating_sub(4),
        };
        for (group, counts, minute) in &groups[..shown.min(groups.len())] {
            lines.push(format!(
                "{:>8.1}  {minute:>8}  {:>8}  {:5}  {:width$}  {:9}  {}",
                counts.since(averaged) as f64 / AVERAGED.as_secs_f64(),
                counts.total,
                group.protocol,
                group.service.to_string(),
                group.what.token(),
                group.reason,
            ));
        }
        if shown < groups.len() {
            lines.push(format!("{:>8}  more", groups.len() - shown));
        }
        lines
    }

    /// The last events under one header, the newest last.
    pub fn last_events(&self, most: usize) -> Vec<String> {
        let first = self.events.len().saturating_sub(most);
        let dated: Vec<_> = self
            .events
            .range(first..)
            .map(|seen| Dated {
                event: &seen.event,
                time: seen.time,
                netns_name: seen.netns_name.as_deref(),
            })
            .collect();
        Table::of(&dated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const SIZE: (usize, usize) = (200, 24);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_350_896 + seconds)
    }

    fn event(service: &str, reason: Reason) -> Event {
        Event {
            virtual_service: service.parse().unwrap(),
            server: None,
            ipvs_state: None,
            conntrack_state: None,
            reason,
            ..Event::closed()
        }
    }

    /// A view and what it was told: `count` events of a kind, at a second.
    struct Told(Live, Tally);

    impl Told {
        fn new() -> Self {
            Self(Live::default(), Tally::default())
        }

        fn tell(&mut self, event: &Event, second: u64, count: u64) {
            for _ in 0..count {
                self.1.count(event);
                self.0.count(&Dated {
                    event,
                    time: at(second),
                    netns_name: None,
                });
            }
        }

        fn frame(&self, second: u64, size: (usize, usize)) -> Vec<String> {
            self.0.frame(&self.1, at(second), size)
        }
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn nothing_lost_has_a_line_that_says_so() {
        let frame = Told::new().frame(0, SIZE);
        assert!(
            frame[0].ends_with("UTC  0 dropped, 0 replayed"),
            "{frame:?}"
        );
        assert!(frame[2].starts_with("No packet has been lost"), "{frame:?}");
    }

    #[test]
    fn a_service_has_its_rate_minute_and_total() {
        let mut told = Told::new();
        let closed = event("10.9.0.1:80", Reason::Closed);
        told.tell(&closed, 0, 7); // more than a minute ago
        told.tell(&closed, 45, 5); // in the last minute
        told.tell(&closed, 65, 20); // in the last ten seconds
        let frame = told.frame(70, SIZE);
        assert_eq!(
            words(&frame[3]),
            ["2.0", "25", "32", "TCP", "10.9.0.1:80", "drop", "closed"]
        );
        // It does not go on when nothing happens any more.
        assert_eq!(words(&told.frame(200, SIZE)[3])[..3], ["0.0", "0", "32"]);
    }

    #[test]
    fn the_busiest_service_comes_first() {
        let mut told = Told::new();
        told.tell(&event("10.9.0.1:80", Reason::Closed), 0, 100);
        told.tell(&event("10.9.0.2:80", Reason::Drained), 100, 1);
        told.tell(&event("[fd00:9::1]:80", Reason::Drained), 100, 2);
        let frame = told.frame(100, SIZE);
        let services: Vec<_> = frame[3..6].iter().map(|line| words(line)[4]).collect();
        assert_eq!(services, ["[fd00:9::1]:80", "10.9.0.2:80", "10.9.0.1:80"]);
    }

    #[test]
    fn columns_stand_under_their_header() {
        let mut told = Told::new();
        told.tell(
            &event("[fd00:1234:5678:9abc::1]:65535", Reason::OtherService),
            0,
            1,
        );
        let frame = told.frame(0, SIZE);
        for (header, cell) in [
            ("VIRTUAL", "[fd00"),
            ("EVENT", "drop"),
            ("REASON", "other_s"),
        ] {
            assert_eq!(frame[2].find(header), frame[3].find(cell), "{frame:?}");
        }
    }

    #[test]
    fn a_frame_fits_into_the_terminal() {
        let mut told = Told::new();
        for port in 1..=300 {
            let service = format!("10.9.0.1:{port}");
            told.tell(&event(&service, Reason::Closed), port, 1);
        }
        for size in [(0, 0), (1, 1), (20, 5), (80, 24), (200, 60)] {
            let frame = told.frame(300, size);
            assert!(frame.len() <= size.1, "{size:?}: {frame:?}");
            assert!(frame.iter().all(|line| line.len() <= size.0), "{size:?}");
        }
        let frame = told.frame(300, (200, 24));
        assert!(
            frame.iter().any(|line| line == "     292  more"),
            "{frame:?}"
        );
        // The newest event is the last line.
        assert_eq!(frame.len(), 24);
        assert!(frame[23].contains("10.9.0.1:300"), "{frame:?}");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut told = Told::new();
        for number in 0..3000_u64 {
            let service = format!("10.9.{}.{}:80", number / 250, number % 250);
            told.tell(&event(&service, Reason::Closed), number, 1);
        }
        assert_eq!(told.0.groups.len(), MOST_FLOWS);
        assert_eq!(told.0.events.len(), MOST_EVENTS);
        // What was seen last is still there.
        assert!(told
            .0
            .groups
            .keys()
            .any(|group| group.service == "10.9.11.249:80".parse().unwrap()));
    }
}
