#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: run.sh [TEST [CASE...]]...
#
# Runs kselftests one after the other, or only some of their cases. Passes their KTAP output through as
# it comes, and then prints the table of all cases that ran both on the stock kernel and with the module.
# Runs on the kernel under test, as root. A TEST is a script here, such as reuse/basics.sh. The word `cases`
# stands for those in reuse/ except matrix.sh, paths.sh and paths_netfilter.sh, which take long, the
# word `p2c` for those in p2c/, and `short`, the default, for a few minutes' worth of all: the lists below.
#
# If the kernel has kmemleak (KERNEL=debug), scans for memory leaks at the end.
#
# MODULE: ip_vs_reuse.ko; if not set, the one beside this script, or in build/ of the checkout
# WATCH:  ipvs-watch; likewise, on a kernel with BTF
# IPVS:   a directory with an ip_vs.ko to be tested in place of the stock one

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/lib/lib.sh"
cd "$here" || exit

cases="reuse/basics.sh reuse/lifecycle.sh reuse/forwarding.sh reuse/kube_proxy.sh reuse/cni.sh reuse/clients.sh
	reuse/stray_syns.sh reuse/odd_packets.sh reuse/tracking.sh reuse/conntracks.sh reuse/filters.sh
	reuse/nat_rules.sh reuse/protocols.sh reuse/services.sh reuse/servers_gone.sh reuse/settings.sh
	reuse/failover.sh reuse/hostile.sh"
# shellcheck disable=SC2034 # below, by its name
p2c="p2c/basics.sh p2c/destinations.sh p2c/switching.sh p2c/shares.sh p2c/slow_start.sh p2c/ten_thousand.sh"
# shellcheck disable=SC2034
short="robustness/module.sh reuse/basics.sh p2c/basics.sh"
tests=()

# Those of the checkout, or of where `make install` of the kernel's selftests has put them.
MODULE=${MODULE-$(built ip_vs_reuse.ko)}
[ ! -e /sys/kernel/btf/vmlinux ] || WATCH=${WATCH-$(built ipvs-watch)}
export MODULE WATCH

if (($# == 0)); then
	need_root
	[ -n "$MODULE" ] || skip_all "needs ip_vs_reuse.ko: set MODULE, or build it (make check KDIR=...)"
	set -- short
fi
for word in "$@"; do
	# shellcheck disable=SC2206 # lists
	if [[ $word = cases || $word = p2c || $word = short ]]; then
		tests+=(${!word})
	elif [ -f "$word" ]; then
		tests+=("$word")
	elif ((${#tests[@]})); then
		tests[-1]+=" $word"
	else
		bail_out "there is no selftests/$word"
	fi
done

RESULTS=$(mktemp)
export RESULTS

[ -z "${IPVS:-}" ] || load_ipvs "$IPVS" || exit

# What was allocated by IPVS, or by a module that is gone, whose addresses have no name any more,
# and is lost. It is met in two scans, and five seconds old.
kmemleak=/sys/kernel/debug/kmemleak
leaks()
{
	local _

	for _ in 1 2; do
		sleep 5
		echo scan >$kmemleak
	done
	awk -v RS='unreferenced object' '/\[ip_vs|\] 0x/' $kmemleak
}

failed=0
for test in "${tests[@]}"; do
	echo "# $test"
	# shellcheck disable=SC2086 # the script and its cases
	./$test
	status=$?
	# 4: something was skipped, which the test itself has said.
	((status == 0 || status == 4)) || failed=1
	# The next test wants the stock kernel first.
	! lsmod | grep -q '^ip_vs_reuse ' || rmmod ip_vs_reuse || failed=1
done
if [ -w $kmemleak ]; then
	leaks=$(leaks)
	[ -z "$leaks" ] || { failed=1; echo "# leaked: ${leaks//$'\n'/$'\n'# }"; }
fi
if [ -s "$RESULTS" ]; then
	need_harness
	"$harness" table "$RESULTS" --title "Linux $(uname -r)${VM_ACCEL:+, QEMU ($VM_ACCEL)}" | sed 's/^/# /'
fi
exit $failed
