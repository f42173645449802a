// SPDX-License-Identifier: GPL-2.0

//! Virtual services.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::Destination;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    str::{CStr, CStrExt as _},
    sync::{
        atomic::{atomic_load, Acquire, Relaxed},
        rcu::Guard,
    },
    types::Opaque,
};

/// A virtual service (`struct ip_vs_service`).
///
/// # Examples
///
/// ```
/// fn first_with_weight<'a>(service: &'a Service, guard: &'a Guard) -> Option<&'a Destination> {
///     service.destinations(guard).find(|dest| dest.weight() > 0)
/// }
/// ```
///
/// # Invariants
///
/// The service is valid: IPVS has passed it to a scheduler's callback that has not returned, or it
/// is in the work that such a callback waits for. IPVS frees a service a grace period after it has
/// removed the service from its table (`ip_vs_service_free()`).
#[repr(transparent)]
pub struct Service(Opaque<bindings::ip_vs_service>);

impl Service {
    /// Wraps a service.
    ///
    /// # Safety
    ///
    /// For `'a`, `ptr` satisfies the invariants of [`Service`].
    #[inline]
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::ip_vs_service) -> &'a Self {
        // SAFETY: By the contract; `Service` is a transparent wrapper.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::ip_vs_service {
        self.0.get()
    }

    /// The number of destinations. It is stable in
    /// [`Scheduler::init_service`](super::Scheduler::init_service), and may change at any time
    /// elsewhere.
    #[inline]
    pub fn destination_count(&self) -> usize {
        // SAFETY: The service is valid by the type's invariants; only the address is taken.
        let num_dests = unsafe { &raw mut (*self.as_ptr()).num_dests };
        // SAFETY: The field is valid, and C writes it whole, under the mutex of the services.
        unsafe { atomic_load(num_dests, Relaxed) as usize }
    }

    /// Whether the first of the flags that IPVS leaves to the scheduler is set
    /// (`ipvsadm -b flag-1`, `IP_VS_SVC_F_SCHED1`). IPVS does not tell when flags change.
    #[inline]
    pub fn has_first_flag(&self) -> bool {
        // SAFETY: The service is valid by the type's invariants; only the address is taken.
        let flags = unsafe { &raw mut (*self.as_ptr()).flags };
        // SAFETY: The field is valid, and C writes it whole, under the mutex of the services.
        let flags = unsafe { atomic_load(flags, Relaxed) };
        flags & bindings::IP_VS_SVC_F_SCHED1 != 0
    }

    /// The destinations, newest first. A destination that is added or deleted meanwhile may be
    /// missing; one that is deleted and added again may be there twice, and others missing.
    pub fn destinations<'a>(&'a self, _guard: &'a Guard) -> impl Iterator<Item = &'a Destination> {
        let service = self.as_ptr();
        // SAFETY: The service is valid by the type's invariants; only the address is taken.
        let head = unsafe { &raw mut (*service).destinations };
        let mut link = head;
        let mut last: Option<&Destination> = None;

        // A deleted destination stays valid until the guard ends, and still points into the list
        // (`list_del_rcu()`). But IPVS may take it out of the trash meanwhile and link it into the
        // list of a new service with the same address (`ip_vs_trash_get_dest()`). The walk would
        // never meet its own head there, so it ends at a destination that has moved.
        core::iter::from_fn(move || {
            // SAFETY: `link` is in the head, or in a destination that is valid until the guard
            // ends; only the address is taken.
            let next = unsafe { &raw mut (*link).next };
            // SAFETY: The field is valid, and C writes a pointer whole. Acquire: if the destination
            // has moved and this is its new successor, the check below reads its new service.
            // `__ip_vs_update_dest()` sets the service first, and `__ip_vs_svc_put()` has a full
            // barrier.
            let next = unsafe { atomic_load(next, Acquire) };
            if next == head {
                return None;
            }
            if last.is_some_and(|dest| !dest.belongs_to(service)) {
                return None;
            }
            link = next;
            let dest = NonNull::new(dest_of_link(link))?;
            // SAFETY: The destination was in the list in this RCU read-side critical section, so it
            // is valid, and IPVS holds a reference to it, until the guard ends
            // (`ip_vs_dest_rcu_free()`).
            last = Some(unsafe { Destination::from_raw(dest) });
            last
        })
    }

    /// Logs that the scheduler has found no destination, at a limited rate.
    #[cold]
    pub fn report_error(&self, message: &'static CStr, _guard: &Guard) {
        // SAFETY: The service is valid by the type's invariants, and the string is terminated.
        // `ip_vs_scheduler_err()` reads the scheduler's name under RCU: the guard.
        unsafe { bindings::ip_vs_scheduler_err(self.as_ptr(), message.as_char_ptr()) };
    }
}

/// The destination that contains this list entry. Not valid for the list's head.
fn dest_of_link(link: *mut bindings::list_head) -> *mut bindings::ip_vs_dest {
    link.wrapping_byte_sub(core::mem::offset_of!(bindings::ip_vs_dest, n_list))
        .cast()
}
