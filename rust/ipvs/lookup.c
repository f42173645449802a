// SPDX-License-Identifier: GPL-2.0
/* For lookup.rs: what ip_vs_in_hook() does in static inline functions, and by macros */

#include <linux/skbuff.h>
#include <net/inet_sock.h>
#include <net/ip_vs.h>

#include "lookup.h"

#if !IS_ENABLED(CONFIG_IP_VS_NFCT) || !IS_ENABLED(CONFIG_64BIT)
#error "Without CONFIG_IP_VS_NFCT IPVS has no such fault; 32-bit machines are not supported"
#endif

/* The checks of packet and socket that ip_vs_in_hook() makes before it looks up the entry */
bool ip_vs_reuse_in_hook_would_look_up(struct sk_buff *skb, const struct nf_hook_state *state)
{
	struct sock *sk;

	if (!skb_dst(skb))
		return false;
	if (state->hook != NF_INET_LOCAL_OUT)
		return skb->pkt_type == PACKET_HOST;
	sk = skb_to_full_sk(skb);
	return !(sk && state->pf == NFPROTO_IPV4 && sk->sk_family == PF_INET &&
		 inet_test_bit(NODEFRAG, sk));
}

bool ip_vs_reuse_ip_vs_fill_iph_skb(int af, const struct sk_buff *skb, struct ip_vs_iphdr *iph)
{
	return ip_vs_fill_iph_skb(af, skb, false, iph);
}

/*
 * Whether ip_vs_in_hook() may reschedule a UDP flow: expire_nodest_conn is 1, and an entry may have
 * a destination that was deleted, or is being deleted. While IPVS holds the mutex, it clears
 * IP_VS_DEST_CF_AVAILABLE of a destination and then puts the destination into the trash. So if the
 * flag is clear and the mutex is free, the trash is not empty.
 */
bool ip_vs_reuse_may_reschedule_udp(struct netns_ipvs *ipvs)
{
	if (!READ_ONCE(ipvs->sysctl_expire_nodest_conn))
		return false;
	if (mutex_is_locked(&ipvs->service_mutex))
		return true;
	smp_rmb();	/* pairs with the release of the mutex */
	return !list_empty(&ipvs->dest_trash);
}
