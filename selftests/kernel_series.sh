#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's selftest that comes with the series in patches/: taken out of its patch, put
# among the kernel's own, and run by itself. On the stock IPVS it must fail, for just those
# cases that the series mends; with the patched one all of it must pass.
#
# KERNEL_TESTS: what scripts/kernel-selftests.sh has made
# IPVS:         what scripts/ipvs.sh has made, patched

# shellcheck disable=SC2317 # checks are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"

test=ipvs_conn_reuse.sh
controls="^IPv[46], (FIN|server's RST, conn_reuse_mode=0)$"

# Namespaces go some time after they are deleted, and their services with them.
unload() { busywait 20000 unloaded; }
unloaded()
{
	[ ! -e /sys/module/ip_vs_rr ] || rmmod ip_vs_rr
	[ ! -e /sys/module/ip_vs ] || rmmod ip_vs
} 2>/dev/null

put_stock_back() { unload && modprobe -a ip_vs ip_vs_rr; }

cleanup()
{
	[ "$loaded" = stock ] || put_stock_back
	rm -rf "$tmp"
} 2>/dev/null

# run STATUS: the test, which is to end with STATUS. Sets `passed` and `failed`, the cases.
run()
{
	local status

	(cd "$tmp/tools/testing/selftests/net/netfilter" && timeout 300 "./$test") >"$tmp/output" 2>&1 </dev/null
	status=$?
	((status == $1)) || fault "it ended with $status:" "$(tail -n 20 "$tmp/output")"
	mapfile -t passed < <(sed -n 's/^PASS: //p' "$tmp/output")
	mapfile -t failed < <(sed -n 's/^FAIL: //p' "$tmp/output")
	outcome="${#passed[@]} pass, ${#failed[@]} fail"
}

stock_fails()
{
	local case

	run 1
	for case in "${passed[@]}"; do
		[[ $case =~ $controls ]] || fault "passes, with nothing to mend it: $case"
	done
	for case in "${failed[@]}"; do
		[[ ! $case =~ $controls ]] || fault "fails: $case"
	done
	grep -qP '^\tSYN retransmitted' "$tmp/output" || fault "no SYN was lost"
	((${#passed[@]} > 0)) || fault "no case passes"
	cases=$((${#passed[@]} + ${#failed[@]}))
}

patched_passes()
{
	{ unload && insmod "$IPVS/ip_vs.ko"; } || bail_out "cannot load $IPVS/ip_vs.ko"
	loaded=patched
	run 0
	((${#failed[@]} == 0)) || fault "$(grep -A 4 '^FAIL' "$tmp/output")"
	((${#passed[@]} == cases)) || fault "there were $cases on the stock kernel"
}

one_module_decides()
{
	insmod "$IPVS/ip_vs_reuse.ko" || fault "the module does not load"
	! insmod "$IPVS/flow_ops.ko" 2>"$tmp/output" || fault "a second one is taken"
	grep -q "busy" "$tmp/output" || fault "a second one: $(<"$tmp/output")"
	rmmod ip_vs_reuse || fault "it does not go"
	insmod "$IPVS/flow_ops.ko" || fault "none is there, and another one is not taken"
	! insmod "$IPVS/ip_vs_reuse.ko" 2>"$tmp/output" || fault "the module is taken as a second one"
	grep -q "busy" "$tmp/output" || fault "the module as a second one: $(<"$tmp/output")"
	[ ! -e /proc/net/ip_vs_reuse ] || fault "and leaves something behind"
	rmmod flow_ops || fault "the other one does not go"
}

need_root
[ -n "${IPVS:-}" ] || skip_all "IPVS is not set: scripts/ipvs.sh patched"
[ -d "${KERNEL_TESTS:-}/net/netfilter" ] || skip_all "KERNEL_TESTS is not set: scripts/kernel-selftests.sh"
need_tools git ip ipvsadm nft nstat socat ss
need_modules ip_vs nf_conntrack ip_vs_rr nft_ct veth bridge

release=$(uname -r)
[[ $release =~ ^[0-9]+\.[0-9]+ ]]
patch=$(grep -lE "^\+\+\+ .*/$test$" "$here/../patches/${BASH_REMATCH[0]}"/*.patch) ||
	skip_all "there is no patch with $test for Linux $release"

tmp=$(mktemp -d) loaded=
trap cleanup EXIT
mkdir -p "$tmp/tools/testing"
cp -r "$KERNEL_TESTS" "$tmp/tools/testing/selftests"
(cd "$tmp" && git apply --include='tools/testing/selftests/*' "$patch") || bail_out "$patch does not apply"
# Whichever IPVS is loaded.
put_stock_back || bail_out "cannot load the stock ip_vs"
loaded=stock

ktap_plan 3
check stock_fails "stock: $test fails for what the series mends, and for nothing else"
check patched_passes "patched: $test passes"
check one_module_decides "patched: one module at a time decides about reopened flows"
ktap_exit
