#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Prints the cases of basics.sh as a table: what happens without the module and with it. Runs in
# the virtual machine. MODULE and HARNESS as there.

set -uo pipefail
RESULTS=$(mktemp)
export RESULTS

echo "Linux $(uname -r) is up. Each case runs on the stock kernel, then with the module:"
"$(dirname "$0")/reuse/basics.sh" | sed -u -e '/^KTAP/d; /^1\.\./d; /^# Totals/d' -e 's/^ok [0-9]* - /  /'
status=$?
((status != 4)) || status=0	# some cases were skipped, and said so

echo
"$HARNESS" table "$RESULTS" --title "Linux $(uname -r), QEMU ($VM_ACCEL)"
exit "$status"
