// SPDX-License-Identifier: GPL-2.0

//! Virtual services.

use super::Destination;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    str::{CStr, CStrExt as _},
    sync::{
        atomic::{Acquire, Atomic},
        rcu::Guard,
    },
    types::Opaque,
};

/// A virtual service (`struct ip_vs_service`).
///
/// # Invariants
///
/// It is valid: IPVS passed it to a callback of a scheduler, which has not returned. IPVS frees a
/// service a grace period after it has left the table (`ip_vs_service_free()`).
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

    /// How many real servers the service has. It changes between a scheduler's callbacks for
    /// changes only, and at any time for [`Scheduler::schedule`](super::Scheduler::schedule).
    #[inline]
    pub fn destination_count(&self) -> usize {
        // SAFETY: Valid by the type's invariants; written under the mutex of the services, read
        // once.
        unsafe { (&raw const (*self.as_ptr()).num_dests).read_volatile() as usize }
    }

    /// The service's real servers, newest first. Those that come or go during the walk may or
    /// may not be met.
    pub fn destinations<'a>(&'a self, _guard: &'a Guard) -> impl Iterator<Item = &'a Destination> {
        let service = self.as_ptr();
        // SAFETY: Valid by the type's invariants; only the address is taken.
        let head = unsafe { &raw mut (*service).destinations };
        let mut at = head;

        core::iter::from_fn(move || {
            // SAFETY: `at` is the head, or in a server that was in the list in this read side:
            // such servers stay until it ends (`list_del_rcu()`, `ip_vs_dest_rcu_free()`), and so
            // does their way on, but for those that come back from the trash meanwhile, to a
            // service made anew (`ip_vs_trash_get_dest()`): they lead to its head, and end this.
            // `__ip_vs_update_dest()` binds them to it, with a full barrier in `__ip_vs_svc_put()`,
            // before it links them: who reads the new way reads the new service after that.
            unsafe {
                let next = Atomic::from_ptr(&raw mut (*at).next).load(Acquire);
                let moved = || (&raw const (*dest_of_link(at)).svc).read_volatile() != service;
                if next == head || (at != head && moved()) {
                    return None;
                }
                at = next;
                Some(Destination::from_raw(NonNull::new(dest_of_link(at))?))
            }
        })
    }

    /// Tells the administrator that no real server was found, at a limited rate. RCU read side.
    #[cold]
    pub fn report_error(&self, message: &'static CStr, _guard: &Guard) {
        // SAFETY: Valid by the type's invariants, the string is terminated; the guard is a
        // read side, in which `ip_vs_scheduler_err()` reads the scheduler's name.
        unsafe { bindings::ip_vs_scheduler_err(self.as_ptr(), message.as_char_ptr()) };
    }
}

/// The server that is linked to the list there. To be followed if it is not the head.
fn dest_of_link(link: *mut bindings::list_head) -> *mut bindings::ip_vs_dest {
    link.wrapping_byte_sub(core::mem::offset_of!(bindings::ip_vs_dest, n_list))
        .cast()
}
