#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: harness.sh [--here]
#
# Builds the tests' traffic program, selftests/harness, and ipvs-watch, in a cache directory that is
# named by a hash of their sources, for $ARCH. Prints the path of that directory inside the build root. With
# --here it leaves a copy of ipvs-watch in build/.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

mapfile -t sources < <(find "$top"/{Cargo.toml,Cargo.lock,Kbuild,ipvs-watch,rust/policy.rs,selftests/harness} \
	-type f | sort)
name=harness-$arch-$suite-$(key "${sources[@]}")

target=
linker=()
if [ -n "$cross" ]; then
	target=$machine-unknown-linux-gnu
	prefix=CARGO_TARGET_${target^^}
	linker=("${prefix//-/_}_LINKER=${cross}gcc" "PKG_CONFIG=${cross}pkg-config")
fi

cargo() {
	"$top/scripts/root/enter.sh" env "${linker[@]}" cargo "$1" --locked --release ${target:+--target "$target"} "${@:2}"
}

build() {
	fresh_target
	cargo build -p harness
	# Static, for machines of any age.
	cargo rustc -p ipvs-watch -- -C target-feature=+crt-static
}

[ -e "$cache/$name" ] || lock cargo
if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
	step "$cache/log/harness.log" "building the traffic harness and ipvs-watch" build
	rm -rf "$cache/$name.new"
	mkdir "$cache/$name.new"
	cp "$cache/target/$target"/release/{harness,ipvs-watch} "$cache/$name.new/"
	mv "$cache/$name.new" "$cache/$name"
fi
if [ "${1:-}" = --here ]; then
	mkdir -p "$top/build"
	cp "$cache/$name/ipvs-watch" "$top/build/"
	say "ipvs-watch is in build/: modprobe ip_vs; build/ipvs-watch (as root; it needs no library)"
fi
echo "/cache/$name"
