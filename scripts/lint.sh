#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Static checks: formatting, compiler warnings, clippy, rustdoc, shellcheck, checkpatch, panics and
# unsafe code in the wrong place. Runs none of the code.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

if [ "${1:-}" != --inside ]; then
	# What the module must compile for beside the kernel that it is tested on.
	KERNEL=7.2 "$top/scripts/module.sh" >/dev/null
	echo "ok - lint: the module builds for Linux 7.2"
	release=$("$top/scripts/kernel.sh")
	lock cargo
	fresh_target
	exec "$top/scripts/enter.sh" scripts/lint.sh --inside "$release"
fi
kdir=/usr/src/rust-linux-$2
out=/tmp/lint

passed=1 failed=0
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
	! nm -u $out/plain/rust/ip_vs_reuse.o |
		grep -E 'panic|unwrap_failed|expect_failed|slice_.*_fail|str_index|copy_from_slice'
}

# unsafe is for the abstractions; the files that decide have none.
no_unsafe() {
	! grep -nE '\bunsafe\b' rust/*.rs | grep -v '//[/!]'
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
check "rustdoc without a warning" scripts/docs.sh --inside $out/plain $out/docs
check "no panic in the packet path" no_panics
check "no unsafe outside the abstractions" no_unsafe
check "the scheduler is registered last" scheduler_is_last
check "docs/unsafe.md names what is called" unsafe_page
if [ -e "patches/$(grep -oE '^[0-9]+\.[0-9]+' <<<"$2")" ]; then
	check "patches/ and rust/ say the same" scripts/export-patches.sh --inside "$2" --check
fi
check "shellcheck" shell_scripts
check "checkpatch" style_c
echo "# lint: $passed passed, $failed failed"
((failed == 0))
