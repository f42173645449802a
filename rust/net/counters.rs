// SPDX-License-Identifier: GPL-2.0

//! Counters with one value a processor.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::{ffi::c_ulong, prelude::*};

/// `N` counters of events, each with one value a processor. They wrap.
///
/// # Invariants
///
/// The pointer is to `N` per-CPU values that are this object's own.
pub struct PerCpuCounters<const N: usize>(NonNull<c_ulong>);

// SAFETY: The pointer is an offset into per-CPU memory, not bound to a thread: `free_percpu()`
// (`mm/percpu.c`) may be called anywhere.
unsafe impl<const N: usize> Send for PerCpuCounters<N> {}
// SAFETY: A processor changes its own values only, and `this_cpu_inc()` is whole in the eyes of
// that processor, interrupts included (`include/linux/percpu-defs.h`); `sum` reads each once.
unsafe impl<const N: usize> Sync for PerCpuCounters<N> {}

impl<const N: usize> PerCpuCounters<N> {
    /// Allocates the counters, all 0. May sleep. `ENOMEM` where there is no memory.
    pub fn new() -> Result<Self> {
        // SAFETY: Any count will do: `array_size()` saturates, and `__alloc_percpu()` refuses what
        // is too much (`mm/percpu.c`).
        let counters = unsafe { bindings::ip_vs_reuse_alloc_counters(N) };
        // INVARIANT: The memory was just allocated for `N` values.
        NonNull::new(counters).map(Self).ok_or(ENOMEM)
    }

    #[inline]
    fn get(&self, index: usize) -> Option<*mut c_ulong> {
        // In per-CPU space, not to be followed: wrapping, as the kernel's own arithmetic.
        (index < N).then(|| self.0.as_ptr().wrapping_add(index))
    }

    /// Counts one event. Any context; writes to no other processor's cache line.
    #[inline]
    pub fn increment(&self, index: usize) {
        if let Some(counter) = self.get(index) {
            // SAFETY: By the type's invariants this is one of our per-CPU values, of the processor
            // that `this_cpu_inc()` finds itself on.
            unsafe { bindings::ip_vs_reuse_this_cpu_inc(counter) };
        }
    }

    /// The sum over all processors. Not a snapshot: others may be counting.
    pub fn sum(&self, index: usize) -> c_ulong {
        self.get(index).map_or(0, |counter| {
            // SAFETY: By the type's invariants this is one of our per-CPU values, which every
            // possible processor has, online or not (`pcpu_alloc_noprof()`).
            unsafe { bindings::ip_vs_reuse_sum_counter(counter) }
        })
    }
}

impl<const N: usize> Drop for PerCpuCounters<N> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants the memory is ours, and nobody else has it now.
        unsafe { bindings::free_percpu(self.0.as_ptr().cast()) };
    }
}
