#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: examples.sh DIRECTORY
#
# Compiles the examples in the documentation of the abstractions, with the flags that rs_rr.rs was built
# with in DIRECTORY. Those of one file are one module, so that a later one can use the types of an
# earlier one. Runs in the build root.

set -euo pipefail

directory=$1
crate=$directory/examples.rs
cat >"$crate" <<'END'
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]
use kernel::prelude::*;

module! {
	type: Examples,
	name: "examples",
	authors: ["The ipvs-reuse authors"],
	description: "The examples of the documentation",
	license: "GPL",
}

struct Examples;

impl kernel::Module for Examples {
	fn init(_: &'static ThisModule) -> Result<Self> {
		Ok(Self)
	}
}
END
for name in base bindings ipvs net netfilter; do
	printf '#[path = "%s/rust/%s/mod.rs"]\npub mod %s;\n' "$PWD" $name $name
done >>"$crate"

for file in rust/{base,ipvs,net,netfilter}/*.rs; do
	grep -q '^/// ```' "$file" || continue
	# Only a patched IPVS has what these are about.
	[ "$file" != rust/ipvs/flow_ops.rs ] || continue
	name=${file#rust/}
	name=${name%.rs}
	echo "mod ${name/\//_} {"
	echo "use crate::{base::*, ipvs::*, net::*, netfilter::*};"
	echo "use kernel::{prelude::*, sync::{aref::ARef, rcu::Guard}};"
	awk '/^\/\/\/ ```/ { inside = !inside; next } inside { sub(/^\/\/\/ ?(# )?/, ""); print }' "$file"
	echo "}"
done >>"$crate"

object=$directory/selftests/modules/.rs_rr.o.cmd
command=$(sed -n "1 { s/^[^=]*:= //; s/ ; .*//; s/--emit=[^ ]*//g; s/--out-dir [^ ]*//; s/--crate-name [^ ]*//; s|[^ ]*/rs_rr.rs|$crate|; p }" "$object")
cd "$(sed -n '1 s/.*OBJTREE=\([^ ]*\).*/\1/p' "$object")"
# IP_VS_REUSE_BINDINGS is in the environment of the kernel's build.
RUSTC_BOOTSTRAP=1 IP_VS_REUSE_BINDINGS=$directory/rust/bindings eval "$command --crate-name examples --emit=metadata --out-dir $directory/selftests -Dwarnings"
