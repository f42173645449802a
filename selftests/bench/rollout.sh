#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A rolling update under the traffic of storm.sh: one of three real servers is drained (weight 0), later
# deleted and shut down, and then a new one is added. For each IPVS variant in turn, measures how many
# connections fail, how many take over half a second, and when the new server begins to get its share.
# NAT, conntrack on, rr, expire_nodest_conn=1. Judges nothing: prints a line of JSON for each measurement.
#
# The network is in lib.sh, the columns are in lib/bench.sh. 'none' has no rollout.

# shellcheck source=selftests/lib/bench.sh
. "$(dirname "$0")/../lib/bench.sh"

concurrency=32
cells=0

setup()
{
	ulimit -n 65536
	setup_network 4
	ip address add $vip dev lo
	printf 'address add %s/24 dev director\n' 10.0.0.{101..220} | configure "$client"
	track_connections
	start_servers --listen 0.0.0.0:80
}

# step SECONDS-SINCE-THE-STORM-BEGAN: waits for that moment.
step()
{
	local left=$((began + $1 - $(now_ms)))

	((left <= 0)) || sleep "$(printf '%d.%03d' $((left / 1000)) $((left % 1000)))"
}

# cell END COLUMN ROUND
cell()
{
	local ports=20000-$((20000 + 5 * concurrency - 1)) from=10.0.0.2 storm began drained deleted added
	local lines	# why five times: storm.sh

	use_column "$2"
	ip link set rs1 up
	{
		echo "-A -t $vip:80 -s rr"
		printf -- "-a -t $vip:80 -r 10.2.%d.2:80 -m\n" 1 2 3
	} | ipvsadm -R || bail_out "cannot make the virtual service"
	if [ "$2" = unique ]; then
		ports=1024-65535
		from=10.0.0.$((101 + cells++ % 120))
	fi
	in_ns "$client" "$harness" storm --from "$from" --ports "$ports" --to $vip:80 --end "$1" \
		--concurrency "$concurrency" --warm-up $((5 * concurrency)) --seconds 8 --every 100ms \
		--timeout 4s >"$tmp/storm" 2>"$tmp/errors" &
	storm=$!
	busywait 20000 test -s "$tmp/storm" || bail_out "the storm did not begin: $(cat "$tmp/errors")"
	began=$(now_ms)
	step 1000
	ipvsadm -e -t $vip:80 -r 10.2.1.2:80 -m -w 0 || bail_out "cannot drain"
	drained=$(now_ms)
	step 2500
	ipvsadm -d -t $vip:80 -r 10.2.1.2:80 || bail_out "cannot delete"
	deleted=$(now_ms)
	ip link set rs1 down
	step 3500
	added=$(now_ms)
	ipvsadm -a -t $vip:80 -r 10.2.4.2:80 -m || bail_out "cannot add"
	wait "$storm" || bail_out "the storm $*: $(cat "$tmp/errors")"
	[ ! -s "$tmp/errors" ] || sed "s/^/# $1 $2: /" "$tmp/errors"
	lines=$(sed '$d' "$tmp/storm" | paste -sd,)
	tell "\"bench\":\"rollout\",\"end\":\"$1\",\"column\":\"$2\",\"round\":$3,\"drained_ms\":$drained,\"deleted_ms\":$deleted,\"added_ms\":$added,\"intervals\":[$lines]" \
		"$(tail -n 1 "$tmp/storm")"
}

setup
choose_columns none
for ((round = 1; round <= rounds; round++)); do
	for end in fin server-rst; do
		for column in "${columns[@]}"; do
			cell $end "$column" $round
		done
	done
	echo "# round $round of $rounds"
done
