#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: vm.sh RELEASE COMMAND...   (or --shell)
#
# Boots Linux RELEASE (made by kernel.sh) in QEMU on a copy-on-write view of the
# build root, runs COMMAND there as root in /src, and exits with its status. Passes on the
# variables named in VM_ENV. Only COMMAND's output is kept; its changes to files are discarded.
# With --shell: starts a shell, with MODULE loaded.
#
# A hang, a panic, or a warning in the kernel's log is a failure, whatever the status of COMMAND.
# VM_TIMEOUT: seconds until a machine counts as hung (1800).
# VM_ICOUNT:  if set, one processor and a clock that counts instructions, so that times are repeatable

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

if [ "${1:-}" != --inside ]; then
	mkdir -p "$cache/log"
	vars=()
	for name in VM_ENV VM_TIMEOUT VM_ICOUNT ${VM_ENV:-}; do
		vars+=("$name=${!name:-}")
	done
	exec "$top/scripts/enter.sh" env HOST_CACHE="$cache" "${vars[@]}" scripts/vm.sh --inside "$@"
fi
shift

release=$1
shift
kernel=/boot/vmlinuz-$release
find /cache/log -name 'vm-*' -mtime +1 -delete
log=$(mktemp /cache/log/vm-XXXXXX.log)
shown=$HOST_CACHE${log#/cache}
ln -sf "${log##*/}" /cache/log/vm.log

# Whether a guest really runs under KVM: a kernel without a root file system panics and
# reboots within seconds. The device's presence says nothing. Asked once per boot of the host.
kvm_works() {
	local answer
	answer=/cache/kvm-$(cat /proc/sys/kernel/random/boot_id)
	if [ ! -e "$answer" ]; then
		# In braces: nor shall the shell say what killed it.
		if [ -w /dev/kvm ] && { timeout 15 qemu-system-x86_64 -accel kvm -cpu host -m 512 \
			-no-reboot -display none -monitor none -serial none \
			-kernel "$kernel" -append panic=-1 </dev/null >/dev/null; } 2>/dev/null; then
			echo yes >"$answer"
		else
			echo no >"$answer"
		fi
	fi
	[ "$(cat "$answer")" = yes ]
}

accel=()
export VM_ACCEL=KVM
cpus=2
if [ -n "${VM_ICOUNT:-}" ]; then
	cpus=1
	accel=(--disable-kvm "--qemu-opts=-icount shift=1,sleep=off")
	VM_ACCEL="software emulation, instructions counted"
elif ! kvm_works; then
	accel=(--disable-kvm)
	VM_ACCEL="software emulation"
fi

# As vng starts it, virtiofsd tells the guest to ask again about each file after a second, and
# under emulation most of a short process is such questions. Nothing changes below a test.
mkdir /run/bin
printf '#!/bin/sh\nexec /usr/libexec/virtiofsd --cache always "$@"\n' >/run/bin/virtiofsd
chmod +x /run/bin/virtiofsd
[ "$1" = --shell ] || PATH=/run/bin:$PATH

command="exec 2>&1; cd /src;"
for name in VM_ACCEL ${VM_ENV:-}; do
	command+=" export $name=$(printf %q "${!name}");"
done
# A machine whose clock counts instructions has no randomness of its own, and until it has been
# given some, each random number costs it thousands of instructions.
if [ -n "${VM_ICOUNT:-}" ]; then
	command+="
python3 -c '
import fcntl, os, struct
RNDADDENTROPY = 0x40085203
with open(\"/dev/random\", \"wb\") as random:
    fcntl.ioctl(random, RNDADDENTROPY, struct.pack(\"ii64s\", 512, 64, os.urandom(64)))'
"
fi
command+=" $(printf '%q ' "$@")"
# The guest sees the root itself, not what is mounted on /tmp and /run of this namespace.
script=${log%.log}.sh
printf '%s\n' "$command" >"$script"
trap 'rm -f "$script"' EXIT

boot=(vng --run "$kernel" "${accel[@]}" --cpus "$cpus" --memory 2G --user root)
if [ "$1" = --shell ]; then
	say "type 'exit' to stop the machine; the module is loaded, the tests are in selftests/"
	exec "${boot[@]}" --exec "modprobe ip_vs; insmod '$MODULE'; cd /src; exec bash -i"
fi

# Through pipes, both: the machine and its command would overwrite each other in a file.
status=0
timeout --kill-after=10 "${VM_TIMEOUT:-1800}" \
	"${boot[@]}" --verbose --append "panic=-1 oops=panic sysctl.kernel.hung_task_all_cpu_backtrace=1" --exec "bash $script" \
	</dev/null 2> >(cat >"$log") | cat || status=$?

bad='BUG:|WARNING:|Oops|Kernel panic|general protection|Call Trace|rcu.*stall|blocked for more than|refcount_t|UBSAN:|lockdep is turned off|unregister_netdevice: waiting'
# What lockdep says of the kernel alone, whatever is loaded: SCTP reads a list under its socket's lock.
known='net/sctp/bind_addr[.]c:[0-9]+ RCU-list traversed in non-reader section'
without_known() {
	awk -v known="$known" '
		function judge() { if (report !~ known) printf "%s", report; report = "" }
		/WARNING:|BUG:/ { judge(); inside = /suspicious RCU usage/ }
		!inside { print; next }
		{ report = report $0 "\n" }
		/<\/TASK>/ { judge(); inside = 0 }
		END { judge() }' "$log"
}
judged=$(without_known)

if ((status == 124 || status == 137)); then
	tail -n 25 "$log" >&2
	die "the machine did not end within ${VM_TIMEOUT:-1800} s (log: $shown)"
elif grep -qE "$bad" <<<"$judged"; then
	grep -E -m 1 -A 25 "$bad" <<<"$judged" >&2
	die "the kernel complained (log: $shown)"
elif ! grep -q 'Linux version' "$log"; then
	tail -n 25 "$log" >&2
	die "the machine did not boot (log: $shown)"
fi
exit "$status"
