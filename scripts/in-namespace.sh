#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: in-namespace.sh COMMAND...
#
# Runs COMMAND as root, in mount and process namespaces of its own: what it mounts and what it
# leaves running is gone when it ends, however it ends. For a normal user that takes a user
# namespace, with the subordinate ids that /etc/subuid gives.

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
