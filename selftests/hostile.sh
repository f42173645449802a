#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A stranger who sends with the addresses of others, as fast as the machine takes it: what that
# does to their flows, and to the director. How a case is judged stands in reuse.sh; single stray
# SYNs are in clients.sh. What comes of it all is in docs/threat-model.md.
#
# The network is in lib.sh. Beside it is the stranger, by a link of its own to the director.
#
#   nat     10.9.0.1, fd00:9::1
#   masq    10.9.0.2   with kube-proxy's rules: marked before IPVS, masqueraded behind
#   dr      10.9.0.4   direct routing
#
# A client sends all it can on one connection, to port 81. How much that is under the flood is told,
# and not judged: machines differ.

# shellcheck disable=SC2034 # for reuse.sh
# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/reuse.sh
. "$(dirname "$0")/reuse.sh"

need_tools socat
need_modules nft_fib_inet nft_fib_ipv4 nft_masq

nat=10.9.0.1
nat6='[fd00:9::1]'
masq=10.9.0.2
dr=10.9.0.4

cases="live_flood live_flood_ipv6 live_flood_masqueraded live_flood_dr
	drained_flood drained_flood_dr drained_flood_masqueraded drained_flood_raw
	reset_dropped reset_delivered reopened_flood"

declare -A label_of=(
	[live_flood]="SYN flood with a live flow's addresses"
	[live_flood_ipv6]="SYN flood with a live flow's addresses, IPv6"
	[live_flood_masqueraded]="SYN flood with a live flow's addresses, masqueraded"
	[live_flood_dr]="SYN flood with a live flow's addresses, DR"
	[drained_flood]="SYN flood, dropped by rp_filter; drained"
	[drained_flood_dr]="SYN flood, dropped by rp_filter; drained, DR"
	[drained_flood_masqueraded]="SYN flood, dropped by rp_filter; masqueraded"
	[drained_flood_raw]="SYN flood, dropped in raw; drained, masqueraded"
	[reset_dropped]="stray RST, then a SYN that a rule drops"
	[reset_delivered]="stray RST, then a SYN"
	[reopened_flood]="SYN flood that reopens flows"
)

##############################################################################
# The director

setup()
{
	local n

	begin_director 2
	make_stranger
	for n in 1 2; do
		configure "${servers[n]}" <<<"address add $dr dev lo"
	done
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table ip kube {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr $masq meta mark set 0x4000
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				meta mark 0x4000 masquerade
			}
		}
	END
	for addr in $nat $nat6 $masq; do
		service -t "$addr:81" -m 81
	done
	service -t "$dr:81" -g 81
	service -t "$nat:80" -m 80
	make_services
	start_traffic --listen 0.0.0.0:80 --proto tcp
	start_console stranger nsenter --net="/run/netns/$stranger" --
	for n in 1 2; do
		in_ns "${servers[n]}" socat -u -b 65536 \
			TCP6-LISTEN:81,ipv6only=0,fork,reuseaddr,backlog=16 OPEN:/dev/null &
		harness_pids+=($!)
	done
}

make_stranger()
{
	stranger=stranger-${client#*-}
	more_namespaces+=("$stranger")
	{
		echo "netns add $stranger"
		echo "link add stranger type veth peer name director netns $stranger"
		echo "address add 10.3.0.1/24 dev stranger"
		echo "address add fd00:3::1/64 dev stranger nodad"
		echo "link set stranger up"
		echo "route add 10.6.0.0/24 via 10.3.0.2"
	} | ip -batch - || bail_out "cannot make the stranger"
	configure "$stranger" <<-END
		link set lo up
		address add 10.0.0.2/32 dev lo
		address add 10.6.0.2/32 dev lo
		address add 10.3.0.2/24 dev director
		link set director up
		route add default via 10.3.0.1
	END
	no_reverse_path_filter
}

##############################################################################
# A flow that is alive

# What the stranger sends gets to IPVS, and IPVS sends it the flow's way: the real server answers
# that it has the connection.
live_flood() { flood_at_live "$nat"; }
live_flood_ipv6() { flood_at_live "$nat6"; }
live_flood_masqueraded() { flood_at_live "$masq"; }
live_flood_dr() { flood_at_live "$dr"; }

flood_at_live()
{
	settings 1 1
	sends "$1" true
	goes_on
	evicts
	is_counted left_in_use
}

# The server is drained, expire_nodest_conn is 1, and the SYNs get as far as rp_filter. Stock
# IPVS does not see them; with the module each may cost the flow its conntrack, and the next
# packet makes a new one.
drained_flood() { flood_is_filtered "$nat"; goes_on; }
drained_flood_dr() { flood_is_filtered "$dr"; goes_on; }

# If that is one of the server's, nobody knows any more for whom the director has masqueraded: it
# takes the packet for its own, and answers with a RST.
drained_flood_masqueraded()
{
	flood_is_filtered "$masq"
	if [ "$half" = stock ]; then
		goes_on
	else
		breaks
	fi
}

flood_is_filtered()
{
	settings 1 1
	echo 1 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	sends "$1" "drain_all $1"
	echo 0 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	weigh_all "$1" 1
	is_counted evicted_tcp_drained
}

# The same filter as a rule in raw stands in front of the module.
drained_flood_raw()
{
	settings 1 1
	nft -f - <<-END || fault "cannot load the rule"
		table ip strays {
			chain prerouting {
				type filter hook prerouting priority raw
				fib saddr . iif oif missing drop
			}
		}
	END
	sends "$masq" "drain_all $masq"
	nft delete table ip strays
	weigh_all "$masq" 1
	goes_on
	unseen
}

drain_all() { weigh_all "$1" 0; }

# weigh_all SERVICE WEIGHT
weigh_all()
{
	for first in rs1 rs2; do
		change -e "-t $1:81" -w "$2"
	done
}

# IPVS believes a RST, whatever its sequence number: the flow counts as closed. A SYN behind it
# ends it; where that is dropped on its way, it costs the flow its conntrack with the module.
reset_dropped()
{
	settings 1 0
	reconnect "$nat:80" "reset_and_syn drop" --end live
	nft delete table inet strays
	goes_on
	evicts tcp_closed
}

reset_delivered()
{
	settings 1 0
	reconnect "$nat:80" reset_and_syn --end live --timeout 1s
	nft delete table inet strays
	breaks
	evicts tcp_closed
}

# reset_and_syn [drop]
reset_and_syn()
{
	stray --reset
	settled CLOSE
	nft -f - <<-END || fault "cannot load the rule"
		table inet strays {
			chain input {
				type filter hook input priority filter
				iifname stranger tcp flags syn counter ${1:-}
			}
		}
	END
	stray
	busywait 5000 one_is_counted || fault "the rule does not see the SYN"
}

# stray [--reset]: with the flow's addresses, from the stranger.
stray()
{
	local line

	console=stranger ask "syn --from 10.0.0.2:$port --to $nat:80 $*"
	[[ $line = *sent* ]] || fault "nothing is sent: $line"
}

one_is_counted() { [[ $(nft list table inet strays) = *"packets 1 "* ]]; }

# sends ADDR BEFORE: a client sends to a service, and after BEFORE the stranger floods it with SYNs of
# that flow. Sets `connected`.
sends()
{
	local from=10.0.0.2 client_addr=10.0.0.2 line

	[[ $1 != \[* ]] || from=fd00:0::2 client_addr='[fd00:0::2]'
	port=$((port + 1)) witness_seen=no connected=false
	note_counters
	echo "bulk --from $client_addr:$port --to $1:81 --bytes $((1 << 40)) --until-line --patience 5s" \
		>&"${console_in[client]}"
	settled ESTABLISHED
	$2
	flood "$from" "$1:81" "$port-$port" 2s
	console=client ask ""
	if [[ $line =~ \"bytes\":([0-9]+),\"ns\":([0-9]+) ]]; then
		connected=true
		line="$((BASH_REMATCH[1] * 1000000 / BASH_REMATCH[2])) kB/s"
	fi
	echo "# $half, ${label_of[$case]}: $rate SYNs/s; the flow: $line"
}

# flood FROM TO PORTS TIME [--reopen]: sets `rate`.
flood()
{
	local line

	line=$(in_ns "$stranger" "$harness" flood --link "director=$(mac_of stranger)" \
		--from "$1" --to "$2" --ports "$3" --time "${@:4}")
	[[ $line =~ \"per_second\":([0-9]+) ]] || fault "no flood: $line"
	rate=${BASH_REMATCH[1]:-0}
}

goes_on()
{
	found "goes on"
	[ "$connected" = true ] || fault "the flow does not go on"
}

breaks()
{
	found "broken"
	[ "$connected" = false ] || fault "the flow goes on"
}

# is_counted COUNTER: whether the module's has grown.
is_counted()
{
	[ "$half" = module ] || return 0
	count_since "$1"
	[ -n "$counted" ] || fault "no $1"
}

##############################################################################
# Many flows

# A thousand flows, each of which has ended when its next SYN comes: the stranger's TCP, which
# knows of none, resets them, so that conntrack is CLOSE; and what a FIN then ends for IPVS, the SYN
# reopens. A client's connections go on among them, from ports of their own in each half, without a
# failure; what the director remembers is no more than there are flows; and the kernel has nothing
# to complain of.
reopened_flood()
{
	local storm slab conntracks remembered served failed lost p99 flows evicted ports=$((1000 / slow))
	local -A storm_ports=([stock]=30000-44999 [module]=45000-59999)

	settings 1 0
	note_counters
	note_log
	slab=$(in_meminfo Slab)
	conntrack -F 2>/dev/null
	in_ns "$client" "$harness" storm --to "$nat:80" --from 10.0.0.2 --ports "${storm_ports[$half]}" \
		--concurrency 8 --seconds 8 --warm-up 1 >"$tmp/storm" &
	storm=$!
	flood 10.6.0.2 "$nat:80" 10000-$((9999 + ports)) 10s --reopen
	conntracks=$(</proc/sys/net/netfilter/nf_conntrack_count)
	remembered=$(wc -l </proc/self/net/ip_vs_conn)
	slab=$((($(in_meminfo Slab) - slab) / 1024))
	wait "$storm"
	served=$(field per_second) failed=$(field failed) lost=$(field first_lost) p99=$(field p99_ms)
	flows=$((ports + $(field connections)))
	echo "# $half, ${label_of[$case]}: $rate SYNs/s; connections $served/s, p99 $p99 ms, $failed failed," \
		"$lost first packets lost; $conntracks conntracks, $remembered entries, $slab MB more of slabs"
	outcome="$served connections/s, $failed failed" result=$'served\t-'
	[ "$failed" = 0 ] || fault "$failed connections failed"
	((conntracks <= flows + 100)) || fault "$conntracks conntracks for $flows flows"
	((slab < 64)) || fault "$slab MB more of slabs"
	new_complaints >"$tmp/complaints"
	[ ! -s "$tmp/complaints" ] || fault "the kernel: $(cat "$tmp/complaints")"
	if [ "$half" = module ]; then
		count_since evicted_tcp_closed
		evicted=${counted##* }
		((${evicted:-0} >= ports)) || fault "${evicted:-0} evicted, of $ports ports that were reopened"
	fi
}

# field NAME: of the storm's report.
field() { grep -oE "\"$1\":[0-9.]+" "$tmp/storm" | cut -d: -f2; }

in_meminfo() { awk -v name="$1:" '$1 == name { print $2 }' /proc/meminfo; }

run_both_halves "$@"
