#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the tests' traffic program, selftests/harness, in the cache.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

build() {
	"$top/scripts/enter.sh" cargo build --locked --release \
		--manifest-path selftests/Cargo.toml -p harness
}

lock harness
step "$cache/log/harness.log" "building the traffic harness" build
