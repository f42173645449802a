// SPDX-License-Identifier: GPL-2.0

#include <linux/overflow.h>
#include <linux/percpu.h>
#include <linux/seq_file_net.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>

#include "helpers.h"

/* The directory /proc/net of a namespace */
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

/* Returns counters that are all 0, or NULL if the allocation fails */
unsigned long __percpu *ip_vs_reuse_alloc_counters(size_t count)
{
	return __alloc_percpu(array_size(count, sizeof(unsigned long)), __alignof__(unsigned long));
}

void ip_vs_reuse_this_cpu_inc(unsigned long __percpu *counter)
{
	this_cpu_inc(*counter);
}

/* Sums over all possible CPUs, online or not */
unsigned long ip_vs_reuse_sum_counter(unsigned long __percpu *counter)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter, cpu));
	return sum;
}
