#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port with packets that its TCP would not send: SYNs and datagrams in fragments,
# with extension headers, with sequence numbers that are older than the old connection's. Where the
# module cannot replay the packet (an IPv6 datagram in fragments), it is lost as on a stock kernel.
#
# The network is in lib.sh, and lib/cases.sh says how a case is judged.
#
#   nat    10.9.0.1, fd00:9::1   TCP, UDP
#   rs2    10.9.0.4              one real server only
#
# One case: make case TEST=reuse/odd_packets.sh CASE=fragmented_syn_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
rs2=10.9.0.4:80

##############################################################################
# The director

setup()
{
	begin_director 2
	service -t $nat -m 80
	service -u $nat -m 80
	service -t "$nat6" -m 80
	service -u "$nat6" -m 80
	only=2 service -t $rs2 -m 80
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp --proto udp
}

##############################################################################
# The cases

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
extension_header_rst() { after_rst "$nat6" --extended; goes_elsewhere; }
case_is extension_header_drained "IPv6 extension header, server drained"
extension_header_drained() { after_drain "$nat6" --extended; }

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
