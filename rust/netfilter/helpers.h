/* SPDX-License-Identifier: GPL-2.0 */
/*
 * See helpers.c.
 */
#ifndef _IP_VS_REUSE_NETFILTER_HELPERS_H
#define _IP_VS_REUSE_NETFILTER_HELPERS_H

#include <linux/types.h>

struct nf_hook_state;
struct sk_buff;

/* See struct Obstacles in packet.rs */
struct ip_vs_reuse_obstacles {
	bool translated;
	bool synproxy_syn;
	bool from_loopback;
	bool ip_options;
	bool exceeds_frag_max_size;
	bool zone_in_vrf;
	bool not_socket_mark;
	bool nested;
};

void ip_vs_reuse_read_obstacles(struct sk_buff *skb, const struct nf_hook_state *state,
			      struct ip_vs_reuse_obstacles *to);
bool ip_vs_reuse_replay(struct sk_buff *skb, const struct nf_hook_state *state, u32 fwmark,
			unsigned int *verdict);

#endif /* _IP_VS_REUSE_NETFILTER_HELPERS_H */
