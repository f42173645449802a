# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Runs the kernel selftests that patches/ adds: extracts them from their patches, puts them among the
# kernel's own, and runs only them, on the stock kernel and with what the patches change in its place.
# Sourced, not run.

# shellcheck source=selftests/lib/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# kselftests_of VARIANT SUFFIX: prepares `tmp` with the selftests of patches/SERIES SUFFIX. Loads the stock
# modules. IPVS must be what scripts/build/ipvs-variant.sh makes of VARIANT.
kselftests_of()
{
	local patch patches

	[ -n "${IPVS:-}" ] || skip_all "IPVS is not set: scripts/build/ipvs-variant.sh $1"
	[ -d "${KERNEL_TESTS:-}/net/netfilter" ] || skip_all "KERNEL_TESTS is not set: scripts/build/kernel-selftests.sh"
	need_tools git ip ipvsadm nft socat ss
	need_modules ip_vs nf_conntrack ip_vs_rr nft_ct veth
	[[ $(uname -r) =~ ^[0-9]+\.[0-9]+ ]]
	patches=("$here/../patches/${BASH_REMATCH[0]}$2"/000[1-9]-*.patch)
	[ -e "${patches[0]}" ] || skip_all "there are no patches for Linux $(uname -r)"

	tmp=$(mktemp -d) loaded=
	trap cleanup EXIT
	mkdir -p "$tmp/tools/testing"
	cp -r "$KERNEL_TESTS" "$tmp/tools/testing/selftests"
	for patch in "${patches[@]}"; do
		grep -q '^+++ b/tools/testing/selftests/' "$patch" || continue
		(cd "$tmp" && git apply --include='tools/testing/selftests/*' "$patch") || bail_out "$patch does not apply"
	done
	# Whichever IPVS is loaded.
	put_stock_back || bail_out "cannot load the stock ip_vs"
	loaded=stock
}

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

	(cd "$tmp/tools/testing/selftests/net/netfilter" && timeout 900 "./$1") >"$tmp/output" 2>&1 </dev/null
	status=$?
	((status == $2)) || fault "it ended with $status:" "$(tail -n 20 "$tmp/output")"
	mapfile -t passed < <(sed -n 's/^ok [0-9]* //p' "$tmp/output")
	mapfile -t failed < <(sed -n 's/^not ok [0-9]* //p' "$tmp/output")
	outcome="${#passed[@]} pass, ${#failed[@]} fail"
}

# only_passes TEST CASES [CHANCE]: the cases that match CASES pass, those that match CHANCE may, and no
# others.
only_passes()
{
	local case

	# What is lost for good is waited for.
	WAIT_TIMEOUT=10 run "$1" 1
	for case in "${passed[@]}"; do
		[[ $case =~ $2 || $case =~ ${3:-$2} ]] || fault "passes, with nothing to mend it: $case"
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
	((${#failed[@]} == 0)) || fault "$(grep '^#' "$tmp/output")"
	((${#passed[@]} == count)) || fault "there were $count on the stock kernel"
}
