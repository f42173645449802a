// SPDX-License-Identifier: GPL-2.0

//! A walk through all network namespaces. For a stock kernel only.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use super::per_namespace::data_of;
use super::{Namespace, PerNamespace, Registration};
use crate::bindings;
use kernel::ffi::c_void;

impl<T: PerNamespace> Registration<T> {
    /// Calls `f` with each namespace in use and its data. No namespace is torn down meanwhile. May
    /// sleep.
    ///
    /// `net_rwsem` is held. So `f` must not register or drop a [`Registration`], and must not take
    /// the RTNL or call this function.
    pub fn for_each<F: FnMut(&Namespace, &T)>(&self, mut f: F) {
        // SAFETY: The function calls back only before it returns, with namespaces in use. Until
        // then `self` keeps `T` registered, and nobody else uses `f`.
        unsafe {
            bindings::ip_vs_reuse_walk_namespaces(Some(callback::<T, F>), (&raw mut f).cast())
        };
    }
}

/// # Safety
///
/// `T` is registered, the namespace is in use until this returns, and `f` points to an `F` that
/// nobody else uses.
unsafe extern "C" fn callback<T: PerNamespace, F: FnMut(&Namespace, &T)>(
    net: *mut bindings::net,
    f: *mut c_void,
) {
    // SAFETY: By the contract.
    let namespace = unsafe { Namespace::from_raw(net) };
    // SAFETY: By the contract `T` is registered. `setup_net()` lists a namespace after
    // `init_callback`, and `cleanup_net()` removes it from the list before `exit_callback`.
    let data = unsafe { data_of::<T>(net) };
    // SAFETY: `init_callback` has written the data, and `exit_callback` drops it.
    let data = unsafe { &*data };
    // SAFETY: By the contract.
    let f = unsafe { &mut *f.cast::<F>() };
    f(namespace, data);
}
