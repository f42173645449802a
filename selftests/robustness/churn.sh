#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Random changes while traffic runs: the module is reloaded, namespaces with services are made and
# deleted, real servers, weights, schedulers and settings change, conntrack is flushed or full, a
# processor goes offline, the sync daemons start and stop, and IPVS and conntrack themselves are
# unloaded. At the end no connection and no reference is left, and memory use is as before.
#
# The same SEED repeats the sequence of changes, but not their timing relative to the traffic.
#
# lib.sh has the network, with three real servers. The services are 10.9.0.1:80 and fd00:9::1:80, NAT.
#
# MODULE:  ip_vs_reuse.ko
# MINUTES: duration (1)
# SEED:    a number (the time)
# ACTIONS: names of the action functions below; a name that is given twice happens twice as often
#          (all, some more often)

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

minutes=${MINUTES:-1}
seed=${SEED:-$EPOCHSECONDS}
RANDOM=$((seed % 32768))

vips=(10.9.0.1:80 '[fd00:9::1]:80')
schedulers=(p2c p2c p2c rr wlc mh sh twos)
conntrack_max=/proc/sys/net/netfilter/nf_conntrack_max
second_cpu=/sys/devices/system/cpu/cpu1/online
traffic=()
other=other-$$

cleanup()
{
	stop_traffic
	[ ! -e "$second_cpu" ] || echo 1 >"$second_cpu"
	ip netns delete "$other"
	cleanup_director
} 2>/dev/null

need_module
become_director "$@"
need_tools conntrack ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr ip_vs_wlc ip_vs_mh ip_vs_sh ip_vs_twos nf_conntrack nft_ct veth
need_harness
note_log

##############################################################################
# Traffic, which has no checks of its own

# Connections fail when services are deleted or the table is full. The storms are then restarted. Each
# connection is held for a moment: at full speed the changes would get too little processor time.
if ((slow > 1)); then concurrency=1 hold=2s; else concurrency=4 hold=500ms; fi
start_traffic()
{
	local end to from

	for end in server-rst client-rst fin; do
		for to in "${vips[@]}"; do
			from=10.0.0.2
			[[ $to != \[* ]] || from=fd00:0::2
			keep_on "$from" "$to" $end $((10000 + 1000 * ${#traffic[@]})) &
			traffic+=($!)
		done
	done
}

# keep_on FROM TO END PORT
keep_on()
{
	trap 'kill $!; exit' TERM
	while true; do
		nsenter --net="/run/netns/$client" -- "$harness" storm --from "$1" --to "$2" --end "$3" \
			--ports $(($4))-$(($4 + 39)) --concurrency $concurrency --hold $hold --seconds 5 --timeout 2s &
		wait $!
		sleep 0.1
	done
} >/dev/null 2>&1

stop_traffic()
{
	((${#traffic[@]})) || return 0
	kill "${traffic[@]}"
	wait "${traffic[@]}"
	traffic=()
} 2>/dev/null

##############################################################################
# Services

# one_of WORD...: sets `it`.
one_of()
{
	shift $((RANDOM % $#))
	it=$1
}

# server_of VIP N
server_of()
{
	case $1 in
	\[*) echo "[fd00:2:$2::2]:80" ;;
	*) echo "10.2.$2.2:80" ;;
	esac
}

make_services()
{
	local vip n

	for vip in "${vips[@]}"; do
		echo "-A -t $vip -s rr"
		for n in "${!servers[@]}"; do
			echo "-a -t $vip -r $(server_of "$vip" "$n") -m"
		done
	done | ipvsadm -R || fault "cannot make the services"
}

# Errors are ignored: the object may exist already, or not any more.
change() { ipvsadm "$@" 2>/dev/null; }

##############################################################################
# Actions

# shellcheck disable=SC2206 # a list
actions=(${ACTIONS:-reload reload reload namespace namespace namespace server server server server
	server scheduler scheduler settings settings flush full processor daemon everything})
declare -A times=()

reload()
{
	local vip

	# The module cannot be unloaded while its scheduler is in use.
	for vip in "${vips[@]}"; do
		change -E -t "$vip" -s rr
	done
	busywait 5000 rmmod ip_vs_reuse 2>/dev/null || fault "rmmod: $(rmmod ip_vs_reuse 2>&1)"
	insmod "$MODULE" || fault "insmod"
}

namespace()
{
	ip netns add "$other" || fault "ip netns add"
	ip -n "$other" link set lo up || fault "ip link set lo up"
	in_ns "$other" ipvsadm -R <<-END || fault "cannot make services in a namespace"
		-A -t 10.7.0.1:80 -s p2c
		-a -t 10.7.0.1:80 -r 10.7.1.1:80 -m
		-a -t 10.7.0.1:80 -r 10.7.1.2:80 -m
		-A -f 7 -s p2c
	END
	in_ns "$other" head -n 1 /proc/net/ip_vs_reuse >/dev/null || fault "no counters in the namespace"
	((RANDOM % 2)) || in_ns "$other" ipvsadm -C
	ip netns delete "$other"
}

server()
{
	local vip server

	one_of "${vips[@]}"
	vip=$it
	one_of "${!servers[@]}"
	server=$(server_of "$vip" "$it")
	one_of -d -a -a -e -e -e
	case $it in
	-d) change -d -t "$vip" -r "$server" ;;
	*) change "$it" -t "$vip" -r "$server" -m -w $((RANDOM % 4)) ;;
	esac
}

scheduler()
{
	local vip

	one_of "${vips[@]}"
	vip=$it
	one_of "${schedulers[@]}"
	change -E -t "$vip" -s "$it"
}

settings()
{
	one_of conn_reuse_mode expire_nodest_conn conntrack
	case $it in
	conntrack) sysctl_set ipv4/vs/conntrack $((RANDOM % 4 > 0)) ;;
	*) sysctl_set "ipv4/vs/$it" $((RANDOM % 2)) ;;
	esac
}

flush() { conntrack -F >/dev/null 2>&1; }

# The limit can only be set in the initial namespace.
full()
{
	# shellcheck disable=SC2016 # for that shell
	nsenter --net=/proc/1/ns/net -- bash -c '
		max=$(<$1); echo 10 >"$1"; sleep 0.5; echo "$max" >"$1"' - "$conntrack_max" ||
		fault "cannot set $conntrack_max"
}

processor()
{
	[ -e "$second_cpu" ] || return
	echo 0 >"$second_cpu" || fault "the second processor does not go offline"
	sleep 0.2
	echo 1 >"$second_cpu" || fault "the second processor does not go online"
}

daemon()
{
	one_of master backup
	change --start-daemon "$it" --mcast-interface director
	((RANDOM % 2)) || change --stop-daemon "$it"
}

# Unloads the module, IPVS and conntrack, and loads them again.
everything()
{
	ipvsadm -C
	change --stop-daemon master
	change --stop-daemon backup
	nft flush ruleset
	busywait 5000 rmmod ip_vs_reuse 2>/dev/null || fault "rmmod: $(rmmod ip_vs_reuse 2>&1)"
	busywait 60000 ipvs_goes || fault "ip_vs cannot be unloaded: $(rmmod ip_vs 2>&1)"
	busywait 60000 conntrack_goes || fault "nf_conntrack cannot be unloaded: $(rmmod nf_conntrack 2>&1)"
	begin_again
}

ipvs_goes()
{
	# shellcheck disable=SC2046 # a list
	rmmod $(cd /sys/module && ls -d ip_vs_*) ip_vs 2>/dev/null
	[ ! -e /sys/module/ip_vs ]
}

# Modules that other tests have loaded use it, too.
conntrack_goes()
{
	modprobe -r nft_ct nft_masq nft_chain_nat nf_nat nf_conntrack_netlink nf_conntrack 2>/dev/null
	[ ! -e /sys/module/nf_conntrack ]
}

begin_again()
{
	modprobe -a ip_vs ip_vs_{rr,wlc,mh,sh,twos} || fault "modprobe ip_vs"
	insmod "$MODULE" || fault "insmod"
	sysctl_set ipv4/vs/conntrack 1
	track_connections
	make_services
}

##############################################################################

churn()
{
	local start=$SECONDS minute=0 what

	while ((SECONDS - start < 60 * minutes && ${#faults[@]} == 0)); do
		one_of "${actions[@]}"
		what=$it
		"$what"
		times[$what]=$((${times[$what]:-0} + 1))
		((SECONDS - start >= 60 * (minute + 1))) || continue
		minute=$((minute + 1))
		what_happened
		echo "# minute $minute of $minutes: $outcome"
	done
	what_happened
}

# Sets `outcome` to the number of times of each action.
what_happened()
{
	local what

	outcome=
	for what in $(printf '%s\n' "${!times[@]}" | sort); do
		outcome+="${outcome:+, }$what ${times[$what]}"
	done
}

# Prints how many kilobytes the kernel uses and cannot reclaim, after it has reclaimed the rest.
kernel_memory()
{
	sync
	echo 3 >/proc/sys/vm/drop_caches
	awk '/^(SUnreclaim|Percpu|VmallocUsed|KernelStack|PageTables):/ { n += $2 } END { print n }' /proc/meminfo
}

# Removes connections, services and modules, as at the start.
nothing_runs()
{
	stop_traffic
	everything
	ipvsadm -C
	nft flush ruleset
	rmmod ip_vs_reuse || fault "rmmod"
	ipvs_goes || fault "ip_vs cannot be unloaded"
	busywait 10000 conntrack_goes || fault "nf_conntrack cannot be unloaded"
}

# The kernel keeps a little for reuse (partly used slabs, per-processor memory, RCU). A leak in each
# action would be much more.
memory_is_back()
{
	local memory

	busywait 60000 memory_is || fault "$((memory - memory_before)) kB more than at the start"
	outcome="$memory_before kB, then $memory kB"
}
memory_is()
{
	memory=$(kernel_memory)
	((memory < memory_before + 8192)) || { sleep 2; false; }
}

# The debug kernel lists each namespace's references in debugfs, and two of them may get the same name.
log_is_clean()
{
	local said usual='nf_conntrack: .*table full|net_ratelimit|smpboot|Booting Node'

	said=$(new_complaints | grep -vE "$usual|already exists in 'ref_tracker'")
	[ -z "$said" ] || fault "$said"
}

ktap_plan 4
setup_network 3
printf 'address add %s dev lo\n' 10.9.0.1 fd00:9::1 | ip -batch -
start_servers --listen 0.0.0.0:80 --listen '[::]:80'
echo "# MINUTES=$minutes SEED=$seed"

# Each action once, so that memory that is allocated only the first time is counted before.
begin_again
start_traffic
for action in "${actions[@]}"; do
	"$action"
done
nothing_runs
memory_before=$(kernel_memory)
((${#faults[@]} == 0)) || bail_out "before it began: ${faults[*]}"
begin_again
start_traffic
check churn "churn"
check nothing_runs "all connections, services and modules can be removed"
check memory_is_back "memory"
check log_is_clean "no warning in the kernel's log"
ktap_exit
