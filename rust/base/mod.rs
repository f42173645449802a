// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate does not have, or not in all kernels.

mod periodic;
mod rcu;

pub use self::periodic::{Periodic, Task};
pub use self::rcu::{rcu_barrier, synchronize_rcu, Published, RcuBox, Retired};

use crate::bindings;

/// 64 random bits. Any context; no shared cache line written.
///
/// C header: [`include/linux/random.h`](srctree/include/linux/random.h)
#[inline]
pub fn random() -> u64 {
    // SAFETY: It takes no argument, and any context will do (`drivers/char/random.c`).
    unsafe { bindings::get_random_u64() }
}
