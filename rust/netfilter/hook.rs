// SPDX-License-Identifier: GPL-2.0

//! Hooks on the way of packets.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use crate::base::synchronize_rcu;
use crate::bindings;
use crate::net::{Family, Namespace, Packet, Transport};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    ffi::{c_uint, c_void},
    prelude::*,
    types::Opaque,
};

/// The priority of conntrack on [`Point::PreRouting`] and [`Point::LocalOut`], the same for
/// both families. Lower priorities see a packet earlier.
pub const PRIORITY_CONNTRACK: i32 = bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK;

/// Where on its way a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// From outside, before routing.
    PreRouting,
    /// From this machine.
    LocalOut,
}

/// Where a handler wants to stand.
#[derive(Clone, Copy)]
pub struct Place {
    /// Whose packets.
    pub family: Family,
    /// Where on the way.
    pub point: Point,
    /// Before or after which others.
    pub priority: i32,
}

/// Who looks at the packets of a namespace. It lets every packet go on.
pub trait Handler: Sync + 'static {
    /// Where it stands.
    const PLACES: &'static [Place];

    /// Looks at one packet. Softirq or process context, RCU read side.
    fn packet(&self, state: &HookState, packet: &Packet);
}

/// The circumstances of one packet (`struct nf_hook_state`).
///
/// # Invariants
///
/// The state is one that netfilter passed to a hook of [`Hooks`].
#[repr(transparent)]
pub struct HookState(Opaque<bindings::nf_hook_state>);

impl HookState {
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::nf_hook_state {
        self.0.get()
    }

    /// The namespace that the packet passes.
    #[inline]
    pub fn namespace(&self) -> &Namespace {
        // SAFETY: By the type's invariants; a packet's namespace outlives its hooks.
        unsafe { Namespace::from_raw((*self.as_ptr()).net) }
    }

    /// The packet's family.
    #[inline]
    pub fn family(&self) -> Family {
        // SAFETY: By the type's invariants.
        match unsafe { (*self.as_ptr()).pf } {
            pf if pf == Family::Ipv6.number() => Family::Ipv6,
            _ => Family::Ipv4,
        }
    }

    /// Where the packet is.
    #[inline]
    pub fn point(&self) -> Point {
        // SAFETY: By the type's invariants.
        match c_uint::from(unsafe { (*self.as_ptr()).hook }) {
            bindings::nf_inet_hooks_NF_INET_LOCAL_OUT => Point::LocalOut,
            _ => Point::PreRouting,
        }
    }

    /// Whether the packet's checksum is good in conntrack's eyes, by its own setting
    /// (`nf_conntrack_checksum`). A sum that was computed is kept for those who ask later.
    pub fn checksum_is_good(&self, packet: &Packet, transport: Transport) -> bool {
        if transport.offset > packet.length() {
            return false;
        }
        // SAFETY: Packet and state are valid by their invariants.
        unsafe {
            bindings::ip_vs_reuse_checksum_ok(
                packet.as_ptr(),
                transport.offset,
                transport.protocol,
                self.as_ptr(),
            )
        }
    }
}

/// A handler's hooks in one namespace.
///
/// # Invariants
///
/// `ops` are registered in the namespace, which is alive, or were until [`Hooks::unregister`].
pub struct Hooks<H: Handler> {
    net: NonNull<bindings::net>,
    ops: KVec<bindings::nf_hook_ops>,
    _handler: PhantomData<H>,
}

impl<H: Handler> Hooks<H> {
    /// Puts `handler` on the way of the namespace's packets. May sleep. `ENOMEM`, or what
    /// netfilter says; after an error no packet is with the handler.
    ///
    /// # Safety
    ///
    /// The returned object is unregistered once, while the namespace is alive, and `handler` is
    /// valid, and not changed but through `&H`, until an RCU grace period has passed after that.
    /// The object is not dropped before that either: who lists hooks reads it under RCU.
    pub(crate) unsafe fn register(namespace: &Namespace, handler: *const H) -> Result<Self> {
        let mut ops = KVec::with_capacity(H::PLACES.len(), GFP_KERNEL)?;
        for place in H::PLACES {
            ops.push(
                bindings::nf_hook_ops {
                    hook: Some(Self::hook_callback),
                    priv_: handler.cast_mut().cast(),
                    pf: place.family.number(),
                    hooknum: match place.point {
                        Point::PreRouting => bindings::nf_inet_hooks_NF_INET_PRE_ROUTING,
                        Point::LocalOut => bindings::nf_inet_hooks_NF_INET_LOCAL_OUT,
                    },
                    priority: place.priority,
                    ..Default::default()
                },
                GFP_KERNEL,
            )?;
        }

        let net = namespace.as_ptr();
        // SAFETY: The namespace is alive, and `ops` stay where they are until unregistered.
        let registered = to_result(unsafe {
            bindings::nf_register_net_hooks(net, ops.as_ptr(), ops.len() as c_uint)
        });
        if let Err(err) = registered {
            // Some may have stood for a moment.
            synchronize_rcu();
            return Err(err);
        }

        // INVARIANT: Just registered.
        Ok(Self {
            net: NonNull::new(net).ok_or(EINVAL)?,
            ops,
            _handler: PhantomData,
        })
    }

    /// Takes the handler out of the way. Packets may still be with it for an RCU grace period.
    ///
    /// # Safety
    ///
    /// As promised to [`Hooks::register`]: once, and the namespace is alive.
    pub(crate) unsafe fn unregister(&self) {
        // SAFETY: By the contract and the type's invariants they are registered.
        unsafe {
            bindings::nf_unregister_net_hooks(
                self.net.as_ptr(),
                self.ops.as_ptr(),
                self.ops.len() as c_uint,
            )
        };
    }

    /// # Safety
    ///
    /// To be called by netfilter only, for hooks that `register` made.
    unsafe extern "C" fn hook_callback(
        handler: *mut c_void,
        skb: *mut bindings::sk_buff,
        state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: `handler` is what `register` was given, valid by its contract while packets
        // can be here; netfilter passes a packet and a state that are valid for this call, and
        // on the points that we know the packet's data starts at its network header.
        let (handler, packet, state) = unsafe {
            (
                &*handler.cast::<H>(),
                Packet::from_raw(skb),
                &*state.cast::<HookState>(),
            )
        };
        handler.packet(state, packet);
        bindings::NF_ACCEPT
    }
}
