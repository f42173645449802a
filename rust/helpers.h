/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the module needs of the kernel and bindgen cannot call: static inlines and
 * macros. Each function is the kernel's of the same name, unless it says more.
 */
#ifndef _IP_VS_REUSE_HELPERS_H
#define _IP_VS_REUSE_HELPERS_H

#include <linux/types.h>

struct ip_vs_conn;
struct ip_vs_dest;
struct ip_vs_iphdr;
struct net;
struct nf_conn;
struct nf_conntrack_zone;
struct nf_hook_state;
struct proc_dir_entry;
struct seq_file;
struct sk_buff;

/* Packets */
bool ip_vs_reuse_skb_ipvs_property(const struct sk_buff *skb);
bool ip_vs_reuse_skb_to_host(const struct sk_buff *skb);
bool ip_vs_reuse_skb_nodefrag(struct sk_buff *skb);
bool ip_vs_reuse_checksum_ok(struct sk_buff *skb, unsigned int dataoff, u8 protocol,
			     const struct nf_hook_state *state);

/* Conntrack */
struct nf_conn *ip_vs_reuse_nf_ct_get(const struct sk_buff *skb, unsigned int *ctinfo);
bool ip_vs_reuse_nf_ct_is_template(const struct nf_conn *ct);
const struct nf_conntrack_zone *
ip_vs_reuse_nf_ct_zone_tmpl(const struct nf_conn *tmpl, const struct sk_buff *skb,
			    struct nf_conntrack_zone *tmp);
bool ip_vs_reuse_nf_ct_is_dying(const struct nf_conn *ct);
void ip_vs_reuse_nf_ct_put(struct nf_conn *ct);

/* IPVS */
bool ip_vs_reuse_ip_vs_fill_iph_skb(int af, const struct sk_buff *skb, struct ip_vs_iphdr *iph);
void ip_vs_reuse___ip_vs_conn_put(struct ip_vs_conn *cp);
void ip_vs_reuse_ip_vs_dest_hold(struct ip_vs_dest *dest);
void ip_vs_reuse_ip_vs_dest_put_and_free(struct ip_vs_dest *dest);

/* Namespaces and counters */
struct proc_dir_entry *ip_vs_reuse_proc_net(const struct net *net);
void *ip_vs_reuse_net_generic(const struct net *net, unsigned int id);
struct net *ip_vs_reuse_seq_file_single_net(struct seq_file *seq);
unsigned long __percpu *ip_vs_reuse_alloc_counters(size_t count);
void ip_vs_reuse_this_cpu_inc(unsigned long __percpu *counter);
unsigned long ip_vs_reuse_sum_counter(unsigned long __percpu *counter);

#endif /* _IP_VS_REUSE_HELPERS_H */
