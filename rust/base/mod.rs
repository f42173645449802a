// SPDX-License-Identifier: GPL-2.0

//! Abstractions that the kernel crate lacks: RCU, work items, the time, and seeds for random
//! numbers.

mod grace_period;
#[cfg(LINUX_7_2)]
mod linux_7_2;
mod rcu;
mod work;

pub use self::grace_period::GracePeriod;
#[cfg(LINUX_7_2)]
pub use self::linux_7_2::{raw_try_init, rcu_barrier, synchronize_rcu};
pub use self::rcu::{Published, RcuBox, Retired};
pub use self::work::{Task, Work};
#[cfg(not(LINUX_7_2))]
pub use kernel::sync::rcu::{rcu_barrier, synchronize_rcu};
#[cfg(not(LINUX_7_2))]
pub use pin_init::raw_try_init;

use crate::bindings;

/// Returns the time since boot in milliseconds, without time in suspend. Any context but NMI.
///
/// (The kernel crate's `Instant::elapsed()` links code that panics.)
pub fn uptime_ms() -> i64 {
    // SAFETY: The function may be called in any context but NMI.
    let ns = unsafe { bindings::ktime_get() };
    ns / 1_000_000
}

/// Returns a 64-bit seed for a random number generator. Any context but NMI. Normally writes only
/// per-CPU data.
///
/// One seed in 1,024 on average is from `get_random_u64()`. The seeds after it follow from it, so
/// they are predictable: not for secrets.
#[inline]
pub fn random_seed() -> u64 {
    // SAFETY: The function may be called in any context but NMI: it changes a per-CPU value
    // atomically with respect to interrupts of this CPU, and so may `get_random_u64()`
    // (`drivers/char/random.c`).
    unsafe { bindings::ip_vs_reuse_random_seed() }
}
