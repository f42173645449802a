// SPDX-License-Identifier: GPL-2.0

//! The scheduler's arithmetic keeps its promises: exact shares, never more than twice its share for
//! any server, and never a server that may not have the connection.
//!
//! Statistical tests use fixed seeds and allow 6 standard deviations (`near`): they always give
//! the same result, and right code fails one comparison in 500 million when the seed changes.

use host::sampler::{self, build, Column, Load, Table};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::collections::HashMap;

/// The random numbers that a pick may take: two draws and the start of the search.
const PICK_AT_MOST: u32 = 3;

/// A table and the weights it was made of. The table has them in hundredths.
#[derive(Clone, Debug)]
struct Service {
    weights: Vec<i32>,
    total: u64,
    columns: Vec<Column>,
}

impl Service {
    /// Some server must have weight.
    fn new(weights: &[i32]) -> Self {
        let mut columns: Vec<_> = weights.iter().copied().map(Column::new).collect();
        Self {
            total: build(&mut columns).expect("there is weight, so there is a table"),
            weights: weights.to_vec(),
            columns,
        }
    }

    fn table(&self) -> Table<'_> {
        Table {
            total: self.total,
            columns: &self.columns,
        }
    }

    /// The share of the weight that a server has.
    fn share(&self, server: usize) -> f64 {
        100.0 * f64::from(self.weights[server]) / self.total as f64
    }
}

/// Weights that hurt: none, one, all that fits, and anything between.
fn weight() -> impl Strategy<Value = i32> {
    prop_oneof![
        2 => Just(0),
        2 => Just(1),
        2 => Just(i32::MAX),
        1 => i32::MAX - 3..=i32::MAX,
        3 => 1..=100,
        3 => 0..=i32::MAX,
    ]
}

/// A long list of few kinds, which costs less to make and to shrink than one of all kinds.
fn repeated<T: Clone + std::fmt::Debug>(
    kind: impl Strategy<Value = T>,
    length: std::ops::RangeInclusive<usize>,
) -> impl Strategy<Value = Vec<T>> {
    (vec(kind, 1..=9), any::<u64>(), length).prop_map(|(kinds, seed, length)| {
        let mut random = random(seed);
        (0..length)
            .map(|_| kinds[random() as usize % kinds.len()].clone())
            .collect()
    })
}

/// Services of any size, most of them small; at least one server has weight.
fn service() -> impl Strategy<Value = Service> {
    prop_oneof![
        6 => vec(weight(), 1..=8),
        4 => vec(weight(), 1..=100),
        1 => repeated(weight(), 1..=10_000),
        // One that outweighs all others, at any place.
        2 => (vec(1..=3, 1..=50), any::<prop::sample::Index>()).prop_map(|(mut weights, heavy)| {
            let heavy = heavy.index(weights.len());
            weights[heavy] = i32::MAX;
            weights
        }),
    ]
    .prop_filter("no weight at all", |weights| weights.iter().any(|&w| w > 0))
    .prop_map(|weights| Service::new(&weights))
}

fn load() -> impl Strategy<Value = Option<Load>> {
    let connections = || prop_oneof![Just(0), 0..10, any::<i32>()];
    let some = (
        connections(),
        connections(),
        prop_oneof![Just(0), 1..10, any::<i32>()],
    );
    prop_oneof![
        2 => Just(None),
        5 => some.prop_map(|(active, total, weight)| {
            Some(Load { active, total, weight })
        }),
    ]
}

/// A service and what each of its servers answers when it is asked for its load.
fn service_and_loads() -> impl Strategy<Value = (Service, Vec<Option<Load>>)> {
    service().prop_flat_map(|service| {
        let n = service.weights.len();
        let loads = prop_oneof![
            3 => repeated(load(), n..=n),
            // All but one out of service: the one must be found.
            1 => (0..n, load()).prop_map(move |(only, load)| {
                let mut loads = vec![None; n];
                loads[only] = load;
                loads
            }),
        ];
        (Just(service), loads)
    })
}

/// Sources of random numbers, some of them broken in the ways that hurt most.
#[derive(Clone, Copy, Debug)]
enum Source {
    Zeros,
    Ones,
    Counter,
    Alternating,
    Seeded(u64),
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        Just(Source::Zeros),
        Just(Source::Ones),
        Just(Source::Counter),
        Just(Source::Alternating),
        any::<u64>().prop_map(Source::Seeded),
        any::<u64>().prop_map(Source::Seeded),
    ]
}

impl Source {
    fn numbers(self) -> Box<dyn FnMut() -> u64> {
        let mut next = 0u64;
        match self {
            Self::Zeros => Box::new(|| 0),
            Self::Ones => Box::new(|| u64::MAX),
            Self::Counter => Box::new(move || {
                next += 1;
                next
            }),
            Self::Alternating => Box::new(move || {
                next = !next;
                next
            }),
            Self::Seeded(seed) => Box::new(random(seed)),
        }
    }
}

/// Good random numbers, the same ones in every run.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    move || rng.next_u64()
}

/// Whether an event of this probability may happen `seen` times in `trials`.
#[track_caller]
fn near(seen: u32, trials: u32, probability: f64) {
    let (seen, trials) = (f64::from(seen), f64::from(trials));
    let expected = trials * probability;
    let deviation = (expected * (1.0 - probability)).sqrt();
    assert!(
        (seen - expected).abs() <= 6.0 * deviation + 1e-6,
        "seen {seen}, expected {expected:.1} with a standard deviation of {deviation:.1}"
    );
}

/// What every server owns of the table: its own column's part, and the rest of others.
fn owned(columns: &[Column], total: u64) -> Vec<u128> {
    let mut owned = vec![0u128; columns.len()];
    for (number, column) in columns.iter().enumerate() {
        assert!(column.own <= total, "column {number} overflows");
        owned[number] += u128::from(column.own);
        owned[column.alias as usize] += u128::from(total - column.own);
    }
    owned
}

fn assert_exact(service: &Service) {
    let n = service.weights.len() as u128;
    let total: u128 = service.weights.iter().map(|&w| w as u128).sum();

    assert_eq!(u128::from(service.total), 100 * total);
    for (number, owned) in owned(&service.columns, service.total)
        .into_iter()
        .enumerate()
    {
        assert_eq!(
            owned,
            100 * n * service.weights[number] as u128,
            "server {number} of {n}"
        );
    }
}

/// The pair's better half, in rational numbers, written apart from the sampler's own.
fn better((a, load_a): (usize, Load), (b, load_b): (usize, Load)) -> usize {
    let neither_is_active = load_a.active.max(load_b.active) <= 0;
    let per_weight = |l: Load| {
        let connections = if neither_is_active { l.total } else { l.active };
        (i128::from(connections.max(0)), i128::from(l.weight))
    };
    let ((na, da), (nb, db)) = (per_weight(load_a), per_weight(load_b));
    if na * db - nb * da > 0 {
        b
    } else {
        a
    }
}

fn may_have_it(load: &Option<Load>) -> bool {
    matches!(load, Some(Load { weight: 1.., .. }))
}

proptest! {
    #[test]
    fn a_server_owns_exactly_its_share(service in service()) {
        assert_exact(&service);
    }

    #[test]
    fn without_weight_there_is_no_table(n in 0..100usize, weight in i32::MIN..=0) {
        prop_assert_eq!(build(&mut vec![Column::new(weight); n]), None);
    }

    /// Finds, by exact division, where each column and each owner in it begins among the 2^64
    /// values that a draw takes, and looks on both sides of every such border. That gives each
    /// server's number of values, and so the bias, which must be as small as documented.
    #[test]
    fn a_draw_follows_the_columns_and_its_bias_is_as_documented(service in service()) {
        let table = service.table();
        let (n, total) = (service.weights.len() as u128, u128::from(service.total));
        // The first value at or above `height` in column `number`.
        let border = |number: usize, height: u64| {
            let point = number as u128 * total + u128::from(height);
            let (whole, rest) = (point / n, point % n);
            // ceil(point * 2^64 / (n * total)), in two steps that fit.
            let scaled = whole << 64;
            let (quotient, left) = (scaled / total, scaled % total);
            quotient + (left * n + (rest << 64)).div_ceil(n * total)
        };
        let mut values = vec![0u128; service.weights.len()];
        let mut borders = 0u128;

        for (number, column) in service.columns.iter().enumerate() {
            let alias = column.alias as usize;
            let (bottom, middle, top) = (
                border(number, 0),
                border(number, column.own),
                border(number, service.total),
            );
            for (from, to, owner) in [(bottom, middle, number), (middle, top, alias)] {
                values[owner] += to - from;
                borders += 1;
                if from < to {
                    prop_assert_eq!(table.draw_two(|| from as u64)[0], Some(owner));
                    prop_assert_eq!(table.draw_two(|| (to - 1) as u64)[0], Some(owner));
                }
            }
        }

        prop_assert_eq!(values.iter().sum::<u128>(), 1 << 64);
        prop_assert!(borders <= 2 * n);
        // |values - 2^64 * share| over all servers, times the total: no more than 2 each border.
        let error: u128 = values
            .iter()
            .zip(&service.weights)
            .map(|(&values, &weight)| (values * total).abs_diff((100 * weight as u128) << 64))
            .sum();
        prop_assert!(error <= 4 * n * total);
    }

    #[test]
    fn both_have_weight_whatever_the_weights_and_the_numbers(
        service in service(),
        source in source(),
    ) {
        let n = service.weights.len();
        let mut numbers = source.numbers();

        for _ in 0..20 {
            let mut taken = 0;
            let [first, second] = service.table().draw_two(|| {
                taken += 1;
                numbers()
            });

            prop_assert_eq!(taken, 2);
            prop_assert!(service.weights[first.expect("there are columns")] > 0);
            prop_assert_eq!(second.is_some(), n >= 2);
            if let Some(second) = second {
                prop_assert!(service.weights[second] > 0);
            }
        }
    }

    #[test]
    fn with_equal_weights_the_two_differ(n in 2..100usize, weight in 1..i32::MAX, source in source()) {
        let service = Service::new(&vec![weight; n]);
        let mut numbers = source.numbers();
        for _ in 0..20 {
            let [first, second] = service.table().draw_two(&mut numbers);
            prop_assert_ne!(first, second);
        }
    }

    /// With slow start, part of the weight counts.
    #[test]
    fn servers_own_exactly_the_part_of_their_weight_that_counts(
        servers in vec((weight(), 1..=100u32), 1..=20),
    ) {
        prop_assume!(servers.iter().any(|&(weight, _)| weight > 0));
        let mut columns: Vec<_> = (servers.iter())
            .map(|&(weight, percent)| Column::with_part(weight, percent))
            .collect();
        let total = build(&mut columns).expect("there is weight, so there is a table");
        for (owned, &(weight, percent)) in owned(&columns, total).into_iter().zip(&servers) {
            prop_assert_eq!(owned, servers.len() as u128 * weight as u128 * u128::from(percent));
        }
    }

    /// By the columns, each of which is as likely as any to be the first, and each pair of two
    /// different ones as any other: exactly, in fractions of `n * (n - 1) * total^2`.
    #[test]
    fn nobody_is_one_of_the_two_more_often_than_twice_its_share(
        weights in vec(weight(), 2..=12),
    ) {
        prop_assume!(weights.iter().any(|&w| w > 0));
        let service = Service::new(&weights);
        let (n, total) = (weights.len(), service.total as f64);
        for (server, &weight) in weights.iter().enumerate() {
            let part = |(number, column): (usize, &Column)| {
                let own = column.own as f64 / total;
                f64::from(u8::from(number == server)) * own
                    + f64::from(u8::from(column.alias as usize == server)) * (1.0 - own)
            };
            let parts: Vec<f64> = service.columns.iter().enumerate().map(part).collect();
            let mut one_of_two = 0.0;
            for a in 0..n {
                for b in (0..n).filter(|&b| b != a) {
                    one_of_two += parts[a] + parts[b] - parts[a] * parts[b];
                }
            }
            let share = 100.0 * f64::from(weight) / total;
            prop_assert!(one_of_two / (n * (n - 1)) as f64 <= 2.0 * share + 1e-9);
        }
    }

    #[test]
    fn the_one_picked_may_have_the_connection_and_is_found_if_there_is_one(
        (service, loads) in service_and_loads(),
        source in source(),
    ) {
        let table = service.table();
        let (mut numbers, mut same) = (source.numbers(), source.numbers());

        for _ in 0..5 {
            let mut taken = 0;
            let picked = table.pick(
                || {
                    taken += 1;
                    numbers()
                },
                // Panics if asked for a server that does not exist.
                |server| loads[server],
            );
            prop_assert!(taken <= PICK_AT_MOST);
            if loads.len() <= Table::SEARCH_MAX {
                prop_assert_eq!(picked.is_some(), loads.iter().any(may_have_it));
            }
            if let Some(picked) = picked {
                prop_assert!(may_have_it(&loads[picked]));
            }

            // And it is the right one of the two, with the same numbers.
            let fit: Vec<_> = (table.draw_two(&mut same).into_iter())
                .flatten()
                .filter(|&server| may_have_it(&loads[server]))
                .map(|server| (server, loads[server].unwrap()))
                .collect();
            match fit[..] {
                [a, b] => prop_assert_eq!(picked, Some(better(a, b))),
                [(only, _)] => prop_assert_eq!(picked, Some(only)),
                [] => {
                    same();
                }
                _ => unreachable!("there are two"),
            }
        }
    }

    #[test]
    fn of_two_servers_the_one_with_fewer_connections_per_weight_wins_every_time(
        weights in (1..=i32::MAX, 1..=i32::MAX),
        active in (any::<i32>(), any::<i32>()),
        total in (any::<i32>(), any::<i32>()),
        source in source(),
    ) {
        // Weights that differ may give both columns one owner.
        let service = Service::new(&[1, 1]);
        let loads = [
            Load { active: active.0, total: total.0, weight: weights.0 },
            Load { active: active.1, total: total.1, weight: weights.1 },
        ];
        prop_assume!(better((0, loads[0]), (1, loads[1])) == better((1, loads[1]), (0, loads[0])));

        let picked = service.table().pick(source.numbers(), |server| Some(loads[server]));
        prop_assert_eq!(picked, Some(better((0, loads[0]), (1, loads[1]))));
    }
}

/// Up to 6 servers with weights up to 6, all 137,250 services of such servers: every way in which columns
/// can be short, full or too full in turn.
#[test]
fn every_small_service_is_exact() {
    const WEIGHTS: u32 = 7;
    let mut services = 0;
    for n in 1..=6 {
        for number in 1..WEIGHTS.pow(n) {
            let weights: Vec<_> = (0..n)
                .map(|server| (number / WEIGHTS.pow(server) % WEIGHTS) as i32)
                .collect();
            assert_exact(&Service::new(&weights));
            services += 1;
        }
    }
    assert_eq!(services, 137_250);
}

#[test]
fn a_million_servers_of_the_greatest_weight_do_not_overflow() {
    let n = 1 << 20;
    assert_exact(&Service::new(&vec![i32::MAX; n]));

    let uneven: Vec<_> = (0..n)
        .map(|i| if i % 7 == 3 { i32::MAX } else { i as i32 & 1 })
        .collect();
    assert_exact(&Service::new(&uneven));
}

#[test]
fn all_servers_but_one_of_least_weight_are_still_exact() {
    for heavy in [0, 5_000, 9_999] {
        let mut weights = vec![1; 10_000];
        weights[heavy] = i32::MAX;
        assert_exact(&Service::new(&weights));
    }
}

#[test]
fn no_columns_no_server() {
    let table = Table {
        total: 0,
        columns: &[],
    };
    assert_eq!(build(&mut []), None);
    assert_eq!(table.draw_two(|| u64::MAX), [None, None]);
    assert_eq!(table.pick(|| 0, |_| unreachable!()), None);
}

#[test]
fn with_equal_weights_all_pairs_are_equally_likely() {
    const TRIALS: u32 = 100_000;
    for n in [2, 3, 5] {
        let service = Service::new(&vec![7; n]);
        let mut random = random(n as u64);
        let mut seen = HashMap::new();
        for _ in 0..TRIALS {
            *seen
                .entry(service.table().draw_two(&mut random))
                .or_default() += 1;
        }
        assert_eq!(seen.len(), n * (n - 1));
        for count in seen.into_values() {
            near(count, TRIALS, 1.0 / (n * (n - 1)) as f64);
        }
    }
}

/// As p2c does it: all that a pick needs comes of one number. With it, too, all pairs are equally
/// likely, also for seeds that are next to each other, and whichever bits they differ in.
#[test]
fn one_number_is_enough_for_a_pick() {
    const TRIALS: u32 = 100_000;
    for n in [2, 3, 5, 64] {
        let service = Service::new(&vec![7; n]);
        let mut good = random(n as u64);
        let mut high_bits = |trial: u32| u64::from(trial) << 40;
        // As ip_vs_reuse_random_seed() has them (rust/base/helpers.c).
        let mut in_steps = |trial: u32| u64::from(trial).wrapping_mul(0xd134_2543_de82_ef95);
        let seeds: [&mut dyn FnMut(u32) -> u64; 4] = [
            &mut |_| good(),
            &mut |trial| trial.into(),
            &mut high_bits,
            &mut in_steps,
        ];
        for seed in seeds {
            let mut seen = HashMap::new();
            for trial in 0..TRIALS {
                let numbers = sampler::random(seed(trial));
                *seen.entry(service.table().draw_two(numbers)).or_default() += 1;
            }
            assert_eq!(seen.len(), n * (n - 1));
            for count in seen.into_values() {
                near(count, TRIALS, 1.0 / (n * (n - 1)) as f64);
            }
        }
    }
}

/// The first of the two follows the weights, and so does the second.
#[test]
fn either_of_the_two_follows_the_weights() {
    const TRIALS: u32 = 100_000;
    for weights in [
        &[1, 2, 3, 4][..],
        &[1, 1, 1, 1000],
        &[50, 1, 49],
        &[99, 1],
        &[1, i32::MAX],
        &[i32::MAX, 5, 0x4000_0000],
    ] {
        let service = Service::new(weights);
        let n = weights.len();
        let mut random = random(1);
        let (mut first, mut second) = (vec![0; n], vec![0; n]);
        for _ in 0..TRIALS {
            let [a, b] = service.table().draw_two(&mut random);
            first[a.unwrap()] += 1;
            second[b.unwrap()] += 1;
        }
        for server in 0..n {
            near(first[server], TRIALS, service.share(server));
            near(second[server], TRIALS, service.share(server));
        }
    }
}

/// A canary that never has a connection, while the others have some: it gets all connections for
/// which it is drawn, and that is twice its share.
#[test]
fn an_empty_canary_gets_twice_its_share() {
    const TRIALS: u32 = 100_000;
    for weights in [&[99, 1][..], &[11, 11, 11, 11, 11, 11, 11, 11, 11, 1]] {
        let service = Service::new(weights);
        let canary = weights.len() - 1;
        let mut random = random(5);
        let mut picked = 0;
        for _ in 0..TRIALS {
            let look = |server| {
                Some(Load {
                    active: i32::from(server != canary),
                    total: 0,
                    weight: weights[server],
                })
            };
            picked += u32::from(service.table().pick(&mut random, look) == Some(canary));
        }
        let share = service.share(canary);
        assert!(f64::from(picked) <= 2.0 * share * f64::from(TRIALS) * 1.2);
        assert!(f64::from(picked) >= 1.8 * share * f64::from(TRIALS) * 0.8);
    }
}

/// Ties are at random. While nobody has connections, everybody's share is that of the weight:
/// not half of them all for the lesser of two servers.
#[test]
fn idle_servers_get_their_shares() {
    const TRIALS: u32 = 100_000;
    for weights in [&[1, 1][..], &[1, 99], &[3, 0, 2, 1, 10], &[1, i32::MAX]] {
        let service = Service::new(weights);
        let mut random = random(2);
        let mut picked = vec![0; weights.len()];
        for _ in 0..TRIALS {
            let idle = |server: usize| {
                Some(Load {
                    active: 0,
                    total: 0,
                    weight: weights[server],
                })
            };
            picked[service.table().pick(&mut random, idle).unwrap()] += 1;
        }
        for (server, &count) in picked.iter().enumerate() {
            near(count, TRIALS, service.share(server));
        }
    }
}

/// Nearly all draws end at two heavy servers, and both are out. The others share what falls to
/// them; whoever comes next in the list gets one server's part more, and none while it is busy.
#[test]
fn what_overloaded_servers_refuse_is_spread_over_the_others() {
    const TRIALS: u32 = 100_000;
    const N: usize = 100;
    let heavy = [10, 50];
    let mut weights = [1; N];
    for server in heavy {
        weights[server] = i32::MAX;
    }
    let service = Service::new(&weights);

    for busy in [None, Some(11)] {
        let look = |server: usize| {
            (!heavy.contains(&server)).then_some(Load {
                active: i32::from(busy == Some(server)),
                total: 0,
                weight: 1,
            })
        };
        let mut random = random(3);
        let mut picked = [0; N];
        for _ in 0..TRIALS {
            picked[service.table().pick(&mut random, look).unwrap()] += 1;
        }

        // The others' part of the table is below the error allowed.
        let search = 1.0 / 100.0;
        for (server, &count) in picked.iter().enumerate() {
            let expected = match (server, busy) {
                (10 | 50, _) | (11, Some(_)) => 0.0,
                (51, _) | (11, None) => 2.0 * search,
                (12, Some(_)) => 3.0 * search,
                _ => search,
            };
            near(count, TRIALS, expected);
        }
    }
}

/// The point of it all: connections that stay end up in proportion to weight, far closer
/// together than draws alone would leave them.
#[test]
fn lasting_connections_end_up_in_proportion_to_weight() {
    const ROUNDS: i32 = 1000;
    let weights: Vec<i32> = (0..100).map(|i| 1 + i % 4).collect();
    let service = Service::new(&weights);
    let mut active = vec![0; weights.len()];
    let mut random = random(4);

    for _ in 0..ROUNDS * weights.iter().sum::<i32>() {
        let look = |server: usize| {
            Some(Load {
                active: active[server],
                total: 0,
                weight: weights[server],
            })
        };
        let server = service.table().pick(&mut random, look).unwrap();
        active[server] += 1;
    }
    // A single draw would leave servers of weight 1 at 1000 with a standard deviation of 32.
    for (active, weight) in active.iter().zip(&weights) {
        let per_weight = active / weight;
        assert!(per_weight.abs_diff(ROUNDS) <= 8, "{per_weight}");
    }
}

/// UDP's entries are never active. They spread as connections do: of two thousand on 32 servers the
/// fullest has no more than 1.1 times the mean.
#[test]
fn inactive_entries_spread_evenly() {
    const N: usize = 32;
    let service = Service::new(&[1; N]);
    let mut inactive = [0; N];
    let mut random = random(6);
    for _ in 0..2000 {
        let look = |server: usize| {
            Some(Load {
                active: 0,
                total: inactive[server],
                weight: 1,
            })
        };
        inactive[service.table().pick(&mut random, look).unwrap()] += 1;
    }
    let most = inactive.into_iter().max().unwrap();
    assert!(f64::from(most) <= 1.1 * 2000.0 / N as f64, "{most}");
}

/// Where all are overloaded the search ends, however many they are.
#[test]
fn the_search_is_bounded() {
    let service = Service::new(&vec![1; 10_000]);
    let looked = std::cell::Cell::new(0);
    let picked = service.table().pick(random(7), |_| {
        looked.set(looked.get() + 1);
        None
    });
    assert_eq!(picked, None);
    assert_eq!(looked.get(), 2 + Table::SEARCH_MAX);
}
