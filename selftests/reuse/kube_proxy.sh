#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks that with the rules of kube-proxy's ipvs mode no first packet of a connection from a reused
# port is lost, and that the pod sees the right client address: the rules mark only new connections to
# be masqueraded, so a packet with an old conntrack would reach the pod unmasqueraded. lib/cases.sh says
# how a case is judged.
#
# The director is a Kubernetes node, and the real servers are its pods. The rules match sets of
# services, set a mark before IPVS and masquerade after it: in iptables as kube-proxy loads them, and
# translated to nft. The network is in lib.sh. As with kube-proxy, cluster addresses are on a dummy
# device, and a node port is a virtual service on the node's own address:
#
#   10.9.0.11:80      fd00:9::11     ClusterIP, all pods
#   10.9.0.12:80                     LoadBalancer
#   10.9.0.13:80                     LoadBalancer, externalTrafficPolicy Local
#   10.9.0.14:80      fd00:9::14     ClusterIP, pod 1
#   10.9.0.15:80                     ClusterIP, pod 2
#   10.0.0.1:30080    fd00:0::1      NodePort
#   10.0.0.1:30081    fd00:0::1      NodePort, externalTrafficPolicy Local
#
# The cluster's own addresses are 10.2.0.0/16 and fd00:2::/32; the client is outside.
#
# One case: make case TEST=reuse/kube_proxy.sh CASE=cluster_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_tools ipset iptables-nft-restore ip6tables-nft-restore
need_modules dummy ip_set ip_set_bitmap_port ip_set_hash_ip ip_set_hash_ipport \
	ip_set_hash_ipportip ipt_REJECT ip6t_REJECT nft_compat nft_fib_inet nft_masq \
	xt_MASQUERADE xt_addrtype xt_conntrack xt_mark xt_set

cluster=10.9.0.11:80
cluster6='[fd00:9::11]:80'
balancer=10.9.0.12:80
balancer_local=10.9.0.13:80
pod1=10.9.0.14:80
pod1_ipv6='[fd00:9::14]:80'
pod2=10.9.0.15:80
node_port=10.0.0.1:30080
node_port6='[fd00:0::1]:30080'
node_port_local=10.0.0.1:30081
node_port_local6='[fd00:0::1]:30081'

# When the node connects to a cluster address, the kernel uses that address as the source, too.
address_of+=([pod]=10.2.1.2 [node]=${cluster%:*})
address6_of+=([pod]='[fd00:2:1::2]' [node]="${cluster6%:*}")

##############################################################################
# The node

setup()
{
	begin_director 2
	{
		echo "link add kube-ipvs0 type dummy"
		printf 'address add %s dev kube-ipvs0\n' 10.9.0.{11..15}/32 fd00:9::{11,14}/128
	} | ip -batch - || bail_out "cannot make kube-ipvs0"
	service -t $cluster -m 80
	service -t "$cluster6" -m 80
	service -t $balancer -m 80
	service -t $balancer_local -m 80
	service -t $node_port -m 80
	service -t "$node_port6" -m 80
	service -t $node_port_local -m 80
	service -t "$node_port_local6" -m 80
	only=1 service -t $pod1 -m 80
	only=1 service -t "$pod1_ipv6" -m 80
	only=2 service -t $pod2 -m 80
	make_services
	make_sets
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp
	start_console pod nsenter --net="/run/netns/${servers[1]}" --
	console_in[node]=${console_in[director]}
	console_out[node]=${console_out[director]}
}

# The sets for both families. LOOP-BACK has the pods that may reach themselves through a service.
make_sets()
{
	ipset restore <<-END || bail_out "cannot make the sets"
		create KUBE-CLUSTER-IP hash:ip,port
		create KUBE-LOAD-BALANCER hash:ip,port
		create KUBE-LOAD-BALANCER-LOCAL hash:ip,port
		create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
		create KUBE-NODE-PORT-LOCAL-TCP bitmap:port range 0-65535
		create KUBE-LOOP-BACK hash:ip,port,ip
		create KUBE-IPVS-IPS hash:ip
		create KUBE-6-CLUSTER-IP hash:ip,port family inet6
		create KUBE-6-LOAD-BALANCER hash:ip,port family inet6
		create KUBE-6-LOAD-BALANCER-LOCAL hash:ip,port family inet6
		create KUBE-6-NODE-PORT-TCP bitmap:port range 0-65535
		create KUBE-6-NODE-PORT-LOCAL-TCP bitmap:port range 0-65535
		create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6
		create KUBE-6-IPVS-IPS hash:ip family inet6
		$(printf 'add KUBE-CLUSTER-IP 10.9.0.%s,tcp:80\n' 11 14 15)
		$(printf 'add KUBE-LOAD-BALANCER 10.9.0.%s,tcp:80\n' 12 13)
		add KUBE-LOAD-BALANCER-LOCAL 10.9.0.13,tcp:80
		$(printf 'add KUBE-LOOP-BACK 10.2.%s.2,tcp:80,10.2.%s.2\n' 1 1 2 2)
		$(printf 'add KUBE-IPVS-IPS 10.9.0.%s\n' {11..15})
		$(printf 'add KUBE-6-CLUSTER-IP fd00:9::%s,tcp:80\n' 11 14)
		$(printf 'add KUBE-6-LOOP-BACK fd00:2:%s::2,tcp:80,fd00:2:%s::2\n' 1 1 2 2)
		$(printf 'add KUBE-6-IPVS-IPS fd00:9::%s\n' 11 14)
		$(printf 'add %s 30080\nadd %s 30081\n' KUBE-{,6-}NODE-PORT-TCP{,})
		$(printf 'add %s 30081\n' KUBE-{,6-}NODE-PORT-LOCAL-TCP)
	END
}

# rules_are iptables|nft [all]: loads the rules unless they are loaded already. They masquerade clients
# of cluster addresses that are outside the cluster, or all clients.
rules_in_place=
rules_are()
{
	[ "$rules_in_place" != "$*" ] || return 0
	[ -z "$rules_in_place" ] || nft -f - <<<"$undo" || bail_out "cannot take the rules away"
	rules_in_place=$*
	case $1 in
	iptables)
		undo=$(printf 'delete table %s\n' {ip,ip6}\ {nat,filter})
		iptables_rules KUBE "${2:-! -s 10.2.0.0/16}" | iptables-nft-restore &&
			iptables_rules KUBE-6 "${2:-! -s fd00:2::/32}" | ip6tables-nft-restore
		;;
	nft)
		undo="delete table inet kube"
		nft_rules "${2:-outside}" | nft -f -
		;;
	esac || bail_out "cannot load the rules for $1"
}

# iptables_rules SETS CLIENTS: the nat and filter tables. The names of the sets begin with SETS, and
# CLIENTS is the match for clients of cluster addresses that are masqueraded, or `all`.
iptables_rules()
{
	local clients=${2/#all/}

	cat <<-END
		*nat
		:KUBE-SERVICES -
		:KUBE-NODE-PORT -
		:KUBE-LOAD-BALANCER -
		:KUBE-MARK-MASQ -
		:KUBE-POSTROUTING -
		-A PREROUTING -j KUBE-SERVICES
		-A OUTPUT -j KUBE-SERVICES
		-A POSTROUTING -j KUBE-POSTROUTING
		-A KUBE-SERVICES -m set --match-set $1-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
		-A KUBE-SERVICES $clients -m set --match-set $1-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
		-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
		-A KUBE-SERVICES -m set --match-set $1-CLUSTER-IP dst,dst -j ACCEPT
		-A KUBE-SERVICES -m set --match-set $1-LOAD-BALANCER dst,dst -j ACCEPT
		-A KUBE-NODE-PORT -p tcp -m set --match-set $1-NODE-PORT-LOCAL-TCP dst -j RETURN
		-A KUBE-NODE-PORT -p tcp -m set --match-set $1-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
		-A KUBE-LOAD-BALANCER -m set --match-set $1-LOAD-BALANCER-LOCAL dst,dst -j RETURN
		-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
		-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
		-A KUBE-POSTROUTING -m set --match-set $1-LOOP-BACK dst,dst,src -j MASQUERADE
		-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
		-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
		-A KUBE-POSTROUTING -j MASQUERADE --random-fully
		COMMIT
		*filter
		:KUBE-FORWARD -
		:KUBE-IPVS-FILTER -
		-A FORWARD -j KUBE-FORWARD
		-A INPUT -j KUBE-IPVS-FILTER
		-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
		-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		-A KUBE-IPVS-FILTER -m set --match-set $1-LOAD-BALANCER dst,dst -j RETURN
		-A KUBE-IPVS-FILTER -m set --match-set $1-CLUSTER-IP dst,dst -j RETURN
		-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set $1-IPVS-IPS dst -j REJECT
		COMMIT
	END
}

# nft_rules outside|all: the same rules in nft, for both families.
nft_rules()
{
	local outside="ip saddr != 10.2.0.0/16" outside6="ip6 saddr != fd00:2::/32"

	[ "$1" = outside ] || outside='' outside6=''
	cat <<-END
		table inet kube {
			set cluster {
				type ipv4_addr . inet_service
				elements = { 10.9.0.11 . 80, 10.9.0.14 . 80, 10.9.0.15 . 80 }
			}
			set cluster6 {
				type ipv6_addr . inet_service
				elements = { fd00:9::11 . 80, fd00:9::14 . 80 }
			}
			set itself {
				type ipv4_addr . inet_service . ipv4_addr
				elements = { 10.2.1.2 . 80 . 10.2.1.2, 10.2.2.2 . 80 . 10.2.2.2 }
			}
			set itself6 {
				type ipv6_addr . inet_service . ipv6_addr
				elements = { fd00:2:1::2 . 80 . fd00:2:1::2, fd00:2:2::2 . 80 . fd00:2:2::2 }
			}
			chain services {
				ip daddr . tcp dport { 10.9.0.12 . 80 } goto masquerade_later
				ip daddr . tcp dport { 10.9.0.13 . 80 } accept
				$outside ip daddr . tcp dport @cluster goto masquerade_later
				$outside6 ip6 daddr . tcp dport @cluster6 goto masquerade_later
				fib daddr type local tcp dport 30080 goto masquerade_later
			}
			chain masquerade_later {
				meta mark set meta mark or 0x4000
			}
			chain prerouting {
				type nat hook prerouting priority dstnat
				jump services
			}
			chain output {
				type nat hook output priority dstnat
				jump services
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				ip daddr . tcp dport . ip saddr @itself masquerade
				ip6 daddr . tcp dport . ip6 saddr @itself6 masquerade
				meta mark and 0x4000 == 0 return
				meta mark set meta mark xor 0x4000
				masquerade fully-random
			}
			chain input {
				type filter hook input priority filter
				ip daddr { 10.9.0.12, 10.9.0.13 } tcp dport 80 accept
				ip daddr . tcp dport @cluster accept
				ip6 daddr . tcp dport @cluster6 accept
				ct state new ip daddr 10.9.0.11-10.9.0.15 reject
				ct state new ip6 daddr fd00:9::11-fd00:9::14 reject
			}
		}
	END
}

##############################################################################
# The cases

# Each of these takes SERVICE SEEN: the client opens a connection to SERVICE and, after the first one
# has ended, another from the same port. The pod must see it come from SEEN: an address; `node` or
# `node6` for the node's (masqueraded); `pod` for the pod's, or the node's where the pod is led to
# itself.

server_rst()
{
	comes_back "$1" "settled CLOSE" server-rst
	is_seen_as "$2"
	replays tcp_closed
}

drained_while_open()
{
	comes_back "$1" "drain -t $1" hold
	undrain -t "$1"
	is_seen_as "$2"
	replays tcp_drained
}

server_rst_drained()
{
	comes_back "$1" "closed_then_drained $1" server-rst
	undrain -t "$1"
	is_seen_as "$2"
	replays tcp_drained
}

closed_then_drained()
{
	settled CLOSE
	drain -t "$1"
}

comes_back()
{
	rules_are "${rules:-iptables}" ${masquerade:+"$masquerade"}
	settings 1 1
	reconnect "$1" "$2" --end "$3"
	first_packet lost
	case $1 in
	"$pod1" | "$pod1_ipv6" | "$pod2") stays ;;
	*) goes_elsewhere ;;
	esac
}

is_seen_as()
{
	local expected=$1

	case $expected in
	pod)
		# The pod that is the client may also be the server.
		expected=10.2.1.2
		[ "$second" != rs1 ] || expected=10.2.1.1
		;;
	node) expected=10.2.${second#rs}.1 ;;
	node6) expected=fd00:2:${second#rs}::1 ;;
	esac
	[ "$seen_as" = "$expected" ] || fault "the pod had to see $expected, and saw ${seen_as:-nothing}"
}

case_is cluster_rst "ClusterIP, masqueraded, server's RST"
cluster_rst() { server_rst "$cluster" node; }
case_is cluster_drained "ClusterIP, masqueraded, drained while open"
cluster_drained() { drained_while_open "$cluster" node; }
case_is cluster_rst_drained "ClusterIP, masqueraded, server's RST, drained"
cluster_rst_drained() { server_rst_drained "$cluster" node; }
case_is cluster_ipv6_rst "ClusterIP, masqueraded, server's RST, IPv6"
cluster_ipv6_rst() { server_rst "$cluster6" node6; }
case_is cluster_ipv6_drained "ClusterIP, masqueraded, drained while open, IPv6"
cluster_ipv6_drained() { drained_while_open "$cluster6" node6; }

case_is node_rst "ClusterIP, from the node, server's RST"
node_rst() { client_is=node server_rst "$cluster" node; }
case_is node_drained "ClusterIP, from the node, drained while open"
node_drained() { client_is=node drained_while_open "$cluster" node; }
case_is node_ipv6_rst "ClusterIP, from the node, server's RST, IPv6"
node_ipv6_rst() { client_is=node server_rst "$cluster6" node6; }

case_is pod_to_pod_rst "ClusterIP, pod to pod, server's RST"
pod_to_pod_rst() { client_is=pod server_rst "$pod2" 10.2.1.2; }
case_is pod_drained "ClusterIP, from a pod, drained while open"
pod_drained() { client_is=pod drained_while_open "$cluster" pod; }
case_is pod_to_itself_rst "ClusterIP, pod to itself, server's RST"
pod_to_itself_rst() { client_is=pod server_rst "$pod1" node; }
case_is pod_to_itself_ipv6_rst "ClusterIP, pod to itself, server's RST, IPv6"
pod_to_itself_ipv6_rst() { client_is=pod server_rst "$pod1_ipv6" node6; }
case_is masquerade_all_rst "ClusterIP, masqueradeAll, pod, server's RST"
masquerade_all_rst() { client_is=pod masquerade=all server_rst "$pod2" node; }

case_is node_port_rst "NodePort, masqueraded, server's RST"
node_port_rst() { server_rst "$node_port" node; }
case_is node_port_drained "NodePort, masqueraded, drained while open"
node_port_drained() { drained_while_open "$node_port" node; }
case_is node_port_ipv6_rst "NodePort, masqueraded, server's RST, IPv6"
node_port_ipv6_rst() { server_rst "$node_port6" node6; }
case_is node_port_local_rst "NodePort, Local, server's RST"
node_port_local_rst() { server_rst "$node_port_local" 10.0.0.2; }
case_is node_port_local_drained "NodePort, Local, drained while open"
node_port_local_drained() { drained_while_open "$node_port_local" 10.0.0.2; }
case_is node_port_local_ipv6_rst "NodePort, Local, server's RST, IPv6"
node_port_local_ipv6_rst() { server_rst "$node_port_local6" fd00::2; }

case_is balancer_rst "LoadBalancer, masqueraded, server's RST"
balancer_rst() { server_rst "$balancer" node; }
case_is balancer_drained "LoadBalancer, masqueraded, drained while open"
balancer_drained() { drained_while_open "$balancer" node; }
case_is balancer_local_rst "LoadBalancer, Local, server's RST"
balancer_local_rst() { server_rst "$balancer_local" 10.0.0.2; }

# These cases run with the rules in nft, too. They come last, because replacing the rules takes time.
with_nft="cluster_rst cluster_drained cluster_ipv6_rst node_rst pod_to_itself_rst
	node_port_rst node_port_local_rst balancer_rst balancer_local_rst masquerade_all_rst"
for case in $with_nft; do
	case_is "nft_$case" "${label_of[$case]} (nft)"
	eval "nft_$case() { rules=nft $case; }"
done

##############################################################################

run_both_halves "$@"
