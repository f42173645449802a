#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Allocation failures. Each allocation that the module makes fails once, one after the other: when the
# module is loaded, when a namespace is made, when services and real servers of p2c change. An operation
# that fails must return an error and leave nothing behind. p2c makes its tables in a workqueue: that it
# cannot must be counted, the old table must stay in use, and it must be tried again. The module makes no
# allocation for a packet that arrives.
#
# ip_vs_fail_alloc.ko counts the allocations with the module on their stack, and fails one or all.
#
# lib.sh has the network, with two real servers: rs<n> is 10.2.n.2.
#
# MODULE: ip_vs_reuse.ko, with ip_vs_fail_alloc.ko in the same directory
#
# One case: make case TEST=robustness/fault_injection.sh CASE=load

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

injection=/sys/module/ip_vs_fail_alloc/parameters
service=10.9.0.1:80		# UDP, each datagram scheduled by itself
reopened=10.9.0.2:80		# TCP

cleanup()
{
	rmmod ip_vs_fail_alloc
	ip netns delete "$made"
	cleanup_director
} 2>/dev/null

need_module
become_director "$@"
need_tools ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr nf_conntrack nft_ct veth
need_harness
fail_alloc=$(dirname "$MODULE")/ip_vs_fail_alloc.ko
made=made-$$

##############################################################################
# Injection

# fail WHICH: makes the WHICH-th allocation fail from now on, or all (-1), or none (0).
fail()
{
	echo 0 >"$injection"/nth
	[ "$1" = 0 ] || echo 0 >"$injection"/seen
	echo "$1" >"$injection"/nth
}

# Prints the number of allocations since then.
seen() { echo $(($(<"$injection"/seen))); }

# fail_nth N COMMAND...: runs COMMAND with its N-th allocation failing. Sets `status`, `output`, and
# `injected` to whether it made N allocations.
fail_nth()
{
	fail "$1"
	output=$("${@:2}" 2>&1)
	status=$?
	fail 0
	injected=$(($(seen) >= $1))
}

# each_failing BEFORE AFTER COMMAND...: runs COMMAND with its first allocation failing, then with its
# second, and so on until it makes no more; each time BEFORE before it and AFTER after it. Sets `number`.
number=
each_failing()
{
	local before=$1 after=$2

	shift 2
	number=0
	while true; do
		$before
		fail_nth $((number + 1)) "$@"
		((injected)) || break
		number=$((number + 1))
		$after
		((number < 1000)) || { fault "no end of allocations"; break; }
		((${#faults[@]} < 5)) || break
	done
	((status == 0)) || fault "${*##*/} with all memory: $output"
	((number)) || fault "${*##*/} allocates nothing"
}

##############################################################################
# State of the module

is_loaded() { [ -e /sys/module/ip_vs_reuse ]; }

nothing_is_left()
{
	local left

	for left in /sys/module/ip_vs_reuse /proc/net/ip_vs_reuse /sys/kernel/tracing/events/ip_vs_reuse; do
		[ ! -e "$left" ] || fault "allocation $number failed: $left is there"
	done
}

has_no_memory()
{
	[[ $output = *[Mm]emory* ]] || fault "allocation $number failed: ${output:-no error message}"
}

# Prints the number of failed rebuilds; `noted` is an earlier one.
noted=
rebuilds() { awk '$1 == "p2c_failed_rebuilds" { print $2 }' /proc/net/ip_vs_reuse; }

# Sends 40 datagrams. Sets `conns` to the number that each real server got.
declare -A conns=()
send()
{
	ipvsadm -Z -u "$service"
	in_ns "$client" "$harness" datagrams --from 10.0.0.2:4000 --to "$service" --count 40 >/dev/null ||
		fault "cannot send datagrams"
	busywait 10000 all_are_counted || fault "$(ipvsadm -Ln -u "$service" --stats)"
}

# IPVS updates its totals every two seconds.
all_are_counted()
{
	local line sum=0

	conns=()
	while read -r line; do
		# shellcheck disable=SC2086 # words
		set -- $line
		[[ $1 = '->' && $2 = *.* ]] || continue
		conns[$2]=$3
		sum=$((sum + $3))
	done < <(ipvsadm -Ln -u "$service" --stats)
	((sum == 40))
}

# to N: prints the number of datagrams that rs<N> got.
to() { echo "${conns[10.2.$1.2:80]:-0}"; }

# each_has_some WHEN: checks that both servers got datagrams. By chance alone this fails once in 2^40
# times.
each_has_some()
{
	send
	(($(to 1) && $(to 2))) || fault "$1: $(to 1) and $(to 2) datagrams of 40"
}

##############################################################################
# The module

case_is load "load: each allocation fails"
load()
{
	ipvsadm -A -f 1 -s rr	# so that it registers hooks
	each_failing true refused_load insmod "$MODULE"
	outcome="$number allocations"
	is_loaded || fault "it is not loaded at last"
}

refused_load()
{
	# The kernel has a fallback for some allocations.
	if ((status == 0)); then
		rmmod ip_vs_reuse || fault "allocation $number failed, and it was loaded: rmmod"
	else
		has_no_memory
	fi
	nothing_is_left
}

##############################################################################
# Namespaces

case_is namespace "a new namespace: each allocation fails"
namespace()
{
	each_failing no_namespace refused_namespace ip netns add "$made"
	outcome="$number allocations"
	works_in_namespace
}

no_namespace() { ip netns delete "$made" 2>/dev/null; }
refused_namespace() { ((status == 0)) || has_no_memory; }
works_in_namespace()
{
	[ "$(in_ns "$made" head -n 1 /proc/net/ip_vs_reuse)" = "matched 0" ] || fault "no counters in the namespace"
}

# The hooks come with the first service, within a second or two.
case_is first_service "a namespace's first service: no allocation succeeds, and it is tried again"
first_service()
{
	[ -e "/run/netns/$made" ] || ip netns add "$made"
	fail -1
	in_ns "$made" ipvsadm -A -f 1 -s rr || fault "ipvsadm"
	busywait 5000 has_tried || fault "the module does not register its hooks"
	! has_hooks "$made" || fault "there are hooks, though no allocation succeeded"
	fail 0
	busywait 5000 has_hooks "$made" || fault "the module does not try again"
	ip netns delete "$made"
}
has_tried() { (($(seen) > 1)); }

##############################################################################
# Services of p2c

case_is new_service "p2c: a new service, each allocation fails"
new_service()
{
	each_failing no_service refused_service ipvsadm -A -u "$service" -o -s p2c
	outcome="$number allocations"
}

no_service() { ipvsadm -D -u "$service" 2>/dev/null; }
refused_service()
{
	if ((status == 0)); then
		fault "allocation $number failed, and the service is there"
	else
		has_no_memory
		! ipvsadm -Ln -u "$service" >/dev/null 2>&1 || fault "allocation $number failed: the service is there"
	fi
}

# change ARGUMENTS...: by ipvsadm, and p2c makes a table of it.
change() { ipvsadm "$@" && settle; }

# The failure is counted, and p2c tries again a second later.
case_is new_server "p2c: a new server, each allocation fails"
new_server()
{
	each_failing one_server counted_change change -a -u "$service" -r 10.2.2.2:80 -m
	outcome="$number allocations"
}

one_server()
{
	ipvsadm -d -u "$service" -r 10.2.2.2:80 2>/dev/null
	ipvsadm -a -u "$service" -r 10.2.1.2:80 -m -w 1 2>/dev/null ||
		ipvsadm -e -u "$service" -r 10.2.1.2:80 -m -w 1 || fault "cannot make rs1"
	settle
	noted=$(rebuilds)
}

counted_change()
{
	((status == 0)) || fault "allocation $number failed: $output"
	(($(rebuilds) == noted + 1)) || fault "allocation $number failed: $(($(rebuilds) - noted)) counted"
	sleep $((slow > 1 ? 10 : 1))
	settle
	each_has_some "allocation $number failed, then it was tried again"
}

case_is changed_server "p2c: a server is drained, each allocation fails"
changed_server()
{
	each_failing two_servers counted_drain change -e -u "$service" -r 10.2.2.2:80 -m -w 0
	outcome="$number allocations"
}

two_servers()
{
	local n

	for n in 1 2; do
		ipvsadm -a -u "$service" -r "10.2.$n.2:80" -m -w 1 2>/dev/null ||
			ipvsadm -e -u "$service" -r "10.2.$n.2:80" -m -w 1 || fault "cannot make rs$n"
	done
	settle
	noted=$(rebuilds)
}

# Weight and availability are read at each pick, so rs2 gets nothing from the old table.
counted_drain()
{
	((status == 0)) || fault "allocation $number failed: $output"
	(($(rebuilds) == noted + 1)) || fault "allocation $number failed: $(($(rebuilds) - noted)) counted"
	send
	(($(to 1) == 40)) || fault "allocation $number failed: $(to 1) datagrams of 40"
	two_servers
	each_has_some "allocation $number failed, then a change"
}

case_is deleted_server "p2c: a server is deleted, each allocation fails"
deleted_server()
{
	each_failing two_servers counted_drain change -d -u "$service" -r 10.2.2.2:80
	outcome="$number allocations"
}

# If a switch to p2c fails, IPVS restores the old scheduler.
case_is switched "p2c: a service switches to it, each allocation fails"
switched()
{
	each_failing with_rr refused_switch ipvsadm -E -u "$service" -o -s p2c
	outcome="$number allocations"
	each_has_some "switched"
}

with_rr()
{
	ipvsadm -E -u "$service" -o -s rr || fault "cannot switch to rr"
	two_servers
}

refused_switch()
{
	((status)) || fault "allocation $number failed, and it says nothing"
	has_no_memory
	[[ $(ipvsadm -Sn) = *"-A -u $service -s rr"* ]] || fault "allocation $number failed: the scheduler is not rr"
	each_has_some "allocation $number failed"
}

# A table larger than a page. While all allocations fail the old one stays in use, and it is tried again
# each second.
case_is large_table "p2c: a table of 600 servers, all allocations fail"
large_table()
{
	local n

	two_servers
	for n in {1..600}; do
		echo "-a -u $service -r 10.8.$((n / 256)).$((n % 256)):80 -m -w 0"
	done | ipvsadm -R || fault "cannot add servers"
	settle
	fail -1
	for n in {1..600}; do
		echo "-e -u $service -r 10.8.$((n / 256)).$((n % 256)):80 -m -w 1"
	done | ipvsadm -R || fault "ipvsadm reports an error"
	settle
	noted=$(rebuilds)
	send
	(($(to 1) + $(to 2) == 40)) || fault "the old table: $(to 1) and $(to 2) datagrams of 40"
	busywait $((5000 * slow)) tried_twice || fault "it is not tried again"
	fail 0
	outcome="$(($(rebuilds) - noted)) times"
	busywait $((10000 * slow)) new_table || fault "the new table: $(to 1) and $(to 2) datagrams of 40"
}
new_table() { send; (($(to 1) + $(to 2) < 40)); }

tried_twice() { (($(rebuilds) >= noted + 2)); }

##############################################################################
# Packets

# All allocations of the module fail. It makes none for these packets, and no packet is lost.
case_is packets "packets: all allocations fail, and no packet is lost"
packets()
{
	local said replayed

	two_servers
	ipvsadm -R <<-END || bail_out "cannot make the service for TCP"
		-A -t $reopened -s p2c
		-a -t $reopened -r 10.2.1.2:80 -m
		-a -t $reopened -r 10.2.2.2:80 -m
	END
	settle
	replayed=$(awk '$1 == "replayed_tcp_closed" { print $2 }' /proc/net/ip_vs_reuse)
	fail -1
	send
	# shellcheck disable=SC2034 # n is used
	for n in {1..5}; do
		said=$(in_ns "$client" "$harness" reconnect --from 10.0.0.2:$((5000 + n)) --to "$reopened" --end server-rst)
		[[ $said = *'"syn_retransmits":0,'* && $said = *'"connected":true'* ]] || fault "$said"
	done
	fail 0
	(($(seen) == 0)) || fault "$(seen) allocations, the last by $(<"$injection"/last_caller)"
	replayed=$(($(awk '$1 == "replayed_tcp_closed" { print $2 }' /proc/net/ip_vs_reuse) - replayed))
	((replayed == 5)) || fault "$replayed of 5 packets replayed"
	outcome="40 datagrams, $replayed SYNs replayed"
}

case_is unload "unload: nothing is left behind"
unload()
{
	local number=none

	ipvsadm -C
	rmmod ip_vs_reuse || fault "rmmod"
	nothing_is_left
}

begin_director 2
start_servers --proto tcp --proto udp --listen 0.0.0.0:80
insmod "$fail_alloc" || bail_out "cannot insert $fail_alloc"
choose_cases "$@"
# What the first cases leave for the others.
if [[ $cases != " load"* ]]; then
	load_module || bail_out "insmod does not take $MODULE"
	ipvsadm -A -u "$service" -o -s p2c
fi
check_cases
