# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # variables are lib/cases.sh's, or the script's
#
# Shared by the scripts whose cases load netfilter rules: a client reuses its port, and the director has
# rules for connections. Sourced, not run, in place of lib/cases.sh.
#
# A case loads its rules into the table `case` and deletes it afterwards. The service is NAT, for TCP:
#
#   nat   10.9.0.1, fd00:9::1
#
# A script that wants others has a `setup` of its own.

# shellcheck source=selftests/lib/cases.sh
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'

setup()
{
	begin_director 2
	service -t $nat -m 80
	service -t "$nat6" -m 80
	make_services
	start_traffic --proto tcp --listen 0.0.0.0:80 --listen '[::]:80'
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

# count_packets FAMILY: sets packets[WORD] to the counter of the rule with the comment WORD.
declare -A packets=()
count_packets()
{
	local line

	packets=()
	while read -r line; do
		[[ ! $line =~ packets\ ([0-9]+)[^#]*comment\ \"([a-z_]+)\" ]] ||
			packets[${BASH_REMATCH[2]}]=${BASH_REMATCH[1]}
	done < <(nft list table "$1" case)
}

# conntracks [OPTIONS]: prints the conntracks of the last client port.
conntracks() { conntrack -L -p tcp --orig-port-src "$port" "$@" 2>/dev/null; }

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

# Checks that the rules have counted one SYN of the old connection and one of the new, in both halves:
# on the stock kernel the second is the client's retransmission, with the module it is the replay.
one_old_one_new_syn()
{
	count_packets inet
	[ "${packets[old]:-} ${packets[new]:-}" = "1 1" ] ||
		fault "expected 1 SYN of the old connection, 1 of the new, counted" \
			"${packets[old]:-none} and ${packets[new]:-none}"
}
