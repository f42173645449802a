/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for the abstractions in base/: bindgen cannot bind to macros. See helpers.c.
 */
#ifndef _IP_VS_REUSE_BASE_HELPERS_H
#define _IP_VS_REUSE_BASE_HELPERS_H

#include <linux/types.h>

struct callback_head;
struct delayed_work;
struct work_struct;

void ip_vs_reuse_init_delayed_work(struct delayed_work *work,
				   void (*callback)(struct work_struct *work));
u64 ip_vs_reuse_random_seed(void);
void ip_vs_reuse_call_rcu_hurry(struct callback_head *head,
				void (*callback)(struct callback_head *head));

#endif /* _IP_VS_REUSE_BASE_HELPERS_H */
