# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # what is set by lib/cases.sh
#
# Checks that must pass whatever a script has done to the director: the module's counters are consistent,
# nothing is left behind, and the kernel has logged no warning. Sourced after lib/cases.sh, not run.
#
# The script's `setup` calls note_log, and note_conntracks before the first packet.

# What the kernel may say.
expected_in_log='nf_conntrack: .*table full|net_ratelimit'

log_is_clean()
{
	local said

	said=$(new_complaints | grep -vE "$expected_in_log")
	[ -z "$said" ] || fault "$said"
	[ -n "$said" ] || found "clean"
}

# Whether the counters agree in the end: they are not read at one moment.
counters_add_up()
{
	[ "$half" = stock ] || busywait 5000 sums_agree ||
		fault "${value[matched]} packets matched, and $sum are accounted for"
}
sums_agree()
{
	local name count

	sum=0
	while read -r name count; do
		value[$name]=$count
		[[ $name != @(replayed|left|dropped)_* ]] || sum=$((sum + count))
	done </proc/net/ip_vs_reuse
	((value[matched] == sum))
}
declare -A value=()

# has_counted PATTERN...: whether since note_counters each has grown.
has_counted()
{
	local pattern

	for pattern in "$@"; do
		count_since "$pattern"
		[ -n "$counted" ] || fault "not seen: $pattern"
	done
}

# All conntracks that there are, whatever their namespace or state: those at rest in the
# allocator's caches do not count. Nothing where the kernel does not tell.
conntrack_objects()
{
	local name objects

	{ echo 1 >/sys/kernel/slab/nf_conntrack/shrink; } 2>/dev/null || return
	while read -r name objects _; do
		[ "$name" != nf_conntrack ] || echo "$objects"
	done </proc/slabinfo
}

# With its server gone an entry goes too, if nobody holds on to it.
nothing_is_left()
{
	settings 1 1
	ipvsadm -C
	busywait 10000 no_entry_is_left || fault "entries stay: $(tail -n +2 /proc/net/ip_vs_conn | head)"
	busywait 10000 no_conntrack_is_left || fault "conntracks stay: $(conntrack -L 2>&1 | head)"
	busywait 10000 objects_are_back ||
		fault "conntracks allocated: $conntracks_at_start at the start, now $(conntrack_objects)"
	((${#faults[@]})) || found "nothing"
	make_services
}
no_entry_is_left() { (($(wc -l </proc/self/net/ip_vs_conn) == 1)); }
no_conntrack_is_left()
{
	conntrack -F 2>/dev/null
	(($(</proc/sys/net/netfilter/nf_conntrack_count) == 0))
}

# The namespaces of an earlier script may still be going, and their conntracks with them.
note_conntracks() { wait_for 20 conntracks_rest || bail_out "conntracks come and go before the first packet"; }
conntracks_rest()
{
	conntracks_at_start=$(conntrack_objects)
	sleep 1
	objects_are_back
}
objects_are_back() { [ "$(conntrack_objects)" = "$conntracks_at_start" ]; }
