/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the abstractions of netfilter need and bindgen cannot call: static inlines.
 */
#ifndef _IP_VS_REUSE_NETFILTER_HELPERS_H
#define _IP_VS_REUSE_NETFILTER_HELPERS_H

#include <linux/types.h>

struct nf_hook_state;
struct sk_buff;

/* See struct Passage in packet.rs */
struct ip_vs_reuse_passage {
	bool translated;
	bool from_synproxy;
	bool from_loopback;
	bool router_options;
	bool exceeds_fragments;
	bool zone_of_vrf;
	bool changed_mark;
	bool nested;
};

void ip_vs_reuse_read_passage(struct sk_buff *skb, const struct nf_hook_state *state,
			      struct ip_vs_reuse_passage *to);
bool ip_vs_reuse_replay(struct sk_buff *skb, const struct nf_hook_state *state,
			unsigned int *verdict);

#endif /* _IP_VS_REUSE_NETFILTER_HELPERS_H */
