// SPDX-License-Identifier: GPL-2.0

//! IPVS in a namespace, and its settings (`/proc/sys/net/ipv4/vs/`).
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use crate::bindings;
use kernel::{
    sync::atomic::{atomic_load, Relaxed},
    types::Opaque,
};

/// IPVS in one network namespace (`struct netns_ipvs`).
///
/// # Examples
///
/// ```
/// fn expires_without_destination(conn: &Conn) -> bool {
///     conn.ipvs().expire_nodest_conn()
/// }
/// ```
///
/// # Invariants
///
/// The namespace is alive. The networking core frees this memory only after
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
        // SAFETY: IPVS is valid by the type's invariants; only the address is taken.
        let mode = unsafe { &raw mut (*self.as_ptr()).sysctl_conn_reuse_mode };
        // SAFETY: The field is valid, and C writes it whole (`proc_dointvec()`).
        unsafe { atomic_load(mode, Relaxed) }
    }

    /// `expire_nodest_conn`
    #[inline]
    pub fn expire_nodest_conn(&self) -> bool {
        // SAFETY: IPVS is valid by the type's invariants; only the address is taken.
        let expire = unsafe { &raw mut (*self.as_ptr()).sysctl_expire_nodest_conn };
        // SAFETY: The field is valid, and C writes it whole (`proc_dointvec()`).
        unsafe { atomic_load(expire, Relaxed) != 0 }
    }
}
