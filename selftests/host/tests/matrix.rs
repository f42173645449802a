// SPDX-License-Identifier: GPL-2.0

//! `selftests/matrix.expected` says what the module's own rule and a few facts about conntrack and
//! TCP predict. `selftests/matrix.sh` asserts that the stock kernel does what it says: so this
//! table stands between the rule and the kernel.

use host::policy::{decide, Entry, Kept, Opener, Phase, Server, Settings, Situation, Verdict};

const EXPECTED: &str = include_str!("../../matrix.expected");

/// How the old connection ended.
struct Ending {
    name: &'static str,
    /// What IPVS makes of it: `TIME_WAIT` and `CLOSE` are closed. Between client and real server
    /// it sees both directions, so no other state counts.
    phase: Phase,
    /// Whether the SYN meets a confirmed conntrack. It does not where conntrack takes a closed
    /// flow for reopened (after a FIN of either side, or the client's RST), or has forgotten it
    /// (a SYN that was answered by nothing but a RST).
    stale: bool,
    /// What the old real server says to the SYN, if it gets there.
    answer: Answer,
}

enum Answer {
    Accepts,
    Refuses,
    None,
    /// Has the old connection still, and acknowledges that. The client resets it and sends its
    /// SYN again: IPVS has seen the RST, and conntrack that it was the client's.
    Challenges,
}

const ENDINGS: [Ending; 9] = {
    use Answer::*;
    use Phase::*;

    const fn ending(name: &'static str, phase: Phase, stale: bool, answer: Answer) -> Ending {
        Ending {
            name,
            phase,
            stale,
            answer,
        }
    }
    [
        ending("server_fin", Closed, false, Accepts),
        ending("client_fin", Closed, false, Accepts),
        ending("both_fin", Closed, false, Accepts),
        ending("unanswered", Open, true, None),
        ending("vanished", Open, true, Challenges),
        ending("half_closed", Open, true, Challenges),
        ending("server_rst", Closed, true, Accepts),
        ending("client_rst", Closed, false, Accepts),
        ending("refused", Closed, false, Refuses),
    ]
};

/// What became of the real server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Same,
    Drained,
    Deleted,
    /// Deleted and added again: IPVS takes the very server back that its entries point to.
    Readded,
    AllDrained,
}

const FATES: [(&str, Fate); 5] = [
    ("same", Fate::Same),
    ("drained", Fate::Drained),
    ("deleted", Fate::Deleted),
    ("readded", Fate::Readded),
    ("all_drained", Fate::AllDrained),
];

/// A letter of the table.
fn predict(ending: &Ending, fate: Fate, settings: Settings, conntrack: bool) -> char {
    let anew = match fate {
        Fate::AllDrained => 'r',
        _ => 'e',
    };
    // IPVS expires the entries of a server that is deleted, and their conntracks, at once.
    if settings.expire_nodest_conn && matches!(fate, Fate::Deleted | Fate::Readded) {
        return anew;
    }
    let verdict = |phase| {
        decide(&Situation {
            opener: Opener::TcpSyn,
            entry: Entry {
                phase,
                one_way: false,
                controlled: false,
                controlling: false,
            },
            server: Some(Server {
                drained: matches!(fate, Fate::Drained | Fate::AllDrained),
                available: fate != Fate::Deleted,
            }),
            settings,
        })
    };
    match (verdict(ending.phase), &ending.answer) {
        (Verdict::Evict(_), _) if conntrack && ending.stale => anew.to_ascii_uppercase(),
        (Verdict::Evict(_), _) => anew,
        (Verdict::Leave(Kept::Unavailable), _) => 't',
        (Verdict::Leave(_), Answer::Accepts) => 's',
        (Verdict::Leave(_), Answer::Refuses) => 'r',
        (Verdict::Leave(_), Answer::None) => 't',
        (Verdict::Leave(_), Answer::Challenges) => match (verdict(Phase::Closed), anew) {
            (Verdict::Leave(_), _) => 'y',
            (Verdict::Evict(_), 'e') => 'x',
            (Verdict::Evict(_), _) => 'z',
        },
    }
}

/// A group of four letters for each of vs.conntrack 1, 0 by expire_nodest_conn 0, 1; in it, one
/// for each conn_reuse_mode.
fn predicted_row(ending: &Ending, (name, fate): (&str, Fate)) -> String {
    let mut row = format!("{:<11}  {name:<11} ", ending.name);
    for conntrack in [true, false] {
        for expire_nodest_conn in [false, true] {
            row.push(' ');
            row.extend((0..4).map(|conn_reuse_mode| {
                let settings = Settings {
                    conn_reuse_mode,
                    expire_nodest_conn,
                };
                predict(ending, fate, settings, conntrack)
            }));
        }
    }
    row
}

#[test]
fn the_rule_and_conntrack_predict_every_cell_of_the_matrix() {
    let expected: Vec<_> = EXPECTED
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let predicted: Vec<_> = ENDINGS
        .iter()
        .flat_map(|ending| FATES.map(|fate| predicted_row(ending, fate)))
        .collect();
    assert_eq!(
        expected,
        predicted,
        "the table is to be:\n{}",
        predicted.join("\n")
    );
}
