// SPDX-License-Identifier: GPL-2.0

//! How packets come here: IPVS finds those that reopen a flow, and lets us decide.

use crate::evict;
use crate::ipvs::{FlowOps, FlowOpsRegistration, Reopened};
use kernel::prelude::*;

/// While there is one of these, packets come.
pub type Entrance = FlowOpsRegistration<Reopen>;

/// Opens the entrance, and says so in the kernel's log. Errors are those of
/// [`FlowOpsRegistration::new`].
pub fn open() -> impl PinInit<Entrance, Error> {
    Entrance::new().pin_chain(|_| {
        pr_info!("IPVS asks about packets that reopen a flow\n");
        Ok(())
    })
}

/// Our operations.
pub struct Reopen;

impl FlowOps for Reopen {
    fn reopened(flow: &Reopened<'_>) {
        evict::reopened(flow);
    }
}
