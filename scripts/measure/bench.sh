#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: bench.sh [--quick] [FOLDER]
#
# Runs all benchmarks in virtual machines with Linux $KERNEL, one after the other. Writes report.md,
# its pictures, the raw data (*.jsonl) and environment.json to FOLDER in the checkout (build/bench, or
# build/bench-quick). --quick uses fewer rounds and sizes, and takes less than ten minutes.
#
# BENCH: the benchmarks to run ("storm rollout price scheduler balance slow_start directors queues scale"), and
#        also kubernetes, the rolling update with kube-proxy itself; FOLDER keeps earlier results of the others
# ENTRIES: number of IPVS entries for `scale` (1000000; a VM has 2 GB)

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

quick=
[ "${1:-}" != --quick ] || { quick=-quick; shift; }
folder=${1:-build/bench$quick}
mkdir -p "$top/$folder" || die "cannot write to $top/$folder"

release=$("$top/scripts/kernel/get-kernel.sh")
"$top/scripts/build/module.sh" >/dev/null
"$top/scripts/build/harness.sh" >/dev/null
LEGACY=$("$top/scripts/build/ipvs-variant.sh" legacy)
TENCENT=$("$top/scripts/build/ipvs-variant.sh" tencent)
PATCHED=$("$top/scripts/build/ipvs-variant.sh" patched)
export LEGACY TENCENT PATCHED
export VM_ENV="LEGACY TENCENT PATCHED ROUNDS SECONDS_EACH VARIANTS CONCURRENCIES SIZES ENTRIES JSON"

# program ARGUMENTS...: selftests/bench, in the build root, where the checkout is /src. Other
# checkouts build theirs in the same place, before or after.
program() (
	lock cargo
	fresh_target
	"$top/scripts/root/enter.sh" cargo build --locked --quiet --release -p bench
	"$top/scripts/root/enter.sh" /cache/target/release/bench "$@"
)

# measure NAME COMMAND...: keeps the lines of JSON of one measurement.
measure() {
	local name=$1 start=$SECONDS log=$cache/log/bench-$1.log
	shift
	case " ${BENCH:-storm rollout price scheduler balance slow_start directors queues scale} " in
	*" $name "*) ;;
	*) return 0 ;;
	esac
	say "measuring: $name"
	mkdir -p "$cache/log"
	"$@" >"$log" 2>&1 || { tail -n 5 "$log" >&2; die "failed: $name (log: $log)"; }
	grep '^{' "$log" >"$top/$folder/$name.jsonl" || die "$name has measured nothing (log: $log)"
	grep '^#' "$log" >&2 || true
	say "done in $((SECONDS - start)) s"
}

# in_vm VARIABLE=VALUE... SCRIPT
in_vm() { env "${@:1:$#-1}" "$top/scripts/vm/in-vm.sh" "selftests/${*: -1}"; }

kubernetes() {
	KUBE_PROXY=$("$top/scripts/build/kube-proxy.sh")/kube-proxy
	export KUBE_PROXY
	VM_ENV+=" KUBE_PROXY ENDS PODS" in_vm VM_TIMEOUT=5400 interop/kubernetes_rollout.sh
}

if [ -n "$quick" ]; then
	few="unique stock module patched"
	measure storm in_vm VM_ICOUNT=yes ROUNDS=1 SECONDS_EACH=1 VARIANTS="$few" CONCURRENCIES=64 bench/storm.sh
	measure rollout in_vm ROUNDS=1 VARIANTS="$few" bench/rollout.sh
	measure price in_vm VM_ICOUNT=yes JSON=yes ROUNDS=1 PATCHED= bench/price.sh
	measure scheduler in_vm VM_ICOUNT=yes ROUNDS=1 SIZES="1 10 100 1000" bench/scheduler.sh
	measure balance in_vm VM_ICOUNT=yes ROUNDS=1 bench/balance.sh
	measure directors program simulate --directors 1,100 --servers 10,100
	measure queues program queues --directors 1 --loads 0.5,0.9 --connections 20000
else
	measure storm in_vm VM_ICOUNT=yes VM_TIMEOUT=5400 ROUNDS=3 SECONDS_EACH=2 bench/storm.sh
	measure rollout in_vm VM_TIMEOUT=3600 ROUNDS=3 bench/rollout.sh
	measure price in_vm VM_ICOUNT=yes VM_TIMEOUT=3600 JSON=yes ROUNDS=5 bench/price.sh
	measure scheduler in_vm VM_ICOUNT=yes VM_TIMEOUT=3600 ROUNDS=3 bench/scheduler.sh
	measure balance in_vm VM_ICOUNT=yes VM_TIMEOUT=3600 ROUNDS=3 bench/balance.sh
	measure slow_start in_vm bench/slow_start.sh
	measure directors program simulate
	measure queues program queues
	measure kubernetes kubernetes
	measure scale in_vm VM_ICOUNT=yes VM_TIMEOUT=7200 JSON=yes ROUNDS=3 "ENTRIES=${ENTRIES:-1000000}" bench/price.sh
fi

# What is to be compared by a few percent is measured where the clock counts instructions: noise
# does not reach it, nor does what others do on this machine. The rollouts and the slow start have real time
# and two processors.
# KVM is used where a trial has shown that a guest runs (boot.sh).
machine="software emulation"
[ "$(cat "$cache/kvm-$(cat /proc/sys/kernel/random/boot_id)" 2>/dev/null)" != yes ] || machine=KVM

cd "$top/$folder"
cat >environment.json <<END
{
  "kernel": "$release",
  "machine": "QEMU; rollout, slow start and kubernetes: $machine, two processors; all else: emulation, one processor, whose clock counts instructions, 2 ns each",
  "host": "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)",
  "rounds": "$([ -n "$quick" ] && echo 1 || echo "price: 5; kubernetes, slow start: 1; directors, queues: simulated; all else: 3")",
  "date": "$(date -u +%Y-%m-%d)",
  "tree": "$(git -C "$top" describe --always --dirty)"
}
END
program report "/src/$folder"
say "the report is in $folder/report.md"
