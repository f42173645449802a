#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks that no first packet of a connection from a reused port is lost when the client's traffic
# has moved to a backup director, or back. IPVS synchronizes its entries between the directors, but
# each director's conntrack knows only the packets that it has seen itself. lib/cases.sh says how a case is
# judged.
#
#                 client
#        10.0.0.2 |    | 10.3.0.2
#                 |    |
#        10.0.0.1 |    | 10.3.0.1
#          director -- backup          10.5.0.1 and 10.5.0.2: the link for synchronization
#        10.2.n.1 |    | 10.4.n.1
#                 |    |
#        10.2.n.2 |    | 10.4.n.2
#                 rs<n>
#
# For IPv6: fd00:3::, fd00:4:n::. The client and the real servers send from their addresses on the
# director's links; the backup has routes to these. Virtual services (10.9.0.x):
#
#   nat    .1, fd00:9::1   the same on both directors
#   alien  .2              the backup has other real servers, so it does not know the server of an
#                          entry that it gets from the director
#
# One case: make case TEST=reuse/failover.sh CASE=over_client_rst

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules ip_vs_mh
need_tools sysctl

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
alien=10.9.0.2:80

##############################################################################
# The directors

setup()
{
	local n

	begin_director 2
	# mh selects the same server for a client on both directors.
	scheduler=mh
	service -t $nat -m 80 -b mh-fallback
	service -t "$nat6" -m 80 -b mh-fallback
	service -t $alien -m 80
	make_services
	start_traffic --listen=0.0.0.0:{80,81} --listen='[::]:80' --proto tcp
	start_console visitor nsenter --net="/run/netns/$client" --
	make_backup
	synchronize
}

# Sets `backup`, the second director's namespace, and `backup_net`, its /proc/net.
make_backup()
{
	local n console=backup line

	link_backup
	configure "$client" <<-END
		address add 10.3.0.2/24 dev backup
		address add fd00:3::2/64 dev backup nodad
		link set backup up
	END
	for n in "${!servers[@]}"; do
		configure "${servers[n]}" <<-END
			address add 10.4.$n.2/24 dev backup
			address add fd00:4:$n::2/64 dev backup nodad
			link set backup up
		END
	done
	{
		echo "link set lo up"
		echo "address add 10.5.0.2/24 dev director"
		echo "link set director up"
		echo "address add 10.3.0.1/24 dev client"
		echo "address add fd00:3::1/64 dev client nodad"
		echo "link set client up"
		echo "route add 10.0.0.2 via 10.3.0.2"
		echo "route add fd00:0::2 via fd00:3::2"
		for n in "${!servers[@]}"; do
			echo "address add 10.4.$n.1/24 dev rs$n"
			echo "address add fd00:4:$n::1/64 dev rs$n nodad"
			echo "link set rs$n up"
			echo "route add 10.2.$n.2 via 10.4.$n.2"
			echo "route add fd00:2:$n::2 via fd00:4:$n::2"
		done
		printf 'address add %s dev lo\n' ${nat%:*} ${alien%:*} fd00:9::1
	} | configure "$backup"
	in_ns "$backup" bash -c "$(declare -f no_reverse_path_filter); no_reverse_path_filter"
	in_ns "$backup" sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
		net.ipv4.vs.conntrack=1
	nft list ruleset | in_ns "$backup" nft -f - || bail_out "cannot load the backup's nft rules"
	sed "/ $alien /s/:80 -m/:81 -m/" <<<"$to_restore" | in_ns "$backup" ipvsadm -R ||
		bail_out "cannot make the backup's virtual services"

	start_console backup nsenter --net="/run/netns/$backup" --
	backup_net=/proc/${harness_pids[-1]}/net
	# Once it answers anything, it has started.
	ask "nothing"
}

# Each director sends the other its entry for each packet from a client, about two seconds later.
synchronize()
{
	local daemon

	both sysctl -q -w "net.ipv4.vs.sync_threshold=0 1"
	for daemon in master backup; do
		ipvsadm --start-daemon $daemon --mcast-interface backup || bail_out "no sync daemon"
		in_ns "$backup" ipvsadm --start-daemon $daemon --mcast-interface director ||
			bail_out "no sync daemon"
	done
}

both()
{
	"$@"
	in_ns "$backup" "$@"
}

both_settings()
{
	both sysctl -q -w net.ipv4.vs.conn_reuse_mode="$1" net.ipv4.vs.expire_nodest_conn="$2"
}

# traffic_by DIRECTOR: moves all traffic to `director` or `backup`.
traffic_by()
{
	local clients=0 reals=2 n

	[ "$1" = director ] || clients=3 reals=4
	configure "$client" <<-END
		route replace 10.9.0.0/24 via 10.$clients.0.1
		route replace fd00:9::/64 via fd00:$clients::1
	END
	for n in "${!servers[@]}"; do
		configure "${servers[n]}" <<-END
			route replace default via 10.$reals.$n.1
			route replace ::/0 via fd00:$reals:$n::1
		END
	done
}

##############################################################################
# What the cases are made of

# over SERVICE BETWEEN ARGUMENTS...: the first connection passes the director, and the second one the
# backup. BETWEEN runs before the traffic moves. Entries and counters are read on the backup.
over()
{
	proc_net=$backup_net
	reconnect "$1" "then_by_backup $2" "${@:3}"
	traffic_by director
}

then_by_backup()
{
	"$@"
	traffic_by backup
}

# back SERVICE STATE END: both connections pass the director. Between them, another one from the same
# port passes the backup and ends by END, and the director's entry then gets STATE.
back()
{
	proc_net=/proc/self/net
	reconnect "$1" "visit_backup $*" --end hold
}

visit_backup()
{
	proc_net=$backup_net settled ESTABLISHED
	traffic_by backup
	visit "$1" "$3"
	settled "$2"
	traffic_by director
}

# visit SERVICE END: a connection from the last client port.
visit()
{
	local console=visitor from=${address_of[client]} line

	[[ $1 != \[* ]] || from=fd00:0::2
	ask "burst --connections 1 --from $from --ports $port-$port --to $1 --end $2"
	[[ $line = *'"failed":0,'* ]] || fault "no connection by the backup: $line"
}

##############################################################################
# The cases

# The backup has the entry but no conntrack. IPVS drops nothing, and the module has nothing to do.

case_is over_client_rst "failover, client's RST"
over_client_rst()
{
	both_settings 1 0
	over "$nat" "settled CLOSE" --end client-rst
	first_packet kept
	stays
	unseen
}

case_is over_client_rst_ipv6 "failover, client's RST, IPv6"
over_client_rst_ipv6()
{
	both_settings 1 0
	over "$nat6" "settled CLOSE" --end client-rst
	first_packet kept
	stays
	unseen
}

# IPVS synchronizes on packets from clients only: for the backup the flow is still alive.
case_is over_server_rst "failover, server's RST"
over_server_rst()
{
	both_settings 1 0
	over "$nat" "settled ESTABLISHED" --end server-rst
	first_packet kept
	stays
	unseen
}

case_is over_drained "failover, still open, drained"
over_drained()
{
	both_settings 1 1
	over "$nat" open_then_drained --end hold
	both_servers -w 1
	first_packet kept
	goes_elsewhere
	unseen
}

open_then_drained()
{
	settled ESTABLISHED
	both_servers -w 0
}

# both_servers OPTIONS: the real server that had the first connection, on both directors.
both_servers()
{
	both ipvsadm -e -t "$nat" -r "$(server_of "-t $nat" "${first#rs}")" -m "$@"
}

case_is over_live_flow "failover, a live flow goes on"
over_live_flow()
{
	both_settings 1 0
	over "$nat" "settled ESTABLISHED" --end live
	[ "$connected" = true ] || fault "the flow does not go on"
	found "goes on"
	stays
	unseen
}

# conntrack takes the stray SYN for the start of the flow, and finds the flow's next packets invalid.
# They get no conntrack of their own either, because there is one with their addresses: the kernel
# drops them after IPVS.
case_is over_stray_syn "failover, a stray SYN stops a live flow"
over_stray_syn()
{
	both_settings 1 0
	over "$nat" "settled ESTABLISHED" --end stray-syn --timeout 1.5s
	first_packet never never
	unseen
}

# The director's entry has got its new state from the backup. Its conntrack has seen nothing, and is
# still that of the first connection.

case_is back_client_rst "failover and back, client's RST"
back_client_rst()
{
	both_settings 1 0
	back "$nat" CLOSE client-rst
	first_packet lost
	stays
	replays tcp_closed
}

case_is back_client_rst_ipv6 "failover and back, client's RST, IPv6"
back_client_rst_ipv6()
{
	both_settings 1 0
	back "$nat6" CLOSE client-rst
	first_packet lost
	stays
	replays tcp_closed
}

case_is back_fin "failover and back, server's FIN"
back_fin()
{
	both_settings 1 0
	back "$nat" TIME_WAIT fin
	first_packet lost
	stays
	replays tcp_closed
}

# The backup has an entry without a real server: it goes on with the flow, by the server's address in
# the entry. When the flow is closed, IPVS schedules the next connection to one of its own servers. It
# loses that connection's first packet if the backup has a conntrack of the flow.

case_is unknown_client_rst "failover, client's RST, backup lacks the server"
unknown_client_rst()
{
	both_settings 1 0
	over "$alien" "settled CLOSE" --end client-rst
	first_packet kept
	unseen
}

case_is unknown_stale "failover, backup saw the port, lacks the server"
unknown_stale()
{
	both_settings 1 0
	over "$alien" visited --end server-rst
	first_packet lost
	replays tcp_closed
}

visited()
{
	settled ESTABLISHED
	traffic_by backup
	visit "$alien" server-rst
	settled CLOSE
}

##############################################################################

run_both_halves "$@"
