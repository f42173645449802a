// SPDX-License-Identifier: GPL-2.0

//! What IPVS remembers of a flow.

use super::Destination;
use crate::bindings;
use crate::policy::Phase;
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

    /// How far the flow has come.
    #[inline]
    pub fn phase(&self) -> Phase {
        // SAFETY: Valid by the type's invariants. `protocol` is set by `ip_vs_conn_new()`; `state`
        // changes under us (`set_tcp_state()`), so read it once, as C does (it is volatile there).
        let (protocol, state) = unsafe {
            let cp = self.as_ptr();
            ((*cp).protocol, (&raw const (*cp).state).read_volatile())
        };

        match (protocol.into(), state.into()) {
            (
                bindings::IPPROTO_TCP,
                bindings::IP_VS_TCP_S_TIME_WAIT | bindings::IP_VS_TCP_S_CLOSE,
            ) => Phase::Closed,
            (bindings::IPPROTO_TCP, bindings::IP_VS_TCP_S_FIN_WAIT) => Phase::HalfClosed,
            (bindings::IPPROTO_SCTP, bindings::ip_vs_sctp_states_IP_VS_SCTP_S_CLOSED) => {
                Phase::Closed
            }
            _ => Phase::Open,
        }
    }

    /// Whether the director sees the client's packets only (`IP_VS_CONN_F_NOOUTPUT`).
    #[inline]
    pub fn is_one_way(&self) -> bool {
        // SAFETY: Valid by the type's invariants; changes under us, read once (volatile in C, too).
        let flags = unsafe { (&raw const (*self.as_ptr()).flags).read_volatile() };
        flags & bindings::IP_VS_CONN_F_NOOUTPUT != 0
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
