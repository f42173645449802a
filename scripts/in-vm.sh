#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: in-vm.sh COMMAND...   (or --shell)
#
# Runs COMMAND in a machine with Linux $KERNEL. MODULE is the module there, HARNESS the traffic
# program, WATCH ipvs-watch; variables named in VM_ENV are handed on. With --shell: a prompt
# there, the module loaded.
#
# IPVS: a variant that ipvs.sh builds; the variable names its directory there. If it has a module
# of its own, MODULE is that.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

release=$("$top/scripts/kernel.sh")
MODULE=$("$top/scripts/module.sh")/ip_vs_reuse.ko
programs=$("$top/scripts/harness.sh")
HARNESS=$programs/harness
WATCH=$programs/ipvs-watch
VM_ENV="MODULE HARNESS WATCH V IPVS ${VM_ENV:-}"
if [ -n "${IPVS:-}" ]; then
	IPVS=$("$top/scripts/ipvs.sh" "$IPVS")
	[ ! -e "$cache/${IPVS#/cache/}/ip_vs_reuse.ko" ] || MODULE=$IPVS/ip_vs_reuse.ko
fi
export MODULE HARNESS WATCH V IPVS VM_ENV
exec "$top/scripts/vm.sh" "$release" "$@"
