#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks two promises for clients in different places, and for packets in different shapes:
#
# - No first packet of a connection from a reused port is lost, wherever the client is and whatever
#   lies between it and IPVS. Where the module cannot replay the packet (DNAT in front of IPVS, an
#   IPv6 datagram in fragments), the packet is lost as on a stock kernel.
# - A stray SYN with the addresses of a flow has the effect that it has on a stock kernel: none if it
#   is dropped before it reaches IPVS.
#
# lib/cases.sh says how a case is judged. lib.sh has the network. This script adds two clients behind a
# NAT router, which is the client of all other cases, and a stranger that sends with the client's
# address:
#
#     inner: 10.7.0.2, 10.7.0.3          stranger: 10.0.0.2 on lo
#              10.7.0.1 |                       10.3.0.2 |
#                     client                    10.3.0.1 |
#              10.0.0.1 |                                |
#                     director ------------------------- +
#
# For IPv6: fd00:7:: and fd00:3::, and the stranger's fd00:0::2.
#
#   nat    10.9.0.1, fd00:9::1   TCP, UDP
#   masq   10.9.0.2              kube-proxy's rules: marked before IPVS, masqueraded after it
#   rand   10.9.0.3              the same, and each connection gets a random source port
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
# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules br_netfilter bridge ip6_tunnel ipip nft_fib_inet nft_fib_ipv6 nft_masq vrf

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
masq=10.9.0.2:80
rand=10.9.0.3:80
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

cleanup()
{
	stop_witness
	cleanup_network
	[ -z "${others[*]}" ] || printf 'netns delete %s\n' "${others[@]}" | ip -force -batch - 2>/dev/null
	[ -z "$inserted" ] || rmmod ip_vs_reuse 2>/dev/null
	rm -rf "$tmp"
}
others=()

##############################################################################
# The director

setup()
{
	local n

	begin_director 2
	make_others
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
				ip daddr { ${masq%:*}, ${rand%:*} } meta mark set 0x4000
				ip daddr $dnat tcp dport 81 dnat to $nat
				ip daddr $dnat tcp dport 82 dnat to $tun
			}
			chain output {
				type nat hook output priority dstnat
				ip daddr ${masq%:*} meta mark set 0x4000
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				ct original ip daddr ${rand%:*} masquerade fully-random
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
	service -u $nat -m 80
	service -t "$nat6" -m 80
	service -u "$nat6" -m 80
	service -t $masq -m 80
	service -t $rand -m 80
	only=2 service -t $rs2 -m 80
	only=2 service -t "$rs2_6" -m 80
	service -t $moved -m 80
	service -t $other -m 82
	service -t $tun -i 80
	service -t "$tun6" -i 80
	make_services
	start_traffic --listen 0.0.0.0:80 --listen 0.0.0.0:82 --listen '[::]:80' --proto tcp --proto udp
	start_console other nsenter --net="/run/netns/$client" --
	start_console inner nsenter --net="/run/netns/$inner" --
	start_console other_inner nsenter --net="/run/netns/$inner" --
	start_console stranger nsenter --net="/run/netns/$stranger" --
	start_console rs1 nsenter --net="/run/netns/${servers[1]}" --
}

make_others()
{
	inner=inner-${client#*-} stranger=stranger-${client#*-}
	others=("$inner" "$stranger")
	{
		echo "netns add $inner"
		echo "netns add $stranger"
		echo "link add stranger type veth peer name director netns $stranger"
		echo "address add 10.3.0.1/24 dev stranger"
		echo "address add fd00:3::1/64 dev stranger nodad"
		echo "link set stranger up"
	} | ip -batch - || bail_out "cannot make the other clients"
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
	configure "$stranger" <<-END
		link set lo up
		address add 10.0.0.2/32 dev lo
		address add fd00:0::2/128 dev lo nodad
		address add 10.3.0.2/24 dev director
		address add fd00:3::2/64 dev director nodad
		link set director up
		route add default via 10.3.0.1
		route add ::/0 via fd00:3::1
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
	echo 0 >/proc/sys/net/ipv4/conf/stranger/rp_filter
}

##############################################################################
# The cases

server_rst()
{
	settings 1 0
	reconnect "$1" "settled CLOSE" --end server-rst "${@:2}"
	first_packet lost
	replays tcp_closed
}

drained_while_open()
{
	settings 1 1
	reconnect "$1" "drain -t $1" --end hold "${@:2}"
	undrain -t "$1"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

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
director_drained() { client_is=director drained_while_open "$nat"; }
case_is director_ipv6_rst "client on the director, server's RST, IPv6"
director_ipv6_rst() { client_is=director server_rst "$nat6"; goes_elsewhere; }
case_is director_ipv6_drained "client on the director, server drained, IPv6"
director_ipv6_drained() { client_is=director drained_while_open "$nat6"; }

case_is director_masqueraded_rst "client on the director, masqueraded, server's RST"
director_masqueraded_rst()
{
	client_is=director server_rst "$masq"
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
	client_is=rs1 server_rst "$1"
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

# Sets `noted` to the flow's conntrack.
note_conntrack_to()
{
	noted=$(conntrack_to "$1")
	[ -n "$noted" ] || fault "no conntrack for the flow"
}

# conntrack_stays SERVICE: whether the flow still has the conntrack that was noted.
conntrack_stays()
{
	local now

	now=$(conntrack_to "$1")
	[ "$now" = "$noted" ] || fault "the conntrack was $noted, is ${now:-gone}"
}

# conntrack_to SERVICE: state and id of the conntrack from the last client port. The id alone could
# be the same for a new conntrack: it is computed from the address in memory.
conntrack_to()
{
	local from to=${1%:*}

	from=$(clients_address "$1")
	conntrack -G -p tcp -s "${from//[][]/}" --sport "$port" -d "${to//[][]/}" --dport 80 -o id \
		2>/dev/null | grep -oE '[A-Z_]+ src=|id=[0-9]+'
}

# clients_address SERVICE: the client's address of the service's family.
clients_address()
{
	case $1 in
	\[*) echo "${address6_of[client]}" ;;
	*) echo "${address_of[client]}" ;;
	esac
}

goes_on()
{
	found "goes on"
	[ "$connected" = true ] || fault "the flow does not go on"
}

# A stray SYN: a stranger sends it with the addresses of a flow. Where it is dropped before it
# reaches IPVS, the flow keeps its conntrack and goes on, on a stock kernel and with the module.

case_is dropped_syn_closed "stray SYN, dropped by a rule; flow closed"
dropped_syn_closed() { strangers_syn_comes_late "$nat"; }
case_is dropped_syn_closed_ipv6 "stray SYN, dropped by a rule; flow closed, IPv6"
dropped_syn_closed_ipv6() { strangers_syn_comes_late "$nat6"; }

# The flow has ended. Only the client's own SYN is replayed.
strangers_syn_comes_late()
{
	settings 1 0
	reconnect "$1" "closed_and_dropped $1" --end server-rst
	nft delete table inet strays
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

closed_and_dropped()
{
	settled CLOSE
	drop_strangers
	strangers_syn "$1"
}

# The flow is alive, its server is drained, and expire_nodest_conn is 1: IPVS would end the flow if
# the SYN reached it.

case_is dropped_syn_live "stray SYN, dropped by a rule; drained"
dropped_syn_live() { strangers_syn_is_dropped "$nat" drop_strangers; }
case_is dropped_syn_live_ipv6 "stray SYN, dropped by a rule; drained, IPv6"
dropped_syn_live_ipv6() { strangers_syn_is_dropped "$nat6" drop_strangers; }
case_is dropped_syn_live_masqueraded "stray SYN, dropped; drained, masqueraded"
dropped_syn_live_masqueraded() { strangers_syn_is_dropped "$masq" drop_strangers; }
case_is dropped_syn_live_random "stray SYN, dropped; drained, from random ports"
dropped_syn_live_random() { strangers_syn_is_dropped "$rand" drop_strangers; }

# IPv6 has no rp_filter, only this rule. In raw it drops the SYN before conntrack, in mangle after.
case_is reverse_path_syn_live_ipv6 "stray SYN, dropped by a fib rule; drained, IPv6"
reverse_path_syn_live_ipv6() { strangers_syn_is_dropped "$nat6" "drop_unrouted mangle"; }
case_is raw_dropped_syn_live_ipv6 "stray SYN, dropped in raw; drained, IPv6"
raw_dropped_syn_live_ipv6() { strangers_syn_is_dropped "$nat6" "drop_unrouted raw"; }

# strangers_syn_is_dropped SERVICE RULE
strangers_syn_is_dropped()
{
	settings 1 1
	reconnect "$1" "drained_and_dropped $*" --end live
	undrain -t "$1"
	nft delete table inet strays
	goes_on
	unseen
}

drained_and_dropped()
{
	drain -t "$1"
	$2 "${@:3}"
	strangers_syn "$1"
}

drop_strangers() { strays_rule input filter "iifname stranger tcp flags syn counter drop"; }

drop_unrouted()
{
	strays_rule prerouting "$1" "meta nfproto ipv6 tcp flags syn fib saddr . iif oif missing counter drop"
}

# strays_rule HOOK PRIORITY RULE
strays_rule()
{
	nft -f - <<-END || fault "cannot load the rule"
		table inet strays {
			chain $1 {
				type filter hook $1 priority $2
				$3
			}
		}
	END
}

# strangers_syn SERVICE: from the last client port. Returns when the rule has dropped it, and the
# flow must still have its conntrack.
strangers_syn()
{
	note_conntrack_to "$1"
	console=stranger stray_syn "$1"
	busywait 5000 one_is_counted || fault "the rule does not see the SYN"
	conntrack_stays "$1"
}

# stray_syn SERVICE [OPTIONS]: from a `console`.
stray_syn()
{
	local line

	ask "syn --from $(clients_address "$1"):$port --to $*"
	[[ $line = *sent* ]] || fault "no SYN: $line"
}

one_is_counted() { [[ $(nft list table inet strays) = *"packets 1 "* ]]; }

case_is reverse_path_syn_live "stray SYN, dropped by rp_filter; server drained"
reverse_path_syn_live()
{
	settings 1 1
	echo 1 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	reconnect "$nat" drained_and_filtered --end live
	echo 0 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	undrain -t "$nat"
	goes_on
	unseen
}

drained_and_filtered()
{
	local filtered

	filtered=$(reverse_path_drops)
	drain -t "$nat"
	note_conntrack_to "$nat"
	console=stranger stray_syn "$nat"
	busywait 5000 one_is_filtered || fault "rp_filter lets the SYN through"
	conntrack_stays "$nat"
}

one_is_filtered() { [ "$(reverse_path_drops)" = $((filtered + 1)) ]; }

reverse_path_drops() { nstat -asz TcpExtIPReversePathFilter | awk '/^Tcp/ { print $2 }'; }

# A stray SYN that is delivered ends the flow on every kernel. A stock kernel drops the SYN; the
# module replays it, as if the stranger had sent it again.
case_is delivered_syn_live "stray SYN, delivered; server drained"
delivered_syn_live() { strangers_syn_is_delivered "$nat"; }
case_is delivered_syn_live_ipv6 "stray SYN, delivered; server drained, IPv6"
delivered_syn_live_ipv6() { strangers_syn_is_delivered "$nat6"; }

strangers_syn_is_delivered()
{
	settings 1 1
	reconnect "$1" "drained_and_delivered $1" --end live --timeout 1s
	undrain -t "$1"
	found "broken"
	[ "$connected" = false ] || fault "the flow goes on"
	replays tcp_drained
}

drained_and_delivered()
{
	drain -t "$1"
	console=stranger stray_syn "$1"
	busywait 5000 no_live_entry || fault "the SYN does not end the flow"
}

no_live_entry() { ! entry_is ESTABLISHED; }

# A SYN with a wrong checksum, to a flow that has ended. conntrack finds it invalid and attaches
# nothing to it, so the module does not look at it.

# A rule drops what is invalid: the SYN has no effect.
case_is damaged_syn_closed "damaged SYN, dropped as invalid; flow closed"
damaged_syn_closed() { damaged_syn_is_dropped "$nat"; }
case_is damaged_syn_closed_ipv6 "damaged SYN, dropped as invalid; closed, IPv6"
damaged_syn_closed_ipv6() { damaged_syn_is_dropped "$nat6"; }

damaged_syn_is_dropped()
{
	settings 1 0
	reconnect "$1" "closed_and_damaged $1 dropped" --end server-rst
	nft delete table inet strays
	first_packet lost
	goes_elsewhere
	counts "matched 1, replayed_tcp_closed 1"
}

# Where no rule drops it, IPVS takes the damaged SYN for the first packet of a new flow. The client's
# own SYN then belongs to that flow, and is not lost even with the old conntrack.
case_is damaged_syn_delivered "damaged SYN, delivered; flow closed"
damaged_syn_delivered() { damaged_syn_is_delivered "$nat"; }
case_is damaged_syn_delivered_ipv6 "damaged SYN, delivered; flow closed, IPv6"
damaged_syn_delivered_ipv6() { damaged_syn_is_delivered "$nat6"; }

damaged_syn_is_delivered()
{
	settings 1 0
	reconnect "$1" "closed_and_damaged $1" --end server-rst
	nft delete table inet strays
	first_packet kept
	goes_elsewhere
	leaves in_use
}

# closed_and_damaged SERVICE [dropped]
closed_and_damaged()
{
	settled CLOSE
	strays_rule input filter "tcp flags syn ct state invalid counter ${2:+drop}"
	note_conntrack_to "$1"
	console=other stray_syn "$1" --damaged
	busywait 5000 one_is_counted || fault "the rule does not see the SYN"
	[ -n "${2:-}" ] || settled SYN_RECV
	conntrack_stays "$1"
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
vrf_rst() { in_vrf server_rst "$nat"; goes_elsewhere; }
case_is vrf_rst_ipv6 "client in a VRF, server's RST, IPv6"
vrf_rst_ipv6() { in_vrf server_rst "$nat6"; goes_elsewhere; }
case_is vrf_drained "client in a VRF, server drained"
vrf_drained() { in_vrf drained_while_open "$nat"; }

# On a bridge with br_netfilter, bridged packets pass the IP hooks.

case_is bridge_rst "client on a bridge with netfilter, server's RST"
bridge_rst() { on_bridge server_rst "$nat"; goes_elsewhere; }
case_is bridge_rst_ipv6 "client on a bridge with netfilter, server's RST, IPv6"
bridge_rst_ipv6() { on_bridge server_rst "$nat6"; goes_elsewhere; }

on_bridge()
{
	ip -batch - <<-END || fault "cannot make the bridge"
		link add bridge type bridge
		link set bridge up
		link set client master bridge
		link set stranger master bridge
		address delete 10.0.0.1/24 dev client
		address add 10.0.0.1/24 dev bridge
		address delete fd00:0::1/64 dev client
		address add fd00:0::1/64 dev bridge nodad
	END
	[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || fault "no br_netfilter"
	sysctl_set bridge/bridge-nf-call-iptables 1
	sysctl_set bridge/bridge-nf-call-ip6tables 1
	ip -n "$client" neigh flush dev director
	"$@"
	ip -batch - <<-END || fault "cannot take the bridge away"
		link delete bridge
		address add 10.0.0.1/24 dev client
		address replace fd00:0::1/64 dev client nodad
	END
	ip -n "$client" neigh flush dev director
}

# The stray SYN goes to a neighbour on the other side of the bridge: it passes PRE_ROUTING and FORWARD,
# and IPVS does not see it.
case_is bridged_syn_live "stray SYN, bridged past; server drained"
bridged_syn_live() { on_bridge stray_is_bridged "$nat" 10.0.0.3; }
case_is bridged_syn_live_ipv6 "stray SYN, bridged past; server drained, IPv6"
bridged_syn_live_ipv6() { on_bridge stray_is_bridged "$nat6" fd00:0::3; }

# stray_is_bridged SERVICE NEIGHBOUR
stray_is_bridged()
{
	settings 1 1
	reconnect "$1" "drained_and_bridged $*" --end live
	undrain -t "$1"
	goes_on
	unseen
}

drained_and_bridged()
{
	local to=${1%:*}

	to=${to//[][]/}
	drain -t "$1"
	note_conntrack_to "$1"
	strays_rule forward filter "tcp flags syn counter"
	configure "$client" <<-END
		neigh replace $2 lladdr 02:00:00:00:00:03 dev director nud permanent
		route add $to via $2
	END
	console=other stray_syn "$1"
	busywait 5000 one_is_counted || fault "the SYN is not bridged"
	ip -n "$client" route delete "$to"
	nft delete table inet strays
	conntrack_stays "$1"
}

# SYNs that the client's TCP would not send. The harness sends them itself, and sees whether they are
# answered; the server is read from IPVS's entry.

# by_hand KIND SERVICE BETWEEN ARGUMENTS...
by_hand()
{
	local frames=''

	count_fragments
	reconnect "$2" "$3" "${@:4}" --handmade "$1" --link "director=$(mac_of client)"
	busywait 5000 find_second || fault "there is no second connection"
	case $1 in
	atomic) frames='[1-9]' ;;
	fragments) frames='[2-9]' ;;
	esac
	[[ $(nft list table netdev fragments) =~ packets\ $frames ]] || fault "there were no fragments"
	nft delete table netdev fragments
}

# Sets `second` to the server of the last client port's entry. Fails while the old entry is there.
find_second()
{
	local from entry servers=()

	printf -v from %04X "$port"
	while read -r entry; do
		[[ ! $entry =~ \ $from\ [0-9A-Fa-f:]+\ 0050\ (0A020|fd00:0002:000)([12]) ]] ||
			servers+=("rs${BASH_REMATCH[2]}")
	done </proc/net/ip_vs_conn
	[ ${#servers[@]} = 1 ] && second=${servers[0]}
}

# In fragments, which conntrack reassembles. Over IPv6 the first fragment, with its extra header, is as
# large as the reassembled packet, so the module can replay that, too.

case_is fragmented_syn_rst "SYN in fragments, server's RST"
fragmented_syn_rst() { rst_by_hand fragments "$nat" lost; }
case_is fragmented_syn_rst_ipv6 "SYN in fragments, server's RST, IPv6"
fragmented_syn_rst_ipv6() { rst_by_hand fragments "$nat6" lost; }
case_is fragmented_syn_drained "SYN in fragments, server drained"
fragmented_syn_drained() { drained_by_hand fragments "$nat"; }
case_is fragmented_syn_drained_ipv6 "SYN in fragments, server drained, IPv6"
fragmented_syn_drained_ipv6() { drained_by_hand fragments "$nat6"; }

# A fragment header on a whole packet: conntrack and IPVS ignore it.
case_is atomic_fragment_rst_ipv6 "SYN behind a fragment header, server's RST, IPv6"
atomic_fragment_rst_ipv6() { rst_by_hand atomic "$nat6" lost; }

rst_by_hand()
{
	settings 1 0
	by_hand "$1" "$2" "settled CLOSE" --end server-rst
	first_packet "$3"
	goes_elsewhere
	replays tcp_closed
}

drained_by_hand()
{
	settings 1 1
	by_hand "$1" "$2" "drain -t $2" --end hold
	undrain -t "$2"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

# A datagram in fragments, which conntrack reassembles. Over IPv6 the result is larger than the
# fragments were. A router must not send that on in larger pieces, and the replayed packet would not
# carry that limit: the module leaves it to IPVS.

case_is fragments_server_deleted "UDP in fragments, server deleted"
fragments_server_deleted()
{
	fragments "$nat" kept
	replays udp_gone
}

case_is fragments_server_deleted_ipv6 "UDP in fragments, server deleted, IPv6"
fragments_server_deleted_ipv6()
{
	fragments "$nat6" lost
	leaves fragments
}

# fragments SERVICE MODULE
fragments()
{
	settings 1 0
	reconnect "$1" "udp_server_goes $1" --proto udp --size 2000 --end hold
	restore -u "$1"
	first_packet lost "$2"
	goes_elsewhere
}

# With expire_nodest_conn=0 the server's entries survive its deletion.
udp_server_goes()
{
	remove -u "$1"
	settings 1 1
}

# With IPv6 destination options between the IP header and the TCP header.

case_is extension_header_rst "IPv6 extension header, server's RST"
extension_header_rst() { server_rst "$nat6" --extended; goes_elsewhere; }
case_is extension_header_drained "IPv6 extension header, server drained"
extension_header_drained() { drained_while_open "$nat6" --extended; }

# With a sequence number and a timestamp older than the old connection's, as a client sends them that
# has rebooted, or that shares an address with others. Neither IPVS nor conntrack compares them.

# conntrack reopens a flow that has ended with FINs.
case_is old_syn_fin "older sequence and timestamp, server's FIN"
old_syn_fin()
{
	settings 1 0
	by_hand old "$nat" "settled TIME_WAIT" --end fin
	first_packet kept
	goes_elsewhere
	unseen
}

case_is old_syn_rst "older sequence and timestamp, server's RST"
old_syn_rst() { rst_by_hand old "$nat" lost; }
case_is old_syn_rst_ipv6 "older sequence and timestamp, server's RST, IPv6"
old_syn_rst_ipv6() { rst_by_hand old "$nat6" lost; }
case_is old_syn_drained "older sequence and timestamp, server drained"
old_syn_drained() { drained_by_hand old "$nat"; }

# A server with the connection in TIME_WAIT does compare them. With one real server only, that server
# is asked again: it answers for the old connection, the client's TCP resets that, and the server
# accepts the next SYN. conntrack reopens the flow for both SYNs.
case_is old_syn_same_server "older sequence and timestamp, same server"
old_syn_same_server()
{
	settings 1 0
	by_hand old "$rs2" "settled TIME_WAIT" --end fin
	[ "$connected" = true ] || fault "no second connection"
	[ "$syn_retransmits" = 1 ] || fault "SYNs sent again: $syn_retransmits"
	outcome="refused once by the server ($ms ms)" result=$ms$'\t1'
	stays
	unseen
	witness_says drop || return
	[ "$count" = 0 ] || fault "ipvs-watch saw IPVS drop $count" "${witness[@]}"
}

##############################################################################

run_both_halves "$@"
