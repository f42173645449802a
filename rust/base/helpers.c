// SPDX-License-Identifier: GPL-2.0

#include <linux/percpu.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/workqueue.h>

#include "helpers.h"

void ip_vs_reuse_init_delayed_work(struct delayed_work *work,
				   void (*callback)(struct work_struct *work))
{
	INIT_DELAYED_WORK(work, callback);
}

/* Odd, so that the sequence has all 2^64 numbers */
#define SEED_STEP 0xd1342543de82ef95ULL

/* So that the first sum is 0, and the first call reseeds */
static DEFINE_PER_CPU(u64, ip_vs_reuse_seed) = -SEED_STEP;

/*
 * A seed for a generator that mixes well. get_random_u64() takes 300 instructions, so it supplies
 * one seed in 1,024 on average; an arithmetic sequence supplies the rest.
 */
u64 ip_vs_reuse_random_seed(void)
{
	u64 seed = this_cpu_add_return(ip_vs_reuse_seed, SEED_STEP);

	if (likely(seed >> 54))
		return seed;
	seed = get_random_u64();
	this_cpu_write(ip_vs_reuse_seed, seed);
	return seed;
}

/* Without CONFIG_RCU_LAZY this is an inline function. Lazy callbacks may wait for ten seconds. */
void ip_vs_reuse_call_rcu_hurry(struct callback_head *head,
				void (*callback)(struct callback_head *head))
{
	call_rcu_hurry(head, callback);
}
