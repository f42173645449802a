/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the abstractions of namespaces and counters need and bindgen cannot call: static
 * inlines and macros. Each function is the kernel's of the same name, unless it says more.
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
