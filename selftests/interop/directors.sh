#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Two directors with keepalived: it checks the health of the real servers, moves the virtual address
# and the real servers' gateway (VRRP), and the active director synchronizes its connections to the
# other one. Live connections go on when the other director takes over. The connections end there, so
# the conntrack of the first director does not see it. Then the first director takes over again, and the
# clients reuse their ports. On the stock kernel their first packets are lost; with the module none is.
#
# failover.sh has the cases one by one, without keepalived.
#
#                      client 10.0.0.2
#                        |
#         +--- lan: 10.0.0.9, virtual ---+
#         | 10.0.0.1                     | 10.0.0.3
#       director ------------------- backup       10.5.0.1 and 10.5.0.2: VRRP and synchronization
#         | 10.2.n.1                     | 10.2.n.3
#         +-- lan: 10.2.n.254, virtual --+
#                        |
#                      rs<n> 10.2.n.2
#
# A real server has harness serve on port 80, and on port 81 for its health check.
#
# MODULE: ip_vs_reuse.ko; without it only the first half runs
#
# One case: make case TEST=interop/directors.sh CASE=live_flows_go_on

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

vip=10.0.0.9
flows=20

# Running processes
keepalived_pids=()
declare -A health_pids=()

cleanup()
{
	kill "${keepalived_pids[@]}" "${health_pids[@]}"
	wait "${keepalived_pids[@]}"
	cleanup_director
} 2>/dev/null

half=stock
need_stock
become_director "$@"
need_tools conntrack ip ipvsadm keepalived nft nsenter sysctl
need_modules bridge ip_vs ip_vs_rr nf_conntrack nft_ct veth
need_harness

##############################################################################
# The directors

setup()
{
	local n

	setup_network 2
	make_backup
	both sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1 net.ipv4.vs.expire_nodest_conn=1
	both sysctl -q -w net.ipv4.vs.conn_lfactor=4	# as keep_table_small does
	track_connections
	nft list ruleset | in_ns "$backup" nft -f - || bail_out "cannot load the backup's nft rules"
	start_servers --listen 0.0.0.0:80
	for n in "${!servers[@]}"; do
		get_well "$n"
	done
	start_console client nsenter --net="/run/netns/$client" --
	start_keepalived director 100 backup
	start_keepalived backup 90 director nsenter --net="/run/netns/$backup" --
	busywait 30000 serves_alone director || bail_out "no director serves:" "$(log_of director)" "$(log_of backup)"
}

# Makes the second director, and a network with both directors for the client and each real server.
make_backup()
{
	local n

	link_backup
	make_lan "$client" 10.0.0.2
	for n in "${!servers[@]}"; do
		make_lan "${servers[n]}" "10.2.$n.2"
		configure "${servers[n]}" <<<"route add default via 10.2.$n.254"
	done
	{
		echo "link set lo up"
		echo "address add 10.5.0.2/24 dev director"
		echo "link set director up"
		echo "address add 10.0.0.3/24 dev client"
		echo "link set client up"
		for n in "${!servers[@]}"; do
			echo "address add 10.2.$n.3/24 dev rs$n"
			echo "link set rs$n up"
		done
	} | configure "$backup"
	in_ns "$backup" bash -c "$(declare -f no_reverse_path_filter); no_reverse_path_filter"
	in_ns "$client" bash -c "$(declare -f no_reverse_path_filter); no_reverse_path_filter"
}

# make_lan NAMESPACE ADDRESS: bridges its links to both directors.
make_lan()
{
	configure "$1" <<-END
		link add lan type bridge
		link set lan up
		address flush dev director
		link set director master lan
		link set backup master lan up
		address add $2/24 dev lan
	END
}

both()
{
	"$@"
	in_ns "$backup" "$@"
}

# start_keepalived NAME PRIORITY LINK [COMMAND...]: in a director, run through COMMAND if given. The
# configurations differ only in priority and link.
start_keepalived()
{
	local n

	echo 0 >"$tmp/$1.priority"
	{
		cat <<-END
			global_defs {
				script_user root
				enable_script_security
				lvs_sync_daemon $3 front
			}
			track_file priority {
				file $tmp/$1.priority
				weight 1
			}
			vrrp_instance front {
				state BACKUP
				interface $3
				virtual_router_id 9
				priority $2
				advert_int 1
				track_file {
					priority
				}
				virtual_ipaddress {
					$vip/24 dev client
					$(printf '10.2.%s.254/24 dev rs%s\n' 1 1 2 2)
				}
			}
			virtual_server $vip 80 {
				protocol TCP
				lb_kind NAT
				lb_algo rr
				delay_loop 1
		END
		for n in "${!servers[@]}"; do
			cat <<-END
				real_server 10.2.$n.2 80 {
					inhibit_on_failure
					TCP_CHECK {
						connect_port 81
						connect_timeout 2
						retry 1
						delay_before_retry 1
					}
				}
			END
		done
		echo "}"
	} >"$tmp/$1.conf"
	"${@:4}" keepalived --dont-fork --log-console --log-detail --use-file "$tmp/$1.conf" \
		--pid "$tmp/$1.pid" --checkers_pid "$tmp/$1.checkers" --vrrp_pid "$tmp/$1.vrrp" --bfd_pid "$tmp/$1.bfd" \
		>"$tmp/$1.log" 2>&1 &
	keepalived_pids+=($!)
}

# log_of NAME: prints the end of keepalived's log there, without ARP messages.
log_of() { grep -v ARP "$tmp/$1.log" | tail -n 20; }

# in_director NAME COMMAND...
in_director()
{
	case $1 in
	director) "${@:2}" ;;
	backup) in_ns "$backup" "${@:2}" ;;
	esac
}

# serves NAME: whether this director has the virtual address and both real servers, and tells the other one of
# its connections, which keepalived starts last.
serves()
{
	has_address "$1" && [ "$(in_director "$1" ipvsadm -Ln | grep -c '^  -> 10.2.*Masq')" = 2 ] &&
		[[ $(in_director "$1" ipvsadm -Ln --daemon) = *master* ]]
}
has_address() { [[ $(in_director "$1" ip -brief address show dev client) = *" $vip/24"* ]]; }
serves_alone()
{
	case $1 in
	director) serves director && ! has_address backup ;;
	backup) serves backup && ! has_address director ;;
	esac
}

# traffic_by NAME: makes this director take over.
traffic_by()
{
	case $1 in
	director) echo 0 >"$tmp/director.priority" ;;
	backup) echo -50 >"$tmp/director.priority" ;;
	esac
	busywait 30000 serves_alone "$1" || fault "the $1 does not take over:" "$(log_of "$1")"
}

# The health check of rs<N> succeeds while a server listens on port 81.
get_well()
{
	nsenter --net="/run/netns/${servers[$1]}" -- "$harness" serve --name "rs$1" --listen 0.0.0.0:81 >/dev/null &
	health_pids[$1]=$!
}
fall_ill()
{
	kill "${health_pids[$1]}"
	wait "${health_pids[$1]}" 2>/dev/null
	unset "health_pids[$1]"
}

# weight_is N WEIGHT: whether rs<N> has this weight on both directors.
weight_is()
{
	both ipvsadm -Ln -t "$vip:80" | awk -v rs="10.2.$1.2:80" -v weight="$2" \
		'$2 == rs && $4 == weight { n++ } END { exit n != 2 }'
}

# entries_are NAME N STATE: whether this director has N entries of the client's last ports in STATE.
entries_are()
{
	local n

	n=$(in_director "$1" cat /proc/net/ip_vs_conn | awk -v first="$(printf %04X "$port")" -v state="$3" '
		$1 == "TCP" && $3 "" >= first "" && $8 == state { n++ } END { print n + 0 }')
	[ "$n" = "$2" ]
}

##############################################################################
# The checks

# Each check uses other client ports.
port=20000

# ask LINE: sets `line` to what the client answers.
ask()
{
	echo "$1" >&"${console_in[client]}"
	read -r -t 30 line <&"${console_out[client]}" || line="nothing within 30 s"
}

# burst ARGUMENTS...: makes a connection from each of the last ports. Sets `line` to the report.
burst()
{
	ask "burst --connections $flows --from 10.0.0.2 --ports $port-$((port + flows - 1)) --to $vip:80 $*"
	[[ $line = *"\"connections\":$flows,\"failed\":0,"* ]] || fault "$line"
}

# open_by_director END: makes connections through the director, and waits until the backup knows them.
# `end_by_backup` makes the backup take over and ends them by END.
open_by_director()
{
	port=$((port + 100))
	burst --pause --end "$1"
	busywait 10000 entries_are backup "$flows" ESTABLISHED || fault "the backup is not told of them"
}

end_by_backup()
{
	traffic_by backup
	ask ""
	[ "$line" = "{\"ended\":$flows}" ] || fault "they do not end well: $line"
}

# flows_are_reopened reuses the ports.
case_is live_flows_go_on "the backup takes over, live connections go on, and end"
live_flows_go_on()
{
	open_by_director fin
	end_by_backup
	busywait 10000 entries_are director "$flows" TIME_WAIT || fault "the director is not told of the end"
	outcome="$flows of $flows"
}

case_is storm_by_backup "a storm through the backup, server's RST"
storm_by_backup()
{
	local said

	said=$(in_ns "$client" "$harness" storm --from 10.0.0.2 --to "$vip:80" --end server-rst \
		--ports 10000-10039 --concurrency 8 --seconds 3 2>&1)
	[[ $said = *'"failed":0,'* ]] || fault "$said"
	[[ $said =~ \"connections\":([0-9]+) ]]
	outcome="${BASH_REMATCH[1]:-no} connections"
	[[ $said =~ \"first_lost\":([0-9]+) ]]
	first_packets "${BASH_REMATCH[1]:-unknown}" some
}

# first_packets LOST EXPECTED: checks that none is LOST with the module, and EXPECTED (a number or `some`)
# on the stock kernel.
first_packets()
{
	outcome+="${outcome:+, }$1 first packets lost"
	case $half,$2 in
	stock,some) [[ $1 = [1-9]* ]] || fault "some should be lost" ;;
	stock,*) [ "$1" = "$2" ] || fault "$2 should be lost" ;;
	*) [ "$1" = 0 ] || fault "none may be lost" ;;
	esac
}

# In the director's conntrack the old connections are still open.
case_is flows_are_reopened "the director takes over again, the clients reuse their ports"
flows_are_reopened()
{
	traffic_by director
	reuse_ports "$flows"
}

# reuse_ports STOCK
reuse_ports()
{
	burst --end server-rst
	[[ $line =~ \"slow\":([0-9]+) ]]
	first_packets "${BASH_REMATCH[1]:-unknown}" "$1"
}

# IPVS does not synchronize a server's RST, so the connections are still open in the director's IPVS,
# too. The stock kernel loses the first packets of those whose server is drained.
case_is reset_flows_are_reopened "failover, server's RST, a real server drained, failover back"
reset_flows_are_reopened()
{
	local had

	open_by_director server-rst
	[[ $line =~ \"rs1\":([0-9]+) ]]
	had=${BASH_REMATCH[1]:-0}
	((had > 0)) || fault "rs1 had none: $line"
	end_by_backup
	fall_ill 1
	busywait 10000 weight_is 1 0 || fault "rs1 is not drained on both:" "$(log_of director)" "$(log_of backup)"
	traffic_by director
	reuse_ports "$had"
	[[ $line = *"\"servers\":{\"rs2\":$flows}"* ]] || fault "not all at rs2: $line"
	get_well 1
	busywait 10000 weight_is 1 1 || fault "rs1 is not restored on both:" "$(log_of director)" "$(log_of backup)"
}

##############################################################################

check_halves "$@"
