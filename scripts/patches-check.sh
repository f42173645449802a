#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks the series for Linux $KERNEL as a reviewer would, patch by patch: it applies, checkpatch.pl
# reports nothing, IPVS builds without warnings, and sparse reports no new warnings; for Rust, rustfmt,
# rustdoc and clippy pass. Works on a copy-on-write view of the kernel's directory.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel.sh")
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
	exec "$top/scripts/enter.sh" scripts/patches-check.sh --inside "$release" "$series"
fi
release=$2
series=/src/patches/$3
kernel_view "/usr/src/rust-linux-$release" "$series"/0*.patch
cd /tmp/kernel

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

# ipvs_make ARGUMENT...: what the series touches of the kernel.
ipvs_make() { make -j"$(nproc)" M=net/netfilter/ipvs "$@" modules; }

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

# The one file of conntrack that the series changes.
conntrack_make() { make M=net/netfilter "$@" nf_conntrack_proto_tcp.o; }

without_a_warning() {
	"$1" W=1 || return
	! grep -qE '[0-9]: (warning|error)|^(warning|error)|WARNING:' /tmp/log
}

# Sets /tmp/sparse.NAME to what sparse says, less the lines' numbers. Debian 13's does not know
# __typeof_unqual__ yet, for want of which the kernel would not let it run.
sparse() {
	find net/netfilter/ipvs -name '*.o' -delete
	ipvs_make C=2 CF=-D__typeof_unqual__=__typeof__ 2>&1 | tee /tmp/sparse.log | grep -E '(warning|error):' | sed 's/:[0-9]*:[0-9]*:/:/' |
		sort >"/tmp/sparse.$1"
	grep -q 'CHECK' /tmp/sparse.log
}

no_new_sparse_warning() {
	sparse new || { tail -n 20 /tmp/sparse.log; return 1; }
	! comm -13 /tmp/sparse.base /tmp/sparse.new | grep .
}

apply() { git am --quiet "$1" || { git am --abort; return 1; }; }

# Only the person who sends a patch can sign it. The source has no history that commit ids could be
# looked up in. New files make checkpatch ask for MAINTAINERS even where that has their directory.
# Tracepoints are macros that look like nothing else: two checks do not fit them.
style() {
	local ignored=UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES
	! grep -q '^+#define TRACE_SYSTEM' "$1" || ignored+=,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
	scripts/checkpatch.pl --strict --no-signoff --no-tree --no-summary --terse --ignore "$ignored" "$1"
}

say "building the stock IPVS, to compare with"
sparse base || die "sparse did not run: $(tail -n 5 /tmp/sparse.log)"

for patch in "$series"/000[1-9]-*.patch; do
	name=${patch##*/}
	name=${name%%-*}
	check "$name applies" apply "$patch"
	check "$name: checkpatch.pl --strict" style "$patch"
	if grep -q '^--- a/rust/' "$patch"; then
		check "$name: the kernel's crates build" prepare
	fi
	if grep -q '^+++ b/net/netfilter/nf_conntrack' "$patch"; then
		check "$name: conntrack builds without a warning (W=1)" without_a_warning conntrack_make
	elif grep -q '^+++ b/\(net\|include\)/' "$patch"; then
		check "$name: IPVS builds without a warning (W=1)" without_a_warning ipvs_make
		check "$name: sparse says nothing new" no_new_sparse_warning
	fi
	if grep -q '^--- a/rust/' "$patch"; then
		check "$name: rustfmt" rust_format
		check "$name: rustdoc without a warning" documentation
		check "$name: clippy" clippy
	fi
done
((failed == 0))
