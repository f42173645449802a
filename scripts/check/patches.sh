#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: patches.sh [FOLDER...]
#
# Checks patches/ for Linux $KERNEL as a reviewer would, patch by patch: it applies, checkpatch.pl
# reports nothing, IPVS builds, and neither gcc (W=1) nor sparse reports a new warning; its kselftest is
# in the Makefile; for Rust, rustfmt, rustdoc and clippy pass. FOLDER (nf, nf-next, separate): only these.
# The separate fixes are checked each alone, all together, and on top of nf and nf-next. Works on a
# copy-on-write view of the kernel's directory; for a kernel without Rust of its IPVS, built with the packaged
# headers.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

if [ "${1:-}" != --inside ]; then
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$KERNEL")
	[ -d "$top/patches/$series" ] || die "there are no patches for Linux $KERNEL: patches/ has $(cd "$top/patches" && echo *)"
	directory=rust-linux option=()
	[ -d "$top/patches/$series/nf-next" ] || directory=ipvs-linux option=(--without-rust)
	release=$("$top/scripts/kernel/get-kernel.sh" "${option[@]}")
	KERNEL=7.3 "$top/scripts/kernel/get-kernel.sh" >/dev/null	# has checkpatch.pl and kernel-doc
	exec "$top/scripts/root/enter.sh" scripts/check/patches.sh --inside "$release" "$directory" "$@"
fi
release=$2 directory=$3
shift 3
folders=${*:-nf nf-next separate}
patches=/src/patches/$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
tools=/usr/src/rust-linux-7.3/scripts
shopt -s nullglob
nf=("$patches"/nf/000[1-9]-*.patch)
nf_next=("$patches"/nf-next/000[1-9]-*.patch)
separate=("$patches"-separate/0*.patch)
kernel_view "/usr/src/$directory-$release" "${nf[@]}" "${nf_next[@]}" "${separate[@]}"
cd /tmp/kernel
git tag base

failed=0
check() {
	local what=$1
	shift
	if "$@" >/tmp/log 2>&1; then
		echo "ok - patches: $what"
	else
		failed=$((failed + 1))
		echo "not ok - patches: $what"
		sed 's/^/# /' /tmp/log
	fi
}

# kernel_make ARGUMENT...: what the patches touch of the kernel. Without the whole source the packaged
# headers make it.
kernel_make() {
	if [ "$directory" = ipvs-linux ]; then
		make -C "/usr/src/linux-headers-$release" -j"$(nproc)" "${@/#M=/M=$PWD/}"
	else
		make -j"$(nproc)" "$@"
	fi
}
ipvs_make() { kernel_make M=net/netfilter/ipvs "$@" modules; }
# The one file of conntrack that they change.
conntrack_make() { kernel_make M=net/netfilter "$@" nf_conntrack_proto_tcp.o; }

# The configuration with the series' own options, and the kernel's crates, which know what
# rust/bindings/bindings_helper.h includes with them. `make prepare` names the release as the
# source does.
prepare() {
	sed -n 's/^config[[:space:]]*\(IP_VS_REUSE.*\)/CONFIG_\1=m/p' net/netfilter/ipvs/Kconfig >>.config
	make -s olddefconfig || return
	grep -qx CONFIG_IP_VS_REUSE=m .config || { echo "the options do not allow CONFIG_IP_VS_REUSE=m"; return 1; }
	make -s -j"$(nproc)" prepare || return
	echo "$release" >include/config/kernel.release
	echo "#define UTS_RELEASE \"$release\"" >include/generated/utsrelease.h
}

documentation() { (cd net/netfilter/ipvs && rustdoc_of reuse/ip_vs_reuse.o --output /tmp/doc -Dwarnings); }

rust_format() { rustfmt --check --config-path .rustfmt.toml net/netfilter/ipvs/reuse/ip_vs_reuse.rs; }

clippy() {
	rm net/netfilter/ipvs/reuse/ip_vs_reuse.o
	ipvs_make CLIPPY=1 KRUSTFLAGS=-Dwarnings
}

# warnings MAKE NAME: sets /tmp/MAKE.NAME to what gcc (W=1) and sparse say of what MAKE builds, less the lines'
# numbers. sparse looks at every file, gcc at those that have changed. Debian 13's sparse does not know
# __typeof_unqual__ yet, for want of which the kernel would not let it run.
warnings() {
	"$1" W=1 C=2 CF=-D__typeof_unqual__=__typeof__ >/tmp/build.log 2>&1 || { tail -n 30 /tmp/build.log; return 1; }
	grep -q '^ *CHECK' /tmp/build.log || { echo "sparse did not run"; return 1; }
	sed -nE '/(^|[0-9]: )(warning|error):|WARNING:/ { s/:[0-9]+:[0-9]+:/:/; p }' /tmp/build.log | sort -u >"/tmp/$1.$2"
}

no_new_warning() {
	warnings "$1" new && ! comm -13 "/tmp/$1.base" "/tmp/$1.new" | grep .
}

apply() { git am --quiet "$@" || { git am --abort; return 1; }; }

# The kernel runs the selftests that the Makefile lists.
kselftests_are_listed() {
	local script
	while read -r script; do
		grep -qP "^\t${script##*/} " "${script%/*}/Makefile" || { echo "${script##*/} is not in the Makefile"; return 1; }
	done < <(sed -n 's|^+++ b/\(tools/testing/selftests/.*\.sh\)$|\1|p' "$1")
}

# Only the person who sends a patch can sign it, so the patch has no Signed-off-by. checkpatch.pl wants one: it
# gets a copy that is signed by the author.
# The source has no history that commit ids could be looked up in. New files make checkpatch ask for MAINTAINERS
# even where that has their directory. Tracepoints are macros that look like nothing else: two checks do not fit
# them.
style() {
	local ignored=UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES
	! grep '^Signed-off-by:' "$1" || return
	! grep -q '^+#define TRACE_SYSTEM' "$1" || ignored+=,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
	git -c user.name="$(git log -1 --format=%an)" -c user.email="$(git log -1 --format=%ae)" \
		format-patch -1 --signoff --stdout >/tmp/signed.patch
	"$tools/checkpatch.pl" --strict --no-tree --no-summary --terse --ignore "$ignored" /tmp/signed.patch
}

# documented FILE: what kernel-doc says of FILE, less the lines' numbers.
documented() {
	cp "$1" /tmp/documented.c
	"$tools/kernel-doc" -none -Wall /tmp/documented.c 2>&1 | sed 's/:[0-9]*//' | sort
}

no_new_kernel_doc_warning() {
	local file
	while read -r file; do
		git show "HEAD~:$file" >/tmp/before.c 2>/dev/null || : >/tmp/before.c
		! comm -13 <(documented /tmp/before.c) <(documented "$file") | grep . || return
	done < <(sed -n 's|^+++ b/\(.*\.[ch]\)$|\1|p' "$1")
}

# check_patch PATCH: on what has been applied.
check_patch() {
	local patch=$1 name=${1##*/} folder=${1%/*}
	name=${folder#/src/patches/}/${name%%-*}
	check "$name applies" apply "$patch"
	check "$name: checkpatch.pl --strict" style "$patch"
	if grep -q '^--- a/rust/' "$patch"; then
		check "$name: the kernel's crates build" prepare
	fi
	if grep -q '^+++ b/tools/testing/selftests/' "$patch"; then
		check "$name: the Makefile lists the kselftest" kselftests_are_listed "$patch"
	fi
	if grep -q '^+++ b/net/netfilter/nf_conntrack' "$patch"; then
		check "$name: conntrack builds, and gcc and sparse say nothing new" no_new_warning conntrack_make
	elif grep -q '^+++ b/\(net\|include\)/' "$patch"; then
		check "$name: IPVS builds, and gcc and sparse say nothing new" no_new_warning ipvs_make
	fi
	if grep -q '^+++ b/.*\.[ch]$' "$patch"; then
		check "$name: kernel-doc says nothing new" no_new_kernel_doc_warning "$patch"
	fi
	if grep -q '^--- a/rust/' "$patch"; then
		check "$name: rustfmt" rust_format
		check "$name: rustdoc without a warning" documentation
		check "$name: clippy" clippy
	fi
}

say "building the stock IPVS of Linux $release, to compare with"
warnings ipvs_make base || die "the stock IPVS does not build"
[ "$directory" = ipvs-linux ] || warnings conntrack_make base || die "the stock conntrack does not build"

if [[ " $folders " = *" separate "* ]] && ((${#separate[@]})); then
	for patch in "${separate[@]}"; do
		check_patch "$patch"
		git reset -q --hard base
	done
	check "the separate fixes apply all together" apply "${separate[@]}"
	check "the separate fixes: IPVS builds, and gcc and sparse say nothing new" no_new_warning ipvs_make
	git reset -q --hard base
fi
for patch in "${nf[@]}" "${nf_next[@]}"; do
	folder=${patch%/*}
	if [[ " $folders " = *" ${folder##*/} "* ]]; then
		check_patch "$patch"
	else
		apply "$patch"
	fi
done
if [[ " $folders " = *" separate "* ]] && ((${#separate[@]})); then
	# But their kselftest: both add lines to the same lists, at the same place.
	mapfile -t fixes < <(grep -l '^+++ b/net/' "${separate[@]}")
	check "the separate fixes apply on top of nf and nf-next" apply --3way "${fixes[@]}"
	check "the separate fixes on top: IPVS builds, and gcc and sparse say nothing new" no_new_warning ipvs_make
fi
((failed == 0))
