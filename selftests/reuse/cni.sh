#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Other programs than kube-proxy configure a Kubernetes node, too. With the settings, routes, rules and marks
# of kube-router, MetalLB, Calico and Cilium no first packet of a connection from a reused port is lost, and
# each rule decides anew about the new connection. The programs themselves do not run. lib/cases.sh says
# how a case is judged; kube_proxy.sh has kube-proxy's rules.
#
# The director is a node. rs1 to rs3 are its pods, and rs1 is a client, too. The network is in lib.sh. The
# services are NAT, served by rs2 and rs3, unless it says otherwise:
#
#   cluster   10.9.0.11, fd00:9::11   ClusterIP
#   balancer  10.9.0.12               LoadBalancer, on the client's link
#   direct    10.9.0.13               external address, direct server return: by mark 13, TUN
#   pod3      10.9.0.14, fd00:9::14   ClusterIP, rs3 alone
#
# One case: make case TEST=reuse/cni.sh CASE=router_drained

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/rules.sh
. "$(dirname "$0")/../lib/rules.sh"

need_tools iptables-nft tc
need_modules act_skbedit cls_matchall dummy ipip nft_compat nft_fib_inet nft_masq sch_ingress xt_ipvs xt_nat

cluster=10.9.0.11:80
cluster6='[fd00:9::11]:80'
balancer=10.9.0.12:80
direct=10.9.0.13:80
pod3=10.9.0.14:80
pod3_ipv6='[fd00:9::14]:80'

address_of+=([pod]=10.2.1.2)
address6_of+=([pod]='[fd00:2:1::2]')

##############################################################################
# The node

setup()
{
	begin_director 3
	{
		echo "link add kube-ipvs0 type dummy"
		printf 'address add %s dev kube-ipvs0\n' 10.9.0.{11,12,14}/32 fd00:9::{11,14}/128
	} | ip -batch - || bail_out "cannot make kube-ipvs0"
	# As kube-router does, and kube-proxy with strictARP.
	sysctl_set ipv4/conf/all/arp_ignore 1
	sysctl_set ipv4/conf/all/arp_announce 2
	only="2 3"
	service -t $cluster -m 80
	service -t "$cluster6" -m 80
	service -t $balancer -m 80
	service -f 13 -i 0
	only=3 service -t $pod3 -m 80
	only=3 service -t "$pod3_ipv6" -m 80
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp
	start_console pod nsenter --net="/run/netns/${servers[1]}" --
}

# kube-proxy's rules for clients outside: a mark in front of IPVS, and masquerading by it behind.
kube_proxy='
	chain services {
		type nat hook prerouting priority dstnat
		ip saddr != 10.2.0.0/16 ip daddr 10.9.0.0/24 meta mark set meta mark or 0x4000
		ip6 saddr != fd00:2::/32 ip6 daddr fd00:9::/64 meta mark set meta mark or 0x4000
	}
	chain masquerade_marked {
		type nat hook postrouting priority srcnat
		meta mark and 0x4000 == 0 return
		meta mark set meta mark xor 0x4000
		masquerade fully-random
	}'

# server_rst SERVICE: with conn_reuse_mode=1, as kube-proxy leaves it.
server_rst()
{
	settings 1 1
	reconnect "$1" "settled CLOSE" --end server-rst
	first_packet lost
	replays tcp_closed
}

# is_seen_as RS2 RS3: checks that the second pod has seen this address.
is_seen_as()
{
	local expected=$1

	[ "$second" != rs3 ] || expected=$2
	[ "$seen_as" = "$expected" ] || fault "$second had to see $expected, and saw ${seen_as:-nothing}"
}

masqueraded() { is_seen_as 10.2.2.1 10.2.3.1; }

# passed_twice WORD: checks that the rule with this comment has counted one SYN of each connection. On the
# stock kernel the second is the retransmission, with the module the replay. Removes the rules.
passed_twice()
{
	count_packets inet
	no_rules
	[ "${packets[$1]:-}" = 2 ] || fault "expected 2 packets, counted by $1: ${packets[$1]:-none}"
}

##############################################################################
# kube-router: conn_reuse_mode=0, expire_nodest_conn=1, expire_quiescent_template=1. Packets to pods of other
# nodes get the node's address as their source. Here rs2 is a pod of this node, rs3 of another.

in_kube_router()
{
	local rule=(POSTROUTING ! -s 10.2.2.0/24 ! -d 10.2.2.0/24 -m ipvs --vdir ORIGINAL --vmethod MASQ
		-j SNAT --to-source 10.0.0.1 --random-fully)

	iptables-nft -t nat -A "${rule[@]}" || fault "cannot load the rule"
	with ipv4/vs/expire_quiescent_template=1
	settings 0 1
	"$@"
	without
	iptables-nft -t nat -D "${rule[@]}" || fault "cannot take the rule away"
}

case_is router_rst "kube-router, server's RST"
router_rst()
{
	in_kube_router reconnect "$cluster" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	is_seen_as 10.0.0.2 10.0.0.1
	replays
}

case_is router_drained "kube-router, still open, drained"
router_drained()
{
	in_kube_router reconnect "$cluster" "drain -t $cluster" --end hold
	undrain -t "$cluster"
	first_packet lost
	goes_elsewhere
	is_seen_as 10.0.0.2 10.0.0.1
	replays tcp_drained
}

# Without graceful termination. A workqueue expires the entry soon after the server is deleted.
case_is router_gone "kube-router, still open, deleted"
router_gone()
{
	in_kube_router reconnect "$cluster" removed --end hold
	restore -t "$cluster"
	first_packet kept
	goes_elsewhere
	is_seen_as 10.0.0.2 10.0.0.1
	replays
}
removed()
{
	remove -t "$cluster"
	busywait 5000 no_entry || fault "the entry did not go"
}

# Direct server return: the node does not have the external address. A rule marks packets to it, a route for
# that mark leads them to IPVS, which sends them through a tunnel to a pod, and the pod has the address. The
# pod's answers pass the node unchanged.
in_direct()
{
	local n

	for n in 2 3; do
		configure "${servers[n]}" <<-END
			address add ${direct%:*} dev lo
			link set tunl0 up
			rule delete from 10.9.0.0/24 lookup 9
		END
	done
	ip -batch - <<-END || fault "cannot make the routes"
		route add local default dev lo table 78
		rule add priority 32764 fwmark 13 lookup 78
	END
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority mangle
			ip daddr ${direct%:*} tcp dport 80 meta mark set 13
		}
	END
	settings 0 1
	"$@"
	no_rules
	ip -batch - <<-END || fault "cannot take the routes away"
		rule delete priority 32764
		route delete local default dev lo table 78
	END
	for n in 2 3; do
		configure "${servers[n]}" <<-END
			address delete ${direct%:*}/32 dev lo
			rule add from 10.9.0.0/24 lookup 9
		END
	done
}

case_is direct_rst "kube-router, DSR, server's RST"
direct_rst()
{
	in_direct reconnect "$direct" : --end server-rst
	first_packet kept
	stays
	is_seen_as 10.0.0.2 10.0.0.2
	replays
}

case_is direct_drained "kube-router, DSR, still open, drained"
direct_drained()
{
	in_direct reconnect "$direct" "drain -f 13" --end hold
	undrain -f 13
	first_packet lost
	goes_elsewhere
	is_seen_as 10.0.0.2 10.0.0.2
	replays tcp_drained
}

##############################################################################
# MetalLB in layer 2 mode: the client is on the node's link. MetalLB answers ARP requests for the balancer's
# address, and the node's kernel does not (strictARP).

in_metallb()
{
	configure "$client" <<-END
		neighbour add ${balancer%:*} lladdr $(mac_of client) dev director
		route add ${balancer%:*} dev director
	END
	rules <<<"$kube_proxy"
	"$@"
	no_rules
	configure "$client" <<-END
		route delete ${balancer%:*} dev director
		neighbour delete ${balancer%:*} dev director
	END
	goes_elsewhere
	masqueraded
}

case_is metallb_rst "MetalLB, strictARP, server's RST"
metallb_rst() { in_metallb server_rst "$balancer"; }
case_is metallb_drained "MetalLB, strictARP, still open, drained"
metallb_drained() { in_metallb after_drain "$balancer"; }

##############################################################################
# Calico marks packets from pods, and drops those with a source that is not the pod's (raw). In front of IPVS
# (input) the first packet of a connection gets a mark for the interface that it came by. Behind IPVS (output)
# that mark says whose policy applies. Packets of known connections pass without. Here 0xef300000 stands for
# rs1, 0x100000 for all that is no pod, and the policies accept port 80. In nft, as Calico's nftables mode.

in_calico()
{
	rules <<-END
		$kube_proxy
		chain raw {
			type filter hook prerouting priority raw
			meta mark set meta mark and 0xfff0ffff
			iifname "rs*" meta mark set meta mark or 0x40000
			meta mark and 0x40000 != 0 fib saddr . mark . iif oif missing drop
		}
		chain mangle {
			type filter hook prerouting priority mangle
			ct state established,related accept
			meta mark and 0x10000 != 0 accept
		}
		chain input {
			type filter hook input priority filter
			meta mark set meta mark and 0x000fffff
			ct state established,related accept
			meta l4proto tcp fib daddr type local jump mark_endpoint
		}
		chain mark_endpoint {
			iifname "rs1" meta mark set meta mark or 0xef300000 return
			iifname "rs*" drop
			meta mark set meta mark or 0x100000
		}
		chain output {
			type filter hook output priority filter
			meta mark and 0xfff00000 != 0 goto forwarded
		}
		chain forwarded {
			meta mark and 0xfff00000 == 0xef300000 jump from_pod
			meta mark and 0xfff00000 == 0x100000 counter comment "from_outside"
			oifname "rs*" jump to_pod
			meta mark set meta mark and 0x000fffff
			meta mark and 0x10000 != 0 accept
			drop
		}
		chain from_pod {
			counter comment "from_pod"
			ct state established,related accept
			ct state invalid drop
			tcp dport 80 meta mark set meta mark or 0x10000 return
			drop
		}
		chain to_pod {
			ct state established,related accept
			ct state invalid drop
			meta mark set meta mark and 0xfffeffff
			tcp dport 80 meta mark set meta mark or 0x10000 return
			drop
		}
		chain forward {
			type filter hook forward priority filter
			ct state established,related accept
			drop
		}
	END
	"$@"
}

# from_outside COMMAND SERVICE, from_pod COMMAND SERVICE: where the client is. Its first packets must pass the
# policy for that.
from_outside()
{
	in_calico "$1" "$2"
	passed_twice from_outside
	goes_elsewhere
}

from_pod()
{
	client_is=pod in_calico "$1" "$2"
	passed_twice from_pod
}

case_is calico_rst "Calico, server's RST"
calico_rst() { from_outside server_rst "$cluster"; masqueraded; }
case_is calico_drained "Calico, still open, drained"
calico_drained() { from_outside after_drain "$cluster"; masqueraded; }
case_is calico_ipv6_rst "Calico, server's RST, IPv6"
calico_ipv6_rst() { from_outside server_rst "$cluster6"; is_seen_as fd00:2:2::1 fd00:2:3::1; }
case_is calico_pod_rst "Calico, pod to pod, server's RST"
calico_pod_rst() { from_pod server_rst "$pod3"; is_seen_as 10.2.1.2 10.2.1.2; }
case_is calico_pod_drained "Calico, from a pod, still open, drained"
calico_pod_drained() { from_pod after_drain "$cluster"; is_seen_as 10.2.1.2 10.2.1.2; }
case_is calico_pod_ipv6_rst "Calico, pod to pod, server's RST, IPv6"
calico_pod_ipv6_rst() { from_pod server_rst "$pod3_ipv6"; is_seen_as fd00:2:1::2 fd00:2:1::2; }

##############################################################################
# Several uplinks, as with the VPC CNI of AWS: a connection from outside gets a conntrack mark, and the pods'
# answers get it back (CONNMARK), because it leads them to the uplink. Here answers without it have no route.

in_connmark()
{
	ip -batch - <<-END || fault "cannot make the routes"
		route add unreachable default table 80
		rule add priority 100 fwmark 0x80/0x80 lookup main
		rule add priority 200 from 10.2.0.0/16 iif rs2 lookup 80
		rule add priority 200 from 10.2.0.0/16 iif rs3 lookup 80
	END
	rules <<-END
		$kube_proxy
		chain mangle {
			type filter hook prerouting priority mangle
			iifname "client" fib daddr type local ct mark set ct mark or 0x80
			iifname "rs*" meta mark set ct mark and 0x80
		}
	END
	"$@"
	no_rules
	ip -batch - <<-END || fault "cannot take the routes away"
		rule delete priority 100
		rule delete priority 200
		rule delete priority 200
		route delete unreachable default table 80
	END
	goes_elsewhere
	masqueraded
}

case_is connmark_rst "uplink by CONNMARK, server's RST"
connmark_rst() { in_connmark server_rst "$cluster"; }
case_is connmark_drained "uplink by CONNMARK, still open, drained"
connmark_drained() { in_connmark after_drain "$cluster"; }

##############################################################################
# Cilium beside kube-proxy: its programs set marks at tc, the client's identity above 0xf00. The node's rules
# accept packets with 0xf00, and the policy at the pod goes by the identity.

in_cilium()
{
	rules <<-END
		$kube_proxy
		chain input {
			type filter hook input priority filter
			tcp dport 80 meta mark and 0xf00 != 0xf00 drop
		}
		chain to_pod {
			type filter hook postrouting priority 300
			oifname "rs*" ct state new meta mark 0x12340f00 counter comment "identity"
		}
	END
	tc qdisc add dev client clsact
	tc filter add dev client ingress matchall action skbedit mark 0x12340f00 ||
		fault "tc does not take the filter"
	"$@"
	tc qdisc delete dev client clsact
	passed_twice identity
	goes_elsewhere
}

case_is cilium_rst "Cilium's marks, server's RST"
cilium_rst() { in_cilium server_rst "$cluster"; masqueraded; }
case_is cilium_drained "Cilium's marks, still open, drained"
cilium_drained() { in_cilium after_drain "$cluster"; masqueraded; }
case_is cilium_ipv6_rst "Cilium's marks, server's RST, IPv6"
cilium_ipv6_rst() { in_cilium server_rst "$cluster6"; is_seen_as fd00:2:2::1 fd00:2:3::1; }

##############################################################################

run_both_halves "$@"
