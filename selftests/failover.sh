#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port after its traffic has gone over to another director, or back. Each
# director tells the other what it has (IPVS' synchronization), but none has seen what the
# other's conntrack has. How a case is judged stands in reuse.sh.
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
# IPv6 the same: fd00:3::, fd00:4:n::. The client and the real servers have addresses at the
# director's links only; the backup has routes to them. Virtual services (10.9.0.x):
#
#   nat    .1, fd00:9::1   the same on both directors
#   alien  .2              the backup has other real servers: it does not know those of the entries

# shellcheck disable=SC2034 # for reuse.sh
# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/reuse.sh
. "$(dirname "$0")/reuse.sh"

need_modules ip_vs_mh
need_tools sysctl

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
alien=10.9.0.2:80

cases="over_client_rst over_client_rst_ipv6 over_server_rst over_drained
	over_live_flow over_stray_syn
	back_client_rst back_client_rst_ipv6 back_fin
	unknown_client_rst unknown_stale"

##############################################################################
# The directors

setup()
{
	local n

	begin_director 2
	# A client has the same server by both directors.
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
	# Any answer: then it is there.
	ask "nothing"
}

# Both directors tell the other of each packet that a client sends, with some two seconds' delay.
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

# traffic_by DIRECTOR: the director, or the backup.
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

# over SERVICE BETWEEN ARGUMENTS...: the first connection comes by the director, the second one
# by the backup. BETWEEN runs before that, and the backup is asked for entries and counters.
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

# back SERVICE STATE END: both connections come by the director. Between them another one comes
# by the backup, from the same port, and ends by END; the director knows it to be in STATE.
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
# The cases: their names for people, and one function each

label_of=(
	[over_client_rst]="failover, client's RST"
	[over_client_rst_ipv6]="failover, client's RST, IPv6"
	[over_server_rst]="failover, server's RST"
	[over_drained]="failover, still open, drained"
	[over_live_flow]="failover, a live flow goes on"
	[over_stray_syn]="failover, a stray SYN stops a live flow"
	[back_client_rst]="failover and back, client's RST"
	[back_client_rst_ipv6]="failover and back, client's RST, IPv6"
	[back_fin]="failover and back, server's FIN"
	[unknown_client_rst]="failover, client's RST, backup lacks the server"
	[unknown_stale]="failover, came by before, backup lacks the server"
)

# The other director has the entry, but no conntrack: none is stale, and nothing is lost.

over_client_rst()
{
	both_settings 1 0
	over "$nat" "settled CLOSE" --end client-rst
	first_packet kept
	stays
	leaves no_conntrack
}

over_client_rst_ipv6()
{
	both_settings 1 0
	over "$nat6" "settled CLOSE" --end client-rst
	first_packet kept
	stays
	leaves no_conntrack
}

# Only what clients send is told: the backup takes the flow for alive.
over_server_rst()
{
	both_settings 1 0
	over "$nat" "settled ESTABLISHED" --end server-rst
	first_packet kept
	stays
	leaves in_use
}

over_drained()
{
	both_settings 1 1
	over "$nat" open_then_drained --end hold
	both_servers -w 1
	first_packet kept
	goes_elsewhere
	leaves no_conntrack
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

over_live_flow()
{
	both_settings 1 0
	over "$nat" "settled ESTABLISHED" --end live
	[ "$connected" = true ] || fault "the flow does not go on"
	found "goes on"
	stays
	unseen
}

# With a SYN conntrack begins to track the flow from its start; what follows is invalid to it,
# and is dropped behind IPVS for a conntrack that has its addresses already.
over_stray_syn()
{
	both_settings 1 0
	over "$nat" "settled ESTABLISHED" --end stray-syn --timeout 1.5s
	first_packet never never
	leaves in_use
}

# The director has had the entry's new state, but its conntrack is what it was.

back_client_rst()
{
	both_settings 1 0
	back "$nat" CLOSE client-rst
	first_packet lost
	stays
	evicts tcp_closed
}

back_client_rst_ipv6()
{
	both_settings 1 0
	back "$nat6" CLOSE client-rst
	first_packet lost
	stays
	evicts tcp_closed
}

back_fin()
{
	both_settings 1 0
	back "$nat" TIME_WAIT fin
	first_packet lost
	stays
	evicts tcp_closed
}

# The backup has an entry without a real server: it goes on with the flow, by its address. When
# that is closed it schedules anew, and loses the first packet of a flow that has come by before.

unknown_client_rst()
{
	both_settings 1 0
	over "$alien" "settled CLOSE" --end client-rst
	first_packet kept
	leaves no_conntrack
}

unknown_stale()
{
	both_settings 1 0
	over "$alien" visited --end server-rst
	first_packet lost
	evicts tcp_closed
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
