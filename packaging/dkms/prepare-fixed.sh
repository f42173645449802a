#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: prepare-fixed.sh RELEASE
#
# DKMS runs this in its copy of the patches before it builds: makes source/, IPVS of Linux RELEASE
# with the patches of its series, from linux-source. Where that cannot be done it says why.

# shellcheck source=packaging/dkms/common.sh
. "${0%/*}/common.sh"

unpack_source source --wildcards '*/net/netfilter/ipvs' '*/Documentation/networking/ipvs-sysctl.rst'
cat "patches/${source#linux-source-}"/nf/000[1-9]-*.patch | patch -d source -p1
