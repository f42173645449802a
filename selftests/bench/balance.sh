#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# How evenly schedulers spread connections: 2,000 connections from as many ports, all held open, on 32
# real servers, with equal weights and with weights of 1 to 4. The result is the load per weight of the
# fullest server, relative to the mean. Judges nothing: prints a line of JSON for each measurement.
#
# The network is in lib.sh, with one real server's host, whose ports are the servers.
#
# MODULE: the module
# ROUNDS: how often each is measured, in turn (3)

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

become_director "$@"
need_tools ip ipvsadm nsenter
need_modules ip_vs ip_vs_rr ip_vs_wrr ip_vs_wlc ip_vs_sed ip_vs_twos ip_vs_mh veth
need_harness
[ -n "${MODULE:-}" ] || skip_all "needs MODULE, the module"

rounds=${ROUNDS:-3}
schedulers="rr wrr wlc sed twos mh p2c"
n_servers=32
connections=2000
vip=10.9.0.1:80

setup()
{
	local listen=() n

	ulimit -n 65536
	setup_network 1
	ip address add ${vip%:*} dev lo
	insmod "$MODULE" || bail_out "cannot load $MODULE"
	for ((n = 1; n <= n_servers; n++)); do
		listen+=(--listen "10.2.1.2:$n")
	done
	start_servers --with-port "${listen[@]}"
}

# cell SCHEDULER WEIGHTS ROUND: server N has weight 1 + N % WEIGHTS
cell()
{
	local said n

	ipvsadm -C
	{
		echo "-A -t $vip -s $1"
		for ((n = 1; n <= n_servers; n++)); do
			echo "-a -t $vip -r 10.2.1.2:$n -m -w $((1 + n % $2))"
		done
	} | ipvsadm -R || bail_out "cannot make the virtual service"
	said=$(in_ns "$client" "$harness" burst --from 10.0.0.2 --ports 20000-$((19999 + connections)) \
		--to $vip --connections $connections --hold 0s 2>"$tmp/errors")
	[ -n "$said" ] || bail_out "$*: $(cat "$tmp/errors")"
	printf '{"bench":"balance","scheduler":"%s","weights":%d,"round":%d,"result":%s}\n' \
		"$1" "$2" "$3" "$said"
}

setup
for ((round = 1; round <= rounds; round++)); do
	for weights in 1 4; do
		for scheduler in $schedulers; do
			cell "$scheduler" $weights $round
		done
	done
	echo "# round $round of $rounds"
done
