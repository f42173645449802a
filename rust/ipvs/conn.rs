// SPDX-License-Identifier: GPL-2.0

//! What IPVS remembers of a flow.

use super::{Destination, Ipvs};
use crate::bindings;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::types::Opaque;

/// A connection entry (`struct ip_vs_conn`).
///
/// # Invariants
///
/// It is valid: somebody holds a reference. IPVS lets go of an entry's real server and of its
/// controlling entry only when it has the last reference: `ip_vs_conn_expire()` after
/// `ip_vs_conn_unlink()` has found that (`refcount_dec_if_one()`).
#[repr(transparent)]
pub struct Conn(Opaque<bindings::ip_vs_conn>);

impl Conn {
    /// Wraps an entry.
    ///
    /// # Safety
    ///
    /// For `'a`, `cp` satisfies the invariants of [`Conn`].
    #[inline]
    pub(super) unsafe fn from_raw<'a>(cp: NonNull<bindings::ip_vs_conn>) -> &'a Self {
        // SAFETY: By the contract; `Conn` is a transparent wrapper.
        unsafe { cp.cast().as_ref() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::ip_vs_conn {
        self.0.get()
    }

    /// IPVS in the entry's namespace.
    #[inline]
    pub fn ipvs(&self) -> &Ipvs {
        // SAFETY: Valid by the type's invariants; set by `ip_vs_conn_new()`. IPVS frees its entries
        // before the namespace's IPVS goes (`ip_vs_conn_net_cleanup()`).
        unsafe { Ipvs::from_raw((*self.as_ptr()).ipvs) }
    }

    /// The protocol, and the state of it that the flow is in.
    #[inline]
    fn state(&self) -> (u32, u32) {
        // SAFETY: Valid by the type's invariants. `protocol` is set by `ip_vs_conn_new()`.
        let protocol = unsafe { (*self.as_ptr()).protocol };
        // SAFETY: Valid by the type's invariants; changes under us (`set_tcp_state()`): read once,
        // as in C, where it is volatile.
        let state = unsafe { (&raw const (*self.as_ptr()).state).read_volatile() };
        (protocol.into(), state.into())
    }

    /// Whether the flow has ended: TCP `TIME_WAIT` or `CLOSE`, SCTP `CLOSED`.
    #[inline]
    pub fn is_closed(&self) -> bool {
        matches!(
            self.state(),
            (
                bindings::IPPROTO_TCP,
                bindings::IP_VS_TCP_S_TIME_WAIT | bindings::IP_VS_TCP_S_CLOSE,
            ) | (
                bindings::IPPROTO_SCTP,
                bindings::ip_vs_sctp_states_IP_VS_SCTP_S_CLOSED,
            )
        )
    }

    /// Whether one side has closed the flow: TCP `FIN_WAIT`.
    #[inline]
    pub fn is_half_closed(&self) -> bool {
        self.state() == (bindings::IPPROTO_TCP, bindings::IP_VS_TCP_S_FIN_WAIT)
    }

    #[inline]
    fn has_flag(&self, flag: u32) -> bool {
        // SAFETY: Valid by the type's invariants; changes under us: read once, as in C, where it is
        // volatile.
        let flags = unsafe { (&raw const (*self.as_ptr()).flags).read_volatile() };
        flags & flag != 0
    }

    /// Whether the director sees the client's packets only (`IP_VS_CONN_F_NOOUTPUT`).
    #[inline]
    pub fn is_one_way(&self) -> bool {
        self.has_flag(bindings::IP_VS_CONN_F_NOOUTPUT)
    }

    /// Whether IPVS kills the flow's conntrack when the entry expires (`IP_VS_CONN_F_NFCT`).
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.has_flag(bindings::IP_VS_CONN_F_NFCT)
    }

    /// Whether the entry depends on another (`control`).
    #[inline]
    pub fn is_controlled(&self) -> bool {
        // SAFETY: Valid by the type's invariants; read once, and not followed.
        !unsafe { (&raw const (*self.as_ptr()).control).read_volatile() }.is_null()
    }

    /// Whether other entries depend on this one (`n_control`).
    #[inline]
    pub fn is_controlling(&self) -> bool {
        // SAFETY: Valid by the type's invariants; an atomic, read once (`atomic_read()`).
        unsafe { (&raw const (*self.as_ptr()).n_control.counter).read_volatile() != 0 }
    }

    /// The real server, if IPVS knows one.
    #[inline]
    pub fn destination(&self) -> Option<&Destination> {
        // SAFETY: Valid by the type's invariants: while the entry is held, it holds its server. It
        // may get one under us (`ip_vs_try_bind_dest()`), and then keeps it: read once. What is
        // behind the pointer was written before IPVS had the server in its list.
        unsafe {
            let dest = (&raw const (*self.as_ptr()).dest).read_volatile();
            Some(Destination::from_raw(NonNull::new(dest)?))
        }
    }
}

/// A reference to a connection entry.
///
/// # Invariants
///
/// The pointer is to a valid entry, to which this object owns a reference.
pub(super) struct HeldConn(NonNull<bindings::ip_vs_conn>);

impl HeldConn {
    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `cp` is a valid entry, and the caller gives up a reference to it, which is not the table's.
    #[inline]
    pub(super) unsafe fn from_raw(cp: NonNull<bindings::ip_vs_conn>) -> Self {
        // INVARIANT: By the contract.
        Self(cp)
    }

    /// Tells IPVS that the flow's conntrack has been killed, so that the entry's expiry does not
    /// kill the next one, which it would find by the same addresses. Any context.
    #[inline]
    pub(super) fn forget_conntrack(&self) {
        // SAFETY: Valid by the type's invariants; takes the entry's lock for a moment, with
        // softirqs off.
        unsafe { bindings::ip_vs_reuse_ip_vs_conn_forget_conntrack(self.0.as_ptr()) };
    }
}

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
