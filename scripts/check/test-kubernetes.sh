#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: test-kubernetes.sh [CASE...]
#
# Runs kube-proxy's tests in virtual machines: the cases of interop/kubernetes.sh, and then the rolling update of
# interop/kubernetes_rollout.sh. With CASEs, those only. Ends with a line 'N passed, N failed'. All output is
# kept in the cache, log/test-kubernetes.log.
#
# VARIANTS: the columns of the rolling update ("mode0 stock module"); also legacy0, legacy and patched

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

log=$cache/log/test-kubernetes.log
mkdir -p "$cache/log"
: >"$log"

export VM_TIMEOUT=2700 VARIANTS=${VARIANTS:-mode0 stock module}
KUBE_PROXY=$("$top/scripts/build/kube-proxy.sh")/kube-proxy
LEGACY='' PATCHED=''
[[ $VARIANTS != *legacy* ]] || LEGACY=$("$top/scripts/build/ipvs-variant.sh" legacy)
[[ $VARIANTS != *patched* ]] || PATCHED=$("$top/scripts/build/ipvs-variant.sh" patched)
export KUBE_PROXY LEGACY PATCHED

# in_vm TEST...
in_vm() {
	VM_ENV="KUBE_PROXY LEGACY PATCHED VARIANTS ENDS PODS" \
		"$top/scripts/vm/in-vm.sh" selftests/run.sh "$@" 2>&1 | tee -a "$log"
}

status=0
in_vm interop/kubernetes.sh "$@" || status=1
[ $# != 0 ] || in_vm interop/kubernetes_rollout.sh || status=1
summarize "$log" $status
