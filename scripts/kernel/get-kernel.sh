#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: get-kernel.sh [--without-rust | --if-there]
#
# Puts Linux $KERNEL for $ARCH and its Rust kernel directory into the build root, and prints its release. With
# --without-rust: the packaged headers and the source of IPVS instead of the Rust kernel directory. With
# --if-there: fails if the cache does not have it. KERNEL=debug is not a packaged kernel: debug-kernel.sh
# builds it.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

: "${KERNEL:?a release such as 7.3.4+deb13-cloud-amd64, or a series such as 7.3}"
[[ $KERNEL =~ ^[A-Za-z0-9.+~_-]+$ ]] || die "KERNEL='$KERNEL' is no kernel release, nor a series such as 7.3"
if [[ $KERNEL =~ -(amd64|arm64)$ && ${BASH_REMATCH[1]} != "$arch" ]]; then
	die "KERNEL=$KERNEL is of another architecture: set ARCH=${BASH_REMATCH[1]}"
elif [ -n "$cross" ]; then
	[[ ${1:-} != --without-rust && $KERNEL != debug ]] || die "that is not for ARCH=$arch: only for this machine's own"
	KERNEL+=:$arch
fi

made_by=(rust-kernel-dir.sh rust-crates.sh)
directory=rust-linux-$KERNEL
space=4
what="making the kernel directory for Linux $KERNEL (two minutes)"
if [ "${1:-}" = --without-rust ]; then
	made_by=(kernel-without-rust.sh)
	directory=ipvs-linux-$KERNEL
	what="getting Linux $KERNEL, its headers and its IPVS (half a minute)"
elif [ "$KERNEL" = debug ]; then
	made_by=(debug-kernel.sh ../../selftests/config debug-kernel.config)
	space=12
	what="building the debug kernel (half an hour)"
fi

make_directory() { "$top/scripts/root/enter.sh" "scripts/kernel/${made_by[0]}" "$KERNEL"; }

made_from=$(cd "$top/scripts/kernel" && cat "${made_by[@]}" | sha256sum)
if [ "$(cat "$root/usr/src/$directory/.complete" 2>/dev/null)" != "$made_from" ]; then
	[ "${1:-}" != --if-there ] || exit 1
	if [ "$KERNEL" = debug ]; then
		KERNEL=7.3 "$0" >/dev/null	# of whose source it is built
		lock "debug-kernel-$suite"
	else
		lock "kernel-$suite"
	fi
	need_space "$space"
	step "$cache/log/kernel.log" "$what" make_directory
fi
make_directory
