// SPDX-License-Identifier: GPL-2.0

//! The arithmetic of slow start: how much of its weight a destination has, and where the
//! destinations of an old table are in a new one.
//!
//! Nothing here allocates, sleeps, locks or can panic, and tests run the same code in user
//! space.

/// How long a destination takes to get its whole weight, in milliseconds.
pub const DURATION_MS: i64 = 30_000;

/// The part of its weight that a destination has `age` milliseconds after it got the weight, in
/// percent: 10 at first, then evenly more, and the whole after [`DURATION_MS`].
pub fn percent(age: i64) -> u32 {
    let age = age.clamp(0, DURATION_MS) as u32;
    10 + 90 * age / DURATION_MS as u32
}

/// Finds the place of a destination in a table by its address. A hash table with linear probing.
pub struct Index<'a>(&'a mut [Slot]);

/// A part of an [`Index`], empty at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    address: usize,
    place: usize,
}

impl<'a> Index<'a> {
    /// The number of slots for so many destinations: half of them stay empty, so that a search is
    /// short.
    pub fn slots(dests: usize) -> usize {
        dests.saturating_mul(2)
    }

    /// Fills empty slots with destinations that have these addresses, none of which is 0. If there
    /// are more than slots, the rest is left out.
    pub fn new(slots: &'a mut [Slot], addresses: impl Iterator<Item = usize>) -> Self {
        for (place, address) in addresses.enumerate() {
            for number in probe(address, slots.len()) {
                match slots.get_mut(number) {
                    Some(slot) if slot.address == 0 => {
                        *slot = Slot { address, place };
                        break;
                    }
                    _ => (),
                }
            }
        }
        Self(slots)
    }

    /// The place of the destination with this address; `None` if it is not in the table.
    pub fn place_of(&self, address: usize) -> Option<usize> {
        probe(address, self.0.len())
            .map_while(|number| self.0.get(number).filter(|slot| slot.address != 0))
            .find(|slot| slot.address == address)
            .map(|slot| slot.place)
    }
}

/// The slots in which to look for an address, in order.
fn probe(address: usize, slots: usize) -> impl Iterator<Item = usize> {
    let hash = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let first = ((u128::from(hash) * slots as u128) >> 64) as usize;
    (first..slots).chain(0..first)
}
