#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: debug-kernel.sh debug
#
# Builds a kernel that watches itself, from the source of the packaged Linux 7.3: KASAN, lockdep,
# kmemleak and what else debug-kernel.config says, with Debian's netfilter and IPVS. With clang:
# gcc's KASAN and Rust do not go together. Runs in the build root, and makes there what
# rust-kernel-dir.sh makes of a packaged kernel, under the same names: the module, another IPVS
# and the machine take it as they take any. Prints its release. Takes half an hour and 8 GB.

set -euo pipefail

exec {out}>&1 >&2		# all but the answer is a message
here=$(realpath "$(dirname "$0")")
self=$(cat "$here"/debug-kernel.{sh,config} | sha256sum)
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
		kernel/configs/{kvm_guest,debug}.config netfilter.config "$here/debug-kernel.config"
	make -s olddefconfig
	lost=$(grep CONFIG_ "$here/debug-kernel.config" | grep -vxF -f .config || true)
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
