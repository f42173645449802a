#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the tests' traffic program, selftests/harness, in the cache, under the name of what it
# is made from, and prints where it is, as it is called in the build root.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

mapfile -t sources < <(find "$top/selftests/Cargo.toml" "$top/selftests/Cargo.lock" "$top/selftests/harness" -type f | sort)
name=harness-$(key "${sources[@]}")

build() {
	fresh_target
	"$top/scripts/enter.sh" cargo build --locked --release \
		--manifest-path selftests/Cargo.toml -p harness
}

[ -e "$cache/$name" ] || lock cargo
if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
	step "$cache/log/harness.log" "building the traffic harness" build
	cp "$cache/target/release/harness" "$cache/$name.new"
	mv "$cache/$name.new" "$cache/$name"
fi
echo "/cache/$name"
