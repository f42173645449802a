#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds kube-proxy from Debian 12's source package `kubernetes` (1.20.2), the last one that has all of
# the source, in a cache directory that is named by a hash of this script. Prints the path of that
# directory inside the build root. Beside kube-proxy it has kube-proxy-p2c, which differs in one thing: it
# takes the name p2c for a scheduler, as 1.27 and later take any (kubernetes #114669, #114878).
#
# Source and compiler (Debian 12's golang-1.19) are in a root directory of their own, which is deleted
# after the build. The dependencies are in the package, so the build itself needs no network.

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

name=kube-proxy-$(key "$0")
go=$cache/$name.root
packages=(dpkg-dev golang-1.19-go xz-utils)

# The root's sources are the build root's, whatever the mirror, of Debian 12.
unpack() {
	local list=$cache/$name.list

	sed -n 's/^deb\(.* \)trixie main.*/deb\1bookworm main\ndeb-src\1bookworm main/p' \
		"$root/etc/apt/sources.list" >"$list"
	[ -s "$list" ] || die "$root/etc/apt/sources.list has no line for 'trixie main' to learn the mirror from"
	# shellcheck disable=SC2016 # for the hook's shell
	mmdebstrap --variant=apt --include="${packages[*]}" --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt=force-unsafe-io \
		--customize-hook='chroot "$1" sh -ec "cd /usr/src; apt-get source -q --download-only -o APT::Sandbox::User=root kubernetes"' \
		bookworm - "$list" |
		"$top/scripts/root/in-namespace.sh" tar -x --exclude='./dev/*' -C "$go" && rm "$list"
}

# In GOPATH mode, as Debian builds it: go.mod names what is not there.
build() {
	# shellcheck disable=SC2016 # for the shell inside
	"$top/scripts/root/in-namespace.sh" sh -ec '
		mount --make-rprivate /
		mount -t proc proc "$0/proc"
		mount --rbind /dev "$0/dev"
		exec chroot "$0" env -i PATH=/usr/lib/go-1.19/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 \
			GO111MODULE=off GOPATH=/go GOFLAGS=-trimpath CGO_ENABLED=0 bash -es' "$go" <<-'END'
			rm -rf /go /out
			mkdir -p /go/src/k8s.io
			cd /go/src/k8s.io
			dpkg-source --no-check -x /usr/src/kubernetes_*.dsc kubernetes
			cd kubernetes
			version=$(dpkg-parsechangelog --show-field Version)	# 1.20.5+really1.20.2-1.1
			version=${version%%-*}
			flags="-s -w -X k8s.io/kubernetes/vendor/k8s.io/component-base/version.gitVersion=v${version##*really}"
			go build -v -o /out/kube-proxy -ldflags "$flags" ./cmd/kube-proxy
			/out/kube-proxy --version
			sed -i 's/kubeproxyconfig.NeverQueue,/& "p2c",/' pkg/proxy/apis/config/validation/validation.go
			sed -i 's/mods = append(mods, schedulerMod)/_ = schedulerMod/' pkg/proxy/ipvs/proxier.go
			go build -v -o /out/kube-proxy-p2c -ldflags "$flags" ./cmd/kube-proxy
		END
}

remove() { "$top/scripts/root/in-namespace.sh" rm -rf --one-file-system "$@"; }

[ -e "$cache/$name" ] || lock kube-proxy
if [ ! -e "$cache/$name" ]; then	# nor has another make built it meanwhile
	need_space 4
	if [ ! -e "$go/.complete" ]; then
		remove "$go"
		mkdir "$go"
		step "$cache/log/kube-proxy-source.log" "fetching Debian 12's source of Kubernetes, and Go (250 MB)" unpack
		"$top/scripts/root/in-namespace.sh" touch "$go/.complete"
	fi
	step "$cache/log/kube-proxy.log" "building kube-proxy (four minutes)" build
	rm -rf "$cache/$name.new"
	mkdir "$cache/$name.new"
	cp "$go"/out/* "$cache/$name.new/"
	mv "$cache/$name.new" "$cache/$name"
	remove "$go"
fi
echo "/cache/$name"
