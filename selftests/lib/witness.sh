# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # tmp is lib.sh's
#
# ipvs-watch as the tests' witness: it sees in the kernel what clients can only infer, each packet
# that IPVS drops instead of opening a flow. Sourced after lib.sh, not run.
#
# WATCH: the program. Without it there is no witness, `have_witness` says so, and the tests go on
# with what clients and counters tell.

witness_pid=
witness_out=

# What the witness has seen, a JSON object each.
witness=()

have_witness() { [ -n "$witness_pid" ]; }

# Returns when it sees everything that happens in this network namespace.
start_witness()
{
	local line

	if [ -z "${WATCH:-}" ]; then
		echo "# no witness: WATCH is not set"
		return
	fi
	exec {witness_out}< <(exec "$WATCH" --json 2>"$tmp/witness")
	witness_pid=$!
	read -r -t 60 line <&"$witness_out" || line=nothing
	[[ $line = *'"event":"ready"'* ]] || bail_out "the witness said: $line $(<"$tmp/witness")"
}

# Sets `witness` to what it has seen since the last call. A summary, which it gives when asked by
# a signal, comes behind everything that happened before.
witnessed()
{
	local line

	witness=()
	have_witness || return 0
	kill -USR1 "$witness_pid" || bail_out "the witness is gone: $(<"$tmp/witness")"
	while read -r -t 20 line <&"$witness_out"; do
		[[ $line != *'"event":"summary"'* ]] || return 0
		witness+=("$line")
	done
	bail_out "the witness gives no summary: $(<"$tmp/witness")"
}

# For the script's cleanup. As long as it runs it holds the module.
stop_witness()
{
	have_witness || return 0
	kill "$witness_pid"
	exec {witness_out}<&-
	wait "$witness_pid"
	witness_pid=
} 2>/dev/null
