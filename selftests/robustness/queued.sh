#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Packets that IPVS would drop wait in an nfqueue, in INPUT and in OUTPUT. The hooks behind it, and with
# them the replay, run in the process that gives the verdict. Meanwhile the conntrack is deleted, the
# module is unloaded, the queue's owner dies, or the network namespace ends. Nothing may hang or leak,
# the kernel must have nothing to complain about, and connections must work afterwards.
#
# The network is in lib.sh, the services in lib/robustness.sh.
#
# One case: make case TEST=robustness/queued.sh CASE=queued_on_input

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/robustness.sh
. "$(dirname "$0")/../lib/robustness.sh"
# shellcheck source=selftests/lib/nfqueue.sh
. "$(dirname "$0")/../lib/nfqueue.sh"

need_tools python3
need_modules nfnetlink_queue nft_queue

setup() { begin_bound; }

case_is queued_on_input "verdicts of an nfqueue in INPUT"
queued_on_input() { queued client input filter; }
case_is queued_on_output "verdicts of an nfqueue in OUTPUT"
queued_on_output() { queued director output mangle; }

# queued CONSOLE HOOK PRIORITY
queued()
{
	local seconds=5 storms=() to

	settings 1 0
	syns_wait "$2" "$3"
	for to in $nat:80 "[$nat6]:80"; do
		client_is=$1 reconnect "$to" "settled CLOSE" --end server-rst
		first_packet lost
		replays tcp_closed
	done
	# Of each of the two, the first SYN once and the second twice.
	look_at_queue
	((queued == 6)) || fault "$queued packets came to the queue"
	note_counters
	if [ "$1" = client ]; then
		storm ipv4 10.0.0.2 "$nat:80" in_ns "$client"
	else
		storm output 10.2.1.1 "$nat:80" env
	fi
	wait_for_storms
	has_counted replayed_tcp_closed
	syns_wait_no_more
	all_is_well
}

# syns_wait HOOK PRIORITY: from here on the services' SYNs do, as long as somebody has the queue.
syns_wait()
{
	# shellcheck disable=SC2119
	start_queue
	nft -f - <<-END || fault "cannot load the rules"
		table inet waiting {
			chain syns {
				type filter hook $1 priority $2
				ip daddr $nat tcp flags & (fin|syn|rst|ack) == syn queue flags bypass to 7
				ip6 daddr $nat6 tcp flags & (fin|syn|rst|ack) == syn queue flags bypass to 7
			}
		}
	END
}
syns_wait_no_more()
{
	nft delete table inet waiting
	end_queue
}

# The conntrack is out of the table when the packet goes on: somebody else has killed it.
case_is deleted_while_queued "the conntrack is deleted while packets wait in an nfqueue"
deleted_while_queued()
{
	note_counters
	while_queued client input filter delete_all
	has_counted left_dying
	while_queued director output mangle delete_all
	replays
	all_is_well
	[[ $outcome =~ left_dying\ ([0-9]+) ]]
	((BASH_REMATCH[1] >= 20)) || fault "20 packets waited"
}
delete_all()
{
	conntrack -F 2>/dev/null
	tell_queue accept
}

case_is unloaded_while_queued "rmmod while packets wait in an nfqueue"
unloaded_while_queued()
{
	while_queued client input filter unload
	while_queued director output mangle unload
	note_counters
	all_is_well
}
unload()
{
	# Netfilter drops what waits when any hook goes; the clients send it again.
	remove_module
	tell_queue accept
	insmod "$MODULE" || bail_out "insmod"
}

case_is owner_dies "the owner of an nfqueue dies while packets wait"
owner_dies()
{
	note_counters
	while_queued client input filter kill_owner
	while_queued director output mangle kill_owner
	all_is_well
}
kill_owner() { kill -KILL "$queue_owner"; }

# while_queued CONSOLE HOOK PRIORITY COMMAND: ten flows are opened anew, and while their SYNs wait
# COMMAND comes. All get through in the end.
while_queued()
{
	local console=$1

	# In this order: IPVS remembers a flow that was reset for ten seconds.
	syns_wait "$2" "$3"
	open_flows 10
	tell_queue hold
	echo >&"${console_in[$console]}"
	busywait 10000 in_queue 10 || fault "of 10 packets $waiting wait"
	$4
	flows_connect 10 || fault "after $4 on $2: $line"
	syns_wait_no_more
}

# A director of its own, whose real server answers nothing. Its queue's owner lives there, and keeps
# the namespace when its name is gone.
case_is namespace_ends "a namespace ends while packets wait in an nfqueue"
namespace_ends()
{
	local inner=inner-$$ proc_net

	more_namespaces+=("$inner")
	printf '%s\n' "netns add $inner" "link add inner type veth peer name outer netns $inner" \
		"address add 10.4.0.1/24 dev inner" "link set inner up" "route add 10.9.4.0/24 via 10.4.0.2" |
		ip -batch - || fault "cannot make the namespace"
	configure "$inner" <<-END
		link set lo up
		address add 10.4.0.2/24 dev outer
		address add 10.9.4.1/32 dev lo
		link set outer up
		neighbor add 10.4.0.9 lladdr 02:00:00:00:00:09 dev outer
	END
	in_ns "$inner" ipvsadm -R <<-END
		-A -t 10.9.4.1:80 -s rr
		-a -t 10.9.4.1:80 -r 10.4.0.9:80 -m
	END
	busywait 5000 has_hooks "$inner" || fault "no hooks in the namespace"
	# shellcheck disable=SC2016 # for that shell
	in_ns "$inner" bash -c 'cd /proc/sys/net/ipv4/vs; echo 1 >conntrack; echo 1 >expire_nodest_conn'
	in_ns "$inner" nft -f - <<-END
		table inet waiting {
			chain input {
				type filter hook input priority filter
				tcp flags syn ct state { new, established } queue flags bypass to 7
			}
			chain output {
				type filter hook output priority mangle
				tcp flags syn ct state { new, established } queue flags bypass to 7
			}
		}
	END
	start_queue nsenter --net="/run/netns/$inner" --
	proc_net=/proc/$queue_owner/net
	syns_of_both
	in_ns "$inner" ipvsadm -e -t 10.9.4.1:80 -r 10.4.0.9:80 -m -w 0
	tell_queue hold
	syns_of_both
	busywait 10000 in_queue 12 || fault "of 12 packets $waiting wait"
	ip netns delete "$inner"
	tell_queue accept
	busywait 5000 all_replayed || fault "of 12: $(grep -v ' 0$' "$proc_net/ip_vs_reuse")"
	tell_queue hold
	syns_of_both 10.4.0.1
	busywait 10000 in_queue 6 || fault "of 6 packets $waiting wait"
	kill_owner
	end_queue
	proc_net=/proc/self/net
	busywait 20000 is_gone /sys/class/net/inner || fault "the namespace does not end"
	note_counters
	all_is_well
}
all_replayed() { grep -q '^replayed_tcp_drained 12$' "$proc_net/ip_vs_reuse"; }
is_gone() { [ ! -e "$1" ]; }

# syns_of_both [ADDR]: from six ports, of the client and of the director itself; or of one of them.
syns_of_both()
{
	local port

	for port in {5001..5006}; do
		"$harness" syn --from "10.4.0.1:$port" --to 10.9.4.1:80
		[ -n "${1:-}" ] || in_ns "$inner" "$harness" syn --from "10.4.0.2:$port" --to 10.9.4.1:80
	done >/dev/null || fault "cannot send SYNs"
}

##############################################################################

run_with_module "$@"
