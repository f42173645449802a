#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes the build root for Linux $KERNEL: a Debian directory with the packages of buildroot.packages and
# guest.packages, in the cache. It is Debian 13 for that release's kernels and those of its backports, and
# unstable for Debian 14's (common.sh, root_suite). Does nothing where it is there already.
#
# The root is unpacked beside its final place and renamed when it is whole, so that an
# interrupted run leaves nothing that a next one would trust.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

# What the root is called, and the suites beside its own that have kernels for it.
case $suite in
trixie) name="Debian 13" kernels=(trixie-backports) options=() ;;
sid)
	# Their Release files expire after a week, and a mirror may have older ones.
	name="Debian unstable" kernels=(forky experimental) options=(--aptopt='Acquire::Check-Valid-Until "false"') ;;
esac

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

# Their lines are made from the root's own, whatever the mirror.
add_kernels="for suite in ${kernels[*]}; do
	sed -n \"s/ $suite main.*/ \$suite main/p\" \"\$1/etc/apt/sources.list\" >\"\$1/etc/apt/sources.list.d/\$suite.list\"
done && chroot \"\$1\" apt-get update -q"

unpack() {
	local mirror packages
	mirror=$(host_mirror)
	packages=$(sed 's/#.*//' "$top"/scripts/root/{buildroot,guest}.packages | xargs | tr ' ' ,)
	mmdebstrap --variant=apt --include="$packages" \
		--aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		"${options[@]}" --customize-hook="$add_kernels" --skip=cleanup/apt/lists \
		"$suite" - ${mirror:+"$mirror"} |
		"$top/scripts/root/in-namespace.sh" tar -x --exclude='./dev/*' -C "$root.new"
}

lock "root-$suite"
[ -e "$root/.complete" ] && exit
host_tools
need_space 8
"$top/scripts/root/in-namespace.sh" rm -rf --one-file-system "$root" "$root.new"
mkdir -p "$root.new"
step "$cache/log/buildroot.log" "making the build root: $name with the compilers and the virtual machine, 2 GB (a minute or two)" unpack
"$top/scripts/root/in-namespace.sh" touch "$root.new/.complete"
mv "$root.new" "$root"
