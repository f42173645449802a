#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The storm: clients that open, use and close short connections through few source ports, so
# that nearly every connection reopens a flow. Measures the connections per second, the time of one
# connection, and the number of lost first packets, for each IPVS variant. The variants take turns, so
# that a machine that becomes slower affects all of them. NAT, conntrack on, four real servers, rr.
# Judges nothing: prints a line of JSON for each measurement.
#
# Two cross-checks: the losses that clients report against the drops that ipvs-watch reports, in a
# separate storm because ipvs-watch costs time; and the rate against that of ab, which chooses its own
# ports.
#
# The network is in lib.sh, the columns are in lib/bench.sh.
#
# CONCURRENCIES: more numbers of concurrent connections, measured for some columns ("4 16 64 128")

# shellcheck source=selftests/lib/bench.sh
. "$(dirname "$0")/../lib/bench.sh"

concurrency=32
n_servers=4
cells=0

setup()
{
	ulimit -n 65536
	setup_network $n_servers
	ip address add $vip dev lo
	{
		echo "route add 10.2.0.0/16 via 10.0.0.1"
		printf 'address add %s/24 dev director\n' 10.0.0.{101..220}
	} | configure "$client"
	track_connections
	start_servers --listen 0.0.0.0:80
}

services()
{
	[ "$1" != none ] || return 0
	{
		echo "-A -t $vip:80 -s rr"
		printf -- "-a -t $vip:80 -r 10.2.%d.2:80 -m\n" $(seq $n_servers)
	} | ipvsadm -R || bail_out "cannot make the virtual service"
}

# cell SETUP END COLUMN ROUND CONCURRENCY
cell()
{
	local ports to=$vip:80 from=10.0.0.2 said watch_pid

	use_column "$3"
	services "$3"
	# One in five is under way: the rest have ended, and none so long ago that it is forgotten.
	ports=20000-$((20000 + 5 * $5 - 1))
	[ "$3" != none ] || to=10.2.1.2:80
	if [ "$3" = unique ]; then
		ports=1024-65535
		from=10.0.0.$((101 + cells++ % 120))
	fi
	if [ "$1" = witness ]; then
		"$WATCH" --json --summary >"$tmp/witness" 2>"$tmp/errors" &
		watch_pid=$!
		busywait 60000 grep -q '"ready"' "$tmp/witness" || bail_out "ipvs-watch: $(cat "$tmp/errors")"
	fi
	said=$(in_ns "$client" "$harness" storm --from "$from" --ports "$ports" --to "$to" --end "$2" \
		--concurrency "$5" --seconds "$seconds" --warm-up $((5 * $5)) 2>"$tmp/errors")
	[ -n "$said" ] || bail_out "the storm $*: $(cat "$tmp/errors")"
	[ ! -s "$tmp/errors" ] || sed "s/^/# $1 $3: /" "$tmp/errors"
	if [ "$1" = witness ]; then
		kill $watch_pid
		wait $watch_pid
		said="${said%\}},\"witness\":$(tail -n 1 "$tmp/witness")}"
	fi
	tell "\"bench\":\"storm\",\"setup\":\"$1\",\"end\":\"$2\",\"column\":\"$3\",\"round\":$4" "$said"
}

# known_tool ROUND: the rate of ab. Where a method is due it sends the letter on which the server
# closes with a FIN.
known_tool()
{
	local rate

	use_column unique
	services unique
	rate=$(in_ns "$client" ab -q -c "$concurrency" -n $((seconds * 1000)) -m f "http://$vip/" 2>"$tmp/errors" |
		awk '/^Requests per second/ { print $4 }')
	[ -n "$rate" ] || bail_out "ab: $(cat "$tmp/errors")"
	tell "\"bench\":\"storm\",\"setup\":\"ab\",\"end\":\"fin\",\"column\":\"unique\",\"round\":$1" \
		"{\"concurrency\":$concurrency,\"per_second\":$rate}"
}

need_tools ab
setup
# shellcheck disable=SC2119 # without what: all
choose_columns
for ((round = 1; round <= rounds; round++)); do
	for end in fin server-rst; do
		for column in "${columns[@]}"; do
			cell "$end" $end "$column" $round "$concurrency"
		done
	done
	kube_proxy_rules $vip:80
	for column in "${columns[@]}"; do
		[ "$column" = none ] || cell kube-proxy server-rst "$column" $round "$concurrency"
	done
	nft delete table ip kube
	for column in "${columns[@]}"; do
		case $column in
		none | unique) ;;
		*) cell witness server-rst "$column" $round "$concurrency" ;;
		esac
	done
	known_tool $round
	for more in ${CONCURRENCIES:-4 16 64 128}; do
		for column in unique stock module; do
			cell concurrency server-rst $column $round "$more"
		done
	done
	echo "# round $round of $rounds"
done
