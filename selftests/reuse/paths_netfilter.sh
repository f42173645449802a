#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, with various kinds of packets, which pass various rules, queues and sockets
# between routing and IPVS. A replayed packet passes them twice. lib/cases.sh says how a case is judged;
# paths.sh covers what comes before the rules.
#
# The network is in lib.sh, all services are NAT:
#
#   nat     10.9.0.1, fd00:9::1
#   own     10.9.0.2, fd00:9::2   rs1, and the director itself, which is called rs3
#
# One case: make case TEST=reuse/paths_netfilter.sh CASE=options_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/paths.sh
. "$(dirname "$0")/../lib/paths.sh"
# shellcheck source=selftests/lib/nfqueue.sh
. "$(dirname "$0")/../lib/nfqueue.sh"

need_tools python3 socat
need_modules nfnetlink_queue nft_queue nft_socket nft_tproxy vrf

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
own=10.9.0.2:80
own6='[fd00:9::2]:80'

# Not yet sent on to a real server: on output, such packets pass the rules, too.
to_service="ip daddr 10.9.0.0/24"
to_service6="ip6 daddr fd00:9::/64"

address_of+=([options]=10.0.0.2 [fast_open]=10.0.0.2 [marked]=10.2.1.1 [in_vrf]=10.2.1.1)
address6_of+=([options]='[fd00:0::2]' [fast_open]='[fd00:0::2]' [marked]='[fd00:2:1::1]'
	[in_vrf]='[fd00:2:1::1]')

##############################################################################
# The director

setup()
{
	begin_director 2
	service -t $nat -m 80
	service -t "$nat6" -m 80
	service -u $nat -m 80
	only=1 service -t $own -m 80
	only=1 service -t "$own6" -m 80
	to_restore+="-a -t $own -r 10.0.0.1:80 -m"$'\n'
	to_restore+="-a -t $own6 -r [fd00:0::1]:80 -m"$'\n'
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp --proto udp
	start_server_here
	in_ns "$client" bash -c 'echo 5 >/proc/sys/net/ipv4/tcp_fastopen'
	start_odd_client options options nsenter --net="/run/netns/$client" --
	start_odd_client fast_open fast-open nsenter --net="/run/netns/$client" --
	start_odd_client marked mark=9
	start_odd_client in_vrf device=red
}

# start_odd_client NAME SOCKET [COMMAND...]: a console whose TCP sockets are as sockets.py makes them.
start_odd_client() { harness=$here/lib/sockets.py start_console "$1" "${@:3}" env SOCKET="$2"; }

start_server_here()
{
	local said line

	exec {said}< <(exec "$harness" serve --name rs3 --listen 10.0.0.1:80 --listen '[fd00:0::1]:80' 2>&1)
	harness_pids+=($!)
	read -r -t 20 line <&"$said" || line="nothing within 20 s"
	[ "$line" = READY ] || bail_out "the server on the director said: $line"
	exec {said}<&-
}

##############################################################################
# The cases

# left SERVICE REASON: it is lost with the module, too.
left()
{
	server_rst "$1" lost lost
	goes_elsewhere
	leaves "$2"
}

# with_rule HOOK PRIORITY RULE COMMAND...: a COMMAND that makes two connections, with such a rule for
# SYNs to port 80.
with_rule()
{
	meets_twice "chain $1 {
		type filter hook $1 priority $2
		tcp dport 80 $syn $3
	}" "${@:4}"
}

case_is options_rst "IPv4 options, server's RST"
options_rst() { client_is=options left "$nat" options; }
case_is hop_by_hop_rst_ipv6 "IPv6 hop-by-hop header, server's RST"
hop_by_hop_rst_ipv6() { client_is=options left "$nat6" options; }

case_is fast_open_rst "SYN with data, server's RST"
fast_open_rst() { fast_open "$nat"; }
case_is fast_open_rst_ipv6 "SYN with data, server's RST, IPv6"
fast_open_rst_ipv6() { fast_open "$nat6"; }

fast_open()
{
	nft -f - <<-END || fault "cannot load the rule"
		table inet data {
			chain input {
				type filter hook input priority filter
				tcp flags & (fin | syn | rst | ack) == syn @ih,0,8 == 0x67 counter
			}
		}
	END
	client_is=fast_open saved "$1"
	[[ $(nft list table inet data) =~ packets\ ([0-9]+) ]]
	nft delete table inet data
	((BASH_REMATCH[1] >= 2)) || fault "the SYNs had no data"
}

case_is udp_fragments_server_deleted "UDP in three fragments, server deleted"
udp_fragments_server_deleted()
{
	settings 1 0
	count_fragments
	reconnect "$nat" udp_server_goes --proto udp --size 3000 --end hold
	restore -u "$nat"
	fragments_seen 6
	first_packet lost
	goes_elsewhere
	replays udp_gone
}

# Deleted while expire_nodest_conn is 0, so that the entries stay.
udp_server_goes()
{
	remove -u "$nat"
	settings 1 1
}

# fragments_seen N: at least.
fragments_seen()
{
	local seen=0 rule

	while read -r rule; do
		[[ ! $rule =~ packets\ ([0-9]+) ]] || seen=$((seen + BASH_REMATCH[1]))
	done < <(nft list table netdev fragments)
	nft delete table netdev fragments
	((seen >= $1)) || fault "expected $1 fragments, $seen came"
}

case_is queue_prerouting "a queue in PRE_ROUTING"
queue_prerouting() { queue prerouting mangle "$to_service" saved "$nat"; }
case_is queue_prerouting_ipv6 "a queue in PRE_ROUTING, IPv6"
queue_prerouting_ipv6() { queue prerouting mangle "$to_service6" saved "$nat6"; }
case_is queue_input "a queue in INPUT"
queue_input() { queue input filter "$to_service" saved "$nat"; }
case_is queue_input_ipv6 "a queue in INPUT, IPv6"
queue_input_ipv6() { queue input filter "$to_service6" saved "$nat6"; }

# Its verdicts come in process context.
case_is queue_output "a queue in OUTPUT, client on the director"
queue_output() { client_is=director queue output mangle "$to_service" saved "$nat"; }
case_is queue_output_ipv6 "a queue in OUTPUT, client on the director, IPv6"
queue_output_ipv6() { client_is=director queue output mangle "$to_service6" saved "$nat6"; }

# queue HOOK PRIORITY MATCH COMMAND...
queue()
{
	# shellcheck disable=SC2119 # here
	start_queue
	with_rule "$1" "$2" "$3 counter queue num 7" "${@:4}"
	end_queue
}

# IPVS has the packets all the same.
case_is tproxy_rst "TPROXY gives the packets a socket"
tproxy_rst() { with_tproxy "$nat" "ip daddr 10.9.0.1" "tproxy ip to 10.0.0.1:8080" TCP4 10.0.0.1; }
case_is tproxy_rst_ipv6 "TPROXY gives the packets a socket, IPv6"
tproxy_rst_ipv6()
{
	with_tproxy "$nat6" "ip6 daddr fd00:9::1" "tproxy ip6 to [fd00:0::1]:8080" TCP6 "[fd00:0::1]"
}

# with_tproxy SERVICE MATCH STATEMENT PROTOCOL ADDRESS
with_tproxy()
{
	local proxy

	socat -u "$4-LISTEN:8080,bind=$5,ip-transparent,reuseaddr,fork" OPEN:/dev/null 2>/dev/null &
	proxy=$!
	nft -f - <<-END || fault "cannot load the rules"
		table inet divert {
			chain prerouting {
				type filter hook prerouting priority mangle
				meta l4proto tcp socket transparent 1 meta mark set 8 counter accept
			}
		}
	END
	busywait 5000 listens 8080 || fault "no proxy"
	with_rule prerouting "mangle + 1" "$2 $3 meta mark set 8 counter accept" saved "$1"
	nft delete table inet divert
	kill "$proxy"
}

listens() { [ -n "$(ss -Hltn "sport = $1")" ]; }

case_is local_server_rst "a real server on the director"
local_server_rst() { to_and_from_director "$own" 10.0.0.1; }
case_is local_server_rst_ipv6 "a real server on the director, IPv6"
local_server_rst_ipv6() { to_and_from_director "$own6" '[fd00:0::1]'; }

# to_and_from_director SERVICE ADDRESS: the second connection goes there, and another time away.
to_and_from_director()
{
	weights "$@" 1 0
	moves rs1 rs3 "$@" 0 1
	moves rs3 rs1 "$@" 1 0
	weights "$@" 1 1
}

# moves FIRST SECOND WEIGHTS...
moves()
{
	settings 1 0
	reconnect "$3" "settled_and_weighed ${*:3}" --end server-rst
	first_packet lost
	[ "$first $second" = "$1 $2" ] || fault "went from $first to $second, not from $1 to $2"
	replays tcp_closed
}

settled_and_weighed() { settled CLOSE; weights "$@"; }

# weights SERVICE ADDRESS RS1 DIRECTOR
weights()
{
	ipvsadm -e -t "$1" -r "$(server_of "-t $1" 1)" -m -w "$3"
	ipvsadm -e -t "$1" -r "$2:80" -m -w "$4"
}

case_is icmp_error_rst "an ICMP error comes first, schedule_icmp=1"
icmp_error_rst()
{
	local line

	settings 1 0
	sysctl_set ipv4/vs/schedule_icmp 1
	nft -f - <<-END || fault "cannot load the rule"
		table ip errors {
			chain input {
				type filter hook input priority filter
				icmp type destination-unreachable ct state related counter
				icmp type destination-unreachable counter
			}
		}
	END
	coproc sender { exec nsenter --net="/run/netns/$client" -- "$here/lib/sockets.py" icmp-errors 10.0.0.2 "$nat"; }
	read -r -t 20 line <&"${sender[0]}"
	[ "$line" = READY ] || fault "sockets.py icmp-errors says ${line:-nothing}"
	reconnect "$nat" settled_and_error --end server-rst
	# shellcheck disable=SC2154 # coproc sets it
	kill "$sender_PID"
	wait "$sender_PID" 2>/dev/null
	nft delete table ip errors
	sysctl_set ipv4/vs/schedule_icmp 0
	first_packet lost
	goes_elsewhere
	counts "matched 1, replayed_tcp_closed 1"
}

settled_and_error()
{
	settled CLOSE
	echo "$port" >&"${sender[1]}"
	busywait 5000 error_is_seen || fault "the error is not part of the flow: $(nft list table ip errors)"
}

error_is_seen() { [[ $(nft list table ip errors) = *"packets 1 "* ]]; }

# The mark may be the old connection's, and has chosen the route: that cannot be done again.
case_is output_marked "client on the director, a rule sets a mark"
output_marked() { client_is=director marked_by_rule "$nat" "$to_service" 9; }
case_is output_marked_ipv6 "client on the director, a rule sets a mark, IPv6"
output_marked_ipv6() { client_is=director marked_by_rule "$nat6" "$to_service6" 9; }
case_is output_own_mark_changed "client on the director, a rule clears the mark"
output_own_mark_changed() { client_is=marked marked_by_rule "$nat" "$to_service" 0; }

# marked_by_rule SERVICE MATCH MARK
marked_by_rule()
{
	with_rule output mangle "$2 counter meta mark set $3" left "$1" marked
}

case_is output_own_mark "client on the director, the socket's own mark"
output_own_mark() { client_is=marked has_own_mark "$nat" "$to_service"; }
case_is output_own_mark_ipv6 "client on the director, the socket's own mark, IPv6"
output_own_mark_ipv6() { client_is=marked has_own_mark "$nat6" "$to_service6"; }

# has_own_mark SERVICE MATCH
has_own_mark()
{
	with_rule output mangle "$2 meta mark 9 counter" saved "$1"
}

case_is output_vrf "client on the director, in a VRF"
output_vrf() { in_vrf "$nat"; }
case_is output_vrf_ipv6 "client on the director, in a VRF, IPv6"
output_vrf_ipv6() { in_vrf "$nat6"; }

# The real servers' replies have to come by the VRF, too.
in_vrf()
{
	local n

	{
		echo "link add red type vrf table 10"
		echo "link set red up"
		for n in 1 2; do
			echo "link set rs$n master red"
			echo "address replace fd00:2:$n::1/64 dev rs$n nodad"
			echo "route add 10.2.$n.0/24 dev rs$n"
			echo "route add fd00:2:$n::/64 dev rs$n"
		done
		echo "route add 10.9.0.0/24 via 10.2.1.2 dev rs1 table 10"
		echo "route add fd00:9::/64 via fd00:2:1::2 dev rs1 table 10"
	} | ip -batch - || fault "cannot make the VRF"
	client_is=in_vrf saved "$1"
	{
		echo "link delete red"
		for n in 1 2; do
			echo "address replace fd00:2:$n::1/64 dev rs$n nodad"
		done
	} | ip -batch - || fault "cannot take the VRF away"
}

# On output, IPv4 counts a replayed packet twice, IPv6 and TCP count it once.
case_is counted_on_output "client on the director, counters"
counted_on_output()
{
	local compared=(IpOutRequests TcpOutSegs TcpRetransSegs) twice=0

	[ "$half" = stock ] || twice=1
	compares "$nat"
}

case_is counted_on_output_ipv6 "client on the director, counters, IPv6"
counted_on_output_ipv6()
{
	local compared=(Ip6OutRequests TcpOutSegs TcpRetransSegs Icmp6OutMsgs) twice=0

	compares "$nat6"
}

# compares SERVICE: whether the first counter counts all that the others count, and `twice` more.
compares()
{
	local surplus

	surplus=$(surplus)
	client_is=director saved "$1"
	busywait 5000 surplus_grew ||
		fault "${compared[0]}: expected $twice packets to be counted twice, not $(($(surplus) - surplus))"
}

surplus_grew() { [ $(($(surplus) - surplus)) = "$twice" ]; }

# How much more the first counter has counted than the others.
surplus()
{
	nstat -asz "${compared[@]}" |
		awk -v first="${compared[0]}" '!/^#/ { sum += $1 == first ? $2 : -$2 } END { print sum }'
}

##############################################################################

run_both_halves "$@"
