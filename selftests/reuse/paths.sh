#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, and its packets reach IPVS through various devices, routes and tunnels. A
# replayed packet takes the same path twice: rules at LOCAL_IN see one SYN twice. On the stock kernel
# they see the lost SYN and its retransmission (`passes` counts them). lib/cases.sh says how a case is
# judged.
#
# The network is in lib.sh, all services are NAT:
#
#   nat      10.9.0.1, fd00:9::1
#   marked   10.9.0.2, fd00:9::2     by the packets' mark 5
#   routed   10.9.0.20, fd00:9::20   an address of the director only for packets with the mark 6
#
# paths_netfilter.sh covers what comes after routing: rules, queues, sockets.
#
# One case: make case TEST=reuse/paths.sh CASE=tc_mark

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/paths.sh
. "$(dirname "$0")/../lib/paths.sh"

need_tools clang iptables ip6tables python3 tc
need_modules 8021q act_ct act_gact act_mirred act_skbedit bridge br_netfilter cls_flower cls_matchall esp4 esp6 \
	gcm ipvlan macvlan nft_compat nft_xfrm sch_ingress seqiv vrf xfrm_user xt_mark xt_physdev

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
marked=10.9.0.2:80
marked6='[fd00:9::2]:80'
routed=10.9.0.20:80
routed6='[fd00:9::20]:80'

##############################################################################
# The director

setup()
{
	begin_director 2
	service -t $nat -m 80
	service -t "$nat6" -m 80
	service -f 5 -m 0
	service -f '5 -6' -m 0
	service -t $routed -m 80
	service -t "$routed6" -m 80
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp
}

##############################################################################
# The cases

# passes MATCH COMMAND...: a COMMAND that makes two connections. Only SYNs that MATCH is true of come to
# IPVS, and all of them must.
passes()
{
	meets_twice "chain input {
		type filter hook input priority filter
		$syn $1 counter accept
		$syn counter drop
	}" "${@:2}"
}

# on_ingress COMMAND FILTER...: with such a tc filter for what comes from the client.
on_ingress()
{
	tc qdisc add dev client clsact
	tc filter add dev client ingress "${@:2}" || fault "tc does not take: ${*:2}"
	eval "$1"
	tc qdisc delete dev client clsact
}

case_is tc_mark "a service by a mark that tc sets"
tc_mark() { on_ingress "passes 'meta mark 5' saved $marked" matchall action skbedit mark 5; }
case_is tc_mark_ipv6 "a service by a mark that tc sets, IPv6"
tc_mark_ipv6() { on_ingress "passes 'meta mark 5' saved $marked6" matchall action skbedit mark 5; }

case_is tc_conntrack "tc attaches the conntrack"
tc_conntrack() { on_ingress "saved $nat" protocol ip matchall action ct; }
case_is tc_conntrack_ipv6 "tc attaches the conntrack, IPv6"
tc_conntrack_ipv6() { on_ingress "saved $nat6" protocol ipv6 matchall action ct; }

# Every SYN has a confirmed conntrack when it comes to IPVS: one that is replayed has a new one. It meets
# the old entry again, and is replayed only once. A patched IPVS has set that entry's timer to the next
# tick: if the tick comes first, there is no entry any more, and the SYN is kept.
case_is tc_conntrack_committed "tc attaches and commits the conntrack"
tc_conntrack_committed()
{
	local expected=lost

	[ "$plain" = stock ] || expected="'@(kept|lost)'"
	on_ingress "server_rst $nat $expected $expected" protocol ip matchall action ct commit
	goes_elsewhere
	[ "$plain" != stock ] || counts "matched 2, replayed_tcp_closed 1, left_untracked 1"
}

case_is routed_by_mark "routed to the director by a mark"
routed_by_mark() { by_mark "ip daddr ${routed%:*}" saved "$routed"; }
case_is routed_by_mark_ipv6 "routed to the director by a mark, IPv6"
routed_by_mark_ipv6() { by_mark "ip6 daddr fd00:9::20" saved "$routed6"; }

by_mark()
{
	ip rule add fwmark 6 lookup 100
	ip -6 rule add fwmark 6 lookup 100
	ip -batch - <<-END || fault "cannot add the routes"
		route add local ${routed%:*} dev lo table 100
		route add local fd00:9::20 dev lo table 100
	END
	nft -f - <<-END || fault "cannot load the rules"
		table inet by_mark {
			chain prerouting {
				type filter hook prerouting priority mangle
				$1 meta mark set 6
			}
		}
	END
	passes 'meta mark 6' "${@:2}"
	nft delete table inet by_mark
	ip rule delete fwmark 6
	ip -6 rule delete fwmark 6
	ip route flush table 100
	ip -6 route flush table 100
}

case_is strict_reverse_path "strict rp_filter"
strict_reverse_path()
{
	echo 1 >/proc/sys/net/ipv4/conf/client/rp_filter
	saved "$nat"
	echo 0 >/proc/sys/net/ipv4/conf/client/rp_filter
}

case_is vrf "through a VRF"
vrf() { in_vrf passes 'iifname red' saved "$nat"; }
case_is vrf_ipv6 "through a VRF, IPv6"
vrf_ipv6() { in_vrf passes 'iifname red' saved "$nat6"; }

# The packet passes PRE_ROUTING once for the VRF's slave and once for the VRF, both times.
case_is vrf_slave "through a VRF, with a rule for its slave"
vrf_slave() { in_vrf meets_on_slave "" saved "$nat"; }
case_is vrf_slave_ipv6 "through a VRF, with a rule for its slave, IPv6"
vrf_slave_ipv6() { in_vrf meets_on_slave "" saved "$nat6"; }

# A zone that only the slave chooses, only for the client's packets: in PRE_ROUTING for the slave the client's
# ACK is invalid, in that for the VRF it makes a conntrack in the default zone. The next connection needs it gone.
case_is vrf_zone "through a VRF, with a conntrack zone that its slave chooses"
vrf_zone()
{
	in_vrf meets_on_slave "ct zone set 7" server_rst "$nat" lost lost
	goes_elsewhere
	leaves vrf_zone
}

# meets_on_slave STATEMENT COMMAND...
meets_on_slave()
{
	meets_twice "chain prerouting {
		type filter hook prerouting priority raw
		iifname client $syn counter
		iifname client $1
	}" "${@:2}"
}

case_is bridge_plain "on a bridge without netfilter"
bridge_plain() { on_bridge 0 passes 'iifname front' saved "$nat"; }
case_is bridge_plain_ipv6 "on a bridge without netfilter, IPv6"
bridge_plain_ipv6() { on_bridge 0 passes 'iifname front' saved "$nat6"; }

# A mark that the bridge's device would not get a second time.
case_is bridge_tc_mark "on a bridge, a service by a mark that tc sets on its port"
bridge_tc_mark() { on_bridge 0 on_ingress "passes 'meta mark 5' saved $marked" matchall action skbedit mark 5; }
case_is bridge_tc_mark_ipv6 "on a bridge, a service by a mark that tc sets on its port, IPv6"
bridge_tc_mark_ipv6() { on_bridge 0 on_ingress "passes 'meta mark 5' saved $marked6" matchall action skbedit mark 5; }

# on_bridge NETFILTER COMMAND...
on_bridge()
{
	sysctl_set bridge/bridge-nf-call-iptables "$1"
	sysctl_set bridge/bridge-nf-call-ip6tables "$1"
	ip -batch - <<-END || fault "cannot make the bridge"
		link add front type bridge
		link set client master front
	END
	in_front "${@:2}"
}

# As on a node whose pods are on a bridge. The physical device is still known when a packet comes
# again: its mark is gone, and is set again by PREROUTING.
case_is bridge_physdev "on a bridge, physdev rules"
bridge_physdev() { on_bridge 1 with_physdev iptables saved "$nat"; }
case_is bridge_physdev_ipv6 "on a bridge, physdev rules, IPv6"
bridge_physdev_ipv6() { on_bridge 1 with_physdev ip6tables saved "$nat6"; }

# with_physdev IPTABLES COMMAND...
with_physdev()
{
	"$1" -t mangle -A PREROUTING -m physdev --physdev-in client -j MARK --set-mark 5
	"$1" -t mangle -A INPUT -p tcp --syn --dport 80 -m physdev ! --physdev-in client -j DROP ||
		fault "$1 does not take the rule"
	passes "iifname front meta mark 5" "${@:2}"
	"$1" -t mangle -F
}

# in_front COMMAND...: with the addresses of the link to the client on `front`, which is made, and
# will be deleted.
in_front()
{
	ip -batch - <<-END || fault "cannot use the device"
		link set front up
		address delete 10.0.0.1/24 dev client
		address delete fd00:0::1/64 dev client
		address add 10.0.0.1/24 dev front
		address add fd00:0::1/64 dev front nodad
	END
	echo 0 >/proc/sys/net/ipv4/conf/front/rp_filter
	ip -n "$client" neigh flush dev director
	"$@"
	ip -batch - <<-END || fault "cannot delete the device"
		link delete front
		address add 10.0.0.1/24 dev client
		address add fd00:0::1/64 dev client nodad
	END
	ip -n "$client" neigh flush dev director
}

case_is vlan "through a VLAN"
vlan() { on_vlan saved "$nat"; }
case_is vlan_ipv6 "through a VLAN, IPv6"
vlan_ipv6() { on_vlan saved "$nat6"; }

on_vlan()
{
	configure "$client" <<-END
		link add link director name front type vlan id 5
		link set front up
		address delete 10.0.0.2/24 dev director
		address delete fd00:0::2/64 dev director
		$(clients_addresses front)
	END
	ip link add link client name front type vlan id 5
	in_front passes 'iifname front' "$@"
	configure "$client" <<-END
		link delete front
		$(clients_addresses director)
	END
}

# clients_addresses DEVICE: to be added there.
clients_addresses()
{
	cat <<-END
		address add 10.0.0.2/24 dev $1
		address add fd00:0::2/64 dev $1 nodad
		route replace 10.9.0.0/24 via 10.0.0.1
		route replace fd00:9::/64 via fd00:0::1
	END
}

case_is macvlan "through a macvlan"
macvlan() { on_macvlan saved "$nat"; }
case_is macvlan_ipv6 "through a macvlan, IPv6"
macvlan_ipv6() { on_macvlan saved "$nat6"; }

# The link below must not answer for its address.
on_macvlan()
{
	echo 1 >/proc/sys/net/ipv4/conf/client/arp_ignore
	ip link add link client name front type macvlan mode bridge
	in_front passes 'iifname front' "$@"
	echo 0 >/proc/sys/net/ipv4/conf/client/arp_ignore
}

case_is ipvlan "through an ipvlan"
ipvlan() { on_ipvlan saved "$nat"; }
case_is ipvlan_ipv6 "through an ipvlan, IPv6"
ipvlan_ipv6() { on_ipvlan saved "$nat6"; }

# Its packets are those to its own addresses.
on_ipvlan()
{
	ip -batch - <<-END
		link add link client name front type ipvlan mode l2
		address add 10.9.0.1/32 dev front
		address add fd00:9::1/128 dev front nodad
	END
	in_front passes 'iifname front' "$@"
}

# With a rule that lets nothing pass but what came by IPsec. Replies are not encrypted.
case_is ipsec_transport "IPsec, transport mode"
ipsec_transport() { by_ipsec transport 10.0.0.2 10.9.0.1 10.9.0.1 saved "$nat"; }
case_is ipsec_transport_ipv6 "IPsec, transport mode, IPv6"
ipsec_transport_ipv6() { by_ipsec transport fd00:0::2 fd00:9::1 fd00:9::1 saved "$nat6"; }
case_is ipsec_tunnel "IPsec, tunnel mode"
ipsec_tunnel() { by_ipsec tunnel 10.0.0.2 10.9.0.1 10.0.0.1 saved "$nat"; }
case_is ipsec_tunnel_ipv6 "IPsec, tunnel mode, IPv6"
ipsec_tunnel_ipv6() { by_ipsec tunnel fd00:0::2 fd00:9::1 fd00:0::1 saved "$nat6"; }

# by_ipsec MODE CLIENT SERVICE DIRECTOR COMMAND...: to the SERVICE by way of DIRECTOR.
by_ipsec()
{
	local state="src $2 dst $4 proto esp spi 0x1001 reqid 5 mode $1" ns

	for ns in "$client" ''; do
		# shellcheck disable=SC2086 # several words
		ip ${ns:+-n "$ns"} xfrm state add $state \
			aead 'rfc4106(gcm(aes))' 0x0123456789abcdef0123456789abcdef01234567 128 ||
			fault "cannot add the IPsec state"
	done
	ip -n "$client" xfrm policy add dir out src "$2" dst "$3" \
		tmpl src "$2" dst "$4" proto esp reqid 5 mode "$1" || fault "cannot add the IPsec policy"
	passes "meta ipsec exists ipsec in reqid 5" "${@:5}"
	ip -n "$client" xfrm policy flush
	ip -n "$client" xfrm state flush
	ip xfrm state flush
}

case_is generic_xdp "a generic XDP program"
generic_xdp() { with_xdp saved "$nat"; }
case_is generic_xdp_ipv6 "a generic XDP program, IPv6"
generic_xdp_ipv6() { with_xdp saved "$nat6"; }

with_xdp()
{
	clang -O2 -target bpf -c -o "$tmp/xdp.o" -x c - <<-END || fault "cannot build the XDP program"
		__attribute__((section("xdp"), used)) int pass(void *packet) { return 2 /* XDP_PASS */; }
		__attribute__((section("license"), used)) char gpl[] = "GPL";
	END
	ip link set dev client xdpgeneric obj "$tmp/xdp.o" sec xdp || fault "cannot attach the XDP program"
	"$@"
	ip link set dev client xdpgeneric off
}

case_is tc_to_loopback "tc redirects to the loopback device"
tc_to_loopback() { to_loopback ip "$nat"; }
case_is tc_to_loopback_ipv6 "tc redirects to the loopback device, IPv6"
tc_to_loopback_ipv6() { to_loopback ipv6 "$nat6"; }

# to_loopback PROTOCOL SERVICE
to_loopback()
{
	on_ingress "passes 'iifname lo' server_rst $2 lost lost" \
		protocol "$1" flower ip_proto tcp action mirred ingress redirect dev lo
	goes_elsewhere
	leaves loopback
}

# A packet that is replayed is received once by the device, and twice by tc, packet sockets, and IP.
case_is seen_twice "counters and captures see a replayed packet twice"
seen_twice()
{
	local line

	coproc sniffer { exec "$here/lib/sockets.py" sniff client; }
	read -r -t 20 line <&"${sniffer[0]}"
	[ "$line" = READY ] || fault "sockets.py sniff says ${line:-nothing}"
	on_ingress "saved_and_counted" protocol ip flower ip_proto tcp src_ip 10.0.0.2 tcp_flags 0x2/0x17 action ok
	# shellcheck disable=SC2154 # coproc sets it
	kill "$sniffer_PID"
	wait "$sniffer_PID" 2>/dev/null
}

saved_and_counted()
{
	local surplus sent seen twice=0

	surplus=$(surplus)
	saved "$nat"
	[ "$half" = stock ] || twice=1
	sent=$((syn_retransmits + 1))
	# Some packets may be on their way.
	busywait 5000 surplus_grew ||
		fault "expected $twice packets to be counted twice in IpInReceives, not $(($(surplus) - surplus))"
	[[ $(tc -s filter show dev client ingress) =~ Sent\ [0-9]+\ bytes\ ([0-9]+)\ pkt ]]
	seen=$((BASH_REMATCH[1] - 1))
	[ "$seen" = $((sent + twice)) ] || fault "the client has sent $sent SYNs, tc has seen $seen"
	echo "$port" >&"${sniffer[1]}"
	read -r -t 20 seen <&"${sniffer[0]}"
	[ "$seen" = $((sent + twice + 1)) ] ||
		fault "the client has sent $sent SYNs and one before, a packet socket has seen $seen"
}

surplus_grew() { [ $(($(surplus) - surplus)) = "$twice" ]; }

# How many more packets the director's IP has received than all others have sent to it.
surplus()
{
	local surplus ns

	surplus=$(statistic IpInReceives)
	for ns in "$client" "${servers[@]}"; do
		surplus=$((surplus - $(in_ns "$ns" bash -c "$(declare -f statistic); statistic IpOutRequests")))
	done
	echo "$surplus"
}

statistic() { nstat -asz "$1" | awk '!/^#/ { print $2 }'; }

##############################################################################

run_both_halves "$@"
