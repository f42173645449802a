// SPDX-License-Identifier: GPL-2.0

//! Polled RCU grace periods.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::bindings;
use kernel::sync::atomic::{Atomic, Relaxed};

/// The cookie of a grace period (`start_poll_synchronize_rcu()`).
///
/// # Examples
///
/// ```
/// fn at_most_once_per_grace_period(last: &GracePeriod, work: impl Fn()) {
///     if last.is_over() {
///         work();
///         last.restart();
///     }
/// }
/// ```
pub struct GracePeriod(Atomic<usize>);

impl GracePeriod {
    /// Returns a grace period that is over.
    pub fn over() -> Self {
        // SAFETY: The function only returns a constant.
        let cookie = unsafe { bindings::get_completed_synchronize_rcu() };
        Self(Atomic::new(cookie))
    }

    /// Starts a grace period, which ends after all current RCU read-side critical sections have.
    /// Process or softirq context.
    pub fn restart(&self) {
        // SAFETY: The function disables interrupts itself, and may be called wherever a thread may
        // be woken up.
        let cookie = unsafe { bindings::start_poll_synchronize_rcu() };
        self.0.store(cookie, Relaxed);
    }

    /// Returns whether it is over. Any context.
    pub fn is_over(&self) -> bool {
        // SAFETY: The cookie is from `start_poll_synchronize_rcu()`, or
        // `get_completed_synchronize_rcu()`. Any other would only give a wrong answer.
        unsafe { bindings::poll_state_synchronize_rcu(self.0.load(Relaxed)) }
    }
}
