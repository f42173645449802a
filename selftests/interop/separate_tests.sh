#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the kernel selftest of the separate fixes in patches/. On the stock kernel all of its cases must fail
# but the control; with the fixed IPVS all cases must pass. While the table is resized the stock kernel loses
# about one connection of 60, so it may pass that case.
#
# KERNEL_TESTS: what scripts/build/kernel-selftests.sh has made
# IPVS:         what scripts/build/ipvs-variant.sh has made, separate
#
# Alone: IPVS=separate VM_ENV=KERNEL_TESTS KERNEL_TESTS=$(scripts/build/kernel-selftests.sh) \
#        make case TEST=interop/separate_tests.sh

# shellcheck source=selftests/lib/kselftests.sh
. "$(dirname "$0")/../lib/kselftests.sh"

case_is stock "stock: ipvs_tests.sh fails for what the fixes mend, and for nothing else"
stock() { only_passes ipvs_tests.sh "^ports reused$" "table resized$"; }

case_is separate "the separate fixes: ipvs_tests.sh passes"
separate()
{
	{ unload ip_vs && insmod "$IPVS/ip_vs.ko" && insmod "$IPVS/ip_vs_twos.ko"; } || bail_out "cannot load $IPVS"
	loaded=separate
	patched_passes ipvs_tests.sh
}

need_root
need_modules ip_vs_twos ip_vs_wrr nft_chain_nat
kselftests_of separate -separate

check_cases "$@"
