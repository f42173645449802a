#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Prints README.md's table of kernels, made from scripts/kernel/supported. `make lint` says if README.md
# has another.

set -euo pipefail
cd "$(dirname "$0")/../.."

echo '| Linux | of Debian | what it takes | compilers | tested |'
echo '| --- | --- | --- | --- | --- |'
awk -F '\t' '
	/^#/ { next }
	$5 == "module" { takes = "the module"; compilers = "gcc " $4 ", rustc " $3 }
	$5 == "ip_vs" { takes = "a fixed `ip_vs.ko`"; compilers = "gcc " $4 }
	{ printf "| %s | %s | %s | %s | %s |\n", $1, $2, takes, compilers, $6 }' scripts/kernel/supported
