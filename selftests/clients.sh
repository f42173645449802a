#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port: by where the client is, by what lies between it and IPVS, and by
# who else sends with its address. How a case is judged stands in reuse.sh.
#
# The network is in lib.sh. Beside it are clients behind a router, which is the client of all
# other cases and masquerades them as itself, and a stranger who has the client's address too:
#
#     inner: 10.7.0.2, 10.7.0.3          stranger: 10.0.0.2 on lo
#              10.7.0.1 |                       10.3.0.2 |
#                     client                    10.3.0.1 |
#              10.0.0.1 |                                |
#                     director ------------------------- +
#
#   nat    10.9.0.1, fd00:9::1   TCP, UDP
#   masq   10.9.0.2              with kube-proxy's rules: marked before IPVS, masqueraded behind
#   rand   10.9.0.3              likewise, each connection from a random port
#   rs2    10.9.0.4              one real server only
#   moved  10.9.0.5              an address that the director loses
#   dnat   10.9.0.6              a user's rules lead from here to virtual services:
#                                port 81 to nat, 82 to tun
#   other  10.9.0.7              on another port of the real servers: replies to one client
#                                port from one of theirs IPVS cannot tell apart
#   tun    10.8.0.1              a tunnel whose replies come back by the director: only so a
#                                DNAT in front of it can work

# shellcheck disable=SC2034 # for reuse.sh
# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/reuse.sh
. "$(dirname "$0")/reuse.sh"

need_modules br_netfilter bridge ipip nft_masq vrf

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
masq=10.9.0.2:80
rand=10.9.0.3:80
rs2=10.9.0.4:80
moved=10.9.0.5:80
dnat=10.9.0.6
other=10.9.0.7:80
tun=10.8.0.1:80

address_of+=([other]=10.0.0.2 [inner]=10.7.0.2 [other_inner]=10.7.0.3 [rs1]=10.2.1.2)
address6_of+=([rs1]='[fd00:2:1::2]')

cases="director_client_rst director_drained director_ipv6_rst director_ipv6_drained
	director_masqueraded_rst
	hairpin_rst
	dnat_nat_rst dnat_nat_rst_drained dnat_tun_drained
	routed_reuse routed_collision two_services
	dropped_syn_closed dropped_syn_live dropped_syn_live_masqueraded dropped_syn_live_random
	reverse_path_syn_live delivered_syn_live moved_away
	vrf_rst vrf_drained bridge_rst bridged_syn_live
	fragments_server_deleted fragments_server_deleted_ipv6
	extension_header_rst extension_header_drained"

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
	ip address add ${tun%:*} dev lo || bail_out "no address for tun"
	for n in 1 2; do
		configure "${servers[n]}" <<-END
			address add ${tun%:*} dev lo
			link set tunl0 up
		END
		# What comes back from them has an address of the director's own.
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
	END
	service -t $nat -m 80
	service -u $nat -m 80
	service -t "$nat6" -m 80
	service -u "$nat6" -m 80
	service -t $masq -m 80
	service -t $rand -m 80
	only=2 service -t $rs2 -m 80
	service -t $moved -m 80
	service -t $other -m 82
	service -t $tun -i 80
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
		echo "link set stranger up"
	} | ip -batch - || bail_out "cannot make the other clients"
	configure "$client" <<-END
		link add inner type veth peer name router netns $inner
		address add 10.7.0.1/24 dev inner
		link set inner up
	END
	configure "$inner" <<-END
		address add 10.7.0.2/24 dev router
		address add 10.7.0.3/24 dev router
		link set router up
		route add default via 10.7.0.1
	END
	configure "$stranger" <<-END
		link set lo up
		address add 10.0.0.2/32 dev lo
		address add 10.3.0.2/24 dev director
		link set director up
		route add default via 10.3.0.1
	END
	in_ns "$client" bash -c "
		$(declare -f no_reverse_path_filter); no_reverse_path_filter
		echo 1 >/proc/sys/net/ipv4/ip_forward
		nft -f -" <<-END || bail_out "the client cannot be a router"
		table ip router {
			chain postrouting {
				type nat hook postrouting priority srcnat
				ip saddr 10.7.0.0/24 masquerade
			}
		}
	END
	echo 0 >/proc/sys/net/ipv4/conf/stranger/rp_filter
}

##############################################################################
# The cases: their names for people, and one function each

label_of=(
	[director_client_rst]="client on the director, client's RST"
	[director_drained]="client on the director, server drained"
	[director_ipv6_rst]="client on the director, server's RST, IPv6"
	[director_ipv6_drained]="client on the director, server drained, IPv6"
	[director_masqueraded_rst]="client on the director, masqueraded, server's RST"
	[hairpin_rst]="client on a real server, server's RST"
	[dnat_nat_rst]="DNAT in front of NAT, server's RST: sticks"
	[dnat_nat_rst_drained]="DNAT in front of NAT, then drained: sticks"
	[dnat_tun_drained]="DNAT in front of TUN, server drained"
	[routed_reuse]="behind a NAT router, another client's turn"
	[routed_collision]="behind a NAT router, two clients at once"
	[two_services]="the same port to another service, still open"
	[dropped_syn_closed]="stray SYN, dropped by a rule; flow closed"
	[dropped_syn_live]="stray SYN, dropped by a rule; drained"
	[dropped_syn_live_masqueraded]="stray SYN, dropped; drained, masqueraded"
	[dropped_syn_live_random]="stray SYN, dropped; drained, from random ports"
	[reverse_path_syn_live]="stray SYN, dropped by rp_filter; server drained"
	[delivered_syn_live]="stray SYN, delivered; server drained"
	[moved_away]="the virtual address has moved away"
	[vrf_rst]="client in a VRF, server's RST"
	[vrf_drained]="client in a VRF, server drained"
	[bridge_rst]="client on a bridge with netfilter, server's RST"
	[bridged_syn_live]="stray SYN, bridged past; server drained"
	[fragments_server_deleted]="UDP in fragments, server deleted"
	[fragments_server_deleted_ipv6]="UDP in fragments, server deleted, IPv6"
	[extension_header_rst]="IPv6 extension header, server's RST"
	[extension_header_drained]="IPv6 extension header, server drained"
)

server_rst()
{
	settings 1 0
	reconnect "$1" "settled CLOSE" --end server-rst "${@:2}"
	first_packet lost
	evicts tcp_closed
}

drained_while_open()
{
	settings 1 1
	reconnect "$1" "drain -t $1" --end hold "${@:2}"
	undrain -t "$1"
	first_packet lost
	goes_elsewhere
	evicts tcp_drained
}

# Clients on the director: LOCAL_OUT.

director_client_rst()
{
	settings 1 0
	client_is=director reconnect "$nat" "settled CLOSE" --end client-rst
	first_packet kept
	goes_elsewhere
	evicts tcp_closed
}

director_drained() { client_is=director drained_while_open "$nat"; }
director_ipv6_rst() { client_is=director server_rst "$nat6"; goes_elsewhere; }
director_ipv6_drained() { client_is=director drained_while_open "$nat6"; }

director_masqueraded_rst()
{
	client_is=director server_rst "$masq"
	goes_elsewhere
	[ "$seen_as" = "10.2.${second#rs}.1" ] || fault "not masqueraded: seen as $seen_as"
}

# Clients on a real server; one that gets its own connection back stands in kube_proxy.sh.

hairpin_rst()
{
	client_is=rs1 server_rst "$rs2"
	stays
	[ "$seen_as" = 10.2.1.2 ] || fault "seen as $seen_as"
}

# A user's DNAT in front of IPVS. With NAT, IPVS makes the real server the other end of the
# conntrack, and DNAT leads every later packet straight there: past IPVS, for as long as the
# conntrack lives, drained or not.

dnat_nat_rst()
{
	settings 1 0
	reconnect "$dnat:81" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	evicts
}

dnat_nat_rst_drained()
{
	settings 1 1
	reconnect "$dnat:81" nat_closed_then_drained --end server-rst
	undrain -t "$nat"
	first_packet kept
	stays
	evicts
}

nat_closed_then_drained()
{
	settled CLOSE
	drain -t "$nat"
}

# A tunnel leaves the conntrack as DNAT made it: IPVS sees every packet, and loses the first
# one. The module looks in front of DNAT, where nothing leads to the entry. (Direct routing
# does not work at all behind DNAT: on LOCAL_OUT nat routes the packet again, to the director.)
dnat_tun_drained()
{
	settings 1 1
	reconnect "$dnat:82" "drain -t $tun" --end hold
	undrain -t "$tun"
	first_packet lost lost
	goes_elsewhere
	evicts
}

# Behind a router with one address.

# The router has forgotten the first client when it gives its port to another one.
routed_reuse()
{
	settings 1 0
	client_is=inner reconnect "$nat" closed_and_forgotten --end server-rst --then-from 10.7.0.3
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
	[ "$seen_as" = 10.0.0.2 ] || fault "seen as $seen_as"
}

closed_and_forgotten()
{
	settled CLOSE
	in_ns "$client" conntrack -F 2>/dev/null || fault "the router does not forget"
}

# Two clients have the same port at once: the router gives the second one another, and the
# first one stays where it is, on a server that is drained.
routed_collision()
{
	settings 1 1
	client_is=inner reconnect "$nat" drained_with_company --end live
	goes_on
	evicts
}

drained_with_company()
{
	local drained=$first

	drain -t "$nat"
	client_is=other_inner meanwhile "$nat" true --end live
	goes_on
	first=$drained undrain -t "$nat"
}

# meanwhile...: another connection, from the same port, while `reconnect` waits.
meanwhile()
{
	local mine=$port

	port=$((port - 1))
	reconnect "$@"
	[ "$port" = "$mine" ] || fault "another port: $port, not $mine"
}

# A flow from the same port to another service goes on, with its conntrack.
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
	local now

	other_server=$first
	note_conntrack_to "$other"
	client_is=client meanwhile "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
	now=$(conntrack_to "$other")
	[ "$now" = "$noted" ] || fault "the other flow's conntrack was $noted, is $now"
}

# The conntrack from the client's last port to a service: its state, and its id, which is made
# from where it is in memory, and so may be that of the next one.
conntrack_to()
{
	conntrack -G -p tcp -s 10.0.0.2 --sport "$port" -d "${1%:*}" --dport 80 -o id 2>/dev/null |
		grep -oE '[A-Z_]+ src=|id=[0-9]+'
}

goes_on()
{
	found "goes on"
	[ "$connected" = true ] || fault "the flow does not go on"
}

# A stranger's SYN, with the addresses of a flow.

# The flow has ended: its conntrack is of no use to anybody.
dropped_syn_closed()
{
	settings 1 0
	reconnect "$nat" closed_and_dropped --end server-rst
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
	nft delete table ip strays
}

closed_and_dropped()
{
	settled CLOSE
	drop_strangers
	strangers_syn "$nat"
}

# The server is drained, and expire_nodest_conn is 1: stock IPVS would end the flow for such a
# SYN, but this one does not get there. With the module it costs the flow its conntrack. The
# flow's next packet makes a new one, and goes where IPVS knows it to belong.
dropped_syn_live() { strangers_syn_is_dropped "$nat"; goes_on; }
dropped_syn_live_masqueraded() { strangers_syn_is_dropped "$masq"; goes_on; }

# ... from another port than before, which its server does not know.
dropped_syn_live_random()
{
	strangers_syn_is_dropped "$rand" --timeout 1s
	if [ "$half" = stock ]; then
		goes_on
	else
		breaks
	fi
}

breaks()
{
	found "broken"
	[ "$connected" = false ] || fault "the flow goes on"
}

strangers_syn_is_dropped()
{
	settings 1 1
	reconnect "$1" "drained_and_dropped $1" --end live "${@:2}"
	undrain -t "$1"
	nft delete table ip strays
	evicts tcp_drained
}

drained_and_dropped()
{
	drain -t "$1"
	drop_strangers
	note_conntrack_to "$1"
	strangers_syn "$1"
	conntrack_is_evicted "$1"
}

note_conntrack_to()
{
	noted=$(conntrack_to "$1")
	[ -n "$noted" ] || fault "no conntrack for the flow"
}

conntrack_is_evicted()
{
	local now

	now=$(conntrack_to "$1")
	case $half in
	stock) [ "$now" = "$noted" ] || fault "its conntrack was $noted, is $now" ;;
	*) [ "$now" != "$noted" ] || fault "its conntrack is still there" ;;
	esac
}

drop_strangers()
{
	nft -f - <<-END
		table ip strays {
			chain input {
				type filter hook input priority filter
				iifname stranger tcp flags syn counter drop
			}
		}
	END
}

# strangers_syn SERVICE: with the last client port; returns when the rule has dropped it.
strangers_syn()
{
	local console=stranger line

	ask "syn --from 10.0.0.2:$port --to $1"
	[[ $line = *sent* ]] || fault "no SYN: $line"
	busywait 5000 one_is_counted || fault "the rule does not see the SYN"
}

one_is_counted() { [[ $(nft list table ip strays) = *"packets 1 "* ]]; }

reverse_path_syn_live()
{
	settings 1 1
	echo 1 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	reconnect "$nat" drained_and_filtered --end live
	echo 0 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	undrain -t "$nat"
	goes_on
	evicts tcp_drained
}

drained_and_filtered()
{
	local console=stranger line filtered

	filtered=$(reverse_path_drops)
	drain -t "$nat"
	note_conntrack_to "$nat"
	ask "syn --from 10.0.0.2:$port --to $nat"
	busywait 5000 one_is_filtered || fault "rp_filter lets the SYN through"
	conntrack_is_evicted "$nat"
}

one_is_filtered() { [ "$(reverse_path_drops)" = $((filtered + 1)) ]; }

reverse_path_drops() { nstat -asz TcpExtIPReversePathFilter | awk '/^Tcp/ { print $2 }'; }

# One that is delivered ends the flow with the module and without.
delivered_syn_live()
{
	settings 1 1
	reconnect "$nat" drained_and_delivered --end live --timeout 1s
	undrain -t "$nat"
	breaks
	evicts tcp_drained
}

drained_and_delivered()
{
	local console=stranger line

	drain -t "$nat"
	ask "syn --from 10.0.0.2:$port --to $nat"
	busywait 5000 no_live_entry || fault "the SYN does not end the flow"
}

no_live_entry() { ! entry_is ESTABLISHED; }

# The client's SYN is forwarded now, to where the address is: IPVS does not see it.
moved_away()
{
	settings 1 0
	reconnect "$moved" closed_and_moved --end server-rst
	printf '%s\n' "route delete ${moved%:*}" "address add ${moved%:*} dev lo" | ip -batch -
	ip -n "${servers[2]}" address delete "${moved%:*}/32" dev lo
	first_packet kept
	[ "$second" = rs2 ] || fault "went to ${second:-nobody}"
	evicts tcp_closed
}

closed_and_moved()
{
	settled CLOSE
	ip -n "${servers[2]}" address add "${moved%:*}" dev lo
	printf '%s\n' "address delete ${moved%:*}/32 dev lo" "route add ${moved%:*} via 10.2.2.2" |
		ip -batch - || fault "cannot move the address"
}

# In a VRF, packets pass PRE_ROUTING twice, for the link and for the VRF.

vrf_rst() { in_vrf server_rst "$nat"; goes_elsewhere; }
vrf_drained() { in_vrf drained_while_open "$nat"; }

# What is routed back to the client needs a way out of the main table.
in_vrf()
{
	ip -batch - <<-END || fault "cannot make the VRF"
		link add red type vrf table 10
		link set red up
		link set client master red
		route add 10.0.0.0/24 dev client
	END
	"$@"
	ip -batch - <<-END || fault "cannot take the VRF away"
		link delete red
		address replace fd00:0::1/64 dev client nodad
	END
}

# On a bridge, the IP hooks see what is bridged.

bridge_rst() { on_bridge server_rst "$nat"; goes_elsewhere; }

on_bridge()
{
	ip -batch - <<-END || fault "cannot make the bridge"
		link add bridge type bridge
		link set bridge up
		link set client master bridge
		link set stranger master bridge
		address delete 10.0.0.1/24 dev client
		address add 10.0.0.1/24 dev bridge
	END
	[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || fault "no br_netfilter"
	sysctl_set bridge/bridge-nf-call-iptables 1
	ip -n "$client" neigh flush dev director
	"$@"
	ip -batch - <<-END || fault "cannot take the bridge away"
		link delete bridge
		address add 10.0.0.1/24 dev client
	END
	ip -n "$client" neigh flush dev director
}

# The SYN is for somebody else, on the other side of the bridge.
bridged_syn_live() { on_bridge stray_is_bridged; }

stray_is_bridged()
{
	settings 1 1
	reconnect "$nat" drained_and_bridged --end live
	undrain -t "$nat"
	goes_on
	evicts tcp_drained
}

drained_and_bridged()
{
	local console=other line

	drain -t "$nat"
	note_conntrack_to "$nat"
	nft -f - <<-END
		table ip strays {
			chain forward {
				type filter hook forward priority filter
				ip daddr ${nat%:*} tcp flags syn counter
			}
		}
	END
	ip -n "$client" -batch - <<-END
		neigh replace 10.0.0.3 lladdr 02:00:00:00:00:03 dev director nud permanent
		route add ${nat%:*} via 10.0.0.3
	END
	ask "syn --from 10.0.0.2:$port --to $nat"
	busywait 5000 one_is_counted || fault "the SYN is not bridged"
	ip -n "$client" route delete "${nat%:*}"
	nft delete table ip strays
	conntrack_is_evicted "$nat"
}

# conntrack has put them together again.

fragments_server_deleted() { fragments "$nat"; }
fragments_server_deleted_ipv6() { fragments "$nat6"; }

fragments()
{
	settings 1 0
	reconnect "$1" "udp_server_goes $1" --proto udp --size 2000 --end hold
	restore -u "$1"
	first_packet lost
	goes_elsewhere
	evicts udp_gone
}

# Deleted while expire_nodest_conn is 0, so that the entries stay.
udp_server_goes()
{
	remove -u "$1"
	settings 1 1
}

# Destination options lie before the TCP header.

extension_header_rst() { server_rst "$nat6" --extended; goes_elsewhere; }
extension_header_drained() { drained_while_open "$nat6" --extended; }

##############################################################################

run_both_halves "$@"
