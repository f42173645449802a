#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0

set -euo pipefail

usage() {
	cat <<'EOF'
usage: rust-kernel-dir.sh KERNEL

Turns a kernel that Debian packaged into a directory that external Rust modules
build against. Debian's header packages carry no Rust metadata; this recreates it
from the packaged source and configuration with the very compilers that built the
kernel (rust-crates.sh), and proves that the outcome is the same.

  KERNEL   a release (7.3.4+deb13-cloud-amd64), or a series (7.3), which is the
           newest cloud kernel of that series in the archive; with :ARCHITECTURE
           (7.3:arm64), if that is another than this system's

Run it in a container or chroot, as root, on the Debian release that the kernel
was built for, with the backports suite configured, and for another architecture with that added
(dpkg --add-architecture) and its gcc-for-host. It makes
  /usr/lib/modules/RELEASE      the kernel itself and its modules, as packaged,
                                in place of what is there
  /boot/vmlinuz-RELEASE         a link to that kernel, likewise
  /usr/src/rust-linux-RELEASE   the directory: 'make -C DIR M=$PWD modules'
and prints RELEASE. What is there already and whole is left as it is.

It refuses what rust-crates.sh refuses.
EOF
}

say() { printf '%s\n' "rust-kernel-dir: $*" >&2; }
die() { say "$*"; exit 1; }

case ${1:-} in
-h | --help) usage; exit ;;
'' | -*) usage >&2; exit 2 ;;
esac

export LC_ALL=C DEBIAN_FRONTEND=noninteractive
exec {out}>&1 >&2		# all but the answer is a message
crates=$(dirname "$0")/rust-crates.sh
self=$(cat "$0" "$crates" | sha256sum)	# what another version of these scripts made is made again
kernel=${1%:*}
arch=$(dpkg --print-architecture)
[[ $1 != *:* ]] || arch=${1#*:}

whole() { [ "$(cat "/usr/src/rust-linux-$1/.complete" 2>/dev/null)" = "$self" ]; }
answer() { basename "$(realpath "/usr/src/rust-linux-$1")" | sed 's/^rust-linux-//' >&"$out"; }

if whole "$1"; then
	answer "$1"
	exit
fi

# packaged RELEASE: whether the archive has what is needed of it. Names are compared
# here: apt takes the dots and pluses of one that it does not know for a pattern.
packaged() {
	apt-cache pkgnames linux- | grep -cxF -e "linux-image-$1" -e "linux-headers-$1" | grep -qx 2
}

# newest SERIES: the newest packaged cloud kernel of a series such as 7.3.
newest() {
	apt-cache pkgnames "linux-headers-$1." | sed 's/^linux-headers-//' |
		grep -E "^[0-9.]+(\+[^-]*)?-cloud-$arch\$" | sort -rV |
		while read -r found; do
			packaged "$found" && echo "$found" && break
		done
}

# resolve KERNEL: the release that it means now, or nothing.
resolve() {
	if packaged "$1"; then
		echo "$1"
	else
		newest "$1" || true
	fi
}

say "looking for Linux $1 in the archive"
release=$(resolve "$kernel")
if [ -z "$release" ]; then
	apt-get update -q || die "the archive cannot be reached: is there a network?"
	release=$(resolve "$kernel")
fi
if [ -z "$release" ]; then
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$1" || echo 7.3)
	there=$(newest "$series" || true)
	die "the archive has no Linux '$1': KERNEL is a release such as ${there:-7.3.4+deb13-cloud-$arch} or a series such as $series"
fi

dir=/usr/src/rust-linux-$release
modules=/usr/lib/modules/$release
series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")

if ! whole "$release"; then
	work=$dir.work
	trap 'rm -rf "$work"' EXIT
	rm -rf "$dir" "$work"
	mkdir -p "$work/debs" "$work/tree"

	version=$(apt-cache show "linux-headers-$release" | sed -n 's/^Version: //p' | head -n 1)
	mapfile -t packages < <(
		echo "linux-headers-$release"
		echo "linux-image-$release"
		apt-cache depends "linux-image-$release" | sed -n "s/^ *Depends: \(.*-$release\)\(:$arch\)\?\$/\1/p"
	)
	# fetch PACKAGE...: into debs/, and unpacked into tree/
	fetch() {
		(cd "$work/debs" && apt-get download -q -o APT::Sandbox::User=root "$@") ||
			die "cannot download $*: is there a network? ('apt-get update' if the archive has moved on)"
		for deb in "$work"/debs/*.deb; do
			dpkg-deb -x "$deb" "$work/tree"
			rm "$deb"
		done
	}
	say "downloading Linux $release"
	fetch "${packages[@]}"

	headers=$work/tree/usr/src/linux-headers-$release
	"$crates" "$headers"

	say "downloading and unpacking the source, $version (160 MB)"
	fetch "linux-source-$series=$version"
	mkdir "$work/source"
	tar -xf "$work/tree/usr/src/linux-source-$series.tar.xz" --strip-components=1 -C "$work/source"
	mv "$work/source" "$dir"

	"$crates" "$headers" "$dir"

	rm -rf "$modules"
	mkdir -p /usr/lib/modules
	mv "$work/tree/usr/lib/modules/$release" "$modules"
	[ -e "$modules/vmlinuz" ] || mv "$work/tree/boot/vmlinuz-$release" "$modules/vmlinuz"
	[ -e "$modules/System.map" ] || mv "$work/tree/boot/System.map-$release" "$modules/System.map"
	ln -sfn "$dir" "$modules/build"
	ln -sf "$modules/vmlinuz" "/boot/vmlinuz-$release"	# where virtme-ng looks
	depmod "$release"
	echo "$self" >"$dir/.complete"
fi

# A series stands for this release from now on, in this root.
[ "$1" = "$release" ] || ln -sfn "rust-linux-$release" "/usr/src/rust-linux-$1"
answer "$release"
