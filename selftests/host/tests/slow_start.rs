// SPDX-License-Identifier: GPL-2.0

//! Slow start: a weight grows from a tenth to the whole, and an old destination is never taken for a
//! new one.

use host::slow_start::{percent, Index, Slot, DURATION_MS};
use proptest::collection::{hash_set, vec};
use proptest::prelude::*;
use std::collections::HashMap;

#[test]
fn a_weight_grows_from_a_tenth_to_the_whole_in_thirty_seconds() {
    for (age, expected) in [
        (i64::MIN, 10),
        (0, 10),
        (333, 10),
        (1_000, 13),
        (10_000, 40),
        (15_000, 55),
        (29_999, 99),
        (30_000, 100),
        (i64::MAX, 100),
    ] {
        assert_eq!(percent(age), expected, "after {age} ms");
    }
}

/// Addresses as the kernel's allocator gives them, and worse ones.
fn addresses() -> impl Strategy<Value = Vec<usize>> {
    let slab = (0..1_000usize, 1..1_000usize, 0..300usize).prop_map(|(page, size, n)| {
        (0..n)
            .map(|i| 0xffff_8880_0000_0000 + page * 4096 + i * size * 8)
            .collect()
    });
    let any = hash_set(1..=usize::MAX, 0..300).prop_map(|set| set.into_iter().collect());
    prop_oneof![slab, any]
}

proptest! {
    #[test]
    fn no_weight_is_taken_back(ages in vec(prop_oneof![any::<i64>(), 0..=DURATION_MS], 2)) {
        let (younger, older) = (ages[0].min(ages[1]), ages[0].max(ages[1]));
        prop_assert!(percent(younger) <= percent(older));
    }

    #[test]
    fn each_is_found_in_its_place_and_no_other(
        there in addresses(),
        asked in addresses(),
    ) {
        let places: HashMap<_, _> = there.iter().copied().zip(0..).collect();
        let mut slots = vec![Slot::default(); Index::slots(there.len())];
        let index = Index::new(&mut slots, there.iter().copied());

        for address in there.iter().chain(&asked) {
            prop_assert_eq!(index.place_of(*address), places.get(address).copied());
        }
    }

    #[test]
    fn too_few_slots_lose_some_and_confuse_none(there in addresses(), slots in 0..100usize) {
        let mut slots = vec![Slot::default(); slots];
        let index = Index::new(&mut slots, there.iter().copied());

        for (place, &address) in there.iter().enumerate() {
            prop_assert!([None, Some(place)].contains(&index.place_of(address)));
        }
    }
}
