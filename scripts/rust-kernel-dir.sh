#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0

set -euo pipefail

usage() {
	cat <<'EOF'
usage: rust-kernel-dir.sh KERNEL

Turns a kernel that Debian packaged into a directory that external Rust modules
build against. Debian's header packages carry no Rust metadata; this recreates it
from the packaged source and configuration with the very compilers that built the
kernel, and proves that the outcome is the same.

  KERNEL   a release (7.3.4+deb13-cloud-amd64), or a series (7.3), which is the
           newest cloud kernel of that series in the archive

Run it as root on the Debian release that the kernel was built for, with the
backports suite configured. It makes
  /usr/lib/modules/RELEASE      the kernel itself and its modules, as packaged
  /usr/src/rust-linux-RELEASE   the directory: 'make -C DIR M=$PWD modules'
and prints RELEASE. What is there already and whole is left as it is.

It refuses a kernel without CONFIG_RUST, one built by other compilers than this
system's, and one with CONFIG_MODVERSIONS (the symbols' checksums cannot be recreated).
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
self=$(sha256sum <"$0")		# a directory made by another version of this script is made again
arch=$(dpkg --print-architecture)

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
release=$(resolve "$1")
if [ -z "$release" ]; then
	apt-get update -q || die "the archive cannot be reached: is there a network?"
	release=$(resolve "$1")
fi
if [ -z "$release" ]; then
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$1" || true)
	[ -z "$series" ] || release=$(newest "$series" || true)
	[ -n "$release" ] ||
		die "the archive has no Linux '$1': KERNEL is a release such as 7.3.4+deb13-cloud-$arch or a series such as 7.3"
	say "Linux $1 has left the archive: taking $release, the newest of its series"
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
		apt-cache depends "linux-image-$release" | sed -n "s/^ *Depends: \(.*-$release\)\$/\1/p"
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
	option() { sed -n "s/^CONFIG_$1=//p" "$headers/.config" | tr -d '"'; }

	[ "$(option RUST)" = y ] ||
		die "Linux $release was built without CONFIG_RUST: no Rust module can be loaded into it"
	[ -z "$(option MODVERSIONS)" ] ||
		die "Linux $release has CONFIG_MODVERSIONS: its symbols' checksums cannot be recreated"
	[ "$(option RUSTC_VERSION_TEXT)" = "$(rustc --version)" ] ||
		die "Linux $release was built by '$(option RUSTC_VERSION_TEXT)' and this is '$(rustc --version)': Rust symbols would differ"
	gcc=$(gcc -dumpfullversion | awk -F. '{ print $1 * 10000 + $2 * 100 + $3 }')
	[ "$(option GCC_VERSION)" = "$gcc" ] ||
		die "Linux $release was built by '$(option CC_VERSION_TEXT)' and gcc here is $(gcc -dumpfullversion)"

	say "downloading and unpacking the source, $version (160 MB)"
	fetch "linux-source-$series=$version"
	mkdir "$work/source"
	tar -xf "$work/tree/usr/src/linux-source-$series.tar.xz" --strip-components=1 -C "$work/source"
	mv "$work/source" "$dir"

	# .kernelvariables is Debian's: the release, and the compiler by its full name.
	cp "$headers"/{.config,.kernelvariables,Module.symvers} "$dir/"
	[ ! -e "$headers/vmlinux" ] || cp "$headers/vmlinux" "$dir/vmlinux"

	say "building the Rust crates (a minute or two)"
	make -s -C "$dir" -j"$(nproc)" olddefconfig prepare modules_prepare

	lost=$(diff <(grep ^CONFIG_ "$headers/.config" | sort) <(grep ^CONFIG_ "$dir/.config" | sort) || true)
	[ -z "$lost" ] ||
		die "the configuration did not survive: a tool of the kernel's build is missing here: $(head -n 5 <<<"$lost")"

	# An external module takes its vermagic from here.
	echo "$release" >"$dir/include/config/kernel.release"
	echo "#define UTS_RELEASE \"$release\"" >"$dir/include/generated/utsrelease.h"

	stock=$(awk '$2 ~ /^(_R|rust_)/ { print $2 }' "$dir/Module.symvers" | sort -u)
	made=$(sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));$/\1/p' "$dir"/rust/exports_*_generated.h | sort -u)
	if [ -z "$stock" ] || [ "$stock" != "$made" ]; then
		die "the recreated crates are not the kernel's own: $(diff <(echo "$stock") <(echo "$made") | grep -c '^[<>]') exported symbols differ"
	fi
	say "the crates are the kernel's own: all $(wc -l <<<"$stock") exported Rust symbols are the same"

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
