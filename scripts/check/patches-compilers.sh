#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: patches-compilers.sh [BUILD...]
#
# Builds what the patches for Linux $KERNEL change in C, with W=1, by gcc and clang for other machines than
# this one and without options that IPVS can do without: first the kernel as it is, then with the series, then
# with the separate fixes, too. Fails if there is a warning that was not there before. The configuration is
# allmodconfig; no kernel is built, only the files that are changed. A BUILD is COMPILER-ARCH[-OPTION...], such as
# clang-s390 or gcc-i386-IPV6: the options are off. Works on a copy-on-write view of the kernel's directory.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

# By gcc for x86-64 with all options patches.sh builds it, patch by patch. s390 is big-endian.
builds=(gcc-x86_64-IP_VS_IPV6 clang-x86_64 gcc-i386 clang-i386-IP_VS_FTP-IP_VS_NFCT gcc-arm64-IPV6
	clang-arm64-BRIDGE_NETFILTER-NET_CLS_ACT gcc-s390 clang-s390-IP_VS_PROTO_SCTP-IP_SCTP)

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel/get-kernel.sh")
	LAYER=$("$top/scripts/root/layer.sh" gcc-{aarch64,s390x}-linux-gnu)
	export LAYER
	exec "$top/scripts/root/enter.sh" scripts/check/patches-compilers.sh --inside "$release" "${@:-${builds[@]}}"
fi
release=$2
shift 2
series=/src/patches/$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
shopt -s nullglob
patches=("$series"/{,nf/,nf-next/}000[1-9]-*.patch)
separate=("$series-separate"/0*.patch)
fixes=()
((${#separate[@]} == 0)) || mapfile -t fixes < <(grep -l '^+++ b/net/' "${separate[@]}")

# What both change in C. New files belong to a module in Rust, and are built with it.
mapfile -t sources < <(grep -h -A 1 '^--- a/net/' "${patches[@]}" "${fixes[@]}" | sed -n 's|^+++ b/\(.*\)\.c$|\1|p' | sort -u)

# Off are what makes the build slow and changes no warning, what turns warnings into errors, and Rust.
off=(GCC_PLUGINS GCOV_KERNEL KASAN KCOV KCSAN RUST WERROR)

# kernel_make BUILD ARGUMENT...
kernel_make() {
	local compiler arch
	IFS=- read -r compiler arch _ <<<"$1"
	shift
	set -- ARCH="$arch" "$@"
	case $compiler-$arch in
	clang-*) set -- LLVM=1 "$@" ;;
	gcc-arm64) set -- CROSS_COMPILE=aarch64-linux-gnu- "$@" ;;
	gcc-s390) set -- CROSS_COMPILE=s390x-linux-gnu- "$@" ;;
	esac
	make -s -C /tmp/kernel O=/tmp/build -j"$(nproc)" "$@"
}

# configure BUILD: allmodconfig without its options.
configure() {
	local options option
	IFS=- read -r _ _ options <<<"$1"
	read -r -a options <<<"${options//-/ }"
	printf '# CONFIG_%s is not set\n' "${off[@]}" "${options[@]}" >/tmp/off.config
	rm -rf /tmp/build
	kernel_make "$1" KCONFIG_ALLCONFIG=/tmp/off.config allmodconfig || return
	for option in "${options[@]}"; do
		grep -qx "# CONFIG_$option is not set" /tmp/build/.config || { echo "$option cannot be switched off"; return 1; }
	done
	kernel_make "$1" prepare
}

# compile BUILD NAME: sets /tmp/warnings.NAME to what the compiler says, less the lines' numbers.
compile() {
	local source objects=()
	for source in "${sources[@]}"; do
		[[ $source = */ip_vs_nfct && $1 = *-IP_VS_NFCT* ]] || objects+=("$source.o")
	done
	kernel_make "$1" W=1 "${objects[@]}" >/tmp/log 2>&1 || { cat /tmp/log; return 1; }
	sed -n '/warning:/ s/:[0-9]*:[0-9]*:/:/p' /tmp/log | sort >"/tmp/warnings.$2"
}

apply() { git am --quiet "$@" || { git am --abort; return 1; }; }

nothing_new() { compile "$1" new && ! comm -13 /tmp/warnings.base /tmp/warnings.new | grep .; }

with_patches() {
	apply "${patches[@]}" && nothing_new "$1" || return
	((${#fixes[@]} == 0)) || { apply --3way "${fixes[@]}" && nothing_new "$1"; }
}

# judge BUILD: leaves the kernel as it was.
judge() {
	local status=0
	configure "$1" && compile "$1" base || return
	with_patches "$1" || status=1
	git reset -q --hard base
	return $status
}

kernel_view "/usr/src/rust-linux-$release" "${patches[@]}" "${fixes[@]}"
cd /tmp/kernel
git tag base
make -s mrproper

failed=0
for build; do
	if judge "$build" >/tmp/said 2>&1; then
		echo "ok - patches: $build: no new warning (W=1)"
	else
		failed=$((failed + 1))
		echo "not ok - patches: $build: no new warning (W=1)"
		sed 's/^/# /' /tmp/said
	fi
done
((failed == 0))
