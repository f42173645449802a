// SPDX-License-Identifier: GPL-2.0

//! IPVS in a namespace: its settings, as in `/proc/sys/net/ipv4/vs/`.

use crate::bindings;
use kernel::types::Opaque;

/// IPVS in one namespace (`struct netns_ipvs`).
///
/// # Invariants
///
/// It is the IPVS of a namespace that is alive: in memory that the core frees after
/// `__ip_vs_cleanup_batch()`.
#[repr(transparent)]
pub struct Ipvs(Opaque<bindings::netns_ipvs>);

impl Ipvs {
    /// Wraps the IPVS of a namespace.
    ///
    /// # Safety
    ///
    /// For `'a`, `ptr` satisfies the invariants of [`Ipvs`].
    #[inline]
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::netns_ipvs) -> &'a Self {
        // SAFETY: By the contract; `Ipvs` is a transparent wrapper.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::netns_ipvs {
        self.0.get()
    }

    /// `conn_reuse_mode`
    #[inline]
    pub fn conn_reuse_mode(&self) -> i32 {
        // SAFETY: Valid by the type's invariants; an aligned integer that the administrator may be
        // changing (`proc_dointvec()`): read once.
        unsafe { (&raw const (*self.as_ptr()).sysctl_conn_reuse_mode).read_volatile() }
    }

    /// `expire_nodest_conn`
    #[inline]
    pub fn expire_nodest_conn(&self) -> bool {
        // SAFETY: As above.
        unsafe { (&raw const (*self.as_ptr()).sysctl_expire_nodest_conn).read_volatile() != 0 }
    }
}
