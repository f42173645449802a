#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The module as a module: what it says of itself, and that it comes and goes without a trace.
#
# MODULE: the module to insert

# shellcheck disable=SC2317 # checks are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"

[ -n "${MODULE:-}" ] || skip_all "MODULE is not set"
need_root
need_tools modinfo insmod rmmod

# What every unsigned module from outside the tree makes the kernel say, and IPVS's own lines.
expected='loading out-of-tree module taints kernel|module verification failed|IPVS: '
complaints() { dmesg --level=warn,err,crit,alert,emerg; }
log_start=$(complaints | wc -l)

described()
{
	local field

	for field in author description license version alias; do
		[ -n "$(modinfo -F "$field" "$MODULE")" ] || echo "no $field"
	done
	[[ $(modinfo -F vermagic "$MODULE") = "$(uname -r) "* ]] || echo "made for another kernel"
}

comes_and_goes()
{
	local i

	modprobe ip_vs
	for i in {1..20}; do
		insmod "$MODULE" || echo "insmod failed at turn $i"
		rmmod ip_vs_reuse || echo "rmmod failed at turn $i"
	done
}

leaves_nothing()
{
	local file

	for file in /proc/net/ip_vs_reuse /sys/kernel/tracing/events/ip_vs_reuse; do
		[ ! -e "$file" ] || echo "$file is still there"
	done
}

log_is_clean() { complaints | tail -n "+$((log_start + 1))" | grep -vE "$expected"; }

# check NAME WHAT: a check is passed if it says nothing.
check()
{
	local said

	said=$($1 2>&1)
	if [ -z "$said" ]; then
		ktap_ok "module: $2"
	else
		ktap_not_ok "module: $2" "$said"
	fi
}

ktap_plan 4
check described "modinfo shows author, description, license, version, alias and this kernel"
check comes_and_goes "insmod and rmmod, twenty times"
check leaves_nothing "rmmod leaves no file and no tracepoint"
check log_is_clean "nothing else to complain about in the kernel's log"
ktap_exit
