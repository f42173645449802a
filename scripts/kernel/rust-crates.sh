#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0

set -euo pipefail

usage() {
	cat <<'END'
usage: rust-crates.sh HEADERS [DIRECTORY]

Recreates what Debian's header packages leave out for Rust: external Rust modules
need the crates of the very kernel that they are loaded into.

  HEADERS     a kernel's headers, as packaged: /usr/src/linux-headers-RELEASE
  DIRECTORY   the unpacked source of that kernel (linux-source-X.Y, the same version).
              It becomes what Rust modules build against: 'make -C DIRECTORY M=$PWD modules'

With HEADERS alone it only says whether that can be done here. It refuses a kernel
without CONFIG_RUST, one built by other compilers than this system's, and one with
CONFIG_MODVERSIONS (the symbols' checksums cannot be recreated). It needs no network.
END
}

say() { printf '%s\n' "rust-crates: $*" >&2; }
die() { say "$*"; exit 1; }

case ${1:-} in
-h | --help) usage; exit ;;
'' | -*) usage >&2; exit 2 ;;
esac

export LC_ALL=C
headers=$1
dir=${2:-}
[ -e "$headers/.config" ] || die "there is no $headers/.config: is the kernel's headers package installed?"
release=$(sed -n 's/.*UTS_RELEASE "\(.*\)"/\1/p' "$headers/include/generated/utsrelease.h")

option() { sed -n "s/^CONFIG_$1=//p" "$headers/.config" | tr -d '"'; }

[ "$(option RUST)" = y ] ||
	die "Linux $release was built without CONFIG_RUST: no Rust module can be loaded into it"
[ -z "$(option MODVERSIONS)" ] ||
	die "Linux $release has CONFIG_MODVERSIONS: its symbols' checksums cannot be recreated"
[ "$(option RUSTC_VERSION_TEXT)" = "$(rustc --version)" ] ||
	die "Linux $release was built by '$(option RUSTC_VERSION_TEXT)' and this is '$(rustc --version)': Rust symbols would differ"
# .kernelvariables is Debian's: the release, the architecture, and the compiler by its full name.
gcc=$(sed -n 's/^override CROSS_COMPILE = //p' "$headers/.kernelvariables")gcc
version=$("$gcc" -dumpfullversion) || die "$gcc is missing, which Linux $release was built by"
[ "$(option GCC_VERSION)" = "$(awk -F. '{ print $1 * 10000 + $2 * 100 + $3 }' <<<"$version")" ] ||
	die "Linux $release was built by '$(option CC_VERSION_TEXT)' and $gcc here is $version"

[ -n "$dir" ] || exit 0

cp "$headers"/{.config,.kernelvariables,Module.symvers} "$dir/"
[ ! -e "$headers/vmlinux" ] || cp "$headers/vmlinux" "$dir/vmlinux"

say "building the Rust crates of Linux $release (a minute or two)"
make -s -C "$dir" olddefconfig
# Without arm64's vDSO for 32-bit programs, which would take a compiler of its own.
make -s -C "$dir" -j"$(nproc)" CONFIG_COMPAT_VDSO= prepare modules_prepare

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
