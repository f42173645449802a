#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, and the director's administrator has plans of his own for
# conntrack: zones, helpers, timeouts, labels and marks, notrack, nat, a flowtable, SYNPROXY,
# rules for new connections. The second connection must meet all of it as a new one does.
#
# What differs are the director's rules: each case loads a table of its own, `case`, and takes
# it away again. The network is in lib.sh; how a case is judged stands in reuse.sh. The
# services:
#
#   nat   10.9.0.1, fd00:9::1   TCP, UDP, SCTP
#   dns   10.9.0.2, fd00:9::2   UDP, with four ports on each real server

# shellcheck disable=SC2034 # for reuse.sh
# shellcheck disable=SC2317 # cases are called by name
# shellcheck source=selftests/reuse.sh
. "$(dirname "$0")/reuse.sh"

need_tools chrt iptables iptables-restore socat taskset
need_modules nf_conntrack_ftp nf_flow_table_inet nfnetlink_cttimeout nft_connlimit nft_flow_offload \
	nft_limit nft_masq nft_nat nft_synproxy xt_CT xt_mark

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
dns=10.9.0.2:53
dns6='[fd00:9::2]:53'

on_one_processor=(taskset --cpu-list 0)

cases="zone_ipv6 zone_original zone_original_ipv6 zone_of_interface zone_of_mark
	zone_since zone_beside zone_outlives
	helper helper_by_template timeout_policy events_by_template label mark mark_ipv6
	notrack notrack_ipv6 notrack_since notrack_until switched_off switched_on
	flowtable flowtable_for_others
	masqueraded masqueraded_ipv6 snat masqueraded_since dnat_since dnat_of_others dnat_before
	caught caught_ipv6 caught_drained caught_drained_ipv6
	seen_as_new seen_as_new_ipv6 counted_from_zero limited connections_at_once
	events events_ipv6
	loose_0 liberal invalid_rst deleted_by_hand timed_out_first expected reply reply_established
	sctp_client_abort sctp_abort_ipv6 sctp_abort_drained sctp_open_drained sctp_shutdown_ipv6
	udp_questions udp_questions_ipv6
	synproxy_fin synproxy_drained"

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
	start_console resolver "${on_one_processor[@]}" chrt --fifo 1 nsenter --net="/run/netns/$client" --
}

# rules: the case's table, from standard input, in place of what it was.
rules()
{
	local text

	mapfile -d '' text
	nft -f - <<<"table inet case; delete table inet case; table inet case { ${text[0]} }" ||
		fault "cannot load the rules"
}

no_rules() { nft delete table inet case; }

# raw_rules TARGET...: for the client's packets, in the raw table, where iptables makes templates
# that nft knows no words for.
raw_rules()
{
	{
		printf '*raw\n'
		printf -- '-A PREROUTING -i client -p tcp --dport 80 -j %s\n' "$@"
		printf 'COMMIT\n'
	} | iptables-restore || fault "cannot load the rules"
}

no_raw_rules() { iptables -t raw -F PREROUTING; }

# with NAME=VALUE...: sysctls for the case, until it says `without`.
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

# count_packets [FAMILY]: sets packets[WORD] to what the rule with the comment WORD has counted.
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

# conntracks [OPTIONS]: the conntracks of the last client port.
conntracks() { conntrack -L -p tcp --orig-port-src "$port" "$@" 2>/dev/null; }

# has_one WORD: whether there is one conntrack, and it has WORD.
has_one()
{
	local lines

	mapfile -t lines < <(conntracks -o extended)
	[[ ${#lines[@]} = 1 && ${lines[0]} = *" $1"* ]] || fault "expected one conntrack with $1:" "${lines[@]}"
}

# Where the first packet is what matters, and the server's RST the way to lose it.
reset_and_reconnect()
{
	settings 1 0
	reconnect "$1" "${2:-settled CLOSE}" --end server-rst "${@:3}"
}

kept_with_module()
{
	first_packet lost
	goes_elsewhere
	evicts tcp_closed
}

##############################################################################
# The cases: their names for people, and one function each

label_of=(
	[zone_ipv6]="conntrack zone, IPv6"
	[zone_original]="zone of the original direction"
	[zone_original_ipv6]="zone of the original direction, IPv6"
	[zone_of_interface]="zone of the client's interface"
	[zone_of_mark]="zone of the packet's mark"
	[zone_since]="in a zone since the old connection"
	[zone_beside]="the same addresses in a zone are left alone"
	[zone_outlives]="a zone's conntrack that outlives its entry"
	[helper]="conntrack helper"
	[helper_by_template]="conntrack helper on the template"
	[timeout_policy]="timeout policy"
	[events_by_template]="events chosen on the template"
	[label]="conntrack label"
	[mark]="conntrack mark, restored to packets"
	[mark_ipv6]="conntrack mark, restored to packets, IPv6"
	[caught]="a rule for new connections, made since"
	[caught_ipv6]="a rule for new connections, made since, IPv6"
	[caught_drained]="a rule for new connections, server drained"
	[caught_drained_ipv6]="a rule for new connections, drained, IPv6"
	[seen_as_new]="rules see one new connection"
	[seen_as_new_ipv6]="rules see one new connection, IPv6"
	[counted_from_zero]="the connection's packets are counted from zero"
	[limited]="a limit on new connections counts it"
	[connections_at_once]="a limit on connections at once lets it through"
	[events]="listeners hear DESTROY, then NEW"
	[events_ipv6]="listeners hear DESTROY, then NEW, IPv6"
	[notrack]="notrack"
	[notrack_ipv6]="notrack, IPv6"
	[notrack_since]="notrack since the old connection"
	[notrack_until]="notrack until after the old connection"
	[switched_off]="vs.conntrack switched off since"
	[switched_on]="vs.conntrack switched on since"
	[masqueraded]="everything masqueraded"
	[masqueraded_ipv6]="everything masqueraded, IPv6"
	[snat]="everything from one address (snat)"
	[masqueraded_since]="masqueraded since the old connection"
	[dnat_since]="taken from IPVS by dnat since"
	[dnat_of_others]="dnat rules of another service"
	[dnat_before]="dnat to the service"
	[flowtable]="flowtable, offered the service's flows"
	[flowtable_for_others]="flowtable, for other flows"
	[synproxy_fin]="SYNPROXY, server's FIN"
	[synproxy_drained]="SYNPROXY, still open, server drained"
	[loose_0]="tcp_loose=0"
	[liberal]="tcp_be_liberal=1"
	[invalid_rst]="tcp_ignore_invalid_rst=1"
	[deleted_by_hand]="the conntrack deleted by hand (conntrack -D)"
	[timed_out_first]="the conntrack timed out before the entry"
	[expected]="an expected conntrack"
	[reply]="the reply of a connection that is being made"
	[reply_established]="the reply of another connection"
	[sctp_client_abort]="SCTP, client's ABORT"
	[sctp_abort_ipv6]="SCTP, server's ABORT, IPv6"
	[sctp_abort_drained]="SCTP, server's ABORT, then drained"
	[sctp_open_drained]="SCTP, still open, server drained"
	[sctp_shutdown_ipv6]="SCTP, server's SHUTDOWN, IPv6"
	[udp_questions]="UDP, questions while servers are deleted"
	[udp_questions_ipv6]="UDP, questions while servers are deleted, IPv6"
)

# Zones.
#
# IPVS looks for what it leaves behind in the default zone only: on the stock kernel the old
# conntrack stays. It lets the second SYN pass, but a later answer of the new server is taken
# for a connection of its own (tcp_loose), whose reply is the old conntrack's original: one of
# the two has to go, and the answer is dropped, unless they are in different zones.

zone_ipv6() { in_zone "$nat6" never "ct zone set 7" "ct zone set 7"; }
zone_original() { in_zone "$nat" lost "ct original zone set 7"; }
zone_original_ipv6() { in_zone "$nat6" lost "ct original zone set 7"; }
zone_of_interface() { in_zone "$nat" lost 'ct original zone set iifname map { "client" : 8 }'; }

# in_zone SERVICE STOCK REQUESTS [REPLIES]: with such statements for both ways.
in_zone()
{
	zone_rules "${@:3}"
	reset_and_reconnect "$1" "" --timeout 2.5s
	no_rules
	first_packet "$2"
	goes_elsewhere
	evicts tcp_closed
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

# The template says only that the zone is to be read from the packet.
zone_of_mark()
{
	raw_rules "MARK --set-mark 9" "CT --zone-orig mark"
	reset_and_reconnect "$nat" "" --timeout 2.5s
	no_raw_rules
	kept_with_module
}

# The old conntrack is in the default zone, and no trouble to anybody.
zone_since()
{
	reset_and_reconnect "$nat" closed_then_in_zone
	no_rules
	first_packet kept
	goes_elsewhere
	leaves no_conntrack
	conntracks -o id,extended | grep -qF "$noted" || fault "the old conntrack is gone"
}

closed_then_in_zone()
{
	settled CLOSE
	noted=$(conntrack_id)
	zone_rules "ct original zone set 7"
}

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

# Without an IPVS entry no packet is one that IPVS would schedule anew: it is new to IPVS,
# and goes astray on every kernel.
zone_outlives()
{
	zone_rules "ct zone set 7" "ct zone set 7"
	settings 1 1
	reconnect "$nat" entry_is_gone --end hold --timeout 2.5s
	restore -t "$nat"
	no_rules
	first_packet never never
	evicts
}

entry_is_gone()
{
	remove -t "$nat"
	busywait 5000 no_entry || fault "the entry did not go"
	[ -n "$(conntracks)" ] || fault "its conntrack did not stay"
}

# What rules say about a new conntrack: the second one has it, as a new one does.

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

helper_by_template()
{
	raw_rules "CT --helper ftp"
	reset_and_reconnect "$nat"
	no_raw_rules
	kept_with_module
	has_one helper=ftp
}

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

# What the template asks for is told of the new conntrack, too: that it goes, not that it came.
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
	old_and_new_syns 1 0 1
	no_rules
}

# A mark that leads later packets the way of the first, as for several uplinks.
mark() { marked "$nat"; }
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
	old_and_new_syns 1 0 1
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

# old_and_new_syns STOCK MODULE NEW: what rules have counted as the old connection's SYNs, in
# either half, and as the new one's.
old_and_new_syns()
{
	local old=$1

	[ "$half" = stock ] || old=$2
	count_packets
	[ "${packets[old]:-} ${packets[new]:-}" = "$old $3" ] ||
		fault "expected $old SYN of the old connection, $3 of the new, counted" \
			"${packets[old]:-none} and ${packets[new]:-none}"
}

# Firewall rules.

# On the stock kernel IPVS loses the first SYN as the old connection's, and the rule catches the
# next one; with the module it catches them all.

caught() { reset_then_caught "$nat"; }
caught_ipv6() { reset_then_caught "$nat6"; }

reset_then_caught()
{
	reset_and_reconnect "$1" closed_then_forbidden --timeout 1.5s
	is_caught
	evicts tcp_closed
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

# A slow machine may send one more while the client gives up.
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

caught_drained() { drained_then_caught "$nat"; }
caught_drained_ipv6() { drained_then_caught "$nat6"; }

drained_then_caught()
{
	settings 1 1
	reconnect "$1" "forbidden_and_drained $1" --end hold --timeout 1.5s
	undrain -t "$1"
	is_caught
	evicts tcp_drained
}

forbidden_and_drained()
{
	drain -t "$1"
	forbid_new
}

seen_as_new() { opens_as "$nat" "ct state established" "ct state new"; }
seen_as_new_ipv6() { opens_as "$nat6" "ct state established" "ct state new"; }

# conntrack counts a packet before rules see it.
counted_from_zero()
{
	with netfilter/nf_conntrack_acct=1
	opens_as "$nat" "ct original packets > 1" "ct original packets 1"
	without
}

# opens_as SERVICE OLD NEW: rules that match the old connection's packets and a new one's. On
# the stock kernel the lost SYN is the old one's; no kernel sees more than one of the new.
opens_as()
{
	local old=$2 new=$3

	reset_and_reconnect "$1" closed_then_counted
	kept_with_module
	old_and_new_syns 1 0 1
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
	evicts tcp_closed
}

# The old connection counts no more, though nobody has seen it end.
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
	evicts tcp_drained
}

events() { heard "$nat"; }
events_ipv6() { heard "$nat6"; }

# Unless told so, conntrack has no events for conntracks that are older than the listener.
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

# Whether anybody is in a multicast group of netfilter's.
listening()
{
	local sockets

	mapfile sockets </proc/net/netlink
	[[ ${sockets[*]} =~ \ 12\ +[0-9]+\ +[0-9a-f]*[1-9a-f]\  ]]
}

# hears EVENT...: these, in this order, and no others.
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

# notrack, and vs.conntrack switched in between.

notrack() { untracked "$nat"; }
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

# The old conntrack has no part in it, and stays.
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

notrack_until()
{
	notrack_rules
	reset_and_reconnect "$nat" closed_then_tracked
	first_packet kept
	goes_elsewhere
	leaves no_conntrack
}

closed_then_tracked()
{
	settled CLOSE
	no_rules
}

# Whether IPVS drops depends on the conntrack that is there, not on the setting.
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

switched_on()
{
	with ipv4/vs/conntrack=0
	reset_and_reconnect "$nat" closed_then_switched_on
	first_packet kept
	goes_elsewhere
	leaves no_conntrack
}

closed_then_switched_on()
{
	settled CLOSE
	without
}

# The user's nat rules. nat chains see the first packet of a conntrack only.

masqueraded() { translated "$nat" masquerade; }
masqueraded_ipv6() { translated "$nat6" masquerade; }
snat() { translated "$nat" "snat ip to 10.9.0.9" 10.9.0.9; }

# translated SERVICE STATEMENT [ADDR]: for all that leaves for the real servers.
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

# is_translated [ADDR]: whether the second server has seen the director's address, or ADDR.
is_translated()
{
	case $seen_as in
	"${1:-10.2.${second#rs}.1}" | "${1:-fd00:2:${second#rs}::1}") ;;
	*) fault "seen as $seen_as" ;;
	esac
}

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

# The service is taken from IPVS, for new connections.
dnat_since()
{
	reset_and_reconnect "$nat" closed_then_dnat
	no_rules
	first_packet lost
	[ "$second" = rs2 ] || fault "went to ${second:-nobody}"
	evicts tcp_closed
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

# The rules are others' business.
dnat_of_others()
{
	dnat_rules 10.9.0.8 10.2.1.2
	reset_and_reconnect "$nat"
	no_rules
	kept_with_module
}

dnat_before()
{
	dnat_rules 10.9.0.8 10.9.0.1
	reset_and_reconnect 10.9.0.8:80
	no_rules
	first_packet kept kept
	evicts
}

# A flowtable. The real servers' answers are forwarded, and so a rule may offer the flow; but a
# flowtable knows nothing of what IPVS does to packets: on every kernel the client's later ones,
# a new SYN among them, go past IPVS, untranslated, until the flow times out. Whoever wants a
# flowtable beside IPVS has to spare the virtual services.

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

flowtable_for_others()
{
	offload "ct state established ct original ip daddr != 10.9.0.0/24"
	reset_and_reconnect "$nat"
	no_rules
	kept_with_module
}

# offload MATCH: what is forwarded and matches.
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

# SYNPROXY answers the client's SYN itself, untracked; IPVS meets its SYN, on LOCAL_OUT, with
# the proxy's template, and loses that one on the stock kernel. The proxy sends it again when
# the client sends something again, and a client that waits for the server's greeting does not.

synproxy_fin()
{
	proxied "settled TIME_WAIT" --end fin
	first_packet kept
	goes_elsewhere
	evicts tcp_closed
}

synproxy_drained()
{
	proxied "drain -t $nat" --end hold
	undrain -t "$nat"
	first_packet never
	goes_elsewhere
	evicts tcp_drained
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
	# The SYN and the ACK of either connection.
	((packets[proxied] >= 4)) || fault "not proxied"
}

# conntrack's own settings, and what is not there.

loose_0() { set_to netfilter/nf_conntrack_tcp_loose=0; }
liberal() { set_to netfilter/nf_conntrack_tcp_be_liberal=1; }
invalid_rst() { set_to netfilter/nf_conntrack_tcp_ignore_invalid_rst=1; }

set_to()
{
	with "$1"
	reset_and_reconnect "$nat"
	without
	kept_with_module
}

deleted_by_hand()
{
	reset_and_reconnect "$nat" closed_then_deleted
	first_packet kept
	goes_elsewhere
	leaves no_conntrack
}

closed_then_deleted()
{
	settled CLOSE
	conntrack -D -p tcp --orig-port-src "$port" >/dev/null 2>&1 || fault "no conntrack to delete"
}

# IPVS remembers the flow for longer than conntrack.
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
	leaves no_conntrack
}

closed_and_timed_out()
{
	settled CLOSE
	busywait 5000 no_conntrack || fault "the conntrack stays"
}

no_conntrack() { [ -z "$(conntrack_id)" ]; }

# A conntrack that another has announced, like FTP's data connections, is left to the stock
# kernel: its successor would not be the announced one.
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
	first_packet lost lost
	goes_elsewhere
	leaves expected
}

# As an FTP server at the service's address, tells the client to connect to port 80 of it.
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

# The client's tuple is the reply's of another conntrack: the director itself connects from the
# service's address to the client's. As long as that is not answered, conntrack takes the
# client's SYN for the other half of a simultaneous open; after that it is invalid, and has no
# conntrack that IPVS would mind.

reply() { reversed SYN_SENT lost; }
reply_established() { reversed ESTABLISHED kept; }

# reversed STATE EXPECTED
reversed()
{
	reset_and_reconnect "$nat" "closed_and_reversed $1"
	first_packet "$2" "$2"
	goes_elsewhere
	leaves reply
}

closed_and_reversed()
{
	closed_then_deleted
	conntrack -I -p tcp -s 10.9.0.1 -d 10.0.0.2 --sport 80 --dport "$port" --state "$1" -t 60 \
		2>/dev/null || fault "cannot make a conntrack"
}

# SCTP. conntrack reopens none of its flows: an INIT finds the old conntrack whoever ended it.

sctp_client_abort()
{
	settings 1 0
	reconnect "$nat" "settled CLOSED" --proto sctp --end client-rst
	first_packet lost
	goes_elsewhere
	evicts sctp_closed
}

sctp_abort_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSED" --proto sctp --end server-rst
	first_packet lost
	goes_elsewhere
	evicts sctp_closed
}

sctp_shutdown_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSED" --proto sctp --end fin
	first_packet lost
	goes_elsewhere
	evicts sctp_closed
}

sctp_abort_drained()
{
	settings 1 1
	reconnect "$nat" sctp_closed_then_drained --proto sctp --end server-rst
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

# The client vanishes: its ABORT does not arrive.
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
	evicts sctp_drained
}

sctp_still_open_and_drained()
{
	entry_is ESTABLISHED || fault "the entry is not ESTABLISHED"
	drain --sctp-service "$nat"
}

# UDP: a resolver's socket. Each question that comes when its server has just been deleted, and
# IPVS has not yet got round to the server's entries, is lost on the stock kernel. An answer on
# its way at that moment is lost on every kernel (and is a new flow for conntrack, which would
# be in the way if the server came back): what counts is what leaves for the servers.
#
# A question between the module's hook and IPVS's is lost with the module, too (see README's
# limits). Here who asks and who deletes share a processor, so that nothing comes between the two;
# and who asks goes first, so that its next question comes before IPVS gets round to the entries.

udp_questions() { asked_on "$dns" 10.0.0.2; }
udp_questions_ipv6() { asked_on "$dns6" '[fd00:0::2]'; }

# asked_on SERVICE CLIENT: the server that has the questions is deleted, again and again.
asked_on()
{
	local console=resolver line at gone='' questions lost

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
	[[ $line = *first* ]] || fault "no answer: $line"
	for _ in {1..7}; do
		busywait 5000 entry_leaves "$at" || fault "the questions still go to $at"
		"${on_one_processor[@]}" ipvsadm -d -u "$1" -r "$at"
		gone+="-a -u $1 -r $at -m"$'\n'
	done
	busywait 5000 entry_leaves "$at" || fault "the questions still go to $at"
	ask ""
	count_packets netdev
	nft delete table netdev case
	ipvsadm -R <<<"$gone"
	[[ $line =~ \"questions\":([0-9]+) ]] || fault "no report: $line"
	questions=${BASH_REMATCH[1]:-0}
	lost=$((questions - ${packets[sent]:-0}))
	echo "# $line"
	found "$lost lost"
	if [ "$half" = stock ]; then
		((lost > 0)) || fault "no question was lost"
	else
		count_since '*'
		((lost == 0)) || fault "$lost of $questions questions were lost: $counted"
	fi
	[ "$half" = module ] || return 0
	count_evictions
	[[ $evictions = "evicted_udp_gone "* ]] || fault "counted ${evictions:-nothing}"
}

# entry_leaves SERVER: whether IPVS has an entry of the last client port that leads elsewhere,
# and sets `at` to where.
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
