// SPDX-License-Identifier: GPL-2.0

//! The packets of hooks, their verdicts and their conntracks.
//!
//! C headers: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h),
//! [`include/net/netfilter/nf_conntrack.h`](srctree/include/net/netfilter/nf_conntrack.h)

use super::HookState;
use crate::bindings;
use crate::net::Packet;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::{
    ffi::c_uint,
    sync::atomic::{atomic_load, Relaxed},
};

/// Ties a [`Verdict`] to its packet: `'a` is invariant, and each call of a hook has a lifetime of
/// its own.
type Brand<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// A packet (`struct sk_buff`) that netfilter has passed to a hook.
///
/// A hook must return a [`Verdict`] with the same `'a`, and can get one only by giving this packet
/// up. So a hook cannot use a packet that it has given away, and cannot forget the verdict.
///
/// # Examples
///
/// ```
/// fn handle(packet: HookPacket<'_>) -> Verdict<'_> {
///     packet.accept()
/// }
/// ```
///
/// # Invariants
///
/// `packet` and `state` are those of one call of a hook at `LOCAL_IN` or `LOCAL_OUT`. The hook has
/// not returned, and it owns the packet.
pub struct HookPacket<'a> {
    packet: &'a Packet,
    state: &'a HookState,
    _brand: Brand<'a>,
}

/// A hook's verdict about its packet (`NF_ACCEPT` and so on).
#[must_use = "netfilter needs a verdict for each packet"]
pub struct Verdict<'a>(c_uint, Brand<'a>);

impl Verdict<'_> {
    /// The verdict as netfilter's number.
    #[inline]
    pub(crate) fn into_raw(self) -> c_uint {
        self.0
    }
}

/// Properties of a packet that prevent a faithful replay.
///
/// `is_translated` can be true at both hook points. `is_synproxy_syn`, `differs_from_socket_mark`
/// and `is_nested` can be true only at `LOCAL_OUT`, the others only at `LOCAL_IN`.
pub struct Obstacles {
    /// NAT has changed the packet: its addresses differ from the tuple of its conntrack.
    pub is_translated: bool,
    /// It is the SYN that SYNPROXY sends to the server.
    pub is_synproxy_syn: bool,
    /// It was received on the loopback device, or on a VRF device, which is that of the VRF's own
    /// traffic. Or the device that received it is gone.
    pub is_from_loopback: bool,
    /// It has IPv4 options or IPv6 hop-by-hop options, which routers may change.
    pub has_ip_options: bool,
    /// It is a reassembled IPv6 packet, larger than the largest of its fragments (`frag_max_size`).
    pub exceeds_frag_max_size: bool,
    /// It was received through a VRF, and its conntrack is not in the default zone.
    pub has_zone_in_vrf: bool,
    /// Its mark is not the mark of its socket.
    pub differs_from_socket_mark: bool,
    /// It is already being replayed at `LOCAL_OUT`.
    pub is_nested: bool,
}

impl<'a> HookPacket<'a> {
    /// Takes over the packet of a hook.
    ///
    /// # Safety
    ///
    /// For `'a`, `skb` and `state` satisfy the invariants of [`Packet`], [`HookState`] and
    /// [`HookPacket`]. The caller makes no other `HookPacket` for this call of the hook, and
    /// returns the verdict of this one to netfilter.
    #[inline]
    pub(crate) unsafe fn from_raw(
        skb: *mut bindings::sk_buff,
        state: *const bindings::nf_hook_state,
    ) -> Self {
        // SAFETY: By the contract.
        let packet = unsafe { Packet::from_raw(skb) };
        // SAFETY: By the contract.
        let state = unsafe { HookState::from_raw(state) };
        // INVARIANT: By the contract.
        Self {
            packet,
            state,
            _brand: PhantomData,
        }
    }

    /// The state that netfilter has passed with the packet.
    #[inline]
    pub fn state(&self) -> &'a HookState {
        self.state
    }

    /// Passes the packet on to the next hook (`NF_ACCEPT`).
    #[inline]
    pub fn accept(self) -> Verdict<'a> {
        Verdict(bindings::NF_ACCEPT, PhantomData)
    }

    /// The packet's conntrack. The packet holds a reference to it.
    #[inline]
    fn conntrack(&self) -> Option<NonNull<bindings::nf_conn>> {
        // SAFETY: The packet is valid by its invariants.
        let nfct = unsafe { (*self.as_ptr())._nfct };
        NonNull::new((nfct & bindings::NFCT_PTRMASK as usize) as *mut _)
    }

    /// Whether the packet has a conntrack. One load.
    #[inline]
    pub fn has_conntrack(&self) -> bool {
        self.conntrack().is_some()
    }

    /// Whether the packet has a confirmed conntrack: an earlier packet of the flow has inserted it
    /// into the table.
    #[inline]
    pub fn has_confirmed_conntrack(&self) -> bool {
        const CONFIRMED: usize = bindings::ip_conntrack_status_IPS_CONFIRMED as usize;
        const TEMPLATE: usize = bindings::ip_conntrack_status_IPS_TEMPLATE as usize;

        self.conntrack().is_some_and(|ct| {
            // SAFETY: The packet holds its conntrack; only the address is taken.
            let status = unsafe { &raw mut (*ct.as_ptr()).status };
            // SAFETY: The field is valid, and C changes it with atomic bit operations.
            let status = unsafe { atomic_load(status, Relaxed) };
            // A template has the bit from the start, and is in no table.
            status & (CONFIRMED | TEMPLATE) == CONFIRMED
        })
    }

    /// What prevents a faithful replay of the packet. If the packet has no conntrack, all fields
    /// are false and say nothing.
    pub fn obstacles(&self) -> Obstacles {
        let mut obstacles = MaybeUninit::<bindings::ip_vs_reuse_obstacles>::zeroed();

        if self.has_conntrack() {
            // SAFETY: Packet and state are valid by their invariants, at LOCAL_IN or LOCAL_OUT. The
            // packet has a conntrack, and its data starts at the network header. `obstacles` is
            // valid for writes.
            unsafe {
                bindings::ip_vs_reuse_read_obstacles(
                    self.as_ptr(),
                    self.state.as_ptr(),
                    obstacles.as_mut_ptr(),
                )
            };
        }
        // SAFETY: All fields are booleans, for which zeroes are valid.
        let obstacles = unsafe { obstacles.assume_init() };
        Obstacles {
            is_translated: obstacles.translated,
            is_synproxy_syn: obstacles.synproxy_syn,
            is_from_loopback: obstacles.from_loopback,
            has_ip_options: obstacles.ip_options,
            exceeds_frag_max_size: obstacles.exceeds_frag_max_size,
            has_zone_in_vrf: obstacles.zone_in_vrf,
            differs_from_socket_mark: obstacles.not_socket_mark,
            is_nested: obstacles.nested,
        }
    }

    /// Kills the packet's conntrack: removes it from the table and delivers the event.
    ///
    /// Gives the packet back if it has no confirmed conntrack, if somebody else is killing the
    /// conntrack, or if the event could not be delivered.
    pub fn kill_conntrack(self) -> Result<ReplayablePacket<'a>, Self> {
        let Some(ct) = self.conntrack().filter(|_| self.has_confirmed_conntrack()) else {
            return Err(self);
        };
        // SAFETY: The packet holds its conntrack. The conntrack is confirmed, so the table has held
        // a reference too, which `nf_ct_delete()` puts once, however many callers there are
        // (`IPS_DYING_BIT`). It disables softirqs while it holds the locks of the table.
        if unsafe { bindings::nf_ct_delete(ct.as_ptr(), 0, 0) } {
            // INVARIANT: `nf_ct_delete()` has returned true.
            Ok(ReplayablePacket(self))
        } else {
            Err(self)
        }
    }
}

impl Deref for HookPacket<'_> {
    type Target = Packet;

    #[inline]
    fn deref(&self) -> &Packet {
        self.packet
    }
}

/// A packet whose conntrack was killed by the hook that owns the packet.
///
/// Lookups find a dying conntrack until it is unlinked. Suppose that every hook replayed a packet
/// with a dying conntrack. Then a packet could meet the same conntrack for ever, and never let the
/// CPU return to the code that unlinks it. So only the hook that has killed the conntrack may
/// replay, and each replay removes one conntrack.
///
/// # Invariants
///
/// `nf_ct_delete()` has returned true to this hook for the packet's conntrack.
pub struct ReplayablePacket<'a>(HookPacket<'a>);

impl<'a> ReplayablePacket<'a> {
    /// Receives or sends the packet again, without its old conntrack. The second result is false if
    /// the receive queue was full and the packet is lost.
    ///
    /// - At `LOCAL_IN` the packet goes to the receive queue of this CPU (`netif_rx()`), and from
    ///   there through tc, PRE_ROUTING, routing and LOCAL_IN again. If it came through a VRF it
    ///   starts at the VRF's slave. Its mark is 0, as if a driver had received it, unless it is
    ///   `fwmark`, by which IPVS finds the virtual service: that may have been set below the
    ///   device.
    /// - At `LOCAL_OUT` the packet passes LOCAL_OUT again before this function returns. There the
    ///   hook may meet it again, [nested](Obstacles::is_nested). A nested replay drops the packet.
    pub fn replay(self, fwmark: u32) -> (Verdict<'a>, bool) {
        let mut verdict = bindings::NF_DROP;
        let Self(packet) = self;
        // SAFETY: Packet and state are valid by their invariants. The hook owns the packet and
        // gives it up here; `verdict` says whether C has taken it. Replays end: at LOCAL_IN by the
        // type's invariants, at LOCAL_OUT because C limits the depth.
        let queued = unsafe {
            bindings::ip_vs_reuse_replay(
                packet.as_ptr(),
                packet.state.as_ptr(),
                fwmark,
                &mut verdict,
            )
        };
        (Verdict(verdict, PhantomData), queued)
    }
}
