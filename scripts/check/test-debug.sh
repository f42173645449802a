#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: test-debug.sh [--if-there]
#
# Runs tests in virtual machines with the debug kernel. They fail on any report: use after free, a
# locking error, sleeping in atomic context, a leak. Allocation-failure injection comes first, because it
# covers the code paths that run least often. Then two machines run side by side. The matrix, the
# scheduler's tests and the soak tests come last and alone: they need a machine that is not too slow. The
# soak tests are shorter here. All output is kept in the cache, log/test-debug.log.
# With --if-there: runs only the first part, and only if the cache has that kernel; building it takes
# half an hour.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

export KERNEL=debug VM_TIMEOUT=7200
export VM_ENV="MINUTES SEED REOPENINGS" MINUTES=${MINUTES:-5} REOPENINGS=${REOPENINGS:-4800}
log=$cache/log/test-debug.log

if [ "${1:-}" = --if-there ] && ! "$top/scripts/kernel/get-kernel.sh" --if-there >/dev/null; then
	say "the cache has no debug kernel: 'make test-debug' builds it"
	exit
fi

in_vm() {
	say "testing in a machine with the debug kernel: $*"
	"$top/scripts/vm/in-vm.sh" selftests/run.sh "$@"
}

faults() { in_vm robustness/module.sh robustness/fault_injection.sh; }

# shellcheck disable=SC2317 # called by side_by_side
by_path() {
	local status=0
	in_vm reuse/paths.sh reuse/paths_netfilter.sh || status=1
	in_vm robustness/bad_input.sh robustness/bound.sh robustness/queued.sh || status=1
	return "$status"
}

# shellcheck disable=SC2317
cases() { in_vm cases; }

alone() {
	local status=0
	in_vm reuse/matrix.sh || status=1
	in_vm p2c || status=1
	in_vm robustness/churn.sh robustness/million.sh || status=1
	return "$status"
}

# What the machines need is built before, once.
"$top/scripts/build/module.sh" >/dev/null
"$top/scripts/build/harness.sh" >/dev/null

mkdir -p "$cache/log"
status=0
faults 2>&1 | tee "$log" || status=1
if [ "${1:-}" != --if-there ]; then
	side_by_side "$log" by_path cases || status=1
	alone 2>&1 | tee -a "$log" || status=1
fi
summarize "$log" $status
