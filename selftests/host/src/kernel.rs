// SPDX-License-Identifier: GPL-2.0

//! A mock of the kernel crate, its bindings and the module's other abstractions, as far as
//! `rust/base/rcu.rs` and `rust/net/per_namespace.rs` use them. It has one thread: atomics are
//! cells, and `call_rcu_hurry()` calls back at once.

#![allow(missing_docs)]

pub struct Namespace(types::Opaque<bindings::net>);

impl Namespace {
    pub(crate) fn as_ptr(&self) -> *mut bindings::net {
        self.0.get()
    }
}

pub mod base {
    use super::prelude::PinInit;

    /// # Safety
    ///
    /// `slot` is valid for writes, and not moved until it is dropped.
    pub unsafe fn raw_try_init<T, E>(slot: *mut T, init: impl PinInit<T, E>) -> Result<(), E> {
        // SAFETY: By the contract.
        unsafe { init.__init(slot) }
    }
}

pub mod alloc {
    pub struct Flags;
}

pub mod ffi {
    pub use core::ffi::c_uint;
}

pub mod prelude {
    use super::alloc::Flags;
    pub use core::ffi::CStr;
    use core::mem::MaybeUninit;
    use std::boxed::Box;

    pub const GFP_KERNEL: Flags = Flags;

    #[derive(Debug)]
    pub struct Error;

    pub type Result<T = (), E = Error> = core::result::Result<T, E>;

    /// # Safety
    ///
    /// `__init` initializes what it is given, unless it returns an error.
    pub unsafe trait PinInit<T, E> {
        /// # Safety
        ///
        /// `slot` is valid for writes, and not moved until it is dropped.
        unsafe fn __init(self, slot: *mut T) -> Result<(), E>;
    }

    pub struct KBox<T>(Box<T>);

    impl<T> KBox<MaybeUninit<T>> {
        pub fn as_mut_ptr(&mut self) -> *mut T {
            self.0.as_mut_ptr()
        }

        /// # Safety
        ///
        /// The value has been initialized.
        pub unsafe fn assume_init(self) -> KBox<T> {
            // SAFETY: By the contract.
            KBox(unsafe { self.0.assume_init() })
        }
    }

    impl<T> KBox<T> {
        pub fn new_uninit(_: Flags) -> Result<KBox<MaybeUninit<T>>> {
            Ok(KBox(Box::new_uninit()))
        }

        pub fn new(value: T, _: Flags) -> Result<Self> {
            Ok(Self(Box::new(value)))
        }

        pub fn leak<'a>(this: Self) -> &'a mut T {
            Box::leak(this.0)
        }

        /// # Safety
        ///
        /// `ptr` comes from [`KBox::leak`], and nobody else takes it back.
        pub unsafe fn from_raw(ptr: *mut T) -> Self {
            // SAFETY: By the contract.
            Self(unsafe { Box::from_raw(ptr) })
        }
    }
}

pub mod netfilter {
    pub struct HookState(super::Namespace);

    impl HookState {
        pub(crate) fn namespace(&self) -> &super::Namespace {
            &self.0
        }
    }
}

pub mod seq_file {
    pub struct SeqFile;
}

pub mod sync {
    pub mod atomic {
        use core::cell::Cell;

        pub struct Acquire;
        pub struct Full;
        pub struct Atomic<T: Copy>(Cell<T>);
        pub type AtomicFlag = Atomic<bool>;

        impl<T: Copy> Atomic<T> {
            pub const fn new(value: T) -> Self {
                Self(Cell::new(value))
            }

            pub fn load(&self, _: Acquire) -> T {
                self.0.get()
            }

            pub fn xchg(&self, value: T, _: Full) -> T {
                self.0.replace(value)
            }
        }
    }

    pub mod rcu {
        pub struct Guard;

        pub fn read_lock() -> Guard {
            Guard
        }
    }
}

pub mod types {
    use core::{cell::UnsafeCell, mem::MaybeUninit};

    #[repr(transparent)]
    pub struct Opaque<T>(UnsafeCell<MaybeUninit<T>>);

    impl<T> Opaque<T> {
        pub const fn uninit() -> Self {
            Self(UnsafeCell::new(MaybeUninit::uninit()))
        }

        pub const fn zeroed() -> Self {
            Self(UnsafeCell::new(MaybeUninit::zeroed()))
        }

        pub const fn get(&self) -> *mut T {
            self.0.get().cast()
        }

        pub const fn cast_into(this: *const Self) -> *mut T {
            this.cast::<T>().cast_mut()
        }
    }
}

#[allow(clippy::missing_safety_doc, non_camel_case_types)]
pub mod bindings {
    use core::ffi::{c_uint, c_void};

    pub struct callback_head;
    pub struct net;

    pub unsafe fn ip_vs_reuse_call_rcu_hurry(
        head: *mut callback_head,
        callback: Option<unsafe extern "C" fn(*mut callback_head)>,
    ) {
        if let Some(callback) = callback {
            // SAFETY: The caller of the kernel's function, too, must pass a `head` that is valid for
            // `callback`.
            unsafe { callback(head) };
        }
    }

    pub unsafe fn ip_vs_reuse_net_generic(_: *mut net, _: c_uint) -> *mut c_void {
        core::ptr::null_mut()
    }
}
