#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port towards virtual services of every kind, with each feature and setting of
# IPVS: every first packet that IPVS drops for its old conntrack is kept with the module. Where IPVS
# keeps to the old entry, and where it cannot give that up, nothing changes. lib/cases.sh says how a case
# is judged.
#
# The network is in lib.sh. Each virtual service has an address of its own (10.9.0.x):
#
#   nat   .1, fd00:9::1   TCP, UDP, SCTP
#   ftp   .2, fd00:9::2   FTP: the entry of a data connection depends on the control connection's
#   pers  .3, fd00:9::3   persistent: an entry depends on its template
#   wide  .4              persistent, all ports, one template for a network of clients
#   mark  .5, fd00:9::5   by firewall mark, any port
#   kept  .6              by firewall mark, persistent
#   ops   .7              one-packet scheduling, UDP
#   sip   .8              persistent by SIP's Call-ID, UDP
#
# One case: make case TEST=reuse/services.sh CASE=deleted_open

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

shopt -s extglob
# The schedulers of the kernel except rr, which all other cases use.
schedulers="wrr lc wlc fo ovf lblc lblcr dh sh sed nq twos mh"

# shellcheck disable=SC2086 # a list
need_modules ip_vs_ftp ip_vs_pe_sip ip_vs_${schedulers// / ip_vs_}

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
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
	service -t $nat -m 80
	service -u $nat -m 80
	service --sctp-service $nat -m 80
	service -t "$nat6" -m 80
	service -u "$nat6" -m 80
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

# every_server COMMAND PROTO ADDR [OPTIONS]: runs ipvsadm -a, -e or -d for each server of a service.
every_server()
{
	local n lines=

	for n in "${!servers[@]}"; do
		lines+="$1 $2 $3 -r $(server_of "$2 $3" "$n") ${*:4}"$'\n'
	done
	ipvsadm -R <<<"$lines" || fault "ipvsadm $1 $2 $3"
}

# Removes all IPv6 services.
remove_ipv6_services()
{
	local line lines=

	while read -r line; do
		line=${line%% -s *}
		[[ $line != -A\ *@(\[|\ -6)* ]] || lines+="-D ${line#-A }"$'\n'
	done <<<"$to_restore"
	ipvsadm -R <<<"$lines" || fault "cannot remove IPv6's services"
}

restore_ipv6_services()
{
	local line lines=

	while read -r line; do
		[[ $line != *@(\[|\ -6\ )* ]] || lines+=$line$'\n'
	done <<<"$to_restore"
	ipvsadm -R <<<"$lines" || fault "cannot make IPv6's services again"
}

##############################################################################
# The cases

# Deleted real servers and services.

# IPVS drops every packet of the flow, on purpose.
case_is deleted_open "still open, server deleted, expire_nodest_conn=0"
deleted_open()
{
	settings 1 0
	reconnect "$nat" "remove -t $nat" --end hold --timeout 0.9s
	restore -t "$nat"
	first_packet never never
	leaves unavailable
}

case_is deleted_closed "server's RST, then deleted, expire_nodest_conn=0"
deleted_closed()
{
	settings 1 0
	reconnect "$nat" closed_then_deleted --end server-rst
	restore -t "$nat"
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

closed_then_deleted()
{
	settled CLOSE
	remove -t "$nat"
}

case_is deleted_then_expiring "still open, deleted, then expire_nodest_conn=1"
deleted_then_expiring()
{
	settings 1 0
	reconnect "$nat" "deleted_expiring -t $nat" --end hold
	restore -t "$nat"
	first_packet lost
	goes_elsewhere
	replays tcp_gone
}

# deleted_expiring PROTO ADDR: sets expire_nodest_conn after the server was deleted, so that IPVS does
# not remove its entries by itself.
deleted_expiring()
{
	remove "$1" "$2"
	sysctl_set ipv4/vs/expire_nodest_conn 1
}

case_is deleted_then_expiring_ipv6 "still open, deleted, then expire_nodest_conn=1, IPv6"
deleted_then_expiring_ipv6()
{
	settings 1 0
	reconnect "$nat6" "deleted_expiring -t $nat6" --end hold
	restore -t "$nat6"
	first_packet lost
	goes_elsewhere
	replays tcp_gone
}

case_is deleted_then_expiring_closed "server's RST, deleted, then expire_nodest_conn=1"
deleted_then_expiring_closed()
{
	settings 1 0
	reconnect "$nat" closed_then_deleted_expiring --end server-rst
	restore -t "$nat"
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is deleted_then_expiring_mode_0 "server's RST, deleted, then expiry, conn_reuse_mode=0"
deleted_then_expiring_mode_0()
{
	settings 0 0
	reconnect "$nat" closed_then_deleted_expiring --end server-rst
	restore -t "$nat"
	first_packet lost
	goes_elsewhere
	replays tcp_gone
}

closed_then_deleted_expiring()
{
	settled CLOSE
	deleted_expiring -t "$nat"
}

# IPVS takes the same `struct ip_vs_dest` out of its trash again, and the old entries refer to it.
case_is deleted_and_back "server's RST, server deleted and added again"
deleted_and_back()
{
	settings 1 0
	reconnect "$nat" closed_then_back --end server-rst
	first_packet lost
	replays tcp_closed
}

closed_then_back()
{
	closed_then_deleted
	restore -t "$nat"
}

case_is deleted_and_back_open "a live flow stays, server deleted and added again"
deleted_and_back_open()
{
	settings 1 0
	reconnect "$nat" removed_and_restored --end stray-syn
	[ "$connected" = true ] || fault "the flow does not go on"
	found "goes on"
	stays
	leaves in_use
}

removed_and_restored()
{
	remove -t "$nat"
	restore -t "$nat"
}

# With no server left the client gets an error, on the stock kernel a second late.
case_is all_drained "still open, all servers drained"
all_drained()
{
	settings 1 1
	reconnect "$nat" "every_server -e -t $nat -m -w 0" --end hold
	every_server -e -t "$nat" -m -w 1
	first_packet refused_late refused
	replays tcp_drained
}

case_is all_deleted "server's RST, all servers deleted"
all_deleted()
{
	settings 1 0
	reconnect "$nat" closed_then_all_deleted --end server-rst
	every_server -a -t "$nat" -m -w 1
	first_packet refused_late refused
	replays tcp_closed
}

closed_then_all_deleted()
{
	settled CLOSE
	every_server -d -t "$nat"
}

# IPVS unregisters its hooks with the last service of a family.
case_is last_service_back "still open, IPv6's services removed, back, drained"
last_service_back()
{
	settings 1 0
	reconnect "$nat6" ipv6_removed_and_back --end hold
	undrain -t "$nat6"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

ipv6_removed_and_back()
{
	remove_ipv6_services
	restore_ipv6_services
	drain -t "$nat6"
	sysctl_set ipv4/vs/expire_nodest_conn 1
}

# The director itself refuses the connection.
case_is last_service_gone "server's RST, IPv6's services removed"
last_service_gone()
{
	settings 1 0
	reconnect "$nat6" ipv6_removed --end server-rst
	restore_ipv6_services
	first_packet refused refused
	unseen
}

ipv6_removed()
{
	settled CLOSE
	remove_ipv6_services
}

case_is sctp_deleted_then_expiring "SCTP, server deleted, then expire_nodest_conn=1"
sctp_deleted_then_expiring()
{
	settings 0 0
	reconnect "$nat" "deleted_expiring --sctp-service $nat" --proto sctp --end server-rst
	restore --sctp-service "$nat"
	first_packet lost
	goes_elsewhere
	replays sctp_gone
}

case_is udp_deleted_ipv6 "UDP, server deleted, IPv6"
udp_deleted_ipv6()
{
	settings 1 0
	reconnect "$nat6" "deleted_expiring -u $nat6" --proto udp --end hold
	restore -u "$nat6"
	first_packet lost
	goes_elsewhere
	replays udp_gone
}

# FTP. The entry of an expected data connection depends on the control connection's.

case_is ftp_control_alone "FTP, server's RST"
ftp_control_alone()
{
	settings 1 0
	reconnect "$ftp" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

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
mark_rst()
{
	settings 1 0
	reconnect "${mark%:*}:81" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is mark_rst_ipv6 "by firewall mark, server's RST, IPv6"
mark_rst_ipv6()
{
	settings 1 0
	reconnect "$mark6" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

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

# With some schedulers a client, or a service, always has the same server.
case_is every_scheduler "server's RST, every scheduler"
every_scheduler()
{
	local each all=$schedulers tried=0 lost=0 known

	settings 1 0
	[ "$half" != module ] || all+=" p2c"
	for each in $all; do
		known=${#faults[@]}
		ipvsadm -E -t "$nat" -s "$each" || fault "ipvsadm -s $each"
		reconnect "$nat" "settled CLOSE" --end server-rst
		first_packet lost
		case $each in
		fo | ovf | lblc | lblcr | dh | sh | mh) stays ;;
		esac
		replays tcp_closed
		((${#faults[@]} == known)) || fault "that was $each"
		tried=$((tried + 1))
		[ "$syn_retransmits" = 0 ] || lost=$((lost + 1))
	done
	ipvsadm -E -t "$nat" -s rr
	found "$lost of $tried lost"
}

# Settings.

# with NAME=VALUE COMMAND...: runs it with that setting of IPVS.
with()
{
	local name=ipv4/vs/${1%=*} old

	read -r old <"/proc/sys/net/$name"
	sysctl_set "$name" "${1#*=}"
	"${@:2}"
	sysctl_set "$name" "$old"
}

# With backup_only IPVS on a backup director ignores packets, and the director itself refuses the
# connection.
case_is backup_only_ignores "backup director, backup_only=1"
backup_only_ignores()
{
	settings 1 0
	reconnect "$nat" become_backup --end server-rst
	ipvsadm --stop-daemon backup
	sysctl_set ipv4/vs/backup_only 0
	first_packet refused refused
	unseen
}

become_backup()
{
	settled CLOSE
	start_backup
	sysctl_set ipv4/vs/backup_only 1
}

start_backup()
{
	ipvsadm --start-daemon backup --mcast-interface client || fault "no backup daemon"
}

# Neither the setting nor the daemon has this effect alone.
case_is backup_only_alone "server's RST, backup_only=1 without the daemon"
backup_only_alone()
{
	settings 1 0
	with backup_only=1 reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is backup_daemon "server's RST, backup daemon, backup_only=0"
backup_daemon()
{
	settings 1 0
	start_backup
	reconnect "$nat" "settled CLOSE" --end server-rst
	ipvsadm --stop-daemon backup
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

# The tunnel device clears skb->ipvs_property, by which IPVS would recognize a tunneled packet.
case_is tunneled_not_ignored "server's RST, by a tunnel, ignore_tunneled=1"
tunneled_not_ignored()
{
	settings 1 0
	with ignore_tunneled=1 reconnect "$nat" by_tunnel --end server-rst
	configure "$client" <<-END
		route delete ${nat%:*}
		link delete tunnel
	END
	ip link delete tunnel
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

by_tunnel()
{
	settled CLOSE
	ip link add tunnel type ipip local 10.0.0.1 remote 10.0.0.2
	ip link set tunnel up
	configure "$client" <<-END
		link add tunnel type ipip local 10.0.0.2 remote 10.0.0.1
		link set tunnel up
		route add ${nat%:*} dev tunnel src 10.0.0.2
	END
	no_reverse_path_filter
}

# These settings affect flows without an entry, live flows, or new flows, but not a flow that a client
# opens again.

case_is sloppy_tcp_rst "server's RST, sloppy_tcp=1"
sloppy_tcp_rst()
{
	settings 1 0
	with sloppy_tcp=1 reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is sloppy_sctp_abort "SCTP, server's ABORT, sloppy_sctp=1"
sloppy_sctp_abort()
{
	settings 1 0
	with sloppy_sctp=1 reconnect "$nat" "settled CLOSED" --proto sctp --end server-rst
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is drop_entry_rst "server's RST, drop_entry=3"
drop_entry_rst()
{
	settings 1 0
	with drop_entry=3 reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

case_is secure_tcp_rst "server's RST, secure_tcp=3"
secure_tcp_rst()
{
	settings 1 0
	with secure_tcp=3 reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

# IPVS drops every new flow, and so also the replayed packet.
case_is drop_packet_drops "server's RST, drop_packet=3 drops all new flows"
drop_packet_drops()
{
	settings 1 0
	with am_droprate=1 reconnect "$nat" closed_then_dropping --end server-rst --timeout 0.9s
	sysctl_set ipv4/vs/drop_packet 0
	first_packet never never
	replays tcp_closed
}

closed_then_dropping()
{
	settled CLOSE
	sysctl_set ipv4/vs/drop_packet 3
}

##############################################################################
# The module as such

# The counters start at 0 with each insmod.
module_case_is loaded_between "server's RST, insmod, then the port is reused"
loaded_between()
{
	settings 1 0
	remove_module
	half=$plain reconnect "$nat" "inserted_then settled CLOSE" --end server-rst
	mapfile -t counters < <(sed 's/ .*/ 0/' /proc/net/ip_vs_reuse)
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

inserted_then()
{
	insert
	"$@"
}

module_case_is unloaded_between "server's RST, rmmod, then the port is reused"
unloaded_between()
{
	settings 1 0
	reconnect "$nat" removed_when_closed --end server-rst
	half=$plain first_packet lost
	goes_elsewhere
	insert
}

removed_when_closed()
{
	settled CLOSE
	remove_module
}

module_case_is reloaded_between "server's RST, rmmod, insmod, then the port is reused"
reloaded_between()
{
	settings 1 0
	reconnect "$nat" reloaded_when_closed --end server-rst
	mapfile -t counters < <(sed 's/ .*/ 0/' /proc/net/ip_vs_reuse)
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

reloaded_when_closed()
{
	removed_when_closed
	insert
}

# No reference to a conntrack may be left, the killed one included, or the namespace's cleanup would
# wait for ever. Cleanups run one after another, so the second namespace can only go after the first.
# The refcount of the scheduler's module tells when the services are gone.
module_case_is namespace_goes "a namespace with entries is deleted and leaves nothing behind"
namespace_goes()
{
	local uses said

	uses=$(</sys/module/ip_vs_wlc/refcnt)
	for _ in 1 2; do
		said=$(unshare --net -- bash -c "
			$(declare -f small_director no_conntracks has_hooks busywait); small_director $harness" 2>&1)
		[[ $said = *"replayed_tcp_closed 1"* ]] || fault "nothing was replayed there: $said"
		[[ $said = *"no conntracks"* ]] || fault "there are conntracks left: $said"
	done
	busywait 20000 wlc_has_uses "$uses" || fault "the namespaces are not cleaned up"
}

wlc_has_uses() { [ "$(</sys/module/ip_vs_wlc/refcnt)" = "$1" ]; }

# small_director HARNESS: client, director and real server in one namespace.
small_director()
{
	local server line

	ip -batch - <<-END
		link set lo up
		address add 10.8.0.1 dev lo
		address add 10.8.0.2 dev lo
		address add 10.9.0.1 dev lo
	END
	echo 1 >/proc/sys/net/ipv4/vs/conntrack
	nft -f - <<-END
		table ip filter {
			chain output {
				type filter hook output priority filter
				ct state established accept
			}
		}
	END
	ipvsadm -R <<-END
		-A -t 10.9.0.1:80 -s wlc
		-a -t 10.9.0.1:80 -r 10.8.0.1:80 -m
	END
	busywait 5000 has_hooks
	exec {server}< <(exec "$1" serve --name rs1 --listen 10.8.0.1:80)
	read -r line <&"$server"
	"$1" reconnect --from 10.8.0.2:20000 --to 10.9.0.1:80 --end server-rst
	cat /proc/net/ip_vs_reuse
	kill $!
	conntrack -F
	busywait 10000 no_conntracks && echo "no conntracks"
}

no_conntracks() { [ "$(</proc/sys/net/netfilter/nf_conntrack_count)" = 0 ]; }

##############################################################################

run_both_halves "$@"
