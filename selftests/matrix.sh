#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Every way in which a client's port comes back: how the old connection ended, by what became of
# its real server meanwhile, by the settings of IPVS, for IPv4 and IPv6. On the stock kernel each
# must fare just as matrix.expected says; with the module the same, but that no first packet is
# lost. conn_reuse.sh has the cases that do not fit into a table.
#
# All flows of one combination of settings run at the same time, on the network of lib.sh. Each
# fate of a real server has a virtual service of its own (10.9.0.1 for the first fate, and so on;
# fd00:9::1). Its scheduler is `fo`: the heaviest server gets everything. That is rs1 for all first
# connections, and rs2 when they have ended: who answers tells whether IPVS scheduled anew.
#
#   port 80   both real servers answer
#   port 81   rs1 refuses
#   port 82   rs1 says nothing
#
# usage: matrix.sh [MODE,EXPIRE,CONNTRACK | long_gone | just_expiring]...: only these
#
# MODULE: the module to insert; without it only the stock half runs
# WATCH:  ipvs-watch, as a witness (witness.sh)

# shellcheck disable=SC2317 # checks are called by name
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=selftests/witness.sh
. "$(dirname "$0")/witness.sh"

cleanup()
{
	stop_witness
	cleanup_network
	[ -z "$inserted" ] || rmmod ip_vs_reuse 2>/dev/null
	rm -rf "$tmp"
}

need_root
become_director "$@"
need_tools ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_fo nf_conntrack nft_ct veth
need_harness

# Each end, as the harness calls it; and the state in which IPVS then has the entry. The order is
# that in which the flows end: last come those that IPVS forgets in ten seconds. They are the first
# to come back.
endings="server_fin client_fin both_fin unanswered vanished half_closed server_rst client_rst refused"
declare -A end=(
	[server_fin]=fin [client_fin]=client-fin [both_fin]=both-fin
	[unanswered]=unanswered [vanished]=hold [half_closed]=half-close
	[server_rst]=server-rst [client_rst]=client-rst [refused]=refused
)
declare -A state_after=(
	[server_fin]=TIME_WAIT [client_fin]=TIME_WAIT [both_fin]=TIME_WAIT
	[unanswered]=SYN_RECV [vanished]=ESTABLISHED [half_closed]=CLOSE_WAIT
	[server_rst]=CLOSE [client_rst]=CLOSE [refused]=CLOSE
)
declare -A port_after=([refused]=81 [unanswered]=82)
fates=(same drained deleted readded all_drained)
declare -A service_of=()
for n in "${!fates[@]}"; do
	service_of[${fates[n]}]=$((n + 1))
done
families="4 6"

# conn_reuse_mode, expire_nodest_conn, vs.conntrack: the columns of matrix.expected.
columns=()
for conntrack in 1 0; do
	for expire in 0 1; do
		for mode in 0 1 2 3; do
			columns+=("$mode,$expire,$conntrack")
		done
	done
done

# When the port comes back: mostly while IPVS has the entry; and in these checks.
declare -A label_of=(
	[long_gone]="long after the entry has expired"
	[just_expiring]="while the entries expire"
)

##############################################################################
# The director

setup()
{
	local ns

	setup_network 2
	printf 'address add %s dev lo\n' 10.9.0.{1..5} fd00:9::{1..5} | ip -batch -
	track_connections
	in_ns "${servers[1]}" nft -f - <<-END || bail_out "cannot load the nft rules of rs1"
		table inet silence {
			chain input {
				type filter hook input priority filter
				tcp dport 82 drop
			}
		}
	END
	# Of a closed flow the IPVS entry expires after ten seconds; its conntrack shall not before.
	sysctl_set netfilter/nf_conntrack_tcp_timeout_close 60
	# A client whose service has no server left must hear of it.
	sysctl_set ipv4/icmp_ratelimit 0
	sysctl_set ipv6/icmp/ratelimit 0
	# A port in TIME_WAIT could not come back at once. A client behind a gateway has none: its
	# port there is free for the next one.
	in_ns "$client" bash -c 'echo 0 >/proc/sys/net/ipv4/tcp_max_tw_buckets'
	# Nothing shall be sent twice for slowness alone: to what comes late, a client that is gone
	# says RST, and the entry would be another.
	for ns in "$client" "${servers[@]}"; do
		in_ns "$ns" bash -c 'echo 1000000 >/proc/sys/net/ipv4/tcp_rto_min_us'
	done
	start_servers --listen 0.0.0.0:80 --listen '[::]:80'
	start_console client nsenter --net="/run/netns/$client" --
}

# service FATE FAMILY PORT: sets `service`, and its real servers `rs1` and `rs2`.
service()
{
	case $2 in
	4) service="10.9.0.${service_of[$1]}:$3" rs1="10.2.1.2:$3" rs2="10.2.2.2:80" ;;
	6) service="[fd00:9::${service_of[$1]}]:$3" rs1="[fd00:2:1::2]:$3" rs2="[fd00:2:2::2]:80" ;;
	esac
}

# each_service FUNCTION: ipvsadm does what FUNCTION says, given FATE SERVICE RS1 RS2.
each_service()
{
	local fate family port service rs1 rs2

	for fate in "${fates[@]}"; do
		for family in $families; do
			for port in 80 81 82; do
				service "$fate" "$family" "$port"
				"$1" "$fate" "$service" "$rs1" "$rs2"
			done
		done
	done | ipvsadm -R || bail_out "ipvsadm cannot do it: $1"
}

first_to_rs1()
{
	echo "-A -t $2 -s fo"
	echo "-a -t $2 -r $3 -m -w 1"
	echo "-a -t $2 -r $4 -m -w 0"
}

then_to_rs2()
{
	case $1 in
	drained | all_drained) echo "-e -t $2 -r $3 -m -w 0" ;;
	deleted | readded) echo "-d -t $2 -r $3" ;;
	esac
	[ "$1" = all_drained ] || echo "-e -t $2 -r $4 -m -w 2"
}

added_again() { [ "$1" != readded ] || echo "-a -t $2 -r $3 -m -w 1"; }

# settings MODE,EXPIRE,CONNTRACK
settings()
{
	local mode expire conntrack

	IFS=, read -r mode expire conntrack <<<"$1"
	sysctl_set ipv4/vs/conn_reuse_mode "$mode"
	sysctl_set ipv4/vs/expire_nodest_conn "$expire"
	sysctl_set ipv4/vs/conntrack "$conntrack"
}

start_afresh()
{
	sysctl_set ipv4/vs/expire_nodest_conn 1
	ipvsadm -C
	busywait 10000 no_entries || bail_out "IPVS keeps entries of services that are gone"
}

# Sets `state` of each client port that IPVS has an entry of, and `seconds` until it expires.
declare -A state=() seconds=()
read_entries()
{
	local entries entry

	state=() seconds=()
	mapfile -t -s 1 entries </proc/net/ip_vs_conn
	for entry in "${entries[@]}"; do
		# shellcheck disable=SC2086 # words
		set -- $entry
		state[$((16#$3))]=$8 seconds[$((16#$3))]=$9
	done
}

no_entries() { read_entries; ((${#state[@]} == 0)); }

# Of the flows `flows`. If not, `why` says which is first.
all_settled()
{
	local flow

	read_entries
	for flow in "${flows[@]}"; do
		why="$flow: its entry is ${state[${port_of[$flow]}]:-not there}"
		[[ $why = *" ${state_after[${flow%%/*}]}" ]] || return
	done
}

# Servers that are deleted while expire_nodest_conn is set.
deleted_servers_are_forgotten()
{
	local flow

	((expire)) || return 0
	read_entries
	for flow in "${flows[@]}"; do
		[[ $flow != */deleted/* && $flow != */readded/* || -z ${state[${port_of[$flow]}]:-} ]] ||
			return
	done
}

# What IPVS keeps for ten seconds only may be gone already on a machine that is very busy.
others_are_not()
{
	local flow

	read_entries
	for flow in "${flows[@]}"; do
		[[ $expire,$flow != 1,*/deleted/* && $expire,$flow != 1,*/readded/* ]] || continue
		why="$flow: its entry has ${seconds[${port_of[$flow]}]:-0} seconds left"
		((${seconds[${port_of[$flow]}]:-0} >= 5)) || return
	done
}

##############################################################################
# Flows. Their names: ENDING/FATE/FAMILY, and a number where there are more of a kind.

plain=${IPVS:+patched}
plain=${plain:-stock}
half=$plain
inserted=
next_port=20000
flows=()
are_waiting=
why=
declare -A port_of=() letter=()

# begin OPTIONS...: makes the first connections of all `flows`, and returns when they have ended;
# whether IPVS, too, has them in the state in which they are to be. A machine that is very busy
# lets packets be sent twice, and a client that is gone answers one with a RST.
begin()
{
	local flow ending fate family line service rs1 rs2 from

	{
		echo "flows --timeout 2.5s $*"
		for flow in "${flows[@]}"; do
			IFS=/ read -r ending fate family _ <<<"$flow"
			service "$fate" "$family" "${port_after[$ending]:-80}"
			case $family in 4) from=10.0.0.2 ;; 6) from="[fd00:0::2]" ;; esac
			port_of[$flow]=$((++next_port))
			echo "$flow $from:$next_port $service ${end[$ending]}"
		done
		echo
	} >&"${console_in[client]}"
	read -r -t 60 line <&"${console_out[client]}" || line="nothing within 60 s"
	are_waiting=
	[[ $line = '{"ended":'* ]] || { why=$line; return 1; }
	are_waiting=yes
	busywait 5000 all_settled
}

# Makes the second connections. Sets `letter` of each flow: how it fared, as in matrix.expected.
come_back()
{
	local line flow

	letter=()
	echo >&"${console_in[client]}"
	for flow in "${flows[@]}"; do
		read -r -t 60 line <&"${console_out[client]}" || line="nothing within 60 s"
		[[ $line = "{\"name\":\"$flow\","* ]] || bail_out "no report of $flow: $line"
		fared
	done
}

# Of `flow`, whose report is `line`.
fared()
{
	local how="?"

	case $line in
	*'"timed_out":true'*) how=t ;;
	*'"refused":true'*) how=r ;;
	*'"second":"rs1"'*) how=s ;;
	*'"second":"rs2"'*) how=e ;;
	esac
	case $how,$line in
	t,* | *,*'"syn_retransmits":0,'*) ;;
	e,*'"challenged":true'*) how=x ;;
	s,*'"challenged":true'*) how=y ;;
	r,*'"challenged":true'*) how=z ;;
	*) how=${how^} ;;
	esac
	letter[$flow]=$how
	[ "$how" != "?" ] || echo "# $line"
}

##############################################################################
# What is expected, and what is seen

# Sets `expected`: a letter for each column, for each ENDING/FATE.
declare -A expected=()
read_expected()
{
	local ending fate one two three four

	while read -r ending fate one two three four; do
		[[ -z $ending || $ending = "#"* ]] || expected[$ending/$fate]=$one$two$three$four
	done <"$here/matrix.expected"
}

# Sets `wanted`: how `flow` is to fare in the half and column that run.
want()
{
	local row=${flow%/*}

	wanted=${expected[$row]:column:1}
	# What was lost for a stale conntrack, and that only, is lost no more.
	[ "$half" = stock ] || wanted=${wanted,,}
}

declare -A seen=()

# A round: all endings, fates and families under the settings of `column`.
run_round()
{
	local flow attempt

	for attempt in 1 2 3 4 5; do
		! until_ports_come_back || break
		((attempt < 5)) || bail_out "the machine is too slow"
		echo "# once more: $why"
		[ -z "$are_waiting" ] || come_back
	done
	come_back
	witnessed
	for flow in "${flows[@]}"; do
		seen[$half,$column,$flow]=${letter[$flow]}
	done
}

# The first half of it; whether the entries are still there that are to be.
until_ports_come_back()
{
	local expire

	IFS=, read -r _ expire _ <<<"${columns[column]}"
	start_afresh
	settings "${columns[column]}"
	each_service first_to_rs1
	note_counters
	begin || return
	each_service then_to_rs2
	busywait 5000 deleted_servers_are_forgotten ||
		echo "# there are still entries of deleted servers"
	each_service added_again
	witnessed
	others_are_not
}

# Of `family`.
each_flow_fares_as_expected()
{
	local flow wanted number=0 lost=0

	for flow in "${flows[@]}"; do
		[[ $flow = */"$family" ]] || continue
		number=$((number + 1))
		[[ ${letter[$flow]} != [ESR] ]] || lost=$((lost + 1))
		want
		[ "${letter[$flow]}" = "$wanted" ] ||
			fault "${flow%/*}: expected $wanted, seen ${letter[$flow]}"
	done
	outcome="$lost of $number first packets lost"
	! have_witness || witness_agrees
}

# The witness has seen IPVS drop a packet for its old conntrack from just those clients that had
# to send a SYN again for no reason of the server's.
witness_agrees()
{
	local flow drop why
	declare -A reason=()

	for drop in "${witness[@]}"; do
		[[ $drop = *'"event":"drop"'* && $drop =~ \"reason\":\"(closed|drained|gone)\" ]] ||
			continue
		why=${BASH_REMATCH[1]}
		[[ ! $drop =~ \"client\":\"[^\"]*:([0-9]+)\" ]] || reason[${BASH_REMATCH[1]}]=$why
	done
	for flow in "${flows[@]}"; do
		[[ $flow = */*/"$family"* ]] || continue
		why=${reason[${port_of[$flow]}]:-}
		case ${letter[$flow]},$why in
		[ESR],?* | [!ESR],) ;;
		*) fault "$flow: seen ${letter[$flow]}, the witness has seen ${why:-no drop}" ;;
		esac
	done
}

# The module's counters, a name and a value a line.
declare -A counted=()
note_counters()
{
	local name value

	[ "$half" = module ] || return 0
	while read -r name value; do
		counted[$name]=$value
	done </proc/net/ip_vs_reuse
}

# A conntrack is evicted for each flow that IPVS schedules anew, if there is one: of a connection
# that the server refused, conntrack keeps nothing; without vs.conntrack nothing is tracked.
counters_agree()
{
	local flow name value more matched=0 evicted=0 left=0 there=0 evictions=0

	while read -r name value; do
		more=$((value - counted[$name]))
		case $name in
		matched) matched=$more ;;
		evicted_*) evicted=$((evicted + more)) ;;
		left_*) left=$((left + more)) ;;
		esac
	done </proc/net/ip_vs_reuse
	for flow in "${flows[@]}"; do
		[ -n "${state[${port_of[$flow]}]:-}" ] || continue
		there=$((there + 1))
		[[ ${columns[column]} != *,1 || $flow = refused/* || ${letter[$flow]} != [erxz] ]] ||
			evictions=$((evictions + 1))
	done
	((matched == evicted + left)) || fault "matched $matched, but evicted $evicted and left $left"
	((matched >= there)) || fault "matched $matched, but there were $there entries"
	((evicted == evictions)) || fault "evicted $evicted, where $evictions had to be"
	outcome="$evicted of $matched evicted"
}

run_columns()
{
	local column label ending fate family

	flows=()
	for ending in $endings; do
		for fate in "${fates[@]}"; do
			for family in $families; do
				flows+=("$ending/$fate/$family")
			done
		done
	done
	for column in "${!columns[@]}"; do
		is_chosen "${columns[column]}" || continue
		run_round
		label=$(label)
		for family in $families; do
			check each_flow_fares_as_expected "$half: $label, IPv$family"
		done
		[ "$half" != module ] || check counters_agree "$half: $label, counters"
	done
}

label()
{
	local mode expire conntrack

	IFS=, read -r mode expire conntrack <<<"${columns[column]}"
	echo "conn_reuse_mode=$mode expire_nodest_conn=$expire vs.conntrack=$conntrack"
}

##############################################################################
# The other times of coming back. For two ends after which IPVS forgets in ten seconds, and a
# vanished client, for whom it is told to.

# Several of a kind.
begin_for_the_last_time()
{
	local ending family n

	flows=()
	for ending in vanished server_rst client_rst; do
		for family in $families; do
			for n in 1 2 3 4 5 6 7 8; do
				flows+=("$ending/same/$family/$n")
			done
		done
	done
	start_afresh
	settings 1,0,1
	each_service first_to_rs1
	begin "$@" || [ -n "$are_waiting" ] || bail_out "$why"
	each_service then_to_rs2
}

# Without an entry nothing can be lost, and nothing is left to evict.
long_gone()
{
	local flow matched

	begin_for_the_last_time
	busywait 15000 no_entries || fault "the entries do not expire"
	witnessed
	note_counters
	come_back
	witnessed
	for flow in "${flows[@]}"; do
		[ "${letter[$flow]}" = e ] || fault "$flow: expected e, seen ${letter[$flow]}"
	done
	((${#witness[@]} == 0)) || fault "${witness[@]}"
	if [ "$half" = module ]; then
		read -r _ matched </proc/net/ip_vs_reuse
		[ "$matched" = "${counted[matched]}" ] || fault "flows have matched"
	fi
}

# Some find the entry, and some do not.
just_expiring()
{
	local flow there=0 gone=0

	begin_for_the_last_time --over 2s
	busywait 15000 an_entry_is_about_to_expire || fault "the entries do not expire"
	witnessed
	come_back
	witnessed
	for flow in "${flows[@]}"; do
		case $half,$flow,${letter[$flow]} in
		stock,server_rst/*,E | *,vanished/*,x) there=$((there + 1)) ;;
		*,e) gone=$((gone + 1)) ;;
		*) fault "$flow: seen ${letter[$flow]}" ;;
		esac
	done
	outcome="$there of $((there + gone)) show that they met their entry"
	! have_witness || for family in $families; do
		witness_agrees
	done
}

an_entry_is_about_to_expire()
{
	local entries entry

	mapfile -t -s 1 entries </proc/net/ip_vs_conn
	for entry in "${entries[@]}"; do
		# shellcheck disable=SC2086 # words
		set -- $entry
		[ "$9" != 0 ] || return 0
	done
	return 1
}

##############################################################################
# The table

# Rows: ENDING FATE. Columns: those of matrix.expected, on the stock kernel and with the module.
table()
{
	local fate letters column ending

	local groups="0    1    0    1"
	local modes="0123 0123 0123 0123"

	printf '%-25s %-22s %s\n' "" "$plain kernel" "with ip_vs_reuse" \
		vs.conntrack "1         0" "1         0" \
		expire_nodest_conn "$groups" "$groups" conn_reuse_mode "$modes" "$modes"
	for ending in $endings; do
		for fate in "${fates[@]}"; do
			letters=
			for half in "$plain" module; do
				for column in "${!columns[@]}"; do
					((column % 4)) || letters+=" "
					cell "$half,$column,$ending/$fate"
				done
				letters+="   "
			done
			printf '%-11s  %-11s %s\n' "$ending" "$fate" "${letters%   }"
		done
	done
	printf '%-25s %-22s %s\n' "first packets lost" "$(lost "$plain")" "$(lost module)"
}

# lost HALF
lost()
{
	local cell number=0 lost=0

	for cell in "${!seen[@]}"; do
		[[ $cell = $1,* ]] || continue
		number=$((number + 1))
		[[ ${seen[$cell]} != [ESR] ]] || lost=$((lost + 1))
	done
	echo "$lost of $number"
}

# Adds to `letters` that of both families, or a mark where they differ or were not seen.
cell()
{
	local four=${seen[$1/4]:--} six=${seen[$1/6]:--}

	[ "$four" = "$six" ] || four="!"
	letters+=$four
}

##############################################################################

insert()
{
	inserted=yes
	insmod "$MODULE" || bail_out "insmod does not take $MODULE"
}

run_half()
{
	local name

	run_columns
	ipvsadm --set 10 0 0
	for name in long_gone just_expiring; do
		is_chosen "$name" || continue
		check "$name" "$half: ${label_of[$name]}"
	done
	ipvsadm --set 900 0 0
}

# skip_half WHY
skip_half()
{
	local column name family

	for column in "${!columns[@]}"; do
		is_chosen "${columns[column]}" || continue
		for family in $families; do
			ktap_skip "$half: $(label), IPv$family" "$1"
		done
		[ "$half" != module ] || ktap_skip "$half: $(label), counters" "$1"
	done
	for name in long_gone just_expiring; do
		is_chosen "$name" || continue
		ktap_skip "$half: ${label_of[$name]}" "$1"
	done
}

is_chosen() { [[ " $chosen " = *" $1 "* ]]; }

everything="${columns[*]} ${!label_of[*]}"
chosen=${*:-$everything}
checks=0
for name in $chosen; do
	[[ " $everything " = *" $name "* ]] || bail_out "no such check: $name (checks: $everything)"
	# Two families on the stock kernel; with the module the counters, too.
	case $name in *,*) checks=$((checks + 5)) ;; *) checks=$((checks + 2)) ;; esac
done

[ ! -e /sys/module/ip_vs_reuse ] || skip_all "needs the stock kernel first: rmmod ip_vs_reuse"
read_expected
ktap_plan $checks
setup
start_witness
if ((slow == 1)); then
	run_half
else
	skip_half "$no_first_half"
fi
half=module
if [ -n "${MODULE:-}" ]; then
	insert
	run_half
else
	skip_half "MODULE is not set"
fi
table | sed 's/^/# /'
ktap_exit
