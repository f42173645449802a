#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What it costs to look at each packet: the same traffic on the stock kernel, with the module,
# and with an IPVS that evicts by itself, in turn, several rounds. Made for a machine whose clock
# counts instructions (VM_ICOUNT), where a round repeats to within a fraction of a percent;
# anywhere else noise swallows what is asked for. Judges nothing: prints a table.
#
# What would make a round differ is kept out: each load is timed by the process that makes it, so
# that no start of a process counts (while one waits for the host's files such a clock jumps);
# one packet or a few are under way at a time; TCP remembers nothing of the round before; and
# IPVS, which measures itself when it gets its first service, has finished that.
#
# The network is in lib.sh, with one real server. Packets are single: no offloads. A time is that
# of a packet: TCP's window and its acknowledgements go by the clock, so that their number differs
# a little. It is the work of all who take part: client, director and server.
#
# MODULE:  the module
# PATCHED: a directory with such an ip_vs.ko; without it that column is missing
# ROUNDS:  how many (5)
# ENTRIES: so many other IPVS entries are there (0)
# JSON:    if set, each measurement is a line of JSON, too

# shellcheck disable=SC2317 # loads are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"

cleanup()
{
	kill "${sink_pids[@]}"
	cleanup_network
	rm -rf "$tmp"
	rmmod ip_vs_reuse
} 2>/dev/null

need_root
become_director "$@"
need_tools conntrack ethtool ip ipvsadm nft nsenter socat
need_modules dummy ip_vs ip_vs_rr nf_conntrack nft_ct veth
need_harness
[ -n "${MODULE:-}" ] || skip_all "needs MODULE, the module"

service=10.9.0.1
# Below those that the kernel chooses by itself.
port=2000
sink_pids=()
loads="bulk datagrams datagrams_expire_nodest fresh_ports elsewhere"
declare -A label_of=(
	[bulk]="TCP, 32 MB in single packets"
	[datagrams]="UDP, 5000 questions and answers"
	[datagrams_expire_nodest]="the same, expire_nodest_conn=1"
	[fresh_ports]="TCP, 1000 connections on fresh ports"
	[elsewhere]="TCP, 32 MB where there is no IPVS"
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
	# The client's own loopback, with packets as on a wire: a namespace without a service
	in_ns "$client" ip link set lo up mtu 1500
	in_ns "$client" ethtool -K lo tso off gso off gro off >/dev/null
	start_sink "${servers[1]}"
	start_sink "$client"
	start_console client nsenter --net="/run/netns/$client" --
	((entries == 0)) || many_services
}

# start_sink NAMESPACE: throws away there what is sent to it. Its window is a few packets: with
# more, how many are under way goes by the clock.
start_sink()
{
	in_ns "$1" socat -u -b 65536 TCP-LISTEN:5201,rcvbuf=16384,fork,reuseaddr,backlog=16 OPEN:/dev/null &
	sink_pids+=($!)
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
	[ "$1" != module ] || insmod "$MODULE" || bail_out "cannot load $MODULE"
	sysctl_set ipv4/vs/conntrack 1
	ipvsadm -R <<-END || bail_out "cannot make the virtual services"
		-A -t $service:80 -s rr
		-a -t $service:80 -r 10.2.1.2:80 -m
		-A -t $service:5201 -s rr
		-a -t $service:5201 -r 10.2.1.2:5201 -m
		-A -u $service:80 -s rr
		-a -u $service:80 -r 10.2.1.2:80 -m
	END
	((entries == 0)) || fill
	sleep 3
}

##############################################################################
# What is measured

# Each sets `took`, in nanoseconds.

# send TO
send()
{
	port=$((port + 1))
	ask client "bulk --from 10.0.0.2:$port --to $1:5201 --bytes $((32 << 20))"
	[[ $said =~ \"ns\":([0-9]+) ]] && took=${BASH_REMATCH[1]}
}

bulk() { send $service; }
elsewhere() { send 10.0.0.2; }

datagrams()
{
	port=$((port + 1))
	ask client "datagrams --from 10.0.0.2:$port --to $service:80 --count 5000 --answered"
	[[ $said =~ \"ns_each\":([0-9]+) ]] && took=$((5000 * BASH_REMATCH[1]))
}

datagrams_expire_nodest()
{
	sysctl_set ipv4/vs/expire_nodest_conn 1
	datagrams
	sysctl_set ipv4/vs/expire_nodest_conn 0
}

fresh_ports()
{
	local first=$port

	port=$((port + 1100))
	ask client "storm --from 10.0.0.2 --ports $first-$((port - 1)) --to $service:80 --end client-rst --concurrency 8 --warm-up 0 --connections 1000 --seconds 100"
	[[ $said =~ \"seconds\":([0-9.]+),\"connections\":([0-9]+) ]] || return
	took=$(awk -v s="${BASH_REMATCH[1]}" -v n="${BASH_REMATCH[2]}" 'BEGIN { printf "%d", s * 1e9 * 1000 / n }')
}

# Packets that have come to the director, or gone over the client's loopback.
packets_seen()
{
	{
		cat /proc/net/dev
		in_ns "$client" cat /proc/net/dev
	} | awk '$1 == "client:" || $1 == "rs1:" || $1 == "lo:" { n += $3 } END { print n }'
}

median() { sort -n | sed -n "$(((rounds + 1) / 2))p"; }

##############################################################################

rounds=${ROUNDS:-5}
setup
for ((round = 0; round <= rounds; round++)); do
	for kernel in $kernels; do
		# Ports are fresh to an IPVS that is.
		port=20000
		kernel_is "$kernel"
		for load in $loads; do
			# What the one before has left to be done is done.
			sleep 0.5
			packets=$(packets_seen)
			"$load" || bail_out "the load $load failed"
			# The first one warms up.
			((round > 0)) || continue
			packets=$(($(packets_seen) - packets))
			each=$(awk "BEGIN { printf \"%.2f\", $took / $packets }")
			echo "$each" >>"$tmp/$kernel.$load"
			[ -z "${JSON:-}" ] || printf '{"bench":"price","entries":%d,"entries_kb":%d,"load":"%s","column":"%s","round":%d,"result":{"packets":%d,"ns_each":%s}}\n' \
				"${made:-0}" "${made_kb:-0}" "$load" "$kernel" $round "$packets" "$each"
		done
	done
	echo "# round $round of $rounds"
done

printf '%-36s stock us   range ' "what is sent, by the packet"
for kernel in ${kernels#stock}; do
	printf '  %7s   range ' "$kernel"
done
echo
for load in $loads; do
	stock=$(median <"$tmp/stock.$load")
	printf '%-36s' "${label_of[$load]}"
	for kernel in $kernels; do
		m=$(median <"$tmp/$kernel.$load")
		range=$(sort -n "$tmp/$kernel.$load" | awk -v m="$m" 'NR == 1 { low = $1 } { high = $1 } END { printf "%.2f %%", (high - low) * 100 / m }')
		if [ "$kernel" = stock ]; then
			awk -v m="$m" -v r="$range" 'BEGIN { printf "%9.3f   %s", m / 1e3, r }'
		else
			awk -v m="$m" -v s="$stock" -v r="$range" 'BEGIN { printf "   %+.2f %%   %s", (m - s) * 100 / s, r }'
		fi
	done
	echo
done
