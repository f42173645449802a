#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests that p2c picks no real server that must not get connections, and loses nothing while real servers
# are added, changed and deleted.
#
# MODULE: ip_vs_reuse.ko
#
# One case: make case TEST=p2c/destinations.sh CASE=weight_0_gets_nothing

# shellcheck source=selftests/lib/p2c.sh
. "$(dirname "$0")/../lib/p2c.sh"

churned=10.9.0.5:80
drained=10.9.0.6:80
threshold=10.9.0.11:80
overloaded=10.9.0.12:80

##############################################################################
# Servers that may not have more

# A server at its threshold gets no more connections. If all are at theirs, IPVS refuses the client.
case_is overloaded_steps_aside "an overloaded server steps aside"
overloaded_steps_aside()
{
	service "-t $threshold" p2c
	server -a "-t $threshold" 1 -x 8
	server -a "-t $threshold" 2
	burst "$threshold" 40
	all_connected 40
	((got[1] == 8)) || fault "rs1:1 may have 8 and got ${got[1]}"
	outcome="${got[1]} and ${got[2]}"
}

case_is all_overloaded_refuse "when all are overloaded, connections are refused"
all_overloaded_refuse()
{
	service "-t $overloaded" p2c
	server -a "-t $overloaded" 1 -x 8
	server -a "-t $overloaded" 2 -x 8
	burst "$overloaded" 40
	[ "${got[*]}" = "8 8" ] || fault "they may have 8 each and got ${got[*]}"
	((failed == 24)) || fault "$failed were refused, not 24"
	outcome="${got[1]} and ${got[2]} connected, $failed refused"
}

# With other connections under way, so that what is drained is busy.
case_is weight_0_gets_nothing "once ipvsadm has set weight 0, nothing new goes there"
weight_0_gets_nothing()
{
	local round n asked=0 to_drained=0 to_others=()

	service "-t $drained" p2c 1 2 3
	start_load drained "$drained" --rate $((100 / slow)) --seconds 60 --hold 100ms
	for round in {1..9}; do
		n=$((round % 3 + 1))
		server -e "-t $drained" "$n" -w 0
		burst "$drained" 30
		all_connected 30
		server -e "-t $drained" "$n" -w 1
		asked=$((asked + connected))
		to_drained=$((to_drained + ${got[n]:-0}))
		for n in 1 2 3; do
			to_others[n]=$((${to_others[n]:-0} + ${got[n]:-0}))
		done
	done
	kill "${load_pids[drained]}"
	outcome="$to_drained of $asked connections, in $round rounds"
	((to_drained == 0)) || fault "$to_drained went to a drained server"
	# Otherwise the test proves nothing.
	((to_others[1] && to_others[2] && to_others[3])) || fault "not each had its turn: ${to_others[*]}"
}

# Four servers stay. Others come with one weight, get another, are drained, and are deleted
# when their connections have ended, as in a rolling update.
case_is changes_fail_nothing "servers come, go, drain and change weight under load"
changes_fail_nothing()
{
	local n previous='' started ended came=()

	service "-t $churned" p2c 1 2 3 4
	start_load churned "$churned" --rate $((150 / slow)) --seconds $((7 * slow)) --hold 100ms
	start_changes
	started=$(now_ms)
	ended=$((started + 6500 * slow))
	for ((n = 5; $(now_ms) < ended; n = n == 12 ? 5 : n + 1)); do
		change "-a -t $churned -r 10.2.1.2:$n -m -w $((n % 3 + 1))"
		change "-e -t $churned -r 10.2.1.2:$((n % 4 + 1)) -m -w $((n % 5 + 1))"
		change "-e -t $churned -r 10.2.1.2:$n -m -w $((n % 7 + 1))"
		came[n]=yes
		if [ -n "$previous" ]; then
			change "-e -t $churned -r 10.2.1.2:$previous -m -w 0"
			busywait $((slow > 1 ? 60000 : 5000)) is_idle "$previous" || fault "rs1:$previous keeps connections"
			change "-d -t $churned -r 10.2.1.2:$previous"
		fi
		previous=$n
	done
	ended=$(now_ms)
	end_changes
	read_load churned
	none_failed churned
	outcome="$changes changes in $((ended - started)) ms, $connected connections, $failed failed"
	((changes * 1000 * slow > 3 * (ended - started))) || fault "too few changes"
	for n in "${!came[@]}"; do
		((${got[n]:-0} > 0)) || fault "rs1:$n came and got nothing"
	done
}

is_idle() { look "$churned" "$1" && ((weight == 0 && active == 0)); }

# A connection that was reset counts for ten seconds.
case_is overloaded_recover "overloaded servers come back"
overloaded_recover()
{
	busywait 20000 all_forgotten || fault "their connections stay"
	burst "$overloaded" 12
	all_connected 12
}

all_forgotten()
{
	look "$overloaded" 1 && ((inactive == 0)) && look "$overloaded" 2 && ((inactive == 0))
}

check_p2c "$@"
