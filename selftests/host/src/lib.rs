// SPDX-License-Identifier: GPL-2.0

//! The module's files that need nothing of the kernel, compiled for the host, where a million cases
//! take a second. And two abstractions over a mock of the kernel crate: [`compile_fail`] tests that
//! their misuse does not compile.

#![no_std]
#![warn(
    missing_docs,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

// What the module calls `kernel` and `crate` are both this crate.
extern crate self as kernel;
extern crate std;

pub mod compile_fail;
#[path = "kernel.rs"]
mod mock;
// rustdoc must not take the examples in these two, which are for the kernel, for tests.
#[cfg(not(doctest))]
#[allow(dead_code)] // what a registration uses
#[path = "../../../rust/net/per_namespace.rs"]
mod per_namespace;
#[forbid(unsafe_code)]
#[path = "../../../rust/policy.rs"]
pub mod policy;
#[cfg(not(doctest))]
#[path = "../../../rust/base/rcu.rs"]
mod rcu;
#[forbid(unsafe_code)]
#[path = "../../../rust/sampler.rs"]
pub mod sampler;
#[forbid(unsafe_code)]
#[path = "../../../rust/slow_start.rs"]
pub mod slow_start;

pub use mock::{alloc, base, bindings, ffi, netfilter, prelude, seq_file, sync, types, Namespace};
#[cfg(not(doctest))]
pub use per_namespace::{Id, PerNamespace, ProcFile, StaticId};
#[cfg(not(doctest))]
pub use rcu::{Published, RcuBox, Retired};
