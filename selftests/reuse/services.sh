#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port with every kind of virtual service. With the module, no first packet is lost
# because of its old conntrack. Nothing changes where IPVS keeps using the old entry, or cannot expire it.
#
# The network is in lib.sh, and lib/cases.sh says how a case is judged. Each virtual service has an address
# of its own (10.9.0.x):
#
#   ftp   .2, fd00:9::2   FTP: the entry of a data connection depends on the control connection's
#   pers  .3, fd00:9::3   persistent: an entry depends on its template
#   wide  .4              persistent, all ports, one template for a network of clients
#   mark  .5, fd00:9::5   by firewall mark, any port
#   kept  .6              by firewall mark, persistent
#   ops   .7              one-packet scheduling, UDP
#   sip   .8              persistent by SIP's Call-ID, UDP
#
# One case: make case TEST=reuse/services.sh CASE=ftp_control_alone

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules ip_vs_ftp ip_vs_pe_sip

ftp=10.9.0.2:21
ftp6='[fd00:9::2]:21'
pers=10.9.0.3:80
pers6='[fd00:9::3]:80'
wide=10.9.0.4:0
mark=10.9.0.5:80
mark6='[fd00:9::5]:80'
kept=10.9.0.6:80
ops=10.9.0.7:82
sip=10.9.0.8:5060

address_of+=([neighbour]=10.0.0.3)

##############################################################################
# The director

setup()
{
	local n

	begin_director 2
	for n in 1 2; do
		configure "${servers[n]}" <<<"address add ${ops%:*} dev lo"
	done
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table inet services {
			chain prerouting {
				type filter hook prerouting priority mangle
				ip daddr ${mark%:*} meta mark set 7
				ip6 daddr fd00:9::5 meta mark set 7
				ip daddr ${kept%:*} meta mark set 8
			}
		}
	END
	service -t $ftp -m 21
	service -t "$ftp6" -m 21
	service -t $pers -m 80 -p 60
	service -t "$pers6" -m 80 -p 60
	service -t $wide -m 0 -p 60 -M 255.255.255.0
	service -f 7 -m 0
	service -f '7 -6' -m 0
	service -f 8 -m 0 -p 60
	service -u $ops -g 82 -o
	service -u $sip -m 5060 -p 60 --pe sip
	make_services
	start_traffic --proto tcp --proto udp \
		--listen=0.0.0.0:{21,80,81,5060} --listen='[::]':{21,80} --listen=$ops
	ip -n "$client" address add 10.0.0.3/24 dev director || bail_out "no address for the neighbour"
	start_console neighbour nsenter --net="/run/netns/$client" --
}

##############################################################################
# The cases

# FTP. The entry of an expected data connection depends on the control connection's.

case_is ftp_control_alone "FTP, server's RST"
ftp_control_alone() { after_rst "$ftp"; goes_elsewhere; }

# IPVS keeps an entry that others depend on, and its conntrack.
case_is ftp_control_rst "FTP, server's RST, data expected"
ftp_control_rst()
{
	settings 1 0
	reconnect "$ftp" "settled CLOSE" --end server-rst --passive
	first_packet kept
	stays
	leaves controlling
}

case_is ftp_control_rst_ipv6 "FTP, server's RST, data expected, IPv6"
ftp_control_rst_ipv6()
{
	settings 1 0
	reconnect "$ftp6" "settled CLOSE" --end server-rst --passive
	first_packet kept
	stays
	leaves controlling
}

# If the server is drained, IPVS drops the packet but cannot expire the entry, so it drops packet
# after packet until the data connection's entry is gone. The module leaves them all to IPVS.
case_is ftp_control_drained "FTP, still open, data expected, server drained"
ftp_control_drained()
{
	settings 1 1
	reconnect "$ftp" "drain -t $ftp" --end hold --passive --timeout 2.5s
	undrain -t "$ftp"
	first_packet never never
	leaves controlling $((syn_retransmits + 1))
}

# The same with a server that is deleted.
case_is ftp_control_gone "FTP, server's RST, data expected, server deleted"
ftp_control_gone()
{
	settings 1 0
	reconnect "$ftp" ftp_closed_then_gone --end server-rst --passive --timeout 2.5s
	restore -t "$ftp"
	first_packet never never
	leaves controlling $((syn_retransmits + 1))
}

ftp_closed_then_gone()
{
	settled CLOSE
	deleted_expiring -t "$ftp"
}

# expect_data: leaves an FTP server awaiting a data connection, sets `ftp_data` to where.
expect_data()
{
	reconnect "$ftp" : --end server-rst --passive
	[ "$connected" = true ] || fault "no control connection"
	ftp_data=${ftp%:*}:$port
}

# IPVS never gives up a closed entry that depends on another one.
case_is ftp_data_rst "FTP data, server's RST"
ftp_data_rst()
{
	settings 1 0
	expect_data
	reconnect "$ftp_data" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	leaves in_use
}

# It does if the server is drained; but there is no control connection that expects a second data
# connection.
case_is ftp_data_drained "FTP data, still open, server drained"
ftp_data_drained()
{
	settings 1 1
	expect_data
	reconnect "$ftp_data" "drain -t $ftp" --end hold
	undrain -t "$ftp"
	first_packet refused_late refused
	replays tcp_drained
}

# The same where conntrack's helper has expected the data connection, too.
case_is ftp_data_drained_helper "FTP data, still open, drained, conntrack helper"
ftp_data_drained_helper()
{
	settings 1 1
	nft -f - <<-END
		table ip helper {
			ct helper ftp {
				type "ftp" protocol tcp
			}
			chain prerouting {
				type filter hook prerouting priority filter
				ip daddr ${ftp%:*} tcp dport 21 ct helper set "ftp"
			}
		}
	END
	expect_data
	reconnect "$ftp_data" "drain -t $ftp" --end hold
	nft delete table ip helper
	undrain -t "$ftp"
	first_packet refused_late refused
	replays tcp_drained
}

# Persistent services. An entry depends on its template, so IPVS never gives it up for being closed.
# If the server is drained it does, and the template leads back to that server unless
# expire_quiescent_template is set.

case_is pers_rst_ipv6 "persistent, server's RST, IPv6"
pers_rst_ipv6()
{
	settings 1 0
	reconnect "$pers6" "settled CLOSE" --end server-rst
	first_packet kept
	stays
	leaves in_use
}

case_is pers_rst_drained "persistent, server's RST, drained, no expiry"
pers_rst_drained()
{
	settings 1 0
	quiescent reconnect "$pers" persistent_then_drained --end server-rst
	undrain -t "$pers"
	first_packet kept
	stays
	leaves in_use
}

# quiescent COMMAND...: runs it with expire_quiescent_template set.
quiescent()
{
	sysctl_set ipv4/vs/expire_quiescent_template 1
	"$@"
	sysctl_set ipv4/vs/expire_quiescent_template 0
}

persistent_then_drained()
{
	settled CLOSE
	drain -t "$pers"
}

# The new entry leads back to the drained server, which answers the SYN as part of the old connection.
# The client resets that and sends the SYN again: at once if it has sent it only once, else a second
# later. conntrack reopens the flow after the client's RST, so there is nothing to replay then.
case_is pers_drained "persistent, still open, drained"
pers_drained()
{
	settings 1 1
	reconnect "$pers" "drain -t $pers" --end hold
	undrain -t "$pers"
	case $half,$syn_retransmits in
	stock,2) outcome="first packet lost ($ms ms)" result=$ms$'\t1' ;;
	module,1 | patched,1) outcome="nothing lost ($ms ms)" result=$ms$'\t0' ;;
	*) fault "SYNs sent again: $syn_retransmits ($ms ms)" ;;
	esac
	stays
	replays tcp_drained
}

case_is pers_drained_quiescent "persistent, still open, drained, quiescent expiry"
pers_drained_quiescent()
{
	settings 1 1
	quiescent reconnect "$pers" "drain -t $pers" --end hold
	undrain -t "$pers"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

case_is pers_rst_drained_quiescent "persistent, server's RST, drained, quiescent expiry"
pers_rst_drained_quiescent()
{
	settings 1 1
	quiescent reconnect "$pers" persistent_then_drained --end server-rst
	undrain -t "$pers"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

case_is pers_deleted_then_expiring "persistent, still open, deleted, then expiry"
pers_deleted_then_expiring()
{
	settings 1 0
	reconnect "$pers" "deleted_expiring -t $pers" --end hold
	restore -t "$pers"
	first_packet lost
	goes_elsewhere
	replays tcp_gone
}

# A connection to another port follows to the new server.
case_is wide_drained_quiescent "persistent, all ports, drained, quiescent expiry"
wide_drained_quiescent()
{
	local server

	settings 1 1
	quiescent reconnect "${wide%:*}:80" "drain -t $wide" --end hold
	undrain -t "$wide"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
	server=$second
	reconnect "${wide%:*}:81" : --end fin
	[ "$first" = "$server" ] || fault "port 80 goes to $server, port 81 to $first"
}

# Another client of the same network has the same server, and follows to the new one, too.
case_is wide_neighbour_drained_quiescent "persistent for a network, drained, quiescent expiry"
wide_neighbour_drained_quiescent()
{
	local server

	settings 1 1
	client_is=neighbour reconnect "${wide%:*}:80" "settled CLOSE" --end server-rst
	[ "$syn_retransmits" = 0 ] || fault "the neighbour's first packet was lost"
	stays
	leaves in_use
	server=$first
	quiescent reconnect "${wide%:*}:80" "drain -t $wide" --end hold
	undrain -t "$wide"
	[ "$first" = "$server" ] || fault "the neighbour has $server, the client had $first"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
	server=$second
	client_is=neighbour reconnect "${wide%:*}:80" : --end fin
	[ "$first" = "$server" ] || fault "the client has $server, the neighbour had $first"
}

# Firewall marks. Rules set the mark again when the packet is replayed.

case_is mark_rst "by firewall mark, server's RST"
mark_rst() { after_rst "${mark%:*}:81"; goes_elsewhere; }

case_is mark_rst_ipv6 "by firewall mark, server's RST, IPv6"
mark_rst_ipv6() { after_rst "$mark6"; goes_elsewhere; }

case_is mark_drained "by firewall mark, still open, drained"
mark_drained()
{
	settings 1 1
	reconnect "$mark" "drain -f 7" --end hold
	undrain -f 7
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

case_is mark_persistent_drained "by mark, persistent, drained, quiescent expiry"
mark_persistent_drained()
{
	settings 1 1
	quiescent reconnect "$kept" "drain -f 8" --end hold
	undrain -f 8
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

# UDP. One-packet scheduling leaves no entry.

case_is one_packet_deleted "one-packet scheduling, UDP, server deleted"
one_packet_deleted()
{
	settings 1 0
	reconnect "$ops" "deleted_expiring -u $ops" --proto udp --end hold
	restore -u "$ops"
	first_packet kept
	goes_elsewhere
	unseen
}

case_is sip_call_id "SIP, a Call-ID keeps its server"
sip_call_id()
{
	local server

	settings 1 0
	sip_reconnect : "$half-1"
	server=$first
	stays
	sip_reconnect : "$half-1"
	stays
	[ "$first" = "$server" ] || fault "the Call-ID had $server, and has $first from another port"
	sip_reconnect : "$half-2"
	[ "$first" != "$server" ] || fault "another Call-ID has $server, too"
	found "keeps it"
	unseen
}

case_is sip_deleted "SIP, server deleted"
sip_deleted()
{
	settings 1 0
	sip_reconnect "deleted_expiring -u $sip" "$half-3"
	restore -u "$sip"
	first_packet lost
	goes_elsewhere
	replays udp_gone
}

# sip_reconnect BETWEEN CALL: two datagrams with the Call-ID CALL.
sip_reconnect() { reconnect "$sip" "$1" --proto udp --end hold --call-id "$2@client"; }

##############################################################################

run_both_halves "$@"
