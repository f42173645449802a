#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests the slow start of p2c (ipvsadm -b flag-1): the weight of a server that is new, or back from weight 0,
# grows from a tenth to the whole in 30 seconds.
#
# The services are one-packet (-o): no server has connections between datagrams, so the first one drawn gets
# each datagram, and the shares are by weight. What a share may be depends on the time since the server came.
# The test measures that time, too, so a slow machine only makes it less strict.
#
# MODULE: ip_vs_reuse.ko
#
# One case: make case TEST=p2c/slow_start.sh CASE=new_server_starts_slowly

# shellcheck source=selftests/lib/p2c.sh
. "$(dirname "$0")/../lib/p2c.sh"

slow_start=30000
at_once=10.9.0.1:53
new=10.9.0.3:53
back=10.9.0.4:53

# share_at MS: the percentage that a fifth server of equal weight has so long after it came.
share_at()
{
	awk -v age="$1" -v all="$slow_start" \
		'BEGIN { w = age < 0 ? 0.1 : age < all ? 0.1 + 0.9 * age / all : 1; print 100 * w / (4 + w) }'
}

# grows ADDR:PORT: checks that the share of rs1:5, which has just come, grows as it should. The table is
# rebuilt each second, but may be late.
grows()
{
	local said=()

	from=0
	while ((from < slow_start + 5000)); do
		measure "$1"
		said+=("$(ratio $((100 * fifth)) "$datagrams") % after $((from / 1000)) s")
		at_most "$fifth" "$datagrams" "$(share_at "$to")" || fault "too much: ${said[-1]}"
		at_least "$fifth" "$datagrams" "$(share_at $((from - 5000)))" || fault "too little: ${said[-1]}"
		sleep 2
	done
	printf '# rs1:5, by weight 20 %%, gets\n'
	printf '#   %s\n' "${said[@]}"
	outcome="${said[0]}, ${said[-1]}"
}

case_is off_by_default "without the flag a new server has its share at once"
off_by_default()
{
	service "-u $at_once -o" p2c 1 2 3 4
	server -a "-u $at_once" 5
	measure "$at_once"
	outcome="$(ratio $((100 * fifth)) "$datagrams") %"
	is_share "$fifth" "$datagrams" 20 || fault "not its share"
}

# The flag is set while four servers are there: these are not new.
case_is new_server_starts_slowly "with the flag a new server gets its share within 30 seconds"
new_server_starts_slowly()
{
	service "-u $new -o" p2c 1 2 3 4
	ipvsadm -E -u "$new" -o -s p2c -b flag-1 || fault "ipvsadm -E"
	came=$(now_ms)
	server -a "-u $new" 5
	grows "$new"
}

case_is server_that_is_back_starts_slowly "and so does a server that is back from weight 0"
server_that_is_back_starts_slowly()
{
	service "-u $back -o" p2c 1 2 3 4 5
	ipvsadm -E -u "$back" -o -s p2c -b flag-1 || fault "ipvsadm -E"
	server -e "-u $back" 5 -w 0
	settle
	came=$(now_ms)
	server -e "-u $back" 5 -w 1
	grows "$back"
}

check_p2c "$@"
