# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154,SC2034 # variables are lib.sh's, or the script's
#
# An nfqueue and its owner (nfqueue.py), who accepts each packet at once, or when told to. Sourced after
# lib.sh, not run.

# Nor does the script die of an owner that has died.
trap '' PIPE

queue_owner=
queue_in=
queue_out=

# start_queue [COMMAND...]: an owner for queue 7 here, or in the network namespace where COMMAND takes it.
start_queue()
{
	local in out line

	mkfifo "$tmp/queue"
	exec {out}< <(exec "$@" "$here/lib/nfqueue.py" 7 <"$tmp/queue")
	queue_owner=$!
	harness_pids+=($!)
	exec {in}>"$tmp/queue"
	rm "$tmp/queue"
	queue_in=$in queue_out=$out
	read -r -t 60 line <&"$out" || line=nothing
	[ "$line" = READY ] || fault "the queue's owner says $line"
}

# It may be dead already.
end_queue() { exec {queue_in}>&- {queue_out}<&-; }

# tell_queue hold|accept: packets that come from here on; `accept` also those that wait.
tell_queue()
{
	local line

	echo "$1" >&"$queue_in"
	read -r -t 30 line <&"$queue_out" || fault "the queue's owner does not answer"
}

# look_at_queue: sets `waiting`, the number of packets that wait, and `queued`, of all that have come.
look_at_queue()
{
	local number

	waiting=0 queued=0
	while read -r number _ waiting _ _ _ _ queued _; do
		[ "$number" != 7 ] || return
	done <"/proc/$queue_owner/net/netfilter/nfnetlink_queue"
} 2>/dev/null

# in_queue N: whether so many packets wait, or more.
in_queue() { look_at_queue; ((waiting >= $1)); }
