# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # variables are lib/cases.sh's, or the script's
#
# What bound.sh and queued.sh share: services, clients, and what must hold after each case. Sourced, not
# run, in place of lib/cases.sh. A script has cases and `setup`, and ends with `run_with_module "$@"`.
#
# The services are 10.9.0.1:80 and fd00:9::1:80, for TCP, UDP and SCTP, NAT.

# shellcheck source=selftests/lib/cases.sh
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"
# shellcheck source=selftests/lib/leftovers.sh
. "$(dirname "${BASH_SOURCE[0]}")/leftovers.sh"

need_module
[ "$sctp" = yes ] || skip_all "needs the kernel module sctp"

nat=10.9.0.1
nat6=fd00:9::1
protos=(-t -u --sctp-service)

# begin_bound: the director with the services.
begin_bound()
{
	local proto

	note_log
	note_conntracks
	begin_director 2
	for proto in "${protos[@]}"; do
		service "$proto" $nat:80 -m 80
		service "$proto" "[$nat6]:80" -m 80
	done
	make_services
	start_traffic --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp --proto udp
	inserted=yes
}

# beside COMMAND...: runs it in the background, until `end_besides`.
besides=()
beside() { "$@" >/dev/null 2>&1 & besides+=($!) harness_pids+=($!); }
end_besides()
{
	kill "${besides[@]}"
	wait "${besides[@]}"
	besides=()
} 2>/dev/null

# storm NAME FROM TO COMMAND...: connections that the server resets, from few ports; COMMAND takes
# the harness to the client. Its report is in $tmp/NAME.
storm()
{
	"${@:4}" "$harness" storm --from "$2" --to "$3" --ports 40000-40029 --concurrency 4 \
		--seconds "$seconds" --warm-up 1 --timeout 5s --end server-rst >"$tmp/$1" &
	storms+=("$!:$1")
	harness_pids+=($!)
}

# Waits for the storms, and sets `connected_in_storms`.
wait_for_storms()
{
	local storm

	connected_in_storms=0
	for storm in "${storms[@]}"; do
		busywait $((1000 * (seconds + 60) * slow)) has_ended "${storm%:*}" || fault "${storm#*:} does not end"
		[[ $(<"$tmp/${storm#*:}") =~ \"connections\":([0-9]+) ]] || fault "${storm#*:} has no report"
		connected_in_storms=$((connected_in_storms + ${BASH_REMATCH[1]:-0}))
	done
	storms=()
}
has_ended() { [ ! -e "/proc/$1" ] || { sleep 0.2; false; }; }

# open_flows N: so many from `console`, which end, and are opened anew when it is given a line.
open_flows()
{
	local flows=() n

	settings 1 0
	for ((n = 0; n < $1; n++)); do
		flows+=("$n ${address_of[$console]}:$((port += 1)) $nat:80 server-rst")
	done
	ask "flows --timeout 30s"$'\n'"$(printf '%s\n' "${flows[@]}")"$'\n'
	[[ $line = *'"ended"'* ]] || fault "no first connections: $line"
	busywait 5000 entry_is CLOSE || fault "the entry did not become CLOSE"
}

# flows_connect N: whether all have connected. All are read, or a later answer would be mistaken.
flows_connect()
{
	local n said failed=

	for ((n = 0; n < $1; n++)); do
		read -r -t 60 said <&"${console_out[$console]}" || said="nothing within 60 s" n=$1
		[[ $said = *'"connected":true'* ]] || failed+=" $said"
	done
	line=$failed
	[ -z "$failed" ]
}

# The end of each case. Its outcome is what the module has counted in it.
all_is_well()
{
	local console to counted_before

	counters_add_up
	count_since '*'
	counted_before=$counted
	settings 1 0
	for console in client director; do
		for _ in 1 2; do
			ask "burst --from ${address_of[$console]} --to $nat:80 --ports 36000-36039 --connections 20 --end server-rst"
			[[ $line = *'"failed":0,'* ]] || fault "from the $console: $line"
		done
		for to in $nat:80 "[$nat6]:80"; do
			client_is=$console reconnect "$to" "settled CLOSE" --end server-rst
			first_packet lost
			replays tcp_closed
		done
	done
	outcome=$counted_before
}

unloads() { remove_module; }

# run_with_module [CASE...]: all cases with the module, or these, and what must hold behind them.
run_with_module()
{
	choose_cases "$@"
	module_cases=$cases cases=
	module_case_is nothing_is_left "no conntrack and no entry is left behind"
	module_case_is log_is_clean "the kernel has nothing to complain about"
	module_case_is unloads "it can be unloaded"
	check_halves
}
