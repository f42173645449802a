#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A stray SYN with the addresses of a flow has the same effect as on a stock kernel. It has no effect if
# it is dropped before it reaches IPVS. A stranger sends it, with the client's address. Also tests a bridge
# with br_netfilter, on which packets pass the IP hooks without reaching IPVS.
#
# The network is in lib.sh, the stranger in lib/stranger.sh, and lib/cases.sh says how a case is judged.
#
#   nat    10.9.0.1, fd00:9::1   NAT
#   masq   10.9.0.2              kube-proxy's rules: marked before IPVS, masqueraded after it
#   rand   10.9.0.3              the same, and each connection gets a random source port
#
# One case: make case TEST=reuse/stray_syns.sh CASE=dropped_syn_closed

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"
# shellcheck source=selftests/lib/stranger.sh
. "$(dirname "$0")/../lib/stranger.sh"

need_modules br_netfilter bridge nft_fib_inet nft_fib_ipv6 nft_masq

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
masq=10.9.0.2:80
rand=10.9.0.3:80

address_of+=([other]=10.0.0.2)

##############################################################################
# The director

setup()
{
	begin_director 2
	make_stranger
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table ip user {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr { ${masq%:*}, ${rand%:*} } meta mark set 0x4000
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				ct original ip daddr ${rand%:*} masquerade fully-random
				meta mark 0x4000 masquerade
			}
		}
		table ip6 user {
			chain prerouting {
				type nat hook prerouting priority dstnat
			}
		}
	END
	service -t $nat -m 80
	service -t "$nat6" -m 80
	service -t $masq -m 80
	service -t $rand -m 80
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp
	start_console other nsenter --net="/run/netns/$client" --
	start_console stranger nsenter --net="/run/netns/$stranger" --
}

##############################################################################
# The cases

# A stray SYN: a stranger sends it with the addresses of a flow. Where it is dropped before it
# reaches IPVS, the flow keeps its conntrack and goes on, on a stock kernel and with the module.

case_is dropped_syn_closed "stray SYN, dropped by a rule; flow closed"
dropped_syn_closed() { strangers_syn_comes_late "$nat"; }
case_is dropped_syn_closed_ipv6 "stray SYN, dropped by a rule; flow closed, IPv6"
dropped_syn_closed_ipv6() { strangers_syn_comes_late "$nat6"; }

# The flow has ended. Only the client's own SYN is replayed. The rule is there before, because entry and
# conntrack last ten seconds, and a slow machine takes much of that to load a rule.
strangers_syn_comes_late()
{
	settings 1 0
	drop_strangers
	reconnect "$1" "closed_and_dropped $1" --end server-rst
	nft delete table inet strays
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

closed_and_dropped() { settled CLOSE; strangers_syn "$1"; }

# The flow is alive, its server is drained, and expire_nodest_conn is 1: IPVS would end the flow if
# the SYN reached it.

case_is dropped_syn_live "stray SYN, dropped by a rule; drained"
dropped_syn_live() { strangers_syn_is_dropped "$nat" drop_strangers; }
case_is dropped_syn_live_ipv6 "stray SYN, dropped by a rule; drained, IPv6"
dropped_syn_live_ipv6() { strangers_syn_is_dropped "$nat6" drop_strangers; }
case_is dropped_syn_live_masqueraded "stray SYN, dropped; drained, masqueraded"
dropped_syn_live_masqueraded() { strangers_syn_is_dropped "$masq" drop_strangers; }
case_is dropped_syn_live_random "stray SYN, dropped; drained, from random ports"
dropped_syn_live_random() { strangers_syn_is_dropped "$rand" drop_strangers; }

# IPv6 has no rp_filter, only this rule. In raw it drops the SYN before conntrack, in mangle after.
case_is reverse_path_syn_live_ipv6 "stray SYN, dropped by a fib rule; drained, IPv6"
reverse_path_syn_live_ipv6() { strangers_syn_is_dropped "$nat6" "drop_unrouted mangle"; }
case_is raw_dropped_syn_live_ipv6 "stray SYN, dropped in raw; drained, IPv6"
raw_dropped_syn_live_ipv6() { strangers_syn_is_dropped "$nat6" "drop_unrouted raw"; }

# strangers_syn_is_dropped SERVICE RULE
strangers_syn_is_dropped()
{
	settings 1 1
	reconnect "$1" "drained_and_dropped $*" --end live
	undrain -t "$1"
	nft delete table inet strays
	goes_on
	unseen
}

drained_and_dropped()
{
	drain -t "$1"
	$2 "${@:3}"
	strangers_syn "$1"
}

drop_strangers() { strays_rule input filter "iifname stranger tcp flags syn counter drop"; }

drop_unrouted()
{
	strays_rule prerouting "$1" "meta nfproto ipv6 tcp flags syn fib saddr . iif oif missing counter drop"
}

# strangers_syn SERVICE: from the last client port. Returns when the rule has dropped it, and the
# flow must still have its conntrack.
strangers_syn()
{
	note_conntrack_to "$1"
	console=stranger stray_syn "$1"
	busywait 5000 rule_counts 1 || fault "the rule does not see the SYN"
	conntrack_stays "$1"
}

case_is reverse_path_syn_live "stray SYN, dropped by rp_filter; server drained"
reverse_path_syn_live()
{
	settings 1 1
	echo 1 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	reconnect "$nat" drained_and_filtered --end live
	echo 0 >/proc/sys/net/ipv4/conf/stranger/rp_filter
	undrain -t "$nat"
	goes_on
	unseen
}

drained_and_filtered()
{
	local filtered

	filtered=$(reverse_path_drops)
	drain -t "$nat"
	note_conntrack_to "$nat"
	console=stranger stray_syn "$nat"
	busywait 5000 one_is_filtered || fault "rp_filter lets the SYN through"
	conntrack_stays "$nat"
}

one_is_filtered() { [ "$(reverse_path_drops)" = $((filtered + 1)) ]; }

reverse_path_drops() { nstat -asz TcpExtIPReversePathFilter | awk '/^Tcp/ { print $2 }'; }

# A stray SYN that is delivered ends the flow on every kernel. A stock kernel drops the SYN; the
# module replays it, as if the stranger had sent it again.
case_is delivered_syn_live "stray SYN, delivered; server drained"
delivered_syn_live() { strangers_syn_is_delivered "$nat"; }
case_is delivered_syn_live_ipv6 "stray SYN, delivered; server drained, IPv6"
delivered_syn_live_ipv6() { strangers_syn_is_delivered "$nat6"; }

strangers_syn_is_delivered()
{
	settings 1 1
	reconnect "$1" "drained_and_delivered $1" --end live --timeout 1s
	undrain -t "$1"
	found "broken"
	[ "$connected" = false ] || fault "the flow goes on"
	replays tcp_drained
}

drained_and_delivered()
{
	drain -t "$1"
	console=stranger stray_syn "$1"
	busywait 5000 no_live_entry || fault "the SYN does not end the flow"
}

no_live_entry() { ! entry_is ESTABLISHED; }

# A SYN with a wrong checksum, to a flow that has ended. conntrack finds it invalid and attaches
# nothing to it, so the module does not look at it.

# A rule drops what is invalid: the SYN has no effect.
case_is damaged_syn_closed "damaged SYN, dropped as invalid; flow closed"
damaged_syn_closed() { damaged_syn_is_dropped "$nat"; }
case_is damaged_syn_closed_ipv6 "damaged SYN, dropped as invalid; closed, IPv6"
damaged_syn_closed_ipv6() { damaged_syn_is_dropped "$nat6"; }

damaged_syn_is_dropped()
{
	settings 1 0
	strays_rule input filter "tcp flags syn ct state invalid counter drop"
	reconnect "$1" "closed_and_damaged $1" --end server-rst
	nft delete table inet strays
	first_packet lost
	goes_elsewhere
	counts "matched 1, replayed_tcp_closed 1"
}

# Where no rule drops it, IPVS takes the damaged SYN for the first packet of a new flow. The client's
# own SYN then belongs to that flow, and is not lost even with the old conntrack.
case_is damaged_syn_delivered "damaged SYN, delivered; flow closed"
damaged_syn_delivered() { damaged_syn_is_delivered "$nat"; }
case_is damaged_syn_delivered_ipv6 "damaged SYN, delivered; flow closed, IPv6"
damaged_syn_delivered_ipv6() { damaged_syn_is_delivered "$nat6"; }

damaged_syn_is_delivered()
{
	settings 1 0
	strays_rule input filter "tcp flags syn ct state invalid counter"
	reconnect "$1" "closed_and_damaged $1 SYN_RECV" --end server-rst
	nft delete table inet strays
	first_packet kept
	goes_elsewhere
	leaves in_use
}

# closed_and_damaged SERVICE [STATE]: STATE is what the SYN makes of the entry.
closed_and_damaged()
{
	settled CLOSE
	note_conntrack_to "$1"
	console=other stray_syn "$1" --damaged
	busywait 5000 rule_counts 1 || fault "the rule does not see the SYN"
	[ -z "${2:-}" ] || settled "$2"
	conntrack_stays "$1"
}

# On a bridge with br_netfilter, bridged packets pass the IP hooks.

case_is bridge_rst "client on a bridge with netfilter, server's RST"
bridge_rst() { on_bridge after_rst "$nat"; goes_elsewhere; }
case_is bridge_rst_ipv6 "client on a bridge with netfilter, server's RST, IPv6"
bridge_rst_ipv6() { on_bridge after_rst "$nat6"; goes_elsewhere; }

on_bridge()
{
	ip -batch - <<-END || fault "cannot make the bridge"
		link add bridge type bridge
		link set bridge up
		link set client master bridge
		link set stranger master bridge
		address delete 10.0.0.1/24 dev client
		address add 10.0.0.1/24 dev bridge
		address delete fd00:0::1/64 dev client
		address add fd00:0::1/64 dev bridge nodad
	END
	[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || fault "no br_netfilter"
	sysctl_set bridge/bridge-nf-call-iptables 1
	sysctl_set bridge/bridge-nf-call-ip6tables 1
	ip -n "$client" neigh flush dev director
	"$@"
	ip -batch - <<-END || fault "cannot take the bridge away"
		link delete bridge
		address add 10.0.0.1/24 dev client
		address replace fd00:0::1/64 dev client nodad
	END
	ip -n "$client" neigh flush dev director
}

# The stray SYN goes to a neighbour on the other side of the bridge: it passes PRE_ROUTING and FORWARD,
# and IPVS does not see it.
case_is bridged_syn_live "stray SYN, bridged past; server drained"
bridged_syn_live() { on_bridge stray_is_bridged "$nat" 10.0.0.3; }
case_is bridged_syn_live_ipv6 "stray SYN, bridged past; server drained, IPv6"
bridged_syn_live_ipv6() { on_bridge stray_is_bridged "$nat6" fd00:0::3; }

# stray_is_bridged SERVICE NEIGHBOUR
stray_is_bridged()
{
	settings 1 1
	reconnect "$1" "drained_and_bridged $*" --end live
	undrain -t "$1"
	goes_on
	unseen
}

drained_and_bridged()
{
	local to=${1%:*}

	to=${to//[][]/}
	drain -t "$1"
	note_conntrack_to "$1"
	strays_rule forward filter "tcp flags syn counter"
	configure "$client" <<-END
		neigh replace $2 lladdr 02:00:00:00:00:03 dev director nud permanent
		route add $to via $2
	END
	console=other stray_syn "$1"
	busywait 5000 rule_counts 1 || fault "the SYN is not bridged"
	ip -n "$client" route delete "$to"
	nft delete table inet strays
	conntrack_stays "$1"
}

##############################################################################

run_both_halves "$@"
