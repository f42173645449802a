#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks that a stranger who floods the director with forged SYNs does no more harm than on a stock
# kernel. A live flow survives a flood with its addresses if it does so on stock. A flood that reopens
# flows lets other clients' connections through, and does not use up memory. lib/cases.sh says how a case is
# judged; stray_syns.sh has single ones; docs/threat-model.md has the conclusions.
#
# The network is in lib.sh. The stranger has a link of its own to the director.
#
#   nat     10.9.0.1, fd00:9::1
#   masq    10.9.0.2   kube-proxy's rules: marked before IPVS, masqueraded after it
#   dr      10.9.0.4   direct routing
#
# On port 81 a client sends as much as it can over one connection. The script prints its rate under the
# flood, but does not judge it: machines differ.
#
# One case: make case TEST=reuse/hostile.sh CASE=live_flood

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"
# shellcheck source=selftests/lib/stranger.sh
. "$(dirname "$0")/../lib/stranger.sh"

need_tools socat
need_modules nft_masq

nat=10.9.0.1
nat6='[fd00:9::1]'
masq=10.9.0.2
dr=10.9.0.4

##############################################################################
# The director

setup()
{
	local n

	begin_director 2
	make_stranger
	ip route add 10.6.0.0/24 via 10.3.0.2
	configure "$stranger" <<<"address add 10.6.0.2/32 dev lo"
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

##############################################################################
# A live flow

# The SYNs reach IPVS, which forwards them like the flow's other packets. The real server answers that
# it has the connection already.
case_is live_flood "SYN flood with a live flow's addresses"
live_flood() { flood_at_live "$nat"; }
case_is live_flood_ipv6 "SYN flood with a live flow's addresses, IPv6"
live_flood_ipv6() { flood_at_live "$nat6"; }
case_is live_flood_masqueraded "SYN flood with a live flow's addresses, masqueraded"
live_flood_masqueraded() { flood_at_live "$masq"; }
case_is live_flood_dr "SYN flood with a live flow's addresses, DR"
live_flood_dr() { flood_at_live "$dr"; }

flood_at_live()
{
	settings 1 1
	sends "$1" true
	goes_on
	replays
	is_counted left_in_use
}

# The server is drained, and expire_nodest_conn is 1: IPVS would end the flow if a SYN reached it, but
# rp_filter drops them all.
case_is drained_flood "SYN flood, dropped by rp_filter; drained"
drained_flood() { flood_is_filtered "$nat"; }
case_is drained_flood_dr "SYN flood, dropped by rp_filter; drained, DR"
drained_flood_dr() { flood_is_filtered "$dr"; }
case_is drained_flood_masqueraded "SYN flood, dropped by rp_filter; masqueraded"
drained_flood_masqueraded() { flood_is_filtered "$masq"; }

flood_is_filtered()
{
	settings 1 1
	echo 1 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	sends "$1" "drain_all $1"
	echo 0 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	weigh_all "$1" 1
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

# IPVS takes a RST with any sequence number for the end of the flow. A SYN after it ends the flow, if the
# SYN reaches IPVS.
case_is reset_dropped "stray RST, then a SYN that a rule drops"
reset_dropped()
{
	settings 1 0
	reconnect "$nat:80" "reset_and_syn drop" --end live
	nft delete table inet strays
	goes_on
	unseen
}

case_is reset_delivered "stray RST, then a SYN"
reset_delivered()
{
	settings 1 0
	reconnect "$nat:80" reset_and_syn --end live --timeout 1s
	nft delete table inet strays
	found "broken"
	[ "$connected" = false ] || fault "the flow goes on"
	replays tcp_closed
}

# reset_and_syn [drop]
reset_and_syn()
{
	local passes=1

	# A packet that is replayed passes the rules twice.
	[ -n "${1:-}" ] || [ "$half" = stock ] || passes=2
	console=stranger stray_syn "$nat:80" --reset
	settled CLOSE
	strays_rule input filter "iifname stranger tcp flags syn counter ${1:-}"
	console=stranger stray_syn "$nat:80"
	busywait 5000 rule_counts "$passes" || fault "the rule does not see the SYN $passes times"
}

# sends ADDR BEFORE: a client sends to a service. BEFORE runs, and then the stranger floods the service
# with SYNs that have the flow's addresses. Sets `connected`: whether the client could send all the time.
sends()
{
	local from=10.0.0.2 client_addr=10.0.0.2 line

	[[ $1 != \[* ]] || from=fd00:0::2 client_addr='[fd00:0::2]'
	port=$((port + 1)) witness_seen=no connected=false
	note_counters
	echo "bulk --from $client_addr:$port --to $1:81 --bytes $((1 << 40)) --until-line --patience 25s" \
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

# is_counted COUNTER: whether this counter of the module has grown.
is_counted()
{
	[ "$half" = module ] || return 0
	count_since "$1"
	[ -n "$counted" ] || fault "no $1"
}

##############################################################################
# Many flows

# The stranger reopens 200 flows, again and again. Its TCP resets each connection, so conntrack has
# the flow in CLOSE; the flood sends a FIN before each SYN, so IPVS reopens the flow. Meanwhile a client
# opens connections. None of these may fail, the director may not keep more conntracks than there are
# flows, and the kernel may not complain. In each half the client uses other ports.
case_is reopened_flood "SYN flood that reopens flows"
reopened_flood()
{
	local storm slab conntracks remembered served failed lost p99 flows reopened ports=200
	local -A storm_ports=([stock]=30000-44999 [patched]=30000-44999 [module]=45000-59999)

	# IPVS keeps a closed entry for 10 s: the flood must use each port again within that time.
	((slow == 1)) || ports=40
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
		count_since replayed_tcp_closed
		reopened=${counted##* }
		((${reopened:-0} >= ports)) || fault "${reopened:-0} replayed, of $ports ports that were reopened"
	fi
}

# field NAME: a value of the storm's report.
field() { grep -oE "\"$1\":[0-9.]+" "$tmp/storm" | cut -d: -f2; }

in_meminfo() { awk -v name="$1:" '$1 == name { print $2 }' /proc/meminfo; }

run_both_halves "$@"
