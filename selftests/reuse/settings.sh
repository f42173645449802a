#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port under each scheduler and setting of IPVS: every first packet that IPVS drops
# for its old conntrack is kept with the module.
#
# The network is in lib.sh, and lib/cases.sh says how a case is judged. The service, NAT:
#
#   nat   10.9.0.1   TCP, SCTP
#
# One case: make case TEST=reuse/settings.sh CASE=every_scheduler

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

# The schedulers of the kernel except rr, which all other cases use.
schedulers="wrr lc wlc fo ovf lblc lblcr dh sh sed nq twos mh"

# shellcheck disable=SC2086 # a list
need_modules ip_vs_${schedulers// / ip_vs_} ipip

nat=10.9.0.1:80

##############################################################################
# The director

setup()
{
	begin_director 2
	service -t $nat -m 80
	service --sctp-service $nat -m 80
	make_services
	start_traffic --proto tcp --listen 0.0.0.0:80
}

##############################################################################
# The cases

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

run_both_halves "$@"
