#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests the packages on a pristine Debian 13 machine: install, use, a new kernel, purge. The commands
# about packages are those of docs/install.md, line by line.
#
# The machine is a directory: a pristine root (in the cache) with an overlay. An administrator's
# commands run in a chroot, without a boot, because compilers are slow in an emulated machine. To test
# the module, the machine boots with its own kernel and systemd, always in software emulation. What it
# writes then is discarded.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

# A director that runs Debian's own kernel.
packages=(ca-certificates conntrack ipvsadm iproute2 kmod linux-headers-cloud-amd64
	linux-image-cloud-amd64 nftables procps systemd-sysv udev)
options=(--variant=apt --include="${packages[*]}" --aptopt='Apt::Install-Recommends "false"'
	--dpkgopt=force-unsafe-io --skip=cleanup/apt/lists trixie)
pristine=pristine-$(key "${root_inputs[@]}" <(echo "${options[@]}"))

unpack() {
	mmdebstrap "${options[@]}" - \
		"$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d/trixie-backports.list" |
		"$top/scripts/root/in-namespace.sh" tar -x --exclude='./dev/*' -C "$cache/$pristine.new"
}

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel/get-kernel.sh")
	"$top/scripts/package/deb.sh" >/dev/null
	harness=$("$top/scripts/build/harness.sh")
	lock deb-test
	if [ ! -e "$cache/$pristine" ]; then
		need_space 8
		"$top/scripts/root/in-namespace.sh" rm -rf --one-file-system "$cache/$pristine.new"
		mkdir "$cache/$pristine.new"
		step "$cache/log/pristine.log" "making a pristine Debian 13 machine" unpack
		mv "$cache/$pristine.new" "$cache/$pristine"
	fi
	say "install, use, upgrade, purge (twenty minutes; all that the machine says: $cache/log/deb-test.log)"
	exec "$top/scripts/root/enter.sh" scripts/package/deb-test.sh --inside "$release" "$harness"
fi

new=$2 harness=$3
pristine=/cache/$pristine
machine=/cache/deb-test		# what was changed since
log=/cache/log/deb-test.log
rm -rf --one-file-system "$machine"
trap 'rm -rf --one-file-system "$machine"' EXIT
mkdir -p "$machine"/{changed,work}
: >"$log"

# in_machine COMMAND: as an administrator types it, the machine not booted.
in_machine() {
	printf '\n# %s\n' "$1" >>"$log"
	# shellcheck disable=SC2016 # for the shell inside
	unshare --mount --propagation unchanged bash -ec '
		mkdir -p /tmp/machine
		mount -t overlay overlay /tmp/machine \
			-o "lowerdir=$0,upperdir=$1/changed,workdir=$1/work"
		for dir in dev proc sys; do
			mount --rbind /$dir /tmp/machine/$dir
		done
		mount -t tmpfs tmpfs /tmp/machine/run
		mkdir -p /tmp/machine/root/build
		mount --bind /src/build /tmp/machine/root/build
		mount --bind /etc/resolv.conf /tmp/machine/etc/resolv.conf
		chroot /tmp/machine env -i -C /root HOME=/root LANG=C.UTF-8 PATH="$PATH" \
			DEBIAN_FRONTEND=noninteractive bash -ec "$2"
	' "$pristine" "$machine" "$1" 2>&1 | tee -a "$log"
}

# as_in_docs COMMAND: likewise; but docs/install.md has this line.
as_in_docs() {
	grep -qxF "    $1" docs/install.md || die "docs/install.md does not say: $1"
	in_machine "$(sed 's/sudo apt /apt -y /; s/sudo //g' <<<"$1")"
}

# boot RELEASE COMMAND: boots the machine as it is with that kernel, runs COMMAND there when
# systemd has brought it up so far, and prints what it says. /test has the tests.
boot() {
	printf '\n# boots Linux %s: %s\n' "$1" "$2" >>"$log"
	rm -rf --one-file-system "$machine/booted"
	mkdir -p "$machine"/booted/{changed/test,work}
	cp -r selftests "$harness/harness" "$machine/booted/changed/test/"
	printf '%s\n' '#!/bin/bash' 'cd /test; exec >/test/said 2>&1' \
		'export HARNESS=/test/harness WATCH=/usr/sbin/ipvs-watch HOME=/root' "$2" \
		'echo "status $?"' >"$machine/booted/changed/test/run"
	chmod +x "$machine/booted/changed/test/run"
	# shellcheck disable=SC2016 # for the shell inside
	unshare --mount --propagation unchanged bash -ec '
		mkdir -p /tmp/machine
		mount -t overlay overlay /tmp/machine \
			-o "lowerdir=$1/changed:$0,upperdir=$1/booted/changed,workdir=$1/booted/work"
		/usr/libexec/virtiofsd --sandbox none --cache always --shared-dir /tmp/machine \
			--socket-path /run/machine &
		while [ ! -S /run/machine ]; do
			sleep 0.1
		done
		timeout --kill-after=10 900 qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 \
			-m 2G -object memory-backend-memfd,id=memory,size=2G,share=on \
			-numa node,memdev=memory -chardev socket,id=root,path=/run/machine \
			-device vhost-user-fs-pci,chardev=root,tag=root -nodefaults -no-user-config \
			-display none -serial stdio -no-reboot -kernel "/tmp/machine/boot/vmlinuz-$2" \
			-append "root=root rootfstype=virtiofs rw console=ttyS0 panic=-1 systemd.run=/test/run"
		wait
	' "$pristine" "$machine" "$1" </dev/null >"$log.console" 2>&1 || true
	cat "$log.console" "$machine/booted/changed/test/said" >>"$log" 2>/dev/null
	if grep -E -m 1 -A 20 'BUG:|WARNING:|Oops|Kernel panic|general protection|Call Trace' "$log.console"; then
		return 1
	fi
	cat "$machine/booted/changed/test/said"
	grep -qx 'status 0' "$machine/booted/changed/test/said"
}

# check WHAT COMMAND...: one step of the machine's life, without which there is no next.
check() {
	local what=$1
	shift
	if ! "$@" >/tmp/said 2>&1; then
		echo "not ok - packages: $what"
		tail -n 30 /tmp/said | sed 's/^/# /'
		exit 1
	fi
	echo "ok - packages: $what"
}

# installed RELEASE PACKAGE MODULE: whether DKMS has built and installed the module for it, signed.
installed() {
	in_machine "dkms status $2 -k $1 | tee /dev/stderr | grep -q installed
		modinfo -k $1 $3 | tee /dev/stderr | grep -q '^signer: *DKMS'"
}
not_installed() { ! in_machine "modinfo -k $1 $2"; }

# Each loses its first packet on the stock kernel, and must not with the module.
cases="selftests/reuse/basics.sh server_rst drained_while_open server_rst_masqueraded"

##############################################################################

stock=$(in_machine "ls /usr/lib/modules" | tail -n 1)
old=$(in_machine "apt-cache pkgnames linux-headers-7.2" |
	sed -n 's/^linux-headers-\(.*-cloud-amd64\)$/\1/p' | sort -V | tail -n 1)

nothing_left() {
	in_machine "apt -y autoremove --purge" || return
	# Not what was deleted, overlayfs makes devices of it; nor the key with which DKMS signs, which
	# it keeps.
	! find "$machine/changed" ! -type c -printf '/%P\n' |
		grep -E 'ip[-_]vs[-_](reuse|fixed)|ipvs-watch|dkms' |
		grep -vxE '/var/lib/dkms(/mok\.(key|pub))?'
}

# Debian's own kernel: no Rust, the fixed IPVS.

check "install the fixed IPVS" as_in_docs "sudo apt install ./build/deb/ip-vs-fixed-dkms_*.deb"
check "DKMS has built it for Linux $stock, and signed it" installed "$stock" ip-vs-fixed ip_vs
fixed() {
	# What would run with the module is skipped (4).
	boot "$stock" "unset WATCH; IPVS=yes $cases; [ \$? = 4 ]"
}
check "Linux $stock boots: no first packet is lost" fixed
check "purge" as_in_docs "sudo apt purge ip-vs-fixed-dkms"
check "nothing is left" nothing_left

# A kernel from backports, with Rust: the module.

check "the machine gets Linux $old" in_machine \
	"apt -y install -t trixie-backports linux-image-$old linux-headers-$old linux-source"
check "install" as_in_docs \
	"sudo apt install ./build/deb/ip-vs-reuse-{common,dkms}_*.deb ./build/deb/ipvs-watch_*.deb"
skipped() {
	not_installed "$old" ip_vs_reuse &&
		in_machine "grep '^skipped: .*linux-source-7.2' /var/lib/dkms/ip-vs-reuse/*/build/make.log"
}
check "Linux $old is skipped while its source is not there, and DKMS's log says why" skipped
check "its source comes" in_machine "apt -y install -t trixie-backports linux-source-7.2"
check "DKMS has built the module for Linux $old, and signed it" installed "$old" ip-vs-reuse ip_vs_reuse
check "Linux $stock was skipped" not_installed "$stock" ip_vs_reuse

at_work() {
	# shellcheck disable=SC2016 # for the shell there
	boot "$old" '! lsmod | grep ip_vs || exit
		modprobe ip_vs_reuse && cat /proc/net/ip_vs_reuse && rmmod ip_vs_reuse || exit
		ipvsadm -A -t 10.99.0.1:80 -s p2c && lsmod | grep ip_vs_reuse && ipvsadm -C && rmmod ip_vs_reuse || exit
		MODULE=$(modinfo -n ip_vs_reuse) '"$cases"
}
check "Linux $old boots: nothing is loaded; modprobe and ipvsadm load it; no first packet is lost" at_work

check "opt in" as_in_docs "echo ip_vs_reuse | sudo tee /etc/modules-load.d/ip_vs_reuse.conf"
check "a new kernel" as_in_docs \
	"sudo apt install -t trixie-backports linux-image-cloud-amd64 linux-headers-cloud-amd64 linux-source"
check "DKMS has built the module for Linux $new, and signed it" installed "$new" ip-vs-reuse ip_vs_reuse
check "node_exporter" in_machine "apt -y install curl prometheus-node-exporter"
loaded_at_boot() {
	# shellcheck disable=SC2016 # for the shell there
	boot "$new" 'lsmod | grep ip_vs_reuse || exit
		mkdir /tmp/metrics
		ipvs-watch --prometheus /tmp/metrics/ipvs-watch.prom &
		MODULE_IS_IN=yes '"$cases"' || exit
		kill $! && wait $! || exit
		prometheus-node-exporter --collector.disable-defaults --collector.textfile \
			--collector.textfile.directory=/tmp/metrics &
		curl --silent --retry 30 --retry-connrefused localhost:9100/metrics >/tmp/read
		grep textfile_scrape_error /tmp/read; grep ipvs_watch /tmp/read
		grep -qx "node_textfile_scrape_error 0" /tmp/read &&
			grep -qx "ipvs_watch_replayed_packets_total 3" /tmp/read'
}
check "Linux $new boots: the module is in, no first packet is lost, node_exporter tells" loaded_at_boot

check "purge" as_in_docs "sudo apt purge 'ip-vs-reuse-*' ipvs-watch"
check "nothing is left" nothing_left

# Without compilers.

check "install what is built already" as_in_docs \
	"sudo apt install ./build/deb/ip-vs-reuse-{common_,modules-}*.deb ./build/deb/ipvs-watch_*.deb"
built_already() {
	# shellcheck disable=SC2016 # for the shell there
	boot "$new" 'modprobe ip_vs_reuse && rmmod ip_vs_reuse || exit
		MODULE=$(modinfo -n ip_vs_reuse) '"$cases"
}
check "Linux $new boots: no first packet is lost" built_already
check "purge" as_in_docs "sudo apt purge 'ip-vs-reuse-*' ipvs-watch"
check "nothing is left" nothing_left
