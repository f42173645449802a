#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: export-patches.sh [--check]
#
# Updates the patches that add the module to the kernel tree (net/netfilter/ipvs/reuse) from rust/,
# their source. It keeps everything else in the patches: the commit messages, and changes to other
# files. With --check: only fails if a patch is out of date.
#
# The kernel tree differs from rust/ in three ways. The bindings are those of the kernel crate
# (bindings/ is maintained in the patch). Files for a stock kernel only are left out. And ip_vs_reuse.rs,
# p2c.rs and mod.rs do not name modules that are left out, or that only a later patch adds.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel.sh")
	exec "$top/scripts/enter.sh" scripts/export-patches.sh --inside "$release" "$@"
fi
release=$2 mode=${3:-}
series=/src/patches/$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
home=net/netfilter/ipvs/reuse

# Where IPVS lets a module decide, it needs no hooks of its own; and that is Linux 7.3 or later.
stock_only=(hooks.rs hooks.c hooks.h base/{linux_7_2,periodic}.rs ipvs/lookup.rs net/for_each.rs netfilter/hooks.rs)

# files_of PATCH: the files of rust/ that are there with this patch.
files_of() {
	case ${1##*/} in
	*-ipvs-add-the-p2c-scheduler-*)
		printf '%s\n' ip_vs_reuse.rs p2c.rs sampler.rs base/{mod,rcu}.rs \
			ipvs/{destination,mod,scheduler,service}.rs ipvs/helpers.{c,h} net/{mod,packet}.rs
		;;
	*-ipvs-let-a-module-decide-*)
		(cd /src/rust && find . -type f ! -path './bindings/*' -printf '%P\n') |
			grep -vxFf <(printf '%s\n' "${stock_only[@]}")
		;;
	esac
}

# Leaves out modules that are not in the list `modules`, with their attributes, and the conditions
# under which there are others: a line that declares, uses or calls one, a field that is named for
# one, and the line about one in a list in the documentation.
cat >/tmp/names.awk <<'EOF'
BEGIN { split(modules, list); for (i in list) there[list[i]] }
/^#\[cfg(_attr)?\((not\()?(IP_VS_FLOW_OPS|LINUX_7_2)/ { next }
/^ *#\[/ { held = held $0 "\n"; next }
{
	name = ""
	if (match($0, /^(pub )?mod [a-z0-9_]+;/) || match($0, /^pub use self::[a-z0-9_]+/) ||
	    match($0, /^use crate::[a-z0-9_]+;/) || match($0, /^    +[a-z0-9_]+::[a-z_]+\(.*\);$/) ||
	    match($0, /^    +[a-z0-9_]+(:| <-) /) || match($0, /^\/\/! - \[`[a-z0-9_]+`\]/)) {
		name = substr($0, RSTART, RLENGTH)
		sub(/::[a-z_]+\(.*/, "", name)
		gsub(/pub use self::|use crate::|pub |mod |\/\/! - |<-|[^a-z0-9_]/, "", name)
	}
	if (!(name in there) && name ~ modular) {
		held = ""
		next
	}
	printf "%s%s\n", held, $0
	held = ""
}
EOF

# names_of DIRECTORY: the modules in it.
names_of() { find "$1" -mindepth 1 -maxdepth 1 -printf '%f\n' | sed -n 's/\.rs$//p; /^[a-z_0-9]*$/p' | sort -u; }

# export_to DIRECTORY FILE...
export_to() {
	local to=$1 file all here
	shift
	for file; do
		install -D -m 644 "/src/rust/$file" "$to/$file"
	done
	for file; do
		case $file in
		ip_vs_reuse.rs | p2c.rs | */mod.rs) ;;
		*) continue ;;
		esac
		# What is a module's name at all.
		all=$(names_of "$(dirname "/src/rust/$file")" | paste -sd '|')
		here=$(names_of "$(dirname "$to/$file")" | xargs)
		awk -v modules="$here" -v modular="^($all)\$" \
			-f /tmp/names.awk "/src/rust/$file" >"$to/$file"
	done
}

kernel_view "/usr/src/rust-linux-$release" "$series"/0*.patch
cd /tmp/kernel
status=0
for patch in "$series"/000[1-9]-*.patch; do
	name=${patch##*/}
	git am --quiet --include="$home/bindings/*" --exclude="$home/*" --include='*' "$patch" ||
		die "$name does not apply"
	mapfile -t files < <(files_of "$patch")
	[ "${#files[@]}" -gt 0 ] || continue

	find $home -mindepth 1 -maxdepth 1 ! -name bindings -exec rm -r {} +
	export_to $home "${files[@]}"
	git add -A -f $home
	git commit --quiet --amend --no-edit
	git format-patch -1 --zero-commit --no-signature --no-numbered --stdout >"/tmp/$name"
	cmp -s "$patch" "/tmp/$name" && continue
	if [ "$mode" = --check ]; then
		diff -u "$patch" "/tmp/$name" | head -n 40 >&2 || true
		say "patches/ and rust/ have drifted apart: run scripts/export-patches.sh ($name)"
		status=1
	else
		cp "/tmp/$name" "$patch"
		say "$name is up to date now"
	fi
done
exit $status
