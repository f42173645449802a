// SPDX-License-Identifier: GPL-2.0

//! Delayed work that can schedule itself again.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use kernel::{
    container_of,
    prelude::*,
    sync::atomic::{AtomicFlag, Relaxed},
    time::{msecs_to_jiffies, Msecs},
    types::Opaque,
};

/// The function that a [`Work`] runs, with its data.
pub trait Task: Send + Sync + 'static {
    /// Does the work. May sleep. Returns the delay until the next run in milliseconds, or `None` to
    /// wait for [`Work::schedule`].
    ///
    /// Must not drop or stop its [`Work`], which would deadlock.
    fn run(&self) -> Option<Msecs>;
}

/// A [`Task`], and a work item that runs it (`struct delayed_work`). Two runs never overlap.
///
/// It must be dropped, or stopped, before the module is unloaded, which unloads the task's code.
///
/// # Examples
///
/// ```
/// # use kernel::time::Msecs;
/// struct Tick;
///
/// impl Task for Tick {
///     fn run(&self) -> Option<Msecs> {
///         pr_info!("a second has passed\n");
///         Some(1000)
///     }
/// }
///
/// fn start() -> Result<Pin<KBox<Work<Tick>>>> {
///     let work = KBox::pin_init(Work::new(Ok(Tick)), GFP_KERNEL)?;
///     work.schedule(1000);
///     Ok(work)
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct Work<T: Task> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    /// Set by `stop`, so that `drop` need not sleep.
    stopped: AtomicFlag,
    #[pin]
    task: T,
}

// SAFETY: Any thread may run and drop a task, and call `disable_delayed_work_sync()`.
unsafe impl<T: Task> Send for Work<T> {}
// SAFETY: Any thread may call `queue_delayed_work_on()`, `mod_delayed_work_on()` and
// `disable_delayed_work_sync()` at the same time as others. A `T` is `Sync`.
unsafe impl<T: Task> Sync for Work<T> {}

impl<T: Task> Work<T> {
    /// A work item that is not scheduled. Errors: those of the initializer.
    pub fn new(task: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` is pinned, and valid until `drop` has stopped it.
                unsafe {
                    bindings::ip_vs_reuse_init_delayed_work(work, Some(Self::work_callback))
                }
            }),
            stopped: AtomicFlag::new(false),
            task <- task,
        })
    }

    /// Returns the task.
    #[inline]
    pub fn task(&self) -> &T {
        &self.task
    }

    /// Runs the task in some milliseconds, unless it is scheduled already. If the task is running
    /// now, it runs once more. Does nothing after [`Work::stop`]. Any context but NMI.
    pub fn schedule(&self, delay: Msecs) {
        // SAFETY: The queue exists as long as the kernel.
        let queue = unsafe { bindings::system_dfl_wq };
        // SAFETY: `new` has initialized the work, and `drop` stops it.
        unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as i32,
                queue,
                self.work.get(),
                msecs_to_jiffies(delay),
            )
        };
    }

    /// Runs the task as soon as possible, even if it is scheduled for later. If the task is running
    /// now, it runs once more. Does nothing after [`Work::stop`]. Any context but NMI.
    pub fn schedule_now(&self) {
        // SAFETY: The queue exists as long as the kernel.
        let queue = unsafe { bindings::system_dfl_wq };
        // SAFETY: `new` has initialized the work, and `drop` stops it.
        unsafe {
            bindings::mod_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as i32,
                queue,
                self.work.get(),
                0,
            )
        };
    }

    /// Keeps the task from running ever again, and waits for a run that is in progress. May sleep.
    pub fn stop(&self) {
        // SAFETY: `new` has initialized the work.
        unsafe { bindings::disable_delayed_work_sync(self.work.get()) };
        self.stopped.store(true, Relaxed);
    }

    /// # Safety
    ///
    /// Only the workqueue may call this, for the work of a `Work<T>`.
    unsafe extern "C" fn work_callback(work: *mut bindings::work_struct) {
        // SAFETY: By the contract `work` is part of a `delayed_work`.
        let work = unsafe { container_of!(work, bindings::delayed_work, work) };
        // SAFETY: By the contract the `delayed_work` is part of a `Work<T>`; `Opaque` is a
        // transparent wrapper.
        let this = unsafe { container_of!(Opaque::cast_from(work), Self, work) };
        // SAFETY: `drop` waits until this function has returned.
        let this = unsafe { &*this };
        if let Some(delay) = this.task.run() {
            this.schedule(delay);
        }
    }
}

#[pinned_drop]
impl<T: Task> PinnedDrop for Work<T> {
    /// May sleep, unless the work has been stopped.
    fn drop(self: Pin<&mut Self>) {
        if !self.stopped.load(Relaxed) {
            self.stop();
        }
    }
}
