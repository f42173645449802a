// SPDX-License-Identifier: GPL-2.0

//! Walks through all network namespaces. Needed on a stock kernel only.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use super::{Namespace, PerNamespace, Registration};
use crate::bindings;
use kernel::{
    error::{from_result, to_result},
    ffi::{c_int, c_void},
    prelude::*,
};

impl<T: PerNamespace> Registration<T> {
    /// Calls `f` with each namespace in use and its state, up to the first error. No namespace
    /// begins to end meanwhile. May sleep.
    pub fn for_each<F: FnMut(&Namespace, &T) -> Result>(&self, mut f: F) -> Result {
        // SAFETY: The callback is called for namespaces in use, before this returns, while `self`,
        // the registration of `T`, is borrowed and `f` is a local of ours.
        to_result(unsafe {
            bindings::ip_vs_reuse_for_each_net(Some(callback::<T, F>), (&raw mut f).cast())
        })
    }
}

/// # Safety
///
/// `T` is registered, the namespace is in use until this returns, and `data` points to an `F` that
/// nobody else uses.
unsafe extern "C" fn callback<T: PerNamespace, F: FnMut(&Namespace, &T) -> Result>(
    net: *mut bindings::net,
    data: *mut c_void,
) -> c_int {
    from_result(|| {
        // SAFETY: By the contract.
        let namespace = unsafe { Namespace::from_raw(net) };
        // SAFETY: By the contract the type is registered, and a namespace in use has its state:
        // `setup_net()` lists it after `init_callback`, and `cleanup_net()` takes it off the list
        // before `exit_callback`.
        let state = unsafe { &*Registration::<T>::slot(net) };
        // SAFETY: By the contract.
        let f = unsafe { &mut *data.cast::<F>() };
        f(namespace, state)?;
        Ok(0)
    })
}
