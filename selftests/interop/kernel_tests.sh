#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's own selftests about IPVS, conntrack and NAT: each runs on the stock kernel and then with
# the module. It must end the same way, with the same intermediate results. A test that does not
# pass on the stock kernel either is skipped, with the reason that it gave itself.
#
# All tests are told that the machine is slow (KSFT_MACHINE_SLOW); several then do less.
#
# KERNEL_TESTS: directory made by scripts/build/kernel-selftests.sh
# MODULE:       the module to insert
# LONG:         also run the tests that take long
#
# usage: kernel_tests.sh [TEST...]
#
# One test: VM_ENV=KERNEL_TESTS KERNEL_TESTS=$(scripts/build/kernel-selftests.sh) \
#           make case TEST=interop/kernel_tests.sh CASE=netfilter/ipvs.sh

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

tests="netfilter/ipvs.sh
	netfilter/conntrack_dump_flush.sh
	netfilter/conntrack_icmp_related.sh
	netfilter/conntrack_ipip_mtu.sh
	netfilter/conntrack_reverse_clash.sh
	netfilter/conntrack_sctp_collision.sh
	netfilter/conntrack_tcp_unreplied.sh
	netfilter/conntrack_vrf.sh
	netfilter/nf_nat_edemux.sh
	netfilter/nft_conntrack_helper.sh
	netfilter/nft_synproxy.sh
	ip_defrag.sh"
long_tests="netfilter/br_netfilter.sh
	netfilter/br_netfilter_queue.sh
	netfilter/conntrack_clash.sh
	netfilter/conntrack_resize.sh
	netfilter/nft_flowtable.sh
	netfilter/nft_interface_stress.sh
	netfilter/nft_nat.sh
	netfilter/nft_nat_zones.sh
	netfilter/nft_queue.sh
	netfilter/nft_tproxy_tcp.sh
	netfilter/nft_tproxy_udp.sh
	netfilter/nft_zones_many.sh
	fcnal-test.sh:-t:use_cases"

# Tests that are not run, and why.
not_tried()
{
	local test

	for test in bridge_brouter nft_audit nft_concat_range nft_concat_range_perf nft_fib \
		nft_fib_nexthop nft_meta rpath vxlan_mtu_frag xt_string; do
		echo "netfilter/$test.sh has to do with neither IPVS nor conntrack nor NAT"
	done
	cat <<-END
		netfilter/nf_conntrack_packetdrill.sh needs packetdrill, which Debian 13 has not
		netfilter/nft_offload.sh needs netdevsim, which this kernel has not
		big_tcp.sh needs netperf, which is not in the machine
		udpgro.sh needs a BPF object, for which the kernel's libbpf would have to be built
		udpgro_fwd.sh needs a BPF object, for which the kernel's libbpf would have to be built
		openvswitch/openvswitch.sh needs pyroute2, which is not in the machine
		wireguard/netns.sh needs wireguard-tools, which are not in the machine
		tc-testing/tc-tests/actions/ct.json needs pyroute2 and scapy, which are not in the machine
		bpf/prog_tests/bpf_nf.c is one of a thousand in a program that takes LLVM and hours to build
	END
}

export KSFT_MACHINE_SLOW=yes

# Seconds per test: the limit of the kernel's own runner with LONG, less without.
limit=300
[ -z "${LONG:-}" ] || limit=1800

##############################################################################
# insmod and rmmod

tracing=/sys/kernel/tracing/instances/kernel_tests

# A function that p2c calls for each real server that it puts into its table, and that can be traced.
takes_server=ip_vs_reuse_ip_vs_dest_hold

# The number of such calls while the module was last loaded, and the number of packets that
# matched an old entry, in total.
real_servers=0 matches=0

module_in()
{
	insmod "$MODULE" || bail_out "cannot insert $MODULE"
	{
		echo "$takes_server" >"$tracing/set_ftrace_filter" &&
			echo function >"$tracing/current_tracer" &&
			echo 1 >"$tracing/events/ip_vs_reuse/enable"
	} || bail_out "cannot trace the module"
}

module_out()
{
	real_servers=$(traced "$takes_server")
	matches=$((matches + $(traced 'ip_vs_reuse_(replay|leave):')))
	echo nop >"$tracing/current_tracer"
	rmmod ip_vs_reuse || bail_out "cannot remove the module"
}

# traced PATTERN: prints how often it was traced.
traced() { grep -cE ": $1" "$tracing/trace"; }

cleanup()
{
	[ ! -e /sys/module/ip_vs_reuse ] || module_out
	rmdir "$tracing"
	rm -rf "$tmp"
} 2>/dev/null

##############################################################################
# One test

# Results of the two halves, `stock` and `module`.
declare -A status=() results=() seconds=() last=() tainted=()

# run HALF TEST [DIRECTORY]: runs it as the kernel's own runner does, in a PID namespace that ends all
# processes that the test leaves behind.
#
# Some tests require that the kernel is untainted before and after. A module from outside the
# tree taints it. So the tests see 0, and this function checks that the real value does not change.
run()
{
	local half=$1 command file start=$SECONDS before after

	IFS=: read -ra command <<<"$2"
	file=${command[0]}
	read -r before </proc/sys/kernel/tainted
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount --mount-proc --pid --fork --kill-child bash -c '
		mount --bind "$1" /proc/sys/kernel/tainted && cd "$2" || exit
		timeout "$3" "${@:4}"
		exit' - "$tmp/untainted" "${3:-$KERNEL_TESTS}/net/$(dirname "$file")" "$limit" \
		"./${file##*/}" "${command[@]:1}" </dev/null >"$tmp/$half" 2>&1
	status[$half]=$?
	read -r after </proc/sys/kernel/tainted
	seconds[$half]=$((SECONDS - start))
	results[$half]=$(results_in "$tmp/$half")
	last[$half]=$(grep -avE '^[[:space:]]*$' "$tmp/$half" | tail -n 1)
	tainted[$half]=
	[ "$before" = "$after" ] || tainted[$half]="$half: tainted was $before and is $after"
}

# results_in FILE: prints the lines with results, without names of namespaces and numbers, which
# differ between any two runs.
results_in()
{
	grep -aE '(^|[^[:alpha:]])(ok|OK|PASS|FAIL|XFAIL|SKIP|ERROR)([^[:alpha:]]|$)' "$1" |
		sed -E 's/-[[:alnum:]]{6}\>/-X/g; s/[0-9]+/N/g' | sort
}

# ended HALF: prints how it ended.
ended()
{
	local word

	case ${status[$1]} in
	0) word=pass ;;
	2) word=xfail ;;
	"$ksft_skip") word=skip ;;
	124) word=timeout ;;
	*) word=fail ;;
	esac
	echo "$word (${seconds[$1]} s)"
}

both_ended() { echo "stock: $(ended stock), with the module: $(ended module)"; }

passed() { ((status[$1] == 0 || status[$1] == 2)); }

alike()
{
	[ "${status[stock]}:${results[stock]}" = "${status[module]}:${results[module]}" ] &&
		[ -z "${tainted[stock]}${tainted[module]}" ]
}

# run_both TEST [DIRECTORY]: the half with the module runs the test in DIRECTORY, if given.
run_both()
{
	run stock "$1"
	module_in
	run module "$1" "${2:-}"
	module_out
}

# difference: prints what differs between the halves.
difference()
{
	printf '%s\n' "${tainted[@]}"
	diff -U 0 --label stock --label "with the module" \
		<(echo "${results[stock]}") <(echo "${results[module]}")
	((status[stock] == status[module])) ||
		tail -v -n 10 "$tmp/stock" "$tmp/module"
}

# compare LABEL TEST [DIRECTORY]: prints a KTAP line. Some tests fail now and then on any kernel, so
# both halves get a second attempt.
compare()
{
	local label=$1

	run_both "${@:2}"
	# A kernel that is tainted stays so.
	if ! alike && [ -z "${tainted[stock]}${tainted[module]}" ]; then
		echo "# $label: $(both_ended), and different; once more"
		difference | sed '/^$/d; s/^/#   /'
		label+=", at the second attempt"
		run_both "${@:2}"
	fi
	label+=": $(both_ended)"
	if passed stock && alike; then
		ktap_ok "$label"
	elif alike; then
		ktap_skip "$label" "on the stock kernel, too: ${last[stock]}"
	elif ! passed stock && passed module && [ -z "${tainted[module]}" ]; then
		ktap_skip "$label" "fails here on the stock kernel: ${last[stock]}"
	else
		ktap_not_ok "$label" "$(difference | sed '/^$/d')"
	fi
}

##############################################################################
# IPVS, with evidence that the module was active

# ipvs.sh connects once to a service with one real server, with each of three forwarding methods. It does
# not reuse a port, so the hook has nothing to do: the check is that it is registered.
compare_ipvs()
{
	local p2c=$tmp/p2c replaced

	compare netfilter/ipvs.sh netfilter/ipvs.sh
	check hooks_are_registered "netfilter/ipvs.sh: the module's hooks are registered where there is a service"

	cp -r "$KERNEL_TESTS" "$p2c"
	replaced=$(grep -c -e '-s rr$' "$p2c/net/netfilter/ipvs.sh")
	sed -i 's/-s rr$/-s p2c/' "$p2c/net/netfilter/ipvs.sh"
	((replaced > 0)) || bail_out "netfilter/ipvs.sh has no '-s rr' to replace by p2c"
	compare "netfilter/ipvs.sh with p2c for rr" netfilter/ipvs.sh "$p2c"
	check p2c_was_at_work "netfilter/ipvs.sh with p2c for rr: p2c got the real servers"
}

hooks_are_registered()
{
	local hooks

	module_in
	hooks=$(unshare --net -- bash -c "$(declare -f busywait has_hooks)
		ipvsadm -A -f 1 -s rr; busywait 5000 has_hooks; nft list hooks" | grep -cF '[ip_vs_reuse]')
	module_out
	outcome=$hooks
	((hooks == 4)) || fault "there must be one at LOCAL_IN and LOCAL_OUT of each family"
}

p2c_was_at_work()
{
	outcome=$real_servers
	((real_servers >= 3)) || fault "there must be one for each forwarding method"
}

# Fails when a new kernel has new tests.
all_are_listed()
{
	local file known

	known=" ${tests//[[:space:]]/ } ${long_tests//[[:space:]]/ } ${skipped[*]%% *} "
	for file in "$KERNEL_TESTS"/net/netfilter/*.sh; do
		file=netfilter/${file##*/}
		[[ $known = *" $file "* || $file = */lib.sh ]] || fault "$file is not"
	done
}

##############################################################################

need_root
[ -n "${MODULE:-}" ] || skip_all "MODULE is not set"
[ -d "${KERNEL_TESTS:-}/net/netfilter" ] || skip_all "KERNEL_TESTS is not set: scripts/build/kernel-selftests.sh"
need_tools conntrack ip ipvsadm nft socat unshare
# The module's dependencies, loaded for both halves.
need_modules ip_vs nf_conntrack nfnetlink_hook

tmp=$(mktemp -d)
trap cleanup EXIT
echo 0 >"$tmp/untainted"
mkdir "$tracing" || bail_out "cannot trace"

mapfile -t skipped < <(not_tried)
lines=4		# beside one for each test
if (($#)); then
	tests=$* long_tests='' skipped=()
	[[ $tests = *netfilter/ipvs.sh* ]] && lines=3 || lines=0
fi
ktap_plan $(($(wc -w <<<"$tests $long_tests") + ${#skipped[@]} + lines))

(($#)) || check all_are_listed "all of the kernel's netfilter tests are in a list"
for test in $tests ${LONG:+$long_tests}; do
	case $test in
	netfilter/ipvs.sh) compare_ipvs ;;
	*) compare "${test//:/ }" "$test" ;;
	esac
done
echo "# with the module, $matches packets matched an old entry of IPVS"
[ -n "${LONG:-}" ] || for test in $long_tests; do
	ktap_skip "${test//:/ }" "takes long: left to make test-long"
done
for line in "${skipped[@]}"; do
	ktap_skip "${line%% *}" "${line#* }"
done
ktap_exit
