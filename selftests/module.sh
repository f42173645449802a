#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The module as a module: what it says of itself, and that it comes and goes without a trace.
#
# MODULE: the module to insert

# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"

[ -n "${MODULE:-}" ] || skip_all "MODULE is not set"
need_root
need_tools modinfo insmod rmmod
ktap_plan 4

# Loading prints what every unsigned module from outside the tree makes the kernel say, and
# IPVS's own lines.
expected='loading out-of-tree module taints kernel|module verification failed|IPVS: '

described() {
	local field
	for field in author description license version alias; do
		[ -n "$(modinfo -F $field "$MODULE")" ] || { echo "no $field"; return 1; }
	done
	[ "$(modinfo -F vermagic "$MODULE" | cut -d' ' -f1)" = "$(uname -r)" ] || echo "vermagic"
}

comes_and_goes() {
	local i
	modprobe ip_vs || return
	for i in {1..20}; do
		insmod "$MODULE" && rmmod ip_vs_reuse || { echo "failed at turn $i"; return 1; }
	done
}

leaves_nothing() {
	[ ! -e /proc/net/ip_vs_reuse ] || { echo "/proc/net/ip_vs_reuse is still there"; return 1; }
	[ ! -e /sys/kernel/tracing/events/ip_vs_reuse ] || { echo "its tracepoints are still there"; return 1; }
}

log_is_clean() {
	dmesg | tail -n "+$((log_start + 1))" | grep -vE "$expected" && return 1
	return 0
}

log_start=$(dmesg | wc -l)
for check in \
	"described:modinfo shows author, description, license, version, alias and this kernel's release" \
	"comes_and_goes:insmod and rmmod, twenty times" \
	"leaves_nothing:rmmod leaves no file and no tracepoint" \
	"log_is_clean:the kernel's log is clean"; do
	if said=$("${check%%:*}" 2>&1); then
		ktap_ok "module: ${check#*:}"
	else
		ktap_not_ok "module: ${check#*:}" "$said"
	fi
done
ktap_exit
