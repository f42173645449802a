// SPDX-License-Identifier: GPL-2.0

//! IPVS: its state in a namespace, its connection entries, real servers and schedulers.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

mod conn;
mod destination;
mod scheduler;
mod service;

pub use self::conn::Conn;
pub use self::destination::{Destination, HeldDestination};
pub use self::scheduler::{Scheduler, SchedulerRegistration};
pub use self::service::Service;

use crate::bindings;
use crate::net::{Family, Namespace, Packet};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use kernel::types::Opaque;

/// IPVS in one namespace (`struct netns_ipvs`).
///
/// # Invariants
///
/// It is the IPVS of a namespace that is alive.
#[repr(transparent)]
pub struct Ipvs(Opaque<bindings::netns_ipvs>);

/// Reads a setting that the administrator may be changing.
macro_rules! read_setting {
    ($ipvs:expr, $($field:tt)+) => {
        // SAFETY: Valid by the invariants of `Ipvs`; an aligned integer, read once.
        unsafe { (&raw const (*$ipvs.0.get()).$($field)+).read_volatile() }
    };
}

impl Ipvs {
    /// The IPVS of a namespace, if there is one. A load.
    #[inline]
    pub fn of(namespace: &Namespace) -> Option<&Self> {
        // SAFETY: The namespace is alive by its invariants, and so is its IPVS: the module
        // `ip_vs`, whose symbols we use, takes it away after all that registered later.
        unsafe {
            namespace
                .as_ptr()
                .byte_add(bindings::IP_VS_REUSE_OFFSET_OF_NET_IPVS)
                .cast::<*mut Self>()
                .read()
                .as_ref()
        }
    }

    /// Whether IPVS looks at packets of this family: it does from the first service on.
    #[inline]
    pub fn has_hooks(&self, family: Family) -> bool {
        let bit = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        read_setting!(self, hooks_afmask) & bit != 0
    }

    /// Whether this director is a backup that leaves packets alone (`backup_only`).
    #[inline]
    pub fn is_idle_backup(&self) -> bool {
        read_setting!(self, sync_state) as u32 & bindings::IP_VS_STATE_BACKUP != 0
            && read_setting!(self, sysctl_backup_only) != 0
    }

    /// The setting `conn_reuse_mode`.
    #[inline]
    pub fn conn_reuse_mode(&self) -> i32 {
        read_setting!(self, sysctl_conn_reuse_mode)
    }

    /// The setting `expire_nodest_conn`.
    #[inline]
    pub fn expire_nodest_conn(&self) -> bool {
        read_setting!(self, sysctl_expire_nodest_conn) != 0
    }

    /// Finds the entry of the flow that a client's packet belongs to. RCU read side; one
    /// lookup in a hash table, and a reference.
    pub fn find_conn(&self, family: Family, packet: &Packet) -> Option<Conn> {
        let af = family.number().into();
        let mut header = MaybeUninit::<bindings::ip_vs_iphdr>::zeroed();
        // SAFETY: The packet is valid by its invariants, and `header` a local.
        let cp = unsafe {
            if !bindings::ip_vs_reuse_ip_vs_fill_iph_skb(af, packet.as_ptr(), header.as_mut_ptr()) {
                return None;
            }
            bindings::ip_vs_conn_in_get_proto(self.0.get(), af, packet.as_ptr(), header.as_ptr())
        };
        // SAFETY: The lookup took a reference for us.
        NonNull::new(cp).map(|cp| unsafe { Conn::from_raw(cp) })
    }
}
