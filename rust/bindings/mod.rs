// SPDX-License-Identifier: GPL-2.0

//! Bindings to IPVS, netfilter hooks and conntrack, in addition to those of the kernel crate.
//!
//! `bindgen` generates them from `bindings_helper.h` with the kernel's own flags (see `Kbuild`).
//! Only the abstractions use them.

#![allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

/// A type that the kernel crate also has is taken from the kernel crate.
#[doc(no_inline)]
pub use kernel::bindings::*;
use kernel::ffi;

include!(concat!(
    env!("IP_VS_REUSE_BINDINGS"),
    "/bindings_generated.rs"
));
