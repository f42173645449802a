#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the kernel's own netfilter selftests from the source of Linux $KERNEL, in a cache directory
# that is named by a hash of what they are built from. Prints the path of that directory inside the
# build root. The source is not modified.
#
# The directory has what `make install`, which needs rsync, would put there: the scripts, the files that
# they source, and the programs that they call.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

# Of net/, whose Makefile builds a hundred programs, those of the tests about conntrack and NAT.
programs=(ip_defrag nettest)

release=$("$top/scripts/kernel/get-kernel.sh")
name=kernel-selftests-$release-$(key "$0" "$root/usr/src/rust-linux-$release/.complete")

build() {
	local selftests=/usr/src/rust-linux-$release/tools/testing/selftests
	local source=$selftests/net
	local to=/cache/$name.new/net

	rm -rf "$cache/$name.new"
	mkdir -p "$cache/$name.new/net/lib"
	cp "$root$source"/*.sh "$cache/$name.new/net/"
	cp -r "$root$source/lib/sh" "$cache/$name.new/net/lib/"
	cp -r "$root$source/netfilter" "$cache/$name.new/net/"
	install -D -m 644 -t "$cache/$name.new/kselftest" "$root$selftests/kselftest/ktap_helpers.sh"
	"$top/scripts/root/enter.sh" make -C "$source/netfilter" OUTPUT="$to/netfilter" all &&
		"$top/scripts/root/enter.sh" make -C "$source" OUTPUT="$to" "${programs[@]/#/$to/}"
}

[ -e "$cache/$name" ] || lock kernel-selftests
if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
	step "$cache/log/kernel-selftests.log" "building the kernel's own selftests of Linux $release" build
	mv "$cache/$name.new" "$cache/$name"
fi
echo "/cache/$name"
