#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Soak test: clients open a million flows from reused ports. No first packet may be lost, and the
# module's counters must be exact. Each connection that IPVS schedules is either the first from its port
# or reopens a flow. After the server's RST conntrack does not reopen the flow, so the module must have
# replayed the packet; after the client's RST or a FIN it need not.
#
# The cases are all combinations of how a connection ends, IPv4 or IPv6, plain or masqueraded as by
# kube-proxy, rr or p2c, and stable servers or one that is drained and restored all the time.
# `harness storm` makes the traffic: 32 concurrent connections from 160 ports, different for each case.
#
# Masqueraded flows have random ports, as with kube-proxy, except for those that end by FIN: a random
# port may be one for which the server is still in TIME_WAIT from another client, and then the server
# refuses the SYN for its timestamp (docs/known-losses.md), with IPVS or without.
#
# lib.sh has the network, with two real servers.
#
# MODULE:     ip_vs_reuse.ko
# REOPENINGS: number of reopened flows in total (1000000)

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

reopenings=${REOPENINGS:-1000000}
ends="server-rst client-rst fin"
concurrency=32
# On a slow kernel an entry would expire before its port is reused.
((slow == 1)) || concurrency=2
ports=$((5 * concurrency))

cleanup()
{
	stop_draining
	cleanup_director
} 2>/dev/null

need_module
become_director "$@"
need_tools conntrack ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr nf_conntrack nft_ct nft_masq veth
need_harness

# Services: port 80 with rr; port 81 with p2c, masqueraded from random ports; port 82 with p2c,
# masqueraded from the client's ports.
vip=10.9.0.1
vip6='[fd00:9::1]'

setup()
{
	local to

	ulimit -n 65536
	begin_director 2
	sysctl_set ipv4/vs/conn_reuse_mode 1
	sysctl_set ipv4/vs/expire_nodest_conn 1
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table inet kube {
			chain prerouting {
				type nat hook prerouting priority dstnat
				tcp dport 81 meta mark set 0x4001
				tcp dport 82 meta mark set 0x4002
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				meta mark 0x4001 masquerade fully-random
				meta mark 0x4002 masquerade
			}
		}
	END
	load_module || bail_out "insmod does not take $MODULE"
	for to in $vip "$vip6"; do
		service "$to:80" rr
		service "$to:81" p2c
		service "$to:82" p2c
	done | ipvsadm -R || bail_out "cannot make the services"
	start_servers --listen 0.0.0.0:80 --listen '[::]:80'
}

# service VIP:PORT SCHEDULER
service()
{
	local n

	echo "-A -t $1 -s $2"
	for n in 1 2; do
		echo "-a -t $1 -r $(server "$1" $n) -m"
	done
}

# server VIP N
server()
{
	case $1 in
	\[*) echo "[fd00:2:$2::2]:80" ;;
	*) echo "10.2.$2.2:80" ;;
	esac
}

# drain_and_back SERVICE SERVER: drains and restores the server until stop_draining.
draining=
drain_and_back()
{
	while sleep 0.3; do
		ipvsadm -e -t "$1" -r "$2" -m -w 0
		sleep 0.3
		ipvsadm -e -t "$1" -r "$2" -m -w 1
	done
}
stop_draining()
{
	[ -n "$draining" ] || return 0
	kill "$draining"
	wait "$draining"
	draining=
} 2>/dev/null

# Sets `matched`, `replayed` and `others` to the module's sums, `scheduled` to that of IPVS.
read_sums()
{
	local name value

	matched=0 replayed=0 others=0
	while read -r name value; do
		case $name in
		matched) matched=$value ;;
		replayed_*) replayed=$((replayed + value)) ;;
		left_* | dropped_*) others=$((others + value)) ;;
		esac
	done </proc/net/ip_vs_reuse
	scheduled=$(ipvsadm -Ln --stats | awk '$1 == "TCP" { n += $3 } END { print n + 0 }')
}

# sums_are_exact SCHEDULED MATCHED REPLAYED OTHERS: whether what has been added since those is exact.
# IPVS updates its totals every two seconds. Of the `each` that are greeted after the warm-up some may
# have been opened in it, fewer than are under way at once.
sums_are_exact()
{
	read_sums
	scheduled=$((scheduled - $1)) matched=$((matched - $2)) replayed=$((replayed - $3)) others=$((others - $4))
	reopened=$((scheduled - ports))
	((reopened > each - concurrency && replayed + others == matched)) || return
	case $end in
	server-rst) ((replayed == reopened)) ;;
	*) ((replayed <= reopened)) ;;
	esac
}

next_port=1024
total=0 total_replayed=0
# One case, by $end, $family, $port and $fate.
storm()
{
	local to=$vip from=10.0.0.2 said lost before

	[ "$family" = 4 ] || { to=$vip6 from=fd00:0::2; }
	if [ "$fate" = draining ]; then
		drain_and_back "$to:$port" "$(server "$to" 2)" &
		draining=$!
	fi
	read_sums
	before=("$scheduled" "$matched" "$replayed" "$others")
	said=$(in_ns "$client" "$harness" storm --from "$from" --to "$to:$port" --end "$end" \
		--ports "$next_port-$((next_port + ports - 1))" --concurrency "$concurrency" \
		--warm-up "$ports" --connections "$each" --seconds 3600 --timeout 60s 2>"$tmp/errors")
	next_port=$((next_port + ports))
	stop_draining
	ipvsadm -e -t "$to:$port" -r "$(server "$to" 2)" -m -w 1
	[ ! -s "$tmp/errors" ] || fault "$(<"$tmp/errors")"

	[[ $said = *'"failed":0,'* ]] || fault "$said"
	[[ $said =~ \"first_lost\":([0-9]+) ]]
	lost=${BASH_REMATCH[1]:-unknown}
	[ "$lost" = 0 ] || fault "$lost first packets lost"
	busywait 10000 sums_are_exact "${before[@]}" ||
		fault "matched $matched, replayed $replayed, left $others, of $reopened reopened flows"
	outcome="$reopened reopened, $replayed replayed, $others left to IPVS, $lost lost"
	total=$((total + reopened)) total_replayed=$((total_replayed + replayed))
}

no_entries() { [ "$(wc -l </proc/net/ip_vs_conn)" -le 1 ]; }
no_conntracks() { conntrack -F 2>/dev/null; [ "$(conntrack -C)" = 0 ]; }

totals_are_exact()
{
	outcome="$total reopened, $total_replayed replayed"
	((total >= reopenings)) || fault "$total of $reopenings flows reopened"
	read_sums
	((replayed + others == matched && replayed == total_replayed)) ||
		fault "matched $matched, replayed $replayed, left $others; the cases say $total_replayed replayed"
}

nothing_is_left()
{
	ipvsadm -C
	busywait 200000 no_entries || fault "$(wc -l </proc/net/ip_vs_conn) IPVS entries"
	busywait 10000 no_conntracks || fault "$(conntrack -C) conntracks"
	rmmod ip_vs_reuse || fault "rmmod"
}

setup
cases=$(($(wc -w <<<"$ends") * 2 * 2 * 2))	# two families, two services, two fates
each=$((reopenings / cases + ports))	# some ports are used for the first time only after the warm-up
ktap_plan $((cases + 2))
for end in $ends; do
	for family in 4 6; do
		for port in 80 81; do
			how="rr"
			[ $port = 80 ] || how="p2c, masqueraded"
			[ "$end$port" != fin81 ] || port=82
			for fate in serving draining; do
				check storm "$end, IPv$family, $how, $fate"
			done
		done
	done
done
check totals_are_exact "the totals are exact"
check nothing_is_left "nothing is left behind"
ktap_exit
