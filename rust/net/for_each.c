// SPDX-License-Identifier: GPL-2.0
/* For for_each.rs: for_each_net() is a macro */

#include <linux/rtnetlink.h>
#include <net/net_namespace.h>

#include "for_each.h"

/*
 * cleanup_net() holds this lock to unlist a namespace, and only then tears the namespace down.
 * The callback must not wait for pernet_ops_rwsem or the RTNL, which are taken before this lock.
 */
void ip_vs_reuse_walk_namespaces(void (*callback)(struct net *net, void *data), void *data)
{
	struct net *net;

	down_read(&net_rwsem);
	for_each_net(net)
		callback(net, data);
	up_read(&net_rwsem);
}
