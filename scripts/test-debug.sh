#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: test-debug.sh [--if-there]
#
# Runs tests in virtual machines with the debug kernel. They fail on any report: use after free, a
# locking error, sleeping in atomic context, a leak. Allocation-failure injection comes first, because it
# covers the code paths that run least often. The soak tests come last, and are shorter here.
# With --if-there: runs only the first part, and only if the cache has that kernel; building it takes
# half an hour.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

export KERNEL=debug VM_TIMEOUT=7200
export VM_ENV="MINUTES SEED REOPENINGS" MINUTES=${MINUTES:-5} REOPENINGS=${REOPENINGS:-4800}
tests=("robustness/module.sh robustness/fault_injection.sh" "reuse/matrix.sh p2c/p2c.sh cases" "reuse/paths.sh reuse/paths_netfilter.sh robustness/bad_input.sh robustness/bound.sh robustness/queued.sh" "robustness/churn.sh robustness/million.sh")

if [ "${1:-}" = --if-there ]; then
	made_from=$(cat "$top"/scripts/debug-kernel.{sh,config} | sha256sum)
	if [ "$(cat "$root/usr/src/rust-linux-debug/.complete" 2>/dev/null)" != "$made_from" ]; then
		say "the cache has no debug kernel: 'make test-debug' builds it"
		exit
	fi
	tests=("robustness/module.sh robustness/fault_injection.sh")
fi

status=0
for test in "${tests[@]}"; do
	say "testing in a machine with the debug kernel: $test"
	# shellcheck disable=SC2086 # a list
	"$top/scripts/in-vm.sh" selftests/run.sh $test || status=1
done
exit $status
