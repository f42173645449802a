// SPDX-License-Identifier: GPL-2.0

//! Tracepoints (`events.h`): which reopened flows are replayed and which are left to IPVS, and
//! which destination `p2c` chooses.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h). The tracepoints
//! are called through C: `declare_trace!` looks for them in the kernel crate's bindings, and those
//! of a module are not there.

use crate::bindings;
use crate::ipvs::{Conn, Destination, Service};
use kernel::str::{CStr, CStrExt as _};

/// `ip_vs_reuse_replay`: the conntrack was killed, and the packet is about to be replayed. Any
/// context. While the tracepoint is off it costs a call and a static branch.
#[inline]
pub fn replay(conn: &Conn, reason: &'static CStr) {
    // SAFETY: The entry is valid by its invariants, and the string is terminated. The tracepoint
    // copies both (`events.h`).
    unsafe { bindings::ip_vs_reuse_trace_replay(conn.as_ptr(), reason.as_char_ptr()) };
}

/// `ip_vs_reuse_leave`: the packet is left to IPVS. Any context; the same cost.
#[inline]
pub fn leave(conn: &Conn, reason: &'static CStr) {
    // SAFETY: The entry is valid by its invariants, and the string is terminated. The tracepoint
    // copies both (`events.h`).
    unsafe { bindings::ip_vs_reuse_trace_leave(conn.as_ptr(), reason.as_char_ptr()) };
}

/// `ip_vs_reuse_pick`: `p2c` has chosen this destination. RCU read-side critical section; the same
/// cost.
#[inline]
pub fn pick(service: &Service, dest: &Destination) {
    // SAFETY: Both are valid by their invariants. The tracepoint copies what it prints.
    unsafe { bindings::ip_vs_reuse_trace_pick(service.as_ptr(), dest.as_ptr()) };
}
