#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The module under traffic: its counters and tracepoints; it is loaded and unloaded before and between the two
# connections of a client that reuses its port; and a namespace is deleted while it has flows.
#
# The network is in lib.sh, and lib/cases.sh says how a case is judged. The service, NAT:
#
#   nat   10.9.0.1   TCP
#
# One case: make case TEST=reuse/lifecycle.sh CASE=rmmod_restores_stock

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules ip_vs_wlc

nat=10.9.0.1:80

##############################################################################
# The director

setup()
{
	begin_director 2
	service -t $nat -m 80
	make_services
	start_traffic --proto tcp --listen 0.0.0.0:80
}

##############################################################################
# The cases

server_rst() { after_rst "$nat"; goes_elsewhere; }

module_case_is counters_are_readable "/proc/net/ip_vs_reuse has a name and a value a line"
counters_are_readable()
{
	local lines wrong

	mapfile -t lines </proc/net/ip_vs_reuse
	wrong=$(printf '%s\n' "${lines[@]}" | grep -vE '^[a-z0-9_]+ [0-9]+$')
	[ -z "$wrong" ] || fault "not a name and a value: $wrong"
	[[ ${lines[*]} = *replayed_* ]] || fault "replayed are not counted"
}

module_case_is tracepoints_tell "the tracepoint of a replay names the flow, its old server and the reason"
tracepoints_tell()
{
	local events=/sys/kernel/tracing/events/ip_vs_reuse/enable trace=/sys/kernel/tracing/trace said

	echo 1 >"$events" || fault "no tracepoints"
	echo >"$trace"
	server_rst
	echo 0 >"$events"
	said="ip_vs_reuse_replay: protocol=6 client=10.0.0.2:$port virtual=$nat"
	said+=" server=10.2.${first#rs}.2:80 state=6 reason=replayed_tcp_closed"
	grep -qF "$said" "$trace" || fault "expected $said" "$(grep reuse_ "$trace")"
}

# The director of the other cases is older than the module.
module_case_is later_namespaces_are_covered "a namespace made after insmod is covered"
later_namespaces_are_covered()
{
	local said

	said=$(IS_DIRECTOR='' RESULTS='' MODULE_IS_IN=yes HARNESS=$harness "$here/reuse/basics.sh" server_rst 2>&1) || fault "$said"
}

module_case_is rmmod_restores_stock "rmmod brings back what was before"
rmmod_restores_stock()
{
	remove_module
	half=$plain server_rst
}

module_case_is insmod_again "insmod again mends it again"
insmod_again()
{
	[ ! -e /sys/module/ip_vs_reuse ] || remove_module
	insert
	server_rst
}

# Flows that are still open: what the server's RST leaves behind lasts 10 s, which loading the module can take on
# a slow machine. The counters start at 0 with each insmod.
module_case_is loaded_between "still open, insmod, drained, then the port is reused"
loaded_between()
{
	remove_module
	half=$plain open_when insert
	replayed_since_insmod
}

module_case_is unloaded_between "still open, rmmod, drained, then the port is reused"
unloaded_between()
{
	open_when remove_module
	half=$plain first_packet lost
	goes_elsewhere
	insert
}

module_case_is reloaded_between "still open, rmmod, insmod, drained, then the port is reused"
reloaded_between()
{
	open_when reload
	replayed_since_insmod
}

reload()
{
	remove_module
	insert
}

# open_when COMMAND: two connections from one port. COMMAND runs while the first one is open; then its server is
# drained.
open_when()
{
	settings 1 1
	reconnect "$nat" "drained_after $1" --end hold
	undrain -t "$nat"
}

drained_after()
{
	"$1"
	drain -t "$nat"
}

replayed_since_insmod()
{
	mapfile -t counters < <(sed 's/ .*/ 0/' /proc/net/ip_vs_reuse)
	first_packet lost
	goes_elsewhere
	replays tcp_drained
}

# No reference to a conntrack may be left, the killed one included, or the namespace's cleanup would
# wait for ever. Cleanups run one after another, so the second namespace can only go after the first.
# The refcount of the scheduler's module tells when the services are gone.
module_case_is namespace_goes "a namespace with entries is deleted and leaves nothing behind"
namespace_goes()
{
	local uses said

	uses=$(</sys/module/ip_vs_wlc/refcnt)
	for _ in 1 2; do
		said=$(unshare --net -- bash -c "
			$(declare -f small_director no_conntracks has_hooks busywait); small_director $harness" 2>&1)
		[[ $said = *"replayed_tcp_closed 1"* ]] || fault "nothing was replayed there: $said"
		[[ $said = *"no conntracks"* ]] || fault "there are conntracks left: $said"
	done
	busywait 20000 wlc_has_uses "$uses" || fault "the namespaces are not cleaned up"
}

wlc_has_uses() { [ "$(</sys/module/ip_vs_wlc/refcnt)" = "$1" ]; }

# small_director HARNESS: client, director and real server in one namespace.
small_director()
{
	local server line

	ip -batch - <<-END
		link set lo up
		address add 10.8.0.1 dev lo
		address add 10.8.0.2 dev lo
		address add 10.9.0.1 dev lo
	END
	echo 1 >/proc/sys/net/ipv4/vs/conntrack
	nft -f - <<-END
		table ip filter {
			chain output {
				type filter hook output priority filter
				ct state established accept
			}
		}
	END
	ipvsadm -R <<-END
		-A -t 10.9.0.1:80 -s wlc
		-a -t 10.9.0.1:80 -r 10.8.0.1:80 -m
	END
	busywait 5000 has_hooks
	exec {server}< <(exec "$1" serve --name rs1 --listen 10.8.0.1:80)
	read -r line <&"$server"
	"$1" reconnect --from 10.8.0.2:20000 --to 10.9.0.1:80 --end server-rst
	cat /proc/net/ip_vs_reuse
	kill $!
	conntrack -F
	busywait 10000 no_conntracks && echo "no conntracks"
}

no_conntracks() { [ "$(</proc/sys/net/netfilter/nf_conntrack_count)" = 0 ]; }

# The load reuses its few ports, so that the module is at work until it goes. After that
# first packets are lost again, and connections slow, but none may fail.
module_case_is rmmod_under_load "rmmod under load fails no connection"
rmmod_under_load()
{
	local load pid line summary=''

	settings 1 0
	note_counters
	exec {load}< <(exec nsenter --net="/run/netns/$client" -- "$harness" load --from 10.0.0.2 \
		--to "$nat" --ports 30000-$((29999 + 150 / slow)) --rate $((50 / slow)) --seconds 6 \
		--hold 0s --end server-rst 2>"$tmp/load")
	pid=$!
	# A line a second: after four the ports are in their second round.
	for _ in {1..4}; do
		read -r -t 10 line <&"$load" || fault "the load did not go on"
	done
	count_replays
	[ -n "$replayed" ] || fault "the load replays nothing"
	remove_module
	while read -r -t 30 line <&"$load"; do
		summary=$line
	done
	exec {load}<&-
	wait "$pid" || fault "the load: $(cat "$tmp/load")" "$summary"
}

##############################################################################

run_both_halves "$@"
