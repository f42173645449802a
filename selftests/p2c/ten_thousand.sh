#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Measures p2c with ten thousand real servers, beside wlc: their addition and change, memory, and a pick.
#
# MODULE: ip_vs_reuse.ko
#
# One case: make case TEST=p2c/ten_thousand.sh CASE=ten_thousand_are_added (the others need it as well)

# shellcheck source=selftests/lib/p2c.sh
. "$(dirname "$0")/../lib/p2c.sh"

##############################################################################
# Ten thousand real servers

many_wlc=10.9.0.38:53
many_p2c=10.9.0.39:53
declare -A add_ms=() edit_ms=() delete_ms=() memory_kb=()

available_kb() { awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo; }

# Runs in the background until killed, and writes the minimum of MemAvailable to a file.
watch_memory()
{
	local least=$1 never line

	exec {never}<> <(:)
	while :; do
		while read -r line; do
			[[ $line =~ ^MemAvailable:\ *([0-9]+) ]] || continue
			((BASH_REMATCH[1] >= least)) || echo "$((least = BASH_REMATCH[1]))" >>"$tmp/least"
			break
		done </proc/meminfo
		read -r -t 0.1 <&"$never"
	done
}

# timed QUARTER OPTION ADDR:PORT MORE: an `ipvsadm -R` with a line for each of a quarter of the servers, 250 of
# each 10.3.SUBNET. Sets `ms` to its milliseconds.
ms=
timed()
{
	local subnet start

	for subnet in $(seq $(($1 * 10 + 1)) $(($1 * 10 + 10))); do
		printf -- "$2 -u $3 -r 10.3.$subnet.%d:53 $4\n" {1..250}
	done >"$tmp/rules"
	start=$(now_ms)
	ipvsadm -R <"$tmp/rules" 2>"$tmp/errors" || fault "ipvsadm: $(cat "$tmp/errors")"
	ms=$(($(now_ms) - start))
}

# add_quarter SCHEDULER ADDR:PORT QUARTER
add_quarter()
{
	local before watch used

	before=$(available_kb)
	echo "$before" >"$tmp/least"
	watch_memory "$before" &
	watch=$!
	timed "$3" -a "$2" -m
	add_ms[$1]=$((${add_ms[$1]:-0} + ms))
	kill "$watch"
	used=$((before - $(tail -n 1 "$tmp/least")))
	((used <= ${memory_kb[$1]:-0})) || memory_kb[$1]=$used
}

# By quarters, in turn, so that a machine that is slower now than before slows both. p2c makes a table
# of what has changed in a grace period; wlc has none.
measured_case_is ten_thousand_are_added "10,000 servers one by one, within 1.5 times wlc's time"
ten_thousand_are_added()
{
	local quarter

	service "-u $many_wlc -o" wlc
	service "-u $many_p2c -o" p2c
	for quarter in 0 1 2 3; do
		add_quarter wlc "$many_wlc" "$quarter"
		add_quarter p2c "$many_p2c" "$quarter"
	done
	(($(ipvsadm -Lnu "$many_p2c" | grep -c -- '->') == 10001)) || fault "there are not 10,000"
	outcome="p2c ${add_ms[p2c]} ms, wlc ${add_ms[wlc]} ms"
	((2 * add_ms[p2c] <= 3 * add_ms[wlc])) || fault "more than 1.5 times wlc's time"
}

# Peak usage: the servers of a quarter, p2c's old table until its grace period ends, and what the
# allocator adds.
measured_case_is tables_take_little_memory "they take little more memory than wlc's"
tables_take_little_memory()
{
	outcome="p2c $((memory_kb[p2c] / 1024)) MiB, wlc $((memory_kb[wlc] / 1024)) MiB"
	((memory_kb[p2c] - memory_kb[wlc] <= 8 * 1024)) || fault "more than 8 MiB more than wlc"
}

# time_one ADDR:PORT NS: sets `ns` to the nanoseconds for one of 200 datagrams, or to NS if that is less.
# The director sends them itself: when the call returns each has been scheduled and is on its way.
time_one()
{
	local said

	said=$("$harness" datagrams --from 10.9.0.1:5353 --to "$1" --count 200 2>&1)
	[[ $said =~ \"ns_each\":([0-9]+) ]] || fault "no datagrams to $1: $said"
	ns=${BASH_REMATCH[1]:-$2}
	((ns < $2)) || ns=$2
}

# Few and many in turn, and the best of ten, so that other work on the machine spoils neither.
measured_case_is cost_does_not_grow "a connection with 10,000 servers costs less than 3 times one with 10"
cost_does_not_grow()
{
	local scheduler ns few many _ service=$many_wlc
	declare -A percent=()

	# The first packet to a server looks up the route. Here wlc always picks the same server, and
	# p2c picks all, so look all routes up first.
	"$harness" datagrams --from 10.9.0.1:5353 --to "$many_p2c" --count 30000 >"$tmp/report"
	for scheduler in wlc p2c; do
		{
			echo "-A -u 10.9.0.40:53 -o -s $scheduler"
			printf -- '-a -u 10.9.0.40:53 -r 10.3.1.%d:53 -m\n' {1..10}
		} | ipvsadm -R || fault "ipvsadm: cannot make the service"
		few=1000000000
		many=$few
		for _ in {1..10}; do
			time_one 10.9.0.40:53 "$few"
			few=$ns
			time_one "$service" "$many"
			many=$ns
		done
		ipvsadm -D -u 10.9.0.40:53
		percent[$scheduler]=$((100 * many / few))
		outcome+="${outcome:+; }$scheduler $((few / 1000)) us with 10, $((many / 1000)) us with 10,000"
		service=$many_p2c
	done
	# More servers are more memory to touch, which costs a little, more of it under emulation.
	((percent[p2c] < 300)) || fault "p2c: ${percent[p2c]} %"
	# Else the measure does not see a scheduler's cost.
	((percent[wlc] > 600)) || fault "wlc: only ${percent[wlc]} %"
}

# By quarters, in turn, as they were added.
measured_case_is ten_thousand_are_changed "10,000 servers edited, and deleted, within 1.5 times wlc's time"
ten_thousand_are_changed()
{
	local quarter scheduler
	declare -A vip=([wlc]=$many_wlc [p2c]=$many_p2c)

	for quarter in 0 1 2 3; do
		for scheduler in wlc p2c; do
			timed "$quarter" -e "${vip[$scheduler]}" "-m -w 2"
			edit_ms[$scheduler]=$((${edit_ms[$scheduler]:-0} + ms))
			timed "$quarter" -d "${vip[$scheduler]}" ""
			delete_ms[$scheduler]=$((${delete_ms[$scheduler]:-0} + ms))
		done
	done
	outcome="edited: p2c ${edit_ms[p2c]} ms, wlc ${edit_ms[wlc]} ms; deleted: p2c ${delete_ms[p2c]} ms, wlc ${delete_ms[wlc]} ms"
	((2 * edit_ms[p2c] <= 3 * edit_ms[wlc])) || fault "edited: more than 1.5 times wlc's time"
	((2 * delete_ms[p2c] <= 3 * delete_ms[wlc])) || fault "deleted: more than 1.5 times wlc's time"
}

check_p2c "$@"
