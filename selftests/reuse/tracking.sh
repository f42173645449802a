#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, and the director has rules for connections: zones, helpers, timeouts,
# labels and marks, notrack, nat, a flowtable, SYNPROXY, filters for new connections. All of them must
# treat the second connection as a new one, and see the packets that they see on a stock kernel: one
# SYN of the old connection and one of the new. Only the wait between the two is gone.
#
# Each case loads its rules into the table `case` and deletes it afterwards. lib.sh has the network,
# and lib/cases.sh says how a case is judged. The services:
#
#   nat   10.9.0.1, fd00:9::1   TCP, UDP, SCTP
#   dns   10.9.0.2, fd00:9::2   UDP, with four ports on each real server
#
# One case: make case TEST=reuse/tracking.sh CASE=zone_ipv6

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_tools iptables iptables-restore socat
need_modules nf_conntrack_ftp nf_flow_table_inet nfnetlink_cttimeout nft_connlimit nft_flow_offload \
	nft_limit nft_masq nft_nat nft_synproxy xt_CT xt_mark

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
dns=10.9.0.2:53
dns6='[fd00:9::2]:53'

##############################################################################
# The director

setup()
{
	local n port

	begin_director 2
	service -t $nat -m 80
	service -u $nat -m 80
	service --sctp-service $nat -m 80
	service -t "$nat6" -m 80
	service -u "$nat6" -m 80
	service --sctp-service "$nat6" -m 80
	to_restore+="-A -u $dns -s rr"$'\n'"-A -u $dns6 -s rr"$'\n'
	for port in {8001..8004}; do
		for n in 1 2; do
			to_restore+="-a -u $dns -r 10.2.$n.2:$port -m"$'\n'
			to_restore+="-a -u $dns6 -r [fd00:2:$n::2]:$port -m"$'\n'
		done
	done
	make_services
	start_traffic --proto tcp --proto udp --listen 0.0.0.0:80 --listen '[::]:80' \
		--listen={0.0.0.0,'[::]'}:800{1..4}
}

# rules: replaces the case's table by the one on standard input.
rules()
{
	local text

	mapfile -d '' text
	nft -f - <<<"table inet case; delete table inet case; table inet case { ${text[0]} }" ||
		fault "cannot load the rules"
}

no_rules() { nft delete table inet case; }

# raw_rules TARGET...: rules for the client's packets in the raw table of iptables, which can make
# conntrack templates that nft cannot.
raw_rules()
{
	{
		printf '*raw\n'
		printf -- '-A PREROUTING -i client -p tcp --dport 80 -j %s\n' "$@"
		printf 'COMMIT\n'
	} | iptables-restore || fault "cannot load the rules"
}

no_raw_rules() { iptables -t raw -F PREROUTING; }

# with NAME=VALUE...: sets sysctls until `without` restores them.
declare -A sysctl_was=()
with()
{
	local setting

	for setting in "$@"; do
		sysctl_was[${setting%=*}]=$(<"/proc/sys/net/${setting%=*}")
		sysctl_set "${setting%=*}" "${setting#*=}"
	done
}

without()
{
	local name

	for name in "${!sysctl_was[@]}"; do
		sysctl_set "$name" "${sysctl_was[$name]}"
	done
	sysctl_was=()
}

# count_packets [FAMILY]: sets packets[WORD] to the counter of the rule with the comment WORD.
declare -A packets=()
count_packets()
{
	local line

	packets=()
	while read -r line; do
		[[ ! $line =~ packets\ ([0-9]+)[^#]*comment\ \"([a-z_]+)\" ]] ||
			packets[${BASH_REMATCH[2]}]=${BASH_REMATCH[1]}
	done < <(nft list table "${1:-inet}" case)
}

# conntracks [OPTIONS]: prints the conntracks of the last client port.
conntracks() { conntrack -L -p tcp --orig-port-src "$port" "$@" 2>/dev/null; }

# has_one WORD: checks that there is exactly one conntrack, with WORD.
has_one()
{
	local lines

	mapfile -t lines < <(conntracks -o extended)
	[[ ${#lines[@]} = 1 && ${lines[0]} = *" $1"* ]] || fault "expected one conntrack with $1:" "${lines[@]}"
}

# The common case: conntrack does not reopen a flow after the server's RST, so the stock kernel loses
# the first packet of the second connection.
# reset_and_reconnect SERVICE [BETWEEN [ARGUMENTS...]]
reset_and_reconnect()
{
	settings 1 0
	reconnect "$1" "${2:-settled CLOSE}" --end server-rst "${@:3}"
}

kept_with_module()
{
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

##############################################################################
# The cases

# Zones.
#
# On the stock kernel IPVS looks for the old conntrack in the default zone only, so a conntrack in a
# zone stays. The second SYN passes, but conntrack takes a later packet of the new server for a
# connection of its own (tcp_loose), whose reply tuple is the original tuple of the old conntrack. The
# two clash and the packet is dropped, unless they are in different zones.
#
# The module kills the conntrack that the packet carries, whatever its zone. When the packet arrives
# again, the raw table chooses the zone again.

case_is zone_ipv6 "conntrack zone, IPv6"
zone_ipv6() { in_zone "$nat6" never "ct zone set 7" "ct zone set 7"; }
case_is zone_original "zone of the original direction"
zone_original() { in_zone "$nat" lost "ct original zone set 7"; }
case_is zone_original_ipv6 "zone of the original direction, IPv6"
zone_original_ipv6() { in_zone "$nat6" lost "ct original zone set 7"; }
case_is zone_of_interface "zone of the client's interface"
zone_of_interface() { in_zone "$nat" lost 'ct original zone set iifname map { "client" : 8 }'; }

# in_zone SERVICE STOCK REQUESTS [REPLIES]: with these nft statements for each direction.
in_zone()
{
	zone_rules "${@:3}"
	reset_and_reconnect "$1" "" --timeout 2.5s
	no_rules
	first_packet "$2"
	goes_elsewhere
	replays tcp_closed
}

zone_rules()
{
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority raw
			iifname "client" tcp dport 80 $1
			${2:+iifname "rs*" tcp sport 80 $2}
		}
	END
}

# The template says that the zone is the packet's mark. A replayed packet has no mark until the raw
# table sets it again.
case_is zone_of_mark "zone of the packet's mark"
zone_of_mark()
{
	raw_rules "MARK --set-mark 9" "CT --zone-orig mark"
	reset_and_reconnect "$nat" "" --timeout 2.5s
	no_raw_rules
	kept_with_module
}

# The SYN gets a new conntrack in the zone. The old one stays in the default zone.
case_is zone_since "in a zone since the old connection"
zone_since()
{
	reset_and_reconnect "$nat" closed_then_in_zone
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
	conntracks -o id,extended | grep -qF "$noted" || fault "the old conntrack is gone"
}

closed_then_in_zone()
{
	settled CLOSE
	noted=$(conntrack_id)
	zone_rules "ct original zone set 7"
}

case_is zone_beside "a conntrack with the same addresses in a zone stays"
zone_beside()
{
	reset_and_reconnect "$nat" closed_with_double
	kept_with_module
	[[ $(conntracks --orig-zone 7) = *ESTABLISHED* ]] || fault "the zone's conntrack is gone"
}

closed_with_double()
{
	settled CLOSE
	conntrack -I -p tcp -s 10.0.0.2 -d 10.9.0.1 --sport "$port" --dport 80 --orig-zone 7 \
		--state ESTABLISHED -t 60 2>/dev/null || fault "cannot make a conntrack in the zone"
}

# There is no IPVS entry that the SYN could match: IPVS schedules it with the old conntrack, and the
# connection fails on every kernel.
case_is zone_outlives "a conntrack in a zone outlives its entry"
zone_outlives()
{
	zone_rules "ct zone set 7" "ct zone set 7"
	settings 1 1
	reconnect "$nat" entry_is_gone --end hold --timeout 2.5s
	restore -t "$nat"
	no_rules
	first_packet never never
	replays
}

entry_is_gone()
{
	remove -t "$nat"
	busywait 5000 no_entry || fault "the entry did not go"
	[ -n "$(conntracks)" ] || fault "its conntrack did not stay"
}

# What rules and templates attach to a new conntrack, the conntrack of the second connection has, too.

case_is helper "conntrack helper"
helper()
{
	rules <<-END
		ct helper ftp {
			type "ftp" protocol tcp
			l3proto ip
		}
		chain prerouting {
			type filter hook prerouting priority filter
			tcp dport 80 ct helper set "ftp"
		}
	END
	reset_and_reconnect "$nat"
	kept_with_module
	has_one helper=ftp
	no_rules
}

case_is helper_by_template "conntrack helper set by the template"
helper_by_template()
{
	raw_rules "CT --helper ftp"
	reset_and_reconnect "$nat"
	no_raw_rules
	kept_with_module
	has_one helper=ftp
}

case_is timeout_policy "timeout policy"
timeout_policy()
{
	local fields

	rules <<-END
		ct timeout long {
			protocol tcp
			l3proto ip
			policy = { established: 7000, fin_wait: 7000, last_ack: 7000, time_wait: 7000 }
		}
		chain prerouting {
			type filter hook prerouting priority filter
			tcp dport 80 ct timeout set "long"
		}
	END
	reset_and_reconnect "$nat"
	kept_with_module
	read -ra fields < <(conntracks)
	((fields[2] > 6000)) || fault "expected a timeout of up to 7000 s: ${fields[*]}"
	no_rules
}

# The template asks for DESTROY events only, and both conntracks have it.
case_is events_by_template "events chosen by the template"
events_by_template()
{
	with netfilter/nf_conntrack_events=1
	raw_rules "CT --ctevents destroy"
	reset_and_reconnect "$nat" closed_and_listening
	no_raw_rules
	without
	kept_with_module
	conntrack -D -p tcp --orig-port-src "$port" >/dev/null 2>&1 || fault "no second conntrack"
	hears DESTROY DESTROY
}

case_is label "conntrack label"
label()
{
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority filter
			tcp dport 80 ct state new ct label set 11
		}
	END
	reset_and_reconnect "$nat" "closed_then_new_gets label 11 22"
	kept_with_module
	one_old_one_new_syn
	no_rules
}

# The mark makes later packets take the same route as the first, as with several uplinks.
case_is mark "conntrack mark, restored to packets"
mark() { marked "$nat"; }
case_is mark_ipv6 "conntrack mark, restored to packets, IPv6"
mark_ipv6() { marked "$nat6"; }

marked()
{
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority mangle
			tcp dport 80 ct state new ct mark set 11
			tcp dport 80 meta mark set ct mark
		}
	END
	reset_and_reconnect "$1" "closed_then_new_gets mark 11 22"
	kept_with_module
	one_old_one_new_syn
	no_rules
}

# closed_then_new_gets WHAT OLD NEW
closed_then_new_gets()
{
	settled CLOSE
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority mangle
			tcp dport 80 ct state new ct $1 set $3
			tcp dport 80 meta mark set ct mark
		}
		chain input {
			type filter hook input priority filter
			tcp dport 80 tcp flags & (syn | ack) == syn jump opens
		}
		chain opens {
			ct $1 $2 counter comment "old"
			ct $1 $3 counter comment "new"
		}
	END
}

# Checks that the rules have counted one SYN of the old connection and one of the new, in both halves:
# on the stock kernel the second is the client's retransmission, with the module it is the replay.
one_old_one_new_syn()
{
	count_packets
	[ "${packets[old]:-} ${packets[new]:-}" = "1 1" ] ||
		fault "expected 1 SYN of the old connection, 1 of the new, counted" \
			"${packets[old]:-none} and ${packets[new]:-none}"
}

# Firewall rules.

# To the rules the first SYN belongs to the old connection when it arrives first, and IPVS drops it on
# the stock kernel. The rule for new connections catches the retransmissions, and with the module also
# the first SYN when it is replayed.

case_is caught "a rule for new connections, made since"
caught() { reset_then_caught "$nat"; }
case_is caught_ipv6 "a rule for new connections, made since, IPv6"
caught_ipv6() { reset_then_caught "$nat6"; }

reset_then_caught()
{
	reset_and_reconnect "$1" closed_then_forbidden --timeout 1.5s
	is_caught
	replays tcp_closed
}

closed_then_forbidden()
{
	settled CLOSE
	forbid_new
}

forbid_new()
{
	rules <<-END
		chain input {
			type filter hook input priority filter
			tcp sport $port tcp dport 80 tcp flags & (syn | ack) == syn ct state new counter drop comment "caught"
		}
	END
}

# A slow client may send one more SYN while it gives up.
is_caught()
{
	local sent=$((syn_retransmits + 1))

	[ "$half" != stock ] || sent=$syn_retransmits
	count_packets
	no_rules
	[ "$timed_out" = true ] || fault "a connection came past the rule"
	((${packets[caught]:-0} >= sent)) ||
		fault "the rule had to catch $sent packets, and caught ${packets[caught]:-none}"
	found "caught"
}

case_is caught_drained "a rule for new connections, server drained"
caught_drained() { drained_then_caught "$nat"; }
case_is caught_drained_ipv6 "a rule for new connections, drained, IPv6"
caught_drained_ipv6() { drained_then_caught "$nat6"; }

drained_then_caught()
{
	settings 1 1
	reconnect "$1" "forbidden_and_drained $1" --end hold --timeout 1.5s
	undrain -t "$1"
	is_caught
	replays tcp_drained
}

forbidden_and_drained()
{
	drain -t "$1"
	forbid_new
}

# Packets of established connections get a mark, and a packet with the mark is accepted. The first SYN
# has the mark, as a packet of the old connection. A replayed packet has no mark, so the rule for new
# connections catches it.

case_is marked_established "accepted by a mark for established packets"
marked_established() { marked_then_caught "$nat"; }
case_is marked_established_ipv6 "accepted by a mark for established packets, IPv6"
marked_established_ipv6() { marked_then_caught "$nat6"; }

marked_then_caught()
{
	reset_and_reconnect "$1" closed_then_accepted_by_mark --timeout 1.5s
	is_caught
	replays tcp_closed
}

closed_then_accepted_by_mark()
{
	settled CLOSE
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority mangle
			tcp dport 80 ct state established meta mark set 1
		}
		chain input {
			type filter hook input priority filter
			meta mark 1 accept
			tcp sport $port tcp dport 80 ct state new counter drop comment "caught"
		}
	END
}

case_is seen_as_new "rules see one SYN of the old connection, one of the new"
seen_as_new() { opens_as "$nat" "ct state established" "ct state new"; }
case_is seen_as_new_ipv6 "rules see one SYN of the old connection, one of the new, IPv6"
seen_as_new_ipv6() { opens_as "$nat6" "ct state established" "ct state new"; }

# conntrack counts a packet before the rules see it.
case_is counted_from_zero "packets of the new connection are counted from zero"
counted_from_zero()
{
	with netfilter/nf_conntrack_acct=1
	opens_as "$nat" "ct original packets > 1" "ct original packets 1"
	without
}

# opens_as SERVICE OLD NEW: with nft expressions that match packets of the old and the new connection.
opens_as()
{
	local old=$2 new=$3

	reset_and_reconnect "$1" closed_then_counted
	kept_with_module
	one_old_one_new_syn
	no_rules
}

closed_then_counted()
{
	settled CLOSE
	rules <<-END
		chain input {
			type filter hook input priority filter
			tcp dport 80 tcp flags & (syn | ack) == syn jump opens
		}
		chain opens {
			$old counter comment "old"
			$new counter comment "new"
		}
	END
}

case_is limited "a rate limit on new connections counts it"
limited()
{
	rules <<-END
		chain input {
			type filter hook input priority filter
			tcp dport 80 tcp flags & (syn | ack) == syn ct state new limit rate over 1/day burst 1 packets counter drop comment "caught"
		}
	END
	reset_and_reconnect "$nat" "" --timeout 1.5s
	is_caught
	replays tcp_closed
}

# The old connection does not count any more, although it has never been closed.
case_is connections_at_once "a limit on concurrent connections lets it through"
connections_at_once()
{
	rules <<-END
		chain input {
			type filter hook input priority filter
			tcp dport 80 ct state new ct count over 1 drop
		}
	END
	settings 1 1
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	no_rules
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

case_is events "listeners hear DESTROY, then NEW"
events() { heard "$nat"; }
case_is events_ipv6 "listeners hear DESTROY, then NEW, IPv6"
events_ipv6() { heard "$nat6"; }

# Without this setting conntrack sends no events for conntracks that are older than the listener.
heard()
{
	with netfilter/nf_conntrack_events=1
	reset_and_reconnect "$1" closed_and_listening
	without
	kept_with_module
	hears DESTROY NEW
}

closed_and_listening()
{
	settled CLOSE
	exec {listener}< <(exec conntrack -E -e NEW,DESTROY -p tcp --orig-port-src "$port" 2>&1)
	listener_pid=$!
	busywait 5000 listening || fault "conntrack does not listen"
}

# Whether a socket has joined a multicast group of NETLINK_NETFILTER.
listening()
{
	local sockets

	mapfile sockets </proc/net/netlink
	[[ ${sockets[*]} =~ \ 12\ +[0-9]+\ +[0-9a-f]*[1-9a-f]\  ]]
}

# hears EVENT...: checks that the listener gets these events in this order, and no others.
hears()
{
	local line seen=()

	while [ ${#seen[@]} -lt $# ] && read -r -t 5 line <&"$listener"; do
		[[ ! $line =~ \[([A-Z]+)\] ]] || seen+=("${BASH_REMATCH[1]}")
	done
	kill "$listener_pid"
	while read -r line; do
		[[ ! $line =~ \[([A-Z]+)\] ]] || seen+=("${BASH_REMATCH[1]}")
	done <&"$listener"
	exec {listener}<&-
	[ "${seen[*]}" = "$*" ] || fault "expected events $*, heard ${seen[*]:-none}"
}

# notrack, and vs.conntrack switched between the two connections.

case_is notrack "notrack"
notrack() { untracked "$nat"; }
case_is notrack_ipv6 "notrack, IPv6"
notrack_ipv6() { untracked "$nat6"; }

untracked()
{
	notrack_rules
	reset_and_reconnect "$1"
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
	[ -z "$(conntracks)" ] || fault "there is a conntrack"
}

notrack_rules()
{
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority raw
			tcp dport 80 notrack
			tcp sport 80 notrack
		}
	END
}

# The SYN carries no conntrack. The old one stays.
case_is notrack_since "notrack since the old connection"
notrack_since()
{
	reset_and_reconnect "$nat" closed_then_notrack
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
	[ "$(conntrack_id)" = "$noted" ] || fault "the old conntrack is gone"
}

closed_then_notrack()
{
	settled CLOSE
	noted=$(conntrack_id)
	notrack_rules
}

# There is no old conntrack.
case_is notrack_until "notrack until after the old connection"
notrack_until()
{
	notrack_rules
	reset_and_reconnect "$nat" closed_then_tracked
	first_packet kept
	goes_elsewhere
	unseen
}

closed_then_tracked()
{
	settled CLOSE
	no_rules
}

# IPVS drops the packet for its conntrack, whatever the setting is by then.
case_is switched_off "vs.conntrack switched off since"
switched_off()
{
	reset_and_reconnect "$nat" closed_then_switched_off
	without
	kept_with_module
}

closed_then_switched_off()
{
	settled CLOSE
	with ipv4/vs/conntrack=0
}

case_is switched_on "vs.conntrack switched on since"
switched_on()
{
	with ipv4/vs/conntrack=0
	reset_and_reconnect "$nat" closed_then_switched_on
	first_packet kept
	goes_elsewhere
	unseen
}

closed_then_switched_on()
{
	settled CLOSE
	without
}

# Without vs.conntrack an entry has no IP_VS_CONN_F_NFCT. Here somebody else has made a conntrack with
# its addresses. IPVS drops the packet for it, but never kills that conntrack, so the module leaves both
# to IPVS.
case_is entry_untracked "a conntrack that IPVS has not made"
entry_untracked()
{
	with ipv4/vs/conntrack=0
	reset_and_reconnect "$nat" closed_with_conntrack_by_hand
	without
	first_packet lost lost
	goes_elsewhere
	leaves untracked
	[[ " $(conntrack_id) " = *" $noted "* ]] || fault "the conntrack is gone"
}

closed_with_conntrack_by_hand()
{
	settled CLOSE
	[ -z "$(conntracks)" ] || fault "there is a conntrack already"
	conntrack -I -p tcp -s 10.0.0.2 -d 10.9.0.1 --sport "$port" --dport 80 --state ESTABLISHED \
		-t 60 2>/dev/null || fault "cannot make a conntrack"
	noted=$(conntrack_id)
}

# nat rules. nat chains see only the first packet of a conntrack.

case_is masqueraded "everything masqueraded"
masqueraded() { translated "$nat" masquerade; }
case_is masqueraded_ipv6 "everything masqueraded, IPv6"
masqueraded_ipv6() { translated "$nat6" masquerade; }
case_is snat "everything from one address (snat)"
snat() { translated "$nat" "snat ip to 10.9.0.9" 10.9.0.9; }

# translated SERVICE STATEMENT [ADDR]: applies STATEMENT to all packets to the real servers.
translated()
{
	nat_rules "$2"
	reset_and_reconnect "$1"
	no_rules
	kept_with_module
	is_translated "${3:-}"
}

nat_rules()
{
	rules <<-END
		chain postrouting {
			type nat hook postrouting priority srcnat
			oifname "rs*" $1
		}
	END
}

# is_translated [ADDR]: checks that the second server has seen the director's address, or ADDR.
is_translated()
{
	case $seen_as in
	"${1:-10.2.${second#rs}.1}" | "${1:-fd00:2:${second#rs}::1}") ;;
	*) fault "seen as $seen_as" ;;
	esac
}

case_is masqueraded_since "masqueraded since the old connection"
masqueraded_since()
{
	reset_and_reconnect "$nat" closed_then_masqueraded
	no_rules
	kept_with_module
	is_translated
}

closed_then_masqueraded()
{
	settled CLOSE
	nat_rules masquerade
}

# New connections to the service bypass IPVS.
case_is dnat_since "dnat past IPVS since the old connection"
dnat_since()
{
	reset_and_reconnect "$nat" closed_then_dnat
	no_rules
	first_packet lost
	[ "$second" = rs2 ] || fault "went to ${second:-nobody}"
	replays tcp_closed
}

closed_then_dnat()
{
	settled CLOSE
	dnat_rules 10.9.0.1 10.2.2.2
}

# dnat_rules FROM TO
dnat_rules()
{
	rules <<-END
		chain prerouting {
			type nat hook prerouting priority dstnat
			iifname "client" ip daddr $1 tcp dport 80 dnat ip to $2
		}
	END
}

# The rules do not match the service.
case_is dnat_of_others "dnat rules of another service"
dnat_of_others()
{
	dnat_rules 10.9.0.8 10.2.1.2
	reset_and_reconnect "$nat"
	no_rules
	kept_with_module
}

# IPVS makes the real server the other end of the conntrack, so that later packets go straight there.
case_is dnat_before "dnat to the virtual service"
dnat_before()
{
	dnat_rules 10.9.0.8 10.9.0.1
	reset_and_reconnect 10.9.0.8:80
	no_rules
	first_packet kept kept
	unseen
}

# A flowtable. The real servers' replies are forwarded, so a rule can add the flow to the flowtable.
# But a flowtable does not know what IPVS does to packets: on every kernel the client's later packets,
# including a new SYN, bypass IPVS untranslated until the flow times out. Rules for a flowtable must
# exclude the virtual services.

case_is flowtable "flowtable with the service's flows"
flowtable()
{
	offload "ct state established"
	settings 1 1
	reconnect "$nat" "drain -t $nat" --end hold --timeout 1.5s
	undrain -t "$nat"
	[[ $(conntracks) = *OFFLOAD* ]] || fault "the flow was not offloaded"
	no_rules
	first_packet never never
	unseen
}

case_is flowtable_for_others "flowtable with other flows only"
flowtable_for_others()
{
	offload "ct state established ct original ip daddr != 10.9.0.0/24"
	reset_and_reconnect "$nat"
	no_rules
	kept_with_module
}

# offload MATCH: adds forwarded flows that match to the flowtable.
offload()
{
	rules <<-END
		flowtable fast {
			hook ingress priority 0
			devices = { client, rs1, rs2 }
		}
		chain forward {
			type filter hook forward priority filter
			$1 flow add @fast
		}
	END
}

# SYNPROXY answers the client's SYN itself, untracked. When the client has acknowledged that, SYNPROXY
# sends a SYN of its own, on LOCAL_OUT, with a template of its own. That is the SYN that IPVS sees.

# conntrack reopens the flow for that SYN.
case_is synproxy_fin "SYNPROXY, server's FIN"
synproxy_fin()
{
	proxied "settled TIME_WAIT" --end fin
	first_packet kept
	goes_elsewhere
	unseen
}

# IPVS drops that SYN. SYNPROXY sends it again only when the client sends something, and a client that
# waits for the server's greeting does not. The module cannot replay the packet, because its template
# cannot be made again.
case_is synproxy_drained "SYNPROXY, still open, server drained"
synproxy_drained()
{
	proxied "drain -t $nat" --end hold
	undrain -t "$nat"
	first_packet never never
	leaves synproxy
}

# proxied BETWEEN ARGUMENTS...
proxied()
{
	with netfilter/nf_conntrack_tcp_loose=0
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority raw
			iifname "client" tcp dport 80 tcp flags & (syn | ack | rst | fin) == syn notrack
		}
		chain input {
			type filter hook input priority filter
			tcp dport 80 ct state invalid,untracked counter synproxy mss 1460 wscale 7 sack-perm comment "proxied"
			tcp dport 80 ct state invalid drop
		}
	END
	settings 1 1
	reconnect "$nat" "$@" --timeout 2.5s
	count_packets
	no_rules
	without
	# The SYN and the ACK of each connection.
	((packets[proxied] >= 4)) || fault "not proxied"
}

# Settings of conntrack, and conntracks that are not there or belong to other connections.

case_is loose_0 "tcp_loose=0"
loose_0() { set_to netfilter/nf_conntrack_tcp_loose=0; }
case_is liberal "tcp_be_liberal=1"
liberal() { set_to netfilter/nf_conntrack_tcp_be_liberal=1; }
case_is invalid_rst "tcp_ignore_invalid_rst=1"
invalid_rst() { set_to netfilter/nf_conntrack_tcp_ignore_invalid_rst=1; }

set_to()
{
	with "$1"
	reset_and_reconnect "$nat"
	without
	kept_with_module
}

case_is deleted_by_hand "the conntrack deleted by hand (conntrack -D)"
deleted_by_hand()
{
	reset_and_reconnect "$nat" closed_then_deleted
	first_packet kept
	goes_elsewhere
	unseen
}

closed_then_deleted()
{
	settled CLOSE
	conntrack -D -p tcp --orig-port-src "$port" >/dev/null 2>&1 || fault "no conntrack to delete"
}

# conntrack forgets the flow before IPVS does.
case_is timed_out_first "the conntrack timed out before the entry"
timed_out_first()
{
	rules <<-END
		ct timeout short {
			protocol tcp
			l3proto ip
			policy = { close: 1 }
		}
		chain prerouting {
			type filter hook prerouting priority filter
			tcp dport 80 ct timeout set "short"
		}
	END
	reset_and_reconnect "$nat" closed_and_timed_out
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
}

closed_and_timed_out()
{
	settled CLOSE
	busywait 5000 no_conntrack || fault "the conntrack stays"
}

no_conntrack() { [ -z "$(conntrack_id)" ]; }

# The old conntrack was expected by another one, as FTP's data connections are. IPVS kills it like any
# other, and so does the module.
case_is expected "an expected conntrack"
expected()
{
	rules <<-END
		ct helper ftp {
			type "ftp" protocol tcp
			l3proto ip
		}
		chain prerouting {
			type filter hook prerouting priority filter
			tcp dport 21 ct helper set "ftp"
		}
	END
	announce_connection
	reset_and_reconnect "$nat"
	no_rules
	kept_with_module
}

# An FTP server at the service's address tells the client to connect to port 80 there.
announce_connection()
{
	local server

	echo 'echo 220; read -r; echo "227 (10,9,0,1,0,80)"' >"$tmp/ftpd"
	socat TCP-LISTEN:21,bind=10.9.0.1,reuseaddr EXEC:"bash $tmp/ftpd" &
	server=$!
	in_ns "$client" bash -c '
		until exec 3<>/dev/tcp/10.9.0.1/21; do :; done
		read -r -t 5 <&3 && echo PASV >&3 && read -r -t 5 <&3' 2>/dev/null ||
		fault "no answer from port 21"
	wait "$server"
	[ -n "$(conntrack -L expect 2>/dev/null)" ] || fault "no conntrack is expected"
}

# The director connects from the service's address and port to the client's, so that the client's SYN
# belongs to the reply direction of that conntrack.

# conntrack takes the SYN for one half of a simultaneous open. IPVS drops it and kills the conntrack,
# whatever the direction.
case_is reply "reply direction of a connection in SYN_SENT"
reply()
{
	reset_and_reconnect "$nat" "closed_and_reversed SYN_SENT"
	kept_with_module
}

# To conntrack the SYN is invalid, and carries no conntrack.
case_is reply_established "reply direction of an established connection"
reply_established()
{
	reset_and_reconnect "$nat" "closed_and_reversed ESTABLISHED"
	first_packet kept
	goes_elsewhere
	unseen
}

# closed_and_reversed STATE
closed_and_reversed()
{
	closed_then_deleted
	conntrack -I -p tcp -s 10.9.0.1 -d 10.0.0.2 --sport 80 --dport "$port" --state "$1" -t 60 \
		2>/dev/null || fault "cannot make a conntrack"
}

# SCTP. conntrack does not reopen SCTP flows: an INIT finds the old conntrack, whichever side has ended
# the association.

case_is sctp_client_abort "SCTP, client's ABORT"
sctp_client_abort()
{
	settings 1 0
	reconnect "$nat" "settled CLOSED" --proto sctp --end client-rst
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is sctp_abort_ipv6 "SCTP, server's ABORT, IPv6"
sctp_abort_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSED" --proto sctp --end server-rst
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is sctp_shutdown_ipv6 "SCTP, server's SHUTDOWN, IPv6"
sctp_shutdown_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSED" --proto sctp --end fin
	first_packet lost
	goes_elsewhere
	replays sctp_closed
}

case_is sctp_abort_drained "SCTP, server's ABORT, then drained"
sctp_abort_drained()
{
	settings 1 1
	reconnect "$nat" sctp_closed_then_drained --proto sctp --end server-rst
	undrain --sctp-service "$nat"
	first_packet lost
	goes_elsewhere
	replays sctp_drained
}

sctp_closed_then_drained()
{
	settled CLOSED
	drain --sctp-service "$nat"
}

# The client is gone: its ABORT does not arrive.
case_is sctp_open_drained "SCTP, still open, server drained"
sctp_open_drained()
{
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority raw
			iifname "client" sctp chunk abort exists drop
		}
	END
	settings 1 1
	reconnect "$nat" sctp_still_open_and_drained --proto sctp --end client-rst
	undrain --sctp-service "$nat"
	no_rules
	first_packet lost
	goes_elsewhere
	replays sctp_drained
}

sctp_still_open_and_drained()
{
	entry_is ESTABLISHED || fault "the entry is not ESTABLISHED"
	drain --sctp-service "$nat"
}

# UDP: a resolver that sends all its queries from one socket. The stock kernel loses each query that
# arrives after its server has been deleted and before IPVS has removed the server's entries. A reply
# that is on its way at that moment is lost on every kernel, so the queries that leave for the servers
# are counted. (If the server is deleted between the module's hook and IPVS, the query is lost as on a
# stock kernel. The two are so close to each other that no test meets that moment.)

case_is udp_queries "UDP, queries while servers are deleted"
udp_queries() { queried "$dns" 10.0.0.2; }
case_is udp_queries_ipv6 "UDP, queries while servers are deleted, IPv6"
udp_queries_ipv6() { queried "$dns6" '[fd00:0::2]'; }

# queried SERVICE CLIENT: deletes the server that gets the queries, again and again.
queried()
{
	local console=client line at gone='' queries lost

	port=$((port + 1))
	nft -f - <<-END
		table netdev case {
			chain sent {
				type filter hook egress devices = { rs1, rs2 } priority 0
				udp sport $port counter comment "sent"
			}
		}
	END
	settings 1 1
	note_counters
	ask "questions --from $2:$port --to $1 --every 2ms"
	[[ $line = *first* ]] || fault "no reply: $line"
	for _ in {1..7}; do
		busywait 5000 entry_leaves "$at" || fault "the queries still go to $at"
		ipvsadm -d -u "$1" -r "$at"
		gone+="-a -u $1 -r $at -m"$'\n'
	done
	busywait 5000 entry_leaves "$at" || fault "the queries still go to $at"
	ask ""
	count_packets netdev
	nft delete table netdev case
	ipvsadm -R <<<"$gone"
	[[ $line =~ \"questions\":([0-9]+) ]] || fault "no report: $line"
	queries=${BASH_REMATCH[1]:-0}
	lost=$((queries - ${packets[sent]:-0}))
	echo "# $line"
	found "$lost lost"
	if [ "$half" = stock ]; then
		((lost > 0)) || fault "no query was lost"
		return
	fi
	((lost == 0)) || fault "$lost of $queries queries were lost"
	[ "$half" = module ] || return 0
	count_since '*'
	[[ $counted =~ ^matched\ ([0-9]+),\ replayed_udp_gone\ ([0-9]+)$ && ${BASH_REMATCH[1]} = "${BASH_REMATCH[2]}" ]] ||
		fault "counted ${counted:-nothing}"
}

# entry_leaves SERVER: whether IPVS has an entry of the last client port with another server. Sets `at`
# to that server.
entry_leaves()
{
	local from entries

	printf -v from %04X "$port"
	mapfile entries </proc/net/ip_vs_conn
	if [[ ${entries[*]} =~ \ $from\ [0-9A-F]+\ 0035\ 0A020(.)02\ ([0-9A-F]+)\  ]]; then
		at=10.2.${BASH_REMATCH[1]}.2:$((16#${BASH_REMATCH[2]}))
	elif [[ ${entries[*]} =~ \ $from\ [0-9a-f:]+\ 0035\ fd00:0002:000(.):[0-9a-f:]+\ ([0-9A-F]+)\  ]]; then
		at=[fd00:2:${BASH_REMATCH[1]}::2]:$((16#${BASH_REMATCH[2]}))
	else
		return 1
	fi
	[ "$at" != "$1" ]
}

##############################################################################

run_both_halves "$@"
