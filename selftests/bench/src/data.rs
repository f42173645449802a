// SPDX-License-Identifier: GPL-2.0

//! Measurements as the scripts tell them: a line of JSON each. The report asks for those that
//! have some members in common, and takes the median of what they say, and their range.

use std::fmt;

use anyhow::Context as _;
use serde_json::Value;

pub struct Measurements(Vec<Value>);

/// What a member must be, by name.
pub type Want<'a> = (&'a str, Value);

impl Measurements {
    pub fn parse(lines: &str) -> anyhow::Result<Self> {
        (lines.lines().filter(|line| !line.trim().is_empty()))
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect::<anyhow::Result<_>>()
            .map(Self)
    }

    pub fn of<'a>(&'a self, wanted: &'a [Want<'a>]) -> impl Iterator<Item = &'a Value> + 'a {
        self.0
            .iter()
            .filter(move |line| wanted.iter().all(|(name, value)| line[*name] == *value))
    }

    /// What those say of `result.NAME`.
    pub fn summary(&self, wanted: &[Want<'_>], name: &str) -> Option<Summary> {
        Summary::of(
            self.of(wanted)
                .filter_map(|line| line["result"][name].as_f64()),
        )
    }

    /// The sum of what they say.
    pub fn sum(&self, wanted: &[Want<'_>], name: &str) -> Option<f64> {
        self.summary(wanted, name)?;
        Some(
            self.of(wanted)
                .filter_map(|line| line["result"][name].as_f64())
                .sum(),
        )
    }

    /// The values of a member, each once, in the order in which they come.
    pub fn each(&self, wanted: &[Want<'_>], name: &str) -> Vec<Value> {
        let mut values = Vec::new();
        for line in self.of(wanted) {
            if !line[name].is_null() && !values.contains(&line[name]) {
                values.push(line[name].clone());
            }
        }
        values
    }
}

/// Of the same thing, measured some times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub count: usize,
}

impl Summary {
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let median = match count {
            0 => return None,
            _ if count % 2 == 1 => values[count / 2],
            _ => (values[count / 2 - 1] + values[count / 2]) / 2.0,
        };
        Some(Self {
            median,
            low: values[0],
            high: values[count - 1],
            count,
        })
    }

    /// Whether what one round measured of the one another did of the other: no difference shows.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// With as many digits as say something.
pub struct Figure(pub f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            value if value >= 100.0 || value == 0.0 => 0,
            value if value >= 10.0 => 1,
            _ => 2,
        };
        write!(f, "{:.digits$}", self.0)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Figure(self.median))?;
        if self.count > 1 {
            write!(f, " ({} to {})", Figure(self.low), Figure(self.high))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_median_and_range() {
        let summary = Summary::of([3.0, 1.0, 2.0].into_iter()).unwrap();
        assert_eq!(summary.to_string(), "2.00 (1.00 to 3.00)");
        let even = Summary::of([1.0, 2.0].into_iter()).unwrap();
        assert_eq!(even.median, 1.5);
        assert!(Summary::of(std::iter::empty()).is_none());
    }

    #[test]
    fn ranges_that_meet_overlap() {
        let of = |values: [f64; 2]| Summary::of(values.into_iter()).unwrap();
        assert!(of([1.0, 3.0]).overlaps(&of([3.0, 4.0])));
        assert!(!of([1.0, 2.0]).overlaps(&of([3.0, 4.0])));
    }

    #[test]
    fn measurements_are_found_by_their_members() {
        let lines = "{\"bench\":\"a\",\"n\":1,\"result\":{\"x\":5}}\n{\"bench\":\"b\",\"n\":1}\n";
        let measured = Measurements::parse(lines).unwrap();
        assert_eq!(
            measured
                .summary(&[("bench", "a".into())], "x")
                .unwrap()
                .median,
            5.0
        );
        assert_eq!(measured.each(&[("n", 1.into())], "bench").len(), 2);
        assert!(measured.summary(&[("bench", "b".into())], "x").is_none());
    }
}
