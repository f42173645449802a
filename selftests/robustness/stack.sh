#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# How much kernel stack a replay at LOCAL_OUT takes: there the packet is sent again before the first call
# has returned. The path is as deep as possible: an IPv6 client on the director, and an IPVS tunnel to
# servers behind a second tunnel. The second tunnel and its underlying device are in a VRF. The depth is
# measured for a client that connects, and for an nfqueue whose owner gives a verdict.
#
# Prints bytes of 16384, without the module and with it, for
#
#   fresh     the first packet of a port's first flow
#   reopened  the first packet of a flow that reopens the port: replayed with the module, dropped by
#             IPVS without
#
# The kernel's stack tracer measures it (CONFIG_STACK_TRACER). It does not see the softirq stack, which
# is separate, equally large, and less full.
#
# TRACE: a directory for the deepest stack traces
#
# One case: make case TEST=robustness/stack.sh CASE=connects

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"
# shellcheck source=selftests/lib/leftovers.sh
. "$(dirname "$0")/../lib/leftovers.sh"
# shellcheck source=selftests/lib/nfqueue.sh
. "$(dirname "$0")/../lib/nfqueue.sh"

need_tools python3
need_modules ip6_tunnel nfnetlink_queue nft_numgen nft_queue vrf
tracing=/sys/kernel/tracing
tracer=/proc/sys/kernel/stack_tracer_enabled
[ -e $tracer ] || skip_all "needs CONFIG_STACK_TRACER"

service='[fd00:9::4]:80'
setup()
{
	note_log
	begin_director 2
	inserted=yes
	ip -batch - <<-END || bail_out "cannot make the devices"
		link add red type vrf table 100
		link set red up
		link add far type veth peer name near
		link set near up
		link set far master red
		link set far up
		address add fd00:6::1/64 dev far nodad
		neighbor add fd00:6::2 lladdr 02:00:00:00:00:09 dev far
		link add deep type ip6tnl mode any local fd00:6::1 remote fd00:6::2 dev far
		link set deep master red
		link set deep up
		address add fd00:5::9/64 dev deep nodad
	END
	ip -6 rule add to fd00:5::/64 lookup 100 || bail_out "cannot route"
	ipvsadm -R <<-END || bail_out "cannot make the service"
		-A -t $service -s rr
		-a -t $service -r [fd00:5::1]:80 -i
		-a -t $service -r [fd00:5::2]:80 -i
	END
	settings 1 1
	# With all functions the machine would be busy with itself.
	printf '%s\n' '*xmit*' '*netif_rx*' '*backlog*' 'nf_*' 'ip_vs_*' 'kmem_cache_*' '*alloc*pages*' \
		>$tracing/stack_trace_filter || bail_out "cannot set the tracer's filter"
	echo 1 >$tracer
}

cleanup_of_reuse=$(declare -f cleanup)
eval "${cleanup_of_reuse/cleanup/cleanup_all}"
cleanup()
{
	echo 0 >"$tracer"
	echo >"$tracing/stack_trace_filter"
	nft delete table inet waiting
	cleanup_all
} 2>/dev/null

# only N: rs<N> gets the next connection; the other server is drained.
only()
{
	ipvsadm -e -t "$service" -r "[fd00:5::$1]:80" -i -w 1
	ipvsadm -e -t "$service" -r "[fd00:5::$((3 - $1))]:80" -i -w 0
}

# A SYN from a TCP socket, and what of the stack was used meanwhile.
port=44000
syn()
{
	python3 - "$port" <<-END
		import socket, sys
		s = socket.socket(socket.AF_INET6)
		s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
		s.bind(("fd00:2:1::1", int(sys.argv[1])))
		s.setblocking(False)
		size = open("$tracing/stack_max_size", "r+")
		size.write("0\n")
		size.flush()
		s.connect_ex(("fd00:9::4", 80))
		size.seek(0)
		print(size.read().strip())
		print(open("$tracing/stack_trace").read())
		END
}

case_is connects "the client connects"
connects() { largest connect; }
connect() { syn >"$tmp/stack"; }

# With the module the rule sees three packets of a port, and does not queue the one that is replayed.
case_is queued "the owner of an nfqueue gives a verdict"
queued()
{
	local again=

	[ "$half" = stock ] || again="numgen inc mod 3 < 2"
	# shellcheck disable=SC2119
	start_queue
	nft -f - <<-END || fault "cannot load the queue's rule"
		table inet waiting {
			chain syns {
				type filter hook output priority mangle
				ip6 daddr fd00:9::4 tcp flags syn $again queue to 7
			}
		}
	END
	largest verdict
	nft delete table inet waiting
	end_queue
}
verdict()
{
	tell_queue hold
	syn >/dev/null
	echo 0 >"$tracing/stack_max_size"
	tell_queue accept
	sleep 0.2
	cat "$tracing/stack_max_size" "$tracing/stack_trace" >"$tmp/stack"
}

# largest COMMAND: what COMMAND takes, of three ports.
largest()
{
	local fresh=0 reopened=0

	note_counters
	for _ in 1 2 3; do
		port=$((port + 1))
		only 1
		measure fresh "$1"
		only 2
		measure reopened "$1"
	done
	outcome="fresh $fresh, reopened $reopened of 16384 bytes"
	((fresh < 8192 && reopened < 12288)) || fault "more than there should be"
	replays tcp_drained 3
	grep -q ip6_tnl_xmit "$tmp/fresh" || fault "not the path that was meant: $(<"$tmp/fresh")"
	[ "$half" = stock ] || grep -q ip6_tnl_xmit "$tmp/reopened" || fault "not the path that was meant: $(<"$tmp/reopened")"
}

# measure VARIABLE COMMAND
measure()
{
	local size

	$2
	read -r size <"$tmp/stack"
	((size < $1)) || { printf -v "$1" %s "$size"; cp "$tmp/stack" "$tmp/$1"; }
	[ -z "${TRACE:-}" ] || cp "$tmp/stack" "$TRACE/$half-$2-$1"
}

# leftovers.sh has this.
module_case_is log_is_clean "the kernel has nothing to complain about"

check_halves "$@"
