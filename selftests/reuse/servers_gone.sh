#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port after real servers or whole virtual services were deleted, or all servers
# drained. A first packet that IPVS drops for its old conntrack is kept with the module; one that IPVS
# drops on purpose is not.
#
# The network is in lib.sh, and lib/cases.sh says how a case is judged. The service, NAT:
#
#   nat   10.9.0.1, fd00:9::1   TCP, UDP, SCTP
#
# One case: make case TEST=reuse/servers_gone.sh CASE=deleted_open

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

shopt -s extglob

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'

##############################################################################
# The director

setup()
{
	begin_director 2
	service -t $nat -m 80
	service --sctp-service $nat -m 80
	service -t "$nat6" -m 80
	service -u "$nat6" -m 80
	make_services
	start_traffic --proto tcp --proto udp --listen 0.0.0.0:80 --listen '[::]:80'
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

# IPVS drops every packet of the flow, on purpose.
case_is deleted_open "still open, server deleted, expire_nodest_conn=0"
deleted_open()
{
	settings 1 0
	reconnect "$nat" "remove -t $nat" --end hold --timeout 0.9s
	restore -t "$nat"
	first_packet never never
	leaves unavailable $((syn_retransmits + 1))
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

##############################################################################

run_both_halves "$@"
