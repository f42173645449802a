#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port while IPVS still has the entry of the old connection. With
# conntrack, IPVS drops the first packet of the new connection wherever it comes on the old
# connection's confirmed conntrack; the client sends it again a second later.
#
# Each case runs on the stock kernel, where the fault must show just where it is known to,
# and then with the module: no first packet may be lost, and the server must be the right
# one. Last come the cases in which nothing may change.
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
# MODULE:  the module to insert; without it only the stock half runs
# RESULTS: a file to write, one line a case, for `harness table`

# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"

cleanup()
{
	cleanup_network
	[ -z "$inserted" ] || rmmod ip_vs_reuse 2>/dev/null
	rm -rf "$tmp"
}

need_root
become_director "$@"
need_tools conntrack ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr ipip nf_conntrack nf_conntrack_netlink nft_chain_nat nft_ct nft_masq veth
need_harness
sctp=yes
modprobe -q sctp || sctp=no

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
masq=10.9.0.2:80
zone=10.9.0.3:80
dr=10.9.0.4:80
tun=10.9.0.5:80
pers=10.9.0.6:80

cases="server_fin client_rst server_rst server_rst_ipv6 server_rst_to_director
	drained_while_open drained_while_open_mode_0
	server_rst_drained server_rst_drained_persistent
	server_rst_masqueraded server_rst_in_zone
	dr_half_closed dr_client_rst tun_half_closed
	sctp_abort sctp_shutdown_drained udp_server_deleted server_deleted
	live_flow_stays damaged_syn_evicts_nothing new_rule_catches
	mode_0_sticks persistence_sticks untracked_needs_nothing"
checks_of_the_module="counters_are_readable tracepoints_tell later_namespaces_are_covered
	rmmod_restores_stock insmod_again rmmod_under_load"

##############################################################################
# The director

setup()
{
	local n protos=(--proto tcp --proto udp)

	setup_network 2
	printf 'address add %s dev lo\n' 10.9.0.{1..6} fd00:9::1 | ip -batch -
	for n in 1 2; do
		configure "${servers[n]}" <<-END
			address add ${dr%:*} dev lo
			address add ${tun%:*} dev lo
			link set tunl0 up
		END
	done
	if [ $sctp = yes ]; then
		protos+=(--proto sctp)
		in_ns "$client" bash -c 'echo 1000 >/proc/sys/net/sctp/rto_initial'
	fi

	sysctl_set ipv4/vs/conntrack 1
	# Without a rule about connections nothing is tracked, and the fault cannot show.
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table inet filter {
			chain input {
				type filter hook input priority filter
				ct state established accept
			}
		}
		table ip kube {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr ${masq%:*} tcp dport 80 meta mark set meta mark or 0x4000
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				meta mark and 0x4000 == 0x4000 masquerade
			}
		}
		table ip zone {
			chain prerouting {
				type filter hook prerouting priority raw
				ip daddr ${zone%:*} tcp dport 80 ct zone set 7
				iifname "rs*" tcp sport 82 ct zone set 7
			}
		}
	END
	{
		service "-t $nat" "-m" 80
		service "-u $nat" "-m" 80
		[ $sctp = no ] || service "--sctp-service $nat" "-m" 80
		service "-t $masq" "-m" 80
		service "-t $zone" "-m" 82
		service "-t $dr" "-g" 80
		service "-t $tun" "-i" 80
		service "-t $pers -p 60" "-m" 80
		echo "-A -t $nat6 -s rr"
		echo "-a -t $nat6 -r [fd00:2:1::2]:80 -m"
		echo "-a -t $nat6 -r [fd00:2:2::2]:80 -m"
	} | ipvsadm -R || bail_out "cannot make the virtual services"

	start_servers --listen 0.0.0.0:80 --listen 0.0.0.0:82 --listen '[::]:80' "${protos[@]}"
	start_console client nsenter --net="/run/netns/$client" --
	start_console director
}

# service SERVICE METHOD PORT: what ipvsadm is to restore.
service()
{
	echo "-A $1 -s rr"
	echo "-a ${1% -p *} -r 10.2.1.2:$3 $2"
	echo "-a ${1% -p *} -r 10.2.2.2:$3 $2"
}

# settings MODE EXPIRE: conn_reuse_mode and expire_nodest_conn.
settings()
{
	sysctl_set ipv4/vs/conn_reuse_mode "$1"
	sysctl_set ipv4/vs/expire_nodest_conn "$2"
}

# Of the service given like `-t ADDR:PORT`, the real server that had the first connection.
drain() { ipvsadm -e "$@" -r "10.2.${first#rs}.2:80" -m -w 0; }
undrain() { ipvsadm -e "$@" -r "10.2.${first#rs}.2:80" -m -w 1; }
remove() { ipvsadm -d "$@" -r "10.2.${first#rs}.2:80"; }
restore() { ipvsadm -a "$@" -r "10.2.${first#rs}.2:80" -m; }

# entry_is PATTERN: whether IPVS has an entry of the last client port in such a state.
entry_is()
{
	local from entries

	printf -v from %04X "$port"
	mapfile entries </proc/net/ip_vs_conn
	[[ ${entries[*]} =~ \ $from\ [0-9A-Fa-f:]+\ 0050\ [0-9A-Fa-f:]+\ [0-9A-F]{4}\ ($1)\  ]]
}

# settled STATE: waits until IPVS, too, has the first connection in STATE.
settled() { busywait 5000 entry_is "$1" || fault "the entry did not become $1"; }

##############################################################################
# What a case is made of

# Which half runs. Each connection of a half has a client port that no other case uses.
half=stock
inserted=
port=20000

# What the case that runs has found for the table: milliseconds and 0 or 1.
result=
declare -A results=()

# reconnect SERVICE BETWEEN ARGUMENTS...: two connections, and BETWEEN between them. Sets what
# the harness reports: `first`, `second`, and so on. The client is the client, or the director
# itself where `client_is` says so.
first='' second='' seen_as='' ms='' syn_retransmits='' connected='' timed_out=''
reconnect()
{
	local to=$1 between=$2 console=${client_is:-client} addr line name

	case $console,$to in
	director,*) addr=10.2.1.1 ;;
	client,"$nat6") addr='[fd00:0::2]' ;;
	client,*) addr=10.0.0.2 ;;
	esac
	# A machine that is very busy may fail to make even the first connection, which is no
	# part of the promise: once more, and said.
	for _ in 1 2; do
		port=$((port + 1))
		note_counters
		ask "reconnect --pause --from $addr:$port --to $to ${*:3}"
		[[ $line = *"no first connection"* ]] || break
		echo "# from port $port: $line"
	done
	if [[ $line =~ ^\{\"first\":\"([^\"]*)\"\}$ ]]; then
		first=${BASH_REMATCH[1]}
		$between
		ask ""
	fi
	[[ $line = *connected* ]] || fault "no report: $line"
	for name in first second seen_as ms syn_retransmits connected timed_out; do
		[[ $line =~ \"$name\":\"?([^,\"}]*) ]]
		printf -v "$name" %s "${BASH_REMATCH[1]:-}"
	done
	ms=${ms%.*}
}

# ask LINE: sets `line` to what the `console` answers.
ask()
{
	echo "$1" >&"${console_in[$console]}"
	read -r -t 30 line <&"${console_out[$console]}" || line="nothing within 30 s"
}

# first_packet kept|lost|never: what becomes of it on the stock kernel. With the module it
# is kept. `never`: nor does any later one get through.
first_packet()
{
	local expected=$1 seen=kept

	[ -n "$connected" ] || return
	[ "$half" = stock ] || expected=kept
	if [ "$timed_out" = true ]; then
		seen=never outcome="no connection" result=$'timeout\t1'
	elif [ "$syn_retransmits" != 0 ]; then
		seen=lost outcome="first packet lost ($ms ms)" result=$ms$'\t1'
	else
		outcome="nothing lost ($ms ms)" result=$ms$'\t0'
	fi
	[ "$seen" = "$expected" ] || fault "the first packet: expected $expected, seen $seen"
	[ "$seen" = never ] || [ "$connected" = true ] || fault "no second connection"
}

goes_elsewhere()
{
	[ -z "$second" ] || [ "$second" != "$first" ] || fault "went to $second again"
}

stays() { [ "$second" = "$first" ] || fault "had $first, has ${second:-nothing}"; }

# The module's counters are a line each, always in the same order.
note_counters()
{
	[ "$half" = stock ] || mapfile -t counters </proc/net/ip_vs_reuse
}

# Sets `evictions` to what the module has counted since then, like `evicted_tcp_closed 1`.
count_evictions()
{
	local now n more

	evictions=''
	mapfile -t now </proc/net/ip_vs_reuse
	for n in "${!now[@]}"; do
		more=$((${now[n]#* } - ${counters[n]#* }))
		[[ ${now[n]} != evicted_* ]] || ((more == 0)) ||
			evictions+="${evictions:+, }${now[n]% *} $more"
	done
}

# evicts [KIND]: whether the module has evicted one conntrack and counted it as KIND, or none.
evicts()
{
	local expected=${1:+evicted_$1 1}

	[ "$half" = module ] || return 0
	count_evictions
	[ "$evictions" = "$expected" ] ||
		fault "evictions: expected ${expected:-none}, counted ${evictions:-none}"
}

# run_cases: all of them, on the kernel that is.
run_cases()
{
	local case label

	for case in $cases; do
		label=${label_of[$case]}
		if [ $sctp = no ] && [[ $case = sctp_* ]]; then
			ktap_skip "$half: $label" "needs the kernel module sctp"
			continue
		fi
		result=''
		check "$case" "$half: $label"
		[ -z "$result" ] || results[$half,$case]=$result
	done
}

# What `harness table` reads.
write_results()
{
	local case none=$'-\t-'

	for case in $cases; do
		[ -z "${results[stock,$case]:-}" ] || printf '%s\t%s\t%s\n' "${label_of[$case]}" \
			"${results[stock,$case]}" "${results[module,$case]:-$none}"
	done
}

##############################################################################
# The cases: their names for people, and one function each

declare -A label_of=(
	[server_fin]="server's FIN"
	[client_rst]="client's RST"
	[server_rst]="server's RST"
	[server_rst_ipv6]="server's RST, IPv6"
	[server_rst_to_director]="server's RST, client on the director"
	[drained_while_open]="still open, server drained"
	[drained_while_open_mode_0]="still open, server drained, conn_reuse_mode=0"
	[server_rst_drained]="server's RST, then drained"
	[server_rst_drained_persistent]="server's RST, then drained, persistent service"
	[server_rst_masqueraded]="server's RST, masqueraded"
	[server_rst_in_zone]="server's RST, conntrack zone"
	[dr_half_closed]="DR, client's FIN, conn_reuse_mode=3"
	[dr_client_rst]="DR, client's RST, conn_reuse_mode=3"
	[tun_half_closed]="TUN, client's FIN, conn_reuse_mode=3"
	[sctp_abort]="SCTP, server's ABORT"
	[sctp_shutdown_drained]="SCTP, server's SHUTDOWN, then drained"
	[udp_server_deleted]="UDP, server deleted"
	[server_deleted]="still open, server deleted"
	[live_flow_stays]="a live flow stays when a stray SYN comes"
	[damaged_syn_evicts_nothing]="a damaged SYN evicts nothing"
	[new_rule_catches]="a rule for new connections catches the reused port"
	[mode_0_sticks]="conn_reuse_mode=0 sticks to the server"
	[persistence_sticks]="a persistent service sticks to the server"
	[untracked_needs_nothing]="without vs.conntrack nothing is lost or evicted"
)

# conntrack reopens a flow that was closed, or reset by the client: nothing is lost.
server_fin()
{
	settings 1 0
	reconnect "$nat" "settled TIME_WAIT" --end fin
	first_packet kept
	goes_elsewhere
	evicts tcp_closed
}

client_rst()
{
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end client-rst
	first_packet kept
	goes_elsewhere
	evicts tcp_closed
}

# It does not reopen one that was reset by the server.
server_rst()
{
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
}

server_rst_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
}

server_rst_to_director()
{
	settings 1 0
	client_is=director reconnect "$nat" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
}

drained_while_open()
{
	settings 1 1
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	first_packet lost
	goes_elsewhere
	evicts tcp_drained
}

drained_while_open_mode_0()
{
	settings 0 1
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	first_packet lost
	goes_elsewhere
	evicts tcp_drained
}

server_rst_drained()
{
	settings 1 1
	reconnect "$nat" closed_then_drained --end server-rst
	undrain -t "$nat"
	first_packet lost
	goes_elsewhere
	evicts tcp_drained
}

closed_then_drained()
{
	settled CLOSE
	drain -t "$nat"
}

# Its template leads back to the drained server, unless expire_quiescent_template is set; but
# the entry is given up all the same.
server_rst_drained_persistent()
{
	settings 1 1
	reconnect "$pers" persistent_then_drained --end server-rst
	undrain -t "$pers"
	first_packet lost
	stays
	evicts tcp_drained
}

persistent_then_drained()
{
	settled CLOSE
	drain -t "$pers"
}

# nat chains run for new conntracks only: without one the second connection would have its
# own source address, and the mark would be missing.
server_rst_masqueraded()
{
	settings 1 0
	reconnect "$masq" "settled CLOSE" --end server-rst
	first_packet lost
	goes_elsewhere
	[ "$seen_as" = "10.2.${second#rs}.1" ] || fault "not masqueraded: seen as $seen_as"
	evicts tcp_closed
}

# IPVS looks for what it leaves behind in the default zone only: the old conntrack stays, and
# leads every later packet to the old server.
server_rst_in_zone()
{
	settings 1 0
	reconnect "$zone" "settled CLOSE" --end server-rst --timeout 2.5s
	first_packet never
	goes_elsewhere
	evicts tcp_closed
}

# The director sees one direction, and its conntrack no more than SYN_SENT.
dr_half_closed()
{
	settings 3 0
	reconnect "$dr" "settled FIN_WAIT" --end half-close
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
}

dr_client_rst()
{
	settings 3 0
	reconnect "$dr" "settled CLOSE" --end client-rst
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
}

tun_half_closed()
{
	settings 3 0
	reconnect "$tun" "settled FIN_WAIT" --end half-close
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
}

sctp_abort()
{
	settings 1 0
	reconnect "$nat" "settled CLOSED" --proto sctp --end server-rst
	first_packet lost
	goes_elsewhere
	evicts sctp_closed
}

sctp_shutdown_drained()
{
	settings 1 1
	reconnect "$nat" sctp_closed_then_drained --proto sctp --end fin
	undrain --sctp-service "$nat"
	first_packet lost
	goes_elsewhere
	evicts sctp_drained
}

sctp_closed_then_drained()
{
	settled CLOSED
	drain --sctp-service "$nat"
}

# Deleted while expire_nodest_conn is 0, so that the entries stay.
udp_server_deleted()
{
	settings 1 0
	reconnect "$nat" udp_server_goes --proto udp --end hold
	restore -u "$nat"
	first_packet lost
	goes_elsewhere
	evicts udp_gone
}

udp_server_goes()
{
	remove -u "$nat"
	settings 1 1
}

# Deleted while it is 1, all entries of the server go at once: nothing is left to trip over.
server_deleted()
{
	settings 1 1
	reconnect "$nat" server_goes --end hold
	restore -t "$nat"
	first_packet kept
	goes_elsewhere
	evicts
}

server_goes()
{
	remove -t "$nat"
	busywait 5000 no_entry || fault "the entry did not go"
}

no_entry() { ! entry_is '[A-Z_]+'; }

# Where nothing may change.

live_flow_stays()
{
	settings 1 1
	reconnect "$nat" note_conntrack --end stray-syn
	[ -n "$noted" ] || fault "no conntrack for the flow"
	[ "$(conntrack_id)" = "$noted" ] || fault "its conntrack is not the same any more"
	[ "$connected" = true ] || fault "the flow does not go on"
	stays
	evicts
}

# The server is drained: a SYN in order would end the flow.
damaged_syn_evicts_nothing()
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
	stays
	evicts
	[ "$half" = stock ] || [[ $(</proc/net/ip_vs_reuse) != *"left_bad_checksum 0"* ]] ||
		fault "it was not seen"
}

noted_and_drained() { note_conntrack; drain -t "$nat"; }
note_conntrack() { noted=$(conntrack_id); }
conntrack_id() { conntrack -L -p tcp --orig-port-src "$port" -o id 2>/dev/null | grep -o 'id=[0-9]*'; }

# On the stock kernel IPVS loses the first SYN, and the rule catches the next one; with the
# module it catches them all.
new_rule_catches()
{
	local caught sent

	settings 1 0
	reconnect "$nat" closed_then_forbidden --end server-rst --timeout 1.5s
	[[ $(nft list chain ip firewall input) =~ packets\ ([0-9]+) ]]
	caught=${BASH_REMATCH[1]}
	nft delete table ip firewall
	[ "$timed_out" = true ] || fault "a connection came past the rule"
	sent=$((syn_retransmits + 1))
	[ "$half" = module ] || sent=$syn_retransmits
	[ "$caught" = "$sent" ] || fault "the rule had to catch $sent packets, and caught $caught"
	evicts tcp_closed
}

closed_then_forbidden()
{
	settled CLOSE
	nft -f - <<-END
		table ip firewall {
			chain input {
				type filter hook input priority filter
				ip daddr ${nat%:*} tcp dport 80 ct state new counter drop
			}
		}
	END
}

mode_0_sticks()
{
	settings 0 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	[ "$syn_retransmits" = 0 ] || fault "the first packet was lost"
	stays
	evicts
}

# An entry with a controlling template is not scheduled again, whatever its state.
persistence_sticks()
{
	settings 1 0
	reconnect "$pers" "settled CLOSE" --end server-rst
	[ "$syn_retransmits" = 0 ] || fault "the first packet was lost"
	stays
	evicts
}

untracked_needs_nothing()
{
	settings 1 0
	sysctl_set ipv4/vs/conntrack 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	sysctl_set ipv4/vs/conntrack 1
	[ "$syn_retransmits" = 0 ] || fault "the first packet was lost"
	goes_elsewhere
	evicts
}

##############################################################################
# The module as such

declare -A label_of_check=(
	[counters_are_readable]="/proc/net/ip_vs_reuse has a name and a value a line"
	[tracepoints_tell]="the tracepoint of an eviction names the flow, its old server and the reason"
	[later_namespaces_are_covered]="a namespace made after insmod is covered"
	[rmmod_restores_stock]="rmmod brings the fault back"
	[insmod_again]="insmod again mends it again"
	[rmmod_under_load]="rmmod under load fails no connection"
)

insert()
{
	inserted=yes
	if ! insmod "$MODULE" 2>"$tmp/errors"; then
		fault "insmod: $(cat "$tmp/errors")"
	elif [ ! -e /proc/net/ip_vs_reuse ]; then
		fault "$MODULE does not make /proc/net/ip_vs_reuse"
	fi
}

remove_module() { rmmod ip_vs_reuse 2>"$tmp/errors" || fault "rmmod: $(cat "$tmp/errors")"; }

counters_are_readable()
{
	local lines wrong

	mapfile -t lines </proc/net/ip_vs_reuse
	wrong=$(printf '%s\n' "${lines[@]}" | grep -vE '^[a-z0-9_]+ [0-9]+$')
	[ -z "$wrong" ] || fault "not a name and a value: $wrong"
	[[ ${lines[*]} = *evicted_* ]] || fault "evictions are not counted"
}

tracepoints_tell()
{
	local events=/sys/kernel/tracing/events/ip_vs_reuse/enable trace=/sys/kernel/tracing/trace said

	echo 1 >"$events" || fault "no tracepoints"
	echo >"$trace"
	server_rst
	echo 0 >"$events"
	said="ip_vs_reuse_evict: protocol=6 client=10.0.0.2:$port virtual=$nat"
	said+=" server=10.2.${first#rs}.2:80 state=6 reason=evicted_tcp_closed"
	grep -qF "$said" "$trace" || fault "expected $said" "$(grep reuse_ "$trace")"
}

# The director of the other cases is older than the module.
later_namespaces_are_covered()
{
	local said

	said=$(IS_DIRECTOR='' MODULE_IS_IN=yes HARNESS=$harness "$0" server_rst 2>&1) || fault "$said"
}

rmmod_restores_stock()
{
	remove_module
	half=stock server_rst
}

insmod_again()
{
	insert
	server_rst
}

# The load reuses its few ports, so that the module is at work until it goes. After that
# first packets are lost again, and connections slow, but none may fail.
rmmod_under_load()
{
	local load pid line summary=''

	settings 1 0
	note_counters
	exec {load}< <(exec nsenter --net="/run/netns/$client" -- "$harness" load --from 10.0.0.2 \
		--to "$nat" --ports 30000-30099 --rate 50 --seconds 5 --hold 0s --end server-rst \
		2>"$tmp/errors")
	pid=$!
	# A line a second: after three the ports are in their second round.
	for _ in 1 2 3; do
		read -r -t 10 line <&"$load" || fault "the load did not go on"
	done
	count_evictions
	[ -n "$evictions" ] || fault "the load evicts nothing"
	remove_module
	while read -r -t 30 line <&"$load"; do
		summary=$line
	done
	exec {load}<&-
	wait "$pid" || fault "the load: $(cat "$tmp/errors")" "$summary"
}

##############################################################################

[ $# = 0 ] || cases=$* checks_of_the_module=
for name in $cases; do
	[ -n "${label_of[$name]:-}" ] || bail_out "no such case: $name (cases: ${!label_of[*]})"
done

if [ -n "${MODULE_IS_IN:-}" ]; then
	half=module
	ktap_plan $#
	setup
	run_cases
	ktap_exit
fi

[ ! -e /sys/module/ip_vs_reuse ] || skip_all "needs the stock kernel first: rmmod ip_vs_reuse"
# shellcheck disable=SC2086 # lists
set -- $cases $cases $checks_of_the_module
ktap_plan $#
setup
run_cases
half=module
if [ -n "${MODULE:-}" ]; then
	insert
	((${#faults[@]} == 0)) || bail_out "${faults[*]}"
	run_cases
	for name in $checks_of_the_module; do
		check "$name" "$half: ${label_of_check[$name]}"
	done
else
	for name in $cases $checks_of_the_module; do
		ktap_skip "module: ${label_of[$name]:-${label_of_check[$name]}}" "MODULE is not set"
	done
fi
[ -z "${RESULTS:-}" ] || write_results >"$RESULTS"
ktap_exit
