// SPDX-License-Identifier: GPL-2.0
/*
 * Fails allocations that have ip_vs_reuse.ko on their stack, of whatever kind, on any kernel:
 * failslab is in none that is shipped, and does not reach memory for each processor. To be
 * inserted before ip_vs_reuse.ko.
 */

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/stacktrace.h>

static int nth;
module_param(nth, int, 0644);
MODULE_PARM_DESC(nth, "which allocation fails: 0 for none, -1 for all");

static int seen;
module_param(seen, int, 0644);
MODULE_PARM_DESC(seen, "allocations so far");

static char last_caller[KSYM_SYMBOL_LEN];
module_param_string(last_caller, last_caller, sizeof(last_caller), 0444);
MODULE_PARM_DESC(last_caller, "who called the allocator that was seen last");

static struct module *watched;
static DEFINE_RAW_SPINLOCK(fail_alloc_lock);

static int fail_alloc_notify(struct notifier_block *nb, unsigned long state, void *data)
{
	struct module *mod = data;

	if (!strcmp(mod->name, "ip_vs_reuse"))
		WRITE_ONCE(watched, state == MODULE_STATE_GOING ? NULL : mod);
	return NOTIFY_DONE;
}

static bool fail_alloc_is_watched(void)
{
	struct module *mod = READ_ONCE(watched);
	unsigned long entries[48];
	unsigned int i, n;

	if (!mod)
		return false;
	n = stack_trace_save(entries, ARRAY_SIZE(entries), 0);
	for (i = 0; i < n; i++)
		if (within_module(entries[i], mod))
			return true;
	return false;
}

/*
 * Who allocates for itself while it allocates or frees for others: one allocator for another,
 * kmemleak, and SLUB_RCU_DEBUG. That is their affair: they do without.
 */
static const char * const fail_alloc_inner[] = {
	"_noprof", "__alloc_object", "kmem_cache_free",
};

static bool fail_alloc_is_inner(const char *caller)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fail_alloc_inner); i++)
		if (strstr(caller, fail_alloc_inner[i]))
			return true;
	return false;
}

/* Whether this allocation fails. */
static bool fail_alloc_decide(unsigned long caller)
{
	static char name[KSYM_SYMBOL_LEN];	/* under the lock */
	unsigned long flags;
	bool fail = false;

	raw_spin_lock_irqsave(&fail_alloc_lock, flags);
	snprintf(name, sizeof(name), "%ps", (void *)caller);
	if (!fail_alloc_is_inner(name)) {
		strscpy(last_caller, name);
		seen++;
		fail = nth == -1 || seen == nth;
	}
	raw_spin_unlock_irqrestore(&fail_alloc_lock, flags);
	return fail;
}

/* Where a failing allocation goes on: it returns at once */
static noinline notrace void fail_alloc_return(void)
{
	asm volatile("");
}

/* The return address of a function at whose entry these are the registers */
static unsigned long fail_alloc_caller(struct pt_regs *regs)
{
#ifdef CONFIG_X86
	return regs_get_kernel_stack_nth(regs, 0);
#else
	return procedure_link_pointer(regs);
#endif
}

static int fail_alloc_enter(struct kprobe *probe, struct pt_regs *regs)
{
	/* krealloc(p, 0) frees */
	if (strstr(probe->symbol_name, "realloc") && !regs_get_kernel_argument(regs, 1))
		return 0;
	if (!nth || !fail_alloc_is_watched() || !fail_alloc_decide(fail_alloc_caller(regs)))
		return 0;

	regs_set_return_value(regs, 0);
	instruction_pointer_set(regs, (unsigned long)fail_alloc_return);
	return 1;
}

#define FAIL_ALLOC(name) { .symbol_name = #name, .pre_handler = fail_alloc_enter }

static struct kprobe fail_alloc_probes[] = {
	FAIL_ALLOC(__kmalloc_cache_noprof),
	FAIL_ALLOC(__kmalloc_noprof),
	FAIL_ALLOC(__kvmalloc_node_noprof),
	FAIL_ALLOC(kmem_cache_alloc_noprof),
	FAIL_ALLOC(krealloc_node_align_noprof),
	FAIL_ALLOC(kvrealloc_node_align_noprof),
	FAIL_ALLOC(pcpu_alloc_noprof),
};

static struct notifier_block fail_alloc_notifier = {
	.notifier_call = fail_alloc_notify,
};

static int __init fail_alloc_init(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < ARRAY_SIZE(fail_alloc_probes); i++) {
		err = register_kprobe(&fail_alloc_probes[i]);
		if (err)
			goto unregister;
	}
	err = register_module_notifier(&fail_alloc_notifier);
	if (!err)
		return 0;
unregister:
	while (i--)
		unregister_kprobe(&fail_alloc_probes[i]);
	return err;
}
module_init(fail_alloc_init);

static void __exit fail_alloc_exit(void)
{
	unsigned int i;

	unregister_module_notifier(&fail_alloc_notifier);
	for (i = 0; i < ARRAY_SIZE(fail_alloc_probes); i++)
		unregister_kprobe(&fail_alloc_probes[i]);
}
module_exit(fail_alloc_exit);

MODULE_DESCRIPTION("Allocations of ip_vs_reuse fail (tests)");
MODULE_LICENSE("GPL");
