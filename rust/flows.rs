// SPDX-License-Identifier: GPL-2.0

//! Gets the packets from an IPVS that lets a module decide about them.

use crate::ipvs::{FlowOps, FlowOpsRegistration, Reopened};
use crate::netfilter::Verdict;
use crate::replay;
use kernel::prelude::*;

/// Keeps the operations registered until dropped.
pub type Source = FlowOpsRegistration<Reopen>;

/// Registers the operations, and says so in the kernel's log. Errors are those of
/// [`FlowOpsRegistration::new`].
pub fn register() -> impl PinInit<Source, Error> {
    Source::new().pin_chain(|_| {
        pr_info!("IPVS asks about packets that reopen a flow\n");
        Ok(())
    })
}

/// The module's operations.
pub struct Reopen;

impl FlowOps for Reopen {
    fn reopened(flow: Reopened<'_>) -> Result<Verdict<'_>, Reopened<'_>> {
        replay::reopened(flow)
    }
}
