/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _IP_VS_REUSE_IPVS_LOOKUP_H
#define _IP_VS_REUSE_IPVS_LOOKUP_H

#include <linux/types.h>

struct ip_vs_iphdr;
struct netns_ipvs;
struct nf_hook_state;
struct sk_buff;

bool ip_vs_reuse_in_hook_would_look_up(struct sk_buff *skb, const struct nf_hook_state *state);
bool ip_vs_reuse_ip_vs_fill_iph_skb(int af, const struct sk_buff *skb, struct ip_vs_iphdr *iph);
bool ip_vs_reuse_may_reschedule_udp(struct netns_ipvs *ipvs);

#endif /* _IP_VS_REUSE_IPVS_LOOKUP_H */
