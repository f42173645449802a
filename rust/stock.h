/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the module needs on a stock kernel only: see stock.c.
 */
#ifndef _IP_VS_REUSE_STOCK_H
#define _IP_VS_REUSE_STOCK_H

#include <linux/types.h>

struct ip_vs_conn;
struct ip_vs_iphdr;
struct netns_ipvs;
struct nf_conn;
struct sk_buff;

bool ip_vs_reuse_skb_to_host(const struct sk_buff *skb);
bool ip_vs_reuse_skb_nodefrag(struct sk_buff *skb);
struct nf_conn *ip_vs_reuse_nf_ct_get(const struct sk_buff *skb, unsigned int *ctinfo);
bool ip_vs_reuse_nf_ct_is_template(const struct nf_conn *ct);
bool ip_vs_reuse_ip_vs_fill_iph_skb(int af, const struct sk_buff *skb, struct ip_vs_iphdr *iph);
bool ip_vs_reuse_servers_may_have_left(struct netns_ipvs *ipvs);
void ip_vs_reuse___ip_vs_conn_put(struct ip_vs_conn *cp);

#endif /* _IP_VS_REUSE_STOCK_H */
