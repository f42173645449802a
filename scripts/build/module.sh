#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: module.sh [--here]
#
# Builds ip_vs_reuse.ko and the test modules for Linux $KERNEL, in a cache directory that is named by
# a hash of their sources. Prints the path of that directory inside the build root. With --here it
# leaves a copy of the module in the checkout.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

release=$("$top/scripts/kernel/get-kernel.sh")
mapfile -t sources < <(find "$top/Kbuild" "$top/rust" "$top/selftests/modules" -type f | sort)
name=module-$release-$(key "${sources[@]}" "$root/usr/src/rust-linux-$release/.complete")

[ -e "$cache/$name" ] || lock module
if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
	rm -rf "$cache/$name.new"
	mkdir -p "$cache/$name.new"
	step "$cache/log/module.log" "building ip_vs_reuse.ko for Linux $release" \
		"$top/scripts/root/enter.sh" make -C "/usr/src/rust-linux-$release" M=/src \
		MO="/cache/$name.new" IP_VS_REUSE_SELFTESTS=m ${V:+V=1} modules
	mv "$cache/$name.new" "$cache/$name"
fi
if [ "${1:-}" = --here ]; then
	cp "$cache/$name/ip_vs_reuse.ko" "$top/"
	say "ip_vs_reuse.ko for Linux $release is here: modprobe ip_vs; insmod ip_vs_reuse.ko"
fi
echo "/cache/$name"
