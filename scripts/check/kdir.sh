#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests the module on a kernel tree of your own, KDIR: builds the module, the traffic program and ipvs-watch with
# this machine's compilers, boots that very kernel under this machine's virtme-ng, and runs the short set of
# selftests. Everything is left in build/; nothing is written into KDIR. It needs no build root, and downloads
# nothing but crates.
#
# KDIR:  the directory that the kernel was built in: the source, or the O= directory
# TESTS: what to run instead, as selftests/run.sh takes it: TESTS="reuse/basics.sh server_rst"

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

log=$top/build/check.log

has_btf() { grep -q '^CONFIG_DEBUG_INFO_BTF_MODULES=y' "$KDIR/.config"; }

# A kernel that can be booted here.
check_kernel() {
	[ -z "$cross" ] || die "ARCH=$arch: only a kernel of this machine's own architecture can be booted"
	[ -e "$KDIR/$image" ] || die "$KDIR has no $image: make ${LLVM:+LLVM=$LLVM }-j$(nproc) there"
	[ -e "$KDIR/modules.order" ] || die "$KDIR has no modules: make ${LLVM:+LLVM=$LLVM }modules there"
}

# Options that the tests need. A test that lacks one is skipped, so this is a warning.
check_options() {
	local option missing=() make="make ${LLVM:+LLVM=$LLVM }" source=
	while read -r option; do
		grep -q "^${option/%=m/=[ym]}\$" "$KDIR/.config" || missing+=("${option%=*}")
	done < <(grep ^CONFIG_ "$top/selftests/config")
	[ ! -e "$KDIR/source" ] || source=source/
	((${#missing[@]} == 0)) ||
		say "$KDIR lacks what some tests need: ${missing[*]} (in there: ${source}scripts/kconfig/merge_config.sh -m .config $top/selftests/config && ${make}olddefconfig && $make-j$(nproc))"
}

# need PACKAGE COMMAND, or need PACKAGE /FILE
lacking=()
need() {
	if [[ $2 = /* ]]; then
		[ ! -e "$2" ] || return 0
	elif command -v "$2" >/dev/null; then
		return 0
	fi
	say "missing: ${2##*/} (Debian: $1)"
	lacking+=("$1")
}

check_tools() {
	need cargo cargo
	need gcc cc
	need virtme-ng vng
	need qemu-system-native "qemu-system-$machine"
	need kmod depmod
	need udev udevadm	# without it the machine has no names for the files that virtme-ng opens
	need iproute2 tc
	need ipvsadm ipvsadm
	need conntrack conntrack
	need nftables nft
	need python3 python3
	if has_btf; then
		need clang clang
		need pkgconf pkg-config
		need libelf-dev /usr/include/libelf.h
		need zlib1g-dev /usr/include/zlib.h
	fi
	((${#lacking[@]} == 0)) || die "install what is missing: sudo apt install ${lacking[*]}"
}

build_programs() {
	local name
	export CARGO_TARGET_DIR=$top/build/target
	rm -f "$top"/build/{harness,ipvs-watch}
	cd "$top"
	cargo build --locked --release "${programs[@]/#/--package=}" || return
	for name in "${programs[@]}"; do
		cp "$CARGO_TARGET_DIR/release/$name" build/
	done
}

KDIR=$("$top/scripts/build/check-kdir.sh")
export KDIR IP_VS_REUSE_SELFTESTS=m VM_ENV=V
check_kernel
check_options
check_tools
step "$top/build/module.log" "building ip_vs_reuse.ko" "$top/scripts/build/module-for-kdir.sh"
programs=(harness)
if has_btf; then
	programs+=(ipvs-watch)
else
	say "$KDIR has no BTF of modules: ipvs-watch is left out; the clients and the module's counters judge"
fi
step "$top/build/programs.log" "building ${programs[*]}" build_programs

say "booting Linux $(cat "$KDIR/include/config/kernel.release")"
status=0
# shellcheck disable=SC2086 # a list
"$top/scripts/vm/boot-kdir.sh" selftests/run.sh ${TESTS:-short} 2>&1 | tee "$log" || status=1
summarize "$log" $status
! grep '^1\.\.0 # SKIP' "$log" || die "not all was tested, for lack of what these lines say"
