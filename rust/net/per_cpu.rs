// SPDX-License-Identifier: GPL-2.0

//! Per-CPU counters.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::{ffi::c_ulong, prelude::*};

/// `N` counters, each with one value per CPU. They wrap around.
///
/// # Examples
///
/// ```
/// fn count() -> Result {
///     let counters = PerCpuCounters::<2>::new()?;
///     counters.increment(1);
///     pr_info!("{}\n", counters.sum(1));
///     Ok(())
/// }
/// ```
///
/// # Invariants
///
/// The pointer is to `N` per-CPU values, which this object owns.
pub struct PerCpuCounters<const N: usize>(NonNull<c_ulong>);

// SAFETY: Any thread may call `free_percpu()` (`mm/percpu.c`).
unsafe impl<const N: usize> Send for PerCpuCounters<N> {}
// SAFETY: A CPU changes only its own values, atomically with respect to its interrupts
// (`this_cpu_inc()` in `include/linux/percpu-defs.h`). `sum` reads each value once.
unsafe impl<const N: usize> Sync for PerCpuCounters<N> {}

impl<const N: usize> PerCpuCounters<N> {
    /// Allocates the counters, all 0. May sleep. `ENOMEM` if the allocation fails.
    pub fn new() -> Result<Self> {
        // SAFETY: Every `N` is allowed: `array_size()` saturates, and `__alloc_percpu()` fails for
        // sizes that are too large (`mm/percpu.c`).
        let counters = unsafe { bindings::ip_vs_reuse_alloc_counters(N) };
        // INVARIANT: The memory was just allocated for `N` values.
        NonNull::new(counters).map(Self).ok_or(ENOMEM)
    }

    #[inline]
    fn get(&self, index: usize) -> Option<*mut c_ulong> {
        // A per-CPU address must not be dereferenced, so the arithmetic wraps, as in C.
        (index < N).then(|| self.0.as_ptr().wrapping_add(index))
    }

    /// Increments one counter. Any context; writes no cache line of another CPU.
    #[inline]
    pub fn increment(&self, index: usize) {
        if let Some(counter) = self.get(index) {
            // SAFETY: By the type's invariants this is one of our per-CPU values.
            unsafe { bindings::ip_vs_reuse_this_cpu_inc(counter) };
        }
    }

    /// The sum over all CPUs. Not a snapshot: other CPUs may increment the counter meanwhile.
    pub fn sum(&self, index: usize) -> c_ulong {
        self.get(index).map_or(0, |counter| {
            // SAFETY: By the type's invariants this is one of our per-CPU values. Every possible
            // CPU has one, online or not (`pcpu_alloc_noprof()`).
            unsafe { bindings::ip_vs_reuse_sum_counter(counter) }
        })
    }
}

impl<const N: usize> Drop for PerCpuCounters<N> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants this object owns the memory, and nobody else uses it.
        unsafe { bindings::free_percpu(self.0.as_ptr().cast()) };
    }
}
