// SPDX-License-Identifier: GPL-2.0

//! What IPVS itself asks before it hands a packet over, and a stock one does not.

use super::{Conn, Ipvs};
use crate::bindings;
use crate::net::{Family, Namespace, Packet};
use core::mem::MaybeUninit;
use core::ops::Deref;
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
        // `__ip_vs_init()` sets the pointer before our hooks stand (`setup_net()` goes by order of
        // registration), and `__ip_vs_cleanup_batch()` clears it after they have gone
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

    /// Whether entries may refer to a real server that has left its service, or is just leaving:
    /// only then may a UDP datagram be scheduled anew. Two loads.
    #[inline]
    pub fn may_have_lost_servers(&self) -> bool {
        // SAFETY: Valid by the type's invariants; mutex and list are looked at, not taken or
        // followed.
        unsafe { bindings::ip_vs_reuse_servers_may_have_left(self.as_ptr()) }
    }

    /// Finds the entry of the flow that a client's packet belongs to. RCU read side; one
    /// lookup in a hash table, and a reference.
    pub fn find_conn(&self, family: Family, packet: &Packet) -> Option<HeldConn> {
        let af = family.number().into();
        let mut header = MaybeUninit::<bindings::ip_vs_iphdr>::zeroed();
        // SAFETY: The packet is valid by its invariants, and `header` a local, which
        // `ip_vs_fill_iph_skb()` has filled where it is true. `__ip_vs_conn_in_get()` finds no
        // table where there is none yet, and takes a reference to what it finds only if it has one still
        // (`refcount_inc_not_zero()`).
        let cp = unsafe {
            if !bindings::ip_vs_reuse_ip_vs_fill_iph_skb(af, packet.as_ptr(), header.as_mut_ptr()) {
                return None;
            }
            bindings::ip_vs_conn_in_get_proto(self.as_ptr(), af, packet.as_ptr(), header.as_ptr())
        };
        // INVARIANT: The lookup took a reference for us.
        NonNull::new(cp).map(HeldConn)
    }
}

/// A reference to a connection entry.
///
/// # Invariants
///
/// The pointer is to a valid entry, to which this object owns a reference.
pub struct HeldConn(NonNull<bindings::ip_vs_conn>);

impl Deref for HeldConn {
    type Target = Conn;

    #[inline]
    fn deref(&self) -> &Conn {
        // SAFETY: Valid by the type's invariants, and held.
        unsafe { Conn::from_raw(self.0) }
    }
}

impl Drop for HeldConn {
    #[inline]
    fn drop(&mut self) {
        // `ip_vs_conn_put()` would start the entry's timer again: only IPVS itself may.
        // SAFETY: The reference is ours by the type's invariants, and not the last:
        // `ip_vs_conn_unlink()` leaves the table its own for as long as there is another.
        unsafe { bindings::ip_vs_reuse___ip_vs_conn_put(self.0.as_ptr()) };
    }
}
