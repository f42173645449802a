#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kube-proxy itself, in ipvs mode: with the rules, the sysctls and the graceful termination that are its
# own, the stock kernel loses first packets, and with the module none is lost. The node, its pods and its API
# are in lib/kubernetes.sh, and lib/cases.sh says how a case is judged. kube_proxy.sh has more cases, with
# the rules alone.
#
# kube-proxy 1.20 sets conn_reuse_mode=0. Later ones leave it at 1 where the kernel is 5.9 or later: most
# cases set it to 1, for them.
#
#   web      10.9.0.11 and 30080; balancer 10.9.0.12    bridged pods
#   local    10.9.0.13 and 30081; balancer 10.9.0.14    the same, externalTrafficPolicy Local
#   one      10.9.0.15                                  pod 11
#   two      10.9.0.16                                  pod 12
#   sticky   10.9.0.17                                  bridged pods, sessionAffinity ClientIP
#   routed   10.9.0.18 and 30082; balancer 10.9.0.19    routed pods
#   dns      10.9.0.20, UDP                             bridged pods
#   web6     fd00:9::11                                 bridged pods (kube-proxy with dual stack)
#
# KUBE_PROXY: kube-proxy
#
# One case: make test-kubernetes CASE=cluster_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"
# shellcheck source=selftests/lib/kubernetes.sh
. "$(dirname "$0")/../lib/kubernetes.sh"

need_kubernetes
# kube-proxy 1.20 loads the modules of rr, wrr and sh only, and takes iptables if another's is missing.
need_modules ip_vs_lc

web=10.9.0.11:80
balancer=10.9.0.12:80
node_port=10.0.0.1:30080
local_balancer=10.9.0.14:80
local_node_port=10.0.0.1:30081
one=10.9.0.15:80
two=10.9.0.16:80
sticky=10.9.0.17:80
routed=10.9.0.18:80
routed_balancer=10.9.0.19:80
routed_node_port=10.0.0.1:30082
dns=10.9.0.20:80
web6='[fd00:9::11]:80'

# When the node connects to a cluster address, the kernel uses that address as the source, too.
address_of+=([pod]=10.2.0.11 [node]=10.9.0.11)

cleanup()
{
	stop_proxy
	stop_witness
	cleanup_network
	ipvsadm -C
	[ -z "$inserted" ] || rmmod ip_vs_reuse 2>/dev/null
	rm -rf "$tmp"
} 2>/dev/null

##############################################################################
# The node

setup()
{
	setup_node
	for pod in 11 12 21 22; do
		add_pod $pod --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp --proto udp
	done
	NODE_PORT=30080 kube_service web 10.9.0.11 ',"type":"LoadBalancer"' 10.9.0.12
	NODE_PORT=30081 kube_service local 10.9.0.13 \
		',"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":30090' 10.9.0.14
	kube_service one 10.9.0.15 ''
	kube_service two 10.9.0.16 ''
	kube_service sticky 10.9.0.17 \
		',"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":600}}'
	NODE_PORT=30082 kube_service routed 10.9.0.18 ',"type":"LoadBalancer"' 10.9.0.19
	PROTOCOL=UDP kube_service dns 10.9.0.20 ''
	kube_service web6 fd00:9::11 ',"ipFamilies":["IPv6"]'
	kube_service headless None ''
	all_pods
	proxy_is
	start_console client nsenter --net="/run/netns/$client" --
	start_console node
	start_console pod nsenter --net="/run/netns/${pod_namespace[11]}" --
}

# Every service has all of its pods.
declare -A pods_of=([web]="11 12" [local]="11 12" [one]=11 [two]=12 [sticky]="11 12"
	[routed]="21 22" [dns]="11 12" [web6]="11 12")
all_pods()
{
	local name

	for name in "${!pods_of[@]}"; do
		kube_endpoints "$name" "${pods_of[$name]}" "$(family_of "$name")"
	done
}

# family_of SERVICE: 6, or nothing.
family_of() { [ "$1" != web6 ] || echo 6; }

# proxy_is [ARGUMENTS...]: kube-proxy runs with these, and has synchronized everything.
# Cases say by `with` which arguments they want.
proxy_arguments=
with=
proxy_is()
{
	[ -z "$proxy_pid" ] || [ "$proxy_arguments" != "$*" ] || return 0
	stop_proxy
	proxy_arguments=$*
	start_proxy "$@"
	wait_for 120 ready || bail_out "kube-proxy $* does not come up: $(proxy_log)"
	[[ $* != *scheduler=* || $(ipvsadm -Ln -t "$web") = *" ${*##*=}"* ]] || fault "kube-proxy does not set $*"
}

# Each family has its own synchronization.
ready()
{
	local families=1

	[[ $proxy_arguments != *DualStack* ]] || families=2
	synced "$families" && udp=yes weight_is "$dns" 12 1 && weight_is "$web" 12 1 &&
		weight_is "$routed_node_port" 22 1 && weight_is "$local_balancer" 12 1 && weight_is "$sticky" 12 1 &&
		{ ((families == 1)) || weight_is "$web6" 12 1; }
}

# goes NAME ADDRESS: the pod that had the first connection ends: the API has it no more among the service's
# endpoints, and kube-proxy has set its weight to 0.
goes()
{
	local pod=${first#pod}

	# shellcheck disable=SC2086 # a list
	kube_endpoints "$1" "$(printf '%s\n' ${pods_of[$1]} | grep -vx "$pod")" "$(family_of "$1")"
	wait_for 60 weight_is "$2" "$pod" "${3:-0}" || fault "kube-proxy does not drain $first: $(proxy_log)"
}

# comes_again NAME ADDRESS
comes_again()
{
	kube_endpoints "$1" "${pods_of[$1]}" "$(family_of "$1")"
	wait_for 60 weight_is "$2" "${first#pod}" 1 || bail_out "kube-proxy does not take $first again: $(proxy_log)"
}

##############################################################################
# The cases

# rst SERVICE SEEN [stays|anywhere]: the server's RST, then another connection from the same port, which goes
# to another pod if not told otherwise. The pod must see it come from SEEN.
rst()
{
	# shellcheck disable=SC2086 # a list
	proxy_is $with
	settings 1 1
	reconnect "$1" "settled CLOSE" --end server-rst
	first_packet lost
	case ${3:-} in
	stays) stays ;;
	'') goes_elsewhere ;;
	esac
	is_seen_as "$2"
	replays tcp_closed
}

# drained NAME SERVICE SEEN [MODE]: the pod ends while its connection is open, and the client comes from the
# same port.
drained()
{
	# shellcheck disable=SC2086 # a list
	proxy_is $with
	settings "${4:-1}" 1
	reconnect "$2" "goes $1 $2" --end hold
	comes_again "$1" "$2"
	first_packet lost
	goes_elsewhere
	is_seen_as "$3"
	replays tcp_drained
}

is_seen_as()
{
	[ "$seen_as" = "$1" ] || fault "the pod had to see $1, and saw ${seen_as:-nothing}"
}

case_is cluster_rst "ClusterIP, server's RST"
cluster_rst() { rst "$web" 10.2.0.1; }
case_is cluster_rst_mode0 "ClusterIP, server's RST, conn_reuse_mode=0: the same pod again"
cluster_rst_mode0()
{
	proxy_is
	settings 0 1
	reconnect "$web" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	replays
}
case_is cluster_drained "ClusterIP, pod ends while open"
cluster_drained() { drained web "$web" 10.2.0.1; }
case_is cluster_drained_mode0 "ClusterIP, pod ends while open, conn_reuse_mode=0"
cluster_drained_mode0() { drained web "$web" 10.2.0.1 0; }
case_is node_port_rst "NodePort, server's RST"
node_port_rst() { rst "$node_port" 10.2.0.1; }
case_is node_port_drained "NodePort, pod ends while open"
node_port_drained() { drained web "$node_port" 10.2.0.1; }
case_is balancer_rst "LoadBalancer, server's RST"
balancer_rst() { rst "$balancer" 10.2.0.1; }
case_is balancer_drained "LoadBalancer, pod ends while open"
balancer_drained() { drained web "$balancer" 10.2.0.1; }
case_is local_node_port_rst "NodePort, Local, server's RST"
local_node_port_rst() { rst "$local_node_port" 10.0.0.2; }
case_is local_node_port_drained "NodePort, Local, pod ends while open"
local_node_port_drained() { drained local "$local_node_port" 10.0.0.2; }
case_is local_balancer_rst "LoadBalancer, Local, server's RST"
local_balancer_rst() { rst "$local_balancer" 10.0.0.2; }

case_is routed_cluster_rst "routed pods, ClusterIP, server's RST"
routed_cluster_rst() { rst "$routed" 10.0.0.1; }
case_is routed_cluster_drained "routed pods, ClusterIP, pod ends while open"
routed_cluster_drained() { drained routed "$routed" 10.0.0.1; }
case_is routed_node_port_rst "routed pods, NodePort, server's RST"
routed_node_port_rst() { rst "$routed_node_port" 10.0.0.1; }
case_is routed_balancer_rst "routed pods, LoadBalancer, server's RST"
routed_balancer_rst() { rst "$routed_balancer" 10.0.0.1; }

case_is node_rst "ClusterIP, from the node, server's RST"
node_rst() { client_is=node rst "$web" 10.2.0.1; }
case_is node_drained "ClusterIP, from the node, pod ends while open"
node_drained() { client_is=node drained web "$web" 10.2.0.1; }
case_is pod_to_pod_rst "ClusterIP, pod to pod, server's RST"
pod_to_pod_rst() { client_is=pod rst "$two" 10.2.0.11 stays; }
case_is pod_to_routed_rst "ClusterIP, pod to routed pod, server's RST"
pod_to_routed_rst() { client_is=pod rst "$routed" 10.2.0.11; }
case_is hairpin_rst "ClusterIP, pod to itself, server's RST"
hairpin_rst() { client_is=pod rst "$one" 10.2.0.1 stays; }
# IPVS goes on with a persistent flow.
case_is sticky_rst "sessionAffinity ClientIP, server's RST"
sticky_rst()
{
	proxy_is
	settings 1 1
	reconnect "$sticky" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	replays
}
case_is sticky_drained "sessionAffinity ClientIP, pod ends while open"
sticky_drained() { drained sticky "$sticky" 10.2.0.1; }

case_is headless_rst "headless: straight to the pod, server's RST"
headless_rst()
{
	proxy_is
	settings 1 1
	reconnect 10.2.0.11:80 "" --end server-rst
	first_packet kept
	stays
	is_seen_as 10.0.0.2
	replays
}

# kube-proxy deletes the pod at once (UDP), and its conntracks; IPVS its entries.
case_is udp_gone "UDP, pod ends"
udp_gone()
{
	proxy_is
	settings 1 1
	reconnect "$dns" "udp_goes" --proto udp --end hold
	udp=yes comes_again dns "$dns"
	first_packet kept
	goes_elsewhere
	replays
}
udp_goes() { udp=yes goes dns "$dns" none; }

case_is masquerade_all_rst "--masquerade-all, pod to pod, server's RST"
masquerade_all_rst() { with=--masquerade-all client_is=pod rst "$two" 10.2.0.1 stays; }

# With so few connections any pod may be the next.
case_is lc_rst "--ipvs-scheduler=lc, server's RST"
lc_rst() { with=--ipvs-scheduler=lc rst "$web" 10.2.0.1 anywhere; }
case_is lc_drained "--ipvs-scheduler=lc, pod ends while open"
lc_drained() { with=--ipvs-scheduler=lc drained web "$web" 10.2.0.1; }

dual_stack="--feature-gates=IPv6DualStack=true --cluster-cidr=10.2.0.0/16,fd00:2::/64"
case_is ipv6_rst "dual stack, ClusterIP, IPv6, server's RST"
ipv6_rst() { with=$dual_stack rst "$web6" fd00:2::1; }
case_is ipv6_drained "dual stack, ClusterIP, IPv6, pod ends while open"
ipv6_drained() { with=$dual_stack drained web6 "$web6" fd00:2::1; }

# kube-proxy ends, starts again, and synchronizes everything, while clients reuse their ports.
case_is restart "kube-proxy restarts under traffic, server's RST"
restart()
{
	local storm lost failed said

	proxy_is
	stop_witness	# it would see thousands of packets
	settings 1 1
	in_ns "$client" "$harness" storm --from 10.0.0.2 --ports 30000-30199 --to "$web" --end server-rst \
		--concurrency 20 --hold 300ms --seconds 30 >"$tmp/storm" 2>"$tmp/errors" &
	storm=$!
	sleep 5
	stop_proxy
	proxy_is
	settings 1 1
	wait "$storm" || fault "the storm: $(<"$tmp/errors")"
	start_witness
	said=$(<"$tmp/storm")
	[[ $said =~ \"connections\":([0-9]+) ]]
	outcome="${BASH_REMATCH[1]:-no} connections"
	[[ $said =~ \"first_lost\":([0-9]+) ]]
	lost=${BASH_REMATCH[1]:-unknown}
	[[ $said =~ \"failed\":([0-9]+) ]]
	failed=${BASH_REMATCH[1]:-unknown}
	outcome+=", $lost first packets lost, $failed failed"
	result="$outcome"$'\t-'
	[ "$failed" = 0 ] || fault "$(<"$tmp/errors")"
	case $half in
	stock) [[ $lost = [1-9]* ]] || fault "some should be lost" ;;
	*) [ "$lost" = 0 ] || fault "none may be lost" ;;
	esac
}

case_is p2c_refused "--ipvs-scheduler=p2c: kube-proxy 1.20 refuses the name"
p2c_refused()
{
	local said

	said=$("$KUBE_PROXY" --proxy-mode ipvs --ipvs-scheduler p2c 2>&1) && fault "it does not"
	[[ $said = *'Invalid value: "p2c": must be in [rr wrr '* ]] || fault "it says: $said"
}
# kube-proxy-p2c takes it, as 1.27 does.
module_case_is p2c_rst "--ipvs-scheduler=p2c, as from 1.27 on, server's RST"
p2c_rst() { with=--ipvs-scheduler=p2c rst "$web" 10.2.0.1 anywhere; }
module_case_is p2c_drained "--ipvs-scheduler=p2c, as from 1.27 on, pod ends while open"
p2c_drained() { with=--ipvs-scheduler=p2c drained web "$web" 10.2.0.1; }

##############################################################################

run_both_halves "$@"
