// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and what a module keeps in each of them.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use crate::bindings;
use crate::netfilter::HookState;
use core::marker::PhantomData;
use core::ptr;
use kernel::{
    error::{from_result, to_result},
    ffi::{c_int, c_uint, c_void},
    prelude::*,
    seq_file::SeqFile,
    sync::atomic::{Acquire, AtomicFlag, Full, Release},
    types::Opaque,
};

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

/// The number under which a `T` is found in each namespace. Each [`PerNamespace`] type has one
/// static of this.
pub struct Id<T: ?Sized> {
    number: Opaque<c_uint>,
    taken: AtomicFlag,
    /// The type is in place in every namespace.
    ready: AtomicFlag,
    _type: PhantomData<fn() -> *const T>,
}

// SAFETY: `number` is written by the core, before the first callback, in a registration that has
// `taken` the id; it is read in callbacks, and by others when the type is `ready`.
unsafe impl<T: ?Sized> Sync for Id<T> {}

impl<T: ?Sized> Id<T> {
    /// Not yet registered.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            number: Opaque::zeroed(),
            taken: AtomicFlag::new(false),
            ready: AtomicFlag::new(false),
            _type: PhantomData,
        }
    }
}

/// A reference to a static [`Id`], for constants: before Rust 1.89 a constant cannot be a reference
/// to what may change.
///
/// # Invariants
///
/// The pointer is from a static reference.
pub struct StaticId<T: ?Sized>(*const Id<T>);

impl<T: ?Sized> StaticId<T> {
    /// Refers to the static.
    pub const fn new(id: &'static Id<T>) -> Self {
        // INVARIANT: It is a static reference.
        Self(id)
    }

    #[inline]
    fn get(self) -> &'static Id<T> {
        // SAFETY: By the type's invariants.
        unsafe { &*self.0 }
    }
}

/// A file in `/proc/net`, readable by all, that shows what a module keeps in a namespace.
pub struct ProcFile<T> {
    /// Its name.
    pub name: &'static CStr,
    /// Writes its content. May sleep.
    pub show: fn(&T, &SeqFile),
}

/// What a module keeps in every namespace.
pub trait PerNamespace: Send + Sync + Sized + 'static {
    /// The type's static [`Id`]. A constant, so that it is always the same one.
    const ID: StaticId<Self>;

    /// Shows it in `/proc/net`.
    const PROC_FILE: Option<ProcFile<Self>> = None;

    /// Makes the state of a namespace. May sleep. An error keeps the namespace, or the module
    /// if it is just being loaded, from coming up.
    fn new(namespace: &Namespace) -> Result<Self>;

    /// The namespace ends, or the registration. May sleep. The state is dropped a grace period
    /// later.
    fn pre_exit(&self, _namespace: &Namespace) {}

    /// The state in the namespace of a packet; `None` unless the type is registered. A few loads.
    #[inline]
    fn of(packet: &HookState) -> Option<&Self> {
        if !Self::ID.get().ready.load(Acquire) {
            return None;
        }
        // SAFETY: The type is in place in all namespaces, and `packet` is in an RCU read side. When
        // the registration ends, `ready` is cleared a grace period before the slots are:
        // `ops_undo_list()` waits for one between `pre_exit` and `exit`. When a namespace ends, its
        // slot is cleared after its last device has gone, and with it the last packet:
        // `default_device_exit_batch()` comes before the `exit` of any subsystem, and waits for a
        // grace period (`unregister_netdevice_many()`).
        unsafe { Registration::<Self>::slot(packet.namespace().as_ptr()).as_ref() }
    }
}

/// A [`PerNamespace`] type that is in place in every namespace, those to come included, until
/// this is dropped.
#[pin_data(PinnedDrop)]
pub struct Registration<T: PerNamespace> {
    #[pin]
    ops: Opaque<bindings::pernet_operations>,
    _state: PhantomData<T>,
}

// SAFETY: Nothing of a registration can be reached but its end.
unsafe impl<T: PerNamespace> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: PerNamespace> Sync for Registration<T> {}

impl<T: PerNamespace> Registration<T> {
    /// Puts a `T` into every namespace. May sleep. Errors: those of [`PerNamespace::new`],
    /// `ENOMEM`, and `EBUSY` where the id is in use.
    pub fn new() -> impl PinInit<Self, Error> {
        const {
            // What the core allocates is aligned for pointers and no more.
            assert!(align_of::<T>() <= align_of::<*const ()>());
        }
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|ops: *mut bindings::pernet_operations| {
                if T::ID.get().taken.xchg(true, Full) {
                    return Err(EBUSY);
                }
                let callbacks = bindings::pernet_operations {
                    init: Some(Self::init_callback),
                    pre_exit: Some(Self::pre_exit_callback),
                    exit: Some(Self::exit_callback),
                    id: T::ID.get().number.get(),
                    size: size_of::<T>(),
                    ..Default::default()
                };
                // SAFETY: `ops` is memory for the operations, pinned, and stays until the
                // unregistration in `drop`; where registering fails, the core has taken it off its
                // list again (`__register_pernet_operations()`). The core writes through `id` under
                // its lock, and nobody reads before the first callback.
                unsafe {
                    ops.write(callbacks);
                    to_result(bindings::register_pernet_subsys(ops))
                }
                .inspect(|()| T::ID.get().ready.store(true, Release))
                .inspect_err(|_| T::ID.get().taken.store(false, Release))
            }),
            _state: PhantomData,
        })
    }

    /// Where the state of a namespace lies, in memory that the core allocates and frees.
    ///
    /// # Safety
    ///
    /// The type is registered, and the namespace is between the core's call of
    /// `init_callback` and the end of its call of `exit_callback`.
    pub(super) unsafe fn slot(net: *mut bindings::net) -> *mut T {
        // SAFETY: By the contract the id is valid in this namespace: `ops_init()` has put the slot
        // there before `init_callback`, and `ops_free_list()` frees it after `exit_callback`.
        unsafe { bindings::ip_vs_reuse_net_generic(net, *T::ID.get().number.get()).cast() }
    }

    /// # Safety
    ///
    /// To be called by the core only, for a registration of this type.
    unsafe extern "C" fn init_callback(net: *mut bindings::net) -> c_int {
        from_result(|| {
            // SAFETY: The core passes a namespace that is being set up (`setup_net()`), or one in
            // use, which cannot end meanwhile: `pernet_ops_rwsem` is held.
            let namespace = unsafe { Namespace::from_raw(net) };
            // SAFETY: We are in `init_callback`.
            let slot = unsafe { Self::slot(net) };
            // SAFETY: `ops_init()` allocated the slot for this, of our size and aligned for
            // pointers (`kzalloc()`), which `new` asserts to do; nobody looks there yet.
            unsafe { slot.write(T::new(namespace)?) };

            let Some(file) = T::PROC_FILE else {
                return Ok(0);
            };
            // SAFETY: `proc_net` is the namespace's directory, which `proc_net_ns_init()` made
            // before us. The file is taken away in `pre_exit_callback`, while the state is still
            // there, and readers with it: `remove_proc_entry()` waits for them
            // (`proc_entry_rundown()`).
            let file = unsafe {
                bindings::proc_create_net_single(
                    file.name.as_char_ptr(),
                    0o444,
                    bindings::ip_vs_reuse_proc_net(net),
                    Some(Self::show_callback),
                    ptr::null_mut(),
                )
            };
            if file.is_null() {
                // `ops_init()` frees the slot, and the core calls nothing more for it.
                // SAFETY: It was just written, and nobody has it.
                unsafe { slot.drop_in_place() };
                return Err(ENOMEM);
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// To be called by the core only, for a registration of this type.
    unsafe extern "C" fn pre_exit_callback(net: *mut bindings::net) {
        if let Some(file) = T::PROC_FILE {
            // SAFETY: The core calls this once after a successful `init_callback`, which made the
            // file. `proc_net` goes away after our callbacks: `ops_undo_list()` calls those first
            // that were registered last, and `proc_net_ns_ops` is there from boot on.
            unsafe {
                bindings::remove_proc_entry(
                    file.name.as_char_ptr(),
                    bindings::ip_vs_reuse_proc_net(net),
                )
            };
        }
        // SAFETY: The namespace is alive until all callbacks have returned, and `init_callback` has
        // put the state into the slot, which `exit_callback` empties.
        let (namespace, state) = unsafe { (Namespace::from_raw(net), &*Self::slot(net)) };
        state.pre_exit(namespace);
    }

    /// # Safety
    ///
    /// To be called by the core only, for a registration of this type.
    unsafe extern "C" fn exit_callback(net: *mut bindings::net) {
        // SAFETY: The core calls this once, after `pre_exit_callback` and a grace period
        // (`ops_undo_list()`): no reader of the file has the slot any more, and no packet, as
        // said in `of`.
        unsafe { Self::slot(net).drop_in_place() };
    }

    /// # Safety
    ///
    /// To be called by the core only, for a registration of this type.
    unsafe extern "C" fn show_callback(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The file is one of `proc_create_net_single()`: `single_open_net()` keeps the
        // namespace, and has put it where `seq_file_single_net()` looks. While the file is there,
        // so is the state.
        let (file, state) = unsafe {
            let net = bindings::ip_vs_reuse_seq_file_single_net(seq);
            (SeqFile::from_raw(seq), &*Self::slot(net))
        };
        if let Some(ProcFile { show, .. }) = T::PROC_FILE {
            show(state, file);
        }
        0
    }
}

#[pinned_drop]
impl<T: PerNamespace> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        T::ID.get().ready.store(false, Release);
        // SAFETY: It was registered by `new`, or this object would not be.
        unsafe { bindings::unregister_pernet_subsys(self.ops.get()) };
        T::ID.get().taken.store(false, Release);
    }
}
