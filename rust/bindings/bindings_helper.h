/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers from which bindgen generates the module's bindings.
 */

#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/proc_fs.h>
#include <linux/sctp.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <net/ip_vs.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_core.h>

/* Before 7.3 the kernel crate does not have the fields of struct net */
const size_t IP_VS_REUSE_OFFSET_OF_NET_IPVS = offsetof(struct net, ipvs);

#include "../base/helpers.h"
#include "../ipvs/helpers.h"
#include "../ipvs/lookup.h"
#include "../net/for_each.h"
#include "../net/helpers.h"
#include "../netfilter/helpers.h"
#include "../trace/trace.h"
