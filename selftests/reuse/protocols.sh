#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port with a protocol other than TCP: SCTP, which conntrack never reopens, and UDP
# from a resolver that sends all its queries from one socket.
#
# The network is in lib.sh, and lib/rules.sh has what a case does. The services:
#
#   nat   10.9.0.1, fd00:9::1   SCTP
#   dns   10.9.0.2, fd00:9::2   UDP, with four ports on each real server
#
# One case: make case TEST=reuse/protocols.sh CASE=sctp_client_abort

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/rules.sh
. "$(dirname "$0")/../lib/rules.sh"

dns=10.9.0.2:53
dns6='[fd00:9::2]:53'

##############################################################################
# The director

setup()
{
	local n port

	begin_director 2
	service --sctp-service $nat -m 80
	service --sctp-service "$nat6" -m 80
	to_restore+="-A -u $dns -s rr"$'\n'"-A -u $dns6 -s rr"$'\n'
	for port in {8001..8004}; do
		for n in 1 2; do
			to_restore+="-a -u $dns -r 10.2.$n.2:$port -m"$'\n'
			to_restore+="-a -u $dns6 -r [fd00:2:$n::2]:$port -m"$'\n'
		done
	done
	make_services
	start_traffic --proto tcp --proto udp --listen 0.0.0.0:80 --listen '[::]:80' \
		--listen={0.0.0.0,'[::]'}:800{1..4}
}

##############################################################################
# The cases

# SCTP. conntrack does not reopen SCTP flows: an INIT finds the old conntrack, whichever side has ended
# the association.

case_is sctp_client_abort "SCTP, client's ABORT"
sctp_client_abort()
{
	settings 1 0
	reconnect "$nat" "settled CLOSED" --proto sctp --end client-rst
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is sctp_abort_ipv6 "SCTP, server's ABORT, IPv6"
sctp_abort_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSED" --proto sctp --end server-rst
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is sctp_shutdown_ipv6 "SCTP, server's SHUTDOWN, IPv6"
sctp_shutdown_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSED" --proto sctp --end fin
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is sctp_abort_drained "SCTP, server's ABORT, then drained"
sctp_abort_drained()
{
	settings 1 1
	reconnect "$nat" sctp_closed_then_drained --proto sctp --end server-rst
	undrain --sctp-service "$nat"
	first_packet lost
	goes_elsewhere
	replays sctp_drained
}

sctp_closed_then_drained()
{
	settled CLOSED
	drain --sctp-service "$nat"
}

# The client is gone: its ABORT does not arrive.
case_is sctp_open_drained "SCTP, still open, server drained"
sctp_open_drained()
{
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority raw
			iifname "client" sctp chunk abort exists drop
		}
	END
	settings 1 1
	reconnect "$nat" sctp_still_open_and_drained --proto sctp --end client-rst
	undrain --sctp-service "$nat"
	no_rules
	first_packet lost
	goes_elsewhere
	replays sctp_drained
}

sctp_still_open_and_drained()
{
	entry_is ESTABLISHED || fault "the entry is not ESTABLISHED"
	drain --sctp-service "$nat"
}

# UDP: a resolver that sends all its queries from one socket. The stock kernel loses each query that
# arrives after its server has been deleted and before IPVS has removed the server's entries. A reply
# that is on its way at that moment is lost on every kernel, so the queries that leave for the servers
# are counted. (If the server is deleted between the module's hook and IPVS, the query is lost as on a
# stock kernel. It has been seen to lose one in a run of this case.)

case_is udp_queries "UDP, queries while servers are deleted"
udp_queries() { queried "$dns" 10.0.0.2; }
case_is udp_queries_ipv6 "UDP, queries while servers are deleted, IPv6"
udp_queries_ipv6() { queried "$dns6" '[fd00:0::2]'; }

# queried SERVICE CLIENT: deletes the server that gets the queries, again and again.
queried()
{
	local console=client line at gone='' queries lost may=0

	port=$((port + 1))
	nft -f - <<-END
		table netdev case {
			chain sent {
				type filter hook egress devices = { rs1, rs2 } priority 0
				udp sport $port counter comment "sent"
			}
		}
	END
	settings 1 1
	note_counters
	ask "questions --from $2:$port --to $1 --every 2ms"
	[[ $line = *first* ]] || fault "no reply: $line"
	for _ in {1..7}; do
		busywait 5000 entry_leaves "$at" || fault "the queries still go to $at"
		ipvsadm -d -u "$1" -r "$at"
		gone+="-a -u $1 -r $at -m"$'\n'
	done
	busywait 5000 entry_leaves "$at" || fault "the queries still go to $at"
	ask ""
	count_packets netdev
	nft delete table netdev case
	ipvsadm -R <<<"$gone"
	[[ $line =~ \"questions\":([0-9]+) ]] || fault "no report: $line"
	queries=${BASH_REMATCH[1]:-0}
	lost=$((queries - ${packets[sent]:-0}))
	echo "# $line"
	found "$lost lost"
	if [ "$half" = stock ]; then
		((lost > 0)) || fault "no query was lost"
		return
	fi
	[ "$half" != module ] || may=1
	((lost <= may)) || fault "$lost of $queries queries were lost"
	[ "$half" = module ] || return 0
	count_since '*'
	[[ $counted =~ ^matched\ ([0-9]+),\ replayed_udp_gone\ ([0-9]+)$ && ${BASH_REMATCH[1]} = "${BASH_REMATCH[2]}" ]] ||
		fault "counted ${counted:-nothing}"
}

# entry_leaves SERVER: whether IPVS has an entry of the last client port with another server. Sets `at`
# to that server.
entry_leaves()
{
	local from entries

	printf -v from %04X "$port"
	mapfile entries </proc/net/ip_vs_conn
	if [[ ${entries[*]} =~ \ $from\ [0-9A-F]+\ 0035\ 0A020(.)02\ ([0-9A-F]+)\  ]]; then
		at=10.2.${BASH_REMATCH[1]}.2:$((16#${BASH_REMATCH[2]}))
	elif [[ ${entries[*]} =~ \ $from\ [0-9a-f:]+\ 0035\ fd00:0002:000(.):[0-9a-f:]+\ ([0-9A-F]+)\  ]]; then
		at=[fd00:2:${BASH_REMATCH[1]}::2]:$((16#${BASH_REMATCH[2]}))
	else
		return 1
	fi
	[ "$at" != "$1" ]
}

##############################################################################

run_both_halves "$@"
