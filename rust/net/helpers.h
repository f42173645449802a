/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for the abstractions of networking: bindgen cannot bind to static inline functions and
 * macros. A helper is named for the function that it calls, or has a comment in helpers.c.
 */
#ifndef _IP_VS_REUSE_NET_HELPERS_H
#define _IP_VS_REUSE_NET_HELPERS_H

#include <linux/types.h>

struct net;
struct proc_dir_entry;
struct seq_file;

struct proc_dir_entry *ip_vs_reuse_proc_net(const struct net *net);
void *ip_vs_reuse_net_generic(const struct net *net, unsigned int id);
struct net *ip_vs_reuse_seq_file_single_net(struct seq_file *seq);
unsigned long __percpu *ip_vs_reuse_alloc_counters(size_t count);
void ip_vs_reuse_this_cpu_inc(unsigned long __percpu *counter);
unsigned long ip_vs_reuse_sum_counter(unsigned long __percpu *counter);

#endif /* _IP_VS_REUSE_NET_HELPERS_H */
