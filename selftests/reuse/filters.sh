#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, and the director filters new connections, limits them, or accepts packets by
# a mark. The rules must treat the second connection as a new one, and see the packets that they see on
# a stock kernel: one SYN of the old connection and one of the new. Only the wait between the two is gone.
#
# The network is in lib.sh, the services and what a case does are in lib/rules.sh.
#
# One case: make case TEST=reuse/filters.sh CASE=caught

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/rules.sh
. "$(dirname "$0")/../lib/rules.sh"

need_modules nft_connlimit nft_limit

##############################################################################
# The cases

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
	count_packets inet
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

##############################################################################

run_both_halves "$@"
