// SPDX-License-Identifier: GPL-2.0

//! `selftests/reuse/matrix.expected` is what the module's policy and a few facts about conntrack and TCP
//! predict. `selftests/reuse/matrix.sh` asserts that the stock kernel does what the table says. So the
//! table ties the policy to the kernel.

use host::policy::{
    reschedules, ConnState, DestState, FirstPacket, LeaveReason, Phase, Settings, Situation,
};

const EXPECTED: &str = include_str!("../../reuse/matrix.expected");

/// How the old connection ended.
struct Ending {
    name: &'static str,
    /// IPVS's state of the entry: `TIME_WAIT` and `CLOSE` are closed. IPVS sees both directions, so
    /// no other state is given up.
    phase: Phase,
    /// Whether the SYN carries a confirmed conntrack. It does not if conntrack reopens the closed
    /// flow (after a FIN of either side, or the client's RST), or has forgotten it (after a SYN that
    /// was answered by nothing but a RST).
    stale: bool,
    /// What the old real server answers to the SYN, if the SYN gets there.
    answer: Answer,
}

enum Answer {
    Accepts,
    Refuses,
    None,
    /// It still has the old connection, and sends an ACK for that. The client answers with a RST
    /// and sends its SYN again: by then IPVS has seen the RST, and conntrack has seen that it was
    /// the client's.
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
    /// Deleted and added again: IPVS reuses the `ip_vs_dest` that its entries point to.
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
    // When a server is deleted, IPVS expires its entries and their conntracks at once.
    if settings.expire_nodest_conn && matches!(fate, Fate::Deleted | Fate::Readded) {
        return anew;
    }
    let gives_up = |phase| {
        reschedules(&Situation {
            packet: FirstPacket::TcpSyn,
            conn: ConnState {
                phase,
                one_way: false,
                controlled: false,
                controlling: false,
                tracked: conntrack,
            },
            dest: Some(DestState {
                drained: matches!(fate, Fate::Drained | Fate::AllDrained),
                available: fate != Fate::Deleted,
            }),
            settings,
        })
    };
    match (gives_up(ending.phase), &ending.answer) {
        (Ok(_), _) if conntrack && ending.stale => anew.to_ascii_uppercase(),
        (Ok(_), _) => anew,
        (Err(LeaveReason::Unavailable), _) => 't',
        (Err(_), Answer::Accepts) => 's',
        (Err(_), Answer::Refuses) => 'r',
        (Err(_), Answer::None) => 't',
        (Err(_), Answer::Challenges) => match (gives_up(Phase::Closed), anew) {
            (Err(_), _) => 'y',
            (Ok(_), 'e') => 'x',
            (Ok(_), _) => 'z',
        },
    }
}

/// Four groups of four letters: vs.conntrack 1 and 0, each with expire_nodest_conn 0 and 1. In a
/// group, one letter for each conn_reuse_mode.
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
fn the_policy_and_conntrack_predict_every_cell_of_the_matrix() {
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
        "the table must be:\n{}",
        predicted.join("\n")
    );
}
