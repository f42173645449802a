#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: in-namespace.sh COMMAND...
#
# Runs COMMAND as root in its own mount and PID namespaces, so that its mounts and processes are gone
# when it ends, even if it is killed. For an unprivileged user this needs a user namespace, with
# subordinate ids from /etc/subuid.

set -euo pipefail

isolate=(unshare --mount --pid --fork --kill-child)

if [ "$(id -u)" = 0 ]; then
	exec "${isolate[@]}" "$@"
fi
if ! unshare --user --map-auto --map-root-user --mount true 2>/dev/null; then
	echo "this user cannot make user namespaces with subordinate ids: run make as root (sudo make ...)," \
		"or allow it (packages uidmap; an entry in /etc/subuid and /etc/subgid;" \
		"sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)" >&2
	exit 1
fi
exec "${isolate[@]}" --user --map-auto --map-root-user "$@"
