// SPDX-License-Identifier: GPL-2.0

//! What the tests of schedulers judge by: whether a count can be chance.

use anyhow::Context as _;
use serde_json::Value;

/// Standard deviations of a count that are allowed: one check in 15,000 fails by chance.
const ALLOWED: f64 = 4.0;

/// Which way a count may differ from its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bound {
    AtLeast,
    AtMost,
    Is,
}

/// Whether `count` of `total` can be what a share of `percent` has come to.
pub fn is_share(bound: Bound, count: u32, total: u32, percent: f64) -> bool {
    let (count, total, share) = (f64::from(count), f64::from(total), percent / 100.0);
    let deviation = (total * share * (1.0 - share)).sqrt();
    let more = count - total * share;
    let (too_few, too_many) = (more < -ALLOWED * deviation, more > ALLOWED * deviation);

    match bound {
        Bound::AtLeast => !too_few,
        Bound::AtMost => !too_many,
        Bound::Is => !too_few && !too_many,
    }
}

/// The most connections of any server that two choices explain: the mean, and `log2 ln n`, and a
/// constant. Of 300,000 simulated runs with 2,000 connections on 32 servers all stay within a constant
/// of 2 (5 of them reach it), and no random choice of one comes below 68.
pub fn most_of_two_choices(connections: u32, servers: u32) -> u32 {
    let n = f64::from(servers);
    (f64::from(connections) / n + n.ln().log2() + 2.0) as u32
}

/// How many of the connections that a load's summary reports as refused were refused outside of all
/// windows, `START-END` each, in milliseconds.
pub fn refused_outside(summary: &str, windows: &[String]) -> anyhow::Result<usize> {
    let windows = (windows.iter())
        .map(|window| interval(window).with_context(|| format!("not START-END: {window}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let summary: Value = serde_json::from_str(summary).context("not JSON")?;
    let refused = summary["summary"]["refused"]
        .as_array()
        .context("no summary of a load")?;
    let is_outside = |refusal: &&Value| {
        let (from, to) = (refusal[0].as_u64(), refusal[1].as_u64());
        !(windows.iter()).any(|&(start, end)| from <= Some(end) && to >= Some(start))
    };

    Ok(refused.iter().filter(is_outside).count())
}

fn interval(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_standard_deviations_are_allowed() {
        // 100 draws of a half: 50, and a standard deviation of 5.
        assert!(is_share(Bound::Is, 70, 100, 50.0));
        assert!(!is_share(Bound::Is, 71, 100, 50.0));
        assert!(!is_share(Bound::Is, 29, 100, 50.0));
        assert!(is_share(Bound::AtLeast, 100, 100, 50.0));
        assert!(!is_share(Bound::AtLeast, 29, 100, 50.0));
        assert!(is_share(Bound::AtMost, 0, 100, 50.0));
        assert!(!is_share(Bound::AtMost, 71, 100, 50.0));
    }

    #[test]
    fn two_choices_stay_near_the_mean() {
        assert_eq!(most_of_two_choices(2000, 32), 66);
    }

    #[test]
    fn a_refusal_is_inside_a_window_that_it_touches() {
        let summary = r#"{"summary":{"refused":[[10,12],[20,22],[30,32]]}}"#;
        let outside = |windows: &[&str]| {
            let windows: Vec<_> = windows.iter().map(|it| it.to_string()).collect();
            refused_outside(summary, &windows).unwrap()
        };
        assert_eq!(outside(&[]), 3);
        assert_eq!(outside(&["12-15", "16-40"]), 0);
        assert_eq!(outside(&["13-19"]), 3);
        assert!(refused_outside("{}", &[]).is_err());
    }
}
