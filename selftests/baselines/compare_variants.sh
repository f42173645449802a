#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the cases of basics.sh with each variant of IPVS in one boot, and prints one table of what
# a client sees. A case that fails is not an error here: the table is to show the differences.
#
# MODULE: the module
# LEGACY, TENCENT, PATCHED: directories with an ip_vs.ko each, built by scripts/build/ipvs-variant.sh

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"
cd "$here" || exit

RESULTS=$(mktemp)
export RESULTS

# with COLUMN DIRECTORY [VARIABLE=VALUE...]: runs the cases with the ip_vs.ko in DIRECTORY, or with the
# stock one if that is empty.
with()
{
	export COLUMN=$1

	echo "# with $COLUMN"
	unload_ipvs
	load_ipvs "$2" || exit
	[ -z "${MODULE:-}" ] || insmod "$MODULE" || exit
	env "${@:3}" ./reuse/basics.sh | grep -c '^ok [^#]*$' | sed 's/^/#   as expected: /'
	[ -z "${MODULE:-}" ] || rmmod ip_vs_reuse
}

# The kernel cleans up the namespaces of the run before in the background. Until then they use IPVS.
unload_ipvs()
{
	local try

	for try in {1..60}; do
		[ -e /sys/module/ip_vs ] || return 0
		rmmod ip_vs_rr ip_vs 2>/dev/null || sleep 0.5
	done
	echo "ip_vs cannot be unloaded after $try tries"
	exit 1
}

module=${MODULE:?the module}
unset MODULE
with "mode 0" "" MODE=0
with "legacy" "$LEGACY"
with "tencent" "$TENCENT"
with "stock" ""
MODULE=$module with "stock + module" "" MODULE_IS_IN=yes
with "patched" "$PATCHED" IPVS=patched

"$HARNESS" table "$RESULTS" --title "Linux $(uname -r), QEMU ($VM_ACCEL)"
