// SPDX-License-Identifier: GPL-2.0

//! Values that readers find without a lock, and that are freed an RCU grace period after they were
//! replaced.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::bindings;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full},
        rcu::Guard,
    },
    types::Opaque,
};

/// Waits for a grace period: until all RCU read-side critical sections that have begun are over.
/// May sleep; not to be called under a [`Guard`], whose critical section it would end where RCU is
/// not preemptible.
pub fn synchronize_rcu() {
    // SAFETY: In a context that may sleep (`kernel/rcu/tree.c`). That no caller holds a guard is
    // seen by its reader: no type can tell.
    unsafe { bindings::synchronize_rcu() };
}

/// A value, and the head by which RCU calls back about it.
#[repr(C)]
struct Node<T> {
    head: Opaque<bindings::callback_head>,
    value: T,
}

/// A box for a value that is to be [published](Published). Nobody else has the value yet, so it is
/// dropped with the box.
///
/// # Invariants
///
/// The pointer is to a node that came from a `KBox` and that this box owns alone.
pub struct RcuBox<T: Send + Sync + 'static>(NonNull<Node<T>>, PhantomData<T>);

// SAFETY: The box owns its value.
unsafe impl<T: Send + Sync> Send for RcuBox<T> {}
// SAFETY: A shared box gives shared access to the value.
unsafe impl<T: Send + Sync> Sync for RcuBox<T> {}

impl<T: Send + Sync> RcuBox<T> {
    /// Moves a value into a box. `ENOMEM` where there is no memory.
    pub fn new(value: T, flags: Flags) -> Result<Self> {
        let node = KBox::new(
            Node {
                head: Opaque::uninit(),
                value,
            },
            flags,
        )?;
        // INVARIANT: The node was just made, and its `KBox` is given up.
        Ok(Self(NonNull::from(KBox::leak(node)), PhantomData))
    }

    /// Gives the box up for a pointer to its value.
    pub(crate) fn into_raw(this: Self) -> *mut T {
        let node = ManuallyDrop::new(this).0.as_ptr();
        // SAFETY: The node is valid by the type's invariants.
        unsafe { &raw mut (*node).value }
    }
}

impl<T: Send + Sync> Drop for RcuBox<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}

/// A value that was published. Readers may still have it: it can only be read, and is dropped an
/// RCU grace period after this is.
///
/// It is dropped in softirq, so its destructor must not sleep. A module that publishes values calls
/// `rcu_barrier()` before it is unloaded.
///
/// # Invariants
///
/// The pointer is to a node that came from a `KBox`. New readers do not find it any more, and this
/// object alone may drop it.
pub struct Retired<T: Send + Sync + 'static>(NonNull<Node<T>>, PhantomData<T>);

// SAFETY: A `T` may be dropped on another thread.
unsafe impl<T: Send + Sync> Send for Retired<T> {}
// SAFETY: A shared reference gives shared access to the value.
unsafe impl<T: Send + Sync> Sync for Retired<T> {}

impl<T: Send + Sync> Retired<T> {
    /// Takes back a published value.
    ///
    /// # Safety
    ///
    /// `value` comes from [`RcuBox::into_raw`], new readers do not find it any more, those that
    /// have found it are in RCU read-side critical sections, and nobody else takes it back.
    pub(crate) unsafe fn from_raw(value: *mut T) -> Self {
        // SAFETY: By the contract the value is the one in a node, which starts that much before it.
        let node = unsafe { value.byte_sub(core::mem::offset_of!(Node<T>, value)) };
        // SAFETY: A node is not at address 0.
        let node = unsafe { NonNull::new_unchecked(node.cast()) };
        // INVARIANT: By the contract.
        Self(node, PhantomData)
    }

    /// # Safety
    ///
    /// May be called only by RCU, for a node that `drop` gave up.
    unsafe extern "C" fn drop_callback(head: *mut bindings::callback_head) {
        // CAST: `head` is the first member of a `#[repr(C)]` node.
        // SAFETY: `drop` gave up a node that came from a `KBox`; `rcu_do_batch()` calls this once,
        // when the grace period is over.
        drop(unsafe { KBox::from_raw(head.cast::<Node<T>>()) });
    }
}

impl<T: Send + Sync> Deref for Retired<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The node is valid by the type's invariants.
        unsafe { &(*self.0.as_ptr()).value }
    }
}

impl<T: Send + Sync> Drop for Retired<T> {
    fn drop(&mut self) {
        // SAFETY: The node is valid by the type's invariants; only the address is taken.
        let head = unsafe { &raw const (*self.0.as_ptr()).head };
        // SAFETY: By the type's invariants we may drop the node, and give it up: `call_rcu()` has
        // its head, and nobody else the node but readers, until it calls back. The module calls
        // `rcu_barrier()` before it goes, so that the callback's code is still there.
        unsafe { bindings::call_rcu(Opaque::cast_into(head), Some(Self::drop_callback)) };
    }
}

/// Waits for all queued `call_rcu()` callbacks, but not for callbacks that those callbacks queue.
/// May sleep, for a grace period and more; not to be called under a [`Guard`].
pub fn rcu_barrier() {
    // SAFETY: In a context that may sleep (`kernel/rcu/tree.c`). That no caller holds a guard is
    // seen by its reader, as for `synchronize_rcu()`.
    unsafe { bindings::rcu_barrier() };
}

/// A place where readers find the newest value, if there is one.
///
/// Readers borrow this place, so that it can free its last value at once when it is dropped itself.
///
/// # Examples
///
/// ```ignore
/// let place = Published::default();
/// drop(place.replace(Some(RcuBox::new(table, GFP_KERNEL)?)));
///
/// let guard = rcu::read_lock();
/// let table = place.read(&guard);
/// ```
///
/// # Invariants
///
/// The pointer is null or from `RcuBox::into_raw`, and stands in no other place.
pub struct Published<T: Send + Sync + 'static>(Atomic<*mut T>, PhantomData<T>);

// SAFETY: It owns its value, which may be dropped on another thread.
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: A shared reference gives shared access to the value, and can move it out to another
// thread.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T: Send + Sync> Published<T> {
    /// Publishes `value`, or that there is none, and returns what was published until now. Writers
    /// may race: the last one wins.
    pub fn replace(&self, value: Option<RcuBox<T>>) -> Option<Retired<T>> {
        let new = value.map_or(ptr::null_mut(), RcuBox::into_raw);
        // Full: readers that find the new value see all of it, and we see all of the old.
        let old = self.0.xchg(new, Full);
        // SAFETY: By the type's invariants it comes from `into_raw`. It cannot be found here again,
        // and readers hold guards.
        (!old.is_null()).then(|| unsafe { Retired::from_raw(old) })
    }

    /// The newest value. Any context.
    #[inline]
    pub fn read<'a>(&'a self, _guard: &'a Guard) -> Option<&'a T> {
        // SAFETY: By the type's invariants null or valid. It is dropped a grace period after it was
        // replaced (`Retired::drop`), when the guard has ended, or with this place, which is
        // borrowed. `replace` made it visible whole: its exchange is a release.
        unsafe { self.0.load(Acquire).as_ref() }
    }
}

impl<T: Send + Sync> Default for Published<T> {
    /// No value.
    fn default() -> Self {
        Self(Atomic::new(ptr::null_mut()), PhantomData)
    }
}

impl<T: Send + Sync> Drop for Published<T> {
    fn drop(&mut self) {
        if let Some(last) = self.replace(None) {
            // Not by RCU: readers have borrowed this place, so none is left; and `rcu_barrier()`
            // would not wait for a callback that is queued by a callback.
            // SAFETY: The node came from a `KBox`, and nobody else has it.
            drop(unsafe { KBox::from_raw(ManuallyDrop::new(last).0.as_ptr()) });
        }
    }
}
