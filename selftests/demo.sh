#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The cases of conn_reuse.sh as a table for people: what happened before and after the module
# was loaded. Runs in the virtual machine; MODULE and HARNESS as there.

set -u
RESULTS=$(mktemp)
export RESULTS

echo "Measuring: every case on the stock kernel, then with the module." >&2
log=$(mktemp)
"$(dirname "$0")/conn_reuse.sh" >"$log"
status=$?
grep -E '^(not ok|#|Bail)' "$log" | grep -v '^# Totals' >&2

echo
"$HARNESS" table "$RESULTS" --title "Linux $(uname -r), QEMU ($VM_ACCEL)"
exit $status
