#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes the documentation of all Rust code, in the module and in user space, in build/docs. Warnings,
# such as a broken link or a crate without documentation, are errors.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

if [ "${1:-}" != --inside ]; then
	module=$("$top/scripts/build/module.sh")
	lock cargo
	fresh_target
	step "$cache/log/docs.log" "making the documentation of all Rust code" \
		"$top/scripts/root/enter.sh" scripts/build/docs.sh --inside "$module" /src/build/docs
	say "begin with build/docs/ip_vs_reuse/index.html"
	exit
fi
module=$2 to=$3

rm -rf "$to" "$CARGO_TARGET_DIR/doc"
mkdir -p "$(dirname "$to")"
RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --document-private-items --workspace
cp -r "$CARGO_TARGET_DIR/doc" "$to"

# Beside them, in the same index. What Kbuild has in its environment:
export IP_VS_REUSE_VERSION='' IP_VS_REUSE_BINDINGS=$module/rust/bindings
cd "$module"
rustdoc_of rust/ip_vs_reuse.o --output "$to" --document-private-items -Dwarnings

# What the kernel's documentation has as srctree/ is in its source.
find "$to" -name '*.html' -exec sed -i \
	's|href="srctree/|href="https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/|' {} +
