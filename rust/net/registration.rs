// SPDX-License-Identifier: GPL-2.0

//! Registers the data that a module keeps in every network namespace.
//!
//! C headers: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h),
//! [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h)

use super::per_namespace::data_of;
use super::{Namespace, PerNamespace, ProcFile};
use crate::bindings;
use core::marker::PhantomData;
use core::ptr;
use kernel::{
    error::{from_result, to_result},
    ffi::{c_int, c_void},
    prelude::*,
    seq_file::SeqFile,
    sync::atomic::{Full, Release},
    types::Opaque,
};

/// Keeps a [`PerNamespace`] type registered until dropped (`struct pernet_operations`). All
/// namespaces have its data, including those that are created later.
///
/// # Examples
///
/// ```
/// # struct Packets(PerCpuCounters<1>);
/// # static ID: Id<Packets> = Id::new();
/// # impl PerNamespace for Packets {
/// #     const ID: StaticId<Self> = StaticId::new(&ID);
/// #     fn new(_: &Namespace) -> Result<Self> {
/// #         PerCpuCounters::new().map(Self)
/// #     }
/// # }
/// #[pin_data]
/// struct Module {
///     #[pin]
///     packets: Registration<Packets>,
/// }
///
/// fn init() -> impl PinInit<Module, Error> {
///     try_pin_init!(Module { packets <- Registration::new() })
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct Registration<T: PerNamespace> {
    #[pin]
    ops: Opaque<bindings::pernet_operations>,
    _data: PhantomData<T>,
}

// SAFETY: Any thread may call `unregister_pernet_subsys()`.
unsafe impl<T: PerNamespace> Send for Registration<T> {}
// SAFETY: A shared reference gives access only to the data, which is `Sync`.
unsafe impl<T: PerNamespace> Sync for Registration<T> {}

impl<T: PerNamespace> Registration<T> {
    /// Makes a `T` in every namespace. May sleep. Errors: those of [`PerNamespace::new`], `ENOMEM`,
    /// and `EBUSY` if the type is registered.
    pub fn new() -> impl PinInit<Self, Error> {
        const {
            // The core aligns its memory for pointers, and no more. It allocates none for size 0.
            assert!(align_of::<T>() <= align_of::<*const ()>() && size_of::<T>() > 0);
        }
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|place: *mut bindings::pernet_operations| {
                if T::ID.get().taken.xchg(true, Full) {
                    return Err(EBUSY);
                }
                let ops = bindings::pernet_operations {
                    init: Some(Self::init_callback),
                    pre_exit: Some(Self::pre_exit_callback),
                    exit: Some(Self::exit_callback),
                    id: T::ID.get().number.get(),
                    size: size_of::<T>(),
                    ..Default::default()
                };
                // SAFETY: `place` is valid for writes.
                unsafe { place.write(ops) };
                // SAFETY: `place` is pinned, and stays valid until `drop` has unregistered it. On
                // an error the core has removed it from its list
                // (`__register_pernet_operations()`). The core writes through `id` before the first
                // callback, and nobody reads it earlier.
                to_result(unsafe { bindings::register_pernet_subsys(place) })
                    .inspect(|()| T::ID.get().ready.store(true, Release))
                    .inspect_err(|_| T::ID.get().taken.store(false, Release))
            }),
            _data: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Only the core may call this, for a registration of this type.
    unsafe extern "C" fn init_callback(net: *mut bindings::net) -> c_int {
        from_result(|| {
            // SAFETY: The core passes a namespace that is being set up (`setup_net()`), or one that
            // is in use and cannot end meanwhile (`pernet_ops_rwsem` is held).
            let namespace = unsafe { Namespace::from_raw(net) };
            // SAFETY: We are in `init_callback`.
            let data = unsafe { data_of::<T>(net) };
            let new = T::new(namespace)?;
            // SAFETY: `ops_init()` has allocated memory of our size, aligned for pointers
            // (`kzalloc()`); `new` asserts that this is enough. Nobody reads it yet.
            unsafe { data.write(new) };

            let Some(file) = T::PROC_FILE else {
                return Ok(0);
            };
            // SAFETY: The namespace is alive. `proc_net_ns_init()` made the directory before us.
            let dir = unsafe { bindings::ip_vs_reuse_proc_net(net) };
            // SAFETY: The directory is valid, and the name is terminated. `pre_exit_callback`
            // removes the file before the data is dropped, and waits for its readers
            // (`remove_proc_entry()` calls `proc_entry_rundown()`).
            let entry = unsafe {
                bindings::proc_create_net_single(
                    file.name.as_char_ptr(),
                    0o444,
                    dir,
                    Some(Self::show_callback),
                    ptr::null_mut(),
                )
            };
            if entry.is_null() {
                // SAFETY: The data was just written, and nobody else has it. After an error
                // `ops_init()` frees its memory and makes no more calls.
                unsafe { data.drop_in_place() };
                return Err(ENOMEM);
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only the core may call this, for a registration of this type.
    unsafe extern "C" fn pre_exit_callback(net: *mut bindings::net) {
        if let Some(file) = T::PROC_FILE {
            // SAFETY: The namespace is alive. Its directory outlives our callbacks:
            // `ops_undo_list()` calls in reverse order of registration, and `proc_net_ns_ops` is
            // registered at boot.
            let dir = unsafe { bindings::ip_vs_reuse_proc_net(net) };
            // SAFETY: The directory is valid, and `init_callback` has made the file. The core calls
            // this once.
            unsafe { bindings::remove_proc_entry(file.name.as_char_ptr(), dir) };
        }
        // SAFETY: The namespace is alive until all callbacks have returned.
        let namespace = unsafe { Namespace::from_raw(net) };
        // SAFETY: `init_callback` has returned, and `exit_callback` has not been called.
        let data = unsafe { data_of::<T>(net) };
        // SAFETY: `init_callback` has written the data, and `exit_callback` drops it.
        unsafe { &*data }.pre_exit(namespace);
    }

    /// # Safety
    ///
    /// Only the core may call this, for a registration of this type.
    unsafe extern "C" fn exit_callback(net: *mut bindings::net) {
        // SAFETY: We are in `exit_callback`.
        let data = unsafe { data_of::<T>(net) };
        // SAFETY: The core calls this once, after `pre_exit_callback` and a grace period
        // (`ops_undo_list()`). By then the file has no readers, and `PerNamespace::of` says why no
        // packet uses the data.
        unsafe { data.drop_in_place() };
    }

    /// # Safety
    ///
    /// Only the core may call this, for the file of a registration of this type.
    unsafe extern "C" fn show_callback(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: `proc_create_net_single()` made the file. So `single_open_net()` holds the
        // namespace and has stored it where `seq_file_single_net()` reads it.
        let net = unsafe { bindings::ip_vs_reuse_seq_file_single_net(seq) };
        // SAFETY: The core passes a valid file, whose lock it holds (`seq_read_iter()`).
        let file = unsafe { SeqFile::from_raw(seq) };
        // SAFETY: `pre_exit_callback` waits for the readers of the file.
        let data = unsafe { data_of::<T>(net) };
        if let Some(ProcFile { show, .. }) = T::PROC_FILE {
            // SAFETY: `init_callback` wrote the data before it made the file, and `exit_callback`
            // drops the data after the file is gone.
            show(unsafe { &*data }, file);
        }
        0
    }
}

#[pinned_drop]
impl<T: PerNamespace> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        T::ID.get().ready.store(false, Release);
        // SAFETY: `new` has registered the operations.
        unsafe { bindings::unregister_pernet_subsys(self.ops.get()) };
        T::ID.get().taken.store(false, Release);
    }
}
