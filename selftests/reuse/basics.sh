#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port while IPVS still has the entry of the old connection. If the first packet of
# the new connection carries the old connection's confirmed conntrack, IPVS drops the packet, and the
# client sends it again a second later.
#
# This script has the common forms of that fault, and cases in which the module must change nothing.
# `make demo` shows its table. lib/cases.sh says how a case is judged, and how to add one.
#
# The network is in lib.sh. Each virtual service has an address of its own (10.9.0.x):
#
#   nat   .1, fd00:9::1   TCP, UDP, SCTP
#   masq  .2              with kube-proxy's rules: marked before IPVS, masqueraded behind it
#   zone  .3              both directions in a conntrack zone
#   dr    .4              direct routing: the director sees the client's packets only
#   tun   .5              IPIP tunnels: likewise
#   pers  .6              persistent
#
# One case: make case TEST=reuse/basics.sh CASE=server_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules ipip nft_masq

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
masq=10.9.0.2:80
zone=10.9.0.3:80
dr=10.9.0.4:80
tun=10.9.0.5:80
pers=10.9.0.6:80

##############################################################################
# The director

setup()
{
	local n

	begin_director 2
	for n in 1 2; do
		configure "${servers[n]}" <<-END
			address add ${dr%:*} dev lo
			address add ${tun%:*} dev lo
			link set tunl0 up
		END
	done
	masquerade_and_zone $masq $zone
	service -t $nat -m 80
	service -u $nat -m 80
	service --sctp-service $nat -m 80
	service -t "$nat6" -m 80
	service -t $masq -m 80
	service -t $zone -m 82
	service -t $dr -g 80
	service -t $tun -i 80
	service -t $pers -m 80 -p 60
	make_services
	start_traffic --listen 0.0.0.0:80 --listen 0.0.0.0:82 --listen '[::]:80' --proto tcp --proto udp
}

##############################################################################
# The cases

# conntrack reopens a flow that was closed, or reset by the client: nothing is lost.
case_is server_fin "server's FIN"
server_fin()
{
	settings 1 0
	reconnect "$nat" "settled TIME_WAIT" --end fin
	first_packet kept
	goes_elsewhere
	unseen
}

case_is client_rst "client's RST"
client_rst()
{
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end client-rst
	first_packet kept
	goes_elsewhere
	unseen
}

# It does not reopen one that was reset by the server.
case_is server_rst "server's RST"
server_rst()
{
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is server_rst_ipv6 "server's RST, IPv6"
server_rst_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is server_rst_to_director "server's RST, client on the director"
server_rst_to_director()
{
	settings 1 0
	client_is=director reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is drained_while_open "still open, server drained"
drained_while_open()
{
	settings 1 1
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

case_is drained_while_open_mode_0 "still open, server drained, conn_reuse_mode=0"
drained_while_open_mode_0()
{
	settings 0 1
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

case_is server_rst_drained "server's RST, then drained"
server_rst_drained()
{
	settings 1 1
	reconnect "$nat" closed_then_drained --end server-rst
	undrain -t "$nat"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

closed_then_drained()
{
	settled CLOSE
	drain -t "$nat"
}

# Its template leads back to the drained server, unless expire_quiescent_template is set; but
# the entry is given up all the same.
case_is server_rst_drained_persistent "server's RST, then drained, persistent service"
server_rst_drained_persistent()
{
	settings 1 1
	reconnect "$pers" persistent_then_drained --end server-rst
	undrain -t "$pers"
	first_packet lost
	stays
	replays tcp_drained
}

persistent_then_drained()
{
	settled CLOSE
	drain -t "$pers"
}

# nat chains run for new conntracks only: without one the second connection would have its
# own source address, and the mark would be missing.
case_is server_rst_masqueraded "server's RST, masqueraded"
server_rst_masqueraded()
{
	settings 1 0
	reconnect "$masq" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	[ "$seen_as" = "10.2.${second#rs}.1" ] || fault "not masqueraded: seen as $seen_as"
	replays tcp_closed
}

# IPVS looks for what it leaves behind in the default zone only: the old conntrack stays, and
# what the new server answers clashes with it.
case_is server_rst_in_zone "server's RST, conntrack zone"
server_rst_in_zone()
{
	settings 1 0
	reconnect "$zone" "settled CLOSE" --end server-rst --timeout 2.5s
	first_packet never
	goes_elsewhere
	replays tcp_closed
}

# The director sees one direction, and its conntrack no more than SYN_SENT.
case_is dr_half_closed "DR, client's FIN, conn_reuse_mode=3"
dr_half_closed()
{
	settings 3 0
	reconnect "$dr" "settled FIN_WAIT" --end half-close
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is dr_client_rst "DR, client's RST, conn_reuse_mode=3"
dr_client_rst()
{
	settings 3 0
	reconnect "$dr" "settled CLOSE" --end client-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is tun_half_closed "TUN, client's FIN, conn_reuse_mode=3"
tun_half_closed()
{
	settings 3 0
	reconnect "$tun" "settled FIN_WAIT" --end half-close
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is sctp_abort "SCTP, server's ABORT"
sctp_abort()
{
	settings 1 0
	reconnect "$nat" "settled CLOSED" --proto sctp --end server-rst
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is sctp_shutdown_drained "SCTP, server's SHUTDOWN, then drained"
sctp_shutdown_drained()
{
	settings 1 1
	reconnect "$nat" sctp_closed_then_drained --proto sctp --end fin
	undrain --sctp-service "$nat"
	first_packet lost
	goes_elsewhere
	replays sctp_drained
}

sctp_closed_then_drained()
{
	settled CLOSED
	drain --sctp-service "$nat"
}

# Deleted while expire_nodest_conn is 0, so that the entries stay.
case_is udp_server_deleted "UDP, server deleted"
udp_server_deleted()
{
	settings 1 0
	reconnect "$nat" udp_server_goes --proto udp --end hold
	restore -u "$nat"
	first_packet lost
	goes_elsewhere
	replays udp_gone
}

udp_server_goes()
{
	remove -u "$nat"
	settings 1 1
}

# Deleted while it is 1, all entries of the server go at once: nothing is left to trip over.
case_is server_deleted "still open, server deleted"
server_deleted()
{
	settings 1 1
	reconnect "$nat" server_goes --end hold
	restore -t "$nat"
	first_packet kept
	goes_elsewhere
	replays
}

server_goes()
{
	remove -t "$nat"
	busywait 5000 no_entry || fault "the entry did not go"
}

# Where nothing may change.

case_is live_flow_stays "a live flow stays when a stray SYN comes"
live_flow_stays()
{
	settings 1 1
	reconnect "$nat" note_conntrack --end stray-syn
	[ -n "$noted" ] || fault "no conntrack for the flow"
	[ "$(conntrack_id)" = "$noted" ] || fault "its conntrack is not the same any more"
	[ "$connected" = true ] || fault "the flow does not go on"
	found "goes on"
	stays
	replays
}

# The server is drained: a SYN in order would end the flow.
case_is damaged_syn_changes_nothing "a damaged SYN changes nothing"
damaged_syn_changes_nothing()
{
	settings 1 1
	nft -f - <<-END
		table inet damaged {
			chain input {
				type filter hook input priority filter
				ct state invalid drop
			}
		}
	END
	reconnect "$nat" noted_and_drained --end damaged-syn
	nft delete table inet damaged
	undrain -t "$nat"
	[ "$(conntrack_id)" = "$noted" ] || fault "its conntrack is not the same any more"
	[ "$connected" = true ] || fault "the flow does not go on"
	found "goes on"
	stays
	unseen
}

noted_and_drained() { note_conntrack; drain -t "$nat"; }
note_conntrack() { noted=$(conntrack_id); }

# On the stock kernel IPVS loses the first SYN, and the rule catches the next one; with the
# module it catches them all.
case_is new_rule_catches "a rule for new connections catches the reused port"
new_rule_catches()
{
	local caught sent

	settings 1 0
	reconnect "$nat" closed_then_forbidden --end server-rst --timeout 1.5s
	[[ $(nft list chain ip firewall input) =~ packets\ ([0-9]+) ]]
	caught=${BASH_REMATCH[1]}
	nft delete table ip firewall
	[ "$timed_out" = true ] || fault "a connection came past the rule"
	found "caught"
	sent=$((syn_retransmits + 1))
	[ "$half" != stock ] || sent=$syn_retransmits
	# A slow machine may send one more while the client gives up.
	((caught >= sent)) || fault "the rule had to catch $sent packets, and caught $caught"
	replays tcp_closed
}

closed_then_forbidden()
{
	settled CLOSE
	nft -f - <<-END
		table ip firewall {
			chain input {
				type filter hook input priority filter
				ip daddr ${nat%:*} tcp sport $port tcp dport 80 ct state new counter drop
			}
		}
	END
}

case_is mode_0_sticks "conn_reuse_mode=0 sticks to the server"
mode_0_sticks()
{
	settings 0 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	replays
}

# An entry with a controlling template is not scheduled again, whatever its state.
case_is persistence_sticks "a persistent service sticks to the server"
persistence_sticks()
{
	settings 1 0
	reconnect "$pers" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	replays
}

case_is untracked_needs_nothing "without vs.conntrack nothing is lost or replayed"
untracked_needs_nothing()
{
	settings 1 0
	sysctl_set ipv4/vs/conntrack 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	sysctl_set ipv4/vs/conntrack 1
	first_packet kept
	goes_elsewhere
	replays
}

##############################################################################

run_both_halves "$@"
