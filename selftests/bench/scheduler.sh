#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What schedulers cost: the time to choose one of 1 to 10,000 real servers for a datagram, the time to
# add, edit and remove 10,000 servers, and the memory per server. If the clock counts instructions
# (VM_ICOUNT), the times are repeatable but do not include cache misses. Judges nothing: prints a line
# of JSON for each measurement.
#
# A time is that of a whole datagram, from the director's own socket (one-packet scheduling,
# -o) to a device that drops it. The time with one server is the part that all schedulers share.
#
# MODULE: the module
# ROUNDS: how often each is measured, in turn (3)
# SIZES:  how many servers ("1 4 10 100 1000 10000")

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

become_director "$@"
need_tools ip ipvsadm
need_modules dummy ip_vs ip_vs_rr ip_vs_wrr ip_vs_wlc ip_vs_sed ip_vs_twos ip_vs_mh
need_harness
[ -n "${MODULE:-}" ] || skip_all "needs MODULE, the module"

rounds=${ROUNDS:-3}
sizes=${SIZES:-1 4 10 100 1000 10000}
schedulers="rr wrr wlc sed twos mh p2c"
vip=10.9.0.1:53

setup()
{
	insmod "$MODULE" || bail_out "cannot load $MODULE"
	more_neighbours
	ip -batch - <<-END || bail_out "cannot make the sink"
		link set lo up
		address add 10.9.0.1/32 dev lo
		link add sink type dummy
		address add 10.3.0.1/16 dev sink
		link set sink up
	END
	harness_pids=()
	start_console here
}

# Needed with 10,000 servers: with the default of 1,024 the kernel makes most neighbours
# anew for each packet. They are counted for the whole machine, in the first namespace.
more_neighbours()
{
	local n

	for n in 3 2 1; do
		nsenter --net=/proc/1/ns/net -- sysctl -qw "net.ipv4.neigh.default.gc_thresh$n=65536" ||
			bail_out "cannot keep more neighbours"
	done
}

# lines OPTION FIRST LAST MORE: for ipvsadm -R, one for each such server.
lines()
{
	local n

	for ((n = $2; n <= $3; n++)); do
		echo "$1 -u $vip -r 10.3.$((n / 250 + 1)).$((n % 250 + 1)):53 $4"
	done
}

# ask COMMAND: sets `said` to what the harness says.
ask()
{
	echo "$1" >&"${console_in[here]}"
	read -r said <&"${console_out[here]}"
	[[ $said != *'"error"'* ]] || bail_out "$1: $said"
}

# What is free, once what slabs keep for later is given back.
free_kb()
{
	local shrink

	for shrink in /sys/kernel/slab/kmalloc-*/shrink; do
		echo 1 >"$shrink"
	done 2>/dev/null
	awk '$1 == "MemFree:" { print $2 }' /proc/meminfo
}

# timed FILE: sets `us` to the time that ipvsadm takes for its lines.
timed()
{
	local start=${EPOCHREALTIME/./}

	ipvsadm -R <"$1" || bail_out "ipvsadm refuses $1"
	us=$((${EPOCHREALTIME/./} - start))
}

picks()
{
	local n have=0 round scheduler

	ipvsadm -A -u $vip -o -s rr
	for n in $sizes; do
		lines -a $((have + 1)) "$n" -m | ipvsadm -R || bail_out "cannot add servers"
		have=$n
		# The first packet to each looks up the way there.
		ask "datagrams --from 10.9.0.1:5353 --to $vip --count $((n + n / 10 + 100))"
		for ((round = 1; round <= rounds; round++)); do
			for scheduler in $schedulers; do
				# Maglev's table has room for 4093.
				[ "$scheduler" != mh ] || ((n <= 4093)) || continue
				ipvsadm -E -u $vip -o -s "$scheduler" || bail_out "no $scheduler"
				ask "datagrams --from 10.9.0.1:5353 --to $vip --count 20"
				ask "datagrams --from 10.9.0.1:5353 --to $vip --count 300"
				printf '{"bench":"pick","scheduler":"%s","servers":%d,"round":%d,"result":%s}\n' \
					"$scheduler" "$n" $round "$said"
			done
		done
	done
	ipvsadm -C
}

changes()
{
	local scheduler before kb add edit us n=${sizes##* }

	lines -a 1 "$n" "-m" >"$tmp/add"
	lines -e 1 "$n" "-m -w 2" >"$tmp/edit"
	lines -d 1 "$n" "" >"$tmp/remove"
	for scheduler in rr wlc p2c; do
		ipvsadm -A -u $vip -o -s "$scheduler"
		before=$(free_kb)
		timed "$tmp/add"
		add=$us
		# What RCU still holds of tables is on its way.
		sleep 2
		kb=$((before - $(free_kb)))
		timed "$tmp/edit"
		edit=$us
		timed "$tmp/remove"
		ipvsadm -C
		printf '{"bench":"changes","scheduler":"%s","servers":%d,"round":1,"result":{"add_ms":%d,"edit_ms":%d,"remove_ms":%d,"bytes_each":%d}}\n' \
			"$scheduler" "$n" $((add / 1000)) $((edit / 1000)) $((us / 1000)) $((kb * 1024 / n))
		sleep 2
	done
}

setup
picks
changes
kill "${harness_pids[@]}"
