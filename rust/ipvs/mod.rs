// SPDX-License-Identifier: GPL-2.0

//! Abstractions of IPVS: its state in a namespace, connection entries, services, destinations and
//! schedulers.
//!
//! C header: [`include/net/ip_vs.h`](srctree/include/net/ip_vs.h)

mod conn;
mod destination;
#[cfg(IP_VS_FLOW_OPS)]
mod flow_ops;
#[cfg(not(IP_VS_FLOW_OPS))]
mod lookup;
mod reopened;
mod scheduler;
mod service;
mod settings;

pub use self::conn::{Conn, ProtocolState};
pub use self::destination::Destination;
#[cfg(IP_VS_FLOW_OPS)]
pub use self::flow_ops::{FlowOps, FlowOpsRegistration};
#[cfg(not(IP_VS_FLOW_OPS))]
pub use self::lookup::IpHeader;
pub use self::reopened::{ReopenedFlow, ReplayableFlow};
pub use self::scheduler::{Scheduler, SchedulerRegistration};
pub use self::service::Service;
pub use self::settings::Ipvs;
