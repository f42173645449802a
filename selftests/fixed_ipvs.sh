#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The cases of conn_reuse.sh in one boot with the stock IPVS, where the fault must show, and with
# a patched one in its place, where none may, as one table; and whether all stock modules that
# stand on IPVS load on top of the patched one. For kernels that cannot take ip_vs_reuse.ko.
#
# IPVS:    a directory with the patched ip_vs.ko
# HARNESS: the traffic program
# WATCH:   ipvs-watch, used where the kernel has BTF for its modules

# shellcheck disable=SC2317 # functions are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$here" || exit

need_root
need_tools modprobe rmmod insmod
patched=${IPVS:?a directory with ip_vs.ko}
failed=0
RESULTS=$(mktemp)
export RESULTS
unset IPVS MODULE

# The namespaces of the run before go, and with them what holds IPVS, in the background.
unloaded() { [ ! -e /sys/module/ip_vs ] || modprobe -qr ip_vs_rr ip_vs; }

# cases: those of conn_reuse.sh; what would run with the module is skipped there.
cases()
{
	local status=0

	[ -e /sys/kernel/btf/ip_vs ] || unset WATCH
	./conn_reuse.sh || status=$?
	((status == 0 || status == ksft_skip)) || failed=1
}

echo "# conn_reuse.sh with the stock IPVS"
load_ipvs || exit
cases

echo "# conn_reuse.sh with the patched IPVS"
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
