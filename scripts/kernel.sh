#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Puts Linux $KERNEL and its Rust kernel directory into the build root, and prints its release.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

: "${KERNEL:?a release such as 7.3.4+deb13-cloud-amd64, or a series such as 7.3}"
[[ $KERNEL =~ ^[A-Za-z0-9.+~_-]+$ ]] || die "KERNEL='$KERNEL' is no kernel release, nor a series such as 7.3"

make_directory() { "$top/scripts/enter.sh" scripts/rust-kernel-dir.sh "$KERNEL"; }

if [ "$(cat "$root/usr/src/rust-linux-$KERNEL/.complete" 2>/dev/null)" != \
	"$(sha256sum <"$top/scripts/rust-kernel-dir.sh")" ]; then
	lock kernel
	need_space 4
	step "$cache/log/kernel.log" "making the kernel directory for Linux $KERNEL (two minutes)" make_directory
fi
make_directory
