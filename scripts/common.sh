# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the scripts share: messages, the cache, locks, and how a step is run.
# Sourced, not run. Sets `top` (the checkout), `cache` and `root` (the build root).

set -euo pipefail

PATH+=:/usr/sbin:/sbin	# where a normal user does not look

say() { printf '%s\n' "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ipvs-reuse

# key FILE...: what names a thing that was made from these files.
key() { cat -- "$@" | sha256sum | cut -c1-12; }

# The scripts that make the root, and so its key: a change to either makes a new one.
root_inputs=("$top/scripts/buildroot.packages" "$top/scripts/buildroot.sh")
# shellcheck disable=SC2034 # used by the scripts that source this
root=$cache/root-$(key "${root_inputs[@]}")

# lock NAME: one process at a time past this point, until this one ends.
# The descriptor is passed on: who is exec'ed, or outlives the script, holds the lock.
lock() {
	mkdir -p "$cache" || die "cannot write to $cache: set XDG_CACHE_HOME to a directory that can be written"
	exec {lock_fd}>"$cache/$1.lock"
	flock --nonblock "$lock_fd" && return
	say "another make works on this ($1); waiting for it to finish"
	flock "$lock_fd"
}

# fresh_target: cargo goes by time stamps, and several checkouts share what it builds in the
# cache. What it built of another tree must not pass for this one's.
fresh_target() {
	local sources made profile
	mapfile -t sources < <(find "$top"/{Cargo.*,ipvs-watch,rust,selftests} -name '*.rs' -o -name 'Cargo.*' -o -path '*/src/bpf/*' | sort)
	made=$(key "${sources[@]}")
	[ "$(cat "$cache/target/.made-from" 2>/dev/null)" != "$made" ] || return 0
	# One profile at a time, as cargo will have it.
	for profile in dev release; do
		"$top/scripts/enter.sh" cargo clean --quiet --profile "$profile" \
			-p bench -p harness -p host -p ipvs-watch
	done
	mkdir -p "$cache/target"
	echo "$made" >"$cache/target/.made-from"
}

# need_space GIGABYTES: stop before a step that would fill the disk.
need_space() {
	local free
	free=$(df --output=avail -B1G "$cache" | tail -n 1)
	((free >= $1)) || die "$cache has $((free)) GB free and this step needs $1: free some, or set XDG_CACHE_HOME to a larger disk"
}

# step LOG WHAT COMMAND...: runs a long step with its output in LOG, or to the terminal with V=1.
step() {
	local log=$1 what=$2 start=$SECONDS status=0 life=
	shift 2
	say "$what"
	mkdir -p "$(dirname "$log")"
	if [ -n "${V:-}" ]; then
		"$@" 2>&1 | tee "$log" >&2 || failed "$what" "$log"
	else
		: >"$log"
		if [ -t 2 ]; then
			show_life "$log" & life=$!
		fi
		"$@" >"$log" 2>&1 || status=$?
		[ -z "$life" ] || { kill "$life" || true; printf '\r\033[K' >&2; }
		if ((status)); then
			tail -n 10 "$log" | cut -c 1-200 >&2
			failed "$what" "$log"
		fi
	fi
	say "done in $((SECONDS - start)) s"
}

# show_life LOG: the time that a step has taken and the last line of its LOG, on one line of the terminal.
show_life() {
	local line
	while sleep 1; do
		line="${0##*/}: $((SECONDS - start)) s: $(tail -n 1 "$1" | tr -cd '[:print:]')"
		printf '\r\033[K%s' "${line:0:$(tput cols 2>/dev/null || echo 80) - 1}" >&2
	done
}

failed() {
	local why=
	if grep -qE 'failure resolving|Could not (resolve|connect)|Network is unreachable|Failed to fetch' "$2"; then
		why=": the network or the package archive cannot be reached"
	elif grep -q 'No space left' "$2"; then
		why=": the disk is full"
	fi
	die "failed: $1$why (log: $2)"
}

# rustdoc_of OBJECT OPTION...: rustdoc for OBJECT, with the flags that the kernel's build gave rustc.
# Where that build was, and inside the build root.
rustdoc_of() {
	local command
	command=$(sed -n '1 { s/^[^=]*:= //; s/ ; .*//; s/ rustc / rustdoc /; s/--emit=[^ ]*//g; s/--out-dir [^ ]*//; p }' \
		"$(dirname "$1")/.${1##*/}.cmd")
	RUSTC_BOOTSTRAP=1 eval "$command ${*:2}"
}

# kernel_view DIRECTORY PATCH...: makes /tmp/kernel, a copy-on-write view of a kernel's DIRECTORY,
# with a git history of those files that the patches change. Inside the build root.
kernel_view() {
	mkdir /tmp/{changed,work,kernel}
	mount -t overlay overlay /tmp/kernel \
		-o "lowerdir=$1,upperdir=/tmp/changed,workdir=/tmp/work"
	git -C /tmp/kernel init -q
	git -C /tmp/kernel config user.name nobody
	git -C /tmp/kernel config user.email nobody@localhost
	sed -n 's|^--- a/||p' "${@:2}" | sort -u | (
		cd /tmp/kernel
		while read -r file; do
			[ ! -e "$file" ] || git add -f "$file"
		done
		git commit -q -m base
	)
}
