#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What kube-proxy's ipvs mode is known for: a client with 200 ports makes connections all the time, while a
# rolling update replaces three pods one by one, and then the service is scaled from three pods to six. It
# runs with kube-proxy itself and with each IPVS in turn:
#
#   legacy0   IPVS of 4.6 to 5.8, conn_reuse_mode=0, as kube-proxy set it for years
#   legacy    IPVS of 4.6 to 5.8, conn_reuse_mode=1
#   mode0     stock, conn_reuse_mode=0
#   stock     stock, conn_reuse_mode=1, as kube-proxy leaves it since 1.22
#   module    stock, and the module
#   patched   with the series in patches/
#
# The update adds a pod that is ready, and a second later tells an old one to go: the API has it no
# more among the endpoints. It serves until kube-proxy has given it weight 0, and three seconds at least. Then it
# has ten more for the connections that it serves (its grace period), is killed, and its address vanishes. Prints a
# line of JSON for each IPVS, and judges what the client saw and where its connections went. Connections end by
# FIN, or by the server's RST; each is held for 0.3 s, 20 at a time, which leaves kube-proxy its part of two
# emulated processors.
#
# KUBE_PROXY: kube-proxy
# LEGACY, PATCHED: directories with such an ip_vs.ko; without one its columns are left out
# VARIANTS: which columns
# ENDS: how connections end: fin, server-rst (the default), or both
# PODS: 10 for bridged pods, 20 for routed ones

# shellcheck source=selftests/lib/bench.sh
. "$(dirname "$0")/../lib/bench.sh"
# shellcheck source=selftests/lib/kubernetes.sh
. "$(dirname "$0")/../lib/kubernetes.sh"

need_tools python3
need_kubernetes
web=10.9.0.11:80
pods=${PODS:-10}
kind=bridged
((pods == 10)) || kind=routed

cleanup()
{
	stop_proxy
	cleanup_director
} 2>/dev/null

# step SECONDS-SINCE-THE-STORM-BEGAN: waits for that moment.
step()
{
	local left=$((began + $1 * 1000 - $(now_ms)))

	((left <= 0)) || sleep "$(printf '%d.%03d' $((left / 1000)) $((left % 1000)))"
}

# event NAME POD: notes when it was, for the JSON.
event() { events+="${events:+,}{\"event\":\"$1\",\"pod\":\"pod$((pods + $2))\",\"at_ms\":$(now_ms)}"; }

# endpoints_are N...: from now on.
endpoints_are()
{
	local n list=

	for n; do
		list+=" $((pods + n))"
	done
	kube_endpoints web "$list"
}

pod_is() { weight_is "$web" $((pods + $1)) "$2"; }
drained() { pod_is "$1" 0 || pod_is "$1" none; }
scaled() { pod_is 7 1 && pod_is 8 1 && pod_is 9 1; }
pods_are_in() { synced 1 && pod_is 1 1 && pod_is 2 1 && pod_is 3 1; }

# idle N: whether the pod has no connection any more.
idle() { [ -z "$(in_ns "${pod_namespace[$((pods + $1))]}" ss -Htn state established)" ]; }

# add N: a new pod, not yet among the endpoints.
add() { add_pod $((pods + $1)) --listen 0.0.0.0:80; }

# replace OLD NEW AT ENDPOINTS...: the rest of the endpoints are ENDPOINTS.
replace()
{
	add "$2"
	step "$3"
	endpoints_are "${@:4}" "$1" "$2"
	event added "$2"
	step $(($3 + 1))
	endpoints_are "${@:4}" "$2"
	event told "$1"
	wait_for 120 drained "$1" || bail_out "kube-proxy does not drain pod $1: $(ipvsadm -Ln) $(proxy_log)"
	event drained "$1"
	step $(($3 + 4))
	wait_for 10 idle "$1"
	remove_pod $((pods + $1))
	event vanished "$1"
}

# cell END COLUMN: measures, and sets `line` to the JSON.
cell()
{
	local storm began scaled_at events='' n mode=1

	use_column "${2%0}"
	case $2 in
	*0) mode=0 ;;
	esac
	for n in 1 2 3; do
		add "$n"
	done
	endpoints_are 1 2 3
	start_proxy --ipvs-scheduler=rr
	wait_for 300 pods_are_in || bail_out "kube-proxy does not come up: $(proxy_log)"
	sysctl_set ipv4/vs/conn_reuse_mode "$mode"
	rm -f "$tmp/storm"
	in_ns "$client" "$harness" storm --from 10.0.0.2 --ports 20000-20199 --to "$web" --end "$1" \
		--concurrency 20 --hold 300ms --warm-up 400 --seconds 180 --every 100ms --timeout 4s \
		>"$tmp/storm" 2>"$tmp/errors" &
	storm=$!
	wait_for 120 test -s "$tmp/storm" || bail_out "the storm did not begin: $(<"$tmp/errors")"
	began=$(now_ms)
	replace 1 4 2 2 3
	replace 2 5 10 3 4
	replace 3 6 18 4 5
	for n in 7 8 9; do
		add "$n"
	done
	scaled_at=$(now_ms)
	endpoints_are 4 5 6 7 8 9
	wait_for 120 scaled || bail_out "kube-proxy does not add pods: $(ipvsadm -Ln) $(proxy_log)"
	for n in 7 8 9; do
		event added "$n"
	done
	wait "$storm" || bail_out "the storm $*: $(<"$tmp/errors")"
	[ ! -s "$tmp/errors" ] || sed "s/^/# $1 $2: /" "$tmp/errors"
	stop_proxy
	for n in 4 5 6 7 8 9; do
		remove_pod $((pods + n))
	done
	line=$(tell "\"bench\":\"kubernetes\",\"end\":\"$1\",\"pods\":\"$kind\",\"column\":\"$2\",\"began_ms\":$began,\"scaled_ms\":$scaled_at,\"events\":[$events],\"intervals\":[$(sed '$d' "$tmp/storm" | paste -sd,)]" \
		"$(tail -n 1 "$tmp/storm")" | "$here/lib/kube_rollout.py") || bail_out "no figures"
	echo "$line"
}

# Sets these to the figures of the last cell, and judges them.
connections='' failed='' over_500_ms='' first_lost='' to_drained='' share=''
declare -A name_of=([fin]="FIN" [server-rst]="server's RST")
measure()
{
	local name

	cell "$end" "$column"
	for name in connections failed over_500_ms first_lost to_drained share; do
		[[ ${line##*\"result\":} =~ \"$name\":([0-9]+) ]] || bail_out "no $name: ${line##*\"result\":}"
		printf -v "$name" %s "${BASH_REMATCH[1]}"
	done
	outcome="$connections connections: $failed failed, $over_500_ms over 500 ms, $to_drained to a drained pod, $share % to the new three"
	case $column in
	# They wait so long for pods that are gone that other ports rest, and their flows expire: the new pods
	# get a share.
	legacy0) ((failed > 0)) || fault "some should fail" ;;
	mode0) ((share < 20)) || fault "the new pods should get next to nothing" ;;
	legacy | stock) [ "$column-$end" = stock-fin ] || ((first_lost > 0)) || fault "first packets should be lost" ;;
	module | patched)
		[ "$failed" = 0 ] || fault "none may fail"
		[ "$first_lost" = 0 ] || fault "no first packet may be lost: $first_lost"
		[ "$to_drained" = 0 ] || fault "none may go to a drained pod"
		((share >= 40)) || fault "the new pods must have their half"
		;;
	esac
}

setup_node
NODE_PORT=30080 kube_service web 10.9.0.11 ',"type":"NodePort"'
columns=()
for column in ${VARIANTS:-legacy0 legacy mode0 stock module patched}; do
	case $column in
	legacy*) [ -n "${LEGACY:-}" ] || continue ;;
	patched) [ -n "${PATCHED:-}" ] || continue ;;
	esac
	columns+=("$column")
done
read -ra ends <<<"${ENDS:-server-rst}"
ktap_plan $((${#ends[@]} * ${#columns[@]}))
for end in "${ends[@]}"; do
	for column in "${columns[@]}"; do
		check measure "rolling update, ${name_of[$end]}, $column"
	done
done
ktap_exit
