#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, and the director has nat rules, a flowtable, or SYNPROXY. All of them must
# treat the second connection as a new one.
#
# The network is in lib.sh, the services and what a case does are in lib/rules.sh.
#
# One case: make case TEST=reuse/nat_rules.sh CASE=masqueraded

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck disable=SC2119 # conntracks without options
# shellcheck source=selftests/lib/rules.sh
. "$(dirname "$0")/../lib/rules.sh"

need_modules nf_flow_table_inet nft_flow_offload nft_masq nft_nat nft_synproxy

##############################################################################
# The cases

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
	count_packets inet
	no_rules
	without
	# The SYN and the ACK of each connection.
	((packets[proxied] >= 4)) || fault "not proxied"
}

##############################################################################

run_both_halves "$@"
