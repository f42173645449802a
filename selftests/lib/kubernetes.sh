# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # tmp, client and so on are lib.sh's
#
# A Kubernetes node: kube-proxy itself in ipvs mode, what it needs of an API server (kube_api.py), and
# pods. Sourced after lib.sh, not run. The node is the director's namespace:
#
#           client 10.0.0.2
#              |
#           node 10.0.0.1, and its default route leads to the client
#              |                    |
#           cni0 10.2.0.1           |
#              |                    |
#           pods 10.2.0.n      pods 10.2.1.n
#
# Pods 11 to 19 are bridged, as flannel has them: on a bridge, whose packets iptables sees
# (br_netfilter). Pods 21 to 29 are routed, as Calico has them: a link and a route to each, no address of the
# node's there, proxy ARP, and a blackhole for pods that are gone. They are called pod<N>; bridged ones have
# IPv6 (fd00:2::n), too. Services are in 10.9.0.0/24 and fd00:9::/64, and have port 80.
#
# KUBE_PROXY: kube-proxy; beside it is kube-proxy-p2c (scripts/build/kube-proxy.sh)

proxy_pid=
declare -A pod_namespace=() pod_pid=()

need_kubernetes()
{
	[ -x "${KUBE_PROXY:-}" ] || skip_all "KUBE_PROXY is not set: 'make test-kubernetes' builds it"
	need_tools curl ipset iptables-nft-restore python3
	need_modules br_netfilter bridge dummy ip_set ip_set_bitmap_port ip_set_hash_ip \
		ip_set_hash_ipport ip_set_hash_ipportip ip_set_hash_ipportnet ip_vs_sh ip_vs_wrr \
		ipt_REJECT nft_compat xt_MASQUERADE xt_addrtype xt_comment xt_conntrack xt_mark xt_set
}

##############################################################################
# The node and its pods

setup_node()
{
	setup_network 0
	keep_table_small
	ip -batch - <<-END || bail_out "cannot make the node"
		route add default via 10.0.0.2
		link add cni0 type bridge
		address add 10.2.0.1/24 dev cni0
		address add fd00:2::1/64 dev cni0 nodad
		link set cni0 up
		route add blackhole 10.2.1.0/24
	END
	no_reverse_path_filter
	sysctl_set bridge/bridge-nf-call-iptables 1
	sysctl_set bridge/bridge-nf-call-ip6tables 1
	configure "$client" <<<"route add 10.2.0.0/16 via 10.0.0.1"
	start_api
	apply Node v1 node '"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}'
}

bridged() { (($1 < 20)); }

# address_of_pod N [6]
address_of_pod()
{
	if [ "${2:-}" = 6 ]; then
		echo "fd00:2::$1"
	elif bridged "$1"; then
		echo "10.2.0.$1"
	else
		echo "10.2.1.$1"
	fi
}

# add_pod N ARGUMENTS...: a pod with `harness serve`, which serves when this returns.
add_pod()
{
	local ns=pod$1-$$-$RANDOM address said line

	pod_namespace[$1]=$ns
	more_namespaces+=("$ns")
	address=$(address_of_pod "$1")
	ip -batch - <<-END || bail_out "cannot make pod$1"
		netns add $ns
		link add pod$1 type veth peer name eth0 netns $ns
	END
	if bridged "$1"; then
		# Hairpin, as CNI sets it: a pod's answer to itself leaves by the port by which it came.
		ip -batch - <<-END || bail_out "cannot link pod$1"
			link set pod$1 master cni0 up
			link set pod$1 type bridge_slave hairpin on
		END
		configure "$ns" <<-END
			link set lo up
			address add $address/24 dev eth0
			address add $(address_of_pod "$1" 6)/64 dev eth0 nodad
			link set eth0 up
			route add default via 10.2.0.1
			route add ::/0 via fd00:2::1
		END
	else
		configure "$ns" <<-END
			link set lo up
			address add $address/32 dev eth0
			link set eth0 up
			route add 169.254.1.1 dev eth0
			route add default via 169.254.1.1
		END
		sysctl_set "ipv4/conf/pod$1/rp_filter" 0
		sysctl_set "ipv4/conf/pod$1/proxy_arp" 1
		sysctl_set "ipv4/neigh/pod$1/proxy_delay" 0
		ip -batch - <<-END || bail_out "cannot link pod$1"
			link set pod$1 up
			route add $address dev pod$1
		END
	fi
	exec {said}< <(exec nsenter --net="/run/netns/$ns" -- "$harness" serve --name "pod$1" "${@:2}" 2>&1)
	pod_pid[$1]=$!
	harness_pids+=($!)
	read -r -t 20 line <&"$said" || line="nothing within 20 s"
	[ "$line" = READY ] || bail_out "pod$1 said: $line"
	exec {said}<&-
}

# remove_pod N: its processes are killed, and its address vanishes.
remove_pod()
{
	kill -KILL "${pod_pid[$1]}"
	ip link delete "pod$1"
	ip netns delete "${pod_namespace[$1]}"
	unset "pod_pid[$1]" "pod_namespace[$1]"
}

##############################################################################
# The API

start_api()
{
	local line

	mkfifo "$tmp/api"
	exec {api_out}< <(exec "$here/lib/kube_api.py" 8001 <"$tmp/api" 2>"$tmp/api-log")
	harness_pids+=($!)
	exec {api_in}>"$tmp/api"
	read -r -t 60 line <&"$api_out" || line=nothing
	[ "$line" = READY ] || bail_out "the API server said: $line $(<"$tmp/api-log")"
}

tell_api()
{
	local line

	echo "$1" >&"$api_in"
	read -r -t 20 line <&"$api_out" || line=nothing
	[ "$line" = ok ] || bail_out "the API server said: $line $(<"$tmp/api-log")"
}

# apply KIND VERSION NAME MEMBERS [LABEL]: creates or replaces this object; MEMBERS and LABEL are JSON.
apply()
{
	tell_api "apply {\"kind\":\"$1\",\"apiVersion\":\"$2\",\"metadata\":{\"name\":\"$3\",\"labels\":{${5:-}}},$4}"
}

# kube_service NAME ADDRESS MEMBERS [BALANCER]: a service with port 80, a cluster address, and perhaps a
# load balancer's; MEMBERS (JSON, beginning with a comma, or nothing) are for `spec`. NODE_PORT and
# PROTOCOL for others than none and TCP.
declare -A protocol_of=()
kube_service()
{
	local status='"status":{}' protocol=${PROTOCOL:-TCP} port

	protocol_of[$1]=$protocol
	[ -z "${4:-}" ] || status="\"status\":{\"loadBalancer\":{\"ingress\":[{\"ip\":\"$4\"}]}}"
	port="\"port\":80,\"targetPort\":80,\"protocol\":\"$protocol\"${NODE_PORT:+,\"nodePort\":$NODE_PORT}"
	apply Service v1 "$1" "\"spec\":{\"clusterIP\":\"$2\",\"clusterIPs\":[\"$2\"],\"ports\":[{$port}]$3},$status"
}

# kube_endpoints SERVICE PODS [FAMILY]: these pods serve it from now on. FAMILY is 6 for an IPv6 service.
kube_endpoints()
{
	local pod port endpoints='' on_node='"conditions":{"ready":true},"topology":{"kubernetes.io/hostname":"node"}'

	for pod in $2; do
		endpoints+="${endpoints:+,}{\"addresses\":[\"$(address_of_pod "$pod" "${3:-}")\"],$on_node}"
	done
	port="{\"name\":\"\",\"port\":80,\"protocol\":\"${protocol_of[$1]}\"}"
	apply EndpointSlice discovery.k8s.io/v1beta1 "$1-slice" \
		"\"addressType\":\"IPv${3:-4}\",\"ports\":[$port],\"endpoints\":[$endpoints]" \
		"\"kubernetes.io/service-name\":\"$1\""
}

##############################################################################
# kube-proxy

# start_proxy ARGUMENTS...
start_proxy()
{
	local program=$KUBE_PROXY

	[[ $* != *p2c* ]] || program+=-p2c
	"$program" --proxy-mode ipvs --master http://127.0.0.1:8001 --kube-api-content-type application/json \
		--hostname-override node --cluster-cidr 10.2.0.0/16 --conntrack-max-per-core 0 \
		"$@" >"$tmp/kube-proxy" 2>&1 &
	proxy_pid=$!
}

stop_proxy()
{
	[ -n "$proxy_pid" ] || return 0
	kill "$proxy_pid"
	wait "$proxy_pid"
	proxy_pid=
} 2>/dev/null

# proxy_log: the end of what kube-proxy has said.
proxy_log() { tail -n 15 "$tmp/kube-proxy" | cut -c 1-300; }

# in_ipvs PROTO SERVICE PATTERN: whether IPVS has such a real server of it, as `ipvsadm -Ln` says it.
in_ipvs() { ipvsadm -Ln "$1" "$2" 2>/dev/null | tr -s ' ' | grep -q -- "-> $3 "; }

# weight_is SERVICE N WEIGHT: whether pod<N> has this weight there; `none` if it is no real server.
weight_is()
{
	local server proto=-t

	server=$(address_of_pod "$2"):80
	[[ $1 != \[* ]] || server=[$(address_of_pod "$2" 6)]:80
	[ "${udp:-}" != yes ] || proto=-u
	if [ "$3" = none ]; then
		! in_ipvs $proto "$1" "${server//[][]/.}"
	else
		in_ipvs $proto "$1" "${server//[][]/.} Masq $3"
	fi
}

# synced N: whether kube-proxy runs in ipvs mode (it takes iptables if it finds a module missing) and has
# synchronized everything N times.
synced()
{
	local so_far

	grep -q "Using ipvs Proxier" "$tmp/kube-proxy" || return
	so_far=$(curl -s http://127.0.0.1:10249/metrics |
		sed -n 's/^kubeproxy_sync_proxy_rules_duration_seconds_count //p')
	((${so_far:-0} >= $1))
}
