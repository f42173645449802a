#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the kernel selftests that the series nf in patches/ adds. On the stock kernel exactly those cases must
# fail that the series fixes; after each of its steps, those that the next ones fix; with the patched IPVS or
# conntrack none.
#
# KERNEL_TESTS: what scripts/build/kernel-selftests.sh has made
# IPVS:         what scripts/build/ipvs-variant.sh has made, patched
#
# Alone: IPVS=patched VM_ENV=KERNEL_TESTS KERNEL_TESTS=$(scripts/build/kernel-selftests.sh) \
#        make case TEST=interop/series_tests.sh

# shellcheck source=selftests/lib/kselftests.sh
. "$(dirname "$0")/../lib/kselftests.sh"

case_is stock_ipvs "stock: ipvs_conn_reuse.sh fails for what the series mends, and for nothing else"
stock_ipvs()
{
	only_passes ipvs_conn_reuse.sh "^IPv[46], (FIN|server's RST, conn_reuse_mode=0)$"
	grep -q '^#.* SYN retransmitted' "$tmp/output" || fault "no SYN was lost"
}

load_ipvs()
{
	{ unload ip_vs && insmod "$1/ip_vs.ko"; } || bail_out "cannot load $1/ip_vs.ko"
	loaded=patched
}

case_is step_closed "the first step: ipvs_conn_reuse.sh fails for connections that are still open, and for UDP"
step_closed()
{
	load_ipvs "$IPVS/nf-0003"
	only_passes ipvs_conn_reuse.sh "^IPv[46], (FIN|server's RST|direct routing)"
}

case_is step_drained "the second step: ipvs_conn_reuse.sh fails for deleted servers"
step_drained()
{
	load_ipvs "$IPVS/nf-0005"
	only_passes ipvs_conn_reuse.sh "^IPv[46], (FIN|server's RST|direct routing|still open, server drained)"
}

case_is patched_ipvs "patched: ipvs_conn_reuse.sh passes"
patched_ipvs()
{
	load_ipvs "$IPVS"
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
	only_passes conntrack_tcp_reopen_rst.sh "^(client's RST|RST .*)$"
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
need_tools conntrack nstat
need_modules nf_conntrack_netlink bridge
kselftests_of patched /nf

check_cases "$@"
