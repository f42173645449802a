// SPDX-License-Identifier: GPL-2.0
/*
 * The C half of the module: see helpers.h. Decides nothing.
 */

#include <linux/percpu.h>
#include <linux/seq_file_net.h>
#include <linux/skbuff.h>
#include <net/inet_sock.h>
#include <net/ip_vs.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_zones.h>
#include <net/netns/generic.h>
#include <net/sctp/checksum.h>

#include "helpers.h"

#if !IS_ENABLED(CONFIG_IP_VS_NFCT) || !IS_ENABLED(CONFIG_64BIT)
#error "Without CONFIG_IP_VS_NFCT IPVS has no such fault; 32-bit machines are not supported"
#endif

bool ip_vs_reuse_skb_ipvs_property(const struct sk_buff *skb)
{
	return skb->ipvs_property;
}

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

bool ip_vs_reuse_nf_ct_is_dying(const struct nf_conn *ct)
{
	return nf_ct_is_dying(ct);
}

const struct nf_conntrack_zone *
ip_vs_reuse_nf_ct_zone_tmpl(const struct nf_conn *tmpl, const struct sk_buff *skb,
			    struct nf_conntrack_zone *tmp)
{
	return nf_ct_zone_tmpl(tmpl, skb, tmp);
}

void ip_vs_reuse_nf_ct_put(struct nf_conn *ct)
{
	nf_ct_put(ct);
}

bool ip_vs_reuse_ip_vs_fill_iph_skb(int af, const struct sk_buff *skb, struct ip_vs_iphdr *iph)
{
	return ip_vs_fill_iph_skb(af, skb, false, iph);
}

void ip_vs_reuse___ip_vs_conn_put(struct ip_vs_conn *cp)
{
	__ip_vs_conn_put(cp);
}

void ip_vs_reuse_ip_vs_dest_hold(struct ip_vs_dest *dest)
{
	ip_vs_dest_hold(dest);
}

void ip_vs_reuse_ip_vs_dest_put_and_free(struct ip_vs_dest *dest)
{
	ip_vs_dest_put_and_free(dest);
}

/* The namespace's directory in /proc */
struct proc_dir_entry *ip_vs_reuse_proc_net(const struct net *net)
{
	return net->proc_net;
}

void *ip_vs_reuse_net_generic(const struct net *net, unsigned int id)
{
	return net_generic(net, id);
}

struct net *ip_vs_reuse_seq_file_single_net(struct seq_file *seq)
{
	return seq_file_single_net(seq);
}

unsigned long __percpu *ip_vs_reuse_alloc_counters(size_t count)
{
	return __alloc_percpu(count * sizeof(unsigned long), __alignof__(unsigned long));
}

void ip_vs_reuse_this_cpu_inc(unsigned long __percpu *counter)
{
	this_cpu_inc(*counter);
}

unsigned long ip_vs_reuse_sum_counter(unsigned long __percpu *counter)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter, cpu));
	return sum;
}
