// SPDX-License-Identifier: GPL-2.0

//! Draws real servers at random, in proportion to weight, and takes the better of two.
//!
//! The arithmetic of the scheduler `p2c`. [`build`] turns the weights of a virtual service into
//! a table whenever they change, in time proportional to the number of servers.
//! [`Table::pick`] chooses a server for one connection, in a time that does not depend on it.
//!
//! The table is Walker's alias table, filled by Vose's rule, in integers. Its `n` columns all
//! hold `total`, the sum of the weights. The server with weight `w` owns `n * w` of the whole
//! `n * total`, all that fits of it in the column of its own number and the rest on top of
//! columns that are not full. No column needs more than one such guest. So a point of the
//! table, drawn at random, belongs to a server with the probability `w / total`, and it takes
//! two multiplications and a comparison to find out which.
//!
//! Nothing here allocates, sleeps, locks, or can panic: any context will do. The same code is
//! tested on the host (`selftests/host`).

use core::cell::Cell;

/// One column of the table. It lies in memory that RCU frees, so it must not need dropping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// How much of the column belongs to the server with the column's number, from the bottom
    /// up. Before [`build`]: that server's weight.
    pub own: u64,
    /// The server that owns the rest.
    pub alias: u32,
}

impl Column {
    /// The column of a server, for [`build`]. A negative weight counts as 0: never drawn.
    pub fn new(weight: i32) -> Self {
        Self {
            own: weight.max(0).unsigned_abs().into(),
            alias: 0,
        }
    }
}

/// Makes a table, in place, of columns that come from [`Column::new`], and returns its `total`.
///
/// `None`, and no table, if no server has weight. Exact for all weights: even with 2^32 servers
/// the total and each `n * w` are below 2^63, so that nothing that is checked below ever fails.
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

    // From here on `own` is what a server has yet to place. A column that is short is filled by
    // the first that has too much. There always is one: the columns not yet filled hold `total`
    // on average.
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

            // Giving may have left that column short in turn. The loop comes to it, or has
            // passed it and must see to it now: this is what saves the usual lists of short
            // and of full columns. Each round fills one column for good.
            if alias > number {
                break;
            }
            short = from;
        }
    }
    Some(total)
}

/// The random numbers of one [`Table::pick`], all of one good one: a generator costs the kernel
/// more than all else that a pick does.
///
/// SplitMix64. Each number by itself depends one to one on `seed`, so that a draw is exactly as
/// even as the seeds are; that several have nothing to do with each other is the generator's
/// quality.
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

/// How busy a server is right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its active connections. A negative number counts as 0.
    pub active: i32,
    /// Its weight of this moment, which may be newer than the table's. It gets nothing at 0.
    pub weight: i32,
}

impl Load {
    /// Fewer active connections per weight. Multiplied out crosswise: below 2^62.
    fn is_lighter_than(&self, other: &Self) -> bool {
        let product = |active: i32, weight: i32| {
            u64::from(active.max(0).unsigned_abs()) * u64::from(weight.max(0).unsigned_abs())
        };

        product(self.active, other.weight) < product(other.active, self.weight)
    }
}

/// A table that is ready for use.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// What [`build`] returned.
    pub total: u64,
    /// The columns it filled.
    pub columns: &'a [Column],
}

impl Table<'_> {
    /// How often [`Table::draw_two`] tries for a second server in proportion to weight.
    pub const REDRAWS: u32 = 4;

    /// The server that 64 random bits stand for. `None` if there are no columns.
    ///
    /// The bits name a point of the table to 2^-64 of its size. So each border between two
    /// owners is off by less than one of the 2^64 values, and the servers' shares, all errors
    /// taken together, by no more than `n / 2^62`.
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

    /// Two different servers; only one if there is only one column.
    ///
    /// The first is drawn in proportion to weight. The second is drawn until it differs, which
    /// is in proportion to weight among the others; after [`Self::REDRAWS`] attempts in vain it
    /// is any of the others, all alike. With equal weights every pair is equally likely. The
    /// larger the share `p` of the heaviest server, the more often the others come second: at
    /// most `1 / (1 - p)` times their share, and in at most `p^REDRAWS` of all cases whatever
    /// their share. To be second is to be asked, not to be chosen: the connection goes there
    /// only if that server has fewer per weight than the first.
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

    /// The server for a new connection: of two, the one with fewer active connections per
    /// weight. `None` if no server may have it.
    ///
    /// `load_of` is asked for a server's load and returns `None` if that server may not have the
    /// connection (not available, overloaded). A weight of 0 says the same. The other of the
    /// two then gets it. Only if neither may, the rest are asked, in order from a random one
    /// on, and the better of the first two that may have it does: whoever follows upon a row
    /// of overloaded servers does not inherit all of theirs.
    ///
    /// A tie goes to the first of the two. That is at random, too, and in proportion to weight:
    /// while no server has connections, each gets its share.
    pub fn pick(
        &self,
        mut random: impl FnMut() -> u64,
        load_of: impl Fn(usize) -> Option<Load>,
    ) -> Option<usize> {
        let ask = |number| Some((number, load_of(number).filter(|load| load.weight > 0)?));

        let (first, second) = self.draw_two(&mut random)?;
        lighter([Some(first), second].into_iter().flatten().filter_map(ask)).or_else(|| {
            let n = self.columns.len();
            let (start, _) = scale(random(), n as u64);
            let start = start as usize;
            lighter((start..n).chain(0..start).filter_map(ask))
        })
    }
}

/// Of the first two that come, the one with the lighter load; the first in a tie.
fn lighter(mut dests: impl Iterator<Item = (usize, Load)>) -> Option<usize> {
    let (first, load) = dests.next()?;
    match dests.next() {
        Some((second, other)) if other.is_lighter_than(&load) => Some(second),
        _ => Some(first),
    }
}

/// Maps 64 random bits to `0..range`, all values alike, and returns the 64 bits of fraction that
/// are left: where between this value and the next.
fn scale(bits: u64, range: u64) -> (u64, u64) {
    let scaled = u128::from(bits) * u128::from(range);
    ((scaled >> 64) as u64, scaled as u64)
}
