// SPDX-License-Identifier: GPL-2.0

//! Abstractions that the kernel crate lacks in some or all supported kernels: RCU-protected values,
//! random numbers and others.

#[cfg(LINUX_7_2)]
mod linux_7_2;
mod periodic;
mod rcu;

#[cfg(LINUX_7_2)]
pub use self::linux_7_2::{rcu_barrier, synchronize_rcu};
pub use self::periodic::{Periodic, Task};
pub use self::rcu::{Published, RcuBox, Retired};
#[cfg(not(LINUX_7_2))]
pub use kernel::sync::rcu::{rcu_barrier, synchronize_rcu};

use crate::bindings;

/// 64 random bits. Any context; writes no shared cache line.
///
/// C header: [`include/linux/random.h`](srctree/include/linux/random.h)
#[inline]
pub fn random() -> u64 {
    // SAFETY: The function may be called in any context (`drivers/char/random.c`).
    unsafe { bindings::get_random_u64() }
}
