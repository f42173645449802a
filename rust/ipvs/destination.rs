// SPDX-License-Identifier: GPL-2.0

//! Real servers.

use crate::bindings;
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
    pub(super) fn as_ptr(&self) -> *mut bindings::ip_vs_dest {
        self.0.get()
    }

    /// The weight in force now. 0: the server finishes what it has and gets nothing new.
    #[inline]
    pub fn weight(&self) -> i32 {
        // SAFETY: Valid by the type's invariants; an atomic, read once.
        unsafe { (&raw const (*self.as_ptr()).weight.counter).read_volatile() }
    }

    /// Whether the server is part of its service (`IP_VS_DEST_CF_AVAILABLE`).
    #[inline]
    pub fn is_available(&self) -> bool {
        // SAFETY: Valid by the type's invariants; read once.
        let cflags = unsafe { (&raw const (*self.as_ptr()).cflags).read_volatile() };
        cflags & bindings::IP_VS_DEST_CF_AVAILABLE as c_ulong != 0
    }
}
