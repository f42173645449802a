#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the cases of basics.sh in one boot with the stock IPVS, which must show the fault, and with
# the patched IPVS, which must not, and prints one table. Checks that all stock modules that depend on
# IPVS load with the patched one. For kernels without support for ip_vs_reuse.ko.
#
# IPVS:    a directory with the patched ip_vs.ko
# HARNESS: the traffic program
# WATCH:   ipvs-watch, used if the kernel has BTF for its modules

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/lib/lib.sh"
cd "$here" || exit

need_root
need_tools modprobe rmmod insmod
patched=${IPVS:?a directory with ip_vs.ko}
failed=0
RESULTS=$(mktemp)
export RESULTS
unset IPVS MODULE

# The kernel cleans up the namespaces of the run before in the background. Until then they use IPVS.
unloaded() { [ ! -e /sys/module/ip_vs ] || modprobe -qr ip_vs_rr ip_vs; }

# cases: runs basics.sh, which skips its half with the module.
cases()
{
	local status=0

	[ -e /sys/kernel/btf/ip_vs ] || unset WATCH
	./reuse/basics.sh || status=$?
	((status == 0 || status == ksft_skip)) || failed=1
}

echo "# basics.sh with the stock IPVS"
load_ipvs || exit
cases

echo "# basics.sh with the patched IPVS"
busywait 60000 unloaded || bail_out "ip_vs cannot be unloaded"
load_ipvs "$patched" || bail_out "the patched ip_vs.ko does not load: $(dmesg | tail -n 3)"
IPVS=patched cases

ktap_plan 1
stock_modules_load()
{
	local module

	for module in "/lib/modules/$(uname -r)"/kernel/net/netfilter/ipvs/ip_vs_*.ko*; do
		module=${module##*/}
		modprobe "${module%%.*}" || fault "${module%%.*}: $(dmesg | tail -n 1)"
	done
}
check stock_modules_load "the stock schedulers and helpers load on the patched IPVS"
((ktap_failed == 0)) || failed=1

"$HARNESS" table "$RESULTS" --title "Linux $(uname -r), QEMU ($VM_ACCEL)" | sed 's/^/# /'
exit $failed
