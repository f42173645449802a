// SPDX-License-Identifier: GPL-2.0

//! Network namespaces.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use crate::bindings;
use kernel::types::Opaque;

/// A network namespace (`struct net`).
///
/// # Invariants
///
/// The namespace is alive: it is being set up, in use, or being torn down.
#[repr(transparent)]
pub struct Namespace(Opaque<bindings::net>);

impl Namespace {
    /// Wraps a namespace.
    ///
    /// # Safety
    ///
    /// For `'a`, `ptr` satisfies the invariants of [`Namespace`].
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::net) -> &'a Self {
        // SAFETY: By the contract; `Namespace` is a transparent wrapper.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::net {
        self.0.get()
    }
}
