# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # variables are lib/cases.sh's, or the script's
#
# Shared by paths.sh and paths_netfilter.sh: checks that a replayed packet takes the same path twice and
# passes the same rules. Sourced, not run, in place of lib/cases.sh.

# shellcheck source=selftests/lib/cases.sh
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"

syn="tcp flags & (fin | syn | rst | ack) == syn"

# saved SERVICE: the second connection's first packet, after the server's RST.
saved()
{
	server_rst "$1" lost
	goes_elsewhere
	replays tcp_closed
}

# server_rst SERVICE OUTCOME...: of the first packet, as first_packet has it.
server_rst()
{
	settings 1 0
	reconnect "$1" closed_and_counted --end server-rst
	first_packet "${@:2}"
}

closed_and_counted() { settled CLOSE; before=$(met); }

# meets_twice CHAIN COMMAND...: a COMMAND that makes two connections, with such an nft chain. Its first
# counter must count those SYNs of the second that the client sends, and the one that is replayed once more.
meets_twice()
{
	local before='' count expected

	nft -f - <<<"table inet path { $1"$'\n}' || fault "cannot load the rules"
	"${@:2}"
	count=$(($(met) - before))
	nft delete table inet path
	expected=$((syn_retransmits + 1))
	[ "$half" = stock ] || ((syn_retransmits)) || expected=2
	[ "$count" = "$expected" ] || fault "expected $expected SYNs to meet the rule, $count did"
}

met() { [[ ! $(nft list table inet path 2>&1) =~ packets\ ([0-9]+) ]] || echo "${BASH_REMATCH[1]}"; }
