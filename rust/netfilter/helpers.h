/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the abstractions of conntrack need and bindgen cannot call: static inlines. Each
 * function is the kernel's of the same name, unless it says more.
 */
#ifndef _IP_VS_REUSE_NETFILTER_HELPERS_H
#define _IP_VS_REUSE_NETFILTER_HELPERS_H

#include <linux/types.h>

struct nf_conn;
struct nf_conntrack_zone;
struct nf_hook_state;
struct sk_buff;

bool ip_vs_reuse_checksum_ok(struct sk_buff *skb, unsigned int dataoff, u8 protocol,
			     const struct nf_hook_state *state);
const struct nf_conntrack_zone *
ip_vs_reuse_nf_ct_zone_tmpl(const struct nf_conn *tmpl, const struct sk_buff *skb,
			    struct nf_conntrack_zone *tmp);
bool ip_vs_reuse_nf_ct_is_dying(const struct nf_conn *ct);
void ip_vs_reuse_nf_ct_put(struct nf_conn *ct);

#endif /* _IP_VS_REUSE_NETFILTER_HELPERS_H */
