// SPDX-License-Identifier: GPL-2.0

//! How packets come here: IPVS finds those that reopen a flow, and lets us decide.

use crate::evict;
use crate::ipvs::{FlowOps, FlowOpsRegistration, Reopened};

/// While there is one of these, packets come.
pub type Entrance = FlowOpsRegistration<Reopen>;

/// Our operations.
pub struct Reopen;

impl FlowOps for Reopen {
    fn reopened(flow: &Reopened<'_>) {
        evict::reopened(flow);
    }
}
