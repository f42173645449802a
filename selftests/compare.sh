#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The cases of conn_reuse.sh with each IPVS that there is or was, in one boot, as one table: what
# a client meets. Judges nothing: where an IPVS does not do what the cases want is what the table
# is to show.
#
# MODULE: the module
# LEGACY, TENCENT, PATCHED: directories with an ip_vs.ko each, as scripts/ipvs.sh builds them

# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$here" || exit

RESULTS=$(mktemp)
export RESULTS

# with COLUMN DIRECTORY [VARIABLE=VALUE...]: the cases with the ip_vs.ko in DIRECTORY; the stock
# one where that is empty.
with()
{
	export COLUMN=$1

	echo "# with $COLUMN"
	unload_ipvs
	load_ipvs "$2" || exit
	[ -z "${MODULE:-}" ] || insmod "$MODULE" || exit
	env "${@:3}" ./conn_reuse.sh | grep -c '^ok [^#]*$' | sed 's/^/#   as the cases want it: /'
	[ -z "${MODULE:-}" ] || rmmod ip_vs_reuse
}

# The namespaces of the run before go, and with them what holds IPVS, in the background.
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
