# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by the benchmarks: the IPVS variants that they compare, and how they print results.
# Sourced, not run, in place of lib.sh. A result is a line of JSON on standard output; all
# other lines begin with '#'.
#
# The columns, each with its own IPVS, or none:
#
#   none      routed straight to one real server: the limit
#   unique    stock IPVS, and no port is used twice: the ideal
#   mode0     stock, conn_reuse_mode=0: as Kubernetes had it
#   legacy    as it was from 4.6 to 5.8
#   tencent   as TencentOS has it
#   stock     stock
#   module    stock, and the module
#   patched   with the series in patches/
#
# MODULE: the module
# LEGACY, TENCENT, PATCHED: directories with such an ip_vs.ko; a column without one is left out
# VARIANTS: which ones (default: all that there are)
# ROUNDS:  how often each is measured, in turn (3)
# SECONDS_EACH: how long each time (3)

# shellcheck disable=SC2034 # used by the scripts that source this

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

become_director "$@"
need_tools conntrack ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr nf_conntrack nft_ct nft_masq veth
need_harness
[ -n "${MODULE:-}" ] || skip_all "needs MODULE, the module"

rounds=${ROUNDS:-3}
seconds=${SECONDS_EACH:-3}
vip=10.9.0.1

# columns [WITHOUT...]: sets `columns` to those that can be measured.
choose_columns()
{
	local column

	columns=()
	for column in ${VARIANTS:-none unique mode0 legacy tencent stock module patched}; do
		case " $* " in *" $column "*) continue ;; esac
		case $column in
		legacy) [ -n "${LEGACY:-}" ] || column= ;;
		tencent) [ -n "${TENCENT:-}" ] || column= ;;
		patched) [ -n "${PATCHED:-}" ] || column= ;;
		esac
		[ -z "$column" ] || columns+=("$column")
	done
	echo "# columns: ${columns[*]}"
}

unload_ipvs()
{
	local try

	ipvsadm -C 2>/dev/null
	rmmod ip_vs_reuse 2>/dev/null
	for try in {1..60}; do
		[ -e /sys/module/ip_vs ] || return 0
		# shellcheck disable=SC2046 # a list
		rmmod $(cd /sys/module && ls -d ip_vs_* 2>/dev/null) ip_vs 2>/dev/null || sleep 0.1
	done
	bail_out "ip_vs cannot be unloaded after $try tries"
}

# use_column COLUMN: loads its IPVS, afresh: it knows no flow, nor does conntrack.
use_column()
{
	local directory=

	unload_ipvs
	conntrack -F >/dev/null 2>&1
	[ "$1" != none ] || return 0
	case $1 in
	legacy) directory=$LEGACY ;;
	tencent) directory=$TENCENT ;;
	patched) directory=$PATCHED ;;
	esac
	load_ipvs "$directory" || bail_out "cannot load ip_vs, $1"
	[ "$1" != module ] || load_module || bail_out "cannot load $MODULE"
	sysctl_set ipv4/vs/conntrack 1
	sysctl_set ipv4/vs/expire_nodest_conn 1
	keep_table_small
	if [ "$1" = mode0 ]; then
		sysctl_set ipv4/vs/conn_reuse_mode 0
	else
		sysctl_set ipv4/vs/conn_reuse_mode 1
	fi
}

# tell JSON_MEMBERS RESULT: a result, RESULT being JSON.
tell() { printf '{%s,"result":%s}\n' "$1" "$2"; }

# kube_proxy_rules SERVICE: what kube-proxy's ipvs mode does for a client from outside, in nft:
# a mark in front of IPVS, masquerading behind it, a reject of new connections to no service.
kube_proxy_rules()
{
	nft -f - <<-END || bail_out "cannot load kube-proxy's rules"
		table ip kube {
			set cluster {
				type ipv4_addr . inet_service
				elements = { ${1/:/ . } }
			}
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip saddr != 10.2.0.0/16 ip daddr . tcp dport @cluster meta mark set meta mark or 0x4000
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				meta mark and 0x4000 == 0 return
				meta mark set meta mark xor 0x4000
				masquerade fully-random
			}
			chain input {
				type filter hook input priority filter
				ip daddr . tcp dport @cluster accept
				ct state new ip daddr ${1%:*} reject
			}
		}
	END
}
