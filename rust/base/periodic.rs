// SPDX-License-Identifier: GPL-2.0

//! Work that is done once a second. Needed on a stock kernel only.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use kernel::{container_of, prelude::*, types::Opaque};

/// What is to be done once a second.
pub trait Task: Send + Sync + 'static {
    /// Does it. May sleep. What failed is tried again a second later.
    fn run(&self) -> Result;
}

/// Runs a [`Task`] at once, and then once a second until dropped, never twice at a time.
#[pin_data(PinnedDrop)]
pub struct Periodic<T: Task> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    #[pin]
    task: T,
}

// SAFETY: A task may be run and dropped on any thread, and `cancel_delayed_work_sync()` called.
unsafe impl<T: Task> Send for Periodic<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: Task> Sync for Periodic<T> {}

impl<T: Task> Periodic<T> {
    /// Begins. May sleep. Errors: those of the task, also of its first run.
    pub fn new(task: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` is memory for it, pinned until `drop` has cancelled it.
                unsafe {
                    bindings::ip_vs_reuse_init_delayed_work(work, Some(Self::work_callback))
                }
            }),
            task <- task,
        })
        .pin_chain(|this| {
            this.task.run()?;
            this.schedule();
            Ok(())
        })
    }

    fn schedule(&self) {
        // SAFETY: `new` has initialized the work, and `drop` cancels it.
        unsafe { bindings::ip_vs_reuse_schedule_next_second(self.work.get()) };
    }

    /// # Safety
    ///
    /// To be called by the workqueue only, for the work of a `Periodic<T>`.
    unsafe extern "C" fn work_callback(work: *mut bindings::work_struct) {
        // SAFETY: By the contract it is that of a `delayed_work`, and only the address is taken.
        let work = unsafe { container_of!(work, bindings::delayed_work, work) };
        // SAFETY: By the contract, likewise; `Opaque` is a transparent wrapper.
        let this = unsafe { container_of!(Opaque::cast_from(work), Self, work) };
        // SAFETY: `drop` waits for this to return before anything of it goes away.
        let this = unsafe { &*this };
        // A second later it is tried again.
        let _ = this.task.run();
        this.schedule();
    }
}

#[pinned_drop]
impl<T: Task> PinnedDrop for Periodic<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The work was initialized, or this object would not be. It may be scheduling
        // itself: `cancel_delayed_work_sync()` waits for that and prevents it.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
    }
}
