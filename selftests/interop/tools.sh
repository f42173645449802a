#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tools that people run with IPVS, with typical configurations. keepalived and ldirectord drain a real
# server whose health check fails, and restore it, under traffic that reuses its ports. nginx closes or
# resets connections, and curl, ab and wrk reuse their ports. On the stock kernel first packets are
# lost; with the module none is, and no connection fails. Also checks what keepalived, which does not
# know p2c, does with services that use it, and that ipvsadm saves and restores them.
#
# lib.sh has the network. A real server has harness serve on port 80, and nginx on port 81, which also
# answers the health checks: a failing check breaks no connection.
#
#   10.9.0.1:80   harness serve
#   10.9.0.2:80   nginx
#
# MODULE: ip_vs_reuse.ko; without it only the first half runs
#
# One case: make case TEST=interop/tools.sh CASE=keepalived_drains

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

vip=10.9.0.1
web=10.9.0.2
ldirectord=ldirectord

# Running processes.
tool_pid=
nginx_pids=()

cleanup()
{
	[ -z "$tool_pid" ] || kill "$tool_pid"
	[ -z "${nginx_pids[*]}" ] || kill "${nginx_pids[@]}"
	cleanup_director
} 2>/dev/null

half=stock
need_stock
become_director "$@"
need_tools ab curl ip ipvsadm ipvsadm-restore ipvsadm-save keepalived ldirectord nft nginx nsenter patch ss sysctl wrk
need_modules ip_vs ip_vs_rr ip_vs_wlc nf_conntrack nft_ct veth
need_harness

##############################################################################
# The director, its real servers, and their health

setup()
{
	local n

	begin_director 2
	sysctl_set ipv4/vs/expire_nodest_conn 1
	# Few ports, and no TIME_WAIT.
	in_ns "$client" sysctl -q -w net.ipv4.ip_local_port_range="30000 30019" net.ipv4.tcp_max_tw_buckets=0
	start_servers --listen 0.0.0.0:80
	count_syns "$client" output "ip daddr $web"
	for n in "${!servers[@]}"; do
		start_nginx "$n"
		count_syns "${servers[n]}" input "ip saddr 10.0.0.2 tcp dport 81"
	done
}

# count_syns NAMESPACE HOOK MATCH
count_syns()
{
	in_ns "$1" nft -f - <<-END || bail_out "cannot count the SYNs in $1"
		table inet seen {
			counter syns { }
			chain syns {
				type filter hook $2 priority filter
				$3 tcp flags & (syn | ack) == syn counter name syns
			}
		}
	END
}

# start_nginx N: in rs<N>. It sends a RST where it closes with unread data, and for 444.
start_nginx()
{
	local dir=$tmp/rs$1

	mkdir "$dir"
	cat >"$dir/nginx.conf" <<-END
		daemon off;
		user root;
		pid nginx.pid;
		error_log stderr;
		events { }
		http {
			access_log off;
			keepalive_timeout 0;
			lingering_close off;
			reset_timedout_connection on;
			server {
				listen 81;
				root $dir;
				location = /fin { return 200 "rs$1"; }
				location = /rst { return 444; }
			}
		}
	END
	get_well "$1"
	nsenter --net="/run/netns/${servers[$1]}" -- nginx -p "$dir" -c nginx.conf -e stderr 2>"$dir/errors" &
	nginx_pids+=($!)
	busywait 30000 nginx_answers "$1" || bail_out "nginx in rs$1: $(<"$dir/errors")"
}

nginx_answers() { (: <"/dev/tcp/10.2.$1.2/81") 2>/dev/null; }

# The health check of rs<N> succeeds, or fails.
get_well() { echo well >"$tmp/rs$1/health"; }
fall_ill() { rm "$tmp/rs$1/health"; }

# weight_is N WEIGHT: of rs<N> in the service.
weight_is() { [[ $(ipvsadm -Sn) = *"-a -t $vip:80 -r 10.2.$1.2:80 -m -w $2"* ]]; }

both_serve() { weight_is 1 1 && weight_is 2 1; }
scheduler_is() { [[ $(ipvsadm -Sn) = *"-A -t $vip:80 -s $1"* ]]; }

##############################################################################
# keepalived and ldirectord

# run TOOL [SCHEDULER]: in the foreground, as a service manager runs it. ldirectord takes long to start.
run()
{
	run_"$1" "${2:-rr}" >"$tmp/$1.log" 2>&1
	tool_pid=$!
	busywait 120000 both_serve || fault "$1 makes no service:" "$(tail -n 20 "$tmp/$1.log")"
}

stop()
{
	kill "$tool_pid"
	wait "$tool_pid" 2>/dev/null
	tool_pid=
	ipvsadm -C
}

run_keepalived()
{
	local n

	{
		cat <<-END
			global_defs {
				script_user root
				enable_script_security
			}
			virtual_server $vip 80 {
				protocol TCP
				lb_kind NAT
				lb_algo $1
				delay_loop 1
		END
		for n in "${!servers[@]}"; do
			cat <<-END
				real_server 10.2.$n.2 80 {
					inhibit_on_failure
					HTTP_GET {
						connect_port 81
						connect_timeout 2
						retry 1
						delay_before_retry 0.5
						url {
							path /health
							status_code 200
						}
					}
				}
			END
		done
		echo "}"
	} >"$tmp/keepalived.conf"
	keepalived --dont-fork --log-console --log-detail --check --use-file "$tmp/keepalived.conf" \
		--pid "$tmp/keepalived.pid" --checkers_pid "$tmp/checkers.pid" &
}

run_ldirectord()
{
	cat >"$tmp/ldirectord.cf" <<-END
		checktimeout=2
		checkinterval=1
		quiescent=yes
		logfile="$tmp/ldirectord.messages"
		virtual=$vip:80
		        real=10.2.1.2:80 masq
		        real=10.2.2.2:80 masq
		        service=http
		        scheduler=$1
		        protocol=tcp
		        checktype=negotiate
		        checkport=81
		        request="health"
		        receive="well"
	END
	"$ldirectord" -d "$tmp/ldirectord.cf" start &
}

case_is keepalived_drains "keepalived drains a real server under a storm and restores it"
keepalived_drains()
{
	run keepalived
	drains keepalived
	stop
}

module_case_is ldirectord_drains "ldirectord does the same, and leaves p2c to a service that has it"
ldirectord_drains()
{
	run ldirectord
	drains ldirectord
	keeps_p2c ldirectord
	stop
}

# drains TOOL: while clients reuse ports after the server's RST and after their own.
drains()
{
	local storms=() drained well back

	start_storm server-rst 20000
	start_storm client-rst 21000
	sleep 1
	fall_ill 1
	busywait 20000 weight_is 1 0 || fault "rs1 is not drained:" "$(tail -n 20 "$tmp/$1.log")"
	drained=$(now_ms)
	sleep 1.2
	well=$(now_ms)
	get_well 1
	busywait 20000 both_serve || fault "rs1 is not restored:" "$(tail -n 20 "$tmp/$1.log")"
	back=$(now_ms)
	busywait 10000 rs1_greets "$back" $((back + 10000)) || fault "rs1 is restored and gets no connections"
	touch "$tmp/enough"
	wait "${storms[@]}"
	rm "$tmp/enough"
	# Connections that were being made are established after half a second.
	! rs1_greets $((drained + 500)) "$well" || fault "rs1 is drained and gets connections"
	none_lost server-rst
	none_lost client-rst
}

# rs1_greets FROM TO: whether rs1 has accepted a connection between these times.
rs1_greets()
{
	grep -h '"rs1":[1-9]' "$tmp"/{server,client}-rst | awk -F '[:,]' -v from="$1" -v to="$2" \
		'$1 ~ /at_ms/ && $2 - 100 >= from && $2 <= to { n++ } END { exit n == 0 }'
}

# start_storm END PORT: it runs until $tmp/enough exists.
start_storm()
{
	while [ ! -e "$tmp/enough" ]; do
		in_ns "$client" "$harness" storm --from 10.0.0.2 --to "$vip:80" --end "$1" --warm-up 0 \
			--ports "$2-$(($2 + 39))" --concurrency 8 --seconds 2 --every 100ms
	done >"$tmp/$1" 2>&1 &
	storms+=($!)
}

# sum_of NAME END: prints the sum of NAME over the reports of that storm.
sum_of() { grep -v '"at_ms"' "$tmp/$2" | grep -o "\"$1\":[0-9]*" | awk -F: '{ n += $2 } END { print n + 0 }'; }

# none_lost END: checks that no connection of that storm has failed and no first packet was lost. The
# stock kernel loses some after the server's RST.
none_lost()
{
	local failed lost connections

	connections=$(sum_of connections "$1") lost=$(sum_of first_lost "$1") failed=$(sum_of failed "$1")
	outcome+="${outcome:+; }$1: $connections connections, $lost lost"
	[ "$failed" = 0 ] || fault "$1: $(grep -v '"at_ms"' "$tmp/$1")"
	((connections > 40)) || fault "$1: the ports were not used again"
	case $half,$1 in
	stock,server-rst) ((lost > 0)) || fault "$1: no first packet was lost, and should be" ;;
	module,*) [ "$lost" = 0 ] || fault "$1: $(grep -v '"at_ms"' "$tmp/$1")" ;;
	esac
}

##############################################################################
# nginx and its clients

web_service()
{
	local ns

	ipvsadm -R <<-END || fault "cannot make the service"
		-A -t $web:80 -s rr
		-a -t $web:80 -r 10.2.1.2:81 -m
		-a -t $web:80 -r 10.2.2.2:81 -m
	END
	for ns in "$client" "${servers[@]}"; do
		in_ns "$ns" nft reset counter inet seen syns >/dev/null || fault "cannot reset the counter in $ns"
	done
}

# syns_in NAMESPACE: prints how many it has seen.
syns_in() { in_ns "$1" nft list counter inet seen syns | awk '/packets/ { print $2 }'; }

# all_arrived: sets `lost` to how many of the client's SYNs have come to no real server; true if none.
all_arrived()
{
	local ns

	lost=$(syns_in "$client")
	for ns in "${servers[@]}"; do
		lost=$((lost - $(syns_in "$ns")))
	done
	[ "$lost" = 0 ]
}

# none_lost_on_the_way STOCK: checks that every SYN has come to a real server; on the stock kernel first packets
# are `lost` or `kept`. That the client sends a SYN again is no sign of a loss: a server sends its last ACK
# before its socket is in TIME_WAIT, and loses a SYN that comes between the two.
none_lost_on_the_way()
{
	local lost

	busywait 1000 all_arrived
	outcome+="${outcome:+; }SYNs lost: $lost"
	case $half,$1 in
	stock,lost) ((lost > 0)) || fault "no SYN was lost, and should be" ;;
	*) [ "$lost" = 0 ] || fault "$lost SYNs were lost" ;;
	esac
	ipvsadm -C
}

# Each connection reuses the port of the one before, which the server has closed.
case_is curl_reuses_its_port "curl, one local port, nginx's FIN, and its RST"
curl_reuses_its_port()
{
	curl_gets fin 20100 200 kept
	curl_gets rst 20101 000 lost
}

# curl_gets PATH PORT STATUS STOCK: three requests, one after the other.
curl_gets()
{
	local said slow=0

	web_service
	outcome+="${outcome:+; }$1:"
	for _ in 1 2 3; do
		said=$(in_ns "$client" curl --silent --output /dev/null --local-port "$2" \
			--write-out '%{http_code} %{time_connect}' "http://$web/$1")
		outcome+=" ${said#* }"
		[ "${said% *}" = "$3" ] || fault "$1: expected $3, not $said"
		[[ ${said#* } = 0.[0-4]* ]] || slow=$((slow + 1))
		busywait 5000 port_is_free "$2" || fault "port $2 does not become free"
	done
	case $half,$4 in
	stock,lost) [ "$slow" = 2 ] || fault "$1: $slow were slow, and two should be" ;;
	*) [ "$slow" = 0 ] || fault "$1: $slow were slow" ;;
	esac
	none_lost_on_the_way "$4"
}

port_is_free() { [ -z "$(in_ns "$client" ss -Htan "sport = :$1")" ]; }

case_is ab_reuses_its_ports "ab through few ports, nginx's FIN, and its RST"
ab_reuses_its_ports()
{
	ab_gets fin kept 0
	ab_gets rst lost all
}

# ab_gets PATH STOCK RESETS: for four seconds, eight requests at a time. ab goes on when the server
# resets a connection, and counts how many it has reset: RESETS is 0 or `all`.
ab_gets()
{
	local said requests resets=0 others=0

	web_service
	said=$(in_ns "$client" ab -q -r -t 4 -n 10000 -c 8 "http://$web/$1" 2>&1)
	[[ $said =~ Complete\ requests:\ +([0-9]+) ]]; requests=${BASH_REMATCH[1]:-0}
	[[ ! $said =~ Connect:\ ([0-9]+),\ Receive:\ ([0-9]+),\ Length:\ ([0-9]+) ]] ||
		{ others=$((BASH_REMATCH[1] + BASH_REMATCH[3])); resets=${BASH_REMATCH[2]}; }
	outcome+="${outcome:+; }$1: $requests requests"
	[ "$half,$2" = stock,lost ] || ((requests > 20)) || fault "$1: the ports were not used again: $said"
	[[ $resets = "${3/all/$requests}" && $others = 0 ]] || fault "$1: $said"
	none_lost_on_the_way "$2"
}

# wrk sends a second request, which nginx does not read, so nginx's close is a RST. wrk closes the
# connection as soon as it has the first response, so the RST does not count as an error.
case_is wrk_reuses_its_ports "wrk through few ports, nginx's RST after its response"
wrk_reuses_its_ports()
{
	local said

	web_service
	cat >"$tmp/more.lua" <<-END
		function request()
			return "GET /fin HTTP/1.1\r\nHost: nobody\r\n\r\n" .. "GET /" .. string.rep("x", 4096)
		end
	END
	said=$(in_ns "$client" wrk -t 1 -c 8 -d 3s -s "$tmp/more.lua" "http://$web/fin" 2>&1)
	[[ $said =~ ([0-9]+)\ requests\ in ]] && outcome="${BASH_REMATCH[1]} requests"
	((${BASH_REMATCH[1]:-0} > 20)) || fault "the ports were not used again: $said"
	[[ $said != *"Socket errors"* && $said != *"Non-2xx"* ]] || fault "$said"
	none_lost_on_the_way lost
}

##############################################################################
# p2c

# keepalived does not know the name: it warns, and uses wlc.
module_case_is keepalived_and_p2c "keepalived does not know p2c, and leaves it to a service that has it"
keepalived_and_p2c()
{
	run keepalived p2c
	grep -qF "Invalid lvs_scheduler 'p2c' - ignoring" "$tmp/keepalived.log" || fault "it does not warn"
	scheduler_is wlc || fault "not wlc: $(ipvsadm -Sn)"
	keeps_p2c keepalived
	kill -HUP "$tool_pid"
	busywait 20000 grep -q "Reload complete" "$tmp/keepalived.log" || fault "it does not reload"
	scheduler_is p2c || fault "reloaded, and not p2c any more: $(ipvsadm -Sn)"
	stop
}

# keeps_p2c TOOL: checks that a service that was given p2c keeps it while the tool drains and restores
# its real servers.
keeps_p2c()
{
	ipvsadm -E -t "$vip:80" -s p2c || fault "ipvsadm -E"
	fall_ill 1
	busywait 20000 weight_is 1 0 || fault "rs1 is not drained:" "$(tail -n 20 "$tmp/$1.log")"
	get_well 1
	busywait 20000 both_serve || fault "rs1 is not restored:" "$(tail -n 20 "$tmp/$1.log")"
	scheduler_is p2c || fault "it is not p2c any more: $(ipvsadm -Sn)"
}

# Without the patch it takes the letters only: `p`.
module_case_is ldirectord_is_patched "ldirectord with the patch for it makes services with p2c"
ldirectord_is_patched()
{
	ldirectord=$tmp/ldirectord
	patch --quiet --output="$ldirectord" "$(command -v ldirectord)" \
		"$here/../packaging/upstream/ldirectord.patch" || fault "the patch does not apply"
	chmod +x "$ldirectord"
	run ldirectord p2c
	scheduler_is p2c || fault "not p2c: $(ipvsadm -Sn)"
	stop
}

module_case_is saved_and_restored "ipvsadm-restore restores the p2c services of ipvsadm-save"
saved_and_restored()
{
	local saved restored

	ipvsadm -R <<-END || fault "cannot make the services"
		-A -t $vip:80 -s p2c
		-a -t $vip:80 -r 10.2.1.2:80 -m -w 3
		-a -t $vip:80 -r 10.2.2.2:80 -m -w 0
		-A -u [fd00:9::1]:53 -s p2c -o
		-a -u [fd00:9::1]:53 -r [fd00:2:1::2]:53 -g -w 7
		-A -f 7 -s p2c -p 60
		-a -f 7 -r 10.2.1.2:0 -i -w 1
	END
	saved=$(ipvsadm-save -n)
	ipvsadm -C
	ipvsadm-restore <<<"$saved" || fault "ipvsadm-restore"
	restored=$(ipvsadm-save -n)
	[ "$(grep -c 's p2c' <<<"$restored")" = 3 ] || fault "not three services with p2c: $restored"
	[ "$(sort <<<"$restored")" = "$(sort <<<"$saved")" ] || fault "saved: $saved" "restored: $restored"
	ipvsadm -C
}

##############################################################################

check_halves "$@"
