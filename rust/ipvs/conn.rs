// SPDX-License-Identifier: GPL-2.0

//! Connection entries, and the states that each protocol has for them.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

use super::{Destination, Ipvs};
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    sync::{
        aref::AlwaysRefCounted,
        atomic::{atomic_load, Relaxed},
    },
    types::Opaque,
};

/// A connection entry (`struct ip_vs_conn`): what IPVS remembers of a flow.
///
/// An `ARef<Conn>` must be short-lived. IPVS cannot expire a held entry, and it waits for all
/// entries when a namespace ends.
///
/// # Examples
///
/// ```
/// fn has_lost_its_destination(conn: &Conn) -> bool {
///     conn.destination().is_some_and(|dest| !dest.is_available())
/// }
/// ```
///
/// # Invariants
///
/// The entry is valid, and its reference count is not 0. While it is held, IPVS keeps the entry's
/// destination and its controlling entry: `ip_vs_conn_expire()` puts both only after
/// `ip_vs_conn_unlink()` has dropped the last reference (`refcount_dec_if_one()`).
#[repr(transparent)]
pub struct Conn(Opaque<bindings::ip_vs_conn>);

impl Conn {
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::ip_vs_conn {
        self.0.get()
    }

    /// IPVS in the entry's namespace.
    #[inline]
    pub fn ipvs(&self) -> &Ipvs {
        // SAFETY: The entry is valid by the type's invariants. `ip_vs_conn_new()` sets the field,
        // and nothing changes it.
        let ipvs = unsafe { (*self.as_ptr()).ipvs };
        // SAFETY: IPVS frees the entries of a namespace before its own state there
        // (`ip_vs_conn_net_cleanup()`).
        unsafe { Ipvs::from_raw(ipvs) }
    }

    /// The state of the flow, as of this moment.
    #[inline]
    pub fn state(&self) -> ProtocolState {
        // SAFETY: The entry is valid by the type's invariants. `ip_vs_conn_new()` sets the field,
        // and nothing changes it.
        let protocol = unsafe { (*self.as_ptr()).protocol };
        // SAFETY: The entry is valid by the type's invariants; only the address is taken.
        let state = unsafe { &raw mut (*self.as_ptr()).state };
        // CAST: The kernel crate has atomic loads of `i16`, not of `u16`.
        // SAFETY: The field is valid. C writes it whole: it is volatile (`set_tcp_state()`).
        let state = unsafe { atomic_load(state.cast::<i16>(), Relaxed) } as u16;
        ProtocolState(protocol.into(), state.into())
    }

    #[inline]
    fn has_flag(&self, flag: u32) -> bool {
        // SAFETY: The entry is valid by the type's invariants; only the address is taken.
        let flags = unsafe { &raw mut (*self.as_ptr()).flags };
        // SAFETY: The field is valid. C writes it whole: it is volatile.
        let flags = unsafe { atomic_load(flags, Relaxed) };
        flags & flag != 0
    }

    /// Whether the director sees only the client's packets (`IP_VS_CONN_F_NOOUTPUT`).
    #[inline]
    pub fn is_one_way(&self) -> bool {
        self.has_flag(bindings::IP_VS_CONN_F_NOOUTPUT)
    }

    /// Whether IPVS kills the flow's conntrack when the entry expires (`IP_VS_CONN_F_NFCT`).
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.has_flag(bindings::IP_VS_CONN_F_NFCT)
    }

    /// Whether another entry controls this one (`control`).
    #[inline]
    pub fn is_controlled(&self) -> bool {
        // SAFETY: The entry is valid by the type's invariants; only the address is taken.
        let control = unsafe { &raw mut (*self.as_ptr()).control };
        // SAFETY: The field is valid, and C writes a pointer whole. It is not dereferenced.
        !unsafe { atomic_load(control, Relaxed) }.is_null()
    }

    /// Whether this entry controls others (`n_control`).
    #[inline]
    pub fn is_controlling(&self) -> bool {
        // SAFETY: The entry is valid by the type's invariants; only the address is taken.
        let n_control = unsafe { &raw mut (*self.as_ptr()).n_control.counter };
        // SAFETY: The field is valid, and an `atomic_t`.
        unsafe { atomic_load(n_control, Relaxed) != 0 }
    }

    /// The destination, if IPVS knows it.
    #[inline]
    pub fn destination(&self) -> Option<&Destination> {
        // SAFETY: The entry is valid by the type's invariants; only the address is taken.
        let dest = unsafe { &raw mut (*self.as_ptr()).dest };
        // SAFETY: The field is valid, and C writes a pointer whole (`ip_vs_try_bind_dest()`).
        let dest = NonNull::new(unsafe { atomic_load(dest, Relaxed) })?;
        // SAFETY: By the type's invariants a held entry keeps the destination that it is bound to.
        // IPVS initialized the destination before any entry could be bound to it.
        Some(unsafe { Destination::from_raw(dest) })
    }

    /// The firewall mark of the destination's virtual service (`vfwmark`), or 0.
    #[inline]
    pub(super) fn service_fwmark(&self) -> u32 {
        self.destination().map_or(0, |dest| {
            // SAFETY: The destination is valid by its type's invariants. IPVS sets the field once,
            // before any entry can be bound to the destination.
            unsafe { (*dest.as_ptr()).vfwmark }
        })
    }

    /// Clears `IP_VS_CONN_F_NFCT`, after the flow's conntrack was killed. Otherwise the entry's
    /// expiry, which looks up by tuple, would kill the next flow's conntrack. Any context.
    #[inline]
    pub(super) fn forget_conntrack(&self) {
        // SAFETY: The entry is valid by the type's invariants. The function takes the entry's lock,
        // with softirqs off.
        unsafe { bindings::ip_vs_reuse_ip_vs_conn_forget_conntrack(self.as_ptr()) };
    }
}

/// The transport protocol of a flow, and the flow's state in that protocol.
#[derive(Clone, Copy)]
pub struct ProtocolState(u32, u32);

impl ProtocolState {
    /// Whether the flow has ended: TCP `TIME_WAIT` or `CLOSE`, SCTP `CLOSED`.
    #[inline]
    pub fn is_closed(self) -> bool {
        matches!(
            self,
            Self(
                bindings::IPPROTO_TCP,
                bindings::IP_VS_TCP_S_TIME_WAIT | bindings::IP_VS_TCP_S_CLOSE,
            ) | Self(
                bindings::IPPROTO_SCTP,
                bindings::ip_vs_sctp_states_IP_VS_SCTP_S_CLOSED,
            )
        )
    }

    /// Whether one side has closed the flow: TCP `FIN_WAIT`.
    #[inline]
    pub fn is_half_closed(self) -> bool {
        matches!(
            self,
            Self(bindings::IPPROTO_TCP, bindings::IP_VS_TCP_S_FIN_WAIT)
        )
    }
}

// SAFETY: All entries have a reference count, and IPVS frees an entry only after the count has
// reached 0 (`ip_vs_conn_unlink()`).
unsafe impl AlwaysRefCounted for Conn {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The entry is valid by the type's invariants. Its count is not 0, so this
        // succeeds.
        unsafe { bindings::ip_vs_reuse___ip_vs_conn_get(self.as_ptr()) };
    }

    #[inline]
    unsafe fn dec_ref(conn: NonNull<Self>) {
        // Not `ip_vs_conn_put()`: that restarts the entry's timer, which only IPVS may do.
        // SAFETY: By the contract the reference is the caller's. It is not the last one: the
        // connection table keeps its own reference as long as others exist (`ip_vs_conn_unlink()`).
        unsafe { bindings::ip_vs_reuse___ip_vs_conn_put(conn.as_ptr().cast()) };
    }
}
