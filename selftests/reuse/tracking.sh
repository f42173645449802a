#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, and the director attaches something to its conntracks: zones, helpers,
# timeouts, labels, marks; or somebody listens for conntrack's events. The conntrack of the second
# connection must have it, too.
#
# The network is in lib.sh, the services and what a case does are in lib/rules.sh.
#
# One case: make case TEST=reuse/tracking.sh CASE=zone_ipv6

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/rules.sh
. "$(dirname "$0")/../lib/rules.sh"

need_tools iptables iptables-restore
need_modules nf_conntrack_ftp nfnetlink_cttimeout xt_CT xt_mark

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

# has_one WORD: checks that there is exactly one conntrack, with WORD.
has_one()
{
	local lines

	mapfile -t lines < <(conntracks -o extended)
	[[ ${#lines[@]} = 1 && ${lines[0]} = *" $1"* ]] || fault "expected one conntrack with $1:" "${lines[@]}"
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
	local wait=()

	[ "$half $2" != "stock never" ] || wait=(--timeout 2.5s)
	zone_rules "${@:3}"
	reset_and_reconnect "$1" "" "${wait[@]}"
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
	reset_and_reconnect "$nat"
	no_raw_rules
	kept_with_module
}

# The SYN gets a new conntrack in the zone. The old one stays in the default zone.
case_is zone_since "in a zone since the old connection"
zone_since()
{
	reset_and_reconnect "$nat" closed_then_in_zone
	conntracks -o id,extended | grep -qF "$noted" || fault "the old conntrack is gone"
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
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
			policy = { established: 7000, fin_wait: 7000, close_wait: 7000, last_ack: 7000, time_wait: 7000 }
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

##############################################################################

run_both_halves "$@"
