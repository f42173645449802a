// SPDX-License-Identifier: GPL-2.0

//! Hooks of the module's own, on a stock kernel.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use super::{HookState, Template};
use crate::base::synchronize_rcu;
use crate::bindings;
use crate::net::{Family, Packet};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    ffi::{c_int, c_uint, c_void},
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

impl HookState {
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
}

/// What conntrack has attached to a packet so far.
pub enum Attached<'a> {
    /// Nothing: conntrack has not seen it.
    Nothing,
    /// A template that a rule of the raw table made: it says the zone.
    Template(&'a Template),
    /// A rule said `notrack`.
    Untracked,
    /// A conntrack: the packet comes by a second time (loopback, VRF).
    Conntrack,
}

/// Tells what is attached to a packet.
#[inline]
pub fn attached(packet: &Packet) -> Attached<'_> {
    let mut info = 0;
    // SAFETY: The packet is valid by its invariants, `info` is a local, which is always written.
    let ct = unsafe { bindings::ip_vs_reuse_nf_ct_get(packet.as_ptr(), &mut info) };

    if info == bindings::ip_conntrack_info_IP_CT_UNTRACKED {
        return Attached::Untracked;
    }
    let Some(ct) = NonNull::new(ct) else {
        return Attached::Nothing;
    };
    // SAFETY: The packet holds a reference to what is attached to it (`nf_ct_set()`), is borrowed,
    // and nothing here takes that away from it.
    unsafe {
        if bindings::ip_vs_reuse_nf_ct_is_template(ct.as_ptr()) {
            Attached::Template(Template::from_raw(ct))
        } else {
            Attached::Conntrack
        }
    }
}

/// Who looks at all packets that come into a namespace: from outside and from this machine, of
/// both families. It lets every packet go on.
pub trait Handler: 'static {
    /// Before or after which others.
    const PRIORITY: i32;

    /// Looks at one packet. Softirq or process context, RCU read side.
    fn packet(state: &HookState, packet: &Packet);
}

/// A handler's hooks in every namespace, those to come included, until this is dropped. Then no
/// packet is with the handler any more.
#[pin_data(PinnedDrop)]
pub struct Hooks<H: Handler> {
    #[pin]
    ops: Opaque<bindings::pernet_operations>,
    _handler: PhantomData<H>,
}

// SAFETY: Nothing of a registration can be reached but its end.
unsafe impl<H: Handler> Send for Hooks<H> {}
// SAFETY: As above.
unsafe impl<H: Handler> Sync for Hooks<H> {}

impl<H: Handler> Hooks<H> {
    /// The hooks: read by netfilter, and under RCU by who lists hooks; written by nobody.
    /// Netfilter knows them by their address, of which there is one: this is never inlined.
    #[inline(never)]
    fn hooks() -> &'static [bindings::nf_hook_ops; 4] {
        const {
            &[
                Self::hook(Family::Ipv4, bindings::nf_inet_hooks_NF_INET_PRE_ROUTING),
                Self::hook(Family::Ipv4, bindings::nf_inet_hooks_NF_INET_LOCAL_OUT),
                Self::hook(Family::Ipv6, bindings::nf_inet_hooks_NF_INET_PRE_ROUTING),
                Self::hook(Family::Ipv6, bindings::nf_inet_hooks_NF_INET_LOCAL_OUT),
            ]
        }
    }

    const fn hook(family: Family, point: c_uint) -> bindings::nf_hook_ops {
        bindings::nf_hook_ops {
            hook: Some(Self::hook_callback),
            pf: family.number(),
            hooknum: point,
            priority: H::PRIORITY,
            // SAFETY: Zeroes are integers, null pointers, and a list entry that only nf_tables
            // looks at, in hooks of its own.
            ..unsafe { MaybeUninit::zeroed().assume_init() }
        }
    }

    /// Puts the handler on the way of all namespaces' packets. May sleep. `ENOMEM`, or what
    /// netfilter says; after an error no packet is with the handler.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|ops: *mut bindings::pernet_operations| {
                let callbacks = bindings::pernet_operations {
                    init: Some(Self::init_callback),
                    pre_exit: Some(Self::pre_exit_callback),
                    ..Default::default()
                };
                // SAFETY: `ops` is memory for the operations, pinned, and stays until the
                // unregistration in `drop`. That, and the end of a registration that failed,
                // wait for a grace period between taking the hooks away and coming back
                // (`ops_undo_list()`): no packet is in our code then.
                unsafe {
                    ops.write(callbacks);
                    to_result(bindings::register_pernet_subsys(ops))
                }
            }),
            _handler: PhantomData,
        })
    }

    /// # Safety
    ///
    /// To be called by the core only, for a registration of this type.
    unsafe extern "C" fn init_callback(net: *mut bindings::net) -> c_int {
        let hooks = Self::hooks();
        // SAFETY: The core passes a namespace that is being set up, or one in use. Netfilter keeps
        // the hooks' addresses and reads them (`nf_hook_entries_grow()`): they are static. Where
        // one cannot be registered, it takes away those before.
        let err =
            unsafe { bindings::nf_register_net_hooks(net, hooks.as_ptr(), hooks.len() as c_uint) };
        if err != 0 {
            // Some may have stood for a moment, and `ops_init()` waits for nothing.
            synchronize_rcu();
        }
        err
    }

    /// # Safety
    ///
    /// To be called by the core only, for a registration of this type.
    unsafe extern "C" fn pre_exit_callback(net: *mut bindings::net) {
        let hooks = Self::hooks();
        // SAFETY: The core calls this once, after `init_callback` has registered them; the
        // namespace ends, if it does, after this.
        unsafe { bindings::nf_unregister_net_hooks(net, hooks.as_ptr(), hooks.len() as c_uint) };
    }

    /// # Safety
    ///
    /// To be called by netfilter only, for the hooks of this type.
    unsafe extern "C" fn hook_callback(
        _: *mut c_void,
        skb: *mut bindings::sk_buff,
        state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: `nf_hook_slow()` passes a packet and a state that are valid for this call, in a
        // read side. At PRE_ROUTING and LOCAL_OUT the packet's data starts at its network header:
        // `ip_rcv_core()`, `ip6_rcv_core()`, `__ip_local_out()` and so on have it there.
        let (state, packet) = unsafe { (HookState::from_raw(state), Packet::from_raw(skb)) };
        H::packet(state, packet);
        bindings::NF_ACCEPT
    }
}

#[pinned_drop]
impl<H: Handler> PinnedDrop for Hooks<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It was registered by `new`, or this object would not be.
        unsafe { bindings::unregister_pernet_subsys(self.ops.get()) };
    }
}
