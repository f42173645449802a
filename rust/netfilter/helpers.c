// SPDX-License-Identifier: GPL-2.0
/*
 * The replay, a call into the network stack, and the checks of a packet before it. This is C
 * because it consists of calls of static inline functions, and uses per-CPU data.
 */

#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/percpu.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_core.h>
#include <net/netfilter/nf_conntrack_synproxy.h>
#include <net/netfilter/nf_conntrack_zones.h>
#include <net/sock.h>

#include "helpers.h"

/* The depth of nested replays at LOCAL_OUT on this CPU */
static DEFINE_PER_CPU(unsigned int, ip_vs_reuse_depth);

static void read_obstacles_out(const struct sk_buff *skb, const struct nf_hook_state *state,
			     const struct nf_conn *ct, struct ip_vs_reuse_obstacles *to)
{
	const struct nf_conn_synproxy *synproxy = nfct_synproxy(ct);
	const struct sock *sk = sk_to_full_sk(skb->sk ?: state->sk);

	/* ctnetlink adds the extension to each conntrack that it creates, but with isn 0 */
	to->synproxy_syn = synproxy && synproxy->isn;
	to->not_socket_mark = skb->mark != (sk ? READ_ONCE(sk->sk_mark) : 0);
	to->nested = this_cpu_read(ip_vs_reuse_depth);
}

/*
 * At LOCAL_IN: the device that received the packet. That is not skb->dev if a VRF has taken the
 * packet from there. NULL if the device is gone.
 */
static struct net_device *input_device(const struct sk_buff *skb, const struct nf_hook_state *state)
{
	int slave = state->pf == NFPROTO_IPV6 ? inet6_sdif(skb) : inet_sdif(skb);

	return slave ? dev_get_by_index_rcu(state->net, slave) : skb->dev;
}

static void read_obstacles_in(const struct sk_buff *skb, const struct nf_hook_state *state,
			    const struct nf_conn *ct, enum ip_conntrack_dir dir,
			    struct ip_vs_reuse_obstacles *to)
{
	const struct net_device *dev = input_device(skb, state);

	/* A VRF is the loopback device of its own traffic */
	to->from_loopback = !dev || (dev->flags & IFF_LOOPBACK) || netif_is_l3_master(dev);
	to->zone_in_vrf = netif_is_l3_master(skb->dev) &&
			  nf_ct_zone_id(nf_ct_zone(ct), dir) != NF_CT_DEFAULT_ZONE_ID;
	if (state->pf == NFPROTO_IPV4) {
		to->ip_options = ip_hdr(skb)->ihl > 5;
		return;
	}
	to->ip_options = ipv6_hdr(skb)->nexthdr == NEXTHDR_HOP;
	to->exceeds_frag_max_size = IP6CB(skb)->frag_max_size &&
				    skb->len > IP6CB(skb)->frag_max_size;
}

/* The packet has a conntrack, and is at LOCAL_IN or LOCAL_OUT. @to is zeroed. */
void ip_vs_reuse_read_obstacles(struct sk_buff *skb, const struct nf_hook_state *state,
			      struct ip_vs_reuse_obstacles *to)
{
	struct nf_conntrack_tuple tuple;
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	enum ip_conntrack_dir dir = CTINFO2DIR(ctinfo);

	to->translated = !nf_ct_get_tuplepr(skb, skb_network_offset(skb), state->pf, state->net,
					    &tuple) ||
			 !nf_ct_tuple_equal(&tuple, &ct->tuplehash[dir].tuple);
	if (state->hook == NF_INET_LOCAL_OUT)
		read_obstacles_out(skb, state, ct, to);
	else
		read_obstacles_in(skb, state, ct, dir, to);
}

/*
 * At LOCAL_IN: receives the packet again, without its previous route, socket and mark. Rules set
 * the mark again; but that of a virtual service, which may have been set below the device, stays.
 */
static bool replay_in(struct sk_buff *skb, const struct nf_hook_state *state, u32 fwmark)
{
	skb->dev = input_device(skb, state) ?: skb->dev;
	skb_orphan(skb);
	skb_dst_drop(skb);
	if (skb->mark != fwmark)
		skb->mark = 0;
	return netif_rx(skb) == NET_RX_SUCCESS;
}

/* At LOCAL_OUT: sends the packet again. Returns 0, or an error for the sender. */
static int replay_out(struct sk_buff *skb, const struct nf_hook_state *state)
{
	int err;

	/*
	 * Another packet of this CPU must not see this depth. With PREEMPT_RT it may, if its task
	 * preempts this one: it is left to IPVS then, or dropped if its conntrack was killed
	 * already.
	 */
	local_bh_disable();
	this_cpu_inc(ip_vs_reuse_depth);
	if (state->pf == NFPROTO_IPV6)
		err = ip6_local_out(state->net, state->sk, skb);
	else
		err = ip_local_out(state->net, state->sk, skb);
	this_cpu_dec(ip_vs_reuse_depth);
	local_bh_enable();

	return err > 0 ? net_xmit_errno(err) : err;
}

/*
 * Receives or sends the packet again, without its conntrack. @fwmark is the mark of its virtual
 * service, or 0. Returns false if the packet could not be queued, or not be sent for its depth, and
 * is lost. After NF_DROP in @verdict the caller still owns it.
 */
bool ip_vs_reuse_replay(struct sk_buff *skb, const struct nf_hook_state *state, u32 fwmark,
			unsigned int *verdict)
{
	nf_reset_ct(skb);
	skb_init_secmark(skb);
	*verdict = NF_STOLEN;
	if (state->hook != NF_INET_LOCAL_OUT)
		return replay_in(skb, state, fwmark);
	if (this_cpu_read(ip_vs_reuse_depth)) {
		*verdict = NF_DROP;
		return false;
	}
	*verdict |= -replay_out(skb, state) << NF_VERDICT_QBITS;	/* for NF_DROP_GETERR() */
	return true;
}
