#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# No first packet of a connection from a reused port is lost, wherever the client is and whatever lies
# between it and IPVS. Where the module cannot replay the packet (DNAT in front of IPVS), the packet is
# lost as on a stock kernel.
#
# lib/cases.sh says how a case is judged. lib.sh has the network. This script adds two clients behind a
# NAT router, which is the client of all other cases:
#
#     inner: 10.7.0.2, 10.7.0.3
#              10.7.0.1 |
#                     client
#              10.0.0.1 |
#                     director
#
# For IPv6: fd00:7::.
#
#   nat    10.9.0.1, fd00:9::1   NAT
#   masq   10.9.0.2              kube-proxy's rules: marked before IPVS, masqueraded after it
#   rs2    10.9.0.4, fd00:9::4   one real server only
#   moved  10.9.0.5              an address that moves from the director to a real server
#   dnat   10.9.0.6, fd00:9::6   DNAT rules translate port 81 to nat and port 82 to tun
#   other  10.9.0.7              another port of the same real servers, because IPVS cannot tell
#                                apart replies from one server port to one client port
#   tun    10.8.0.1, fd00:8::1   a tunnel whose replies come back through the director, as DNAT
#                                in front of it requires
#
# One case: make case TEST=reuse/clients.sh CASE=director_client_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules ip6_tunnel ipip nft_masq vrf

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
masq=10.9.0.2:80
rs2=10.9.0.4:80
rs2_6='[fd00:9::4]:80'
moved=10.9.0.5:80
dnat=10.9.0.6
dnat6='[fd00:9::6]'
other=10.9.0.7:80
tun=10.8.0.1:80
tun6='[fd00:8::1]:80'

address_of+=([other]=10.0.0.2 [inner]=10.7.0.2 [other_inner]=10.7.0.3 [rs1]=10.2.1.2)
address6_of+=([inner]='[fd00:7::2]' [rs1]='[fd00:2:1::2]')

##############################################################################
# The director

setup()
{
	local n

	begin_director 2
	make_inner
	printf 'address add %s dev lo\n' ${tun%:*} fd00:8::1 | ip -batch - || bail_out "no address for tun"
	for n in 1 2; do
		configure "${servers[n]}" <<-END
			address add ${tun%:*} dev lo
			address add fd00:8::1 dev lo
			link set tunl0 up
			link set ip6tnl0 up
		END
		# Replies of tun come from an address that the director has itself.
		sysctl_set ipv4/conf/rs$n/accept_local 1
	done
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table ip user {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr ${masq%:*} meta mark set 0x4000
				ip daddr $dnat tcp dport 81 dnat to $nat
				ip daddr $dnat tcp dport 82 dnat to $tun
			}
			chain output {
				type nat hook output priority dstnat
				ip daddr ${masq%:*} meta mark set 0x4000
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				meta mark 0x4000 masquerade
			}
		}
		table ip6 user {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip6 daddr fd00:9::6 tcp dport 81 dnat to $nat6
				ip6 daddr fd00:9::6 tcp dport 82 dnat to $tun6
			}
		}
	END
	service -t $nat -m 80
	service -t "$nat6" -m 80
	service -t $masq -m 80
	only=2 service -t $rs2 -m 80
	only=2 service -t "$rs2_6" -m 80
	service -t $moved -m 80
	service -t $other -m 82
	service -t $tun -i 80
	service -t "$tun6" -i 80
	make_services
	start_traffic --listen 0.0.0.0:80 --listen 0.0.0.0:82 --listen '[::]:80' --proto tcp
	start_console other nsenter --net="/run/netns/$client" --
	start_console inner nsenter --net="/run/netns/$inner" --
	start_console other_inner nsenter --net="/run/netns/$inner" --
	start_console rs1 nsenter --net="/run/netns/${servers[1]}" --
}

make_inner()
{
	inner=inner-${client#*-}
	more_namespaces+=("$inner")
	ip netns add "$inner" || bail_out "cannot make the inner clients"
	configure "$client" <<-END
		link add inner type veth peer name router netns $inner
		address add 10.7.0.1/24 dev inner
		address add fd00:7::1/64 dev inner nodad
		link set inner up
	END
	configure "$inner" <<-END
		address add 10.7.0.2/24 dev router
		address add 10.7.0.3/24 dev router
		address add fd00:7::2/64 dev router nodad
		address add fd00:7::3/64 dev router nodad
		link set router up
		route add default via 10.7.0.1
		route add ::/0 via fd00:7::1
	END
	in_ns "$client" bash -c "
		$(declare -f no_reverse_path_filter); no_reverse_path_filter
		echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		nft -f -" <<-END || bail_out "the client cannot be a router"
		table inet router {
			chain postrouting {
				type nat hook postrouting priority srcnat
				ip saddr 10.7.0.0/24 masquerade
				ip6 saddr fd00:7::/64 masquerade
			}
		}
	END
}

##############################################################################
# The cases

# Clients on the director: IPVS sees their packets at LOCAL_OUT.

# conntrack reopens a flow that the client has reset.
case_is director_client_rst "client on the director, client's RST"
director_client_rst()
{
	settings 1 0
	client_is=director reconnect "$nat" "settled CLOSE" --end client-rst
	first_packet kept
	goes_elsewhere
	unseen
}

case_is director_drained "client on the director, server drained"
director_drained() { client_is=director after_drain "$nat"; }
case_is director_ipv6_rst "client on the director, server's RST, IPv6"
director_ipv6_rst() { client_is=director after_rst "$nat6"; goes_elsewhere; }
case_is director_ipv6_drained "client on the director, server drained, IPv6"
director_ipv6_drained() { client_is=director after_drain "$nat6"; }

case_is director_masqueraded_rst "client on the director, masqueraded, server's RST"
director_masqueraded_rst()
{
	client_is=director after_rst "$masq"
	goes_elsewhere
	[ "$seen_as" = "10.2.${second#rs}.1" ] || fault "not masqueraded: seen as $seen_as"
}

# Clients on a real server. kube_proxy.sh has the client that is its own server.

case_is hairpin_rst "client on a real server, server's RST"
hairpin_rst() { hairpin "$rs2" 10.2.1.2; }
case_is hairpin_rst_ipv6 "client on a real server, server's RST, IPv6"
hairpin_rst_ipv6() { hairpin "$rs2_6" fd00:2:1::2; }

hairpin()
{
	client_is=rs1 after_rst "$1"
	stays
	[ "$seen_as" = "$2" ] || fault "seen as $seen_as"
}

# DNAT in front of IPVS. With NAT forwarding, IPVS makes the real server the other end of the
# conntrack, and DNAT then sends every later packet straight to that server. As long as the conntrack
# lives, IPVS does not see the flow, drained or not.

case_is dnat_nat_rst "DNAT in front of NAT, server's RST: sticks"
dnat_nat_rst() { dnat_before_nat "$dnat:81"; }
case_is dnat_nat_rst_ipv6 "DNAT in front of NAT, server's RST: sticks, IPv6"
dnat_nat_rst_ipv6() { dnat_before_nat "$dnat6:81"; }

dnat_before_nat()
{
	settings 1 0
	reconnect "$1" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	unseen
}

case_is dnat_nat_rst_drained "DNAT in front of NAT, then drained: sticks"
dnat_nat_rst_drained()
{
	settings 1 1
	reconnect "$dnat:81" nat_closed_then_drained --end server-rst
	undrain -t "$nat"
	first_packet kept
	stays
	unseen
}

nat_closed_then_drained()
{
	settled CLOSE
	drain -t "$nat"
}

# A tunnel leaves the conntrack as DNAT made it, so IPVS sees every packet and loses the first one.
# The module cannot replay that packet: DNAT has changed its destination, and nothing in the packet
# tells the original one. (Direct routing does not work behind DNAT at all: at LOCAL_OUT, nat routes
# the packet again, to the director itself.)
case_is dnat_tun_drained "DNAT in front of TUN, server drained"
dnat_tun_drained() { dnat_before_tun "$dnat:82" "$tun"; }
case_is dnat_tun_drained_ipv6 "DNAT in front of TUN, server drained, IPv6"
dnat_tun_drained_ipv6() { dnat_before_tun "$dnat6:82" "$tun6"; }

dnat_before_tun()
{
	settings 1 1
	reconnect "$1" "drain -t $2" --end hold
	undrain -t "$2"
	first_packet lost lost
	goes_elsewhere
	leaves translated
}

# Clients behind a router with one address.

# The router forgets the first client's connection, and gives its port to the second client.
case_is routed_reuse "NAT router gives the port to another client"
routed_reuse() { another_turn "$nat" 10.7.0.3 10.0.0.2; }
case_is routed_reuse_ipv6 "NAT router gives the port to another client, IPv6"
routed_reuse_ipv6() { another_turn "$nat6" fd00:7::3 fd00::2; }

# another_turn SERVICE CLIENT ROUTER
another_turn()
{
	settings 1 0
	client_is=inner reconnect "$1" closed_and_forgotten --end server-rst --then-from "$2"
	first_packet lost
	goes_elsewhere
	replays tcp_closed
	[ "$seen_as" = "$3" ] || fault "seen as $seen_as"
}

closed_and_forgotten()
{
	settled CLOSE
	in_ns "$client" conntrack -D -p tcp --orig-port-src "$port" >/dev/null 2>&1 ||
		in_ns "$client" conntrack -D -f ipv6 -p tcp --orig-port-src "$port" >/dev/null 2>&1 ||
		fault "the router does not forget"
}

# Two clients use the same port at the same time. The router gives the second one another port, and
# the first one's flow goes on, on a server that is drained.
case_is routed_collision "two clients with one port behind a NAT router"
routed_collision()
{
	settings 1 1
	client_is=inner reconnect "$nat" drained_with_company --end live
	goes_on
	unseen
}

drained_with_company()
{
	local drained=$first

	drain -t "$nat"
	client_is=other_inner meanwhile "$nat" true --end live
	goes_on
	first=$drained undrain -t "$nat"
}

# meanwhile...: `reconnect` from the same port, while another `reconnect` waits.
meanwhile()
{
	local mine=$port

	port=$((port - 1))
	reconnect "$@"
	[ "$port" = "$mine" ] || fault "another port: $port, not $mine"
}

# The client reuses its port towards one service. A flow from the same port to another service goes
# on, and keeps its conntrack.
case_is two_services "the same port to another service, still open"
two_services()
{
	local other_server

	settings 1 0
	client_is=other reconnect "$other" other_service --end live
	goes_on
	[ "$second" = "$other_server" ] || fault "the other flow had $other_server, has $second"
}

other_service()
{
	other_server=$first
	note_conntrack_to "$other"
	client_is=client meanwhile "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
	conntrack_stays "$other"
}

# The director forwards the client's SYN to the address's new home. IPVS does not see it.
case_is moved_away "the virtual address has moved to another machine"
moved_away()
{
	settings 1 0
	reconnect "$moved" closed_and_moved --end server-rst
	printf '%s\n' "route delete ${moved%:*}" "address add ${moved%:*} dev lo" | ip -batch -
	ip -n "${servers[2]}" address delete "${moved%:*}/32" dev lo
	first_packet kept
	[ "$second" = rs2 ] || fault "went to ${second:-nobody}"
	unseen
}

closed_and_moved()
{
	settled CLOSE
	ip -n "${servers[2]}" address add "${moved%:*}" dev lo
	printf '%s\n' "address delete ${moved%:*}/32 dev lo" "route add ${moved%:*} via 10.2.2.2" |
		ip -batch - || fault "cannot move the address"
}

# In a VRF, a packet passes PRE_ROUTING twice, once for the link and once for the VRF.

case_is vrf_rst "client in a VRF, server's RST"
vrf_rst() { in_vrf after_rst "$nat"; goes_elsewhere; }
case_is vrf_rst_ipv6 "client in a VRF, server's RST, IPv6"
vrf_rst_ipv6() { in_vrf after_rst "$nat6"; goes_elsewhere; }
case_is vrf_drained "client in a VRF, server drained"
vrf_drained() { in_vrf after_drain "$nat"; }

##############################################################################

run_both_halves "$@"
