# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by the scripts that test reused ports case by case. Sourced, not run, in place of lib.sh.
# To add a case, declare a function with `case_is` in the script of its topic in selftests/reuse/, or with
# `module_case_is` if it tests the module itself. A new script goes into the list in selftests/run.sh.
#
# A case is two connections from one client port, with an event between them. It runs twice. On the
# stock kernel the first packet of the second connection must be lost if the case expects that, and
# only then. With the module no first packet may be lost, and the right server must answer. Three
# sources must agree: the client (its retransmissions and its time), the module's counters, and
# ipvs-watch, which sees IPVS drop the packet. An IPVS that replays packets itself (patches/) must
# meet the same requirements without the module.
#
# A script also has a function `setup`, which makes the director's services between begin_director and
# start_traffic. It ends with `run_both_halves "$@"`, whose arguments are names of cases.
#
# MODULE:  the module to insert; without it only the first half runs
# IPVS:    set if the IPVS that is loaded is a patched one
# HARNESS: the traffic program
# WATCH:   ipvs-watch
# RESULTS: a file to append to, a line for each time that a case runs, for `harness table`
# COLUMN:  the table's column, if not the one that is named for the half
# MODE:    a conn_reuse_mode for all cases, whatever they want

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=selftests/lib/witness.sh
. "$(dirname "${BASH_SOURCE[0]}")/witness.sh"

cleanup()
{
	stop_witness
	cleanup_network
	[ -z "$inserted" ] || rmmod ip_vs_reuse 2>/dev/null
	rm -rf "$tmp"
}

become_director "$@"
need_tools conntrack ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_rr nf_conntrack nf_conntrack_netlink nft_chain_nat nft_ct veth
need_harness
sctp=yes
modprobe -q sctp || sctp=no

##############################################################################
# The director

# masquerade_and_zone MASQ ZONE: rules for the services (ADDR:PORT, TCP) that are masqueraded as
# kube-proxy does it, and in a conntrack zone, with real servers on port 82.
masquerade_and_zone()
{
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table ip kube {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr ${1%:*} tcp dport 80 meta mark set meta mark or 0x4000
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				meta mark and 0x4000 == 0x4000 masquerade
			}
		}
		table ip zone {
			chain prerouting {
				type filter hook prerouting priority raw
				ip daddr ${2%:*} tcp dport 80 ct zone set 7
				iifname "rs*" tcp sport 82 ct zone set 7
			}
		}
	END
}

# service PROTO ADDR METHOD PORT [OPTIONS]: a virtual service of all real servers (or of `only`
# this one), made by make_services. PROTO is -t, -u, --sctp-service, or -f with a mark for ADDR
# (`'7 -6'` for IPv6); METHOD is -m, -g or -i, maybe with the kind of tunnel; PORT is theirs.
# `drain` and so on know it by `PROTO ADDR`.
declare -A method_of=() server_port=()
scheduler=rr
to_restore=
service()
{
	local n

	[ "$1" != --sctp-service ] || [ $sctp = yes ] || return 0
	method_of[$1 $2]=$3
	server_port[$1 $2]=$4
	to_restore+="-A $1 $2 -s $scheduler ${*:5}"$'\n'
	for n in ${only:-"${!servers[@]}"}; do
		to_restore+="-a $1 $2 -r $(server_of "$1 $2" "$n") $3"$'\n'
	done
}

make_services() { ipvsadm -R <<<"$to_restore" || bail_out "cannot make the virtual services"; }

# server_of SERVICE N: the address and port of rs<N> in it; by a tunnel it may be of the other
# family, which `tunnel_of` says.
declare -A tunnel_of=()
server_of()
{
	case ${tunnel_of[$1]:-$1} in
	*\ \[* | *\ -6 | ipv6) echo "[fd00:2:$2::2]:${server_port[$1]}" ;;
	*) echo "10.2.$2.2:${server_port[$1]}" ;;
	esac
}

# start_traffic ARGUMENTS...: the real servers, given arguments of `harness serve`, and the
# clients, on the client and on the director.
start_traffic()
{
	if [ $sctp = yes ]; then
		set -- "$@" --proto sctp
		in_ns "$client" bash -c 'echo 1000 >/proc/sys/net/sctp/rto_initial'
	fi
	start_servers "$@"
	start_console client nsenter --net="/run/netns/$client" --
	start_console director
}

# settings MODE EXPIRE: conn_reuse_mode and expire_nodest_conn.
settings()
{
	sysctl_set ipv4/vs/conn_reuse_mode "${MODE:-$1}"
	sysctl_set ipv4/vs/expire_nodest_conn "$2"
}

# Of a service, given like `-t ADDR:PORT`, the real server that had the first connection.
drain() { change -e "$1 $2" -w 0; }
undrain() { change -e "$1 $2" -w 1; }
restore() { change -a "$1 $2" -w 1; }
remove()
{
	# shellcheck disable=SC2086 # a service is two words
	ipvsadm -d $1 $2 -r "$(server_of "$1 $2" "${first#rs}")"
}

# deleted_expiring PROTO ADDR: sets expire_nodest_conn after the server was deleted, so that IPVS does
# not remove its entries by itself.
deleted_expiring()
{
	remove "$1" "$2"
	sysctl_set ipv4/vs/expire_nodest_conn 1
}

change()
{
	# shellcheck disable=SC2086
	ipvsadm "$1" $2 -r "$(server_of "$2" "${first#rs}")" ${method_of[$2]} "${@:3}"
}

# The /proc/net of the director that is asked.
proc_net=/proc/self/net

# entry_is PATTERN: whether IPVS has an entry of the last client port in such a state.
entry_is()
{
	local from entries

	printf -v from %04X "$port"
	mapfile entries <"$proc_net/ip_vs_conn"
	[[ ${entries[*]} =~ \ $from\ [0-9A-Fa-f:]+\ [0-9A-F]{4}\ [0-9A-Fa-f:]+\ [0-9A-F]{4}\ ($1)\  ]]
}

no_entry() { ! entry_is '[A-Z_]+'; }

# settled STATE: waits until IPVS, too, has the first connection in STATE.
settled() { busywait 20000 entry_is "$1" || fault "the entry did not become $1"; }

# The id of the last client port's conntrack.
conntrack_id() { conntrack -L -p tcp --orig-port-src "$port" -o id 2>/dev/null | grep -o 'id=[0-9]*'; }

# in_vrf COMMAND...: with the link to the client in a VRF.
#
# Packets to the client need a route in the main table. A link loses its IPv6 addresses when it moves
# to a VRF or out of one.
in_vrf()
{
	ip -batch - <<-END || fault "cannot make the VRF"
		link add red type vrf table 10
		link set red up
		link set client master red
		address replace fd00:0::1/64 dev client nodad
		route add 10.0.0.0/24 dev client
		route add fd00:0::/64 dev client
	END
	"$@"
	ip -batch - <<-END || fault "cannot take the VRF away"
		link delete red
		address replace fd00:0::1/64 dev client nodad
	END
}

# Fragments from the client, in a table of their own: `netdev fragments`.
count_fragments()
{
	nft -f - <<-END || fault "cannot count fragments"
		table netdev fragments {
			chain ingress {
				type filter hook ingress device client priority 0
				ip frag-off & 0x3fff != 0 counter
				exthdr frag exists counter
			}
		}
	END
}

##############################################################################
# What a case is made of

# Which half runs: `stock` or `patched`, then `module`. Each connection of a half has a client
# port that no other case uses.
plain=${IPVS:+patched}
plain=${plain:-stock}
half=$plain
inserted=
port=20000

# Whether ipvs-watch has been asked since the last connection.
witness_seen=no

# What the case that runs has found for the table: `MILLISECONDS<TAB>LOST`, where LOST is 0 or
# 1, or `WORDS<TAB>-`.
result=

# Where a client is, and its addresses.
declare -A address_of=([client]=10.0.0.2 [director]=10.2.1.1)
declare -A address6_of=([client]='[fd00:0::2]' [director]='[fd00:2:1::1]')

# reconnect SERVICE BETWEEN ARGUMENTS...: two connections, and BETWEEN between them. Sets what
# the harness reports: `first`, `second`, and so on. The client is the namespace of
# that name, or the one that `client_is` names.
# shellcheck disable=SC2034 # `seen_as` is for cases
first='' second='' seen_as='' ms='' syn_retransmits='' connected='' timed_out='' refused=''
reconnect()
{
	local to=$1 between=$2 console=${client_is:-client} addr line name

	addr=${address_of[$console]}
	[[ $to != \[* ]] || addr=${address6_of[$console]}
	# A machine that is very busy may fail to make even the first connection, which is no
	# part of the promise: once more, and said.
	for _ in 1 2; do
		port=$((port + 1)) witness_seen=no
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
	for name in first second seen_as ms syn_retransmits connected timed_out refused; do
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

# found WORDS: for the table, where it is not about the first packet.
found() { outcome=$* result=$*$'\t-'; }

# first_packet STOCK [MODULE]: what becomes of it: `kept`, `lost`, `never` (nor does any later
# one get through), `refused`, or `refused_late` (it is lost, and the next one refused); or a
# pattern. With the module it is kept, unless MODULE says otherwise.
first_packet()
{
	local expected=$1 seen=kept

	[ -n "$connected" ] || return
	[ "$half" = stock ] || expected=${2:-kept}
	if [ "$timed_out" = true ]; then
		seen=never outcome="no connection" result=$'timeout\t1'
	elif [ "$refused" = true ] && [ "$syn_retransmits" != 0 ]; then
		seen=refused_late outcome="refused late ($ms ms)" result=$ms$'\t1'
	elif [ "$refused" = true ]; then
		seen=refused
		found "refused"
	elif [ "$syn_retransmits" != 0 ]; then
		seen=lost outcome="first packet lost ($ms ms)" result=$ms$'\t1'
	else
		outcome="nothing lost ($ms ms)" result=$ms$'\t0'
	fi
	# shellcheck disable=SC2053 # a pattern
	[[ $seen = $expected ]] || fault "the first packet: expected $expected, seen $seen"
	case $seen in
	kept | lost) [ "$connected" = true ] || fault "no second connection" ;;
	esac
	[ "$seen" != kept ] || ((ms < 1000)) || fault "slow: $ms ms"

	# IPVS expires the entry by a timer. If the timer runs while ip_vs_in_hook(), which has just
	# dropped the packet, still holds the entry, the entry stays, and IPVS drops the next packet, too.
	witness_says drop || return
	case $seen,$count in
	kept,0 | refused,0 | never,*) ;;
	lost,[1-$syn_retransmits] | refused_late,[1-$syn_retransmits]) ;;
	*) fault "the first packet was $seen; ipvs-watch saw IPVS drop $count of this port" "${witness[@]}" ;;
	esac
}

# witness_says EVENT: sets `count` to the number of packets from the last client port that were
# dropped for a stale conntrack, or were replayed; false without a witness. Like
# the module's counters, replays are those of the director that is asked.
witness_says()
{
	local line netns

	have_witness || return
	[ $witness_seen = yes ] || witnessed
	witness_seen=yes
	count=0
	netns=$(stat -Lc %i "${proc_net%/net}/ns/net")
	for line in "${witness[@]}"; do
		[[ $1 != replay || $line = *"\"netns\":$netns,"* ]] || continue
		[[ $line != *"\"event\":\"$1\""*":$port\""*'"reason":"'@(closed|drained|gone)'"'* ]] || count=$((count + 1))
	done
}

goes_elsewhere()
{
	if [ -n "$second" ] && [ "$second" = "$first" ]; then
		fault "went to $second again"
		found "old server"
	fi
}

stays() { [ "$second" = "$first" ] || fault "had $first, has ${second:-nothing}"; }

# The module's counters are a line each, always in the same order.
note_counters()
{
	[ "$half" != module ] || mapfile -t counters <"$proc_net/ip_vs_reuse"
}

# Sets `replayed` to what the module has counted since then, like `replayed_tcp_closed 1`.
count_replays() { count_since 'replayed_*'; replayed=$counted; }

# count_since PATTERN: sets `counted` to the counters of such a name that have grown.
count_since()
{
	local now n more

	counted=''
	mapfile -t now <"$proc_net/ip_vs_reuse"
	for n in "${!now[@]}"; do
		more=$((${now[n]#* } - ${counters[n]#* }))
		# shellcheck disable=SC2053 # a pattern
		[[ ${now[n]% *} != $1 ]] || ((more == 0)) ||
			counted+="${counted:+, }${now[n]% *} $more"
	done
}

# replays [KIND [N]]: whether the module has replayed one packet, or N, and counted it as KIND; or
# none.
replays()
{
	local expected=${1:+replayed_$1 ${2:-1}}

	[ "$half" = module ] || return 0
	count_replays
	[ "$replayed" = "$expected" ] ||
		fault "replays: expected ${expected:-none}, counted ${replayed:-none}"
	witness_says replay || return
	[ "$count" = "${1:+${2:-1}}" ] || ((count == 0 && $# == 0)) ||
		fault "ipvs-watch saw $count replays" "${witness[@]}"
}

# leaves REASON [N]: whether the module has matched one packet, or N, and left it to IPVS for that
# reason.
leaves() { counts "matched ${2:-1}, left_$1 ${2:-1}"; }

# counts COUNTERS: whether the module has counted just this.
counts()
{
	[ "$half" = module ] || return 0
	count_since '*'
	[ "$counted" = "$1" ] || fault "expected ${1:-nothing}; counted ${counted:-nothing}"
}

# unseen: whether the module has counted nothing: no packet came with a confirmed conntrack and
# matched an entry.
unseen() { counts ""; }

# Sets `noted` to the flow's conntrack.
note_conntrack_to()
{
	noted=$(conntrack_to "$1")
	[ -n "$noted" ] || fault "no conntrack for the flow"
}

# conntrack_stays SERVICE: whether the flow still has the conntrack that was noted.
conntrack_stays()
{
	local now

	now=$(conntrack_to "$1")
	[ "$now" = "$noted" ] || fault "the conntrack was $noted, is ${now:-gone}"
}

# conntrack_to SERVICE: state and id of the conntrack from the last client port. The id alone could
# be the same for a new conntrack: it is computed from the address in memory.
conntrack_to()
{
	local from to=${1%:*}

	from=$(clients_address "$1")
	conntrack -G -p tcp -s "${from//[][]/}" --sport "$port" -d "${to//[][]/}" --dport 80 -o id \
		2>/dev/null | grep -oE '[A-Z_]+ src=|id=[0-9]+'
}

# clients_address SERVICE: the client's address of the service's family.
clients_address()
{
	case $1 in
	\[*) echo "${address6_of[client]}" ;;
	*) echo "${address_of[client]}" ;;
	esac
}

# goes_on: for a flow that was sent on (--end live).
goes_on()
{
	found "goes on"
	[ "$connected" = true ] || fault "the flow does not go on"
}

# Two common cases: conntrack does not reopen a flow after the server's RST, and knows nothing of drained
# servers. The stock kernel loses the first packet of the second connection.

# after_rst SERVICE [ARGUMENTS...]
after_rst()
{
	settings 1 0
	reconnect "$1" "settled CLOSE" --end server-rst "${@:2}"
	first_packet lost
	replays tcp_closed
}

# after_drain SERVICE [ARGUMENTS...]
after_drain()
{
	settings 1 1
	reconnect "$1" "drain -t $1" --end hold "${@:2}"
	undrain -t "$1"
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

# try_case: `case`; once more, and said, where an SCTP association was established and then aborted
# before its greeting. That has been seen on very busy machines, on either kernel and for first
# connections too, and not been explained.
try_case()
{
	"$case"
	case $label,$connected,$timed_out,$refused in
	SCTP*,false,false,false)
		echo "# once more: aborted after it was established: ${faults[*]}"
		faults=() outcome='' result=''
		"$case"
		;;
	esac
}

# run_cases: all of them, on the kernel that is.
run_cases()
{
	local case label

	start_witness
	for case in $cases; do
		label=${label_of[$case]}
		if [ $sctp = no ] && [[ $case = sctp_* ]]; then
			ktap_skip "$half: $label" "needs the kernel module sctp"
			continue
		fi
		result=
		check try_case "$half: $label"
		[ -z "$result" ] || [ -z "${RESULTS:-}" ] || write_result "$case" >>"$RESULTS"
	done
	stop_witness
}

# What `harness table` reads.
declare -A column_of=(
	[stock]="stock kernel"
	[patched]="patched IPVS"
	[module]="with ip_vs_reuse"
)
write_result()
{
	printf '%s\t%s\t%s\t%s\n' "$(basename "$0" .sh)" "${label_of[$1]}" "${COLUMN:-${column_of[$half]}}" "$result"
}

insert()
{
	inserted=yes
	if ! load_module 2>"$tmp/errors"; then
		fault "insmod: $(cat "$tmp/errors")"
	elif [ ! -e /proc/net/ip_vs_reuse ]; then
		fault "$MODULE does not make /proc/net/ip_vs_reuse"
	fi
}

remove_module() { rmmod ip_vs_reuse 2>"$tmp/errors" || fault "rmmod: $(cat "$tmp/errors")"; }

# run_both_halves [CASE...]: the script's last line. With names, those cases only. With
# MODULE_IS_IN the half with the module only. A slow kernel does not run the first half.
run_both_halves()
{
	local name

	choose_cases "$@"
	if [ -n "${MODULE_IS_IN:-}" ]; then
		half=module
		# shellcheck disable=SC2086 # a list
		set -- $cases
		ktap_plan $#
		setup
		[ -n "${IPVS:-}" ] || wait_for_hooks	# a patched IPVS calls the module itself
		run_cases
		ktap_exit
	fi

	need_stock
	# shellcheck disable=SC2086 # lists
	set -- $cases $cases $module_cases
	ktap_plan $#
	setup
	if ((slow == 1)); then
		run_cases
	else
		for name in $cases; do
			ktap_skip "$half: ${label_of[$name]}" "$no_first_half"
		done
	fi
	half=module
	if [ -n "${MODULE:-}" ]; then
		faults=()
		insert
		((${#faults[@]} == 0)) || bail_out "${faults[*]}"
		run_cases
		for name in $module_cases; do
			check "$name" "$half: ${label_of[$name]}"
		done
	else
		for name in $cases $module_cases; do
			ktap_skip "module: ${label_of[$name]}" "MODULE is not set"
		done
	fi
	ktap_exit
}
