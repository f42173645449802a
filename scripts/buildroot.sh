#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes the build root: a Debian 13 directory with the packages of buildroot.packages,
# in the cache. Does nothing where it is there already.
#
# The root is unpacked beside its final place and renamed when it is whole, so that an
# interrupted run leaves nothing that a next one would trust.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

suite=trixie

[ -e "$root/.complete" ] && exit

# The mirror that this machine's apt uses for Debian, if any: else mmdebstrap's own default.
host_mirror() {
	command -v apt-get >/dev/null || return 0
	# shellcheck disable=SC2016 # apt's placeholders, not the shell's
	apt-get indextargets --format '$(REPO_URI)' \
		'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null |
		grep -m 1 -E '^https?://' || true
}

host_tools() {
	local missing=() pkgs="mmdebstrap debian-archive-keyring uidmap util-linux" tool
	for tool in mmdebstrap unshare newuidmap flock; do
		command -v "$tool" >/dev/null || missing+=("$tool")
	done
	[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
	((${#missing[@]})) || return 0
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		# shellcheck disable=SC2086 # a list
		step "$cache/log/host-tools.log" "installing ${missing[*]}" \
			sh -c "apt-get update -q && apt-get install -q -y --no-install-recommends $pkgs"
	else
		die "this machine lacks ${missing[*]}: run 'sudo apt-get install $pkgs', then make again"
	fi
}

# Backports hold the kernels. The line is made from the root's own, whatever the mirror.
backports="sed -n 's/ $suite main.*/ $suite-backports main/p' \"\$1/etc/apt/sources.list\" \
	>\"\$1/etc/apt/sources.list.d/backports.list\" && chroot \"\$1\" apt-get update -q"

unpack() {
	local mirror packages
	mirror=$(host_mirror)
	packages=$(sed 's/#.*//' "$top/scripts/buildroot.packages" | xargs | tr ' ' ,)
	mmdebstrap --variant=apt --include="$packages" \
		--aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--customize-hook="$backports" --skip=cleanup/apt/lists \
		"$suite" - ${mirror:+"$mirror"} |
		"$top/scripts/in-namespace.sh" tar -x --exclude='./dev/*' -C "$root.new"
}

lock root
[ -e "$root/.complete" ] && exit
host_tools
need_space 8
"$top/scripts/in-namespace.sh" rm -rf --one-file-system "$root" "$root.new"
mkdir -p "$root.new"
step "$cache/log/buildroot.log" "making the build root: Debian 13 with the compilers and the virtual machine, 2 GB (a minute or two)" unpack
"$top/scripts/in-namespace.sh" touch "$root.new/.complete"
mv "$root.new" "$root"
