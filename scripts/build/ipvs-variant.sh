#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: ipvs-variant.sh VARIANT
#
# Builds another IPVS for Linux $KERNEL, in a cache directory that is named by a hash of its sources.
# Prints the path of that directory inside the build root. It contains an ip_vs.ko to load in place of
# the stock one. No kernel is built.
#
#   patched    both series for that kernel, patches/SERIES/nf and nf-next. The directory also has
#              nf_conntrack.ko, which nf patches, too; ip_vs_reuse.ko, built out of tree, which this IPVS
#              calls for reopened flows; for the tests flow_ops.ko, a second module with such a callback;
#              and in nf-NUMBER ip_vs.ko as it is after each patch of nf that changes it
#   separate   the separate fixes for that kernel, patches/SERIES-separate, all together. The directory also
#              has ip_vs_twos.ko, which one of them fixes
#   NAME       IPVS of another kernel: selftests/baselines/NAME.patch
#
# git am applies the patches to a copy-on-write view of the kernel's directory.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

if [ "${1:-}" != --inside ]; then
	variant=${1:?a variant: patched, separate, or one of selftests/baselines}
	release=$("$top/scripts/kernel/get-kernel.sh")
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
	sources=()
	case $variant in
	patched)
		patches=("patches/$series"/{nf,nf-next}/000[1-9]-*.patch)
		mapfile -t sources < <(find "$top/Kbuild" "$top/rust" "$top/selftests/modules" -type f | sort)
		;;
	separate) patches=("patches/$series-separate"/0*.patch) ;;
	*) patches=("selftests/baselines/$variant.patch") ;;
	esac
	cd "$top"
	[ -e "${patches[0]}" ] || die "there is no ${patches[0]}"
	name=ipvs-$variant-$release-$(key "$0" "${patches[@]}" "${sources[@]}" "$root/usr/src/rust-linux-$release/.complete")

	[ -e "$cache/$name" ] || lock ipvs
	if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
		rm -rf "$cache/$name.new"
		mkdir "$cache/$name.new"
		step "$cache/log/ipvs.log" "building IPVS for Linux $release, $variant" \
			"$top/scripts/root/enter.sh" "scripts/build/ipvs-variant.sh" --inside "$variant" "$release" "/cache/$name.new" "${patches[@]}"
		mv "$cache/$name.new" "$cache/$name"
	fi
	echo "/cache/$name"
	exit
fi
shift

variant=$1 release=$2 to=$3
shift 3
patches=("${@/#//src/}")

kernel_view "/usr/src/rust-linux-$release" "${patches[@]}"
cd /tmp/kernel
for patch in "${patches[@]}"; do
	git am "$patch"
	[[ $patch = */nf/*-ipvs-* ]] || continue
	make -j"$(nproc)" M=net/netfilter/ipvs W=1 modules
	name=${patch##*/}
	install -D net/netfilter/ipvs/ip_vs.ko "$to/nf-${name%%-*}/ip_vs.ko"
done
make -j"$(nproc)" M=net/netfilter/ipvs W=1 modules
cp net/netfilter/ipvs/ip_vs.ko "$to/"
[ "$variant" != separate ] || cp net/netfilter/ipvs/ip_vs_twos.ko "$to/"

if [ "$variant" = patched ]; then
	make -j"$(nproc)" M=net/netfilter nf_conntrack.ko
	cp net/netfilter/nf_conntrack.ko "$to/"
	make M=/src MO="$to/module" KBUILD_EXTRA_SYMBOLS=/tmp/kernel/net/netfilter/ipvs/Module.symvers \
		IP_VS_REUSE_SELFTESTS=m modules
	mv "$to"/module/{ip_vs_reuse,selftests/modules/flow_ops}.ko "$to/"
	rm -r "$to/module"
fi
