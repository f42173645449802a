#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: export-patches.sh [--check]
#
# Updates the patches that add the module to the kernel tree (net/netfilter/ipvs/reuse) from rust/,
# their source. It keeps everything else in the patches: the commit messages, and changes to other
# files. It also updates the list of files and the prerequisites in the cover letter, and keeps its text.
# With --check: only fails if one is out of date.
#
# The kernel tree differs from rust/ in three ways. The bindings are those of the kernel crate
# (bindings/ is maintained in the patch). Files for a stock kernel only are left out. And ip_vs_reuse.rs,
# p2c.rs and mod.rs do not name modules that are left out, or that only a later patch adds.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

if [ "${1:-}" != --inside ]; then
	release=$("$top/scripts/kernel/get-kernel.sh")
	exec "$top/scripts/root/enter.sh" scripts/build/export-patches.sh --inside "$release" "$@"
fi
release=$2 mode=${3:-}
series=/src/patches/$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
home=net/netfilter/ipvs/reuse

# Where IPVS lets a module decide, it needs no hooks of its own; and that is Linux 7.3 or later.
stock_only=(hooks.rs version.c base/linux_7_2.rs ipvs/lookup.{c,h,rs} net/for_each.{c,h,rs} netfilter/hooks.rs)

# files_of PATCH: the files of rust/ that are there with this patch.
files_of() {
	case ${1##*/} in
	*-ipvs-add-the-p2c-scheduler-*)
		printf '%s\n' ip_vs_reuse.rs p2c.rs {sampler,slow_start}.rs base/{grace_period,mod,rcu,work}.rs \
			ipvs/{destination,mod,scheduler,service}.rs {base,ipvs}/helpers.{c,h} net/{mod,packet}.rs
		;;
	*-ipvs-let-a-module-decide-*)
		(cd /src/rust && find . -type f ! -path './bindings/*' -printf '%P\n') |
			grep -vxFf <(printf '%s\n' "${stock_only[@]}")
		;;
	esac
}

# Leaves out modules that are not in the list `modules`, with their attributes, and the conditions
# under which there are others: a line that declares, uses or calls one, a field that is named for
# one, and the line about one in a list in the documentation. Nor is a file for a stock kernel named there.
cat >/tmp/names.awk <<'EOF'
BEGIN { split(modules, list); for (i in list) there[list[i]] }
/^#\[cfg(_attr)?\((not\()?(IP_VS_FLOW_OPS|LINUX_7_2)/ { next }
/^ *#\[/ { held = held $0 "\n"; next }
{ sub(/, on a stock kernel `hooks.rs`,/, "") }
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

kernel_view "/usr/src/rust-linux-$release" "$series"/{nf,nf-next}/000[1-9]-*.patch
cd /tmp/kernel
git tag base
git am --quiet "$series"/nf/000[1-9]-*.patch || die "patches/${series##*/}/nf does not apply"
git tag nf
for patch in "$series"/nf-next/000[1-9]-*.patch; do
	git am --quiet --include="$home/bindings/*" --exclude="$home/*" --include='*' "$patch" ||
		die "${patch##*/} does not apply"
	mapfile -t files < <(files_of "$patch")
	find $home -mindepth 1 -maxdepth 1 ! -name bindings -exec rm -r {} +
	export_to $home "${files[@]}"
	git add -A -f $home
	git commit --quiet --amend --no-edit
done
git format-patch --quiet --zero-commit --no-signature --full-index --numbered --cover-letter --base=base \
	--subject-prefix='RFC PATCH nf-next' --output-directory /tmp/new nf
# The packaged source has no commit that others know.
sed -i "/^base-commit: /d" /tmp/new/0000-*
cover=0000-cover-letter.patch
shortlog='^[^ ].* ([0-9]*):$'
{ sed "/$shortlog/,\$d" "$series/nf-next/$cover"; sed -n "/$shortlog/,\$p" /tmp/new/$cover; } >/tmp/cover
mv /tmp/cover /tmp/new/$cover

status=0
for patch in "$series"/nf-next/*.patch; do
	name=${patch##*/}
	cmp -s "$patch" "/tmp/new/$name" && continue
	if [ "$mode" = --check ]; then
		diff -u "$patch" "/tmp/new/$name" | head -n 40 >&2 || true
		say "patches/ and rust/ have drifted apart: run scripts/build/export-patches.sh ($name)"
		status=1
	else
		cp "/tmp/new/$name" "$patch"
		say "$name is up to date now"
	fi
done
exit $status
