# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # variables are lib/cases.sh's, or the script's
#
# A stranger, which sends with the client's address. Sourced after lib/cases.sh, not run.
#
#     client                     stranger: 10.0.0.2, fd00:0::2 on lo
#         |                             10.3.0.2 |
#         | 10.0.0.1                    10.3.0.1 |
#         director ------------------------------+
#
# For IPv6: fd00:3::.

make_stranger()
{
	stranger=stranger-${client#*-}
	more_namespaces+=("$stranger")
	{
		echo "netns add $stranger"
		echo "link add stranger type veth peer name director netns $stranger"
		echo "address add 10.3.0.1/24 dev stranger"
		echo "address add fd00:3::1/64 dev stranger nodad"
		echo "link set stranger up"
	} | ip -batch - || bail_out "cannot make the stranger"
	configure "$stranger" <<-END
		link set lo up
		address add 10.0.0.2/32 dev lo
		address add fd00:0::2/128 dev lo nodad
		address add 10.3.0.2/24 dev director
		address add fd00:3::2/64 dev director nodad
		link set director up
		route add default via 10.3.0.1
		route add ::/0 via fd00:3::1
	END
	no_reverse_path_filter
}

# strays_rule HOOK PRIORITY RULE
strays_rule()
{
	nft -f - <<-END || fault "cannot load the rule"
		table inet strays {
			chain $1 {
				type filter hook $1 priority $2
				$3
			}
		}
	END
}

# stray_syn SERVICE [OPTIONS]: from a `console`.
stray_syn()
{
	local line

	ask "syn --from $(clients_address "$1"):$port --to $*"
	[[ $line = *sent* ]] || fault "no SYN: $line"
}

# rule_counts N: whether strays_rule's rule has seen so many packets.
rule_counts() { [[ $(nft list table inet strays) = *"packets $1 "* ]]; }
