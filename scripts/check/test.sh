#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: test.sh [--all]
#
# Runs the tests: the pure code on the host, the rest in virtual machines, two at a time. Ends with a line
# 'N passed, N failed'. All output is kept in the cache, log/test.log.
#
# Without --all it is the short set: the common cases on stock, with the module and with the patched
# IPVS, ipvs-watch, and the scheduler. With --all it is everything that must hold:
# - The kernel's own tests have a boot to themselves, so that what they leave behind cannot disturb the
#   others. So has each other IPVS, patched or baseline. `make patches-check` runs the whole matrix on
#   the patched one.
# - p2c's come last: they measure shares per second, so nothing else may run at the same time.
#
# LONG: if set, also runs those of the kernel's own tests that take long

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

log=$cache/log/test.log
set=short
[ "${1:-}" != --all ] || set=all
export VM_TIMEOUT=4200	# the longest list of scripts takes half of that on a quiet machine
mkdir -p "$cache/log"

on_host() (
	lock cargo
	fresh_target
	"$top/scripts/root/enter.sh" cargo test --locked --quiet --workspace
)

# The kinds of services that p2c serves.
p2c="p2c/basics.sh loads_by_itself serves_tcp serves_ipv6 serves_fwmark serves_persistent serves_one_packet
	refuses_without_servers"
# All cases of reopened flows; ends with their table.
cases="interop/ipvs_watch.sh robustness/module.sh cases"
# What people run with IPVS: keepalived, ldirectord, nginx, curl, ab, wrk.
tools="interop/tools.sh interop/directors.sh"
# By the path that a packet takes to IPVS.
paths="reuse/paths.sh reuse/paths_netfilter.sh"
others="reuse/matrix.sh robustness/bad_input.sh robustness/bound.sh robustness/queued.sh robustness/stack.sh robustness/fault_injection.sh"

in_vm() {
	# shellcheck disable=SC2086 # a list
	"$top/scripts/vm/in-vm.sh" selftests/run.sh $1
}

kernel_tests() {
	[ -z "${LONG:-}" ] || export VM_TIMEOUT=14400
	VM_ENV="KERNEL_TESTS LONG" in_vm interop/kernel_tests.sh
}

first_short() { in_vm "reuse/basics.sh robustness/module.sh"; }

second_short() {
	local status=0
	IPVS=patched in_vm reuse/basics.sh || status=1
	in_vm "interop/ipvs_watch.sh $p2c" || status=1
	return $status
}

first_all() {
	local status=0
	in_vm "$cases $tools" || status=1
	IPVS=patched VM_ENV=KERNEL_TESTS in_vm "reuse/basics.sh interop/series_tests.sh" || status=1
	IPVS=separate VM_ENV=KERNEL_TESTS in_vm interop/separate_tests.sh || status=1
	return $status
}

second_all() {
	local status=0 baseline
	in_vm "$others" || status=1
	in_vm "$paths" || status=1
	kernel_tests || status=1
	for baseline in legacy tencent; do
		IPVS=$baseline in_vm baselines/baselines.sh || status=1
	done
	return $status
}

status=0
say "testing the pure code, the harness and ipvs-watch on the host"
on_host 2>&1 | tee "$log" | grep -E '^(test result|error|test .*FAILED)|panicked' || status=1

say "testing what make says of a kernel tree that cannot be used"
"$top/scripts/check/bad-kdir.sh" 2>&1 | tee -a "$log" || status=1

# What both machines need is built before, once.
"$top/scripts/build/module.sh" >/dev/null
"$top/scripts/build/harness.sh" >/dev/null
variants=patched minutes="five minutes"
if [ $set = all ]; then
	variants="patched separate legacy tencent" minutes="half an hour"
	KERNEL_TESTS=$("$top/scripts/build/kernel-selftests.sh")
	export KERNEL_TESTS LONG
fi
for variant in $variants; do
	"$top/scripts/build/ipvs-variant.sh" "$variant" >/dev/null
done
say "testing in two virtual machines; one's results come now, the other's behind them ($minutes)"
side_by_side "$log" first_$set second_$set || status=1
if [ $set = all ]; then
	in_vm p2c 2>&1 | tee -a "$log" || status=1
fi

# All that a test needs is there, so none may skip itself whole.
! grep '^1\.\.0 # SKIP' "$log" || status=1
summarize "$log" $status
