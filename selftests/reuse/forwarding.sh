#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks that no first packet of a connection from a reused port is lost, for each of IPVS's
# forwarding methods, for IPv4 and IPv6. lib/cases.sh says how a case is judged.
#
# The network is in lib.sh. Each virtual service has its own addresses, 10.9.0.x and fd00:9::x:
#
#   nat   .1   NAT
#   dr    .2   direct routing; as with all tunnels, the director sees only the client's packets
#   ipip  .3   tunnel: an IP packet in an IP packet
#   gue   .4   ... in UDP
#   gre   .5   ... in GRE
#   mix   .6   a tunnel of the other family: IPv4 in IPv6, IPv6 in IPv4
#
# One case: make case TEST=reuse/forwarding.sh CASE=nat_ipv6_client_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules ipip sit ip6_tunnel ip_gre ip6_gre fou fou6

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
dr=10.9.0.2:80
dr6='[fd00:9::2]:80'
ipip=10.9.0.3:80
ipip6='[fd00:9::3]:80'
gue=10.9.0.4:80
gue6='[fd00:9::4]:80'
gre=10.9.0.5:80
gre6='[fd00:9::5]:80'
four_in_six=10.9.0.6:80
six_in_four='[fd00:9::6]:80'

##############################################################################
# The director

setup()
{
	local n

	begin_director 2
	for n in 1 2; do
		{
			printf 'address add %s dev lo\n' 10.9.0.{2..6} fd00:9::{2..6}
			printf 'link set %s up\n' tunl0 sit0 gre0 ip6gre0
			# ip6tnl0 takes IPv6 only.
			echo "link add in_ipv6 type ip6tnl mode any local fd00:2:$n::2 remote ::"
			echo "link set in_ipv6 up"
			echo "fou add port 6080 gue"
		} | configure "${servers[n]}"
		echo "fou add port 6080 gue" | ip -n "${servers[n]}" -6 -batch - ||
			bail_out "cannot receive UDP tunnels"
	done
	service -t $nat -m 80
	service -t "$nat6" -m 80
	service -t $dr -g 80
	service -t "$dr6" -g 80
	service -t $ipip -i 80
	service -t "$ipip6" -i 80
	service -t $gue "-i --tun-type gue --tun-port 6080" 80
	service -t "$gue6" "-i --tun-type gue --tun-port 6080 --tun-csum" 80
	service -t $gre "-i --tun-type gre" 80
	service -t "$gre6" "-i --tun-type gre" 80
	tunnel_of=(["-t $four_in_six"]=ipv6 ["-t $six_in_four"]=ipv4)
	service -t $four_in_six -i 80
	service -t "$six_in_four" -i 80
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp
}

##############################################################################
# The cases

# The ways in which a connection ends. The argument is the service.

client_rst()
{
	settings 1 0
	reconnect "$1" "settled CLOSE" --end client-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

# With one direction only, conntrack stays in SYN_SENT: neither a FIN nor a RST ends the flow for it,
# and it does not reopen the flow.
half_closed()
{
	settings 3 0
	reconnect "$1" "settled FIN_WAIT" --end half-close
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

# With both directions, conntrack reopens a flow that the client has reset.
case_is nat_ipv6_client_rst "client's RST, IPv6"
nat_ipv6_client_rst()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSE" --end client-rst
	first_packet kept
	goes_elsewhere
	unseen
}

case_is nat_ipv6_drained "still open, server drained, IPv6"
nat_ipv6_drained() { after_drain "$nat6"; }

case_is nat_ipv6_server_rst_drained "server's RST, then drained, IPv6"
nat_ipv6_server_rst_drained()
{
	settings 1 1
	reconnect "$nat6" closed_then_drained --end server-rst
	undrain -t "$nat6"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

closed_then_drained()
{
	settled CLOSE
	drain -t "$nat6"
}

case_is dr_drained "DR, still open, server drained"
dr_drained() { after_drain "$dr"; }
case_is dr_ipv6_half_closed "DR, client's FIN, conn_reuse_mode=3, IPv6"
dr_ipv6_half_closed() { half_closed "$dr6"; }
case_is dr_ipv6_client_rst "DR, client's RST, IPv6"
dr_ipv6_client_rst() { client_rst "$dr6"; }
case_is dr_ipv6_drained "DR, still open, server drained, IPv6"
dr_ipv6_drained() { after_drain "$dr6"; }

# The director sees the client's FIN only. Unless conn_reuse_mode contains 2, IPVS goes on with such a
# flow.
case_is dr_mode_1_sticks "DR, both FINs, conn_reuse_mode=1 sticks"
dr_mode_1_sticks()
{
	settings 1 0
	reconnect "$dr" "settled FIN_WAIT" --end fin
	first_packet kept
	stays
	leaves in_use
}

case_is ipip_client_rst "TUN, client's RST"
ipip_client_rst() { client_rst "$ipip"; }
case_is ipip_drained "TUN, still open, server drained"
ipip_drained() { after_drain "$ipip"; }
case_is ipip_ipv6_half_closed "TUN, client's FIN, conn_reuse_mode=3, IPv6"
ipip_ipv6_half_closed() { half_closed "$ipip6"; }
case_is ipip_ipv6_drained "TUN, still open, server drained, IPv6"
ipip_ipv6_drained() { after_drain "$ipip6"; }

case_is gue_half_closed "TUN (GUE), client's FIN, conn_reuse_mode=3"
gue_half_closed() { half_closed "$gue"; }
case_is gue_client_rst "TUN (GUE), client's RST"
gue_client_rst() { client_rst "$gue"; }
case_is gue_drained "TUN (GUE), still open, server drained"
gue_drained() { after_drain "$gue"; }
case_is gue_ipv6_half_closed "TUN (GUE), client's FIN, conn_reuse_mode=3, IPv6"
gue_ipv6_half_closed() { half_closed "$gue6"; }
case_is gue_ipv6_drained "TUN (GUE), still open, server drained, IPv6"
gue_ipv6_drained() { after_drain "$gue6"; }

case_is gre_half_closed "TUN (GRE), client's FIN, conn_reuse_mode=3"
gre_half_closed() { half_closed "$gre"; }
case_is gre_client_rst "TUN (GRE), client's RST"
gre_client_rst() { client_rst "$gre"; }
case_is gre_drained "TUN (GRE), still open, server drained"
gre_drained() { after_drain "$gre"; }
case_is gre_ipv6_half_closed "TUN (GRE), client's FIN, conn_reuse_mode=3, IPv6"
gre_ipv6_half_closed() { half_closed "$gre6"; }
case_is gre_ipv6_drained "TUN (GRE), still open, server drained, IPv6"
gre_ipv6_drained() { after_drain "$gre6"; }

case_is four_in_six_half_closed "TUN (IPv4 in IPv6), client's FIN, mode 3"
four_in_six_half_closed() { half_closed "$four_in_six"; }
case_is four_in_six_drained "TUN (IPv4 in IPv6), still open, server drained"
four_in_six_drained() { after_drain "$four_in_six"; }
case_is six_in_four_half_closed "TUN (IPv6 in IPv4), client's FIN, mode 3"
six_in_four_half_closed() { half_closed "$six_in_four"; }
case_is six_in_four_drained "TUN (IPv6 in IPv4), still open, server drained"
six_in_four_drained() { after_drain "$six_in_four"; }

##############################################################################

run_both_halves "$@"
