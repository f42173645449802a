# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the scripts share that DKMS runs before it builds. Sourced, not run, with RELEASE as argument.
# Sets `release`, `headers`, `source`: the package that has its source.

set -euo pipefail

release=$1
# shellcheck disable=SC2034 # used by the scripts that source this
headers=/usr/src/linux-headers-$release
source=linux-source-$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")

# skip WHY: DKMS skips a kernel for this status, and fails no upgrade.
skip() {
	echo "skipped: $*"
	exit 77
}

version() { dpkg-query --show --showformat '${Version}' "$1" 2>/dev/null || true; }

# unpack_source DIRECTORY ARGUMENTS...: the kernel's very source, or what tar's ARGUMENTS say of
# it. In an upgrade it may come after the headers: the package's trigger tries again then.
unpack_source() {
	local wanted found

	wanted=$(version "linux-headers-$release")
	found=$(version "$source")
	if [ -z "$found" ] || [ "$found" != "$wanted" ]; then
		skip "Linux $release is version ${wanted:-unknown}, and $source ${found:-is not installed}: 'apt install $source=$wanted'"
	fi
	mkdir "$1"
	tar -xf "/usr/src/$source.tar.xz" --strip-components=1 -C "$@"
}
