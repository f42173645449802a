// SPDX-License-Identifier: GPL-2.0

//! Destinations: the real servers of virtual services.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    ffi::c_ulong,
    sync::{
        aref::AlwaysRefCounted,
        atomic::{atomic_load, Relaxed},
    },
    types::Opaque,
};

/// A destination, a real server of a virtual service (`struct ip_vs_dest`).
///
/// IPVS does not wait for references when a namespace ends (`ip_vs_trash_cleanup()`). Dropping the
/// last reference then frees the destination at once. That is safe for a packet that has found the
/// destination in the service's list, because IPVS drops its own reference only after a grace
/// period. It is also safe for a packet that borrows from an `ARef`. But IPVS uses the destination
/// that `Scheduler::schedule` returns until the end of the RCU read-side critical section. So a
/// scheduler must hold the references that it lends to packets until a grace period has passed; the
/// lifetimes of `schedule` enforce this.
///
/// # Examples
///
/// ```
/// fn can_take_connections(dest: &Destination) -> bool {
///     dest.weight() > 0 && dest.is_available() && !dest.is_overloaded()
/// }
///
/// // Keeps the destination beyond the RCU read-side critical section.
/// fn hold(dest: &Destination) -> ARef<Destination> {
///     dest.into()
/// }
/// ```
///
/// # Invariants
///
/// The destination is valid, and its reference count is not 0.
#[repr(transparent)]
pub struct Destination(Opaque<bindings::ip_vs_dest>);

// SAFETY: Any thread may put a destination (`ip_vs_dest_put_and_free()`).
unsafe impl Send for Destination {}
// SAFETY: The methods read single fields atomically.
unsafe impl Sync for Destination {}

impl Destination {
    /// Wraps a destination.
    ///
    /// # Safety
    ///
    /// For `'a`, `dest` satisfies the invariants of [`Destination`].
    #[inline]
    pub(super) unsafe fn from_raw<'a>(dest: NonNull<bindings::ip_vs_dest>) -> &'a Self {
        // SAFETY: By the contract; `Destination` is a transparent wrapper.
        unsafe { dest.cast().as_ref() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::ip_vs_dest {
        self.0.get()
    }

    /// Whether the destination is one of this service's.
    #[inline]
    pub(super) fn belongs_to(&self, service: *const bindings::ip_vs_service) -> bool {
        // SAFETY: The destination is valid by the type's invariants; only the address is taken.
        let svc = unsafe { &raw mut (*self.as_ptr()).svc };
        // SAFETY: The field is valid, and C writes a pointer whole. It is not dereferenced.
        unsafe { atomic_load(svc, Relaxed) }.cast_const() == service
    }

    /// The current weight. With weight 0 the destination keeps its connections and gets no new
    /// ones.
    #[inline]
    pub fn weight(&self) -> i32 {
        // SAFETY: The destination is valid by the type's invariants; only the address is taken.
        let weight = unsafe { &raw mut (*self.as_ptr()).weight.counter };
        // SAFETY: The field is valid, and an `atomic_t`.
        unsafe { atomic_load(weight, Relaxed) }
    }

    /// Whether the destination is in its service's list (`IP_VS_DEST_CF_AVAILABLE`).
    #[inline]
    pub fn is_available(&self) -> bool {
        // SAFETY: The destination is valid by the type's invariants; only the address is taken.
        let cflags = unsafe { &raw mut (*self.as_ptr()).cflags };
        // SAFETY: The field is valid, and C writes it whole, under the mutex of the services
        // (`__ip_vs_update_dest()`, `__ip_vs_unlink_dest()`).
        let cflags = unsafe { atomic_load(cflags, Relaxed) };
        cflags & bindings::IP_VS_DEST_CF_AVAILABLE as c_ulong != 0
    }

    /// Whether the destination has reached its upper threshold of connections and has not fallen
    /// below the lower one since (`IP_VS_DEST_F_OVERLOAD`).
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        // SAFETY: The destination is valid by the type's invariants; only the address is taken.
        let flags = unsafe { &raw mut (*self.as_ptr()).flags };
        // SAFETY: The field is valid. C writes it whole: it is volatile
        // (`__ip_vs_dest_update_overload()`).
        let flags = unsafe { atomic_load(flags, Relaxed) };
        flags & bindings::IP_VS_DEST_F_OVERLOAD != 0
    }

    /// The number of active connections. Connections that have ended do not count.
    #[inline]
    pub fn active_connections(&self) -> i32 {
        // SAFETY: The destination is valid by the type's invariants; only the address is taken.
        let activeconns = unsafe { &raw mut (*self.as_ptr()).activeconns.counter };
        // SAFETY: The field is valid, and an `atomic_t`.
        unsafe { atomic_load(activeconns, Relaxed) }
    }

    /// The number of connections that IPVS has an entry for: active ones, those that have ended or
    /// are not yet established, and all of UDP.
    #[inline]
    pub fn total_connections(&self) -> i32 {
        // SAFETY: The destination is valid by the type's invariants; only the address is taken.
        let totalconns = unsafe { &raw mut (*self.as_ptr()).totalconns.counter };
        // SAFETY: The field is valid, and an `atomic_t`.
        unsafe { atomic_load(totalconns, Relaxed) }
    }
}

// SAFETY: All destinations have a reference count. `ip_vs_dest_put_and_free()` frees one when the
// count reaches 0. IPVS drops its own reference a grace period after the destination has left the
// service's list and the trash (`ip_vs_dest_free()`, `ip_vs_dest_rcu_free()`).
unsafe impl AlwaysRefCounted for Destination {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The destination is valid by the type's invariants, and its count is not 0.
        unsafe { bindings::ip_vs_reuse_ip_vs_dest_hold(self.as_ptr()) };
    }

    #[inline]
    unsafe fn dec_ref(dest: NonNull<Self>) {
        // SAFETY: By the contract the reference is the caller's. If it is the last one,
        // `ip_vs_dest_rcu_free()` has run: nobody else can find the destination, and its statistics
        // have been released. Any context: only `kfree()` is left to do.
        unsafe { bindings::ip_vs_reuse_ip_vs_dest_put_and_free(dest.as_ptr().cast()) };
    }
}
