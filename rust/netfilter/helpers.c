// SPDX-License-Identifier: GPL-2.0

#include <linux/skbuff.h>
#include <linux/udp.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_zones.h>
#include <net/sctp/checksum.h>

#include "helpers.h"

/* Whether conntrack would take the packet's checksum for good, by its own conditions */
bool ip_vs_reuse_checksum_ok(struct sk_buff *skb, unsigned int dataoff, u8 protocol,
			     const struct nf_hook_state *state)
{
	const struct udphdr *uh;
	struct udphdr _uh;
	struct sctphdr *sh;

	if (state->hook != NF_INET_PRE_ROUTING || !state->net->ct.sysctl_checksum)
		return true;
	if (protocol == IPPROTO_UDP) {
		uh = skb_header_pointer(skb, dataoff, sizeof(_uh), &_uh);
		if (!uh || !uh->check)
			return uh;
	}
	if (protocol != IPPROTO_SCTP)
		return !nf_checksum(skb, state->hook, dataoff, protocol, state->pf);
	if (skb->ip_summed != CHECKSUM_NONE)
		return true;
	if (skb_ensure_writable(skb, dataoff + sizeof(*sh)))
		return false;
	sh = (struct sctphdr *)(skb->data + dataoff);
	if (sh->checksum != sctp_compute_cksum(skb, dataoff))
		return false;
	skb->ip_summed = CHECKSUM_UNNECESSARY;	/* so conntrack need not compute it again */
	return true;
}

const struct nf_conntrack_zone *
ip_vs_reuse_nf_ct_zone_tmpl(const struct nf_conn *tmpl, const struct sk_buff *skb,
			    struct nf_conntrack_zone *tmp)
{
	return nf_ct_zone_tmpl(tmpl, skb, tmp);
}

bool ip_vs_reuse_nf_ct_is_dying(const struct nf_conn *ct)
{
	return nf_ct_is_dying(ct);
}

void ip_vs_reuse_nf_ct_put(struct nf_conn *ct)
{
	nf_ct_put(ct);
}
