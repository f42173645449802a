// SPDX-License-Identifier: GPL-2.0

//! Connection tracking.
//!
//! C header: [`include/net/netfilter/nf_conntrack.h`](srctree/include/net/netfilter/nf_conntrack.h)

use super::HookState;
use crate::bindings;
use crate::net::Packet;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use kernel::types::Opaque;

/// A template for the conntrack of a packet.
///
/// # Invariants
///
/// It is attached to a packet, which holds a reference.
#[repr(transparent)]
pub struct Template(Opaque<bindings::nf_conn>);

impl Template {
    /// Wraps a template.
    ///
    /// # Safety
    ///
    /// For `'a`, `ptr` satisfies the invariants of [`Template`].
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(ptr: NonNull<bindings::nf_conn>) -> &'a Self {
        // SAFETY: By the contract; `Template` is a transparent wrapper.
        unsafe { ptr.cast().as_ref() }
    }
}

/// Whether a packet goes the way of the first packet of its conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As the first packet.
    Original,
    /// Against it.
    Reply,
}

/// A conntrack in the table, and the direction in which a packet matched it. Holds a reference.
///
/// # Invariants
///
/// The pointer is to a confirmed conntrack, to which this object owns a reference.
pub struct Conntrack {
    ct: NonNull<bindings::nf_conn>,
    direction: Direction,
}

impl Conntrack {
    /// Finds the conntrack that the packet would be given if conntrack looked now: by its own
    /// addresses, in the zone of its template or else the default one. RCU read side.
    pub fn find(state: &HookState, packet: &Packet, template: Option<&Template>) -> Option<Self> {
        let skb = packet.as_ptr();
        let template = template.map_or(ptr::null(), |t| t.0.get().cast_const());
        let mut tuple = MaybeUninit::<bindings::nf_conntrack_tuple>::zeroed();
        let mut zone = MaybeUninit::<bindings::nf_conntrack_zone>::zeroed();

        // SAFETY: Packet, state and template are valid by their invariants, the others are
        // locals that outlive the calls; the network header is where the packet's data starts.
        // `nf_ct_get_tuplepr()` reads no byte that the packet has not (`skb_header_pointer()`), and
        // fills in the tuple where it is true; no template means the default zone
        // (`nf_ct_zone_tmpl()`).
        let hash = unsafe {
            let net = (*state.as_ptr()).net;
            let family = (*state.as_ptr()).pf;

            if !bindings::nf_ct_get_tuplepr(skb, 0, family.into(), net, tuple.as_mut_ptr()) {
                return None;
            }
            let zone = bindings::ip_vs_reuse_nf_ct_zone_tmpl(template, skb, zone.as_mut_ptr());
            bindings::nf_conntrack_find_get(net, zone, tuple.as_ptr())
        };
        let hash = NonNull::new(hash)?.as_ptr();

        // SAFETY: The hash entry is one of the two in a conntrack, `tuplehash[dir]`, as in
        // `nf_ct_tuplehash_to_ctrack()`. `__nf_conntrack_find_get()` took a reference for us, and
        // looked again afterwards: memory of conntracks is used again without a grace period
        // (`SLAB_TYPESAFE_BY_RCU`), and this is the one it found.
        unsafe {
            let direction = (*hash).tuple.dst.dir;
            let first = hash.sub(direction.into());
            let ct = first
                .byte_sub(core::mem::offset_of!(bindings::nf_conn, tuplehash))
                .cast::<bindings::nf_conn>();

            // INVARIANT: `nf_ct_key_equal()` takes confirmed ones only.
            Some(Self {
                ct: NonNull::new(ct)?,
                direction: if direction == 0 {
                    Direction::Original
                } else {
                    Direction::Reply
                },
            })
        }
    }

    /// The direction in which the packet matched.
    #[inline]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether another connection announced this one, as FTP does its data connections.
    #[inline]
    pub fn is_expected(&self) -> bool {
        // SAFETY: Valid by the type's invariants; `master` is set by `init_conntrack()`, before it
        // is confirmed, and not changed after.
        !unsafe { (*self.ct.as_ptr()).master }.is_null()
    }

    /// Whether it is going away already.
    #[inline]
    pub fn is_dying(&self) -> bool {
        // SAFETY: Valid by the type's invariants; a bit of `status`, read once (`test_bit()`).
        unsafe { bindings::ip_vs_reuse_nf_ct_is_dying(self.ct.as_ptr()) }
    }

    /// Takes it out of the table. Listeners are told. Softirq or process context.
    #[inline]
    pub fn kill(&self) {
        // What it answers, whether the listeners have heard, makes no difference to the table.
        // SAFETY: Valid by the type's invariants. `nf_ct_delete()` wants a confirmed one, whose
        // reference of the table it gives back once (`IPS_DYING_BIT`), whoever else kills it; it
        // disables softirqs where it takes the table's locks. No netlink port asked for it.
        unsafe { bindings::nf_ct_delete(self.ct.as_ptr(), 0, 0) };
    }
}

impl Drop for Conntrack {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type's invariants, and given back once. Any context:
        // `nf_ct_destroy()` does not sleep.
        unsafe { bindings::ip_vs_reuse_nf_ct_put(self.ct.as_ptr()) };
    }
}
