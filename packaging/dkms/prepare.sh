#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: prepare.sh RELEASE
#
# DKMS runs this in its copy of the module's source before it builds: makes kernel/, against which
# Rust modules for Linux RELEASE are built (rust-crates.sh), from linux-source. Where that cannot
# be done it says why.

# shellcheck source=packaging/dkms/common.sh
. "${0%/*}/common.sh"

scripts/rust-crates.sh "$headers" || skip "no Rust module can be built here for Linux $release"

# What no crate is made of is left in the archive.
trap 'rm -rf kernel' ERR
unpack_source kernel --exclude="$source/Documentation/*/*" --exclude="$source/arch/[!x]*/*.[chS]" \
	--exclude="$source/arch/*/boot/dts" --exclude="$source/drivers/*.c" \
	--exclude="$source/drivers/gpu/drm/*/*.h" --exclude="$source/fs/*.c" --exclude="$source/net/*.c" \
	--exclude="$source/sound/*.[ch]" --exclude="$source/tools/perf" --exclude="$source/tools/testing"
scripts/rust-crates.sh "$headers" kernel
