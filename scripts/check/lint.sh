#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Static checks: formatting, compiler warnings, clippy, rustdoc, shellcheck, checkpatch, panics and
# unsafe code in the wrong place. Runs none of the code.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel/get-kernel.sh")
	# What the module must compile for beside the kernel that it is tested on.
	mapfile -t takes_module < <(awk -F '\t' '$5 == "module" && !$7 { print $1 }' "$top/scripts/kernel/supported")
	built=0
	for series in "${takes_module[@]}"; do
		[[ $release != "$series".* ]] || continue
		KERNEL=$series "$top/scripts/build/module.sh" >/dev/null
		echo "ok - lint: the module builds for Linux $series"
		built=$((built + 1))
	done
	lock cargo
	fresh_target
	exec "$top/scripts/root/enter.sh" scripts/check/lint.sh --inside "$release" "$built"
fi
kdir=/usr/src/rust-linux-$2
out=/tmp/lint

passed=$3 failed=0
check() {
	local what=$1
	shift
	mkdir -p $out
	if "$@" >$out/log 2>&1; then
		passed=$((passed + 1))
		echo "ok - lint: $what"
	else
		failed=$((failed + 1))
		echo "not ok - lint: $what"
		sed 's/^/# /' $out/log
	fi
}

# build NAME ARGUMENT...: the modules, afresh, with no warning of compiler or tool.
build() {
	local dir=$out/$1
	shift
	mkdir -p "$dir"
	make -C "$kdir" M=/src MO="$dir" IP_VS_REUSE_SELFTESTS=m "$@" modules || return
	! grep -qE '^(warning|error)|[0-9]: (warning|error)|WARNING:' $out/log
}

# rustfmt leaves comments alone, however long.
format_rust() {
	! git grep -nE '^.{101}' -- rust &&
		rustfmt --check --config-path "$kdir/.rustfmt.toml" rust/{ip_vs_reuse,flows,hooks,sampler}.rs selftests/modules/*.rs &&
		cargo fmt --check --all
}

clippy_user_space() {
	cargo clippy --locked --workspace --all-targets -- -D warnings
}

# The packet path runs in softirq, where a panic takes the machine down. Symbols that may
# stay: none.
no_panics() {
	[ -s $out/plain/rust/ip_vs_reuse.o ] && ! nm -u $out/plain/rust/ip_vs_reuse.o |
		grep -E 'panic|unwrap_failed|expect_failed|slice_.*_fail|str_index|copy_from_slice'
}

# unsafe is for the abstractions; the files that decide have none. One use stands elsewhere: the next check's.
no_unsafe() {
	! git grep -nE '\bunsafe\b' -- 'rust/*.rs' ':!rust/ipvs' ':!rust/netfilter' ':!rust/net' ':!rust/base' ':!rust/trace' |
		grep -vE '//[/!]|^rust/ip_vs_reuse.rs:.*p2c <- unsafe [{] ipvs::SchedulerRegistration::new\(module\) [}],'
}

# The kernel does not ask services when it unloads a module whose initialization failed: what
# services may use is registered by the last step, in one place.
scheduler_is_last() {
	[ "$(git grep -c 'SchedulerRegistration::new(' rust | grep -v '^rust/ipvs/')" = rust/ip_vs_reuse.rs:1 ] &&
		grep '<-' rust/ip_vs_reuse.rs | tail -n 1 | grep -q 'SchedulerRegistration::new('
}

# The review page names what is called: every C function, none that is not, and every atomic.
# shellcheck disable=SC2016 # backticks are what is looked for
unsafe_page() {
	local page=docs/unsafe.md
	diff <(git grep -ohP 'bindings::\K\w+(?=\()' 'rust/*.rs' | sort -u) \
		<(sed '1,/^## C functions/d; /^## /,$d' $page | cut -sd'|' -f2 | grep -oP '`\K\w+(?=`)' | sort -u) &&
		! git grep -ohP '\w+(?=: Atomic)|struct \K\w+(?=.*\(Atomic)' 'rust/*.rs' | sort -u |
			grep -vxFf <(sed '1,/^## Atomics/d; /^## /,$d' $page | cut -sd'|' -f2 | grep -oP '\w+')
}

# Each patch is for a named tree.
patch_subjects() {
	! git grep -LE '^Subject: \[(RFC )?PATCH [a-z0-9.-]+( [0-9]+/[0-9]+)?\] [a-z]' -- 'patches/*.patch' | grep .
}

kernels_table() {
	diff <(scripts/check/kernels-table.sh) <(sed -n '/^| Linux | of Debian /,/^$/ { /./p }' README.md)
}

# The table of the rolling update is the report's.
rollout_table() {
	diff <(sed -n '/^### Rolling update with kube-proxy, bridged/,/^!/ { /^|/p }' docs/bench/report.md) \
		<(sed -n '/^| IPVS | connections /,/^$/ { /./p }' README.md)
}

shell_scripts() {
	git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck -x
}

# Tracepoints are macros that look like nothing else: two checks do not fit them.
style_c() {
	git ls-files -z '*.c' '*.h' |
		xargs -0 "$kdir/scripts/checkpatch.pl" --no-tree --terse --no-summary --strict -f \
			--ignore OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
}

git config --global --add safe.directory /src
check "rustfmt" format_rust
check "make W=1 without a warning" build plain W=1
check "clippy: the module" build clippy CLIPPY=1 KRUSTFLAGS=-Dwarnings
check "clippy: harness, host tests and ipvs-watch" clippy_user_space
check "rustdoc without a warning" scripts/build/docs.sh --inside $out/plain $out/docs
check "the examples in the documentation compile" scripts/check/examples.sh $out/plain
check "no panic in the packet path" no_panics
check "no unsafe outside the abstractions" no_unsafe
check "the scheduler is registered last" scheduler_is_last
check "docs/unsafe.md names what is called" unsafe_page
if [ -e "patches/$(grep -oE '^[0-9]+\.[0-9]+' <<<"$2")" ]; then
	check "patches/ and rust/ say the same" scripts/build/export-patches.sh --inside "$2" --check
fi
check "each patch names its tree" patch_subjects
check "README.md has the supported kernels" kernels_table
check "README.md has the report's table of the rolling update" rollout_table
check "no link leads nowhere" scripts/check/links.py
check "shellcheck" shell_scripts
check "checkpatch" style_c
echo "# lint: $passed passed, $failed failed"
((failed == 0))
