#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Docker Swarm itself: a service of two tasks, reached from outside by its published port (the routing mesh),
# and from another service's task by its virtual address. IPVS is in namespaces that Docker makes, by firewall
# marks, masquerades, and has the settings that Docker gives it: conn_reuse_mode=0 among them. lib/swarm.sh has
# the nodes, and lib/cases.sh says how a case is judged.
#
# A case in which a task ends is a rolling update: Docker starts new tasks, gives the old ones weight 0, and
# takes them out of IPVS when they have ended.
#
# DOCKER: the directory with Docker
# NODES:  1, or 2: then all tasks are on the second node, and all traffic comes by way of the first
#
# One case: make test-swarm CASE=mesh_drained

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"
# shellcheck source=selftests/lib/swarm.sh
. "$(dirname "$0")/../lib/swarm.sh"

need_swarm
nodes=${NODES:-1}
published=10.0.0.1:30080
tasks=2

cleanup()
{
	stop_witness
	cleanup_network
	stop_swarm
	[ -z "$inserted" ] || rmmod ip_vs_reuse 2>/dev/null
	rm -rf --one-file-system "$tmp"
} 2>/dev/null

setup()
{
	setup_swarm "$nodes"
	if ((nodes == 2)); then
		where=(--constraint node.role==worker)
	else
		where=()
	fi
	create_service web "$tasks" --publish 30080:80 --update-parallelism 0 "${listens[@]}" "${where[@]}" -- sh -c "$serve"
	create_service peer 1 --endpoint-mode dnsrr --constraint node.role==manager -- sleep infinity
	hold_director mesh ingress_sbox
	hold_director vip 'lb_*'
	for at in mesh vip; do
		wait_for 600 steady "$at" "$tasks" || bail_out "the tasks do not come up: $(docker_log node1)"
	done
	wait_for 600 peer_is_up || bail_out "the client's task does not come up: $(docker_log node1)"
	address_of+=([peer]=$(of_peer .NetworkSettings.Networks.mesh.IPAddress))
	service=$(docker_on node1 service inspect web --format '{{range .Endpoint.VirtualIPs}}{{println .Addr}}{{end}}' |
		sed -n 's|^\(10\.20\.1\..*\)/.*|\1|p'):80
	start_console client nsenter --net="/run/netns/$client" --
	key=$(of_peer .NetworkSettings.SandboxKey)
	hold peer "${key##*/}"
	start_console peer nsenter --target "${holder[peer]}" --net --
}

containers_of() { docker_on "$1" ps --quiet --filter "label=com.docker.swarm.service.name=$2"; }
peer_is_up() { [ -n "$(containers_of node1 peer)" ]; }
of_peer() { docker_on node1 inspect "$(containers_of node1 peer)" --format "{{$1}}"; }

##############################################################################
# What a case is made of

# by WAY: the next connections are judged by what IPVS and the module say in that namespace: `mesh`, reached
# from outside, or `vip`, reached from the task of another service. Sets `to`, the service's address there.
by()
{
	at=$1
	proc_net=/proc/${holder[$1]}/net
	client_is=client to=$published
	[ "$1" = mesh ] || client_is=peer to=$service
	wait_for 600 steady "$at" "$tasks" || bail_out "the service does not come to rest: $(servers_in "$at")"
}

# set_mode MODE: for conn_reuse_mode.
set_mode() { in_held "$at" sh -c "echo $1 >/proc/sys/net/ipv4/vs/conn_reuse_mode"; }

# Begins a rolling update: all tasks are replaced.
begin_update()
{
	old=$(containers_of "node$nodes" web)
	docker_on node1 service update --detach --force web >/dev/null || bail_out "no update: $(docker_log node1)"
}

# The old tasks are killed, as at the end of their grace period.
end_old_tasks()
{
	# shellcheck disable=SC2086 # a list
	docker_on "node$nodes" kill $old >/dev/null
}

# update: a rolling update. Returns when the server of the first connection has weight 0.
update()
{
	server=$(server_of_entry)
	begin_update
	wait_for 600 weight_is 0 || fault "Docker does not drain $server: $(servers_in "$at")"
}

# finish_update: the old tasks have ended, and IPVS has forgotten them.
finish_update()
{
	end_old_tasks
	wait_for 600 steady "$at" "$tasks" || bail_out "the update does not end: $(servers_in "$at")"
}

# The real server of the last client port's entry.
server_of_entry()
{
	local from

	printf -v from %04X "$port"
	sed -nE "s/^TCP [0-9A-F]+ $from [0-9A-F]+ [0-9A-F]+ ([0-9A-F]+) .*/\1/p" "$proc_net/ip_vs_conn"
}

weight_is() { servers_in "$at" "$1" | grep -q "^$server "; }

# same_task WAY END STATE: with conn_reuse_mode=0 the task of the first connection gets the next one, too.
same_task()
{
	by "$1"
	reconnect "$to" "settled $3" --end "$2"
	first_packet kept
	stays
	replays
}

# rst_mode1: what conn_reuse_mode=1 would be like.
rst_mode1()
{
	by "$1"
	set_mode 1
	reconnect "$to" "settled CLOSE" --end server-rst
	set_mode 0
	first_packet lost
	goes_elsewhere
	replays tcp_closed
}

# drained: the task of the first connection is being drained when the client reuses its port.
drained()
{
	reconnect "$to" update --end hold
	first_packet lost
	goes_elsewhere
	replays tcp_drained
	finish_update
}

# load: a client makes 80 connections through 40 ports, in eight seconds. Adds to `opened`, `failed` and
# `first_lost`.
load()
{
	local said name

	said=$(in_ns "$client" "$harness" load --from 10.0.0.2 --ports 21000-21039 --to "$to" \
		--rate 10 --seconds 8 --connections 80 --hold 0s --end server-rst --timeout 5s 2>>"$tmp/errors")
	for name in opened failed first_lost; do
		[[ $said =~ \"$name\":([0-9]+) ]] || bail_out "no report: $said $(<"$tmp/errors")"
		printf -v "$name" %d $((${!name} + BASH_REMATCH[1]))
	done
}

# load_until COMMAND...: for ten minutes at most.
load_until()
{
	local since=$SECONDS

	load
	until "$@"; do
		((SECONDS - since < 600)) || bail_out "$*: $(servers_in "$at") $(docker_log node1)"
		load
	done
	load
}

# are_drained N: whether N tasks have weight 0.
are_drained() { (($(servers_in "$at" 0 | wc -l) == $1)); }

##############################################################################
# The cases

case_is settings_are "Docker sets conn_reuse_mode=0, conntrack=1 and expire_nodest_conn=1"
settings_are()
{
	local way seen

	for way in mesh vip; do
		seen=$(in_held "$way" sysctl -n \
			net.ipv4.vs.{conn_reuse_mode,conntrack,expire_nodest_conn,expire_quiescent_template} | xargs)
		[ "$seen" = "0 1 1 1" ] || fault "$way has $seen"
	done
}
case_is mesh_fin "published port, server's FIN: the same task again"
mesh_fin() { same_task mesh fin TIME_WAIT; }
case_is mesh_rst "published port, server's RST: the same task again"
mesh_rst() { same_task mesh server-rst CLOSE; }
case_is mesh_rst_mode1 "published port, server's RST, conn_reuse_mode=1"
mesh_rst_mode1() { rst_mode1 mesh; }
case_is mesh_drained "published port, task ends while open"
mesh_drained() { by mesh; drained; }
# Docker replaces all tasks, and then adds one. With conn_reuse_mode=0 that one gets nothing through these ports,
# with the module or without. It stays. With one node only: on a second one new tasks were seen to answer only
# after seconds.
((nodes > 1)) || case_is mesh_under_load "published port, an update and a scale-up under load"
mesh_under_load()
{
	local opened=0 failed=0 first_lost=0

	by mesh
	note_counters
	: >"$tmp/errors"
	load
	begin_update
	load_until are_drained "$tasks"
	end_old_tasks
	load_until steady "$at" "$tasks"
	tasks=$((tasks + 1))
	docker_on node1 service scale --detach "web=$tasks" >/dev/null || bail_out "no scale-up: $(docker_log node1)"
	load_until steady "$at" "$tasks"

	((failed == 0)) || fault "$failed of $opened connections failed: $(<"$tmp/errors")"
	if [ "$half" = stock ]; then
		((first_lost > 0)) || fault "the update should lose first packets"
	else
		((first_lost == 0)) || fault "$first_lost first packets lost"
		count_replays
		[[ $replayed = *replayed_tcp_drained* ]] || fault "the module has replayed: $replayed"
	fi
	found "$first_lost of $opened lost"
}
case_is vip_fin "virtual address, server's FIN: the same task again"
vip_fin() { same_task vip fin TIME_WAIT; }
case_is vip_rst "virtual address, server's RST: the same task again"
vip_rst() { same_task vip server-rst CLOSE; }
case_is vip_rst_mode1 "virtual address, server's RST, conn_reuse_mode=1"
vip_rst_mode1() { rst_mode1 vip; }
case_is vip_drained "virtual address, task ends while open"
vip_drained() { by vip; drained; }

##############################################################################

run_both_halves "$@"
