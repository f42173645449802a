#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Unpacks Docker from Debian 13's packages into a cache directory that is named by a hash of this script, and
# prints the path of that directory inside the build root. It is not installed there: nothing but 'make test-swarm'
# wants it. What the packages need besides is in the build root already, and apt says so if it is not.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

name=docker-$(key "$0")
packages=(docker.io docker-cli containerd runc)

if [ "${1:-}" = --inside ]; then
	mkdir -p /tmp/apt/{lists,archives}
	apt=(apt-get -q -o APT::Sandbox::User=root -o Dir::State::lists=/tmp/apt/lists -o Dir::Cache=/tmp/apt)
	"${apt[@]}" update
	"${apt[@]}" install --download-only -y --no-install-recommends "${packages[@]}"
	mkdir -p "/cache/$name.new"
	for deb in /tmp/apt/archives/*.deb; do
		dpkg-deb -x "$deb" "/cache/$name.new"
	done
	rm -rf "/cache/$name.new"/usr/share
	exit
fi

[ -e "$cache/$name" ] || lock docker
if [ ! -e "$cache/$name" ]; then	# nor has another make unpacked it meanwhile
	need_space 1
	rm -rf "$cache/$name.new"
	step "$cache/log/docker.log" "fetching Docker (70 MB)" "$top/scripts/root/enter.sh" scripts/build/docker.sh --inside
	mv "$cache/$name.new" "$cache/$name"
fi
echo "/cache/$name"
