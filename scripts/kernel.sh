#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: kernel.sh [--without-rust]
#
# Puts Linux $KERNEL and its Rust kernel directory into the build root, and prints its release. With
# --without-rust: the packaged headers and the source of IPVS instead of the Rust kernel directory.
# KERNEL=debug is not a packaged kernel: debug-kernel.sh builds it.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

: "${KERNEL:?a release such as 7.3.4+deb13-cloud-amd64, or a series such as 7.3}"
[[ $KERNEL =~ ^[A-Za-z0-9.+~_-]+$ ]] || die "KERNEL='$KERNEL' is no kernel release, nor a series such as 7.3"

made_by=(rust-kernel-dir.sh rust-crates.sh)
directory=rust-linux-$KERNEL
space=4
what="making the kernel directory for Linux $KERNEL (two minutes)"
if [ "${1:-}" = --without-rust ]; then
	made_by=(kernel-headers.sh)
	directory=ipvs-linux-$KERNEL
	what="getting Linux $KERNEL, its headers and its IPVS (half a minute)"
elif [ "$KERNEL" = debug ]; then
	made_by=(debug-kernel.sh debug-kernel.config)
	space=12
	what="building the debug kernel (half an hour)"
fi

make_directory() { "$top/scripts/enter.sh" "scripts/${made_by[0]}" "$KERNEL"; }

made_from=$(cd "$top/scripts" && cat "${made_by[@]}" | sha256sum)
if [ "$(cat "$root/usr/src/$directory/.complete" 2>/dev/null)" != "$made_from" ]; then
	lock kernel
	need_space "$space"
	step "$cache/log/kernel.log" "$what" make_directory
fi
make_directory
