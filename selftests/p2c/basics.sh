#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests p2c as any scheduler: it is loaded on demand, serves all kinds of services, takes the weights that
# other schedulers take, and can be unloaded. Also tests rs_rr, a second scheduler built on the same
# abstractions.
#
# MODULE: ip_vs_reuse.ko
#
# One case: make case TEST=p2c/basics.sh CASE=rs_rr_takes_turns

# shellcheck source=selftests/lib/p2c.sh
. "$(dirname "$0")/../lib/p2c.sh"

tcp=10.9.0.1:80
tcp6='[fd00:9::1]:80'
fwmark=10.9.0.2:80
persistent=10.9.0.3:80
one_packet=10.9.0.4:53
turns=10.9.0.13:80
loaded=10.9.0.14:80
traced=10.9.0.15:80

##############################################################################
# rs_rr

case_is rs_rr_takes_turns "rs_rr, of the same abstractions, takes turns"
rs_rr_takes_turns()
{
	local n

	insmod "$rs_rr" 2>"$tmp/errors" || fault "insmod: $(cat "$tmp/errors")"
	service "-t $turns" rs_rr 1 2 3
	for n in 1 2; do
		burst "$turns" 30
		all_connected 30
		[ "${got[*]}" = "10 10 10" ] || fault "not 10 each: ${got[*]}"
	done
	server -e "-t $turns" 2 -w 0
	burst "$turns" 30
	[ "${got[*]}" = "15 15" ] || fault "without rs1:2 not 15 each: ${got[*]}"
	outcome="10 each of three, 15 each of two"
}

case_is rs_rr_unloads "rs_rr can be unloaded only when unused"
rs_rr_unloads()
{
	! rmmod ip_vs_rs_rr 2>"$tmp/errors" || fault "unloaded under a service that uses it"
	ipvsadm -D -t "$turns"
	rmmod ip_vs_rs_rr 2>"$tmp/errors" || fault "rmmod: $(cat "$tmp/errors")"
}

##############################################################################
# p2c: as any scheduler

case_is loads_by_itself "ipvsadm -s p2c loads the module"
loads_by_itself()
{
	wait "$depmod_pid" || fault "depmod failed"
	[ ! -e /sys/module/ip_vs_reuse ] || fault "it is there already"
	service "-t $tcp" p2c 1 2 3 4
	if [ ! -e /sys/module/ip_vs_reuse ]; then
		fault "ipvsadm -s p2c has not loaded it"
		insmod "$MODULE" || bail_out "the module cannot be loaded"
		service "-t $tcp" p2c 1 2 3 4
	fi
}

# Each gets a connection, and none fails.
serves()
{
	burst "$1" 100
	all_connected 100
	((${#got[@]} == 4)) || fault "not all four servers: ${got[*]}"
	outcome=${got[*]}
}

case_is serves_tcp "TCP"
serves_tcp()
{
	# loads_by_itself has made it.
	has_scheduler "$tcp" p2c || service "-t $tcp" p2c 1 2 3 4
	serves "$tcp"
}

case_is serves_ipv6 "IPv6"
serves_ipv6()
{
	{
		echo "-A -t $tcp6 -s p2c"
		printf -- "-a -t $tcp6 -r [fd00:2:1::2]:%d -m\n" 1 2 3 4
	} | ipvsadm -R || fault "ipvsadm: cannot make the service"
	settle
	serves "$tcp6"
}

case_is serves_fwmark "a firewall mark's service"
serves_fwmark()
{
	service "-f 1" p2c 1 2 3 4
	serves "$fwmark"
}

case_is serves_persistent "a persistent service keeps a client on its server"
serves_persistent()
{
	local n

	service "-t $persistent -p 60" p2c 1 2 3 4
	for n in {141..145}; do
		burst "$persistent" 10 "10.0.0.$n"
		all_connected 10
		((${#got[@]} == 1)) || fault "10.0.0.$n has ${#got[@]} servers"
		outcome+="${outcome:+ }rs1:${!got[*]}"
	done
}

# With -o no server has connections between datagrams, so the first one drawn gets each datagram, and the
# shares are by weight.
case_is serves_one_packet "datagrams one by one (-o), in proportion to weight"
serves_one_packet()
{
	local n

	service "-u $one_packet -o" p2c
	for n in 1 2 3 4; do
		server -a "-u $one_packet" "$n" -w "$n"
	done
	send_datagrams "$one_packet"
	count_datagrams "$one_packet" 4
	for n in 1 2 3 4; do
		is_share "${counts[n - 1]}" "$datagrams" $((n * 10)) || fault "rs1:$n has not $((n * 10)) %"
	done
	outcome="${counts[*]} for weights 1 2 3 4"
}

# The second of two connections finds the first.
case_is tracepoint_tells "the tracepoint of a choice names service and server, its connections and weight"
tracepoint_tells()
{
	local event=/sys/kernel/tracing/events/ip_vs_reuse/ip_vs_reuse_pick/enable
	local trace=/sys/kernel/tracing/trace active said

	service "-t $traced" p2c
	server -a "-t $traced" 1 -w 7
	echo 1 >"$event" || fault "no tracepoint"
	echo >"$trace"
	burst "$traced" 2
	echo 0 >"$event"
	for active in 0 1; do
		said="ip_vs_reuse_pick: protocol=6 virtual=$traced fwmark=0 server=10.2.1.2:1 active=$active weight=7"
		grep -q "$said\$" "$trace" || fault "expected $said" "$(grep ip_vs_reuse_ "$trace")"
	done
}

##############################################################################
# What should not be asked for

# wlc has the service 10.9.0.20, p2c 10.9.0.21.
case_is refuses_without_servers "without servers, or with weight 0 only, it refuses as wlc does"
refuses_without_servers()
{
	local n

	service "-t 10.9.0.20:80" wlc
	service "-t 10.9.0.21:80" p2c
	refuse_alike
	for n in 1 2; do
		server -a "-t 10.9.0.20:80" "$n" -w 0
		server -a "-t 10.9.0.21:80" "$n" -w 0
	done
	refuse_alike
	server -e "-t 10.9.0.21:80" 2 -w 1
	burst 10.9.0.21:80 5
	all_connected 5
	((${got[2]:-0} == 5)) || fault "not to the one that has weight: ${!got[*]}"
}

refuse_alike()
{
	burst 10.9.0.20:80 5
	all_refused 5
	burst 10.9.0.21:80 5
	all_refused 5
}

# raw_weights ADDR:PORT WEIGHT...: servers rs1:1, rs1:2 and so on, with weights as ipvsadm would
# not send them. A line for each, with what the kernel answers.
raw_weights()
{
	python3 - "$@" <<-'END'
		import errno, socket, struct, sys

		def attr(kind, data):
		    return struct.pack("HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)

		def ask(family, command, attrs):
		    body = struct.pack("BBH", command, 1, 0) + attrs
		    netlink.send(struct.pack("IHHII", 16 + len(body), family, 5, 1, 0) + body)
		    answer = netlink.recv(65536)
		    if struct.unpack_from("H", answer, 4)[0] != 2:  # NLMSG_ERROR
		        netlink.recv(65536)
		        return answer
		    return -struct.unpack_from("i", answer, 16)[0]

		netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
		answer, at = ask(16, 3, attr(2, b"IPVS\0")), 20
		while struct.unpack_from("H", answer, at + 2)[0] != 1:  # CTRL_ATTR_FAMILY_ID
		    at += (struct.unpack_from("H", answer, at)[0] + 3) & ~3
		family = struct.unpack_from("H", answer, at + 4)[0]

		host, port = sys.argv[1].split(":")
		address = lambda text: socket.inet_aton(text) + bytes(12)
		service = (attr(1, struct.pack("H", 2)) + attr(2, struct.pack("H", 6)) +
		           attr(3, address(host)) + attr(4, struct.pack(">H", int(port))))
		for number, weight in enumerate(sys.argv[2:], 1):
		    server = (attr(1, address("10.2.1.2")) + attr(2, struct.pack(">H", number)) +
		              attr(3, struct.pack("I", 0)) + attr(4, struct.pack("I", int(weight))) +
		              attr(5, bytes(4)) + attr(6, bytes(4)))
		    error = ask(family, 5, attr(1, service) + attr(2, server))  # IPVS_CMD_NEW_DEST
		    print(weight, errno.errorcode.get(error, "taken"))
	END
}

# What IPVS refuses it refuses for every scheduler. What it takes must be shared as wlc does.
case_is absurd_weights "absurd weights are taken or refused as with wlc"
absurd_weights()
{
	local vip answers wanted='4294967295 ERANGE
2147483648 ERANGE
2147483647 taken
2147483647 taken
2147483647 taken
1 taken
0 taken'

	service "-t 10.9.0.22:80" wlc
	service "-t 10.9.0.23:80" p2c
	for vip in 10.9.0.22:80 10.9.0.23:80; do
		# shellcheck disable=SC2046 # a list
		answers=$(raw_weights "$vip" $(awk '{ print $1 }' <<<"$wanted") 2>&1)
		[ "$answers" = "$wanted" ] || fault "$vip: ${answers//$'\n'/, }"
		settle
		burst "$vip" 90
		all_connected 90
		# rs1:3 to rs1:5 are alike. rs1:6 may have one, no more as long as they hold fewer
		# than 2147483647. rs1:7 may have none.
		((got[3] > 0 && got[4] > 0 && got[5] > 0 && ${got[6]:-0} <= 1 && ${got[7]:-0} == 0)) ||
			fault "$vip: servers ${!got[*]} got ${got[*]}"
		outcome+="${outcome:+; }${got[*]}"
	done
	# So that the next change makes a table of it once more.
	server -e "-t 10.9.0.23:80" 6 -w 65535
	burst 10.9.0.23:80 30
	all_connected 30
}

##############################################################################
# The end

case_is no_rebuild_failed "every table was made"
no_rebuild_failed()
{
	grep -qx 'p2c_failed_rebuilds 0' /proc/net/ip_vs_reuse || fault "$(grep p2c_ /proc/net/ip_vs_reuse)"
}

case_is unload_is_refused "rmmod is refused while a service uses it"
unload_is_refused()
{
	service "-t $loaded" p2c 1
	! rmmod ip_vs_reuse 2>"$tmp/errors" || fault "unloaded under a service that uses it"
	grep -q 'in use' "$tmp/errors" || fault "rmmod: $(cat "$tmp/errors")"
	burst "$loaded" 5
	all_connected 5
}

# Also right after the last service, with its table still to be freed.
case_is unloads_after "rmmod works after"
unloads_after()
{
	local n

	ipvsadm -C
	n=$(cat /sys/module/ip_vs_reuse/refcnt)
	((n == 0)) || fault "$n references are left"
	rmmod ip_vs_reuse 2>"$tmp/errors" || fault "rmmod: $(cat "$tmp/errors")"
	printf -- "-a -t $loaded -r %s:80 -m\n" 10.3.1.{1..250} >"$tmp/rules"
	for n in 1 2; do
		insmod "$MODULE" || fault "insmod: no"
		service "-t $loaded" p2c
		ipvsadm -R <"$tmp/rules"
		ipvsadm -C
		rmmod ip_vs_reuse 2>"$tmp/errors" || fault "rmmod: $(cat "$tmp/errors")"
	done
}

check_p2c "$@"
