// SPDX-License-Identifier: GPL-2.0

//! Data that a module keeps in every network namespace.
//!
//! C header: [`include/net/netns/generic.h`](srctree/include/net/netns/generic.h)

use super::Namespace;
use crate::bindings;
use crate::netfilter::HookState;
use core::marker::PhantomData;
use kernel::{
    ffi::c_uint,
    prelude::*,
    seq_file::SeqFile,
    sync::atomic::{Acquire, AtomicFlag},
    types::Opaque,
};

/// The number by which [`PerNamespace`] data of type `T` is found in a namespace (the `id` of
/// `net_generic()`). Each type has one `static` of this type.
pub struct Id<T: ?Sized> {
    pub(super) number: Opaque<c_uint>,
    /// A registration uses the id.
    pub(super) taken: AtomicFlag,
    /// All namespaces have their data.
    pub(super) ready: AtomicFlag,
    _type: PhantomData<fn() -> *const T>,
}

// SAFETY: `register_pernet_subsys()` writes `number` before it calls the first callback, for the
// one registration that has set `taken`. Callbacks read it after that, and others only if `ready`
// is set.
unsafe impl<T: ?Sized> Sync for Id<T> {}

impl<T: ?Sized> Id<T> {
    /// An id that no registration uses.
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

/// A reference to a static [`Id`], for use in a constant. Before Rust 1.89 a constant cannot refer
/// to a static with interior mutability.
///
/// # Invariants
///
/// The pointer comes from a static reference.
pub struct StaticId<T: ?Sized>(*const Id<T>);

impl<T: ?Sized> StaticId<T> {
    /// Refers to a static.
    pub const fn new(id: &'static Id<T>) -> Self {
        // INVARIANT: It is a static reference.
        Self(id)
    }

    #[inline]
    pub(super) fn get(self) -> &'static Id<T> {
        // SAFETY: By the type's invariants.
        unsafe { &*self.0 }
    }
}

/// A file in `/proc/net` that shows the data of a namespace and is readable by everyone.
pub struct ProcFile<T> {
    /// The name of the file.
    pub name: &'static CStr,
    /// Writes the content. May sleep.
    pub show: fn(&T, &SeqFile),
}

/// Data that a module keeps in every network namespace while a `Registration` of it exists.
///
/// # Examples
///
/// ```
/// struct Packets(PerCpuCounters<1>);
///
/// static ID: Id<Packets> = Id::new();
///
/// impl PerNamespace for Packets {
///     const ID: StaticId<Self> = StaticId::new(&ID);
///
///     fn new(_: &Namespace) -> Result<Self> {
///         PerCpuCounters::new().map(Self)
///     }
/// }
///
/// fn count(packet: &HookPacket<'_>) {
///     if let Some(packets) = Packets::of(packet.state()) {
///         packets.0.increment(0);
///     }
/// }
/// ```
pub trait PerNamespace: Send + Sync + Sized + 'static {
    /// The [`Id`] of this type. Because it is typed, it cannot be used to look up other data.
    const ID: StaticId<Self>;

    /// The file in `/proc/net`, if there is one.
    const PROC_FILE: Option<ProcFile<Self>> = None;

    /// Makes the data of a namespace. May sleep. An error makes the creation of the namespace fail,
    /// or the registration, if this is called for a namespace that exists already.
    fn new(namespace: &Namespace) -> Result<Self>;

    /// Called when the namespace or the registration ends. May sleep. The data is dropped an RCU
    /// grace period later.
    fn pre_exit(&self, _namespace: &Namespace) {}

    /// The data in a packet's namespace; `None` if the type is not registered. A few loads.
    #[inline]
    fn of(packet: &HookState) -> Option<&Self> {
        if !Self::ID.get().ready.load(Acquire) {
            return None;
        }
        // SAFETY: All namespaces have their data, and a `HookState` exists only in an RCU read-side
        // critical section. When the registration ends, it clears `ready` a grace period before it
        // drops the data (`ops_undo_list()` waits between `pre_exit` and `exit`). When a namespace
        // ends, its devices are unregistered, which waits for a grace period, before its data is
        // dropped (`default_device_exit_batch()` calls `unregister_netdevice_many()`). A namespace
        // without devices has no packets.
        let data = unsafe { data_of::<Self>(packet.namespace().as_ptr()) };
        // SAFETY: `init_callback` has written the data, and by the above it is not dropped before
        // the critical section ends.
        Some(unsafe { &*data })
    }
}

/// Where the data of a namespace is, in memory that the core allocates and frees.
///
/// # Safety
///
/// `T` is registered, and the core has called `init_callback` for the namespace or is doing so. Its
/// call of `exit_callback` has not returned.
pub(super) unsafe fn data_of<T: PerNamespace>(net: *mut bindings::net) -> *mut T {
    // SAFETY: The registration has written the number before the first callback.
    let number = unsafe { *T::ID.get().number.get() };
    // SAFETY: By the contract the number is valid in this namespace: `ops_init()` stores the
    // pointer before it calls `init_callback`, and `ops_free_list()` frees the memory after
    // `exit_callback`.
    unsafe { bindings::ip_vs_reuse_net_generic(net, number).cast() }
}
