/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for a stock kernel only: see hooks.c.
 */
#ifndef _IP_VS_REUSE_HOOKS_H
#define _IP_VS_REUSE_HOOKS_H

#include <linux/types.h>

struct delayed_work;
struct ip_vs_iphdr;
struct net;
struct netns_ipvs;
struct nf_hook_state;
struct sk_buff;
struct work_struct;

bool ip_vs_reuse_in_hook_would_look_up(struct sk_buff *skb, const struct nf_hook_state *state);
bool ip_vs_reuse_ip_vs_fill_iph_skb(int af, const struct sk_buff *skb, struct ip_vs_iphdr *iph);
bool ip_vs_reuse_may_reschedule_udp(struct netns_ipvs *ipvs);
void ip_vs_reuse_walk_namespaces(void (*callback)(struct net *net, void *data), void *data);
void ip_vs_reuse_init_delayed_work(struct delayed_work *work,
				   void (*callback)(struct work_struct *work));
void ip_vs_reuse_schedule_next_second(struct delayed_work *work);

#endif /* _IP_VS_REUSE_HOOKS_H */
