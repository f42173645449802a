#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: module-for-kdir.sh
#
# Builds ip_vs_reuse.ko for a kernel tree of your own, KDIR, and leaves it in build/. It uses this
# machine's compilers, and passes LLVM=1, ARCH, CROSS_COMPILE, RUSTC and so on to the kernel's build. It
# writes nothing into KDIR, downloads nothing, and needs no build root.
#
# KDIR: the directory that the kernel was built in: the source, or the O= directory
# IP_VS_REUSE_SELFTESTS: if m, builds the modules of the tests, too

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KDIR=$("$top/scripts/build/check-kdir.sh")
grep -q '^CONFIG_DEBUG_INFO_BTF_MODULES=y' "$KDIR/.config" ||
	echo "$KDIR: no BTF of modules: ipvs-watch cannot be used, and the tests do without it" >&2

# Nothing of another kernel, nor of a build that fails.
rm -rf "$top"/build/{module,*.ko}
mkdir -p "$top/build/module"
make -C "$KDIR" M="$top" MO="$top/build/module" ${V:+V=$V} modules
cp "$top"/build/module/*.ko "$top/build/"
echo "build/ip_vs_reuse.ko for Linux $(cat "$KDIR/include/config/kernel.release"): modprobe ip_vs; insmod build/ip_vs_reuse.ko"
