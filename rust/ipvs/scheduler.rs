// SPDX-License-Identifier: GPL-2.0

//! Schedulers: they choose the destination of a new connection. To add one, implement [`Scheduler`]
//! in a module of its own: a module can register one only, as the last step of its initialization.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::{Destination, Service};
use crate::base::{rcu_barrier, synchronize_rcu, GracePeriod, RcuBox, Retired, Task, Work};
use crate::bindings;
use crate::net::Packet;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use kernel::{
    error::{from_result, to_result, VTABLE_DEFAULT_ERROR},
    ffi::c_int,
    prelude::*,
    sync::rcu::{self, Guard},
    time::Msecs,
    types::Opaque,
};

/// A scheduler (`struct ip_vs_scheduler`).
///
/// # Examples
///
/// ```
/// struct First;
///
/// #[vtable]
/// impl Scheduler for First {
///     const NAME: &'static CStr = c"first";
///
///     type Data = ();
///
///     fn init_service(_: &Service) -> Result {
///         Ok(())
///     }
///
///     fn schedule<'a>(
///         _: &'a (),
///         service: &'a Service,
///         _: &Packet,
///         guard: &'a Guard,
///     ) -> Option<&'a Destination> {
///         service.destinations(guard).find(|dest| dest.weight() > 0)
///     }
/// }
/// ```
#[vtable]
pub trait Scheduler: Sized + 'static {
    /// The name for `ipvsadm -s`. IPVS loads the module with the alias `ip_vs_NAME` on demand.
    const NAME: &'static CStr;

    /// The data of one service. `update_service` and `schedule` may use it concurrently. It is
    /// dropped in softirq, an RCU grace period after the service has stopped using this scheduler:
    /// its destructor must not sleep.
    type Data: Send + Sync + 'static;

    /// Called when a service starts to use this scheduler. Returns the data for the service. An
    /// error is returned to ipvsadm. If the service had another scheduler, IPVS then tries to bind
    /// that one again. May sleep; the mutex of the services is held.
    fn init_service(service: &Service) -> Result<Self::Data>;

    /// Called after destinations have been added, deleted or edited. One call covers all changes
    /// since the last. Returns the delay after which it is to be called again even if nothing
    /// changes, in milliseconds, or `None`.
    ///
    /// A workqueue calls it soon after the first change. May sleep. No mutex is held: if
    /// destinations change meanwhile, it is called again. Calls for one service never overlap and
    /// are a grace period apart, so what earlier calls have retired does not pile up. After an
    /// error it is called again a second later.
    ///
    /// It must not wait for the mutex of the services: IPVS waits for this to return while it holds
    /// that mutex.
    fn update_service(_data: &Self::Data, _service: &Service) -> Result<Option<Msecs>> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Chooses the destination of a new connection, or refuses the connection with `None`.
    ///
    /// Softirq or process context; must not sleep. `packet` is an ICMP error if that starts the
    /// connection (`schedule_icmp`).
    fn schedule<'a>(
        data: &'a Self::Data,
        service: &'a Service,
        packet: &Packet,
        guard: &'a Guard,
    ) -> Option<&'a Destination>;
}

/// A service that uses the scheduler `T` (`svc->sched_data`).
///
/// # Invariants
///
/// The service is valid until `done_callback` has stopped the work of this task.
struct ScheduledService<T: Scheduler> {
    data: T::Data,
    svc: NonNull<bindings::ip_vs_service>,
    /// Since the last update.
    grace_period: GracePeriod,
}

// SAFETY: The data is `Send`. Any thread may use the service.
unsafe impl<T: Scheduler> Send for ScheduledService<T> {}
// SAFETY: The data is `Sync`. A shared reference gives access to the service only to `run`, which
// the work calls once at a time.
unsafe impl<T: Scheduler> Sync for ScheduledService<T> {}

impl<T: Scheduler> Task for ScheduledService<T> {
    fn run(&self) -> Option<Msecs> {
        if !self.grace_period.is_over() {
            return Some(10);
        }
        // SAFETY: The service is valid: `done_callback`, after which IPVS may free it, waits for
        // this to return.
        let service = unsafe { Service::from_raw(self.svc.as_ptr()) };
        let updated = if T::HAS_UPDATE_SERVICE {
            T::update_service(&self.data, service)
        } else {
            Ok(None)
        };
        self.grace_period.restart();
        updated.unwrap_or(Some(1000))
    }
}

/// The C callbacks of a [`Scheduler`].
struct Adapter<T: Scheduler>(PhantomData<T>);

impl<T: Scheduler> Adapter<T> {
    /// Returns the service's work, whose task has the data.
    ///
    /// # Safety
    ///
    /// `svc` is valid, and used this scheduler at some time in the current RCU read-side critical
    /// section, or the caller holds the mutex of the services and `svc` uses this scheduler.
    #[inline]
    unsafe fn work<'a>(svc: *mut bindings::ip_vs_service) -> &'a Work<ScheduledService<T>> {
        // SAFETY: The service is valid by the contract. Nobody writes the field meanwhile:
        // `init_callback` wrote it before a packet could find the scheduler (`smp_rmb()` in
        // `ip_vs_schedule()` and `ip_vs_sched_persist()`), and the next scheduler writes it a grace
        // period after this one is gone (`synchronize_rcu()` in `ip_vs_edit_service()`).
        let work = unsafe { (*svc).sched_data };
        // SAFETY: `init_callback` set the pointer, to a value that is dropped a grace period after
        // `done_callback`.
        unsafe { &*work.cast() }
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn init_callback(svc: *mut bindings::ip_vs_service) -> c_int {
        from_result(|| {
            // SAFETY: IPVS passes a valid service and holds the mutex of the services.
            let service = unsafe { Service::from_raw(svc) };
            // INVARIANT: IPVS keeps the service until it has called `done_callback`.
            let scheduled = ScheduledService::<T> {
                data: T::init_service(service)?,
                svc: NonNull::new(svc).ok_or(EINVAL)?,
                grace_period: GracePeriod::over(),
            };
            let work = RcuBox::pin_init(Work::new(Ok(scheduled)), GFP_KERNEL)?;
            // SAFETY: The service is valid, and no packet reads the field yet:
            // `ip_vs_bind_scheduler()` publishes the scheduler after this (`rcu_assign_pointer()`).
            unsafe { (*svc).sched_data = RcuBox::into_raw(work).cast() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn done_callback(svc: *mut bindings::ip_vs_service) {
        // SAFETY: IPVS passes a valid service that uses this scheduler, and holds the mutex of the
        // services.
        unsafe { Self::work(svc) }.stop();
        // SAFETY: The service is valid, and the field is written under the mutex only.
        let work: *mut Work<ScheduledService<T>> = unsafe { (*svc).sched_data }.cast();
        // SAFETY: `init_callback` set the pointer, from `RcuBox::into_raw`.
        // `ip_vs_unbind_scheduler()` calls this once, after it has hidden the scheduler from new
        // packets. The others are in RCU read-side critical sections, and the work has ended.
        drop(unsafe { Retired::from_raw(work) });
    }

    /// Called after a destination was added, deleted or edited.
    ///
    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn changed_callback(
        svc: *mut bindings::ip_vs_service,
        _dest: *mut bindings::ip_vs_dest,
    ) -> c_int {
        // SAFETY: IPVS passes a valid service that uses this scheduler, and holds the mutex of the
        // services.
        unsafe { Self::work(svc) }.schedule_now();
        0
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn schedule_callback(
        svc: *mut bindings::ip_vs_service,
        skb: *const bindings::sk_buff,
        _header: *mut bindings::ip_vs_iphdr,
    ) -> *mut bindings::ip_vs_dest {
        let guard = rcu::read_lock();
        // SAFETY: IPVS passes a service that has used this scheduler in the RCU read-side critical
        // section of the hook, which encloses this one.
        let work = unsafe { Self::work(svc) };
        // SAFETY: IPVS passes a valid service.
        let service = unsafe { Service::from_raw(svc) };
        // SAFETY: IPVS passes the packet of a hook, whose data starts at the network header. We
        // only read it.
        let packet = unsafe { Packet::from_raw(skb.cast_mut()) };

        // IPVS holds a destination that is available and of this service until the hook's critical
        // section ends. Any other is refused: its namespace may be gone. `is_available` is asked,
        // too, because the service of a namespace that is gone may have had the same address.
        T::schedule(&work.task().data, service, packet, &guard)
            .filter(|dest| dest.belongs_to(svc) && dest.is_available())
            .map_or(ptr::null_mut(), Destination::as_ptr)
    }
}

/// Keeps a [`Scheduler`] registered until dropped. The module cannot be unloaded while a service
/// uses the scheduler.
///
/// # Examples
///
/// ```
/// #[pin_data]
/// struct Module {
///     #[pin]
///     scheduler: SchedulerRegistration<First>,
/// }
///
/// fn init(module: &'static ThisModule) -> impl PinInit<Module, Error> {
///     // SAFETY: This is the last step, and the module's own data lives until it is unloaded.
///     try_pin_init!(Module { scheduler <- unsafe { SchedulerRegistration::new(module) } })
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct SchedulerRegistration<T: Scheduler> {
    #[pin]
    scheduler: Opaque<bindings::ip_vs_scheduler>,
    _scheduler: PhantomData<T>,
}

// SAFETY: A registration can only be dropped, and any thread may call
// `unregister_ip_vs_scheduler()`.
unsafe impl<T: Scheduler> Send for SchedulerRegistration<T> {}
// SAFETY: A shared reference to a registration gives access to nothing.
unsafe impl<T: Scheduler> Sync for SchedulerRegistration<T> {}

impl<T: Scheduler> SchedulerRegistration<T> {
    /// Registers the scheduler. May sleep. `EINVAL` if a scheduler of that name is registered,
    /// `ENOENT` if the module `ip_vs` is being unloaded.
    ///
    /// # Safety
    ///
    /// This must be the last step of the initialization of `module`. From here on services may use
    /// the scheduler, and the kernel unloads a module whose initialization fails even if it is in
    /// use. The registration must be kept until the module is unloaded: unregistering does not wait
    /// for services that use it.
    pub unsafe fn new(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            scheduler <- Opaque::try_ffi_init(move |place: *mut bindings::ip_vs_scheduler| {
                // SAFETY: `place` is valid for writes; only the address is taken.
                let list = unsafe { &raw mut (*place).n_list };
                let scheduler = bindings::ip_vs_scheduler {
                    // An empty list: `INIT_LIST_HEAD()`.
                    n_list: bindings::list_head { next: list, prev: list },
                    name: T::NAME.as_char_ptr().cast_mut(),
                    refcnt: bindings::atomic_t { counter: 0 },
                    module: module.as_ptr(),
                    init_service: Some(Adapter::<T>::init_callback),
                    done_service: Some(Adapter::<T>::done_callback),
                    add_dest: T::HAS_UPDATE_SERVICE.then_some(Adapter::<T>::changed_callback),
                    del_dest: T::HAS_UPDATE_SERVICE.then_some(Adapter::<T>::changed_callback),
                    upd_dest: T::HAS_UPDATE_SERVICE.then_some(Adapter::<T>::changed_callback),
                    schedule: Some(Adapter::<T>::schedule_callback),
                };
                // SAFETY: `place` is valid for writes.
                unsafe { place.write(scheduler) };
                // SAFETY: `place` is pinned, and stays valid until `drop` has unregistered it. If
                // `register_ip_vs_scheduler()` fails, it keeps no pointer to it. The name is
                // static, and IPVS does not write to it.
                to_result(unsafe { bindings::register_ip_vs_scheduler(place) })
            }),
            _scheduler: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: Scheduler> PinnedDrop for SchedulerRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` has registered the scheduler, and by its contract the module is being
        // unloaded. No service uses it then: each would hold a reference to the module
        // (`ip_vs_scheduler_get()`).
        unsafe { bindings::unregister_ip_vs_scheduler(self.scheduler.get()) };
        // For packets that are still in `schedule` (`__ip_vs_del_service()` puts the module without
        // a grace period), and for readers of the service list that print the name.
        synchronize_rcu();
        // For the data of deleted services, which `call_rcu()` callbacks drop.
        rcu_barrier();
    }
}
