// SPDX-License-Identifier: GPL-2.0

//! Values that readers access under RCU. A writer replaces a value, and the old value is dropped
//! after a grace period.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::base::raw_try_init;
use crate::bindings;
use core::marker::PhantomData;
use core::mem::{offset_of, ManuallyDrop};
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

/// A value with an RCU head.
#[repr(C)]
struct Node<T> {
    head: Opaque<bindings::callback_head>,
    value: T,
}

/// A box for a value that will be [published](Published). No reader has the value yet, so dropping
/// the box drops the value at once.
///
/// # Invariants
///
/// The pointer is to a node that was allocated in a `KBox`, and this box owns the node alone.
pub struct RcuBox<T: Send + Sync + 'static>(NonNull<Node<T>>, PhantomData<T>);

// SAFETY: The box owns its value.
unsafe impl<T: Send + Sync> Send for RcuBox<T> {}
// SAFETY: A shared box gives shared access to its value.
unsafe impl<T: Send + Sync> Sync for RcuBox<T> {}

impl<T: Send + Sync> RcuBox<T> {
    /// Moves a value into a box. `ENOMEM` if the allocation fails.
    pub fn new(value: T, flags: Flags) -> Result<Self> {
        let node = KBox::new(
            Node {
                head: Opaque::uninit(),
                value,
            },
            flags,
        )?;
        // INVARIANT: The node was just allocated in a `KBox`, which has given it up.
        Ok(Self(NonNull::from(KBox::leak(node)), PhantomData))
    }

    /// Initializes a value in a box, in its final place. After it was published, its destructor
    /// must not sleep: a `Work` must have been stopped. `ENOMEM` if the allocation
    /// fails; else the errors of the initializer.
    pub fn pin_init(init: impl PinInit<T, Error>, flags: Flags) -> Result<Self> {
        let mut node = KBox::<Node<T>>::new_uninit(flags)?;
        // SAFETY: The node is allocated; only the address is taken.
        let value = unsafe { &raw mut (*node.as_mut_ptr()).value };
        // SAFETY: The place is valid for writes. The value is not moved until it is dropped: no
        // function gives it away, or gives out a mutable reference to it.
        unsafe { raw_try_init(value, init)? };
        // SAFETY: The value was just initialized, and the head needs no initialization.
        let node = unsafe { node.assume_init() };
        // INVARIANT: The node was just allocated in a `KBox`, which has given it up.
        Ok(Self(NonNull::from(KBox::leak(node)), PhantomData))
    }

    /// Consumes the box and returns a pointer to its value.
    pub(crate) fn into_raw(this: Self) -> *mut T {
        let node = ManuallyDrop::new(this).0.as_ptr();
        // SAFETY: The node is valid by the type's invariants; only the address is taken.
        unsafe { &raw mut (*node).value }
    }
}

impl<T: Send + Sync> Drop for RcuBox<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants the box owns the node, which is from a `KBox`.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}

/// A value that was published and has been replaced. Readers may still use it, so it can only be
/// read. Dropping this drops the value after an RCU grace period.
///
/// The value is dropped in softirq, so its destructor must not sleep. A module that publishes
/// values must call `rcu_barrier()` before it is unloaded. That does not wait for callbacks that a
/// callback queues, so a `Retired` must not be kept in a value that is itself dropped by RCU. The
/// lifetime of the [`Published`] sees to it, unless that is a static or was leaked.
///
/// # Invariants
///
/// The pointer is to a node that was allocated in a `KBox`. New readers cannot find the node, and
/// only this object may free it.
pub struct Retired<'a, T: Send + Sync + 'static>(NonNull<Node<T>>, PhantomData<&'a T>);

// SAFETY: Any thread may drop a `T`.
unsafe impl<T: Send + Sync> Send for Retired<'_, T> {}
// SAFETY: A shared reference gives shared access to the value.
unsafe impl<T: Send + Sync> Sync for Retired<'_, T> {}

impl<T: Send + Sync> Retired<'_, T> {
    /// Takes over a value that was published.
    ///
    /// # Safety
    ///
    /// `value` comes from [`RcuBox::into_raw`], and nobody else takes it over. New readers cannot
    /// find it, and the others are in RCU read-side critical sections.
    pub(crate) unsafe fn from_raw(value: *mut T) -> Self {
        // SAFETY: By the contract the value is part of a node.
        let node = unsafe { value.byte_sub(offset_of!(Node<T>, value)) };
        // SAFETY: The address of a node is not 0.
        let node = unsafe { NonNull::new_unchecked(node.cast()) };
        // INVARIANT: By the contract.
        Self(node, PhantomData)
    }

    /// # Safety
    ///
    /// Only RCU may call this, for a node that `drop` has given up.
    unsafe extern "C" fn drop_callback(head: *mut bindings::callback_head) {
        // CAST: `head` is the first member of a `#[repr(C)]` node.
        // SAFETY: The node is from a `KBox`. `rcu_do_batch()` calls this once, after a grace
        // period, so no reader has the node.
        drop(unsafe { KBox::from_raw(head.cast::<Node<T>>()) });
    }
}

impl<T: Send + Sync> Deref for Retired<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The node is valid by the type's invariants.
        unsafe { &(*self.0.as_ptr()).value }
    }
}

impl<T: Send + Sync> Drop for Retired<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The node is valid by the type's invariants; only the address is taken.
        let head = unsafe { &raw const (*self.0.as_ptr()).head };
        // SAFETY: The head is valid and stays so until the callback, which frees it. Nobody else
        // uses the head. The module calls `rcu_barrier()` before it is unloaded, so the callback's
        // code is still there.
        unsafe {
            bindings::ip_vs_reuse_call_rcu_hurry(Opaque::cast_into(head), Some(Self::drop_callback))
        };
    }
}

/// A pointer to a value, or null. Readers get the newest value under RCU.
///
/// Readers borrow the `Published`, so it can drop its last value at once.
///
/// # Examples
///
/// ```
/// fn publish(table: &Published<u32>) -> Result {
///     drop(table.replace(Some(RcuBox::new(1, GFP_KERNEL)?)));
///     Ok(())
/// }
///
/// fn read(table: &Published<u32>, guard: &Guard) -> Option<u32> {
///     table.read(guard).copied()
/// }
/// ```
///
/// # Invariants
///
/// The pointer is null, or comes from `RcuBox::into_raw` and is in no other `Published`.
pub struct Published<T: Send + Sync + 'static>(Atomic<*mut T>, PhantomData<T>);

// SAFETY: It owns its value, and any thread may drop that.
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: A shared reference gives shared access to the value, and can move the value to another
// thread.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T: Send + Sync> Published<T> {
    /// Publishes `value`, or none, and returns the value that it replaces. Writers may race; the
    /// last one wins.
    pub fn replace(&self, value: Option<RcuBox<T>>) -> Option<Retired<'_, T>> {
        let new = value.map_or(ptr::null_mut(), RcuBox::into_raw);
        // Full: readers that find the new value see it initialized, and we see the old value
        // initialized.
        let old = self.0.xchg(new, Full);
        // SAFETY: By the type's invariants `old` comes from `into_raw`. New readers cannot find it
        // here, and `read` requires a guard.
        (!old.is_null()).then(|| unsafe { Retired::from_raw(old) })
    }

    /// The newest value, if there is one. Any context.
    #[inline]
    pub fn read<'a>(&'a self, _guard: &'a Guard) -> Option<&'a T> {
        // Acquire: pairs with `replace`.
        let value = self.0.load(Acquire);
        // SAFETY: By the type's invariants the pointer is null or valid. The value is dropped a
        // grace period after `replace`, and so after the guard; or together with `self`, which is
        // borrowed.
        unsafe { value.as_ref() }
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
            // No grace period is needed: readers borrow `self`, so no reader is left. Nor may one
            // be used: a `Published` may be dropped in an RCU callback, and `rcu_barrier()` does
            // not wait for callbacks that a callback queues.
            // SAFETY: The node is from a `KBox`, and nobody else has it.
            drop(unsafe { KBox::from_raw(ManuallyDrop::new(last).0.as_ptr()) });
        }
    }
}
