// SPDX-License-Identifier: GPL-2.0
/* Another module that wants to decide about reopened flows: a patched IPVS has room for one. */
#include <linux/module.h>
#include <linux/netfilter.h>
#include <net/ip_vs.h>

static unsigned int reopened(struct ip_vs_conn *cp, struct sk_buff *skb,
			     const struct ip_vs_iphdr *iph, const struct nf_hook_state *state)
{
	return NF_ACCEPT;
}

static const struct ip_vs_flow_ops ops = {
	.reopened = reopened,
};

static int __init flow_ops_init(void)
{
	return register_ip_vs_flow_ops(&ops);
}
module_init(flow_ops_init);

static void __exit flow_ops_exit(void)
{
	unregister_ip_vs_flow_ops(&ops);
}
module_exit(flow_ops_exit);

MODULE_DESCRIPTION("ipvs: a second one to decide about reopened flows, for the tests only");
MODULE_LICENSE("GPL");
