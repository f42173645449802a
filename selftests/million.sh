#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A million flows that come back, and the books of them: no first packet is lost, and the module's
# counters are exact. Each connection that IPVS schedules is either the first through its port, or
# reopens a flow, whose conntrack was evicted.
#
# The mix: ends of all kinds, IPv4 and IPv6, straight and masqueraded as kube-proxy does it, rr and
# p2c, all servers in service and one of them drained and back all the time. The traffic is
# `harness storm`'s: 32 connections under way through 160 ports, others for each case.
#
# Masqueraded flows have random ports, as kube-proxy gives them, unless they end by FIN: from a random
# port one comes at the server upon what another client left there in TIME_WAIT, and is refused
# by its timestamps (docs/stock.md), with IPVS or without.
#
# The network is in lib.sh, with two real servers.
#
# MODULE:     ip_vs_reuse.ko
# REOPENINGS: how many in all (1000000)

# shellcheck disable=SC2317 # checks are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"

reopenings=${REOPENINGS:-1000000}
ends="server-rst client-rst fin"
concurrency=32
# On a slow kernel an entry would have expired before the turn comes to its port again.
((slow == 1)) || concurrency=2
ports=$((5 * concurrency))

cleanup()
{
	stop_draining
	cleanup_network
	ipvsadm -C
	rmmod ip_vs_reuse
	rm -rf "$tmp"
} 2>/dev/null

need_module
need_root
become_director "$@"
need_tools conntrack ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr nf_conntrack nft_ct nft_masq veth
need_harness

# Services: port 80 straight, with rr; port 81 masqueraded from random ports, with p2c; port 82
# likewise, but from the client's.
vip=10.9.0.1
vip6='[fd00:9::1]'

setup()
{
	local to

	ulimit -n 65536
	setup_network 2
	printf 'address add %s dev lo\n' $vip fd00:9::1 | ip -batch -
	sysctl_set ipv4/vs/conntrack 1
	sysctl_set ipv4/vs/conn_reuse_mode 1
	sysctl_set ipv4/vs/expire_nodest_conn 1
	track_connections
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
	insmod "$MODULE" || bail_out "insmod does not take $MODULE"
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

# The second server of a service is drained and comes back, until told to stop.
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

# Sets `matched`, `evicted` and `left` to the module's sums, `scheduled` to IPVS's.
read_books()
{
	local name value

	matched=0 evicted=0 left=0
	while read -r name value; do
		case $name in
		matched) matched=$value ;;
		evicted_*) evicted=$((evicted + value)) ;;
		left_*) left=$((left + value)) ;;
		esac
	done </proc/net/ip_vs_reuse
	scheduled=$(ipvsadm -Ln --stats | awk '$1 == "TCP" { n += $3 } END { print n + 0 }')
}

# books_are_exact SCHEDULED MATCHED EVICTED LEFT: since those. IPVS sums its own every two seconds.
books_are_exact()
{
	read_books
	scheduled=$((scheduled - $1)) matched=$((matched - $2)) evicted=$((evicted - $3)) left=$((left - $4))
	((evicted + left == matched && evicted == scheduled - ports))
}

# Of the case that runs
next_port=1024
total=0
storm()
{
	local to=$vip from=10.0.0.2 said lost before

	[ "$family" = 4 ] || { to=$vip6 from=fd00:0::2; }
	if [ "$fate" = draining ]; then
		drain_and_back "$to:$port" "$(server "$to" 2)" &
		draining=$!
	fi
	read_books
	before=("$scheduled" "$matched" "$evicted" "$left")
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
	busywait 10000 books_are_exact "${before[@]}" ||
		fault "matched $matched; of $((scheduled - ports)) that were reopened"
	outcome="$evicted evicted, $left left alone, $lost lost"
	total=$((total + evicted))
}

no_entries() { [ "$(wc -l </proc/net/ip_vs_conn)" -le 1 ]; }
no_conntracks() { conntrack -F 2>/dev/null; [ "$(conntrack -C)" = 0 ]; }

books_close()
{
	outcome="$total reopened"
	((total >= reopenings)) || fault "$total of $reopenings flows reopened"
	read_books
	((evicted + left == matched && evicted == total)) ||
		fault "$evicted evicted and $left left, $matched matched, $total seen"
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
each=$((reopenings / cases + ports))	# some first ones through a port come late
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
check books_close "the books close"
check nothing_is_left "nothing is left"
ktap_exit
