// SPDX-License-Identifier: GPL-2.0

//! Functions of `kernel::sync::rcu` and `pin_init` that Linux 7.3 has and 7.2 lacks.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::bindings;
use kernel::prelude::PinInit;

/// Waits for a grace period: until all RCU read-side critical sections that have begun are over.
/// May sleep, so no RCU guard may be held.
pub fn synchronize_rcu() {
    // SAFETY: The function has no requirement beyond the context.
    unsafe { bindings::synchronize_rcu() };
}

/// Waits for all queued `call_rcu()` callbacks, but not for callbacks that those callbacks queue.
/// May sleep, so no RCU guard may be held.
pub fn rcu_barrier() {
    // SAFETY: The function has no requirement beyond the context.
    unsafe { bindings::rcu_barrier() };
}

/// Initializes `slot`.
///
/// # Safety
///
/// `slot` is valid for writes, and not moved until it is dropped.
pub unsafe fn raw_try_init<T, E>(slot: *mut T, init: impl PinInit<T, E>) -> Result<(), E> {
    // SAFETY: By the contract.
    unsafe { init.__pinned_init(slot) }
}
