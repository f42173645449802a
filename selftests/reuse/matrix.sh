#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, in every combination of how the old connection ended, what became of its
# real server meanwhile, the settings of IPVS, and IPv4 or IPv6. On the stock kernel each second
# connection must fare exactly as matrix.expected says. With the module it fares the same, except
# that no first packet is lost; and for each combination of settings the module replays exactly as
# many packets as the stock kernel loses. basics.sh has the cases that do not fit into a table.
#
# All flows of one combination of settings run at the same time, on the network of lib.sh. Each
# fate of a real server has its own virtual service (10.9.0.1 for the first fate, and so on;
# fd00:9::1). Its scheduler is `fo`, which sends everything to the heaviest server: rs1 for all first
# connections, and rs2 after they have ended. So the server that answers tells whether IPVS has
# scheduled the second connection anew.
#
#   port 80   both real servers answer
#   port 81   rs1 refuses
#   port 82   rs1 does not answer
#
# usage: matrix.sh [MODE,EXPIRE,CONNTRACK | long_gone | just_expiring]...		(default: all)
#
# MODULE: the module to insert; without it only the stock half runs
# WATCH:  ipvs-watch, which sees drops and replays (witness.sh)
#
# One case: make case TEST=reuse/matrix.sh CASE=1,1,1

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"
# shellcheck source=selftests/lib/witness.sh
. "$(dirname "$0")/../lib/witness.sh"

cleanup()
{
	stop_witness
	cleanup_network
	[ -z "$inserted" ] || rmmod ip_vs_reuse 2>/dev/null
	rm -rf "$tmp"
}

become_director "$@"
need_tools ip ipvsadm nft nsenter
need_modules ip_vs ip_vs_fo nf_conntrack nft_ct veth
need_harness

# Each end, as the harness calls it, and the state of the IPVS entry after it. The flows end in this
# order: IPVS forgets the last ones after ten seconds, so little time may pass before their ports
# are reused.
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
	# The conntrack of a closed flow must not expire before its IPVS entry, which does so after ten seconds.
	sysctl_set netfilter/nf_conntrack_tcp_timeout_close 60
	# The ICMP errors for services without a server must all be sent.
	sysctl_set ipv4/icmp_ratelimit 0
	sysctl_set ipv6/icmp/ratelimit 0
	# Without TIME_WAIT the client can reuse a port at once, as a NAT gateway does.
	in_ns "$client" bash -c 'echo 0 >/proc/sys/net/ipv4/tcp_max_tw_buckets'
	# No packet may be sent twice only because the machine is slow: a closed client would answer a late
	# packet with a RST, which changes the state of the entry.
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

# each_service FUNCTION: runs the ipvsadm commands that `FUNCTION FATE SERVICE RS1 RS2` prints for
# each service.
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

# Sets `state` and `seconds` (until it expires) of each IPVS entry, by client port.
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

# Whether the entries of all `flows` are in the state that they should end in. If not, sets `why`.
all_settled()
{
	local flow

	read_entries
	for flow in "${flows[@]}"; do
		why="$flow: its entry is ${state[${port_of[$flow]}]:-not there}"
		[[ $why = *" ${state_after[${flow%%/*}]}" ]] || return
	done
}

# While expire_nodest_conn is set, IPVS removes the entries of a deleted server.
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

# Whether all other entries last long enough. On a very busy machine those that IPVS keeps for ten
# seconds only may be gone already.
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
# Flows are named ENDING/FATE/FAMILY, plus /NUMBER if there are several of a kind.

plain=${IPVS:+patched}
plain=${plain:-stock}
half=$plain
inserted=
next_port=20000
flows=()
are_waiting=
why=
declare -A port_of=() letter=()

# begin OPTIONS...: makes the first connections of all `flows` and waits until they have ended. Fails
# if an IPVS entry is not in the expected state afterwards, as it happens on a very busy machine:
# a packet is sent twice, and the closed client answers it with a RST.
begin()
{
	local flow ending fate family line service rs1 rs2 from

	{
		echo "flows --timeout 3.5s $*"
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
reuse_ports()
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

# Sets the letter of `flow` from its report `line`.
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
# Comparison with matrix.expected

# Sets `expected`: a letter for each column, for each ENDING/FATE.
declare -A expected=()
read_expected()
{
	local ending fate one two three four

	while read -r ending fate one two three four; do
		[[ -z $ending || $ending = "#"* ]] || expected[$ending/$fate]=$one$two$three$four
	done <"$here/reuse/matrix.expected"
}

# Sets `wanted`: how `flow` should fare in this half and column.
want()
{
	local row=${flow%/*}

	wanted=${expected[$row]:column:1}
	# Nothing else changes than that no first packet is lost.
	[ "$half" = stock ] || wanted=${wanted,,}
}

# The letters of all flows, by HALF,COLUMN,FLOW.
declare -A seen=()

# Whether the stock kernel loses the first packet of `flow`: as seen in the stock half, or if that has
# not run, as expected.
stock_loses_it()
{
	local row=${flow%/*}

	[[ ${seen[stock,$column,$flow]:-${expected[$row]:column:1}} = [ESR] ]]
}

# All endings, fates and families with the settings of `column`.
run_round()
{
	local flow attempt

	for attempt in 1 2 3 4 5; do
		! until_ports_are_reused || break
		((attempt < 5)) || bail_out "the machine is too slow"
		echo "# once more: $why"
		[ -z "$are_waiting" ] || reuse_ports
	done
	reuse_ports
	witnessed
	for flow in "${flows[@]}"; do
		seen[$half,$column,$flow]=${letter[$flow]}
	done
}

# The first part of a round. Fails if entries that should still be there are not.
until_ports_are_reused()
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

# Checks the flows of `family`.
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

# Whether ipvs-watch has seen IPVS drop a packet for its old conntrack from exactly those clients of
# `family` that had to send their first packet again.
witness_agrees()
{
	local flow why
	declare -A reason=()

	read_reasons drop
	for flow in "${flows[@]}"; do
		[[ $flow = */*/"$family"* ]] || continue
		why=${reason[${port_of[$flow]}]:-}
		case ${letter[$flow]},$why in
		[ESR],?* | [!ESR],) ;;
		*) fault "$flow: seen ${letter[$flow]}, ipvs-watch has seen ${why:-no drop}" ;;
		esac
	done
}

# read_reasons EVENT: sets `reason` of each client port for which ipvs-watch has seen such an event;
# of several, all.
read_reasons()
{
	local event why

	reason=()
	for event in "${witness[@]}"; do
		[[ $event = *"\"event\":\"$1\""* && $event =~ \"reason\":\"(closed|drained|gone)\" ]] ||
			continue
		why=${BASH_REMATCH[1]}
		[[ ! $event =~ \"client\":\"[^\"]*:([0-9]+)\" ]] || reason[${BASH_REMATCH[1]}]+="$why "
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

# Whether the module has replayed exactly the first packets that the stock kernel loses: as many by
# its counters, and one of each such flow and none of any other as seen by ipvs-watch.
replays_are_losses()
{
	local flow name value more matched=0 replayed=0 others=0 lost=0 why
	declare -A reason=()

	while read -r name value; do
		more=$((value - counted[$name]))
		case $name in
		matched) matched=$more ;;
		replayed_*) replayed=$((replayed + more)) ;;
		left_* | dropped_*) others=$((others + more)) ;;
		esac
	done </proc/net/ip_vs_reuse
	read_reasons replay
	for flow in "${flows[@]}"; do
		why=${reason[${port_of[$flow]}]:-}
		if stock_loses_it; then
			lost=$((lost + 1))
			! have_witness || [[ $why = @(closed|drained|gone)\  ]] ||
				fault "$flow: expected one replay, ipvs-watch has seen ${why:-none}"
		else
			[ -z "$why" ] || fault "$flow: nothing to replay, ipvs-watch has seen $why"
		fi
	done
	((replayed == lost)) || fault "replayed $replayed packets; the stock kernel loses $lost"
	((matched == replayed + others)) ||
		fault "matched $matched, but replayed $replayed and left $others to IPVS"
	outcome="$replayed replayed, $lost lost on the stock kernel"
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
		[ "$half" != module ] || check replays_are_losses "$half: $label, replays"
	done
}

label()
{
	local mode expire conntrack

	IFS=, read -r mode expire conntrack <<<"${columns[column]}"
	echo "conn_reuse_mode=$mode expire_nodest_conn=$expire vs.conntrack=$conntrack"
}

##############################################################################
# The other moments of reuse. They need flows that IPVS soon forgets: after two ends it does so in ten
# seconds, and for vanished clients it is told to.

# Makes eight flows of each kind.
begin_short_lived()
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

# In the columns the ports are reused while IPVS has the entries; in these two cases later.

# Without an entry no packet is lost, and none matches.
case_is long_gone "long after the entry has expired"
long_gone()
{
	local flow matched

	begin_short_lived
	busywait 15000 no_entries || fault "the entries do not expire"
	witnessed
	note_counters
	reuse_ports
	witnessed
	for flow in "${flows[@]}"; do
		[ "${letter[$flow]}" = e ] || fault "$flow: expected e, seen ${letter[$flow]}"
	done
	((${#witness[@]} == 0)) || fault "${witness[@]}"
	if [ "$half" = module ]; then
		read -r _ matched </proc/net/ip_vs_reuse
		[ "$matched" = "${counted[matched]}" ] || fault "packets have matched"
	fi
}

# Some packets find the entry, and some do not.
case_is just_expiring "while the entries expire"
just_expiring()
{
	local flow there=0 gone=0

	begin_short_lived --over 2s
	busywait 15000 an_entry_is_about_to_expire || fault "the entries do not expire"
	witnessed
	reuse_ports
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

# Adds the letter of both families to `letters`: `!` if they differ, `-` if not run.
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
	load_module || bail_out "insmod does not take $MODULE"
}

run_half()
{
	local name

	run_columns
	ipvsadm --set 10 0 0
	for name in $cases; do
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
		[ "$half" != module ] || ktap_skip "$half: $(label), replays" "$1"
	done
	for name in $cases; do
		is_chosen "$name" || continue
		ktap_skip "$half: ${label_of[$name]}" "$1"
	done
}

is_chosen() { [[ " $chosen " = *" $1 "* ]]; }

everything="${columns[*]}$cases"
chosen=${*:-$everything}
checks=0
for name in $chosen; do
	[[ " $everything " = *" $name "* ]] || bail_out "no such check: $name (checks: $everything)"
	# Two families in both halves, and the replays with the module.
	case $name in *,*) checks=$((checks + 5)) ;; *) checks=$((checks + 2)) ;; esac
done

need_stock
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
