#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes what a release has, in build/dist: the source of the commit that is checked out, the Debian
# packages with the module for Linux $KERNEL, ipvs-watch, and the checksums of all of them.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

version=$(sed -n 's/^export IP_VS_REUSE_VERSION := //p' "$top/Kbuild")
dist=$top/build/dist

cd "$top"
[ -z "$(git status --porcelain)" ] ||
	die "there are changes that are not committed: the source and the packages would differ; commit them ('git status')"
grep -q "^## $version\b" CHANGELOG.md || die "CHANGELOG.md says nothing of $version"

"$top/scripts/package/deb.sh" >/dev/null
"$top/scripts/build/harness.sh" --here >/dev/null
rm -rf "$dist"
mkdir -p "$dist"
git archive --prefix="ip-vs-reuse-$version/" HEAD | xz >"$dist/ip-vs-reuse-$version.tar.xz"
cp build/deb/*.deb "$dist/"
cp build/ipvs-watch "$dist/ipvs-watch-$version-$(uname -m)"
(cd "$dist" && sha256sum -- * >SHA256SUMS)
say "the release $version is in build/dist"
ls "$dist"
