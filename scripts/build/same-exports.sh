#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: same-exports.sh HEADERS DIRECTORY
#
# Checks that the ip_vs.ko built in DIRECTORY has the same exported symbols as the stock one of HEADERS.
# With CONFIG_MODVERSIONS, the stock schedulers load only if the symbols and their checksums match.

set -euo pipefail

exports() { awk '$3 ~ /(^|\/)ip_vs$/ { print $2, $1 }' "$1/Module.symvers" | sort; }

if ! changed=$(diff <(exports "$1") <(exports "$2")); then
	echo "same-exports: the stock schedulers would not load: the patches change what ip_vs.ko exports, or its checksums (__GENKSYMS__ hides an #include from them): $changed" >&2
	exit 1
fi
