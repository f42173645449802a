#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests that a service switches to p2c under load with no more loss than from one of IPVS's own
# schedulers to another.
#
# MODULE: ip_vs_reuse.ko
#
# One case: make case TEST=p2c/switching.sh CASE=switch_loses_nothing

# shellcheck source=selftests/lib/p2c.sh
. "$(dirname "$0")/../lib/p2c.sh"

switched=10.9.0.7:80
switched_stock=10.9.0.8:80
quiet=10.9.0.9:80
moved=10.9.0.10:80

##############################################################################
# From one scheduler to another
#
# `ipvsadm -E -s` leaves a service without a scheduler for an RCU grace period, during which IPVS
# refuses connections. This holds for any two schedulers, such as wlc and rr.

declare -A windows=() switches=() refused=() late=()

# switch_service NAME ADDR:PORT: to the next of two schedulers, from wlc to the one that is
# given in `other` and back. Notes when, in milliseconds since 1970.
declare -A other=([stock]=rr [mine]=p2c [quiet]=p2c [moved]=p2c)
switch_service()
{
	local start to=wlc

	look "$2" 1
	[ "$scheduler" != wlc ] || to=${other[$1]}
	start=$(now_ms)
	change "-E -t $2 -s $to"
	busywait 5000 has_scheduler "$2" "$to" || fault "$2 was not switched to $to"
	windows[$1]+=" $start-$(now_ms)"
	switches[$1]=$((${switches[$1]:-0} + 1))
}

# read_switched NAME: what became of the load NAME. Nothing may fail but by being refused, and
# nothing be refused but within a switch.
read_switched()
{
	local outside

	read_load "$1"
	refused[$1]=$failed
	[[ $summary =~ \"slow\":([0-9]+) ]]
	late[$1]=${BASH_REMATCH[1]}
	# shellcheck disable=SC2086 # a list
	outside=$("$harness" refused-outside ${windows[$1]} <<<"$summary") || fault "$summary"
	((outside == 0)) || fault "$outside were refused outside of the switches"
	[ "$(grep -o '\[[0-9]*,[0-9]*\]' <<<"$summary" | wc -l)" = "$failed" ] ||
		fault "not all that failed were refused: $(grep -v refused "$tmp/errors.$1" | head -n 3)"
}

# under_switches NAME ADDR:PORT NAME ADDR:PORT: two services, side by side, under load. They
# are switched in turn.
under_switches()
{
	local ended

	service "-t $2" wlc 1 2 3 4
	service "-t $4" wlc 1 2 3 4
	start_load "$1" "$2" --rate 100 --seconds 8 --hold 50ms
	start_load "$3" "$4" --rate 100 --seconds 8 --hold 50ms
	start_changes
	ended=$(($(now_ms) + 7000))
	while (($(now_ms) < ended)); do
		switch_service "$1" "$2"
		switch_service "$3" "$4"
	done
	end_changes
}

measured_case_is switch_loses_no_more_than_stock "a switch of scheduler under load loses no more than IPVS's own"
switch_loses_no_more_than_stock()
{
	local mine stock

	under_switches stock "$switched_stock" mine "$switched"
	read_switched stock
	read_switched mine
	outcome="wlc-p2c $(lost mine), wlc-rr $(lost stock)"
	mine=$((refused[mine] + late[mine])) stock=$((refused[stock] + late[stock]))
	if ((stock == 0)); then
		((mine == 0)) || fault "IPVS's own lose nothing"
	else
		# Four standard deviations of the difference of two such counts.
		((mine <= stock || (mine - stock) ** 2 <= 16 * (mine + stock))) ||
			fault "more than IPVS's own lose"
	fi
}

lost() { echo "${refused[$1]} refused and ${late[$1]} late in ${switches[$1]} switches"; }

# Two workarounds: drop the ICMP error, so that clients retransmit a second later; or mark new connections
# for a second service with the new scheduler, and switch the idle one.
measured_case_is switch_loses_nothing "a switch can be made to fail nothing"
switch_loses_nothing()
{
	service "-f 2" p2c 1 2 3 4
	nft -f - <<-END || fault "nft: no rule"
		table ip quiet {
			chain output {
				type filter hook output priority filter
				ip saddr ${quiet%:*} icmp type destination-unreachable drop
			}
		}
		add element ip services moved { ${moved%:*} }
	END
	under_switches quiet "$quiet" moved "$moved"
	nft delete element ip services moved "{ ${moved%:*} }"
	read_switched quiet
	none_failed quiet
	read_switched moved
	none_failed moved
	((late[moved] == 0)) || fault "${late[moved]} lost their first packet"
	outcome="without ICMP $(lost quiet), by a mark $(lost moved)"
	# New connections go to the service that was switched.
	start_load back "$moved" --rate 100 --seconds 1
	read_load back
	none_failed back
	look "$moved" 4
	((inactive + active > 0)) || fault "nobody came back to the service that was switched"
}

check_p2c "$@"
