#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: boot.sh RELEASE COMMAND...   (or --shell)
#
# Boots Linux RELEASE (made by get-kernel.sh) in QEMU on a copy-on-write view of the
# build root, runs COMMAND there as root in /src, and exits with its status. Passes on the
# variables named in VM_ENV. Only COMMAND's output is kept; its changes to files are discarded.
# With --shell: starts a shell, with MODULE loaded.
#
# A hang, a panic, or a warning in the kernel's log is a failure, whatever the status of COMMAND.
# VM_TIMEOUT: seconds until a machine counts as hung (1800).
# VM_ICOUNT:  if set, one processor and a clock that counts instructions, so that times are repeatable

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"
# shellcheck source=scripts/vm/machine.sh
. "$(dirname "$0")/machine.sh"

if [ "${1:-}" != --inside ]; then
	mkdir -p "$cache/log"
	vars=()
	for name in VM_ENV VM_TIMEOUT VM_ICOUNT ${VM_ENV:-}; do
		vars+=("$name=${!name:-}")
	done
	exec "$top/scripts/root/enter.sh" env HOST_CACHE="$cache" "${vars[@]}" scripts/vm/boot.sh --inside "$@"
fi
shift

release=$1
shift
kernel=/boot/vmlinuz-$release
find /cache/log -ignore_readdir_race -name 'vm-*' -mtime +1 -delete
log=$(mktemp /cache/log/vm-XXXXXX.log)
shown=$HOST_CACHE${log#/cache}
ln -sf "${log##*/}" /cache/log/vm.log

if [ -n "${VM_ICOUNT:-}" ]; then
	accel=(--disable-kvm "--qemu-opts=-icount shift=1,sleep=off${virt:+ $virt}")
	export VM_ACCEL="software emulation, instructions counted"
	cpus=1
else
	choose_accel "$kernel" /cache
	cpus=2
fi

cached_files /run/bin
[ "$1" = --shell ] || PATH=/run/bin:$PATH

# A machine whose clock counts instructions has no randomness of its own, and until it has been
# given some, each random number costs it thousands of instructions.
give_randomness() {
	cat <<'END'
python3 -c '
import fcntl, os, struct
RNDADDENTROPY = 0x40085203
with open("/dev/random", "wb") as random:
    fcntl.ioctl(random, RNDADDENTROPY, struct.pack("ii64s", 512, 64, os.urandom(64)))'
END
}

# share_with_guest ROOT: the checkout, the cache, the kernel's modules and what virtme-ng's init needs, in another root
# than this one. virtme-ng mounts its init there as 9p, which Debian's cloud kernels do not have: this mount.9p does it.
share_with_guest() {
	local dir
	for dir in /dev /src /cache /usr/lib/modules "$init"; do
		mkdir -p "$1$dir"
		mount --bind "$dir" "$1$dir"
	done
	# shellcheck disable=SC2016 # for the shell there
	printf '#!/bin/sh\nexec mount --bind %s "$2"\n' "$init" >"$1/usr/sbin/mount.9p"
	chmod +x "$1/usr/sbin/mount.9p"
}
init=/usr/lib/python3/dist-packages/virtme/guest

boot=(vng --run "$kernel" "${accel[@]}" --cpus "$cpus" --memory 2G --user root)
if [ -n "$cross" ]; then
	share_with_guest "/cache/${guest##*/}"
	boot+=(--arch "$arch" --root "/cache/${guest##*/}")
fi
if [ "$1" = --shell ]; then
	say "type 'exit' to stop the machine; the module is loaded, the tests are in selftests/"
	exec "${boot[@]}" --exec "modprobe ip_vs; insmod '$MODULE'; cd /src; exec bash -i"
fi

# The guest sees the root itself, not what is mounted on /tmp and /run of this namespace.
script=${log%.log}.sh
{
	[ -z "${VM_ICOUNT:-}" ] || give_randomness
	guest_script /src "$@"
} >"$script"
trap 'rm -f "$script"' EXIT
run_guest "$log" "$shown" "$script" "${boot[@]}"
