#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: clean.sh [--all]
#
# Removes build results, but not what was measured (build/bench). With --all, also removes the whole cache,
# build root included.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

rm -f "$top/ip_vs_reuse.ko" "$top/ip_vs.ko" "$top"/build/{harness,ipvs-watch,*.ko,*.log}
rm -rf "$top"/build/{deb,dist,docs,module,target,vm}
[ -d "$cache" ] || exit 0
if [ "${1:-}" = --all ]; then
	what=("$cache")
else
	what=("$cache"/{module,harness,ipvs,kernel-selftests}-* "$cache/target" "$cache/log")
fi
"$top/scripts/root/in-namespace.sh" rm -rf --one-file-system "${what[@]}"
