#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# For another architecture than this machine's ($ARCH): adds compilers, libraries and an emulator to the build
# root, and makes a root for the virtual machine, with the packages of guest.packages, in the cache. Does nothing
# where they are there already, nor for this machine's own architecture.
#
# Nothing of that architecture runs here, so the guest's packages are only unpacked. What their scripts would do
# the build root's have done, because it has the same packages: /etc and the links of alternatives are its.

# usage: cross.sh [GOAL...]
#
# GOAL: a goal of make that is for this machine's own architecture only

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

added=$root/.${guest##*/}	# whether the build root has its part

# shellcheck disable=SC2016 # for the shell there
add_to_buildroot() {
	local qemu=qemu-system-$arch

	qemu=${qemu/amd64/x86}
	"$top/scripts/root/enter.sh" env DEBIAN_FRONTEND=noninteractive sh -ec '
		dpkg --add-architecture "$0"
		apt-get update -q
		apt-get install -q -y --no-install-recommends "$@"
		apt-get clean' "$arch" {gcc-for-host,libelf-dev,libstd-rust-dev,pkgconf,zlib1g-dev}:"$arch" "${qemu/arm64/arm}"
}

unpack_guest() {
	local packages
	packages=$(sed 's/#.*//' "$top/scripts/root/guest.packages" | xargs | tr ' ' ,)
	mmdebstrap --variant=extract --arch="$arch" --include='?essential' --include="$packages" \
		--aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		"$suite" - "$root/etc/apt/sources.list" |
		"$top/scripts/root/in-namespace.sh" tar -x --exclude='./dev/*' -C "$guest.new"
	# shellcheck disable=SC2016 # for the shell there
	"$top/scripts/root/in-namespace.sh" sh -ec '
		cd "$0"
		find etc usr ! -name "ld.so.*" \( -path "etc/*" -o -lname "/etc/alternatives/*" \) |
			tar -c --no-recursion -T - | tar -x -C "$1"' "$root" "$guest.new"
}

[ -n "$cross" ] || exit 0
(($# == 0)) || die "ARCH=$arch: make $* is for this machine's own architecture only"
[[ -e $added && -e $guest ]] && exit
lock "root-$suite"
if [ ! -e "$added" ]; then
	need_space 4
	step "$cache/log/cross.log" "adding to the build root what builds for $arch and emulates it (200 MB)" add_to_buildroot
	"$top/scripts/root/in-namespace.sh" touch "$added"
fi
if [ ! -e "$guest" ]; then
	need_space 2
	"$top/scripts/root/in-namespace.sh" rm -rf --one-file-system "$guest.new"
	mkdir "$guest.new"
	step "$cache/log/guest.log" "making the virtual machine's root for $arch (100 MB)" unpack_guest
	mv "$guest.new" "$guest"
fi
