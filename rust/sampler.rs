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
//! Nothing here allocates, sleeps, locks or can panic: any context will do, and tests run the same
//! code in user space.

use core::cell::Cell;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The part of the column, from the bottom, that its own destination owns. Before [`build`]:
    /// the weight of that destination, in hundredths.
    pub own: u64,
    /// The destination that owns the rest of the column.
    pub alias: u32,
}

impl Column {
    /// The column of a destination, as input of [`build`]. A negative weight counts as 0.
    pub fn new(weight: i32) -> Self {
        Self::with_part(weight, 100)
    }

    /// The column of a destination of whose weight only so many percent count.
    pub fn with_part(weight: i32, percent: u32) -> Self {
        Self {
            own: u64::from(weight.max(0).unsigned_abs()) * u64::from(percent),
            alias: 0,
        }
    }
}

/// Makes a table of columns from [`Column::new`], in place, and returns its `total`.
///
/// Shares are exact. Returns `None` if no destination has weight, or if the total or a `n * w` is
/// 2^64 or more. Weights in hundredths are below 2^38, so that takes 2^26 destinations.
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
    // more than `total` fills up a column with less. While one has less, another has more: the
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

/// The random numbers of one [`Table::pick`], from one random `seed`. A call of `get_random_u64()`
/// would cost more than the rest of a pick.
///
/// This is SplitMix64. Each number is a bijection of `seed`, so a single draw is exactly as uniform
/// as the seeds are. The numbers from one seed are only as independent as SplitMix64 makes them.
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

/// The current load of a destination. Negative numbers count as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The active connections.
    pub active: i32,
    /// All connections that IPVS has an entry for: active, not yet established and ended ones, and
    /// all of UDP.
    pub total: i32,
    /// The current weight, which may be newer than the table. With 0 it gets no connection.
    pub weight: i32,
}

impl Load {
    /// Whether it has fewer active connections per weight; if neither has any, fewer of any kind
    /// per weight. The products are below 2^62.
    fn is_lighter_than(&self, other: &Self) -> bool {
        let product = |connections: i32, weight: i32| {
            u64::from(connections.max(0).unsigned_abs()) * u64::from(weight.max(0).unsigned_abs())
        };
        let (own, others) = if self.active <= 0 && other.active <= 0 {
            (self.total, other.total)
        } else {
            (self.active, other.active)
        };

        product(own, other.weight) < product(others, self.weight)
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
    /// How many destinations [`Table::pick`] looks at if neither of the two that it draws is
    /// usable.
    pub const SEARCH_MAX: usize = 256;

    /// Draws two destinations from two different columns; only one if there is only one column.
    ///
    /// Either draw alone is a draw from all columns, so it finds a destination in proportion to
    /// weight: a destination with the share `p` of the weight is one of the two with a probability
    /// of at most `2 * p`, whatever the weights are. With equal weights each destination owns one
    /// column, and the two always differ. A destination that owns more than one column may be drawn
    /// twice. (To draw again until the two differ would give light destinations more than `2 * p`.)
    ///
    /// Each number of `random` chooses one of 2^64 points. Rounding moves each border between two
    /// owners by less than one point, so the errors of all shares together are at most `n / 2^62`.
    pub fn draw_two(&self, mut random: impl FnMut() -> u64) -> [Option<usize>; 2] {
        let n = self.columns.len() as u64;
        let (first, height) = scale(random(), n);
        let (second, other_height) = scale(random(), n.saturating_sub(1));
        let second = second.saturating_add((second >= first).into());

        [self.owner(first, height), self.owner(second, other_height)]
    }

    /// The destination that owns a point of a column. The height is a fraction, in 2^-64.
    fn owner(&self, number: u64, height: u64) -> Option<usize> {
        let column = self.columns.get(number as usize)?;
        let (height, _) = scale(height, self.total);

        Some(if height < column.own {
            number as usize
        } else {
            column.alias as usize
        })
    }

    /// Chooses the destination of a new connection: the one of [two](Self::draw_two) that has less
    /// load per weight. `None` if no usable destination was found.
    ///
    /// `load_of` returns the load of a destination, or `None` if the destination is not usable (not
    /// available, or overloaded). A destination with weight 0 is not usable either. If only one of
    /// the two is usable, it gets the connection. If neither is, destinations are tried in order,
    /// starting at a random one, but at most [`Self::SEARCH_MAX`], and the better of the first two
    /// usable ones gets the connection. If the first usable one were taken, the destination after a
    /// run of overloaded ones would get all of their connections.
    ///
    /// In a tie the first of the two gets the connection. It is drawn in proportion to weight, so
    /// idle destinations get their shares.
    pub fn pick(
        &self,
        mut random: impl FnMut() -> u64,
        load_of: impl Fn(usize) -> Option<Load>,
    ) -> Option<usize> {
        let usable = |number| Some((number, load_of(number).filter(|load| load.weight > 0)?));

        let drawn = self.draw_two(&mut random);
        lighter(drawn.into_iter().flatten().filter_map(usable)).or_else(|| {
            let n = self.columns.len();
            let (start, _) = scale(random(), n as u64);
            let start = start as usize;
            let search = (start..n).chain(0..start).take(Self::SEARCH_MAX);
            lighter(search.filter_map(usable))
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
