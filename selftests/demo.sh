#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The cases of conn_reuse.sh as a table for people: what happened before and after the module
# was loaded. Runs in the virtual machine; MODULE and HARNESS as there.

set -uo pipefail
RESULTS=$(mktemp)
export RESULTS

echo "Linux $(uname -r) is up. Each case runs on the stock kernel, then with the module:"
"$(dirname "$0")/conn_reuse.sh" | sed -u -e '/^KTAP/d; /^1\.\./d; /^# Totals/d' -e 's/^ok [0-9]* - /  /'
status=$?
((status != 4)) || status=0	# something was skipped, and it was said

echo
"$HARNESS" table "$RESULTS" --title "Linux $(uname -r), QEMU ($VM_ACCEL)"
exit "$status"
