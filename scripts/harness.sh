#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: harness.sh [--here]
#
# Builds the tests' traffic program, selftests/harness, and ipvs-watch, in a cache directory that is
# named by a hash of their sources. Prints the path of that directory inside the build root. With
# --here it leaves a copy of ipvs-watch in build/.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

mapfile -t sources < <(find "$top"/{Cargo.toml,Cargo.lock,ipvs-watch,rust/policy.rs,selftests/harness} \
	-type f | sort)
name=harness-$(key "${sources[@]}")

build() {
	fresh_target
	"$top/scripts/enter.sh" cargo build --locked --release -p harness -p ipvs-watch
}

[ -e "$cache/$name" ] || lock cargo
if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
	step "$cache/log/harness.log" "building the traffic harness and ipvs-watch" build
	rm -rf "$cache/$name.new"
	mkdir "$cache/$name.new"
	cp "$cache/target/release/harness" "$cache/target/release/ipvs-watch" "$cache/$name.new/"
	mv "$cache/$name.new" "$cache/$name"
fi
if [ "${1:-}" = --here ]; then
	mkdir -p "$top/build"
	cp "$cache/$name/ipvs-watch" "$top/build/"
	say "ipvs-watch is in build/: modprobe ip_vs; build/ipvs-watch (as root; it needs libelf1 and zlib1g)"
fi
echo "/cache/$name"
