// SPDX-License-Identifier: GPL-2.0

//! The files of the module that need nothing of the kernel, so that the tests beside this crate
//! can run them where a debugger, a million cases and a second are at hand.

#![no_std]
#![forbid(unsafe_code)]
#![warn(
    missing_docs,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[path = "../../../rust/policy.rs"]
pub mod policy;
#[path = "../../../rust/sampler.rs"]
pub mod sampler;
