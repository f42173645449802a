// SPDX-License-Identifier: GPL-2.0

//! Values that readers find without a lock, and that go away a grace period later.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::bindings;
use core::marker::PhantomData;
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

/// Waits for a grace period: until all read sides that have begun are over. May sleep; not to be
/// called under a [`Guard`], whose read side it would end where RCU is not preemptible.
pub fn synchronize_rcu() {
    // SAFETY: In a context that may sleep, outside of read sides (`kernel/rcu/tree.c`): the callers
    // are init, exit, changes and drops, which hold no guard there. No type sees to that.
    unsafe { bindings::synchronize_rcu() };
}

/// A value with what RCU needs to come back to it.
#[repr(C)]
struct Node<T> {
    head: Opaque<bindings::callback_head>,
    value: T,
}

/// A box whose value is dropped an RCU grace period after the box is, in softirq: its
/// destructor must not sleep. Code that makes such boxes calls [`RcuBox::barrier`] before it
/// is unloaded.
///
/// # Invariants
///
/// The pointer is to a node that this box owns.
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
        // INVARIANT: The node was just made, and the box is given up.
        Ok(Self(NonNull::from(KBox::leak(node)), PhantomData))
    }

    /// Gives the box up for a pointer.
    pub fn into_raw(this: Self) -> *mut T {
        let node = core::mem::ManuallyDrop::new(this).0.as_ptr();
        // SAFETY: The node is valid by the type's invariants.
        unsafe { &raw mut (*node).value }
    }

    /// Takes a box back.
    ///
    /// # Safety
    ///
    /// `value` comes from [`RcuBox::into_raw`] and is not used as a box again.
    pub unsafe fn from_raw(value: *mut T) -> Self {
        // SAFETY: By the contract the value is the one in a node, which is not null.
        let node = unsafe { NonNull::new_unchecked(node_of(value)) };
        // INVARIANT: `into_raw` gave the node up, and nobody has taken it since.
        Self(node, PhantomData)
    }

    /// Waits until the values of all boxes that have been dropped are, but not those of boxes
    /// that were values in them. May sleep, for a grace period and more; no more under a guard than
    /// [`synchronize_rcu`].
    pub fn barrier() {
        // SAFETY: As for `synchronize_rcu()`.
        unsafe { bindings::rcu_barrier() };
    }

    /// # Safety
    ///
    /// To be called by RCU only, for a node that `drop` gave up.
    unsafe extern "C" fn drop_callback(head: *mut bindings::callback_head) {
        // CAST: `head` is the first member of a `#[repr(C)]` node.
        // SAFETY: `drop` gave up a node that came from a `KBox`; `rcu_do_batch()` calls this once,
        // when the grace period is over.
        drop(unsafe { KBox::from_raw(head.cast::<Node<T>>()) });
    }
}

/// The node that a value is in.
///
/// # Safety
///
/// The value is in a node.
unsafe fn node_of<T>(value: *mut T) -> *mut Node<T> {
    // SAFETY: By the contract the node starts that much before the value.
    unsafe { value.byte_sub(core::mem::offset_of!(Node<T>, value)).cast() }
}

impl<T: Send + Sync> Deref for RcuBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The node is valid by the type's invariants.
        unsafe { &(*self.0.as_ptr()).value }
    }
}

impl<T: Send + Sync> Drop for RcuBox<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants the node is ours, and we give it up: `call_rcu()` has
        // its head, and nobody else the node, until it calls back. That the code is still there
        // then is for `barrier` to see to.
        unsafe {
            bindings::call_rcu(
                Opaque::cast_into(&raw const (*self.0.as_ptr()).head),
                Some(Self::drop_callback),
            )
        };
    }
}

/// A place where readers find the newest value, if there is one. It borrows itself to them, so
/// that its own end, unlike a value's replacement, need not wait.
///
/// # Invariants
///
/// The pointer is null or from [`RcuBox::into_raw`].
pub struct Published<T: Send + Sync + 'static>(Atomic<*mut T>, PhantomData<T>);

// SAFETY: As for the box whose pointer it is.
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T: Send + Sync> Published<T> {
    /// Publishes `value`, or that there is none, and returns what was published until now, to be
    /// dropped: readers may still have it. Writers may race: the last one wins.
    pub fn replace(&self, value: Option<RcuBox<T>>) -> Option<RcuBox<T>> {
        let new = value.map_or(ptr::null_mut(), RcuBox::into_raw);
        // Ordered, for those who find the new value, and for the owner of the old.
        let old = self.0.xchg(new, Full);
        // SAFETY: By the type's invariants; it cannot be found here again.
        (!old.is_null()).then(|| unsafe { RcuBox::from_raw(old) })
    }

    /// The newest value. Any context.
    #[inline]
    pub fn read<'a>(&'a self, _guard: &'a Guard) -> Option<&'a T> {
        // SAFETY: By the type's invariants null or valid; dropped a grace period after it was
        // replaced (`RcuBox::drop`), when the guard's read side is over, or with this place, which
        // is borrowed. `replace` made it visible whole: its exchange is a release.
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
            // Not by RCU: no reader is left, and a callback that comes from a callback is one
            // that a barrier does not wait for.
            let node = core::mem::ManuallyDrop::new(last).0;
            // SAFETY: The node came from a `KBox`, and the box that owned it is given up.
            drop(unsafe { KBox::from_raw(node.as_ptr()) });
        }
    }
}
