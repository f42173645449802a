// SPDX-License-Identifier: GPL-2.0

//! Entry point where IPVS lets a module decide about reopened flows: the callback from IPVS.

use crate::ipvs::{FlowOps, FlowOpsRegistration, ReopenedFlow};
use crate::netfilter::Verdict;
use crate::replay;
use kernel::prelude::*;

/// Keeps the operations registered until dropped.
pub type Registration = FlowOpsRegistration<Reopen>;

/// Registers the operations and logs a message. Errors are those of [`FlowOpsRegistration::new`].
pub fn register() -> impl PinInit<Registration, Error> {
    Registration::new().pin_chain(|_| {
        pr_info!("IPVS asks about packets that reopen a flow\n");
        Ok(())
    })
}

/// The module's operations.
pub struct Reopen;

impl FlowOps for Reopen {
    fn reopened(flow: ReopenedFlow<'_>) -> Result<Verdict<'_>, ReopenedFlow<'_>> {
        replay::reopened(flow)
    }
}
