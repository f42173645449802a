#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: layer.sh PACKAGE...
#
# Makes a layer on the build root: PACKAGEs that few steps need, and so are not in the root itself. Prints
# its name in the cache: enter.sh takes it as LAYER.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

name=layer-$suite-$(key "${root_inputs[@]}" <(echo "$@"))

# shellcheck disable=SC2317 # called by step
add_packages() {
	LAYER=$name "$top/scripts/root/enter.sh" env DEBIAN_FRONTEND=noninteractive sh -ec '
		apt-get update -q
		apt-get install -q -y --no-install-recommends "$@"
		apt-get clean' "$0" "$@"
}

[ -e "$cache/$name/.complete" ] || lock layer
if [ ! -e "$cache/$name/.complete" ]; then	# nor has another make made it meanwhile
	"$top/scripts/root/in-namespace.sh" rm -rf "$cache/$name"
	mkdir -p "$cache/$name"/{packages,work}
	step "$cache/log/layer.log" "adding to the build root: $*" add_packages "$@"
	touch "$cache/$name/.complete"
fi
echo "$name"
