#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: run.sh TEST...
#
# Runs kselftests one after the other and says how each ended, as KTAP. Runs in the virtual
# machine; what a test prints goes on as it comes.

cd "$(dirname "$0")" || exit

failed=0
for test in "$@"; do
	echo "# $test"
	"./$test"
	status=$?
	# 4: something was skipped, which the test itself has said.
	((status == 0 || status == 4)) || failed=1
	lsmod | grep -q '^ip_vs_reuse ' && rmmod ip_vs_reuse
done
exit $failed
