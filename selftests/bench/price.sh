#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The price of a packet: the same traffic through the stock IPVS, through the stock IPVS with the
# module, and through the patched IPVS, in turn, in several rounds. Prints a table and judges nothing.
#
# Run it on a machine whose clock counts instructions (VM_ICOUNT): there a figure repeats within
# 0.1 %. On any other machine noise hides the differences that it looks for.
#
# The network is that of lib.sh, with one real server. Offloads are off: each packet is one packet.
# A figure is the work of client, director and real server together, which are namespaces of one kernel.
#
# What keeps the rounds alike:
# - Each load is one at a time: one datagram, one query, one connection is under way.
# - The process that makes the load times it, so the start of a process is not part of a figure.
# - The load is timed in small batches, and the fastest and the slowest tenth do not count. Those
#   are the batches with a timer tick or other background work of the kernel.
# - A socket filter discards the one-way streams, so no process wakes up for them.
# - TCP remembers no metrics of earlier connections.
# - IPVS calibrates its estimators when it gets its first service; each measurement waits for that.
#
# conntrack is in use on the director, and IPVS maintains it (conntrack=1). After each load the
# script makes sure that the conntrack entries of that load exist and that no datagram was lost.
#
# MODULE:  the module
# PATCHED: a directory with the patched ip_vs.ko; without it that column is missing
# ROUNDS:  number of rounds (5), after one that is not counted
# ENTRIES: number of other IPVS entries in the table (0)
# JSON:    if set, each measurement is also printed as a line of JSON

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

cleanup()
{
	kill "${sink_pids[@]}"
	cleanup_network
	rm -rf "$tmp"
	rmmod ip_vs_reuse
} 2>/dev/null

become_director "$@"
need_tools conntrack ethtool ip ipvsadm nft nsenter
need_modules dummy ip_vs ip_vs_rr nf_conntrack nft_ct veth
need_harness
[ -n "${MODULE:-}" ] || skip_all "needs MODULE, the module"

service=10.9.0.1
# The port of the sinks, and of the virtual service in front of the server's.
sink_port=5201
sink_pids=()

# load_is NAME COUNT LABEL: the function NAME, which follows, is a load. COUNT are timed, by the batch: 10
# datagrams, one query, one connection.
loads=
declare -A count_of=()
load_is() { add_case loads "$1" "$3"; count_of[$1]=$2; }

# What each may cost at most, in percent of stock.
declare -A goal_of=(
	[stream.module]=0.7 [stream_expire_nodest.module]=0.7
	[queries.module]=0.7 [queries_expire_nodest.module]=0.7
	[fresh_ports.module]=0.4 [elsewhere.module]=1
	[stream.patched]=0.1 [stream_expire_nodest.patched]=0.1
	[queries.patched]=0.1 [queries_expire_nodest.patched]=0.1
	[fresh_ports.patched]=0.2 [elsewhere.patched]=0
)
kernels="stock module"
entries=${ENTRIES:-0}
[ -z "${PATCHED:-}" ] || kernels+=" patched"

##############################################################################
# The director

setup()
{
	local device

	setup_network 1
	for device in client rs1; do
		ethtool -K $device tso off gso off gro off >/dev/null
	done
	in_ns "$client" ethtool -K director tso off gso off gro off >/dev/null
	in_ns "${servers[1]}" ethtool -K director tso off gso off gro off >/dev/null
	ip address add $service dev lo
	in_ns "$client" bash -c 'echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save'
	track_connections
	start_servers --listen 0.0.0.0:80 --proto tcp --proto udp
	# The client's namespace has no IPVS service; its loopback device carries the load `elsewhere`.
	in_ns "$client" ip link set lo up mtu 1500
	in_ns "$client" ethtool -K lo tso off gso off gro off >/dev/null
	start_sink "${servers[1]}"
	start_sink "$client"
	start_console client nsenter --net="/run/netns/$client" --
	((entries == 0)) || many_services
}

# start_sink NAMESPACE: discards datagrams there.
start_sink()
{
	local said line

	exec {said}< <(exec nsenter --net="/run/netns/$1" -- \
		"$harness" sink --listen "0.0.0.0:$sink_port" 2>&1)
	sink_pids+=($!)
	read -r -t 20 line <&"$said" || line="nothing within 20 s"
	[ "$line" = READY ] || bail_out "the sink in $1 said: $line"
	exec {said}<&-
}

# A service for each port of many addresses, by a mark: from one socket of the director's each
# datagram makes an entry, and none a conntrack. What the real server gets has been sent, and is
# gone.
many_services()
{
	ip -batch - <<-END || bail_out "cannot make the sink"
		link add sink type dummy
		address add 10.3.0.1/16 dev sink
		link set sink up
		route add local 10.8.0.0/16 dev lo
	END
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table ip many {
			chain untracked {
				type filter hook output priority raw
				ip daddr 10.8.0.0/16 notrack
				ip daddr 10.3.0.0/16 notrack
			}
			chain marked {
				type route hook output priority mangle
				ip daddr 10.8.0.0/16 meta mark set 9
			}
		}
	END
	start_console director
}

# fill: makes the entries, and sets `made` to their number and `made_kb` to their memory.
fill()
{
	local left=$entries n=0 count before

	ipvsadm --set 900 120 3600
	ipvsadm -R <<-END || bail_out "cannot make the service of the entries"
		-A -f 9 -s rr
		-a -f 9 -r 10.3.0.2 -m
	END
	before=$(free_kb)
	while ((left > 0)); do
		count=$((left < 60000 ? left : 60000))
		ask director "datagrams --from 10.9.0.1:5353 --to 10.8.0.$((++n)):1024 --ports 1024-$((1023 + count)) --count $count"
		left=$((left - count))
	done
	made_kb=$((before - $(free_kb)))
	made=$(ipvsadm -Ln -f 9 | awk '$1 == "->" { n += $5 + $6 } END { print n + 0 }')
}

free_kb() { awk '$1 == "MemFree:" { print $2 }' /proc/meminfo; }

# ask CONSOLE COMMAND: sets `said` to what the harness says.
ask()
{
	echo "$2" >&"${console_in[$1]}"
	read -r said <&"${console_out[$1]}"
	[[ $said != *'"error"'* ]] || bail_out "$2: $said"
}

# kernel_is KERNEL: that IPVS is loaded, with its services.
kernel_is()
{
	local directory=

	ipvsadm -C 2>/dev/null
	conntrack -F >/dev/null 2>&1
	rmmod ip_vs_reuse 2>/dev/null
	rmmod ip_vs_rr ip_vs || bail_out "ip_vs cannot be unloaded"
	[ "$1" != patched ] || directory=$PATCHED
	# Room for so many: with Debian's 4096 chains all else would vanish beside the search.
	load_ipvs "$directory" conn_tab_bits=20 || bail_out "cannot load ip_vs, $1"
	[ "$1" != module ] || load_module || bail_out "cannot load $MODULE"
	sysctl_set ipv4/vs/conntrack 1
	ipvsadm -R <<-END || bail_out "cannot make the virtual services"
		-A -t $service:80 -s rr
		-a -t $service:80 -r 10.2.1.2:80 -m
		-A -u $service:80 -s rr
		-a -u $service:80 -r 10.2.1.2:80 -m
		-A -u $service:$sink_port -s rr
		-a -u $service:$sink_port -r 10.2.1.2:$sink_port -m
	END
	((entries == 0)) || fill
	sleep 3
}

##############################################################################
# What is measured

# Each sets `each`, the nanoseconds for one datagram, query or connection, and `mean`, the same with
# the kernel's background work.

# time_load COMMAND...
time_load()
{
	ask client "$*"
	[[ $said =~ \"ns_each\":([0-9]+),\"ns_trimmed\":([0-9.]+) ]] || bail_out "$*: $said"
	mean=${BASH_REMATCH[1]} each=${BASH_REMATCH[2]}
}

# stream_to ADDR NAMESPACE: its sink is in NAMESPACE.
stream_to()
{
	local before after

	port=$((port + 1))
	before=$(discarded "$2")
	time_load stream --from "10.0.0.2:$port" --to "$1:$sink_port" --count "$count"
	after=$(discarded "$2")
	((after - before == count)) || bail_out "of $count datagrams $((after - before)) have arrived"
}

# discarded NAMESPACE: the number of datagrams that the sink there has discarded.
discarded()
{
	local port

	printf -v port ':%04X' "$sink_port"
	in_ns "$1" cat /proc/net/udp | awk -v port="$port" 'index($2, port) { print $NF }'
}

# expect_conntracks N ARGUMENTS...: conntrack lists confirmed entries only.
expect_conntracks()
{
	local n

	n=$(conntrack -L "${@:2}" 2>/dev/null | wc -l)
	((n >= $1)) || bail_out "$load: $n conntrack entries, expected $1 (${*:2})"
}

load_is stream 10000 "UDP, one-way stream"
stream()
{
	stream_to $service "${servers[1]}"
	expect_conntracks 1 -p udp --orig-port-src $port
}

load_is stream_expire_nodest 10000 "the same, expire_nodest_conn=1"
stream_expire_nodest() { with_expire_nodest stream; }

load_is queries 4000 "UDP, query and reply"
queries()
{
	port=$((port + 1))
	time_load queries --from "10.0.0.2:$port" --to $service:80 --count "$count"
	expect_conntracks 1 -p udp --orig-port-src $port
}

load_is queries_expire_nodest 4000 "the same, expire_nodest_conn=1"
queries_expire_nodest() { with_expire_nodest queries; }

with_expire_nodest()
{
	sysctl_set ipv4/vs/expire_nodest_conn 1
	"$1"
	sysctl_set ipv4/vs/expire_nodest_conn 0
}

load_is fresh_ports 2000 "TCP, new connection"
fresh_ports()
{
	local first=$((port + 1))

	port=$((port + count))
	time_load connections --from 10.0.0.2 --ports "$first-$port" --to $service:80 --count "$count"
	expect_conntracks "$count" -p tcp --orig-dst $service
}

load_is elsewhere 10000 "UDP stream, no IPVS, loopback"
elsewhere() { stream_to 10.0.0.2 "$client"; }

median() { sort -n | sed -n "$(((rounds + 1) / 2))p"; }

##############################################################################

rounds=${ROUNDS:-5}
setup
for ((round = 0; round <= rounds; round++)); do
	for kernel in $kernels; do
		# IPVS and conntrack have been emptied, so each port is unused again.
		port=20000
		kernel_is "$kernel"
		for load in $loads; do
			count=${count_of[$load]}
			# Let deferred work of the load before finish.
			sleep 0.5
			"$load"
			# The first round warms up.
			((round > 0)) || continue
			echo "$each" >>"$tmp/$kernel.$load"
			[ -z "${JSON:-}" ] || printf '{"bench":"price","entries":%d,"entries_kb":%d,"load":"%s","column":"%s","round":%d,"result":{"count":%d,"ns_each":%s,"ns_mean":%s}}\n' \
				"${made:-0}" "${made_kb:-0}" "$load" "$kernel" $round "$count" "$each" "$mean"
		done
	done
	echo "# round $round of $rounds"
done

# Medians of the rounds, and their range in percent of the median. Module and patched are relative to
# stock; in brackets is the goal, the most that they may add.
printf '%-32s stock us    range' "each"
for kernel in ${kernels#stock}; do
	printf '   %8s    range     goal' "$kernel"
done
echo
for load in $loads; do
	stock=$(median <"$tmp/stock.$load")
	printf '%-32s' "${label_of[$load]}"
	for kernel in $kernels; do
		m=$(median <"$tmp/$kernel.$load")
		range=$(sort -n "$tmp/$kernel.$load" | awk -v m="$m" 'NR == 1 { low = $1 } { high = $1 } END { printf "%.2f %%", (high - low) * 100 / m }')
		if [ "$kernel" = stock ]; then
			awk -v m="$m" -v r="$range" 'BEGIN { printf "%9.3f   %s", m / 1e3, r }'
		else
			awk -v m="$m" -v s="$stock" -v r="$range" -v goal="${goal_of[$load.$kernel]}" \
				'BEGIN { printf "    %+.2f %%   %s  (%3s %%)", (m - s) * 100 / s, r, goal }'
		fi
	done
	echo
done
