# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the selftests share: KTAP, waiting, and a network of namespaces around a director.
# Sourced, not run. A script that needs the network enters the director's namespace itself, so that it
# can read and write the director's /proc without starting a process each time.
#
#                      client
#             10.0.0.2 |    | 10.1.n.2
#                      |    |
#             10.0.0.1 |    |  a link of its own to each real server, past the director:
#       the director,  |    |  replies of DR and TUN go there
#     and the script   |    |
#             10.2.n.1 |    |
#                      |    |
#             10.2.n.2 |    | 10.1.n.1
#                      rs<n>
#
# IPv6 the same: fd00:0::, fd00:1:n:: and fd00:2:n::. Virtual services are in 10.9.0.0/24 and
# fd00:9::/64, which the client reaches by way of the director. The real servers' default
# route leads to the director, as NAT forwarding wants it. All links are point to point:
# nobody asks for a virtual address by ARP, so the real servers may have it too.

export LC_ALL=C

ksft_skip=4

# selftests/
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

##############################################################################
# KTAP

ktap_done=0
ktap_failed=0
ktap_skipped=0

ktap_plan() { printf 'KTAP version 1\n1..%d\n' "$1"; }

ktap_ok() { echo "ok $((++ktap_done)) - $1"; }

# ktap_not_ok WHAT WHY...
ktap_not_ok()
{
	local why

	echo "not ok $((++ktap_done)) - $1"
	for why in "${@:2}"; do
		echo "# ${why//$'\n'/$'\n'# }"
	done
	ktap_failed=$((ktap_failed + 1))
}

# ktap_skip WHAT WHY
ktap_skip()
{
	echo "ok $((++ktap_done)) - $1 # SKIP $2"
	ktap_skipped=$((ktap_skipped + 1))
}

# What the check that runs has found: its faults, and its outcome in words.
faults=()
outcome=

fault() { faults+=("$*"); }

# check FUNCTION LABEL: a KTAP line for what FUNCTION finds.
check()
{
	faults=() outcome=
	"$1"
	if ((${#faults[@]})); then
		ktap_not_ok "$2${outcome:+: $outcome}" "${faults[@]}"
	else
		ktap_ok "$2${outcome:+: $outcome}"
	fi
}

# Nothing can be tested, and it is no fault of the kernel.
skip_all()
{
	echo "KTAP version 1"
	echo "1..0 # SKIP $*"
	exit "$ksft_skip"
}

# Nothing more can be tested.
bail_out()
{
	echo "Bail out! $*"
	exit 1
}

# The script's end: its status tells whether all passed, any failed, or some were skipped.
ktap_exit()
{
	local passed=$((ktap_done - ktap_failed - ktap_skipped))

	echo "# Totals: pass:$passed fail:$ktap_failed xfail:0 xpass:0 skip:$ktap_skipped error:0"
	((ktap_failed == 0)) || exit 1
	((ktap_skipped == 0)) || exit "$ksft_skip"
	exit 0
}

##############################################################################
# Cases

# What a script checks: functions, in the order in which they run, and what each is about, for people.
cases=
module_cases=		# with the module only, after all others
case_lists="cases module_cases"		# a script may have more
declare -A label_of=()

# case_is NAME LABEL, module_case_is NAME LABEL: the function NAME, which follows, is a case.
case_is() { add_case cases "$@"; }
module_case_is() { add_case module_cases "$@"; }

# add_case LIST NAME LABEL
add_case()
{
	local -n list=$1

	list+=" $2"
	label_of[$2]=$3
}

# choose_cases [NAME...]: only these, if there are any.
choose_cases()
{
	local name list chosen

	[ $# != 0 ] || return 0
	for name; do
		[ -n "${label_of[$name]:-}" ] || bail_out "no such case: $name (cases: ${!label_of[*]})"
	done
	for list in $case_lists; do
		chosen=
		for name in ${!list}; do
			[[ " $* " != *" $name "* ]] || chosen+=" $name"
		done
		printf -v "$list" %s "$chosen"
	done
}

##############################################################################
# What is needed

need_root() { ((EUID == 0)) || skip_all "needs root"; }

need_tools()
{
	local tool

	for tool in "$@"; do
		command -v "$tool" >/dev/null || skip_all "needs $tool"
	done
}

need_modules()
{
	local module

	modprobe -qa "$@" && return
	for module in "$@"; do
		modprobe -q "$module" || skip_all "needs the kernel module $module"
	done
}

# How many times longer everything takes on a debug kernel.
# shellcheck disable=SC2034 # used by the scripts that source this
if [ -e /sys/kernel/debug/kmemleak ]; then slow=25; else slow=1; fi

# Such a kernel is asked about the module; the fault is the same on all.
# shellcheck disable=SC2034 # used by the scripts that source this
no_first_half="the fault is not shown again on a kernel as slow as this"

# settle: waits until p2c has made a table of all changes, which takes it a grace period at most.
settle() { sleep $((slow > 1 ? 3 : 0)).3; }

now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# load_ipvs [DIRECTORY [PARAMETER...]]: the stock IPVS, or in its place that of DIRECTORY, with such
# parameters. None is loaded.
load_ipvs()
{
	modprobe ip_vs "${@:2}" || return
	# It has brought what either depends on.
	[ -z "${1:-}" ] || { rmmod ip_vs && insmod "$1/ip_vs.ko" "${@:2}"; }
}

# check_cases [CASE...]: a script's last line: all cases, or these.
check_cases()
{
	local name

	choose_cases "$@"
	# shellcheck disable=SC2086 # a list
	set -- $cases
	ktap_plan $#
	for name; do
		check "$name" "${label_of[$name]}"
	done
	ktap_exit
}

# check_halves [CASE...]: a script's last line: all cases, or these, on the stock kernel, then with MODULE,
# if there is one. `half` tells them which (stock, module). The script's function `setup` is called before
# the first.
check_halves()
{
	local name

	choose_cases "$@"
	# shellcheck disable=SC2086 # lists
	set -- $cases $cases $module_cases
	ktap_plan $#
	setup
	for name in $cases; do
		# shellcheck disable=SC2154 # the script's
		check "$name" "$half: ${label_of[$name]}"
	done
	half=module
	[ -z "${MODULE:-}" ] || load_module || bail_out "insmod does not take $MODULE"
	for name in $cases $module_cases; do
		if [ -n "${MODULE:-}" ]; then
			check "$name" "$half: ${label_of[$name]}"
		else
			ktap_skip "$half: ${label_of[$name]}" "MODULE is not set"
		fi
	done
	ktap_exit
}

# A kernel without the module.
need_stock()
{
	[ ! -e /sys/module/ip_vs_reuse ] || skip_all "needs the stock kernel first: rmmod ip_vs_reuse"
}

# MODULE, which the test loads by itself.
need_module()
{
	[ -n "${MODULE:-}" ] || skip_all "MODULE is not set"
	[ ! -e /sys/module/ip_vs_reuse ] || skip_all "ip_vs_reuse must not be loaded yet: rmmod ip_vs_reuse"
}

# The module registers its hooks where IPVS has services. It looks when it is loaded, and then once a
# second: a test that makes services later would have to wait. So the test has a service by a mark that no
# packet has, until the hooks are there; the module leaves them there.

# load_module: loads MODULE, with its hooks in this namespace. Returns 1 if insmod does not take it.
load_module()
{
	local status=0

	ipvsadm -A -f 4294967295 -s rr
	insmod "$MODULE" || status=1
	ipvsadm -D -f 4294967295
	return $status
}

# wait_for_hooks: waits until they are in this namespace, where the module was loaded before.
wait_for_hooks()
{
	ipvsadm -A -f 4294967295 -s rr
	busywait 5000 has_hooks || bail_out "ip_vs_reuse has no hooks in this namespace ('nft list hooks')"
	ipvsadm -D -f 4294967295
}

# has_hooks [NAMESPACE]
has_hooks() { ${1:+in_ns "$1"} nft list hooks | grep -qF '[ip_vs_reuse]'; }

# built FILE: where it is, if it is beside the tests or in build/ of the checkout.
built()
{
	local file

	for file in "$here/$1" "$here/../build/$1"; do
		[ ! -f "$file" ] || { echo "$file"; return; }
	done
}

# Sets `harness`: given as HARNESS, or where it has been built.
need_harness()
{
	for harness in "${HARNESS:-}" "$(built harness)" "${CARGO_TARGET_DIR:-$here/../target}/release/harness" \
		/cache/target/release/harness; do
		[ ! -x "$harness" ] || return 0
	done
	skip_all "needs the harness: cargo build --release -p harness, or set HARNESS"
}

##############################################################################
# Waiting

# busywait MILLISECONDS COMMAND...: whether COMMAND succeeds within that time.
busywait()
{
	local deadline=$((${EPOCHREALTIME/./} + $1 * 1000))

	shift
	until "$@"; do
		# Once more: the time may have passed since.
		((${EPOCHREALTIME/./} < deadline)) || { "$@"; return; }
	done
}

# wait_for SECONDS COMMAND...: as busywait, but leaves the processors to others.
wait_for() { busywait $(($1 * 1000)) holds_or_sleep "${@:2}"; }
holds_or_sleep() { "$@" || { sleep 0.1; false; }; }

##############################################################################
# The kernel's log

# note_log: from here on `new_complaints` prints what the kernel has said in warning, but for what every
# unsigned module from outside the tree makes it say, IPVS's own lines, that the machine is slow, and that the
# debug kernel's trackers of references get the same names as long as it cannot hash pointers.
note_log() { log_start=$(complaints | wc -l); }
new_complaints()
{
	complaints | tail -n "+$((log_start + 1))" |
		grep -vE 'loading out-of-tree module taints kernel|module verification failed|IPVS: ' |
		grep -vE 'sched: DL replenish lagged too much|hrtimer: interrupt took|clocksource: |TSC found unstable' |
		grep -vE "debugfs: '.*@\(_+ptrval_+\)' already exists in 'ref_tracker'"
}
complaints() { dmesg --level=warn,err,crit,alert,emerg; }

##############################################################################
# The network

# become_director "$@": starts the script again, in a network namespace of its own. There it
# gets `tmp`, a directory, and `cleanup` is called at its end, the script's or this one.
cleanup() { cleanup_director; }
become_director()
{
	need_root
	[ -n "${IS_DIRECTOR:-}" ] || IS_DIRECTOR=yes exec unshare --net -- "$0" "$@"
	# shellcheck disable=SC2034 # used by the scripts that source this
	tmp=$(mktemp -d)
	trap cleanup EXIT
}

# in_ns NAMESPACE COMMAND...: the network only; `ip netns exec` takes twice the time.
in_ns() { nsenter --net="/run/netns/$1" -- "${@:2}"; }

# sysctl_set NAME VALUE: NAME as a path below /proc/sys/net.
sysctl_set() { echo "$2" >"/proc/sys/net/$1" || bail_out "cannot set net/$1 to $2"; }

# setup_network N: a client, and the real servers rs1 to rsN. Sets `client` and `servers`,
# the names of their namespaces (servers[1] is rs1's). Namespaces that a script makes besides
# go into `more_namespaces`, to be deleted with these.
setup_network()
{
	local suffix=$$-$RANDOM n ns

	harness_pids=()
	client=client-$suffix
	servers=()
	more_namespaces=()
	for ((n = 1; n <= $1; n++)); do
		servers[n]=rs$n-$suffix
	done

	# No DAD: a forwarded packet waits until the link-local address from which the director looks for
	# the neighbour is no longer tentative, up to two seconds.
	sysctl_set ipv6/conf/default/accept_dad 0
	{
		echo "link set lo up"
		echo "netns add $client"
		echo "link add client type veth peer name director netns $client"
		echo "address add 10.0.0.1/24 dev client"
		echo "address add fd00:0::1/64 dev client nodad"
		echo "link set client up"
		for n in "${!servers[@]}"; do
			ns=${servers[n]}
			echo "netns add $ns"
			echo "link add rs$n type veth peer name director netns $ns"
			echo "address add 10.2.$n.1/24 dev rs$n"
			echo "address add fd00:2:$n::1/64 dev rs$n nodad"
			echo "link set rs$n up"
		done
	} | ip -batch - || bail_out "cannot make the namespaces"
	no_reverse_path_filter
	sysctl_set ipv4/ip_forward 1
	sysctl_set ipv6/conf/all/forwarding 1

	{
		echo "link set lo up"
		echo "address add 10.0.0.2/24 dev director"
		echo "address add fd00:0::2/64 dev director nodad"
		echo "link set director up"
		echo "route add 10.9.0.0/24 via 10.0.0.1"
		echo "route add fd00:9::/64 via fd00:0::1"
		for n in "${!servers[@]}"; do
			# Made there: up to 6.12 a name must be free where the maker is, too.
			echo "link add rs$n type veth peer name client netns ${servers[n]}"
			echo "address add 10.1.$n.2/24 dev rs$n"
			echo "address add fd00:1:$n::2/64 dev rs$n nodad"
			echo "link set rs$n up"
		done
	} | configure "$client"
	in_ns "$client" bash -c "$(declare -f no_reverse_path_filter); no_reverse_path_filter"
	for n in "${!servers[@]}"; do
		# Replies from a virtual address of its own (DR, TUN) do not pass the director.
		configure "${servers[n]}" <<-END
			link set lo up
			address add 10.2.$n.2/24 dev director
			address add fd00:2:$n::2/64 dev director nodad
			link set director up
			address add 10.1.$n.1/24 dev client
			address add fd00:1:$n::1/64 dev client nodad
			link set client up
			route add default via 10.2.$n.1
			route add ::/0 via fd00:2:$n::1
			route add default via 10.1.$n.2 table 9
			route add ::/0 via fd00:1:$n::2 table 9
			rule add from 10.9.0.0/24 lookup 9
		END
		ip -n "${servers[n]}" -6 rule add from fd00:9::/64 lookup 9 || bail_out "cannot configure rs$n"
		in_ns "${servers[n]}" bash -c "$(declare -f no_reverse_path_filter); no_reverse_path_filter"
	done
}

# track_connections: from here on conntrack knows each of the director's. Without a rule about
# connections nothing is tracked, and no first packet is lost.
track_connections()
{
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table inet filter {
			chain input {
				type filter hook input priority filter
				ct state established accept
			}
		}
	END
}

# begin_director N: a client and N real servers; nothing but the director has the addresses
# 10.9.0.1 to 10.9.0.9 and fd00:9::1 to fd00:9::9.
begin_director()
{
	setup_network "$1"
	printf 'address add %s dev lo\n' 10.9.0.{1..9} fd00:9::{1..9} | ip -batch -
	sysctl_set ipv4/vs/conntrack 1
	keep_table_small
	track_connections
}

# While IPVS enlarges its table it may find an old entry of a flow in front of the new one, and the old
# server resets what is not for it (docs/known-losses.md). With this a small table stays as it is.
# The table of older kernels never grows.
keep_table_small() { [ ! -e /proc/sys/net/ipv4/vs/conn_lfactor ] || sysctl_set ipv4/vs/conn_lfactor 4; }

# mac_of INTERFACE
mac_of()
{
	local mac

	read -r _ _ mac _ < <(ip -brief link show "$1")
	echo "$mac"
}

# configure NAMESPACE: with lines of `ip` from standard input.
configure() { ip -n "$1" -batch - || bail_out "cannot configure $1"; }

# link_twice: a second link from the client to the director, where they are called `second` and
# `client2`: two processors have packets to handle. Sets `links`, both, as the harness takes them.
link_twice()
{
	configure "$client" <<-END
		link add second type veth peer name client2 netns $$
		link set second up
	END
	ip link set client2 up
	no_reverse_path_filter
	# shellcheck disable=SC2034 # used by the scripts that source this
	links=(director="$(mac_of client)" second="$(mac_of client2)")
}

# link_backup: a second director beside setup_network's, linked to the first, the client and each
# real server, where the link is `backup`. Sets `backup`, its namespace. Addresses are the script's.
link_backup()
{
	local n

	backup=${client/client/backup}
	more_namespaces=("$backup")
	ip netns add "$backup" || bail_out "cannot make the second director"
	in_ns "$backup" bash -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
	{
		echo "link add backup type veth peer name director netns $backup"
		echo "address add 10.5.0.1/24 dev backup"
		echo "link set backup up"
		echo "link add client netns $backup type veth peer name backup netns $client"
		for n in "${!servers[@]}"; do
			echo "link add rs$n netns $backup type veth peer name backup netns ${servers[n]}"
		done
	} | ip -batch - || bail_out "cannot make the second director"
}

# New namespaces have what the machine has as its default, whatever that is.
no_reverse_path_filter()
{
	local filter

	for filter in /proc/sys/net/ipv4/conf/*/rp_filter; do
		echo 0 >"$filter"
	done
}

# start_servers ARGUMENTS...: `harness serve` in each real server, ready when this returns.
start_servers()
{
	local n said line

	for n in "${!servers[@]}"; do
		exec {said}< <(exec nsenter --net="/run/netns/${servers[n]}" -- \
			"$harness" serve --name "rs$n" "$@" 2>&1)
		harness_pids+=($!)
		read -r -t 20 line <&"$said" || line="nothing within 20 s"
		[ "$line" = READY ] || bail_out "the real server rs$n said: $line"
		exec {said}<&-
	done
}

# start_console NAME [COMMAND...]: `harness console`, here or where COMMAND takes it. It reads
# what is written to descriptor console_in[NAME]; what it says is read from console_out[NAME].
declare -A console_in=() console_out=()
# shellcheck disable=SC2034 # used by the scripts that source this
start_console()
{
	local in out

	mkfifo "$tmp/$1"
	exec {out}< <(exec "${@:2}" "$harness" console <"$tmp/$1")
	harness_pids+=($!)
	exec {in}>"$tmp/$1"
	rm "$tmp/$1"
	console_in[$1]=$in
	console_out[$1]=$out
}

# What every cleanup does. Not all of it has been made where a script ends early.
cleanup_director()
{
	cleanup_network
	ipvsadm -C
	rmmod ip_vs_reuse
	rm -rf "$tmp"
} 2>/dev/null

cleanup_network()
{
	[ -z "${harness_pids[*]}" ] || kill "${harness_pids[@]}"
	[ -z "$client" ] || printf 'netns delete %s\n' "$client" "${servers[@]}" "${more_namespaces[@]}" |
		ip -force -batch -
} 2>/dev/null
