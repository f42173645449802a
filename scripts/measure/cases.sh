#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: cases.sh
#
# Renews the tables of docs/cases.md: those of the last `make test-all`, from its log in the cache, and that of
# `make compare`, which it runs. The page's text stays.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

page=$top/docs/cases.md
log=$cache/log/test.log
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

# table WORD: the table in what it reads that has a section, or a column, of that name.
table() {
	awk -v word="$1" '
		/^(# )?Linux .*QEMU/ { table = ""; inside = 1; wanted = 0 }
		!inside { next }
		{ sub(/^# ?/, ""); table = table $0 "\n" }
		$0 == word ":" || / / && index($0, " " word " ") { wanted = 1 }
		/^first packets lost/ && wanted { printf "%s", table; found = 1; exit }
		END { exit !found }' || die "there is no table with '$1': run make test-all"
}

table hostile <"$log" >"$new/1"
table paths <"$log" >"$new/2"
say "running make compare (four minutes)"
make -s -C "$top" compare >"$cache/log/compare.log"
table tencent <"$cache/log/compare.log" >"$new/3"

awk -v new="$new" '
	/^```/ { inside = !inside; print; if (inside) { n++; while ((getline line < (new "/" n)) > 0) print line } next }
	!inside' "$page" >"$new/page"
[ "$(grep -c '^```$' "$new/page")" = 6 ] || die "$page does not have three tables"
cp "$new/page" "$page"
