#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests what `make module KDIR=...` and `make check KDIR=...` say of a kernel tree that cannot be used: one line,
# before anything is built. The trees are directories with just the files that are looked at.

set -euo pipefail

checks=$(cd "$(dirname "$0")" && pwd)
build=$checks/../build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/linux
export KDIR=$tree HOME=$work PATH=$work/bin:$PATH
unset ARCH BINDGEN LLVM RUSTC

program() { printf '#!/bin/sh\n%s\n' "$2" >"$work/bin/$1"; chmod +x "$work/bin/$1"; }

# fresh: a tree, and compilers, with which nothing is wrong.
fresh() {
	rm -rf "${work:?}"/*
	mkdir -p "$work/bin" "$tree"/{include/config,rust,arch/x86/boot}
	program uname 'echo x86_64'
	program rustc 'echo "rustc 1.85.1"'
	program bindgen ''
	echo 'KERNELRELEASE = 7.3.0' >"$tree/Makefile"
	echo 7.3.0 >"$tree/include/config/kernel.release"
	touch "$tree"/{Module.symvers,modules.order,rust/libkernel.rmeta,arch/x86/boot/bzImage}
	printf 'CONFIG_%s\n' 64BIT=y X86_64=y CC_IS_GCC=y RUST=y IP_VS=m IP_VS_NFCT=y \
		'RUSTC_VERSION_TEXT="rustc 1.85.1"' >"$tree/.config"
}
without() { sed -i "/^CONFIG_$1=/d" "$tree/.config"; }

failed=0
# says WHAT MESSAGE COMMAND...: whether COMMAND fails and prints MESSAGE, a pattern, and no other line.
says() {
	local said status=0
	said=$("${@:3}" 2>&1) || status=$?
	# shellcheck disable=SC2053 # a pattern
	if ((status)) && [[ $said = $2 && $said != *$'\n'* ]]; then
		echo "ok - KDIR: $1"
	else
		echo "not ok - KDIR: $1"
		echo "# status $status, said: ${said//$'\n'/$'\n'# }"
		failed=1
	fi
	fresh
}
refuses() { says "$1" "*: $2" "$build/check-kdir.sh"; }

# takes WHAT: whether the tree is taken, whatever its path looks like.
takes() {
	local said
	said=$(cd "$work" && "$build/check-kdir.sh" 2>&1) || true
	if [ "$said" = "$tree" ]; then
		echo "ok - KDIR: $1"
	else
		echo "not ok - KDIR: $1"
		echo "# said: $said"
		failed=1
	fi
	fresh
}

fresh
takes "a tree with which nothing is wrong"
KDIR=linux takes "a relative path"
# shellcheck disable=SC2088 # that is the point
KDIR='~/linux' takes "a path below the home directory that no shell has expanded"

KDIR=$work/none refuses "no directory" "no such directory"
KDIR=$work/bin refuses "no kernel tree" "not a kernel tree"
mkdir "$work/a b"; KDIR="$work/a b" refuses "a space in its path" "the kernel's build does not take a path with a space in it"
mkdir -p "$work/a b/scripts/build"; cp "$build/check-kdir.sh" "$work/a b/scripts/build/"
says "a space in the path of the checkout" "*: the kernel's build does not take '$work/a b', *" \
	"$work/a b/scripts/build/check-kdir.sh"
rm "$tree/.config"; refuses "not configured" "not configured: make *"
without 64BIT; refuses "32 bits" "a 32-bit kernel*"
without RUST; refuses "no Rust" "built without CONFIG_RUST: *rustavailable*"
without IP_VS; refuses "no IPVS" "built without CONFIG_IP_VS"
without IP_VS_NFCT; refuses "IPVS without conntrack" "built without CONFIG_IP_VS_NFCT: *"
LLVM=1 refuses "LLVM=1, and it was built by gcc" "built by gcc: leave out LLVM"
sed -i s/CC_IS_GCC/CC_IS_CLANG/ "$tree/.config"; refuses "built by clang" "built by clang: add LLVM=1"
program uname 'echo aarch64'; refuses "another architecture" "built for x86_64, and this is aarch64: add ARCH*"
rm "$tree/Module.symvers"; refuses "configured, but not built" "configured, but not built: make *"
rm "$tree/rust/libkernel.rmeta"; refuses "no crates" "its Rust crates are not built: make prepare"
program rustc 'echo "rustc 1.90.0"'; refuses "another rustc" "built by rustc 1.85.1, and this is rustc 1.90.0: *"
program rustc 'exit 1'; refuses "no rustc" "no rustc in PATH; it was built by rustc 1.85.1"
BINDGEN=none refuses "no bindgen" "no bindgen in PATH *"

rm "$tree/arch/x86/boot/bzImage"; says "nothing to boot" "*has no arch/x86/boot/bzImage: make *" "$checks/kdir.sh"
ARCH=arm64 says "to be booted on another architecture" "*ARCH=arm64: only a kernel of this machine's own *" "$checks/kdir.sh"
ARCH=sparc64 says "an unknown ARCH" "*ARCH=sparc64 is not supported: *" "$checks/kdir.sh"
rm "$tree/modules.order"; says "no modules" "*has no modules: make modules there" "$checks/kdir.sh"

# A machine with nothing but a shell, and a kernel with nothing that the tests need.
mkdir "$work/few"
for tool in bash cat cut dirname grep nproc sed sha256sum tr; do
	ln -s "$(command -v $tool)" "$work/few/"
done
# names WHAT LINE: whether LINE, a pattern, is among what is said then, and nothing is built.
names() {
	if grep -q "^kdir.sh: $2\$" <<<"$said" && [[ $said != *building* ]]; then
		echo "ok - KDIR: $1"
	else
		echo "not ok - KDIR: $1"
		echo "# said: ${said//$'\n'/$'\n'# }"
		failed=1
	fi
}
said=$(PATH=$work/bin:$work/few "$checks/kdir.sh" 2>&1) || true
names "a tool is missing" 'missing: vng (Debian: virtme-ng)'
names "what to install" 'install what is missing: sudo apt install cargo .*virtme-ng.*'
names "an option is missing" '.* lacks what some tests need: .*CONFIG_IP_VS_RR .*merge_config.sh -m .config .*/selftests/config .*'
exit $failed
