# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What boot.sh and boot-kdir.sh share: the virtual machine of each architecture, how virtme-ng runs a command
# in it, and what must not be in the kernel's log. To add an architecture, start in common.sh.
# Sourced after common.sh, not run.
# shellcheck disable=SC2154 # arch, cross and machine are common.sh's

# arm64's QEMU has many machines, and no default. Signing pointers as hardware does would take most of its time.
virt=
[ "$arch" != arm64 ] || virt="-M virt,gic-version=3 -cpu max,pauth-impdef=on"

# kvm_works KERNEL DIRECTORY: whether a guest really runs under KVM: a kernel without a root file system
# panics and reboots within seconds. The device's presence says nothing. Asked once per boot of the host;
# the answer is kept in DIRECTORY.
kvm_works() {
	local answer
	answer=$2/kvm-$(cat /proc/sys/kernel/random/boot_id)
	if [ ! -e "$answer" ]; then
		# In braces: nor shall the shell say what killed it.
		if [ -w /dev/kvm ] && { timeout 15 "qemu-system-$machine" ${virt:+-M virt,gic-version=host} -accel kvm -cpu host -m 512 \
			-no-reboot -display none -monitor none -serial none \
			-kernel "$1" -append panic=-1 </dev/null >/dev/null; } 2>/dev/null; then
			echo yes >"$answer"
		else
			echo no >"$answer"
		fi
	fi
	[ "$(cat "$answer")" = yes ]
}

# choose_accel KERNEL DIRECTORY: sets `accel`, options of vng, and VM_ACCEL, their name for people.
# shellcheck disable=SC2034 # used by the scripts that source this
choose_accel() {
	accel=()
	export VM_ACCEL=KVM
	if [ -n "$cross" ] || ! kvm_works "$@"; then
		accel=(--disable-kvm ${virt:+"--qemu-opts=$virt"})
		VM_ACCEL="software emulation"
	fi
}

# cached_files DIRECTORY: makes a virtiofsd there, to be found first in PATH. As vng starts it, virtiofsd
# tells the guest to ask again about each file after a second, and under emulation most of a short process is
# such questions. Nothing changes below a test.
cached_files() {
	[ -x /usr/libexec/virtiofsd ] || return 0
	mkdir -p "$1"
	printf '#!/bin/sh\nexec /usr/libexec/virtiofsd --cache always "$@"\n' >"$1/virtiofsd"
	chmod +x "$1/virtiofsd"
}

# guest_script DIRECTORY COMMAND...: what the guest runs: COMMAND in DIRECTORY, with VM_ACCEL and the variables
# that VM_ENV names.
guest_script() {
	local name
	printf 'exec 2>&1\ncd %q || exit\n' "$1"
	for name in VM_ACCEL ${VM_ENV:-}; do
		printf 'export %s=%q\n' "$name" "${!name:-}"
	done
	printf '%q ' "${@:2}"
}

# run_guest LOG SHOWN SCRIPT VNG...: runs SCRIPT in a machine that the command VNG boots, and returns its status.
# Dies if the machine hangs, does not boot, or if its kernel complains. LOG is that of the kernel; SHOWN is its
# path for people.
run_guest() {
	local log=$1 shown=$2 script=$3 status=0 failure
	shift 3
	boot_guest "$@" || status=$?
	# Seldom QEMU 10.0 fails an assertion of its own while one processor maps devices and another runs.
	if failure=$(grep -m 1 -o 'qemu-system.*Assertion.*' "$log") && ! grep -q 'starting script' "$log"; then
		say "QEMU itself has failed ($failure): once more"
		status=0
		boot_guest "$@" || status=$?
	fi
	judge "$log" "$shown" "$status"
	return "$status"
}

boot_guest() {
	# Through pipes, both: the machine and its command would overwrite each other in a file.
	timeout --kill-after=10 "${VM_TIMEOUT:-1800}" \
		"$@" --verbose --append "panic=-1 oops=panic sysctl.kernel.hung_task_all_cpu_backtrace=1" --exec "bash $script" \
		</dev/null 2> >(cat >"$log") | cat
}

# without_known LOG: the log without what lockdep says of the kernel alone, whatever is loaded: SCTP reads a list
# under its socket's lock.
without_known() {
	awk -v known='net/sctp/bind_addr[.]c:[0-9]+ RCU-list traversed in non-reader section' '
		function judge() { if (report !~ known) printf "%s", report; report = "" }
		/WARNING:|BUG:/ { judge(); inside = /suspicious RCU usage/ }
		!inside { print; next }
		{ report = report $0 "\n" }
		/<\/TASK>/ { judge(); inside = 0 }
		END { judge() }' "$1"
}

# judge LOG SHOWN STATUS
judge() {
	local judged bad='BUG:|WARNING:|Oops|Kernel panic|general protection|Call Trace|rcu.*stall|blocked for more than|refcount_t|UBSAN:|lockdep is turned off|unregister_netdevice: waiting'

	judged=$(without_known "$1")
	if (($3 == 124 || $3 == 137)); then
		tail -n 25 "$1" >&2
		die "the machine did not end within ${VM_TIMEOUT:-1800} s (log: $2)"
	elif grep -qE "$bad" <<<"$judged"; then
		grep -E -m 1 -A 25 "$bad" <<<"$judged" >&2
		die "the kernel complained (log: $2)"
	elif ! grep -q 'Linux version' "$1"; then
		tail -n 25 "$1" >&2
		die "the machine did not boot (log: $2)"
	fi
}
