#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests the shares that p2c gives to a new real server, to a light one, and to many equal ones, with TCP and
# UDP. Measures IPVS's own schedulers for comparison.
#
# MODULE: ip_vs_reuse.ko
#
# One case: make case TEST=p2c/shares.sh CASE=spread_is_even

# shellcheck source=selftests/lib/p2c.sh
. "$(dirname "$0")/../lib/p2c.sh"

##############################################################################
# Who gets how much

# Measurements by scheduler: of a rollout, pairs `NEW/ALL` a second; of a spread, the fullest.
declare -A rollout=() fullest=()

held=900
spread_connections=2000
spread_servers=32
seconds=5

# roll_out SCHEDULER ADDR:PORT: four servers hold connections, and get more. Then adds a
# fifth server. Runs in a subshell: writes its results to a file, and prints its faults.
roll_out()
{
	local line held_fd held_pid load load_pid n

	exec {held_fd}< <(exec "${as_client[@]}" burst --from "$(client_of "$2")" --ports 30000-65535 \
		--to "$2" --connections "$held" --hold 30s 2>&1)
	held_pid=$!
	read -r -t 30 line <&"$held_fd"
	read_report "$line"
	((connected == held)) || fault "$1: not all are held: $line"
	start_changes
	exec {load}< <(exec "${as_client[@]}" load --from "$(client_of "$2")" --ports 1024-29999 \
		--to "$2" --rate 150 --seconds $((seconds + 1)) --hold 30s --end client-rst 2>&1)
	load_pid=$!
	read -r -t 30 line <&"$load"
	change "-a -t $2 -r 10.2.1.2:5 -m"
	for ((n = 1; n <= seconds; n++)); do
		read -r -t 30 line <&"$load"
		read_report "$line"
		((connected > 0)) || fault "$1: the load did not go on: $line"
		printf '%d/%d ' "${got[5]:-0}" "$connected"
	done >"$tmp/rollout.$1"
	end_changes
	wait "$load_pid" || fault "$1: the load failed: $(cat <&"$load")"
	kill "$held_pid"
	((${#faults[@]} == 0)) || printf '%s\n' "${faults[@]}"
}

# stampedes SCHEDULER: succeeds if in any second the new server's share was significantly above 40 %
# or below 16 %.
stampedes()
{
	local second

	for second in ${rollout[$1]}; do
		at_most "${second%/*}" "${second#*/}" 40 && at_least "${second%/*}" "${second#*/}" 16 || return 0
	done
	return 1
}

percents()
{
	local second

	for second in $1; do
		printf '%4d %%' $((100 * ${second%/*} / ${second#*/}))
	done
}

# With equal weights the fifth is one of the two that are drawn in 4 of 10 cases: that is as
# much as it can get, and what it gets while it has less than the others.
measured_case_is new_server_is_not_stampeded "a new server gets its share at once and at most twice that"
new_server_is_not_stampeded()
{
	local scheduler n=30 pids=()

	# Two and two: more at once is more than a small machine can take.
	for scheduler in p2c wlc twos rr; do
		service "-t 10.9.0.$n:80" "$scheduler" 1 2 3 4
		roll_out "$scheduler" "10.9.0.$n:80" >"$tmp/rollout_faults.$scheduler" 2>&1 &
		pids+=($!)
		((++n % 2)) || wait "${pids[@]}"
	done
	echo "# A fifth server comes: its share of new connections, second by second (by weight: 20 %)"
	for scheduler in p2c wlc twos rr; do
		[ ! -s "$tmp/rollout_faults.$scheduler" ] || fault "$(cat "$tmp/rollout_faults.$scheduler")"
		rollout[$scheduler]=$(cat "$tmp/rollout.$scheduler")
		printf '#   %-4s %s\n' "$scheduler" "$(percents "${rollout[$scheduler]}")"
	done
	outcome=$(percents "${rollout[p2c]}" | tr -s ' ')
	! stampedes p2c || fault "less than 0.8 times or more than twice its weight's share"
}

measured_case_is wlc_stampedes "the same measure sees wlc's stampede"
wlc_stampedes()
{
	outcome=$(percents "${rollout[wlc]}" | tr -s ' ')
	stampedes wlc || fault "nothing was seen of it"
}

measured_case_is spread_is_even "held connections spread as evenly as two choices can"
spread_is_even()
{
	local scheduler n=0 most

	for scheduler in p2c wlc twos rr; do
		# shellcheck disable=SC2046 # a list
		service "-t 10.9.0.$((34 + n)):80" "$scheduler" $(seq "$spread_servers")
		burst "10.9.0.$((34 + n++)):80" "$spread_connections"
		all_connected "$spread_connections"
		fullest[$scheduler]=$(printf '%s\n' "${got[@]}" | sort -n | tail -n 1)
	done
	echo "# $spread_connections connections on $spread_servers servers: the fullest has"
	for scheduler in p2c wlc twos rr; do
		printf '#   %-4s %4d, %s of the mean\n' "$scheduler" "${fullest[$scheduler]}" \
			"$(ratio $((fullest[$scheduler] * spread_servers)) "$spread_connections")"
	done
	most=$("$harness" two-choices "$spread_connections" "$spread_servers")
	outcome="the fullest of $spread_servers has ${fullest[p2c]}, and may have $most"
	((fullest[p2c] <= most)) || fault "more than two choices explain"
}

# Twenty connections are held at a time. Most of the time the canary has none, and then gets every
# connection for which it is drawn.
canary_connections=3000
measured_case_is canary_gets_its_share "a canary of weight 1 beside 99 gets at most twice its share"
canary_gets_its_share()
{
	local scheduler n=41

	echo "# A canary of weight 1 beside a server of weight 99: of $canary_connections connections it gets (by weight: 1 %)"
	for scheduler in p2c wlc twos; do
		service "-t 10.9.0.$n:80" "$scheduler"
		server -a "-t 10.9.0.$n:80" 1 -w 99
		server -a "-t 10.9.0.$n:80" 2 -w 1
		read_report "$("${as_client[@]}" storm --from "$(client_of "10.9.0.$n:80")" --ports 30000-65535 \
			--to "10.9.0.$n:80" --concurrency 20 --seconds 120 --connections "$canary_connections" \
			--warm-up 0 --end client-rst 2>"$tmp/errors")"
		((failed == 0)) || fault "$scheduler: $failed failed"
		((connected >= canary_connections * 9 / 10)) || fault "$scheduler: only $connected connections"
		printf '#   %-4s %4d, %s %%\n' "$scheduler" "${got[2]:-0}" "$(ratio $((100 * ${got[2]:-0})) "$connected")"
		if [ "$scheduler" = p2c ]; then
			outcome="${got[2]:-0} of $connected"
			at_most "${got[2]:-0}" "$connected" 2 || fault "more than twice its share"
			((${got[2]:-0} > 0)) || fault "it gets nothing"
		fi
		n=$((n + 1))
	done
}

# IPVS counts no UDP flow as active. Each has a port of its own, and an entry that stays for minutes.
measured_case_is udp_spreads_evenly "UDP flows spread evenly: at most 1.1 times the mean"
udp_spreads_evenly()
{
	local scheduler n=0 most sum counts

	echo "# $spread_connections UDP flows on $spread_servers servers: the fullest has"
	for scheduler in p2c wlc twos rr; do
		# shellcheck disable=SC2046 # a list
		service "-u 10.9.0.$((26 + n)):53" "$scheduler" $(seq "$spread_servers")
		"$harness" datagrams --from 10.9.0.1:0 --to "10.9.0.$((26 + n)):53" \
			--from-ports "30000-$((30000 + spread_connections - 1))" >/dev/null 2>"$tmp/errors" ||
			fault "$(cat "$tmp/errors")"
		mapfile -t counts < <(ipvsadm -Ln -u "10.9.0.$((26 + n)):53" | awk '$2 ~ /^10[.]2/ { print $5 + $6 }')
		sum=$(IFS=+ && echo $((${counts[*]})))
		((sum == spread_connections)) || fault "$scheduler: $sum flows"
		most=$(printf '%s\n' "${counts[@]}" | sort -n | tail -n 1)
		printf '#   %-4s %4d, %s of the mean\n' "$scheduler" "$most" "$(ratio $((most * spread_servers)) "$sum")"
		if [ "$scheduler" = p2c ]; then
			outcome="the fullest of $spread_servers has $most of $sum"
			((10 * most * spread_servers <= 11 * sum)) || fault "more than 1.1 times the mean"
		fi
		n=$((n + 1))
	done
}

check_p2c "$@"
