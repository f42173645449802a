#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Replays end, whatever else happens to the conntrack or the packet at the same time: other processes
# delete conntracks, the same packet comes twice at once, listeners for conntrack's events do not read,
# the receive queue is full. Nothing may hang or leak, the kernel must have nothing to complain about,
# and connections must work afterwards. queued.sh has the same for packets that wait in an nfqueue.
#
# The network is in lib.sh, the services in lib/robustness.sh. A second link leads from the client to the
# director, so that two processors have packets to handle.
#
# One case: make case TEST=robustness/bound.sh CASE=deleted_on_one_processor

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/robustness.sh
. "$(dirname "$0")/../lib/robustness.sh"

need_tools ethtool python3 taskset tc
need_modules nft_numgen sch_netem

setup()
{
	begin_bound
	link_twice
}

##############################################################################
# Others delete the conntrack

case_is deleted_on_one_processor "conntracks are deleted beside storms, on one processor"
deleted_on_one_processor()
{
	pin 0
	deleted
	pin 0-$(($(nproc --all) - 1))
}
case_is deleted_on_two_processors "conntracks are deleted beside storms, on two processors"
deleted_on_two_processors() { deleted; }

pin()
{
	local pid

	for pid in $$ "${harness_pids[@]}"; do
		taskset -apc "$1" "$pid"
	done
} >/dev/null 2>&1

# Packets are delayed, so that a timer's interrupt brings them in the middle of whatever runs. Many
# processes listen for events and do not read them, so that a deletion takes longer. How often a packet
# meets a conntrack that is being deleted is chance: deleted_while_queued in queued.sh makes sure of it.
deleted()
{
	local seconds=10 storms=() connections=0

	sysctl_set netfilter/nf_conntrack_events 1
	in_ns "$client" tc qdisc add dev director root netem delay 3ms
	start_listeners 40 0
	note_counters
	beside conntrack -E
	beside delete_conntracks
	beside take_servers
	beside nsenter --net="/run/netns/$client" -- "$harness" packets --link "${links[0]}" \
		--from 10.0.0.2,fd00:0::2 --to "$nat:80,[$nat6]:80" --ports 33000-33063 \
		--proto tcp,udp,sctp --kind opener,middle --count 1000000
	for _ in 1 2 3; do
		storm ipv4 10.0.0.2 "$nat:80" in_ns "$client"
		storm ipv6 fd00:0::2 "[$nat6]:80" in_ns "$client"
		storm output 10.2.1.1 "$nat:80" env
		storm output6 fd00:2:1::1 "[$nat6]:80" env
		wait_for_storms
		connections=$((connections + connected_in_storms))
		count_since 'replayed_*'
		[ -z "$counted" ] || break
	done
	end_besides
	end_listeners
	in_ns "$client" tc qdisc delete dev director root
	conntrack -F 2>/dev/null
	sysctl_set netfilter/nf_conntrack_events 2
	ipvsadm -C
	make_services
	has_counted 'replayed_*'
	all_is_well
	outcome="$connections connections beside it; $outcome"
}

delete_conntracks()
{
	while true; do
		sleep 0.7
		conntrack -D -p tcp
		conntrack -D -p udp
		sleep 0.7
		conntrack -F
	done
}

# While expire_nodest_conn is 0 the entries stay, so that packets find them.
take_servers()
{
	while true; do
		settings 1 0
		change_rs2 -d
		settings 1 1
		sleep 0.3
		change_rs2 -a
		sleep 0.3
	done
}

# change_rs2 CHANGE: ipvsadm's -d or -a, in every service.
change_rs2()
{
	local service

	for service in "${!method_of[@]}"; do
		printf '%s %s -r %s %s\n' "$1" "$service" "$(server_of "$service" 2)" \
			"$([ "$1" = -d ] || echo "${method_of[$service]}")"
	done | ipvsadm -R
}

# start_listeners N RELIABLE: starts N listeners for conntracks' destroy events that do not read. If
# RELIABLE is 1, delivery is reliable: the kernel keeps a conntrack whose event it cannot deliver.
start_listeners()
{
	local said

	exec {said}< <(exec python3 - "$@" <<-END
		import signal, socket, sys
		SOL_NETLINK, BROADCAST_ERROR, NETFILTER, DESTROYED = 270, 4, 12, 3
		listeners = [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) for _ in range(int(sys.argv[1]))]
		[l.setsockopt(SOL_NETLINK, BROADCAST_ERROR, int(sys.argv[2])) for l in listeners]
		[l.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0) for l in listeners]
		[l.bind((0, 1 << DESTROYED - 1)) for l in listeners]
		print("ready", flush=True)
		signal.pause()
		END
	)
	listeners=$!
	harness_pids+=($!)
	read -r -t 60 _ <&"$said" || fault "the listeners do not start"
	exec {said}<&-
}
end_listeners() { kill "$listeners"; }

# A conntrack whose end cannot be told does not count as killed: IPVS drops the packet, as it would.
case_is unread_events "a reliable listener for conntrack's events does not read, in a storm"
unread_events()
{
	local seconds=6 storms=()

	sysctl_set netfilter/nf_conntrack_events 1
	settings 1 0
	start_listeners 1 1
	note_counters
	storm ipv4 10.0.0.2 "$nat:80" in_ns "$client"
	storm output 10.2.1.1 "$nat:80" env
	wait_for_storms
	conntrack -F 2>/dev/null
	[ -n "$(conntrack -L dying 2>/dev/null)" ] || fault "no conntrack waits for the listener"
	has_counted left_dying
	end_listeners
	busywait 20000 nothing_is_dying || fault "conntracks that nobody waits for are kept"
	sysctl_set netfilter/nf_conntrack_events 2
	all_is_well
}
nothing_is_dying() { [ -z "$(conntrack -L dying 2>/dev/null)" ]; }

# ACKs, which the servers answer with a RST, bring the flows to where the next opener finds them closed.
case_is same_packet_on_two_processors "the same packets on two processors at once"
same_packet_on_two_processors()
{
	local count=2000 last=33227

	# Fewer packets, but as many for each flow.
	((slow == 1)) || count=250 last=33115
	settings 1 0
	note_counters
	in_ns "$client" "$harness" packets --link "${links[0]}" --link "${links[1]}" --from 10.0.0.2,fd00:0::2 \
		--to "$nat:80,[$nat6]:80" --ports "33100-$last" --proto tcp,sctp --kind opener,middle \
		--count "$count" >/dev/null || fault "cannot send the packets"
	has_counted replayed_{tcp,sctp}_closed
	all_is_well
}

##############################################################################
# Replays that end with the packet lost

# A rule gives the packet another source port where it passes for the second time: that of another flow
# that has ended. IPVS drops it there, as it would have done the first time.
case_is nested "a packet that is being replayed on output meets another old conntrack"
nested()
{
	settings 1 0
	console=director ask "burst --from 10.2.1.1 --to $nat:80 --ports 37000-37000 --connections 1 --end server-rst"
	client_is=director reconnect "$nat:80" changed_port --end server-rst
	nft delete table inet nested
	first_packet lost lost
	counts "matched 2, replayed_tcp_closed 1, left_nested 1"
	all_is_well
}
changed_port()
{
	settled CLOSE
	nft -f - <<-END || fault "cannot load the rule"
		table inet nested {
			chain output {
				type filter hook output priority raw
				ip daddr $nat tcp flags & (fin|syn|rst|ack) == syn numgen inc mod 2 == 1 tcp sport set 37000
			}
		}
	END
}

# The director's link has NAPI of its own, so that of the client's packets only replayed ones use the receive
# queue. It takes one packet, or none if another waits there, and several come in one poll. What it does not
# take the client sends again.
case_is full_receive_queue "the receive queue is full"
full_receive_queue()
{
	local console=client

	note_counters
	open_flows 20
	{ ethtool -K client gro on && in_ns "$client" ethtool -K director tso off; } || fault "no NAPI"
	in_ns "$client" tc qdisc add dev director root netem delay 1ms slot 400ms 400ms
	allow_backlog 0
	echo >&"${console_in[client]}"
	busywait 5000 has_dropped || fault "no dropped_backlog"
	allow_backlog 1000
	flows_connect 20 || fault "$line"
	in_ns "$client" tc qdisc delete dev director root
	ethtool -K client gro off
	in_ns "$client" ethtool -K director tso on
	has_counted dropped_backlog
	all_is_well
}
has_dropped() { count_since dropped_backlog; [ -n "$counted" ]; }
allow_backlog()
{
	nsenter --net=/proc/1/ns/net -- sysctl -qw net.core.netdev_max_backlog="$1" ||
		bail_out "cannot set netdev_max_backlog"
}

##############################################################################

run_with_module "$@"
