#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: check-kdir.sh
#
# Checks that the module can be built for KDIR, the directory that a kernel was built in: its source, or its
# O= directory. Prints the absolute path. Otherwise says in one line what is wrong and what to do about it.

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
: "${KDIR:?the directory that the kernel was built in}"
die() { printf '%s\n' "$KDIR: $*" >&2; exit 1; }

has() { grep -q "^CONFIG_$1$" "$KDIR/.config"; }
value() { sed -n "s/^CONFIG_$1=//p" "$KDIR/.config" | tr -d '"'; }

check_tree() {
	[[ $KDIR != *[[:space:]]* ]] || die "the kernel's build does not take a path with a space in it"
	[[ $top != *[[:space:]:]* ]] || die "the kernel's build does not take '$top', a path with a space or colon in it"
	[ -d "$KDIR" ] || die "no such directory"
	grep -qs '^KERNELRELEASE\|^include .*/Makefile$' "$KDIR/Makefile" || die "not a kernel tree"
	[ -e "$KDIR/.config" ] || die "not configured: make defconfig, and enable RUST, IP_VS and IP_VS_NFCT"
}

check_config() {
	local arch="another architecture" machine

	has 64BIT=y || die "a 32-bit kernel; the module supports 64-bit machines only"
	has RUST=y || die "built without CONFIG_RUST: 'make ${LLVM:+LLVM=$LLVM }rustavailable' there says what it needs"
	has 'IP_VS=[ym]' || die "built without CONFIG_IP_VS"
	has IP_VS_NFCT=y || die "built without CONFIG_IP_VS_NFCT: such a kernel has no lost first packets to mend"
	has CC_IS_GCC=y || [ -n "${LLVM:-}" ] || die "built by clang: add LLVM=1"
	has CC_IS_CLANG=y || [ -z "${LLVM:-}" ] || die "built by gcc: leave out LLVM"

	machine=$(uname -m)
	! has X86_64=y || arch=x86_64
	! has ARM64=y || arch=aarch64
	[ "$arch" = "$machine" ] || [ -n "${ARCH:-}" ] ||
		die "built for $arch, and this is $machine: add ARCH and CROSS_COMPILE (or LLVM=1)"
}

check_build() {
	local made_by have

	[[ -s $KDIR/include/config/kernel.release && -e $KDIR/Module.symvers ]] ||
		die "configured, but not built: make ${LLVM:+LLVM=$LLVM }-j$(nproc)"
	[ -e "$KDIR/rust/libkernel.rmeta" ] || die "its Rust crates are not built: make ${LLVM:+LLVM=$LLVM }prepare"
	made_by=$(value RUSTC_VERSION_TEXT)
	have=$("${RUSTC:-rustc}" --version 2>/dev/null) || die "no rustc in PATH; it was built by $made_by"
	[ "$have" = "$made_by" ] || die "built by $made_by, and this is $have: set RUSTC"
	command -v "${BINDGEN:-bindgen}" >/dev/null || die "no bindgen in PATH (cargo install bindgen-cli), or set BINDGEN"
}

KDIR=${KDIR/#\~\//$HOME/}	# make passes it on as it is
check_tree
KDIR=$(cd "$KDIR" && pwd)
check_config
check_build
echo "$KDIR"
