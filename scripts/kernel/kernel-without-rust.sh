#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0

set -euo pipefail

usage() {
	cat <<'END'
usage: kernel-without-rust.sh KERNEL

Gets a kernel without Rust that a Debian release was made with: what IPVS is built
against, what it is built from, and what boots.

  KERNEL   a release (6.12.107+deb13-cloud-amd64), or a series (6.12, or another in the
           file `supported`), which is the newest cloud kernel of that series in the archive

Run it as root on Debian 13. Older Debian releases are looked up at the mirror of
/etc/apt/sources.list, with lists of their own: apt itself does not learn of them. It makes
  /usr/lib/modules/RELEASE         the kernel itself and its modules, as packaged
  /usr/src/linux-headers-RELEASE   the headers, as packaged, and what they refer to
  /usr/src/ipvs-linux-RELEASE      IPVS of the packaged source, and its documentation
installs the compiler that the headers name, and prints RELEASE. What is there already
and whole is left as it is.
END
}

say() { printf '%s\n' "kernel-without-rust: $*" >&2; }
die() { say "$*"; exit 1; }

case ${1:-} in
-h | --help) usage; exit ;;
'' | -*) usage >&2; exit 2 ;;
esac

# The suite of the Debian release that has kernels of this series.
series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$1" || true)
suite=$(awk -F '\t' -v series="$series" '$1 == series && $5 == "ip_vs" { print $2 }' "$(dirname "$0")/supported")
[ -n "$suite" ] ||
	die "this is for kernels without Rust (scripts/kernel/supported), not '$1'; one with Rust takes the module: 'make module KERNEL=$1'"

export LC_ALL=C DEBIAN_FRONTEND=noninteractive
exec {out}>&1 >&2		# all but the answer is a message
self=$(sha256sum <"$0")		# what another version of this script made is made again
arch=$(dpkg --print-architecture)

whole() { [ "$(cat "/usr/src/ipvs-linux-$1/.complete" 2>/dev/null)" = "$self" ]; }
answer() { basename "$(realpath "/usr/src/ipvs-linux-$1")" | sed 's/^ipvs-linux-//' >&"$out"; }

if whole "$1"; then
	answer "$1"
	exit
fi

work=/usr/src/ipvs-linux.work
trap 'rm -rf "$work"' EXIT
rm -rf "$work"
mkdir -p "$work"/{lists/partial,debs,tree,source}

# The line is made from the root's own, whatever the mirror.
sed -n "s/ trixie main.*/ $suite main/p" /etc/apt/sources.list >"$work/sources.list"
[ -s "$work/sources.list" ] || die "/etc/apt/sources.list has no line for 'trixie main' to learn the mirror from"
cat >"$work/apt.conf" <<END
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "root";
Acquire::Languages "none";
END
export APT_CONFIG=$work/apt.conf

say "looking for Linux $1 in Debian's $suite"
apt-get update -q || die "the archive cannot be reached, or has no $suite any more: is there a network?"

# Names are compared here: apt takes the dots and pluses of one that it does not know for a pattern.
releases=$(apt-cache pkgnames linux-headers- | sed 's/^linux-headers-//')
if [ "$1" = "$series" ]; then
	release=$(grep -E "^${series/./\\.}\.[^-]+(-[0-9]+)?-cloud-$arch\$" <<<"$releases" | sort -V | tail -n 1) ||
		die "$suite has no cloud kernel of the series $series any more"
else
	release=$(grep -xF -e "$1" <<<"$releases") ||
		die "$suite has no Linux '$1' (its security archive is not looked into). It has: $(grep -- "-$arch\$" <<<"$releases" | sort -V | xargs)"
fi

headers=/usr/src/linux-headers-$release
modules=/usr/lib/modules/$release
dir=/usr/src/ipvs-linux-$release

if ! whole "$release"; then
	rm -rf "$dir"
	version=$(apt-cache show "linux-headers-$release" | sed -n 's/^Version: //p' | head -n 1)
	mapfile -t needed < <(apt-cache depends "linux-headers-$release" |
		sed -nE 's/^ *Depends: (linux-(headers|kbuild)-.*)/\1/p')
	say "downloading Linux $release and its source, $version (200 MB)"
	(cd "$work/debs" && apt-get download -q "linux-image-$release" "linux-headers-$release" \
		"${needed[@]}" "linux-source-$series=$version") || die "the download failed: is there a network?"
	for deb in "$work"/debs/*.deb; do
		dpkg-deb -x "$deb" "$work/tree"
		rm "$deb"
	done

	compiler=$(grep -oE 'gcc-[0-9]+' "$work/tree$headers/.kernelvariables" | head -n 1)
	if ! command -v "$compiler" >/dev/null; then
		say "installing $compiler, which built this kernel"
		apt-get install -q -y --no-install-recommends "$compiler"
	fi

	tar -xf "$work/tree/usr/src/linux-source-$series.tar.xz" --strip-components=1 -C "$work/source" \
		--wildcards '*/net/netfilter/ipvs' '*/Documentation/networking/ipvs-sysctl.rst'

	# Up to Debian 12 the modules were packaged in /lib.
	cd "$work/tree"
	[ -e usr/lib/modules ] || mv lib/modules usr/lib/
	mkdir -p /usr/lib/modules
	for part in "${modules#/}" usr/src/linux-headers-* usr/lib/linux-kbuild-*; do
		rm -rf "/${part:?}"
		mv "$part" "/$part"
	done
	[ -e "$modules/vmlinuz" ] || mv "boot/vmlinuz-$release" "$modules/vmlinuz"
	[ -e "$modules/System.map" ] || mv "boot/System.map-$release" "$modules/System.map"
	cd /
	ln -sfn "$headers" "$modules/build"
	ln -sf "$modules/vmlinuz" "/boot/vmlinuz-$release"	# where virtme-ng looks
	depmod "$release"
	mv "$work/source" "$dir"
	echo "$self" >"$dir/.complete"
fi

# A series stands for this release from now on, in this root.
[ "$1" = "$release" ] || ln -sfn "ipvs-linux-$release" "/usr/src/ipvs-linux-$1"
answer "$release"
