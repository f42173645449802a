#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The module as a file: its modinfo, loading and unloading, what it prints, and what it leaves behind.
#
# MODULE: the module to insert
#
# One case: make case TEST=robustness/module.sh CASE=described

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

[ -n "${MODULE:-}" ] || skip_all "MODULE is not set"
need_root
need_tools modinfo insmod rmmod

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

note_log

case_is described "module: modinfo shows author, description, license, version, alias and this kernel"
described()
{
	local field

	for field in author description license version alias; do
		[ -n "$(modinfo -F "$field" "$MODULE")" ] || fault "no $field"
	done
	[[ $(modinfo -F vermagic "$MODULE") = "$(uname -r) "* ]] || fault "made for another kernel"
}

case_is comes_and_goes "module: insmod and rmmod, twenty times"
comes_and_goes()
{
	local i

	modprobe ip_vs
	for i in {1..20}; do
		insmod "$MODULE" || fault "insmod failed at turn $i"
		rmmod ip_vs_reuse || fault "rmmod failed at turn $i"
	done
}

case_is leaves_nothing "module: rmmod leaves no file and no tracepoint"
leaves_nothing()
{
	local file

	for file in /proc/net/ip_vs_reuse /sys/kernel/tracing/events/ip_vs_reuse; do
		[ ! -e "$file" ] || fault "$file is still there"
	done
}

# The module prints one line with its version when it is loaded. (IPVS itself prints one about p2c.)
case_is says_what_it_is "module: one line in the kernel's log when it is loaded"
says_what_it_is()
{
	local before said

	before=$(dmesg | wc -l)
	modprobe ip_vs
	insmod "$MODULE" && rmmod ip_vs_reuse
	said=$(dmesg | tail -n "+$((before + 1))" | grep -F 'ip_vs_reuse: ' |
		grep -vE 'out-of-tree|module verification')
	[[ $said = *"ip_vs_reuse: version $(modinfo -F version "$MODULE"): "* && $(wc -l <<<"$said") = 1 ]] ||
		fault "it said: $said"
}

case_is log_is_clean "module: no warning in the kernel's log"
log_is_clean()
{
	local said

	said=$(new_complaints)
	[ -z "$said" ] || fault "$said"
}

# make_foreign: writes $tmp/ip_vs_reuse.ko, for a kernel of another release; with MODVERSIONS, where only the
# checksums of symbols tell, for one of another layout of modules. Nothing else in the file changes. Sets `reason`
# to what the kernel says to it.
make_foreign()
{
	local release foreign crc

	if [[ $(modinfo -F vermagic "$MODULE") = *modversions* ]]; then
		crc=$(modprobe --dump-modversions "$MODULE" | awk '$2 == "module_layout" { print $1 }')
		python3 - "$MODULE" "$tmp/ip_vs_reuse.ko" "$crc" <<-'END' || fault "cannot make it foreign"
			import sys
			module, foreign, crc = sys.argv[1:]
			crc = int(crc, 0)
			data = open(module, "rb").read()
			open(foreign, "wb").write(data.replace(crc.to_bytes(4, "little"), (crc ^ 1).to_bytes(4, "little")))
		END
		reason="disagrees about version of symbol module_layout"
	else
		release=$(uname -r) foreign=9.${release#*.}
		sed "s/vermagic=$release /vermagic=$foreign /" "$MODULE" >"$tmp/ip_vs_reuse.ko"
		[[ $(modinfo -F vermagic "$tmp/ip_vs_reuse.ko") = "$foreign "* ]] || fault "cannot make it foreign"
		reason="version magic '$foreign "
	fi
}

case_is foreign_is_refused "module: a module for another kernel is refused and leaves nothing behind"
foreign_is_refused()
{
	local reason status=0

	make_foreign
	insmod "$tmp/ip_vs_reuse.ko" 2>"$tmp/said" || status=$?
	((status)) || { fault "it is loaded"; rmmod ip_vs_reuse; }
	[[ $(cat "$tmp/said") = *"Invalid module format"* ]] || fault "insmod: $(cat "$tmp/said")"
	[[ $(new_complaints) = *"$reason"* ]] || fault "the kernel does not say why"
	[ ! -e /sys/module/ip_vs_reuse ] || fault "it left something behind"
	leaves_nothing
}

check_cases "$@"
