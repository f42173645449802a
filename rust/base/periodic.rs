// SPDX-License-Identifier: GPL-2.0

//! Work that runs once a second. For a stock kernel only.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use kernel::{container_of, prelude::*, types::Opaque};

/// Work for [`Periodic`].
pub trait Task: Send + Sync + 'static {
    /// Does the work. May sleep. Must not drop the [`Periodic`]: that waits for this to return.
    fn run(&self);
}

/// Runs a [`Task`] at once, and then once a second until dropped (`struct delayed_work`). Two runs
/// never overlap.
///
/// # Examples
///
/// ```ignore
/// struct Tick;
///
/// impl Task for Tick {
///     fn run(&self) {
///         pr_info!("a second has passed\n");
///     }
/// }
///
/// let ticks = KBox::pin_init(Periodic::new(Tick), GFP_KERNEL)?;
/// ```
#[pin_data(PinnedDrop)]
pub struct Periodic<T: Task> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    #[pin]
    task: T,
}

// SAFETY: Any thread may run and drop a task, and call `cancel_delayed_work_sync()`.
unsafe impl<T: Task> Send for Periodic<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: Task> Sync for Periodic<T> {}

impl<T: Task> Periodic<T> {
    /// Runs the task and schedules the next run. May sleep. Errors: those of the initializer.
    pub fn new(task: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` is pinned, and valid until `drop` has cancelled it.
                unsafe {
                    bindings::ip_vs_reuse_init_delayed_work(work, Some(Self::work_callback))
                }
            }),
            task <- task,
        })
        .pin_chain(|this| {
            this.task.run();
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
    /// Only the workqueue may call this, for the work of a `Periodic<T>`.
    unsafe extern "C" fn work_callback(work: *mut bindings::work_struct) {
        // SAFETY: By the contract `work` is part of a `delayed_work`.
        let work = unsafe { container_of!(work, bindings::delayed_work, work) };
        // SAFETY: By the contract the `delayed_work` is part of a `Periodic<T>`; `Opaque` is a
        // transparent wrapper.
        let this = unsafe { container_of!(Opaque::cast_from(work), Self, work) };
        // SAFETY: `drop` waits until this function has returned.
        let this = unsafe { &*this };
        this.task.run();
        this.schedule();
    }
}

#[pinned_drop]
impl<T: Task> PinnedDrop for Periodic<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` has initialized the work. `cancel_delayed_work_sync()` waits for a run that
        // is in progress, and keeps it from scheduling the next run.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
    }
}
