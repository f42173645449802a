// SPDX-License-Identifier: GPL-2.0

//! Real servers.

use crate::bindings;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::{ffi::c_ulong, types::Opaque};

/// A real server of a virtual service (`struct ip_vs_dest`).
///
/// # Invariants
///
/// It is valid: in its service's list under RCU, or held by a reference.
#[repr(transparent)]
pub struct Destination(Opaque<bindings::ip_vs_dest>);

impl Destination {
    /// Wraps a real server.
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

    /// The weight in force now. 0: the server finishes what it has and gets nothing new.
    #[inline]
    pub fn weight(&self) -> i32 {
        // SAFETY: Valid by the type's invariants; an atomic, read once (`atomic_read()`).
        unsafe { (&raw const (*self.as_ptr()).weight.counter).read_volatile() }
    }

    /// Whether the server is part of its service (`IP_VS_DEST_CF_AVAILABLE`).
    #[inline]
    pub fn is_available(&self) -> bool {
        // SAFETY: Valid by the type's invariants; written under the mutex of the services
        // (`__ip_vs_update_dest()`, `__ip_vs_unlink_dest()`), by us read once, without it.
        let cflags = unsafe { (&raw const (*self.as_ptr()).cflags).read_volatile() };
        cflags & bindings::IP_VS_DEST_CF_AVAILABLE as c_ulong != 0
    }

    /// Whether the server has more connections than its upper threshold, and not yet fewer than
    /// its lower one (`IP_VS_DEST_F_OVERLOAD`).
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        // SAFETY: Valid by the type's invariants; written under us
        // (`__ip_vs_dest_update_overload()`), read once (volatile in C, too).
        let flags = unsafe { (&raw const (*self.as_ptr()).flags).read_volatile() };
        flags & bindings::IP_VS_DEST_F_OVERLOAD != 0
    }

    /// The connections that are in use now; those that have ended and wait do not count.
    #[inline]
    pub fn active_connections(&self) -> i32 {
        // SAFETY: As for the weight.
        unsafe { (&raw const (*self.as_ptr()).activeconns.counter).read_volatile() }
    }

    /// Takes a reference. Any context.
    pub fn hold(&self) -> HeldDestination {
        // SAFETY: Valid by the type's invariants, and so the count is not 0: in its service's list
        // or in the trash it has IPVS's own reference, and loses that a grace period after it has
        // left them (`ip_vs_dest_free()`, `ip_vs_dest_rcu_free()`).
        unsafe { bindings::ip_vs_reuse_ip_vs_dest_hold(self.as_ptr()) };
        // INVARIANT: The reference was just taken.
        HeldDestination(NonNull::from(self).cast())
    }
}

/// A reference to a real server.
///
/// IPVS does not wait for it when a namespace ends (`ip_vs_trash_cleanup()`): whoever drops the
/// last reference frees the server, at once. A packet that has the server from the service's list
/// is over by then: IPVS's own reference goes by RCU. One that has it from a `HeldDestination` has
/// borrowed that. But `Scheduler::schedule` hands it on to IPVS, for the rest of its read side: so
/// what a scheduler shows to packets is dropped by RCU, and the borrow checker sees to it.
///
/// # Invariants
///
/// The pointer is to a valid server, to which this object owns a reference.
pub struct HeldDestination(NonNull<bindings::ip_vs_dest>);

// SAFETY: The count is a `refcount_t`, and what a `Destination` tells may be asked from anywhere.
unsafe impl Send for HeldDestination {}
// SAFETY: As above.
unsafe impl Sync for HeldDestination {}

impl Deref for HeldDestination {
    type Target = Destination;

    #[inline]
    fn deref(&self) -> &Destination {
        // SAFETY: Valid by the type's invariants.
        unsafe { Destination::from_raw(self.0) }
    }
}

impl Drop for HeldDestination {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type's invariants. If it is the last,
        // `ip_vs_dest_rcu_free()` has run: nobody finds the server any more, and its counters are
        // released. Any context: `kfree()` is all that happens.
        unsafe { bindings::ip_vs_reuse_ip_vs_dest_put_and_free(self.0.as_ptr()) };
    }
}
