#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Malformed packets and failures: bad packets of every kind sent at flows that IPVS remembers, with
# every setting; the same SYN on two processors at once; a listener for conntrack events that does not
# read; a full conntrack table. Nothing may break or be left behind, and only the packets that the
# policy names may be replayed.
#
# `harness packets` makes the packets from a seed. The script draws a seed, prints it, and sends the
# same packets again if it is given as SEED.
#
# lib.sh has the network, and lib/cases.sh says how a case is judged. A second link leads from the client
# to the director, so that two processors handle packets. Each service has its own address
# (10.9.0.x):
#
#   nat    .1, fd00:9::1   TCP, UDP, SCTP
#   dr     .4              direct routing: the director sees the client's packets only
#   pers   .6              persistent
#
# One case: make case TEST=robustness/bad_input.sh CASE=syn_with_data

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"
# shellcheck source=selftests/lib/leftovers.sh
. "$(dirname "$0")/../lib/leftovers.sh"

need_tools python3
[ "$sctp" = yes ] || skip_all "needs the kernel module sctp"

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
dr=10.9.0.4:80
pers=10.9.0.6:80
protos=(-t -u --sctp-service)

##############################################################################
# The director

setup()
{
	local n proto

	seed=${SEED:-$SRANDOM}
	echo "# SEED=$seed"
	note_log
	note_conntracks
	begin_director 2
	for n in 1 2; do
		configure "${servers[n]}" <<<"address add ${dr%:*} dev lo"
	done
	link_twice
	for proto in "${protos[@]}"; do
		service "$proto" $nat -m 80
		service "$proto" "$nat6" -m 80
		service "$proto" $dr -g 80
		service "$proto" $pers -m 80 -p 60
	done
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp --proto udp
	start_console packets nsenter --net="/run/netns/$client" --
	start_console live nsenter --net="/run/netns/$client" --
}

# change_rs2 CHANGE [WEIGHT]: ipvsadm's CHANGE (-a, -e, -d) to rs2 in every service.
change_rs2()
{
	local service

	for service in "${!method_of[@]}"; do
		printf '%s %s -r %s' "$1" "$service" "$(server_of "$service" 2)"
		[ "$1" = -d ] && echo || echo " ${method_of[$service]} -w $2"
	done | ipvsadm -R || bail_out "cannot change rs2"
}

# packets COUNT ARGUMENTS...: sends the next packets of the seed. Sets `line` to the report, for which it
# waits `patience` seconds at most.
next_packet=0
patience=$((slow > 1 ? 900 : 120))
packets()
{
	echo "packets --seed $seed --first $next_packet --count $1 ${*:2}" >&"${console_in[packets]}"
	read -r -t "$patience" line <&"${console_out[packets]}" || line="nothing within $patience s"
	[[ $line = *'"packets":'* ]] || fault "packets $next_packet and on of seed $seed: $line"
	next_packet=$((next_packet + $1))
}

module_case_is unloads "it can be unloaded, and IPVS after it"
unloads()
{
	local name users _ users_of_ipvs

	cleanup_network
	remove_module
	while read -r name _ _ users _; do
		[ "$name" != ip_vs ] || users_of_ipvs=${users//[,-]/ }
	done </proc/modules
	ipvsadm -C
	# shellcheck disable=SC2086 # a list
	rmmod $users_of_ipvs ip_vs 2>"$tmp/errors" || fault "rmmod of ip_vs: $(cat "$tmp/errors")"
}

##############################################################################
# The cases

# Each setting starts with the entries that the one before has left: in use, drained, and so on.
case_is storm "bad packets of every kind, in every setting"
storm()
{
	local each=500 mode flows
	local awaited=(ESTABLISHED SYN_RECV FIN_WAIT TIME_WAIT CLOSE CLOSED UDP)

	# There are too many packets for the witness.
	stop_witness
	[ "$half" = stock ] || each=$((slow > 1 ? 2500 : 6250))
	note_counters
	next_packet=0
	flows="--link ${links[0]} --proto tcp,udp,sctp --ports 30000-30039"
	flows+=" --from 10.0.0.2,fd00:0::2 --to $nat,$nat6,$dr,$pers"
	for mode in 0 1 2 3; do
		settings "$mode" 0
		storm_on "$each" "$flows"
		settings "$mode" 1
		change_rs2 -e 0
		storm_on "$each" "$flows"
		settings "$mode" 0
		change_rs2 -e 1
		storm_on "$each" "$flows"
		# Only a few packets: the entries of rs2 are needed afterwards, and expire meanwhile.
		change_rs2 -d
		storm_on $((each / 10)) "$flows"
		settings "$mode" 1
		storm_on "$each" "$flows"
		change_rs2 -a 1
	done
	((${#awaited[@]} == 0)) || fault "there was no entry in the state ${awaited[*]}"
	counters_add_up
	[ "$half" = stock ] ||
		has_counted replayed_{tcp,sctp}_{closed,drained,gone} replayed_udp_gone left_{in_use,unavailable}
	((${#faults[@]})) || found "unharmed"
	outcome+=" ($next_packet packets of seed $seed)"
	start_witness
}

# Removes from `awaited` the states in which IPVS has entries.
note_states()
{
	local entries state more=()

	mapfile entries </proc/net/ip_vs_conn
	for state in "${awaited[@]}"; do
		[[ ${entries[*]} = *" $state "* ]] || more+=("$state")
	done
	awaited=("${more[@]}")
}

# storm_on COUNT FLOWS: sends packets in pieces, because some states do not last.
storm_on()
{
	local piece=$((each / 20)) left

	for ((left = $1; left > 0; left -= piece)); do
		packets $((left < piece ? left : piece)) "$2"
		((${#awaited[@]} == 0)) || note_states
	done
}

# Two connections are alive, one of them on a drained server, and some have ended. A valid SYN would
# reopen the drained one and those that have ended. Kinds that may rightly change a flow are not sent:
# FINs and RSTs that happen to be in order, and everything that opens a flow. Without the rule a damaged
# SYN, to which conntrack attaches no conntrack, would reopen a flow in IPVS, also on a stock kernel.
case_is malformed_replays_nothing "packets that open no flow are not replayed"
malformed_replays_nothing() { malformed "$nat" 31 ipv4; }
case_is malformed_replays_nothing_ipv6 "packets that open no flow are not replayed, IPv6"
malformed_replays_nothing_ipv6() { malformed "$nat6" 32 ipv6; }

# malformed SERVICE PREFIX FAMILY: uses client ports that begin with PREFIX.
malformed()
{
	local console from=${address_of[client]} ids now live='' kinds

	[ "$3" = ipv4 ] || from=${address6_of[client]}
	kinds=syn-fin,syn-rst,syn-ack,bad-checksum,truncated,lying-length,lying-total
	kinds+=,lone-fragment,overlap,icmp-error,garbage
	settings 1 1
	nft -f - <<-END
		table inet malformed {
			chain input {
				type filter hook input priority filter
				ct state invalid drop
			}
		}
	END
	console=client
	load --from "${from//[][]/}" --to "$1" --ports "${2}010-${2}019" --rate 100 --seconds 5 \
		--connections 10 --hold 0s --end fin
	for port in "${2}020" "${2}021"; do
		ask "reconnect --pause --from $from:$port --to $1 --end damaged-syn"
		[[ $line =~ ^\{\"first\":\"([^\"]*)\"\}$ ]] || fault "no live flow: $line"
		first=${BASH_REMATCH[1]}
		live+=$first
		console=live
	done
	[[ $live = rs1rs2 || $live = rs2rs1 ]] || fault "the live flows are on $live"
	drain -t "$1"
	note_counters
	ids=$(live_ids "$2" "$3")
	(($(wc -w <<<"$ids") == 2)) || fault "the two live flows have the conntracks: $ids"
	packets 4000 --link "${links[0]}" --from "${from//[][]/}" --to "$1" \
		--ports "${2}010-${2}021" --proto tcp,udp,sctp --kind "$kinds"
	now=$(live_ids "$2" "$3")
	[ "$now" = "$ids" ] || fault "the live flows had the conntracks $ids" "they have $now"
	for console in client live; do
		ask ""
		[[ $line = *'"connected":true'* ]] || fault "the live flow of $console ended: $line"
	done
	undrain -t "$1"
	nft delete table inet malformed
	counters_add_up
	replays
	((${#faults[@]})) || found "nothing replayed"
}

# live_ids PREFIX FAMILY: prints the ids of the live flows' conntracks.
live_ids()
{
	conntrack -L -f "$2" -p tcp -o id 2>/dev/null |
		sed -nE "s/^[^=]*src=[^=]* dst=[^=]* sport=(${1}02[01]) .* (id=[0-9]+).*/\1:\2/p" | sort
}

# all_connect ARGUMENTS...: whether no connection of a load by `console` fails. Sets `line` to its summary.
all_connect()
{
	ask "load $*"
	while [[ $line = \{\"t\":* ]]; do
		read -r -t 30 line <&"${console_out[$console]}" || line="nothing within 30 s"
	done
	[[ $line = *'"failed":0,'* ]]
}

load() { all_connect "$@" || fault "connections failed: $line"; }

# A SYN with data reopens a flow like any other. There is no socket for its SYN-ACK, so the client
# resets the flow. The case is not about the client's own second connection, which follows.
case_is syn_with_data "server's RST, then a SYN with data"
syn_with_data()
{
	settings 1 0
	reconnect "$nat" data_comes --end server-rst --timeout 2.5s
	replays tcp_closed
}

data_comes()
{
	local becomes=lost

	settled CLOSE
	packets 1 --link "${links[0]}" --from 10.0.0.2 --to "$nat" --ports "$port-$port" --kind syn-data
	if [ "$half" = stock ]; then
		busywait 2000 no_entry || fault "IPVS did not drop it"
	else
		becomes=kept
		busywait 2000 entry_is SYN_RECV || fault "it did not open the flow"
	fi
	((${#faults[@]})) || found "$becomes"
}

# The servers answer ACKs with a RST, after which a SYN reopens the flow.
case_is same_syn_on_two_processors "the same SYN on two processors at once"
same_syn_on_two_processors()
{
	local console=client server

	stop_witness
	settings 1 0
	note_counters
	packets "$([ "$half" = stock ] && echo 1000 || echo 3000)" \
		--link "${links[0]}" --link "${links[1]}" --from 10.0.0.2,fd00:0::2 --to "$nat,$nat6" \
		--ports 33000-33127 --proto tcp,sctp --kind opener,middle
	read -r -t 10 line <&"${console_out[packets]}" || fault "one link sent nothing"
	counters_add_up
	[ "$half" = stock ] || has_counted replayed_{tcp,sctp}_closed
	# Each damaged SYN of the storm that IPVS scheduled has left a conntrack from the client to the real
	# server, with which a new one from the same port would clash for two minutes (docs/known-losses.md).
	for server in 10.2.1.2 10.2.2.2; do
		conntrack -D -p tcp --orig-dst "$server"
	done >/dev/null 2>&1
	set -- --from 10.0.0.2 --to "$nat" --ports 33000-33127 --rate 200 --seconds 20 \
		--connections 128 --hold 0s --end server-rst
	# The servers still send SYN-ACKs for what those packets opened, and the client's RST for one of
	# them may hit the port's current connection.
	all_connect "$@" || all_connect "$@" || load "$@"
	((${#faults[@]})) || found "unharmed"
	start_witness
}

# A listener that must be told of each conntrack's end (NETLINK_BROADCAST_ERROR), and does not read.
# conntrack takes the conntrack out of the table and keeps it until the event is delivered. For the
# module the kill has failed then, and the packet is left to IPVS.
case_is deaf_listener "server's RST, a listener for events does not read"
deaf_listener()
{
	local events=netfilter/nf_conntrack_events before listener said console=client

	before=$(<"/proc/sys/net/$events")
	sysctl_set "$events" 1
	settings 1 0
	exec {said}< <(exec python3 - <<-END
		import signal, socket
		SOL_NETLINK, BROADCAST_ERROR, NETFILTER, DESTROYED = 270, 4, 12, 3
		listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
		listener.setsockopt(SOL_NETLINK, BROADCAST_ERROR, 1)
		listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
		listener.bind((0, 1 << DESTROYED - 1))
		print("ready", flush=True)
		signal.pause()
		END
	)
	listener=$!
	read -r -t 60 _ <&"$said" || fault "the listener does not start"
	# More events than fit into its buffer.
	load --from 10.0.0.2 --to "$nat" --ports 34000-34019 --rate 100 --seconds 5 --connections 20 \
		--hold 0s --end fin
	conntrack -F 2>/dev/null
	reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost lost
	goes_elsewhere
	leaves dying
	[[ $(conntrack -L dying 2>/dev/null) = *" sport=$port "* ]] ||
		fault "the listener was told of the conntrack's end"
	kill "$listener"
	exec {said}<&-
	busywait 10000 nothing_is_dying || fault "dying conntracks stay without a listener"
	sysctl_set "$events" "$before"
}

nothing_is_dying() { [ -z "$(conntrack -L dying 2>/dev/null)" ]; }

# There are as many conntracks as allowed. The killed one makes room for the new one.
case_is full_table "server's RST, the conntrack table is full"
full_table()
{
	settings 1 0
	begin_full_table
	reconnect "$nat" "settled_and_allowed 0" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
	end_full_table
}

# There are more conntracks than allowed, as after the limit was lowered. One conntrack less makes no
# room for a new one, so the new connection is refused room on every kernel.
case_is overfull_table "server's RST, more conntracks than nf_conntrack_max"
overfull_table()
{
	settings 1 0
	begin_full_table
	reconnect "$nat" "settled_and_allowed -10" --end server-rst --timeout 2.5s
	first_packet never never
	replays tcp_closed
	end_full_table
}

# Fills the table with connections in use, which conntrack does not drop early.
begin_full_table()
{
	local line

	most_before=$(</proc/sys/net/netfilter/nf_conntrack_max)
	conntrack -F 2>/dev/null
	exec {held}< <(exec nsenter --net="/run/netns/$client" -- "$harness" burst --from 10.0.0.2 \
		--to "$nat" --ports 35000-35049 --connections 50 --hold 60s 2>&1)
	holder=$!
	read -r -t 30 line <&"$held"
	[[ $line = *'"connections":50,'* ]] || fault "cannot fill the table: $line"
}

# settled_and_allowed MORE: after the first connection, sets the limit to MORE than there are.
#
# The count includes conntracks that are about to be freed. So the table is full when a connection from
# another port fails; each that does not is one conntrack more.
settled_and_allowed()
{
	local console=live line another

	settled CLOSE
	for another in {36000..36004}; do
		allow $(($(</proc/sys/net/netfilter/nf_conntrack_count) + $1))
		ask "reconnect --from 10.0.0.2:$another --to $nat --end fin --timeout 0.3s"
		[[ $line != *"no first connection"* ]] || return
	done
	fault "the table is not full: $line"
}

end_full_table()
{
	allow "$most_before"
	kill "$holder"
	exec {held}<&-
}

# allow N: sets the limit of conntracks in each namespace.
allow()
{
	nsenter --net=/proc/1/ns/net -- bash -c "echo $1 >/proc/sys/net/netfilter/nf_conntrack_max" ||
		bail_out "cannot set nf_conntrack_max to $1"
}

# leftovers.sh has these.
case_is nothing_is_left "no conntrack and no entry is left behind"
case_is log_is_clean "no warning in the kernel's log"

##############################################################################

run_both_halves "$@"
