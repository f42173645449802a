#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What it costs to look at each packet: the same traffic on the stock kernel, with the module,
# and with an IPVS that evicts by itself, in turn, several rounds. Made for a machine whose clock
# counts instructions (VM_ICOUNT), where a round repeats to within a fraction of a percent;
# anywhere else noise swallows what is asked for. Judges nothing: prints a table.
#
# The network is in lib.sh, with one real server. Packets are single: no offloads.
#
# MODULE:  the module
# PATCHED: a directory with such an ip_vs.ko; without it that column is missing
# ROUNDS:  how many (5)

# shellcheck disable=SC2317 # loads are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"

cleanup()
{
	[ -z "${iperf_pid:-}" ] || kill "$iperf_pid"
	cleanup_network
	rm -rf "$tmp"
	rmmod ip_vs_reuse
} 2>/dev/null

need_root
become_director "$@"
need_tools ethtool ip iperf3 ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr nf_conntrack nft_ct veth
need_harness
[ -n "${MODULE:-}" ] || skip_all "needs MODULE, the module"

service=10.9.0.1
# Below those that the kernel chooses by itself.
port=2000
loads="bulk datagrams datagrams_expire_nodest fresh_ports"
declare -A label_of=(
	[bulk]="TCP, 32 MB in single packets"
	[datagrams]="UDP, 20000 datagrams and answers"
	[datagrams_expire_nodest]="the same, expire_nodest_conn=1"
	[fresh_ports]="TCP, 1000 connections on fresh ports"
)
kernels="stock module"
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
	sysctl_set netfilter/nf_conntrack_tcp_timeout_time_wait 5
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table inet filter {
			chain input {
				type filter hook input priority filter
				ct state established accept
			}
		}
	END
	start_servers --listen 0.0.0.0:80 --proto tcp --proto udp
	in_ns "${servers[1]}" iperf3 -s -p 5201 >/dev/null &
	iperf_pid=$!
}

# kernel_is KERNEL: that IPVS is loaded, with its services.
kernel_is()
{
	ipvsadm -C 2>/dev/null
	rmmod ip_vs_reuse 2>/dev/null
	rmmod ip_vs_rr ip_vs || bail_out "ip_vs cannot be unloaded"
	modprobe ip_vs || bail_out "cannot load ip_vs"
	if [ "$1" = patched ]; then
		rmmod ip_vs
		insmod "$PATCHED/ip_vs.ko" || bail_out "cannot load $PATCHED/ip_vs.ko"
	fi
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
}

##############################################################################
# What is measured

bulk() { in_ns "$client" iperf3 -c $service -p 5201 -n 32M >/dev/null; }

datagrams()
{
	port=$((port + 1))
	in_ns "$client" "$harness" datagrams --from 10.0.0.2:$port --to $service:80 --count 20000 >/dev/null
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

	port=$((port + 1000))
	in_ns "$client" "$harness" burst --connections 1000 --from 10.0.0.2 --ports $first-$((port - 1)) \
		--to $service:80 >/dev/null
}

# Sets `took` to the nanoseconds that LOAD took.
measure()
{
	local start

	start=$(date +%s%N)
	"$1" || bail_out "the load $1 failed"
	took=$(($(date +%s%N) - start))
}

median() { sort -n | sed -n "$(((rounds + 1) / 2))p"; }

##############################################################################

rounds=${ROUNDS:-5}
setup
for ((round = 0; round <= rounds; round++)); do
	for kernel in $kernels; do
		kernel_is "$kernel"
		for load in $loads; do
			measure "$load"
			# The first one warms up.
			((round == 0)) || echo "$took" >>"$tmp/$kernel.$load"
		done
	done
	echo "# round $round of $rounds"
done

printf '%-36s stock ms   range ' "what is sent"
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
			awk -v m="$m" -v r="$range" 'BEGIN { printf "%9.1f   %s", m / 1e6, r }'
		else
			awk -v m="$m" -v s="$stock" -v r="$range" 'BEGIN { printf "   %+.2f %%   %s", (m - s) * 100 / s, r }'
		fi
	done
	echo
done
