// SPDX-License-Identifier: GPL-2.0

//! Schedulers: they choose the destination of a new connection.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::{Destination, Service};
use crate::base::{rcu_barrier, synchronize_rcu, RcuBox, Retired};
use crate::bindings;
use crate::net::Packet;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use kernel::{
    error::{from_result, to_result, VTABLE_DEFAULT_ERROR},
    ffi::c_int,
    prelude::*,
    sync::rcu::{self, Guard},
    types::Opaque,
};

/// A scheduler (`struct ip_vs_scheduler`).
///
/// All callbacks but `schedule` run in process context under the mutex of the services, and may
/// sleep. Only an error of [`Scheduler::init_service`] reaches the administrator: IPVS ignores what
/// the other callbacks return.
///
/// # Examples
///
/// ```ignore
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

    /// The data of one service. `schedule` may use it at the same time as any other callback. It is
    /// dropped in softirq, an RCU grace period after `done_service`: its destructor must not sleep.
    type Data: Send + Sync + 'static;

    /// Called when a service starts to use this scheduler. Returns the data for the service. On an
    /// error ipvsadm fails with it, and the service is not changed.
    fn init_service(service: &Service) -> Result<Self::Data>;

    /// Called when a service stops using this scheduler. Packets may still be in `schedule`.
    fn done_service(_data: &Self::Data, _service: &Service) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called after `dest` has been added to `svc->destinations`.
    fn add_destination(_data: &Self::Data, _service: &Service, _dest: &Destination) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called after `dest` has been removed from `svc->destinations`.
    fn delete_destination(_data: &Self::Data, _service: &Service, _dest: &Destination) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called after the weight or the thresholds of `dest` have been set.
    fn update_destination(_data: &Self::Data, _service: &Service, _dest: &Destination) -> Result {
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

/// The C callbacks of a [`Scheduler`].
struct Adapter<T: Scheduler>(PhantomData<T>);

impl<T: Scheduler> Adapter<T> {
    /// Returns the service's data.
    ///
    /// # Safety
    ///
    /// `svc` is valid, and used this scheduler at some time in the current RCU read-side critical
    /// section, or the caller holds the mutex of the services and `svc` uses this scheduler.
    #[inline]
    unsafe fn data<'a>(svc: *mut bindings::ip_vs_service) -> &'a T::Data {
        // SAFETY: The service is valid by the contract. Nobody writes the field meanwhile:
        // `init_callback` wrote it before a packet could find the scheduler (`smp_rmb()` in
        // `ip_vs_schedule()` and `ip_vs_sched_persist()`), and the next scheduler writes it a grace
        // period after this one is gone (`synchronize_rcu()` in `ip_vs_edit_service()`).
        let data = unsafe { (*svc).sched_data };
        // SAFETY: `init_callback` set the pointer, to a value that is dropped a grace period after
        // `done_callback`.
        unsafe { &*data.cast() }
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn init_callback(svc: *mut bindings::ip_vs_service) -> c_int {
        from_result(|| {
            // SAFETY: IPVS passes a valid service and holds the mutex of the services.
            let service = unsafe { Service::from_raw(svc) };
            let data = T::init_service(service)?;
            let data = RcuBox::into_raw(RcuBox::new(data, GFP_KERNEL)?);
            // SAFETY: The service is valid, and no packet reads the field yet:
            // `ip_vs_bind_scheduler()` publishes the scheduler after this (`rcu_assign_pointer()`).
            unsafe { (*svc).sched_data = data.cast() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn done_callback(svc: *mut bindings::ip_vs_service) {
        // SAFETY: IPVS passes a valid service and holds the mutex of the services.
        let service = unsafe { Service::from_raw(svc) };
        // SAFETY: The service is valid, and the mutex excludes writers of the field.
        let data = unsafe { (*svc).sched_data };
        // SAFETY: `init_callback` set the pointer, from `RcuBox::into_raw`.
        // `ip_vs_unbind_scheduler()` calls this once, after it has hidden the scheduler from new
        // packets.
        let data = unsafe { Retired::<T::Data>::from_raw(data.cast()) };

        if T::HAS_DONE_SERVICE {
            T::done_service(&data, service);
        }
    }

    /// Calls one of the callbacks about a destination.
    ///
    /// # Safety
    ///
    /// `svc` is valid and uses this scheduler, `dest` is null or valid, and the caller holds the
    /// mutex of the services.
    unsafe fn call_with_destination(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
        callback: fn(&T::Data, &Service, &Destination) -> Result,
    ) -> c_int {
        from_result(|| {
            let dest = NonNull::new(dest).ok_or(EINVAL)?;
            // SAFETY: By the contract.
            let data = unsafe { Self::data(svc) };
            // SAFETY: By the contract.
            let service = unsafe { Service::from_raw(svc) };
            // SAFETY: By the contract the destination is valid. IPVS holds a reference to it.
            let dest = unsafe { Destination::from_raw(dest) };
            callback(data, service, dest)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn add_callback(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
    ) -> c_int {
        // SAFETY: IPVS calls this under the mutex of the services, for a service that uses this
        // scheduler and one of its destinations.
        unsafe { Self::call_with_destination(svc, dest, T::add_destination) }
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn delete_callback(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
    ) -> c_int {
        // SAFETY: IPVS calls this under the mutex of the services, for a service that uses this
        // scheduler and a destination that it has just unlinked and still holds.
        unsafe { Self::call_with_destination(svc, dest, T::delete_destination) }
    }

    /// # Safety
    ///
    /// Only IPVS may call this, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn update_callback(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
    ) -> c_int {
        // SAFETY: IPVS calls this under the mutex of the services, for a service that uses this
        // scheduler and one of its destinations.
        unsafe { Self::call_with_destination(svc, dest, T::update_destination) }
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
        let data = unsafe { Self::data(svc) };
        // SAFETY: IPVS passes a valid service.
        let service = unsafe { Service::from_raw(svc) };
        // SAFETY: IPVS passes the packet of a hook, whose data starts at the network header. We
        // only read it.
        let packet = unsafe { Packet::from_raw(skb.cast_mut()) };

        // The destination stays valid after `guard`, in the hook's critical section. Another
        // service's may be from a namespace that has ended.
        T::schedule(data, service, packet, &guard)
            .filter(|dest| dest.belongs_to(svc))
            .map_or(ptr::null_mut(), Destination::as_ptr)
    }
}

/// Keeps a [`Scheduler`] registered until dropped. The module cannot be unloaded while a service
/// uses the scheduler.
///
/// # Examples
///
/// ```ignore
/// #[pin_data]
/// struct Module {
///     #[pin]
///     scheduler: SchedulerRegistration<First>,
/// }
///
/// try_pin_init!(Module { scheduler <- SchedulerRegistration::new(module) })
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
    /// This must be the last step of a module's initialization. From here on services may use the
    /// scheduler, and the kernel unloads a module whose initialization fails even if it is in use.
    /// For the same reason the registration must be kept until the module is unloaded.
    pub fn new(module: &'static ThisModule) -> impl PinInit<Self, Error> {
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
                    add_dest: T::HAS_ADD_DESTINATION.then_some(Adapter::<T>::add_callback),
                    del_dest: T::HAS_DELETE_DESTINATION.then_some(Adapter::<T>::delete_callback),
                    upd_dest: T::HAS_UPDATE_DESTINATION.then_some(Adapter::<T>::update_callback),
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
        // SAFETY: `new` has registered the scheduler, and its callers keep it until the module is
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
