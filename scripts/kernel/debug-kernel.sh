#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: debug-kernel.sh debug
#
# Builds a debug kernel from the source of the packaged Linux 7.3: KASAN, lockdep, kmemleak and the rest of
# debug-kernel.config, with what the tests need (selftests/config) and Debian's netfilter and IPVS. It uses
# clang, because gcc's KASAN does not work with Rust. Runs in the build root, and installs the kernel under
# the paths that rust-kernel-dir.sh uses, so that other scripts need no special case. Prints its release.
# Takes half an hour and 8 GB.

set -euo pipefail

exec {out}>&1 >&2		# all but the answer is a message
here=$(realpath "$(dirname "$0")")
configs=("$here"/{../../selftests/config,debug-kernel.config})
self=$(cat "$here/debug-kernel.sh" "${configs[@]}" | sha256sum)
source=/usr/src/rust-linux-$("$here/rust-kernel-dir.sh" 7.3)
version=$(make -s -C "$source" kernelversion)
release=$version-debug
dir=/usr/src/rust-linux-$release

if [ "$(cat "$dir/.complete" 2>/dev/null)" != "$self" ]; then
	rm -rf "$dir" "/usr/lib/modules/$release"
	cp -a "$source" "$dir"
	cd "$dir"
	rm .complete .kernelvariables
	make -s mrproper

	# Read in place of Makefile, here and where a module is built for this kernel.
	printf '%s\n' 'export LLVM := 1' 'include Makefile' >GNUmakefile

	grep -E '^CONFIG_(BRIDGE|IP_NF|IP_SET|IP_VS|IP6_NF|NETFILTER|NF|NFT)[_=]' "$source/.config" >netfilter.config
	scripts/kconfig/merge_config.sh -m -Q arch/x86/configs/x86_64_defconfig \
		kernel/configs/{kvm_guest,debug}.config netfilter.config "${configs[@]}"
	make -s olddefconfig
	lost=$(grep -h CONFIG_ "${configs[@]}" | grep -vxF -f .config || true)
	[ -z "$lost" ] || { echo "the configuration did not survive: $lost"; exit 1; }

	make -s -j"$(nproc)"
	make -s INSTALL_MOD_STRIP=1 modules_install
	cp "$(make -s image_name)" "/usr/lib/modules/$release/vmlinuz"
	cp System.map "/usr/lib/modules/$release/"
	ln -sf "/usr/lib/modules/$release/vmlinuz" "/boot/vmlinuz-$release"	# where virtme-ng looks
	echo "$self" >.complete
fi
ln -sfn "rust-linux-$release" /usr/src/rust-linux-debug
echo "$release" >&"$out"
