#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The cases of basics.sh with each IPVS that there is or was for Linux $KERNEL, as one table.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

LEGACY=$("$top/scripts/ipvs.sh" legacy)
TENCENT=$("$top/scripts/ipvs.sh" tencent)
PATCHED=$("$top/scripts/ipvs.sh" patched)
VM_ENV="LEGACY TENCENT PATCHED"
export LEGACY TENCENT PATCHED VM_ENV
exec "$top/scripts/in-vm.sh" selftests/baselines/compare.sh
