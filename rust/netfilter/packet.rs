// SPDX-License-Identifier: GPL-2.0

//! Packets that a hook has been given, and what may become of them.
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
    sync::atomic::{Atomic, Relaxed},
};

/// Ties a [`Verdict`] to the one packet that it is about: `'a` is invariant, and each call of a
/// hook has a lifetime of its own.
type Brand<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// A packet that netfilter has given to a hook, which must say what becomes of it.
///
/// A hook returns a [`Verdict`] of the same `'a`, and the only way to one is to give this packet up
/// for it. So a hook cannot go on with a packet that it has given away, and cannot forget to tell
/// netfilter.
///
/// # Examples
///
/// ```ignore
/// fn handle(packet: HookPacket<'_>) -> Verdict<'_> {
///     packet.accept()
/// }
/// ```
///
/// # Invariants
///
/// `packet` is the packet of a hook at `LOCAL_IN` or `LOCAL_OUT` that has not returned, and `state`
/// is the state that the hook was given with it.
pub struct HookPacket<'a> {
    packet: &'a Packet,
    state: &'a HookState,
    _brand: Brand<'a>,
}

/// What a hook tells netfilter about a packet.
#[must_use = "netfilter must be told what became of the packet"]
pub struct Verdict<'a>(c_uint, Brand<'a>);

impl Verdict<'_> {
    /// The verdict as netfilter wants it.
    #[inline]
    pub(crate) fn into_raw(self) -> c_uint {
        self.0
    }
}

/// What could keep a packet from arriving, or being sent, a second time just as it was the first
/// time. At `LOCAL_OUT` only the first two and the last two can be true, at `LOCAL_IN` only the first
/// and the four in the middle.
pub struct Obstacles {
    /// NAT has changed the packet: its addresses are not those of its conntrack any more.
    pub is_translated: bool,
    /// It is the SYN that SYNPROXY sends to the server.
    pub is_synproxy_syn: bool,
    /// It came over the loopback device.
    pub is_from_loopback: bool,
    /// It has IPv4 options or IPv6 hop-by-hop options, which each router may write to.
    pub has_ip_options: bool,
    /// An IPv6 packet that is larger than any of the fragments that it was made from.
    pub exceeds_frag_max_size: bool,
    /// It came through a VRF, and its conntrack is not in the default zone.
    pub has_zone_in_vrf: bool,
    /// It does not have the mark of its socket any more.
    pub differs_from_socket_mark: bool,
    /// It is being replayed right now, on output.
    pub is_nested: bool,
}

impl<'a> HookPacket<'a> {
    /// Takes over the packet that a hook was given.
    ///
    /// # Safety
    ///
    /// `skb` and `state` satisfy the invariants of [`Packet`], [`HookState`] and [`HookPacket`] for
    /// `'a`. No other `HookPacket` is made for this call of the hook, and the caller returns the
    /// verdict of this one to netfilter.
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

    /// The circumstances of the packet.
    #[inline]
    pub fn state(&self) -> &'a HookState {
        self.state
    }

    /// Lets the packet go on to the next hook (`NF_ACCEPT`).
    #[inline]
    pub fn accept(self) -> Verdict<'a> {
        Verdict(bindings::NF_ACCEPT, PhantomData)
    }

    /// The conntrack that the packet carries.
    #[inline]
    fn conntrack(&self) -> Option<NonNull<bindings::nf_conn>> {
        // SAFETY: The packet is valid by its invariants.
        let nfct = unsafe { (*self.as_ptr())._nfct };
        NonNull::new((nfct & bindings::NFCT_PTRMASK as usize) as *mut _)
    }

    /// Whether the packet carries a conntrack. One load.
    #[inline]
    pub fn has_conntrack(&self) -> bool {
        self.conntrack().is_some()
    }

    /// Whether it carries a conntrack that is confirmed: an earlier packet has put it into the
    /// table.
    #[inline]
    pub fn has_confirmed_conntrack(&self) -> bool {
        self.conntrack().is_some_and(|ct| {
            // SAFETY: The packet holds a reference to its conntrack.
            let status = unsafe { &raw mut (*ct.as_ptr()).status };
            // SAFETY: The conntrack is valid, and C changes its status atomically.
            let status = unsafe { Atomic::from_ptr(status) }.load(Relaxed);
            status & bindings::ip_conntrack_status_IPS_CONFIRMED as usize != 0
        })
    }

    /// What could keep the packet from arriving a second time as it was. All false, and
    /// meaningless, if it carries no conntrack.
    pub fn obstacles(&self) -> Obstacles {
        let mut obstacles = MaybeUninit::<bindings::ip_vs_reuse_obstacles>::zeroed();

        if self.has_conntrack() {
            // SAFETY: Packet and state are valid by their invariants, `obstacles` is a local. The
            // packet's data starts at its network header and it carries a conntrack.
            unsafe {
                bindings::ip_vs_reuse_read_obstacles(
                    self.as_ptr(),
                    self.state.as_ptr(),
                    obstacles.as_mut_ptr(),
                )
            };
        }
        // SAFETY: Zeroes are valid for booleans.
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

    /// Kills the packet's conntrack: takes it out of the table and tells listeners. Gives the
    /// packet back if it carries no confirmed conntrack, if somebody else kills that, or if a
    /// listener could not be told.
    pub fn kill_conntrack(self) -> Result<ReplayablePacket<'a>, Self> {
        let Some(ct) = self.conntrack().filter(|_| self.has_confirmed_conntrack()) else {
            return Err(self);
        };
        // SAFETY: The packet holds a reference to the conntrack, which is confirmed: the table has
        // another, which `nf_ct_delete()` gives back once (`IPS_DYING_BIT`), whoever calls it. It
        // disables softirqs where it takes the table's locks. No netlink port asked for it.
        if unsafe { bindings::nf_ct_delete(ct.as_ptr(), 0, 0) } {
            // INVARIANT: It returned true to us.
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

/// A packet whose conntrack was killed by the hook that has the packet.
///
/// Lookups find a conntrack that is being killed until it is out of the table. If everybody who
/// meets such a conntrack replayed the packet, one packet could meet it for ever, where the killer
/// cannot go on until the packet is through: so only the killer may, and each replay has one
/// conntrack less to meet.
///
/// # Invariants
///
/// `nf_ct_delete()` has returned true for the packet's conntrack, to this hook.
pub struct ReplayablePacket<'a>(HookPacket<'a>);

impl<'a> ReplayablePacket<'a> {
    /// Lets the packet arrive, or be sent, once more, without its old conntrack. The second result
    /// is false if the receive queue was full and the packet is lost.
    ///
    /// At `LOCAL_IN` it goes into the receive queue of this processor (`netif_rx()`), from where it
    /// passes tc, PRE_ROUTING, routing and LOCAL_IN again. As from a driver, it has no mark. At
    /// `LOCAL_OUT` it passes LOCAL_OUT again before this returns, and so may come back to the
    /// hook; there it is [nested](Obstacles::is_nested), and would be dropped if it were replayed.
    pub fn replay(self) -> (Verdict<'a>, bool) {
        let mut verdict = bindings::NF_DROP;
        let Self(packet) = self;
        // SAFETY: Packet and state are valid by their invariants. The packet is the hook's until a
        // verdict is returned, and is given up here; C says with the verdict whether it has taken
        // it. By the type's invariants this ends, and C limits the depth on output.
        let queued = unsafe {
            bindings::ip_vs_reuse_replay(packet.as_ptr(), packet.state.as_ptr(), &mut verdict)
        };
        (Verdict(verdict, PhantomData), queued)
    }
}
