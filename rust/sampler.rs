// SPDX-License-Identifier: GPL-2.0

//! The arithmetic of the scheduler `p2c`: draws destinations at random in proportion to weight, and
//! takes the one of two that has less load.
//!
//! [`build`] makes a table of the weights, in time proportional to the number of destinations.
//! [`Table::pick`] chooses a destination, in constant time.
//!
//! The table is Walker's alias table, filled by Vose's method, in integers. It has a column for
//! each of the `n` destinations, and each column has the height `total`, the sum of the weights.
//! The destination with weight `w` owns `n * w` of the whole `n * total`: first the bottom of its
//! own column, and then the top of columns that their own destinations do not fill. No column has
//! more than two owners. A random point of the table belongs to the destination with probability
//! `w / total`, and its owner is found with two multiplications and a comparison.
//!
//! Nothing here allocates, sleeps, locks or can panic, so any context will do. Tests on the host
//! run the same code (`selftests/host`).

use core::cell::Cell;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The part of the column, from the bottom, that its own destination owns. Before [`build`]:
    /// the weight of that destination.
    pub own: u64,
    /// The destination that owns the rest of the column.
    pub alias: u32,
}

impl Column {
    /// The column of a destination, as input of [`build`]. A negative weight counts as 0.
    pub fn new(weight: i32) -> Self {
        Self {
            own: weight.max(0).unsigned_abs().into(),
            alias: 0,
        }
    }
}

/// Makes a table of columns from [`Column::new`], in place, and returns its `total`.
///
/// Returns `None` if no destination has weight. The table is exact. Even with 2^32
/// destinations the total and each `n * w` are below 2^63, so no checked operation below can fail.
pub fn build(columns: &mut [Column]) -> Option<u64> {
    let n = u32::try_from(columns.len()).ok()?;
    let sum = columns
        .iter()
        .try_fold(0u64, |sum, column| sum.checked_add(column.own));
    let total = sum.filter(|&total| total > 0)?;
    for (number, column) in (0..n).zip(columns.iter_mut()) {
        column.own = column.own.checked_mul(n.into())?;
        column.alias = number;
    }

    // From here on `own` is what a destination owns and has not placed yet. The first column with
    // more than `total` fills up a column with less. Such a column always exists, because the
    // average of the unfinished columns is `total`.
    let columns = Cell::from_mut(columns).as_slice_of_cells();
    let numbered = || (0..n).zip(columns);
    let mut givers = numbered().filter(|(_, column)| column.get().own > total);
    let mut giver = givers.next();

    for (number, column) in numbered() {
        let mut short = column;

        while short.get().own < total {
            let (alias, from) = giver?;
            let own = short.get().own;
            short.set(Column { own, alias });

            let left = from.get().own.checked_sub(total - own)?;
            from.set(Column { own: left, alias });
            if left <= total {
                giver = givers.next();
            }

            // The giver may have less than `total` now. If the outer loop has not reached it yet,
            // the outer loop will fill it. Otherwise the next iteration fills it. So no lists of
            // short and full columns are needed. Each iteration completes one column.
            if alias > number {
                break;
            }
            short = from;
        }
    }
    Some(total)
}

/// The random numbers of one [`Table::pick`], from one random `seed`. The kernel's generator would
/// cost more than the rest of a pick, so it is called only once.
///
/// This is SplitMix64. Each number is a bijection of `seed`, so a single draw is exactly as uniform
/// as the seeds are. How independent the numbers from one seed are depends on the generator.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
pub fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The current load of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The active connections. A negative number counts as 0.
    pub active: i32,
    /// The current weight, which may be newer than the table. With 0 it gets no connection.
    pub weight: i32,
}

impl Load {
    /// Whether it has fewer active connections per weight. The products are below 2^62.
    fn is_lighter_than(&self, other: &Self) -> bool {
        let product = |active: i32, weight: i32| {
            u64::from(active.max(0).unsigned_abs()) * u64::from(weight.max(0).unsigned_abs())
        };

        product(self.active, other.weight) < product(other.active, self.weight)
    }
}

/// A table that [`build`] has made.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// What [`build`] returned.
    pub total: u64,
    /// The columns.
    pub columns: &'a [Column],
}

impl Table<'_> {
    /// How often [`Table::draw_two`] draws a second destination in proportion to weight.
    pub const REDRAWS: u32 = 4;

    /// Draws a destination with 64 random bits. `None` if there are no columns.
    ///
    /// The bits choose one of 2^64 points of the table. Rounding moves each border between two
    /// owners by less than one point, so the errors of all shares together are at most `n / 2^62`.
    pub fn draw(&self, bits: u64) -> Option<usize> {
        let (number, rest) = scale(bits, self.columns.len() as u64);
        let (height, _) = scale(rest, self.total);
        let column = self.columns.get(number as usize)?;

        Some(if height < column.own {
            number as usize
        } else {
            column.alias as usize
        })
    }

    /// Draws two different destinations; only one if there is only one column.
    ///
    /// Both are drawn in proportion to weight. The second is drawn again until it differs from the
    /// first, so its probability among the other destinations is proportional to its weight. After
    /// [`Self::REDRAWS`] attempts each of the others is equally likely. With equal weights every
    /// pair is equally likely.
    ///
    /// Let `p` be the share of the destination with the largest weight. Any other destination is
    /// drawn second at most `1 / (1 - p)` times as often as its share. In at most `p^REDRAWS` of
    /// all cases the second is drawn regardless of its share. The second gets the connection only
    /// if it has less load per weight than the first.
    pub fn draw_two(&self, mut random: impl FnMut() -> u64) -> Option<(usize, Option<usize>)> {
        let first = self.draw(random())?;
        let n = self.columns.len();
        if n < 2 {
            return Some((first, None));
        }
        for _ in 0..Self::REDRAWS {
            let second = self.draw(random())?;
            if second != first {
                return Some((first, Some(second)));
            }
        }
        let (second, _) = scale(random(), n as u64 - 1);
        let second = (second as usize).wrapping_add((second >= first as u64).into());
        Some((first, Some(second)))
    }

    /// Chooses the destination of a new connection: the one of two that has fewer active
    /// connections per weight. `None` if no destination is usable.
    ///
    /// `load_of` returns the load of a destination, or `None` if the destination is not usable (not
    /// available, or overloaded). A destination with weight 0 is not usable either. If only one of
    /// the two is usable, it gets the connection. If neither is, all destinations are tried in
    /// order, starting at a random one, and the better of the first two usable ones gets the
    /// connection. If the first usable one were taken, the destination after a run of overloaded
    /// ones would get all of their connections.
    ///
    /// In a tie the first of the two gets the connection. It is drawn in proportion to weight, so
    /// idle destinations get their shares.
    pub fn pick(
        &self,
        mut random: impl FnMut() -> u64,
        load_of: impl Fn(usize) -> Option<Load>,
    ) -> Option<usize> {
        let usable = |number| Some((number, load_of(number).filter(|load| load.weight > 0)?));

        let (first, second) = self.draw_two(&mut random)?;
        lighter(
            [Some(first), second]
                .into_iter()
                .flatten()
                .filter_map(usable),
        )
        .or_else(|| {
            let n = self.columns.len();
            let (start, _) = scale(random(), n as u64);
            let start = start as usize;
            lighter((start..n).chain(0..start).filter_map(usable))
        })
    }
}

/// The one of the first two destinations that has less load; the first in a tie.
fn lighter(mut dests: impl Iterator<Item = (usize, Load)>) -> Option<usize> {
    let (first, load) = dests.next()?;
    match dests.next() {
        Some((second, other)) if other.is_lighter_than(&load) => Some(second),
        _ => Some(first),
    }
}

/// Scales 64 random bits to `0..range`. Returns the integer part, which is uniform, and the 64 bits
/// of the fraction.
fn scale(bits: u64, range: u64) -> (u64, u64) {
    let scaled = u128::from(bits) * u128::from(range);
    ((scaled >> 64) as u64, scaled as u64)
}
