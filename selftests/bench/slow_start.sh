#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What p2c gives to a fifth real server of equal weight, by the time since it came, with slow start
# (ipvsadm -b flag-1) and without. Judges nothing: prints a line of JSON for each measurement.
#
# The services are one-packet (-o), so that nothing but weight counts: p2c/slow_start.sh.
#
# MODULE: the module

# shellcheck source=selftests/lib/p2c.sh
. "$(dirname "$0")/../lib/p2c.sh"

# cell ADDR:PORT [FLAGS]: from the time when the server comes, for 36 s
cell()
{
	service "-u $1 -o" p2c 1 2 3 4
	ipvsadm -E -u "$1" -o -s p2c ${2:+-b "$2"} || bail_out "ipvsadm -E"
	came=$(now_ms) to=0
	server -a "-u $1" 5
	while ((to < 36000)); do
		measure "$1"
		printf '{"bench":"slow_start","flags":"%s","from_ms":%d,"to_ms":%d,"part":%s}\n' \
			"${2:-}" "$from" "$to" "$(ratio "$fifth" "$datagrams")"
		sleep 1
	done
	((${#faults[@]} == 0)) || bail_out "${faults[*]}"
}

insmod "$MODULE" || bail_out "cannot load $MODULE"
setup
cell 10.9.0.1:53
cell 10.9.0.3:53 flag-1
