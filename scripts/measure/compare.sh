#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the cases of basics.sh on Linux $KERNEL with each IPVS: stock, with the module, patched, and the
# baselines legacy and tencent. Prints one table.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

LEGACY=$("$top/scripts/build/ipvs-variant.sh" legacy)
TENCENT=$("$top/scripts/build/ipvs-variant.sh" tencent)
PATCHED=$("$top/scripts/build/ipvs-variant.sh" patched)
VM_ENV="LEGACY TENCENT PATCHED"
export LEGACY TENCENT PATCHED VM_ENV
exec "$top/scripts/vm/in-vm.sh" selftests/baselines/compare_variants.sh
