#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: boot-kdir.sh COMMAND...
#
# Boots the kernel of the tree KDIR in QEMU on a copy-on-write view of this machine, as `vng --run` does in that
# tree: its image and its modules are used where they are. Runs COMMAND there as root in the checkout, and exits
# with its status. Passes on the variables named in VM_ENV.
#
# A hang, a panic, or a warning in the kernel's log is a failure, whatever the status of COMMAND.
# KDIR:       an absolute path, as check-kdir.sh prints it
# VM_TIMEOUT: seconds until a machine counts as hung (1800).

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"
# shellcheck source=scripts/vm/machine.sh
. "$(dirname "$0")/machine.sh"

work=$top/build/vm
log=$work/kernel.log
rm -rf "$work/tree"
mkdir -p "$work/tree"

# vng makes an index of the modules in the tree that it is given: this one has links only.
ln -s "$KDIR"/* "$KDIR/.config" "$work/tree/"

choose_accel "$KDIR/$image" "$work"
cached_files "$work/bin"
PATH=$work/bin:$PATH
guest_script "$top" "$@" >"$work/command.sh"
# The tests install a module beside the tree's, and not all checkouts are where vng's guest can write.
run_guest "$log" "$log" "$work/command.sh" vng --run "$work/tree" "${accel[@]}" --cpus 2 --memory 2G --user root \
	--overlay-rwdir "$top"
