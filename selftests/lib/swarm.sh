# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # tmp, client and so on are lib.sh's
#
# Docker Swarm: one node or two, each with a Docker of its own, and services whose tasks are `harness serve`.
# Sourced after lib.sh, not run. The first node is the director's namespace, and the manager:
#
#           client 10.0.0.2
#              |
#           node1 10.0.0.1 ------- node2 10.0.1.2 (a worker)
#              |  10.0.1.1
#              |
#           the namespaces that Docker makes, each with an IPVS: ingress_sbox for published ports, and
#           lb_<network> for the virtual addresses that services have in an overlay network
#
# Docker's addresses: the network `ingress` is 10.20.0.0/24, `mesh` is 10.20.1.0/24. A task is called by
# its address in `ingress`.
#
# DOCKER: the directory with Docker (scripts/build/docker.sh)

declare -A node_pid=() node_directory=()
declare -A holder=()	# of a namespace that Docker made: a process in it

need_swarm()
{
	[ -x "${DOCKER:-}/usr/sbin/dockerd" ] || skip_all "DOCKER is not set: 'make test-swarm' fetches it"
	PATH=$DOCKER/usr/sbin:$DOCKER/usr/bin:$PATH
	need_tools busybox curl iptables ldd strip tar unshare
	need_modules br_netfilter bridge nft_compat veth vxlan xt_MASQUERADE xt_REDIRECT xt_addrtype xt_conntrack \
		xt_ipvs xt_mark xt_nat
}

##############################################################################
# Nodes

# docker_on NODE ARGUMENTS...
docker_on() { docker --host "unix://${node_directory[$1]}/socket" "${@:2}"; }

# start_docker NODE [COMMAND...]: Docker, here or where COMMAND takes it. It has namespaces for processes, mounts
# and the host's name, so that all that it makes ends with it. It would give up a containerd of its own that took
# more than 15 s, as it does under emulation on a busy machine: that is started first.
start_docker()
{
	node_directory[$1]=$tmp/$1
	mkdir "$tmp/$1"
	# There is no registry to ask for the image.
	# shellcheck disable=SC2016 # for the shell inside
	DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1 \
		"${@:2}" unshare --mount --pid --uts --fork --kill-child --mount-proc docker-init -- bash -c '
		hostname "$1"
		cd "$0/$1"
		containerd --root "$PWD/containerd" --state "$PWD/state" --address "$PWD/containerd.socket" \
			--config <(echo "version = 2
				disabled_plugins = [\"io.containerd.grpc.v1.cri\"]") &
		until [ -S containerd.socket ]; do
			sleep 0.2
		done
		exec dockerd --host "unix://$PWD/socket" --containerd "$PWD/containerd.socket" \
			--data-root "$PWD/data" --exec-root "$PWD/run" --pidfile "$PWD/pid" --storage-driver vfs \
			--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$1"' \
		"$tmp" "$1" >"$tmp/$1/log" 2>&1 </dev/null &
	node_pid[$1]=$!
}

# docker_is_up NODE: under emulation it takes a minute, and several on a busy machine.
docker_is_up()
{
	kill -0 "${node_pid[$1]}" || bail_out "Docker has ended on $1: $(tail -n 5 "${node_directory[$1]}/log")"
	curl --silent --output /dev/null --unix-socket "${node_directory[$1]}/socket" http://docker/_ping
}

# docker_log NODE: the end of what Docker has complained of.
docker_log() { grep -E 'level=(warning|error|fatal)' "${node_directory[$1]}/log" | tail -n 8 | cut -c 1-300; }

# setup_swarm N: N nodes, the image of the tasks, and the network `mesh`.
setup_swarm()
{
	local node token all=(node1) address=10.0.0.1

	setup_network 0
	start_docker node1
	if (($1 == 2)); then
		all+=(node2) address=10.0.1.1
		node2=node2-$$-$RANDOM
		more_namespaces+=("$node2")
		ip -batch - <<-END || bail_out "cannot link the second node"
			netns add $node2
			link add node2 type veth peer name node1 netns $node2
			address add 10.0.1.1/24 dev node2
			link set node2 up
		END
		configure "$node2" <<-END
			link set lo up
			address add 10.0.1.2/24 dev node1
			link set node1 up
			route add default via 10.0.1.1
		END
		start_docker node2 nsenter --net="/run/netns/$node2" --
	fi
	echo "# Docker starts on ${all[*]}"
	for node in "${all[@]}"; do
		wait_for 900 docker_is_up "$node" || bail_out "Docker does not come up on $node: $(docker_log "$node")"
	done
	echo "# Docker $(docker_on node1 version --format '{{.Server.Version}}') is up on ${all[*]}"
	docker_on node1 swarm init --advertise-addr $address --default-addr-pool 10.20.0.0/16 \
		--default-addr-pool-mask-length 24 --task-history-limit 1 >/dev/null || bail_out "no swarm: $(docker_log node1)"
	if (($1 == 2)); then
		token=$(docker_on node1 swarm join-token --quiet worker)
		docker_on node2 swarm join --token "$token" --advertise-addr 10.0.1.2 10.0.1.1:2377 >/dev/null ||
			bail_out "node2 cannot join the swarm: $(docker_log node2)"
	fi
	make_image
	for node in "${all[@]}"; do
		tar -C "$tmp/image" -c . | docker_on "$node" import - task >/dev/null || bail_out "$node does not take the image"
	done
	docker_on node1 network create --driver overlay mesh >/dev/null || bail_out "no network: $(docker_log node1)"
}

stop_swarm()
{
	# Their parents are killed, and they with them.
	[ -z "${node_pid[*]}" ] || kill -KILL "${node_pid[@]}"
	wait "${node_pid[@]}"
} 2>/dev/null

# A shell, and the harness with its libraries.
make_image()
{
	local applet

	mkdir -p "$tmp/image/bin"
	cp "$(command -v busybox)" "$tmp/image/bin/"
	for applet in grep head ip sh sleep; do
		ln -s busybox "$tmp/image/bin/$applet"
	done
	strip --output-file "$tmp/image/bin/harness" "$harness"
	# shellcheck disable=SC2046 # a list
	cp --dereference --parents $(ldd "$harness" | grep -o '/[^ ]*') "$tmp/image/"
}

##############################################################################
# Services

# A task does not end by SIGTERM: it serves until its grace period is over.
grace=90

# shellcheck disable=SC2016,SC2034 # for the shell in the container; for the scripts
serve='exec harness serve --listen 0.0.0.0:80 --name "$(ip -o -4 address | grep -o "10[.]20[.]0[.][0-9]*" | head -n 1)"'

# Without a health check Docker gives a task connections before it listens, and they are refused.
# shellcheck disable=SC2034 # for the scripts
listens=(--health-cmd "grep -q ' 00000000:0050 00000000:0000 0A ' /proc/net/tcp" --health-timeout 60s
	--health-start-period 300s --health-start-interval 2s --health-interval 600s)

# create_service NAME N OPTIONS... -- COMMAND...
create_service()
{
	local options=()

	while [ "$3" != -- ]; do
		options+=("$3")
		set -- "$1" "$2" "${@:4}"
	done
	docker_on node1 service create --detach --no-resolve-image --name "$1" --replicas "$2" --network mesh \
		--stop-grace-period "${grace}s" --update-order start-first "${options[@]}" task "${@:4}" >/dev/null ||
		bail_out "no service $1: $(docker_log node1)"
}

# hold NAME PATTERN: makes a namespace that Docker makes on the first node known as NAME, with a process in it.
hold()
{
	local directory=/proc/${node_pid[node1]}/root${node_directory[node1]}/run/netns

	wait_for 600 one_of "$directory/$2" || bail_out "Docker makes no namespace $2: $(docker_log node1)"
	nsenter --net="$found_namespace" sleep infinity &
	holder[$1]=$!
	harness_pids+=($!)
	wait_for 60 is_in "$!" "$found_namespace" || bail_out "no process gets into $found_namespace"
}

# is_in PID NAMESPACE: whether the process has entered it. Until then it is in the one of its parent.
is_in() { [ "/proc/$1/ns/net" -ef "$2" ]; }

# one_of PATTERN: sets `found_namespace`, if there is one. Docker makes an empty file first.
one_of() { found_namespace=$(compgen -G "$1") && [ "$(stat --file-system --format %T "$found_namespace")" = nsfs ]; }

# hold_director NAME PATTERN: likewise, one that IPVS is in. Where Docker has the machine's own network namespace,
# those that it makes forward packets as that one does.
hold_director()
{
	hold "$@"
	in_held "$1" bash -c "$(declare -f sysctl_set keep_table_small); sysctl_set ipv4/ip_forward 1; keep_table_small"
}

# in_held NAME COMMAND...
in_held() { nsenter --target "${holder[$1]}" --net -- "${@:2}"; }

# servers_in NAME [WEIGHT]: the real servers that IPVS has there, with that weight, as in /proc/net/ip_vs:
# `0A140004 1` is 10.20.0.4 with weight 1.
servers_in()
{
	sed -nE "s/^ +-> ([0-9A-F]{8}):[0-9A-F]+ +Masq +(${2:-[0-9]+}) .*/\1 \2/p" "/proc/${holder[$1]}/net/ip_vs"
}

# steady NAME N: whether IPVS has N real servers there, and each with weight 1.
steady()
{
	local all

	mapfile -t all < <(servers_in "$1")
	((${#all[@]} == $2)) && [ -z "$(servers_in "$1" 0)" ]
}
