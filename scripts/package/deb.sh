#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the Debian packages of packaging/debian, with the module for Linux $KERNEL built, has
# lintian and mandoc look at them, and leaves them in build/deb.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel/get-kernel.sh")
	LAYER=$("$top/scripts/root/layer.sh" build-essential debhelper dh-dkms lintian mandoc)
	export LAYER
	lock deb
	step "$cache/log/deb.log" "building the packages, with the module for Linux $release" \
		"$top/scripts/root/enter.sh" scripts/package/deb.sh --inside "$release"
	ls "$top"/build/deb/*.deb
	exit
fi

# What follows runs in the build root.
release=$2
version=$(sed -n 's/^export IP_VS_REUSE_VERSION := //p' Kbuild)

# A copy of what is tracked, and of what is about to be.
tree=/tmp/deb/ip-vs-reuse-$version
mkdir -p "$tree"
git config --global --add safe.directory /src
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
cd "$tree"
mv packaging/debian debian
sed -i "s/@RELEASE@/$release/g" debian/control debian/*@RELEASE@*
for file in debian/*@RELEASE@*; do
	mv "$file" "${file//@RELEASE@/$release}"
done
SOURCE_DATE_EPOCH=$(git -C /src log -1 --format=%ct)
export SOURCE_DATE_EPOCH
cat >debian/changelog <<END
ip-vs-reuse ($version) unstable; urgency=medium

  * Built from commit $(git -C /src log -1 --format=%h).

 -- $(sed -n 's/^Maintainer: //p' debian/control)  $(date -R -u -d "@$SOURCE_DATE_EPOCH")
END

mandoc -Tlint -Wwarning docs/man/*
RELEASE=$release CARGO_TARGET_DIR=/cache/target/deb DEB_BUILD_OPTIONS=noautodbgsym \
	dpkg-buildpackage --build=binary --unsigned-changes
lintian --fail-on error,warning --allow-root ../*.changes

mkdir -p /src/build/deb
rm -f /src/build/deb/*
cp /tmp/deb/*.deb /src/build/deb/
