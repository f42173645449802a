// SPDX-License-Identifier: GPL-2.0
/*
 * What the module needs on a stock kernel only, where it finds packets by itself: static
 * inlines that bindgen cannot call. Each function is the kernel's of the same name, unless it
 * says more. In the kernel's own tree this file, and each stock.rs, is not.
 */

#include <linux/module.h>
#include <linux/skbuff.h>
#include <net/inet_sock.h>
#include <net/ip_vs.h>
#include <net/netfilter/nf_conntrack.h>

#include "stock.h"

#if !IS_ENABLED(CONFIG_IP_VS_NFCT) || !IS_ENABLED(CONFIG_64BIT)
#error "Without CONFIG_IP_VS_NFCT IPVS has no such fault; 32-bit machines are not supported"
#endif

bool ip_vs_reuse_skb_to_host(const struct sk_buff *skb)
{
	return skb->pkt_type == PACKET_HOST;
}

/* Whether the packet comes from a socket that wants no defragmentation, as IPVS asks it */
bool ip_vs_reuse_skb_nodefrag(struct sk_buff *skb)
{
	struct sock *sk = skb_to_full_sk(skb);

	return sk && sk->sk_family == PF_INET && inet_test_bit(NODEFRAG, sk);
}

struct nf_conn *ip_vs_reuse_nf_ct_get(const struct sk_buff *skb, unsigned int *ctinfo)
{
	enum ip_conntrack_info info;
	struct nf_conn *ct = nf_ct_get(skb, &info);

	*ctinfo = info;
	return ct;
}

bool ip_vs_reuse_nf_ct_is_template(const struct nf_conn *ct)
{
	return nf_ct_is_template(ct);
}

bool ip_vs_reuse_ip_vs_fill_iph_skb(int af, const struct sk_buff *skb, struct ip_vs_iphdr *iph)
{
	return ip_vs_fill_iph_skb(af, skb, false, iph);
}

/*
 * Whether a real server may just be leaving its service, or has left it while entries still refer
 * to it. IPVS marks it and puts it into the trash under the mutex, in this order: who finds the
 * mutex free after that finds the trash filled.
 */
bool ip_vs_reuse_servers_may_have_left(struct netns_ipvs *ipvs)
{
	if (mutex_is_locked(&ipvs->service_mutex))
		return true;
	smp_rmb();	/* with the release of the mutex */
	return !list_empty(&ipvs->dest_trash);
}

void ip_vs_reuse___ip_vs_conn_put(struct ip_vs_conn *cp)
{
	__ip_vs_conn_put(cp);
}

/* module! has no word for it */
MODULE_VERSION(IP_VS_REUSE_VERSION);
