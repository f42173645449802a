#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: same-exports.sh HEADERS DIRECTORY
#
# Whether the ip_vs.ko that was built in DIRECTORY exports what the stock one of HEADERS does. With
# CONFIG_MODVERSIONS the stock schedulers load on top only if these are the stock one's.

set -euo pipefail

exports() { awk '$3 ~ /(^|\/)ip_vs$/ { print $2, $1 }' "$1/Module.symvers" | sort; }

if ! changed=$(diff <(exports "$1") <(exports "$2")); then
	echo "same-exports: the stock schedulers would not load: the patches change what ip_vs.ko exports, or its checksums (__GENKSYMS__ hides an #include from them): $changed" >&2
	exit 1
fi
