#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: in-vm.sh COMMAND...   (or --shell)
#
# Runs COMMAND in a virtual machine with Linux $KERNEL. The environment there has the paths of the
# module (MODULE), the traffic program (HARNESS) and ipvs-watch (WATCH), and the variables named in
# VM_ENV. With --shell: starts a shell there, with the module loaded.
#
# IPVS: a variant that ipvs-variant.sh builds. In the VM it is the path of the directory with that variant. If
# the directory has an ip_vs_reuse.ko, MODULE is that one.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

release=$("$top/scripts/kernel/get-kernel.sh")
MODULE=$("$top/scripts/build/module.sh")/ip_vs_reuse.ko
programs=$("$top/scripts/build/harness.sh")
HARNESS=$programs/harness
WATCH=$programs/ipvs-watch
VM_ENV="MODULE HARNESS WATCH V IPVS ${VM_ENV:-}"
if [ -n "${IPVS:-}" ]; then
	IPVS=$("$top/scripts/build/ipvs-variant.sh" "$IPVS")
	[ ! -e "$cache/${IPVS#/cache/}/ip_vs_reuse.ko" ] || MODULE=$IPVS/ip_vs_reuse.ko
fi
export MODULE HARNESS WATCH V IPVS VM_ENV
exec "$top/scripts/vm/boot.sh" "$release" "$@"
