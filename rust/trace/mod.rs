// SPDX-License-Identifier: GPL-2.0

//! The module's tracepoints (`events.h`): whether a packet that opens a flow, and came with the
//! conntrack and the entry of an older one, was replayed or left to IPVS, with the entry's
//! addresses and its old real server; and which real server `p2c` has chosen.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h). They are made
//! in C: `declare_trace!` serves the kernel's own tree only.

use crate::bindings;
use crate::ipvs::{Conn, Destination, Service};
use kernel::str::{CStr, CStrExt as _};

/// `ip_vs_reuse_replay`: the conntrack was killed, and the packet is about to be replayed. Any
/// context; next to nothing while off.
#[inline]
pub fn replay(conn: &Conn, reason: &'static CStr) {
    // SAFETY: The entry is valid by its invariants, the string is terminated; the tracepoint copies
    // both (`events.h`).
    unsafe { bindings::ip_vs_reuse_trace_replay(conn.as_ptr(), reason.as_char_ptr()) };
}

/// `ip_vs_reuse_leave`: the packet is left to IPVS. Any context; next to nothing while off.
#[inline]
pub fn leave(conn: &Conn, reason: &'static CStr) {
    // SAFETY: The entry is valid by its invariants, the string is terminated; the tracepoint copies
    // both.
    unsafe { bindings::ip_vs_reuse_trace_leave(conn.as_ptr(), reason.as_char_ptr()) };
}

/// `ip_vs_reuse_pick`: `p2c` has chosen this server of the service. RCU read side; next to nothing
/// while off.
#[inline]
pub fn pick(service: &Service, dest: &Destination) {
    // SAFETY: Both are valid by their invariants; the tracepoint copies what it shows.
    unsafe { bindings::ip_vs_reuse_trace_pick(service.as_ptr(), dest.as_ptr()) };
}
