#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: run.sh TEST [CASE...] [TEST [CASE...]]...
#
# Runs kselftests one after the other, or only some of their cases. Passes their KTAP output through as
# it comes, and then prints the table of all cases that ran both on the stock kernel and with the module.
# Runs in the virtual machine. A TEST is a script here, such as reuse/basics.sh. The word `cases` stands
# for all scripts in reuse/ except matrix.sh, paths.sh and paths_netfilter.sh, which need a VM each.
#
# If the kernel has kmemleak (KERNEL=debug), scans for memory leaks at the end.
#
# IPVS: a directory with an ip_vs.ko to be tested in place of the stock one

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/lib/lib.sh"
cd "$here" || exit

cases="reuse/basics.sh reuse/lifecycle.sh reuse/forwarding.sh reuse/kube_proxy.sh reuse/clients.sh
	reuse/stray_syns.sh reuse/odd_packets.sh reuse/tracking.sh reuse/conntracks.sh reuse/filters.sh
	reuse/nat_rules.sh reuse/protocols.sh reuse/services.sh reuse/servers_gone.sh reuse/settings.sh
	reuse/failover.sh reuse/hostile.sh"
tests=()
for word in "$@"; do
	# shellcheck disable=SC2206 # a list
	if [ "$word" = cases ]; then
		tests+=($cases)
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
	lsmod | grep -q '^ip_vs_reuse ' && rmmod ip_vs_reuse
done
if [ -w $kmemleak ]; then
	leaks=$(leaks)
	[ -z "$leaks" ] || { failed=1; echo "# leaked: ${leaks//$'\n'/$'\n'# }"; }
fi
[ ! -s "$RESULTS" ] ||
	"$HARNESS" table "$RESULTS" --title "Linux $(uname -r), QEMU ($VM_ACCEL)" | sed 's/^/# /'
exit $failed
