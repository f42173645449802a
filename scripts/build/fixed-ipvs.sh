#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# For a Linux $KERNEL without Rust: builds ip_vs.ko with patches/SERIES/nf against the packaged headers.
# Tests in a virtual machine with that kernel that the stock IPVS has the fault and the new one does not
# (selftests/fixed_ipvs.sh). Leaves ip_vs.ko in the checkout.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel/get-kernel.sh" --without-rust)
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
	cd "$top"
	patches=("patches/$series"/nf/000[1-9]-*.patch)
	name=ipvs-patched-$release-$(key "$0" "${patches[@]}" "$root/usr/src/ipvs-linux-$release/.complete")

	[ -e "$cache/$name" ] || lock ipvs
	if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
		rm -rf "$cache/$name.new"
		mkdir "$cache/$name.new"
		step "$cache/log/ipvs.log" "building IPVS for Linux $release, patched" \
			"$top/scripts/root/enter.sh" scripts/build/fixed-ipvs.sh --inside "$release" "/cache/$name.new" "${patches[@]}"
		mv "$cache/$name.new" "$cache/$name"
	fi

	programs=$("$top/scripts/build/harness.sh")
	HARNESS=$programs/harness WATCH=$programs/ipvs-watch IPVS=/cache/$name
	VM_ENV="HARNESS WATCH IPVS"
	export HARNESS WATCH IPVS VM_ENV
	say "booting Linux $release: the stock IPVS first, then the patched one (three minutes)"
	"$top/scripts/vm/boot.sh" "$release" selftests/fixed_ipvs.sh
	cp "$cache/$name/ip_vs.ko" "$top/"
	say "ip_vs.ko for Linux $release is here: docs/install.md says where it goes"
	exit
fi
shift

release=$1 to=$2
shift 2
patches=("${@/#//src/}")
headers=/usr/src/linux-headers-$release

kernel_view "/usr/src/ipvs-linux-$release" "${patches[@]}"
cd /tmp/kernel
git am "${patches[@]}"
make -C "$headers" -j"$(nproc)" M="$PWD/net/netfilter/ipvs" modules

/src/scripts/build/same-exports.sh "$headers" net/netfilter/ipvs
cp net/netfilter/ipvs/ip_vs.ko "$to/"
