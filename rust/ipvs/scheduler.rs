// SPDX-License-Identifier: GPL-2.0

//! Schedulers: which real server gets a new connection.

use super::{Destination, Service};
use crate::base::{rcu_barrier, synchronize_rcu, RcuBox, Retired};
use crate::bindings;
use crate::net::Packet;
use core::marker::PhantomData;
use core::ptr;
use kernel::{
    error::{from_result, to_result, VTABLE_DEFAULT_ERROR},
    ffi::c_int,
    prelude::*,
    sync::rcu::{self, Guard},
    types::Opaque,
};

/// A scheduler for virtual services.
///
/// The callbacks for changes run in process context, one at a time for a service, and may
/// sleep. What they answer reaches the administrator from [`Scheduler::init_service`] only:
/// IPVS discards the others'.
#[vtable]
pub trait Scheduler: Sized + 'static {
    /// The name for `ipvsadm -s`. A module that registers it for services to load by
    /// themselves has the alias `ip_vs_NAME`.
    const NAME: &'static CStr;

    /// What the scheduler keeps for a service. All callbacks share it, and `schedule` runs at
    /// the same time as the others. It is dropped an RCU grace period after `done_service`, in
    /// softirq: its destructor must not sleep.
    type Data: Send + Sync + 'static;

    /// A service begins to use this scheduler: makes its data. An error is the answer to
    /// ipvsadm, and the service stays as it was.
    fn init_service(service: &Service) -> Result<Self::Data>;

    /// A service is done with this scheduler. Packets may still be in `schedule`.
    fn done_service(_data: &Self::Data, _service: &Service) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// A real server is in the list now.
    fn add_destination(_data: &Self::Data, _service: &Service, _new: &Destination) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// A real server is not in the list any more.
    fn delete_destination(_data: &Self::Data, _service: &Service, _old: &Destination) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// A real server's weight or thresholds were set.
    fn update_destination(_data: &Self::Data, _service: &Service, _it: &Destination) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Chooses the real server for a packet that opens a connection; `None` refuses it.
    /// Softirq or process context, and must not sleep. Where an ICMP error opens the connection
    /// (`schedule_icmp`), the packet is that.
    fn schedule<'a>(
        data: &'a Self::Data,
        service: &'a Service,
        packet: &Packet,
        guard: &'a Guard,
    ) -> Option<&'a Destination>;
}

/// The C callbacks of a scheduler.
struct Adapter<T: Scheduler>(PhantomData<T>);

impl<T: Scheduler> Adapter<T> {
    /// The service's data.
    ///
    /// # Safety
    ///
    /// The service uses this scheduler, or did so when this RCU read side began.
    #[inline]
    unsafe fn data<'a>(svc: *mut bindings::ip_vs_service) -> &'a T::Data {
        // SAFETY: By the contract `init_callback` set the pointer, and the data are there until
        // a grace period after `done_callback`. A packet reads the pointer after it has found the
        // scheduler (`smp_rmb()` in `ip_vs_schedule()` and `ip_vs_sched_persist()`), and another
        // scheduler's data come a grace period later (`synchronize_rcu()` in
        // `ip_vs_edit_service()`): nobody writes to it meanwhile.
        unsafe { &*(*svc).sched_data.cast() }
    }

    /// # Safety
    ///
    /// To be called by IPVS only, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn init_callback(svc: *mut bindings::ip_vs_service) -> c_int {
        from_result(|| {
            // SAFETY: IPVS passes a valid service, whose configuration it has locked
            // (`service_mutex`).
            let data = T::init_service(unsafe { Service::from_raw(svc) })?;
            let data = RcuBox::into_raw(RcuBox::new(data, GFP_KERNEL)?);
            // SAFETY: As above. `ip_vs_bind_scheduler()` publishes the scheduler, and so the data,
            // after this (`rcu_assign_pointer()`): no packet looks there yet.
            unsafe { (*svc).sched_data = data.cast() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// To be called by IPVS only, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn done_callback(svc: *mut bindings::ip_vs_service) {
        // SAFETY: `ip_vs_unbind_scheduler()` calls this once for a service that `init_callback`
        // took, when new packets do not find the scheduler there any more.
        let (service, data) = unsafe {
            (
                Service::from_raw(svc),
                Retired::<T::Data>::from_raw((*svc).sched_data.cast()),
            )
        };
        if T::HAS_DONE_SERVICE {
            T::done_service(&data, service);
        }
    }

    /// # Safety
    ///
    /// As for the callbacks below, which IPVS calls with a service that uses this scheduler and
    /// one of its real servers, its configuration locked.
    unsafe fn change(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
        callback: fn(&T::Data, &Service, &Destination) -> Result,
    ) -> c_int {
        from_result(|| {
            let dest = ptr::NonNull::new(dest).ok_or(EINVAL)?;
            // SAFETY: By the contract.
            let (data, service, destination) = unsafe {
                (
                    Self::data(svc),
                    Service::from_raw(svc),
                    Destination::from_raw(dest),
                )
            };
            callback(data, service, destination)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// To be called by IPVS only, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn add_callback(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
    ) -> c_int {
        // SAFETY: IPVS's call, as `change` wants it.
        unsafe { Self::change(svc, dest, T::add_destination) }
    }

    /// # Safety
    ///
    /// To be called by IPVS only, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn delete_callback(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
    ) -> c_int {
        // SAFETY: IPVS's call, as `change` wants it.
        unsafe { Self::change(svc, dest, T::delete_destination) }
    }

    /// # Safety
    ///
    /// To be called by IPVS only, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn update_callback(
        svc: *mut bindings::ip_vs_service,
        dest: *mut bindings::ip_vs_dest,
    ) -> c_int {
        // SAFETY: IPVS's call, as `change` wants it.
        unsafe { Self::change(svc, dest, T::update_destination) }
    }

    /// # Safety
    ///
    /// To be called by IPVS only, for a scheduler of [`SchedulerRegistration`].
    unsafe extern "C" fn schedule_callback(
        svc: *mut bindings::ip_vs_service,
        skb: *const bindings::sk_buff,
        _header: *mut bindings::ip_vs_iphdr,
    ) -> *mut bindings::ip_vs_dest {
        let guard = rcu::read_lock();
        // SAFETY: IPVS passes a service that used this scheduler in this read side, which is the
        // hook's, and a packet whose data start at its network header. The packet is only read.
        let (data, service, packet) = unsafe {
            (
                Self::data(svc),
                Service::from_raw(svc),
                Packet::from_raw(skb.cast_mut()),
            )
        };
        // The read side that IPVS itself is in makes the answer good beyond ours.
        T::schedule(data, service, packet, &guard).map_or(ptr::null_mut(), Destination::as_ptr)
    }
}

/// A scheduler that services can use until this is dropped. While one does, the module cannot
/// be unloaded.
#[pin_data(PinnedDrop)]
pub struct SchedulerRegistration<T: Scheduler> {
    #[pin]
    scheduler: Opaque<bindings::ip_vs_scheduler>,
    _scheduler: PhantomData<T>,
}

// SAFETY: Nothing of a registration can be reached but its end.
unsafe impl<T: Scheduler> Send for SchedulerRegistration<T> {}
// SAFETY: As above.
unsafe impl<T: Scheduler> Sync for SchedulerRegistration<T> {}

impl<T: Scheduler> SchedulerRegistration<T> {
    /// Registers the scheduler. May sleep. `EINVAL` where there is one of that name, `ENOENT`
    /// where IPVS is going away.
    ///
    /// The last step of a module's initialization: services may use the scheduler from here on,
    /// and the kernel does not ask them when it unloads a module whose initialization failed.
    pub fn new(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            scheduler <- Opaque::try_ffi_init(move |place: *mut bindings::ip_vs_scheduler| {
                // SAFETY: `place` is memory for the scheduler; only the address is taken.
                let list = unsafe { &raw mut (*place).n_list };
                let scheduler = bindings::ip_vs_scheduler {
                    // A list head starts out pointing at itself.
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
                // SAFETY: `place` is pinned, and stays until the scheduler is unregistered in
                // `drop`; `register_ip_vs_scheduler()` links it last, or not at all. The name is
                // static; IPVS writes to neither.
                unsafe {
                    place.write(scheduler);
                    to_result(bindings::register_ip_vs_scheduler(place))
                }
            }),
            _scheduler: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: Scheduler> PinnedDrop for SchedulerRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It was registered by `new`, or this object would not be. No service uses it,
        // or the module could not go: `ip_vs_scheduler_get()` holds a reference to it for each.
        unsafe { bindings::unregister_ip_vs_scheduler(self.scheduler.get()) };
        // Packets may still be in `schedule` (`__ip_vs_del_service()` gives the reference back
        // and waits for nothing), and who lists services at the name,
        synchronize_rcu();
        // and the data of services that are gone may wait for their grace period.
        rcu_barrier();
    }
}
