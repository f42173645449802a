# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # the scripts that source this use the variables
#
# What the scripts share: messages, the cache, locks, and how a step is run.
# Sourced, not run. Sets `top` (the checkout), `cache`, `root` (the build root), and the names that each
# architecture has: to add one, start here.

set -euo pipefail

PATH+=:/usr/sbin:/sbin	# where a normal user does not look

say() { printf '%s\n' "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ipvs-reuse

# key FILE...: what names a thing that was made from these files.
key() { cat -- "$@" | sha256sum | cut -c1-12; }

# root_suite KERNEL: the Debian suite with the compilers that built it, which the build root is made of. A
# name that scripts/kernel/supported does not know is a kernel of Debian 13, or is built there.
root_suite() {
	local suite names
	while IFS=$'\t' read -r _ suite _ _ _ _ names; do
		# shellcheck disable=SC2053 # a pattern
		[[ -n $names && $1 = $names ]] || continue
		echo sid	# which testing and experimental take their compilers from
		return
	done <"$top/scripts/kernel/supported"
	echo trixie
}
suite=$(root_suite "${KERNEL:-}")

# The scripts that make the root, and so its key: a change to either makes a new one.
root_inputs=("$top"/scripts/root/{buildroot.packages,buildroot.sh,guest.packages})
root=$cache/root-$suite-$(key "${root_inputs[@]}")

# ARCH, this machine's unless it is set: `arch` is Debian's name for it, `machine` the compilers' and QEMU's, and
# `image` what a kernel's build boots. If this machine is of another, `cross` is the prefix of the compilers and
# `guest` the root of the virtual machine (cross.sh), else they are empty.
case ${ARCH:-$(uname -m)} in
amd64 | x86_64 | x86) arch=amd64 machine=x86_64 image=arch/x86/boot/bzImage ;;
arm64 | aarch64) arch=arm64 machine=aarch64 image=arch/arm64/boot/Image ;;
*) die "ARCH=${ARCH:-$(uname -m)} is not supported: set it to amd64 or arm64" ;;
esac
cross='' guest=''
if [ "$machine" != "$(uname -m)" ]; then
	cross=$machine-linux-gnu-
	guest=$cache/guest-$arch-$(key "$top"/scripts/root/{cross.sh,guest.packages})
fi

# lock NAME: one process at a time past this point, until this one ends.
# The descriptor is inherited: a process that is exec'ed, or that outlives the script, holds the lock.
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
	local sources made profile directory target
	mapfile -t sources < <(find "$top"/{Cargo.*,Kbuild,ipvs-watch,rust,selftests} -name '*.rs' -o -name 'Cargo.*' -o -name Kbuild -o -path '*/ipvs-watch/*' -type f | sort)
	made=$(key "${sources[@]}")
	[ "$(cat "$cache/target/.made-from" 2>/dev/null)" != "$made" ] || return 0
	# One profile at a time, as cargo will have it. What was built for another architecture has a directory there.
	for directory in "$cache/target/" "$cache"/target/*-linux-gnu; do
		[ -d "$directory" ] || continue
		target=${directory##*/}
		for profile in dev release; do
			"$top/scripts/root/enter.sh" cargo clean --quiet --profile "$profile" ${target:+--target "$target"} \
				-p bench -p harness -p host -p ipvs-watch
		done
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

# side_by_side LOG FIRST SECOND: runs two functions at the same time, because much of a test is waiting for
# a client's retransmission. Shows the output of FIRST as it comes and that of SECOND behind it, and
# adds both to LOG. Fails if either does.
side_by_side() {
	local log=$1 status=0 second
	"$3" >"$log.second" 2>&1 & second=$!
	"$2" 2>&1 | tee -a "$log" || status=1
	tail --pid=$second -n +1 -f "$log.second"
	wait $second || status=1
	cat "$log.second" >>"$log"
	rm "$log.second"
	return $status
}

# summarize LOG STATUS: prints 'N passed, N failed, N skipped' for the tests in LOG, and fails if any has. A
# test that ended without a word, as STATUS tells, has failed too.
summarize() {
	local passed failed skipped
	# cargo counts for itself, KTAP is counted here.
	passed=$(awk '/^test result:/ { n += $4 } /^ok / && !/# SKIP/ { n++ } END { print n + 0 }' "$1")
	failed=$(awk '/^test result:/ { n += $6 } /^not ok / || /^Bail out/ { n++ } END { print n + 0 }' "$1")
	skipped=$(grep -c '^ok .*# SKIP' "$1" || true)
	(($2 == 0 || failed > 0)) || failed=1
	echo
	echo "$passed passed, $failed failed, $skipped skipped"
	((failed == 0))
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
