// SPDX-License-Identifier: GPL-2.0

//! Does what `ip_vs_in_hook()` does up to the lookup of a packet's connection entry. Needed on a
//! stock kernel only.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::conn::HeldConn;
use super::{Ipvs, ReopenedFlow};
use crate::bindings;
use crate::net::{Family, Namespace, Transport};
use crate::netfilter::HookPacket;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Reads a setting that the administrator may be changing.
macro_rules! read_setting {
    ($ipvs:expr, $field:ident) => {
        // SAFETY: Valid by the invariants of `Ipvs`; an aligned integer, read once.
        unsafe { (&raw const (*$ipvs.as_ptr()).$field).read_volatile() }
    };
}

impl Ipvs {
    /// The IPVS of a namespace, if there is one. A load.
    #[inline]
    pub fn of(namespace: &Namespace) -> Option<&Self> {
        // SAFETY: The namespace is alive by its invariants, and so is its IPVS: the module
        // `ip_vs`, whose symbols we use, is there before us and after us. In a namespace
        // `__ip_vs_init()` sets the pointer before our callbacks are called (`setup_net()` goes by
        // order of registration), and `__ip_vs_cleanup_batch()` clears it after the last of them
        // (`ops_undo_list()` goes the other way, and calls `pre_exit` first).
        unsafe {
            let ipvs = namespace
                .as_ptr()
                .byte_add(bindings::IP_VS_REUSE_OFFSET_OF_NET_IPVS)
                .cast::<*mut bindings::netns_ipvs>()
                .read();
            (!ipvs.is_null()).then(|| Self::from_raw(ipvs))
        }
    }

    /// Whether the namespace has services: then IPVS looks at its packets. A load.
    pub fn has_services(&self) -> bool {
        read_setting!(self, hooks_afmask) != 0
    }

    /// Whether IPVS looks at packets of this family: it does from the first service on.
    #[inline]
    fn has_hooks(&self, family: Family) -> bool {
        let bit = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        read_setting!(self, hooks_afmask) & bit != 0
    }

    /// Whether this director is a backup that leaves packets alone (`backup_only`).
    #[inline]
    fn is_backup_only(&self) -> bool {
        read_setting!(self, sync_state) as u32 & bindings::IP_VS_STATE_BACKUP != 0
            && read_setting!(self, sysctl_backup_only) != 0
    }

    /// Whether IPVS would look up the packet, which it has not handled yet. A few loads.
    #[inline]
    pub fn would_look_up(&self, packet: &HookPacket<'_>) -> bool {
        self.has_hooks(packet.state().family())
            && !self.is_backup_only()
            // SAFETY: Packet and state are valid by their invariants. The packet's socket may be a
            // request's or TIME_WAIT: `skb_to_full_sk()` tells them apart.
            && unsafe {
                bindings::ip_vs_reuse_in_hook_would_look_up(packet.as_ptr(), packet.state().as_ptr())
            }
    }

    /// Whether entries may refer to a real server that has left its service, or is just leaving:
    /// only then may a UDP datagram be scheduled anew. Two loads.
    #[inline]
    pub fn may_have_removed_destinations(&self) -> bool {
        // SAFETY: Valid by the type's invariants; mutex and list are looked at, not taken or
        // followed.
        unsafe { bindings::ip_vs_reuse_may_have_removed_dests(self.as_ptr()) }
    }
}

/// Where a packet's transport header is, in IPVS's terms (`struct ip_vs_iphdr`).
pub struct IpHeader(bindings::ip_vs_iphdr);

impl IpHeader {
    /// Finds the transport header; `None` for a fragment that has none, and for a packet that
    /// cannot be read.
    #[inline]
    pub fn parse(packet: &HookPacket<'_>) -> Option<Self> {
        let af = packet.state().family().number().into();
        let mut header = MaybeUninit::<bindings::ip_vs_iphdr>::zeroed();
        // SAFETY: The packet is valid by its invariants, and `header` is a local.
        let filled = unsafe {
            bindings::ip_vs_reuse_ip_vs_fill_iph_skb(af, packet.as_ptr(), header.as_mut_ptr())
        };
        // SAFETY: Zeroes are valid for all fields, and so is what C has written.
        let header = unsafe { header.assume_init() };

        (filled && header.fragoffs == 0 && u8::try_from(header.protocol).is_ok())
            .then_some(Self(header))
    }

    /// The transport header.
    #[inline]
    pub fn transport(&self) -> Transport {
        Transport {
            // `parse` has seen that it fits.
            protocol: self.0.protocol as u8,
            offset: self.0.len,
        }
    }
}

impl<'a> ReopenedFlow<'a> {
    /// Finds the entry of an older flow with the packet's addresses, or gives the packet back if
    /// there is none. RCU read-side critical section; one lookup in a hash table.
    pub fn find(
        ipvs: &Ipvs,
        packet: HookPacket<'a>,
        header: &IpHeader,
    ) -> Result<Self, HookPacket<'a>> {
        let af = packet.state().family().number().into();
        // SAFETY: IPVS and packet are valid by their invariants, and `parse` has filled the header.
        // `__ip_vs_conn_in_get()` finds no table where there is none yet, and takes a reference to
        // what it finds only if it has one still (`refcount_inc_not_zero()`).
        let cp = unsafe {
            bindings::ip_vs_conn_in_get_proto(ipvs.as_ptr(), af, packet.as_ptr(), &header.0)
        };
        match NonNull::new(cp) {
            // SAFETY: The lookup took a reference for us, beside the table's.
            Some(cp) => Ok(Self::new(packet, header.transport(), unsafe {
                HeldConn::from_raw(cp)
            })),
            None => Err(packet),
        }
    }
}
