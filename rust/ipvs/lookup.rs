// SPDX-License-Identifier: GPL-2.0

//! The first part of `ip_vs_in_hook()`: its checks, and the lookup of a packet's connection entry.
//! For a stock kernel only.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::{Conn, Ipvs, ReopenedFlow};
use crate::bindings;
use crate::net::{Family, Namespace, Transport};
use crate::netfilter::HookPacket;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use kernel::sync::{
    aref::ARef,
    atomic::{atomic_load, Relaxed},
};

impl Ipvs {
    /// The state of IPVS in a namespace; `None` if IPVS has none there. One load.
    #[inline]
    pub fn of(namespace: &Namespace) -> Option<&Self> {
        // SAFETY: The namespace is alive by its invariants, and the offset is that of a field.
        let field = unsafe {
            namespace
                .as_ptr()
                .byte_add(bindings::IP_VS_REUSE_OFFSET_OF_NET_IPVS)
        };
        // SAFETY: The field is valid, and does not change while our callbacks can run:
        // `__ip_vs_init()` sets it before them (`setup_net()` calls subsystems in the order of
        // registration), and `__ip_vs_cleanup_batch()` clears it after them (`ops_undo_list()` goes
        // in reverse order, and calls `pre_exit` first).
        let ipvs = unsafe { field.cast::<*mut bindings::netns_ipvs>().read() };
        // SAFETY: If the pointer is not null, IPVS is valid for as long as the namespace is alive.
        // The module `ip_vs` cannot be unloaded before this one, which uses its symbols.
        (!ipvs.is_null()).then(|| unsafe { Self::from_raw(ipvs) })
    }

    /// The families whose hooks IPVS has registered: bit 0 is IPv4, bit 1 is IPv6.
    #[inline]
    fn hooks_afmask(&self) -> u32 {
        // SAFETY: IPVS is valid by the type's invariants; only the address is taken.
        let mask = unsafe { &raw mut (*self.as_ptr()).hooks_afmask };
        // SAFETY: The field is valid, and C writes it whole.
        unsafe { atomic_load(mask, Relaxed) }
    }

    /// Whether the namespace has services. IPVS has hooks only where it has services. One load.
    pub fn has_services(&self) -> bool {
        self.hooks_afmask() != 0
    }

    /// Whether IPVS has hooks for this family.
    #[inline]
    fn has_hooks(&self, family: Family) -> bool {
        let bit = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        self.hooks_afmask() & bit != 0
    }

    /// Whether this director is a backup that does not handle packets (`backup_only`).
    #[inline]
    fn is_backup_only(&self) -> bool {
        // SAFETY: IPVS is valid by the type's invariants; only the address is taken.
        let state = unsafe { &raw mut (*self.as_ptr()).sync_state };
        // SAFETY: The field is valid. C writes it whole: it is volatile.
        let state = unsafe { atomic_load(state, Relaxed) };
        // SAFETY: IPVS is valid by the type's invariants; only the address is taken.
        let backup_only = unsafe { &raw mut (*self.as_ptr()).sysctl_backup_only };

        state as u32 & bindings::IP_VS_STATE_BACKUP != 0
            // SAFETY: The field is valid, and C writes it whole (`proc_dointvec()`).
            && unsafe { atomic_load(backup_only, Relaxed) } != 0
    }

    /// Whether `ip_vs_in_hook()` would look up the packet's entry. IPVS must not have handled the
    /// packet yet. A few loads.
    #[inline]
    pub fn would_look_up(&self, packet: &HookPacket<'_>) -> bool {
        self.has_hooks(packet.state().family())
            && !self.is_backup_only()
            // SAFETY: Packet and state are valid by their invariants. `skb_to_full_sk()` handles
            // request sockets and TIME_WAIT sockets.
            && unsafe {
                bindings::ip_vs_reuse_in_hook_would_look_up(
                    packet.as_ptr(),
                    packet.state().as_ptr(),
                )
            }
    }

    /// Whether `ip_vs_in_hook()` may reschedule a UDP flow: `expire_nodest_conn` is 1, and an entry
    /// may have a destination that was deleted, or is being deleted. One load; if that is 1, two
    /// more.
    #[inline]
    pub fn may_reschedule_udp(&self) -> bool {
        // SAFETY: IPVS is valid by the type's invariants. The function reads a setting and the
        // state of a mutex and of a list head, and dereferences nothing else.
        unsafe { bindings::ip_vs_reuse_may_reschedule_udp(self.as_ptr()) }
    }
}

/// The network and transport headers of a packet, as IPVS parses them (`struct ip_vs_iphdr`).
pub struct IpHeader(bindings::ip_vs_iphdr);

impl IpHeader {
    /// Parses the headers. `None` if they cannot be read, or if the packet is a fragment without
    /// transport header.
    #[inline]
    pub fn parse(packet: &HookPacket<'_>) -> Option<Self> {
        let af = packet.state().family().number().into();
        let mut header = MaybeUninit::<bindings::ip_vs_iphdr>::zeroed();
        // SAFETY: The packet is valid by its invariants, and `header` is valid for writes.
        let filled = unsafe {
            bindings::ip_vs_reuse_ip_vs_fill_iph_skb(af, packet.as_ptr(), header.as_mut_ptr())
        };
        // SAFETY: All fields are integers, for which zeroes are valid.
        let header = unsafe { header.assume_init() };

        (filled && header.fragoffs == 0 && u8::try_from(header.protocol).is_ok())
            .then_some(Self(header))
    }

    /// The transport header.
    #[inline]
    pub fn transport(&self) -> Transport {
        Transport {
            // CAST: `parse` has checked that it fits.
            protocol: self.0.protocol as u8,
            offset: self.0.len,
        }
    }
}

impl<'a> ReopenedFlow<'a> {
    /// Puts the connection entry and returns the packet.
    #[inline]
    pub fn into_packet(self) -> HookPacket<'a> {
        self.packet
    }

    /// Finds the entry of an older flow with the packet's addresses, or gives the packet back if
    /// there is none. RCU read-side critical section; one lookup in a hash table.
    pub fn find(
        ipvs: &Ipvs,
        packet: HookPacket<'a>,
        header: &IpHeader,
    ) -> Result<Self, HookPacket<'a>> {
        let af = packet.state().family().number().into();
        // SAFETY: IPVS and the packet are valid by their invariants, and `parse` has filled the
        // header. `__ip_vs_conn_in_get()` works without a table, and takes a reference only to an
        // entry whose count is not 0 (`refcount_inc_not_zero()`).
        let cp = unsafe {
            bindings::ip_vs_conn_in_get_proto(ipvs.as_ptr(), af, packet.as_ptr(), &header.0)
        };
        let Some(cp) = NonNull::new(cp) else {
            return Err(packet);
        };
        // SAFETY: The lookup took a reference for us.
        let conn = unsafe { ARef::<Conn>::from_raw(cp.cast()) };
        Ok(Self::new(packet, header.transport(), conn))
    }
}
