#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: enter.sh COMMAND...
#
# Runs COMMAND in the build root. Its working directory is the checkout, mounted at /src; the cache is
# at /cache. It uses the host's network (resolver, certificates, proxies) and nothing else of the host.
#
# LAYER: if set, COMMAND sees the root with the packages of that layer (layer.sh), and its changes to the root
# are discarded. Those of the command that makes the layer are the layer.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

[ -e "$root/.complete" ] || die "there is no build root yet: run 'make root'"

if [ "${1:-}" != --inside ]; then
	exec "$top/scripts/root/in-namespace.sh" "$0" --inside "$@"
fi
shift

mkdir -p "$root/src" "$root/cache" "$cache"
mount --make-rprivate /
if [ -n "${LAYER:-}" ]; then
	cd "$cache"	# overlayfs takes no path with a colon
	lower=${root##*/} upper=$LAYER/packages work=$LAYER/work
	if [ -e "$LAYER/.complete" ]; then
		mount -t tmpfs tmpfs "$lower/tmp"
		mkdir "$lower/tmp/"{changed,work}
		upper=$lower/tmp/changed work=$lower/tmp/work lower=$LAYER/packages:$lower
	fi
	mount -t overlay overlay "$root" -o "lowerdir=$lower,upperdir=$upper,workdir=$work"
else
	mount --bind "$root" "$root"	# virtiofsd serves nothing that it does not find among the mounts
fi
mount -t proc proc "$root/proc"
for dir in dev sys; do
	mount --rbind "/$dir" "$root/$dir"
done
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
mount --bind "$top" "$root/src"
mount --bind "$cache" "$root/cache"
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
	if [ -e "$file" ]; then
		[ -e "$root$file" ] || touch "$root$file"
		mount --bind "$(realpath "$file")" "$root$file"
	fi
done

keep=()
[ -z "$cross" ] || keep+=("ARCH=$arch")
for name in TERM CI V http_proxy https_proxy no_proxy; do
	[ -n "${!name:-}" ] && keep+=("$name=${!name}")
done
# Not exec: the namespace's first process takes no signal that it does not ask for, and the
# command is to be stopped with Ctrl-C like any other.
trap 'exit 130' INT TERM
chroot "$root" /usr/bin/env -i -C /src "${keep[@]}" \
	HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/cache/target "$@"
