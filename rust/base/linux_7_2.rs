// SPDX-License-Identifier: GPL-2.0

//! Functions of `kernel::sync::rcu` that Linux 7.2 lacks and 7.3 has.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::bindings;

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
