#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: test-swarm.sh [CASE...]
#
# Runs Docker Swarm's tests in a virtual machine: the cases of interop/swarm.sh, or those CASEs only, with NODES nodes
# (1, or 2). Ends with a line 'N passed, N failed'. All output is kept in the cache, log/test-swarm.log.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

log=$cache/log/test-swarm.log
mkdir -p "$cache/log"
: >"$log"

export VM_TIMEOUT=5400 NODES=${NODES:-1}
DOCKER=$("$top/scripts/build/docker.sh")
export DOCKER

status=0
VM_ENV="DOCKER NODES" "$top/scripts/vm/in-vm.sh" selftests/run.sh interop/swarm.sh "$@" 2>&1 | tee -a "$log" || status=1
summarize "$log" $status
