#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the kernel selftests that the series in patches/ adds: extracts them from their patches, puts
# them among the kernel's own, and runs only them. On the stock kernel exactly those cases must fail
# that the series fixes; with the patched IPVS or conntrack all cases must pass.
#
# KERNEL_TESTS: what scripts/kernel-selftests.sh has made
# IPVS:         what scripts/ipvs.sh has made, patched
#
# Alone: IPVS=patched VM_ENV=KERNEL_TESTS KERNEL_TESTS=$(scripts/kernel-selftests.sh) \
#        make case TEST=interop/series_tests.sh

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

# unload MODULE: with the modules that use it. Namespaces go some time after they are deleted, and
# what they use with them.
unload() { busywait 20000 unloaded "$1"; }
unloaded()
{
	local user

	[ -e "/sys/module/$1" ] || return 0
	for user in "/sys/module/$1/holders"/*; do
		[ ! -e "$user" ] || unloaded "${user##*/}"
	done
	rmmod "$1"
} 2>/dev/null

put_stock_back() { unload nf_conntrack && modprobe -a ip_vs ip_vs_rr nft_ct; }

cleanup()
{
	[ "$loaded" = stock ] || put_stock_back
	rm -rf "$tmp"
} 2>/dev/null

# run TEST STATUS: TEST is to end with STATUS. Sets `passed` and `failed`, its cases.
run()
{
	local status

	(cd "$tmp/tools/testing/selftests/net/netfilter" && timeout 300 "./$1") >"$tmp/output" 2>&1 </dev/null
	status=$?
	((status == $2)) || fault "it ended with $status:" "$(tail -n 20 "$tmp/output")"
	mapfile -t passed < <(sed -n 's/^PASS: //p' "$tmp/output")
	mapfile -t failed < <(sed -n 's/^FAIL: //p' "$tmp/output")
	outcome="${#passed[@]} pass, ${#failed[@]} fail"
}

# stock_fails TEST CONTROLS: the cases that match CONTROLS pass, and no others.
stock_fails()
{
	local case

	run "$1" 1
	for case in "${passed[@]}"; do
		[[ $case =~ $2 ]] || fault "passes, with nothing to mend it: $case"
	done
	for case in "${failed[@]}"; do
		[[ ! $case =~ $2 ]] || fault "fails: $case"
	done
	((${#passed[@]} > 0)) || fault "no case passes"
	count=$((${#passed[@]} + ${#failed[@]}))
}

patched_passes()
{
	run "$1" 0
	((${#failed[@]} == 0)) || fault "$(grep -A 4 '^FAIL' "$tmp/output")"
	((${#passed[@]} == count)) || fault "there were $count on the stock kernel"
}

case_is stock_ipvs "stock: ipvs_conn_reuse.sh fails for what the series mends, and for nothing else"
stock_ipvs()
{
	stock_fails ipvs_conn_reuse.sh "^IPv[46], (FIN|server's RST, conn_reuse_mode=0)$"
	grep -qP '^\tSYN retransmitted' "$tmp/output" || fault "no SYN was lost"
}

case_is patched_ipvs "patched: ipvs_conn_reuse.sh passes"
patched_ipvs()
{
	{ unload ip_vs && insmod "$IPVS/ip_vs.ko"; } || bail_out "cannot load $IPVS/ip_vs.ko"
	loaded=patched
	patched_passes ipvs_conn_reuse.sh
}

case_is one_module_decides "patched: one module at a time decides about reopened flows"
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

case_is stock_conntrack "stock: conntrack_tcp_reopen_rst.sh fails after the server's RST only"
stock_conntrack()
{
	put_stock_back || bail_out "cannot load the stock modules"
	loaded=stock
	stock_fails conntrack_tcp_reopen_rst.sh "^(client's RST|RST .*)$"
}

# What it stands on is still there: nf_defrag_ipv4 and nf_defrag_ipv6.
case_is patched_conntrack "patched conntrack: conntrack_tcp_reopen_rst.sh passes"
patched_conntrack()
{
	{ unload nf_conntrack && insmod "$IPVS/nf_conntrack.ko"; } || bail_out "cannot load $IPVS/nf_conntrack.ko"
	loaded=patched
	patched_passes conntrack_tcp_reopen_rst.sh
}

need_root
[ -n "${IPVS:-}" ] || skip_all "IPVS is not set: scripts/ipvs.sh patched"
[ -d "${KERNEL_TESTS:-}/net/netfilter" ] || skip_all "KERNEL_TESTS is not set: scripts/kernel-selftests.sh"
need_tools conntrack git ip ipvsadm nft nstat socat ss
need_modules ip_vs nf_conntrack nf_conntrack_netlink ip_vs_rr nft_ct veth bridge

[[ $(uname -r) =~ ^[0-9]+\.[0-9]+ ]]
series=("$here/../patches/${BASH_REMATCH[0]}"/000[1-9]-*.patch)
[ -e "${series[0]}" ] || skip_all "there are no patches for Linux $(uname -r)"

tmp=$(mktemp -d) loaded=
trap cleanup EXIT
mkdir -p "$tmp/tools/testing"
cp -r "$KERNEL_TESTS" "$tmp/tools/testing/selftests"
for patch in "${series[@]}"; do
	grep -q '^+++ b/tools/testing/selftests/' "$patch" || continue
	(cd "$tmp" && git apply --include='tools/testing/selftests/*' "$patch") || bail_out "$patch does not apply"
done
# Whichever IPVS is loaded.
put_stock_back || bail_out "cannot load the stock ip_vs"
loaded=stock

check_cases "$@"
