// SPDX-License-Identifier: GPL-2.0

//! Virtual services.

use super::Destination;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    str::{CStr, CStrExt as _},
    sync::rcu::Guard,
    types::Opaque,
};

/// A virtual service (`struct ip_vs_service`).
///
/// # Invariants
///
/// It is valid: IPVS passed it to a callback of a scheduler.
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

    /// How many real servers the service has. It changes between a scheduler's callbacks for
    /// changes only, and at any time for [`Scheduler::schedule`](super::Scheduler::schedule).
    #[inline]
    pub fn destination_count(&self) -> usize {
        // SAFETY: Valid by the type's invariants; read once.
        unsafe { (&raw const (*self.0.get()).num_dests).read_volatile() as usize }
    }

    /// The service's real servers, newest first. Those that come or go during the walk may or
    /// may not be met.
    pub fn destinations<'a>(&'a self, _guard: &'a Guard) -> impl Iterator<Item = &'a Destination> {
        // SAFETY: Valid by the type's invariants; only the address is taken.
        let head = unsafe { &raw const (*self.0.get()).destinations };
        let mut at = head;

        core::iter::from_fn(move || {
            // SAFETY: `at` is the head, or in a server that was in the list in this read side:
            // such servers, and their way on through the list, stay until it ends.
            unsafe {
                at = (&raw const (*at).next).read_volatile();
                if at == head {
                    return None;
                }
                let dest = at
                    .byte_sub(core::mem::offset_of!(bindings::ip_vs_dest, n_list))
                    .cast_mut()
                    .cast();
                Some(Destination::from_raw(NonNull::new(dest)?))
            }
        })
    }

    /// Tells the administrator that no real server was found, at a limited rate. RCU read side.
    #[cold]
    pub fn report(&self, message: &'static CStr, _guard: &Guard) {
        // SAFETY: Valid by the type's invariants, the string is terminated; the guard is a
        // read side.
        unsafe { bindings::ip_vs_scheduler_err(self.0.get(), message.as_char_ptr()) };
    }
}
