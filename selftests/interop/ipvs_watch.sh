#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ipvs-watch: what it reports for each way in which IPVS drops the first packet of a flow, on the
# stock kernel and with the module, or misdirects an answer; that it reports nothing for flows that
# lose nothing; and how it starts and ends.
#
# The network is in lib.sh. The virtual services 10.9.0.1:80 and [fd00:9::1]:80 are NAT,
# 10.9.0.4:80 is direct routing, 10.9.0.5:80 and 10.9.0.6:80 are NAT and have rs1 only.
#
# MODULE: the module to insert; without it only the stock half runs
# WATCH:  ipvs-watch
#
# One case: make case TEST=interop/ipvs_watch.sh CASE=server_rst

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "$0")/../lib/lib.sh"

cleanup()
{
	[ -z "${watch_pid:-}" ] || kill "$watch_pid" 2>/dev/null
	cleanup_network
	[ -z "${name:-}" ] || ip netns delete "$name"
	[ ! -e /sys/module/ip_vs_reuse ] || [ -z "${MODULE:-}" ] || rmmod ip_vs_reuse
	rm -rf "$tmp"
} 2>/dev/null

become_director "$@"
need_tools conntrack ip ipvsadm nft nsenter script setpriv socat
need_harness
watch=${WATCH:-${harness%/*}/ipvs-watch}
[ -x "$watch" ] || skip_all "needs ipvs-watch: cargo build --release -p ipvs-watch, or set WATCH"

nat=10.9.0.1:80
nat6='[fd00:9::1]:80'
dr=10.9.0.4:80
one=10.9.0.5:80 other=10.9.0.6:80
port=25000

# start_case_is NAME LABEL, watched_case_is NAME LABEL: cases about how it starts, and cases for an
# ipvs-watch that runs already. They come before the others.
start_cases='' watched_cases=''
case_lists+=" start_cases watched_cases"
start_case_is() { add_case start_cases "$@"; }
watched_case_is() { add_case watched_cases "$@"; }

##############################################################################
# The director

setup()
{
	local n

	need_modules ip_vs ip_vs_rr ip_vs_wrr nf_conntrack nf_conntrack_netlink nft_chain_nat nft_ct veth
	begin_director 2
	name=director-$$
	ip netns attach "$name" $$
	netns=$(stat -Lc %i /proc/self/ns/net)
	for n in 1 2; do
		echo "address add ${dr%:*} dev lo" | configure "${servers[n]}"
	done
	ipvsadm -R <<-END || bail_out "cannot make the virtual services"
		-A -t $nat -s rr
		-a -t $nat -r 10.2.1.2:80 -m
		-a -t $nat -r 10.2.2.2:80 -m
		-A -t $dr -s rr
		-a -t $dr -r 10.2.1.2:80 -g
		-a -t $dr -r 10.2.2.2:80 -g
		-A -u $nat -s rr
		-a -u $nat -r 10.2.1.2:80 -m
		-a -u $nat -r 10.2.2.2:80 -m
		-A -t $nat6 -s rr
		-a -t $nat6 -r [fd00:2:1::2]:80 -m
		-a -t $nat6 -r [fd00:2:2::2]:80 -m
		-A -t $one -s rr
		-a -t $one -r 10.2.1.2:80 -m
		-A -t $other -s rr
		-a -t $other -r 10.2.1.2:80 -m
	END
	echo "route add 10.2.0.0/16 via 10.0.0.1" | configure "$client"
	start_servers --listen 0.0.0.0:80 --listen '[::]:80' --proto tcp --proto udp
	start_console client nsenter --net="/run/netns/$client" --
	start_console director
	unheld=$(holds)
}

# settings MODE EXPIRE: conn_reuse_mode and expire_nodest_conn.
settings()
{
	sysctl_set ipv4/vs/conn_reuse_mode "$1"
	sysctl_set ipv4/vs/expire_nodest_conn "$2"
}

# The real server of the first connection; the others act on it in the service `-t ADDR:PORT`.
server() { echo "10.2.${first#rs}.2:80"; }
drain() { ipvsadm -e "$@" -r "$(server)" -m -w 0; }
undrain() { ipvsadm -e "$@" -r "$(server)" -m -w 1; }
remove() { ipvsadm -d "$@" -r "$(server)"; }
restore() { ipvsadm -a "$@" -r "$(server)" -m; }

# Waits until IPVS has the entry of the last client port in STATE.
settled() { busywait 5000 entry_is "$1" || fault "the entry did not become $1"; }
entry_is()
{
	local from entries

	printf -v from %04X "$port"
	mapfile entries </proc/net/ip_vs_conn
	[[ ${entries[*]} =~ \ $from\ [0-9A-Fa-f:]+\ 0050\ [0-9A-Fa-f:]+\ [0-9A-F]{4}\ $1\  ]]
}

# reconnect SERVICE BETWEEN ARGUMENTS...: makes two connections from one port, and calls BETWEEN
# between them. Sets `first`, the server of the first, and `syn_retransmits` of the second. The
# client is on the client, or on the director if `client_is` says so.
first='' syn_retransmits=''
reconnect()
{
	local to=$1 between=$2 console=${client_is:-client} addr=10.0.0.2 line

	[[ $to != *]:* ]] || addr='[fd00:0::2]'
	[ "$console" = client ] || addr=10.2.1.1
	# On a very busy machine even the first connection may fail, which is not what is tested:
	# try once more, and say so.
	for _ in 1 2; do
		port=$((port + 1))
		ask "reconnect --pause --from $addr:$port --to $to ${*:3}"
		[[ $line = *"no first connection"* ]] || break
		echo "# from port $port: $line"
	done
	if [[ $line =~ ^\{\"first\":\"([^\"]*)\"\}$ ]]; then
		first=${BASH_REMATCH[1]}
		$between
		ask ""
	fi
	[[ $line =~ \"syn_retransmits\":([0-9]+) ]] || fault "no report: $line"
	syn_retransmits=${BASH_REMATCH[1]:-}
}

# ask LINE: sets `line` to what the `console` answers.
ask()
{
	echo "$1" >&"${console_in[$console]}"
	read -r -t 30 line <&"${console_out[$console]}" || line="nothing within 30 s"
}

##############################################################################
# The watcher

# start_watch ARGUMENTS...: starts it with --json, and waits until it is ready.
watch_pid=
start_watch()
{
	local line

	exec {watch_out}< <(exec "$watch" --json "$@" 2>"$tmp/errors")
	watch_pid=$!
	read -r -t 60 line <&"$watch_out" || line=$(cat "$tmp/errors")
	[ "$line" = '{"event":"ready"}' ] || fault "it said: $line"
}

# Sets `seen` to the events since the last call, and `summary`.
look()
{
	seen=() summary=
	kill -USR1 "$watch_pid" 2>/dev/null
	read_to_summary
}

read_to_summary()
{
	local line

	while read -r -t 20 line <&"$watch_out"; do
		case $line in
		*'"event":"summary"'*) summary=$line; return ;;
		*) seen+=("$line") ;;
		esac
	done
	fault "no summary"
}

# stop_watch SIGNAL: it must end at once, with status 0.
stop_watch()
{
	local rest

	kill -"$1" "$watch_pid" 2>/dev/null
	mapfile -t rest <&"$watch_out"
	seen+=("${rest[@]}")
	exec {watch_out}<&-
	wait "$watch_pid" || fault "status $? after SIG$1: $(cat "$tmp/errors")"
	watch_pid=
}

# tells LINE: whether LINE, apart from the time, is the only event that it has seen.
tells()
{
	local line=${seen[0]:-} when

	[ ${#seen[@]} = 1 ] || fault "expected 1 event, seen ${#seen[@]}:" "${seen[@]}"
	[[ $line =~ \"time\":\"([^\"]*)\", ]] || fault "no time: $line"
	when=${BASH_REMATCH[1]:-}
	[ "${line/"${BASH_REMATCH[0]:-}"/}" = "$1" ] || fault "expected $1"$'\n'"seen     $line"
	[[ $when =~ ^[0-9-]{10}T[0-9:]{8}\.[0-9]{6}Z$ ]] || fault "no time: $when"
	[[ ! $when < $since && ! $(now) < $when ]] || fault "$when is not between $since and now"
}

now() { date -u +%FT%T.%6NZ; }

# line EVENT PROTOCOL CLIENT VIRTUAL SERVER IPVS CONNTRACK REASON
line()
{
	local field fields=()

	for field in "${@:5:3}"; do
		[ "$field" = null ] || field=\"$field\"
		fields+=("$field")
	done
	printf '{"event":"%s","netns":%s,"netns_name":"%s","protocol":"%s","client":"%s","virtual":"%s",' \
		"$1" "$netns" "$name" "$2" "$3" "$4"
	printf '"server":%s,"ipvs_state":%s,"conntrack_state":%s,"reason":"%s"}' "${fields[@]}" "$8"
}

# lost yes|no: whether the client lost its first packet.
lost()
{
	case $1,$syn_retransmits in
	yes,0) fault "the client lost nothing" ;;
	no,[1-9]*) fault "the client lost its first packet" ;;
	esac
}

##############################################################################
# What is dropped, and why. A watcher is running.

watched_case_is server_rst "server's RST: closed"
server_rst()
{
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	lost yes
	look
	tells "$(line drop TCP 10.0.0.2:"$port" "$nat" "$(server)" CLOSE CLOSE closed)"
}

watched_case_is server_rst_ipv6 "server's RST, IPv6: closed"
server_rst_ipv6()
{
	settings 1 0
	reconnect "$nat6" "settled CLOSE" --end server-rst
	lost yes
	look
	tells "$(line drop TCP "[fd00::2]:$port" "$nat6" "[fd00:2:${first#rs}::2]:80" \
		CLOSE CLOSE closed)"
}

# The director sees one direction only, so its conntrack stays in SYN_SENT.
watched_case_is dr_half_closed "DR, client's FIN, conn_reuse_mode=3: closed"
dr_half_closed()
{
	settings 3 0
	reconnect "$dr" "settled FIN_WAIT" --end half-close
	lost yes
	look
	tells "$(line drop TCP 10.0.0.2:"$port" "$dr" "$(server)" FIN_WAIT SYN_SENT closed)"
}

watched_case_is drained_while_open "still open, server drained: drained"
drained_while_open()
{
	settings 1 1
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	lost yes
	look
	tells "$(line drop TCP 10.0.0.2:"$port" "$nat" "$(server)" ESTABLISHED ESTABLISHED drained)"
}

# Deleted while expire_nodest_conn is 0, so that the entries stay.
watched_case_is udp_server_deleted "UDP, server deleted: gone"
udp_server_deleted()
{
	settings 1 0
	reconnect "$nat" udp_server_goes --proto udp --end hold
	restore -u "$nat"
	lost yes
	look
	# It is one or the other, depending on whether two seconds have passed.
	seen=("${seen[@]/'"ASSURED"'/'"SEEN_REPLY"'}")
	tells "$(line drop UDP 10.0.0.2:"$port" "$nat" "$(server)" UDP SEEN_REPLY gone)"
}

udp_server_goes()
{
	remove -u "$nat"
	settings 1 1
}

# IPVS drops the SYN each time it is sent.
watched_case_is server_deleted_entry_stays "server deleted, expire_nodest_conn=0: unavailable"
server_deleted_entry_stays()
{
	settings 1 0
	reconnect "$nat" "remove -t $nat" --end hold --timeout 2.5s
	restore -t "$nat"
	lost yes
	look
	unavailable=${#seen[@]}
	[ "$unavailable" = $((syn_retransmits + 1)) ] ||
		fault "expected $((syn_retransmits + 1)) events, seen $unavailable:" "${seen[@]}"
	seen=("${seen[0]}")
	tells "$(line drop TCP 10.0.0.2:"$port" "$nat" "$(server)" ESTABLISHED ESTABLISHED unavailable)"
}

# weights N: of both servers.
weights() { printf -- "-e -t $nat -r 10.2.%d.2:80 -m -w $1\n" 1 2 | ipvsadm -R; }

# There is no server to choose. IPVS answers with ICMP, and the client does not try again.
watched_case_is nothing_to_choose "all servers drained: not_scheduled"
nothing_to_choose()
{
	local console=client line

	settings 1 0
	weights 0
	port=$((port + 1))
	ask "reconnect --from 10.0.0.2:$port --to $nat --end fin --timeout 0.5s"
	weights 1
	[[ $line = *"no first connection"* ]] || fault "it was connected: $line"
	look
	tells "$(line drop TCP 10.0.0.2:"$port" "$nat" null null NEW not_scheduled)"
}

# conntrack reopens a flow after FIN by itself; and datagrams to a server that is available.
watched_case_is nothing_lost "flows that lose nothing: no event"
nothing_lost()
{
	settings 1 0
	reconnect "$nat" "settled TIME_WAIT" --end fin
	lost no
	reconnect "$nat" true --proto udp --end hold
	lost no
	look
	[ ${#seen[@]} = 0 ] || fault "${seen[@]}"
}

# Only the client knows how often it tried in vain.
watched_case_is counts "a summary counts them all"
counts()
{
	local n=$unavailable

	look
	[ "$summary" = "{\"event\":\"summary\",\"drops\":$((6 + n)),\"replays\":0,\"misdirects\":0,\"missed\":0,$(
		)\"by_reason\":{\"closed\":3,\"drained\":1,\"gone\":1,\"unavailable\":$n,$(
		)\"not_scheduled\":1,\"no_scheduler\":0,\"clash\":0,\"other\":0,\"direct\":0,$(
		)\"other_service\":0}}" ] || fault "$summary"
}

##############################################################################
# How it starts and ends

# refuses STATUS WORDS COMMAND...: whether COMMAND ends with STATUS, and one line that has WORDS.
refuses()
{
	local said status

	said=$("${@:3}" 2>&1)
	status=$?
	[ "$status" = "$1" ] || fault "expected status $1, has $status"
	[[ $said = *"$2"* ]] || fault "nothing of '$2': $said"
	[ "$1" = 2 ] || [ "$(wc -l <<<"$said")" = 1 ] || fault "not one line: $said"
}

unload_ipvs()
{
	local holders=(/sys/module/ip_vs/holders/*)

	rmmod "${holders[@]##*/}" ip_vs 2>/dev/null
	[ ! -e /sys/module/ip_vs ]
}

start_case_is without_ipvs "without ip_vs: status 5"
without_ipvs() { refuses 5 "modprobe ip_vs" "$watch"; }
start_case_is without_rights "without capabilities: status 3"
without_rights() { refuses 3 "sudo" setpriv --bounding-set=-all --inh-caps=-all "$watch"; }
start_case_is without_btf "without BTF: status 4"
without_btf()
{
	# shellcheck disable=SC2016 # for the inner shell
	refuses 4 "CONFIG_DEBUG_INFO_BTF_MODULES" unshare --mount bash -c \
		'mount -t tmpfs none /sys/kernel/btf && exec "$1"' - "$watch"
}
# It is static: no loader and no library is there.
start_case_is in_an_empty_root "in a root directory that has nothing else: it watches"
in_an_empty_root()
{
	local said

	mkdir -p "$tmp/empty"/{proc,sys}
	cp "$watch" "$tmp/empty/ipvs-watch"
	# shellcheck disable=SC2016 # for the inner shell
	said=$(unshare --mount bash -ec 'for dir in proc sys; do mount --rbind /$dir "$1/$dir"; done
		exec chroot "$1" /ipvs-watch --json --duration 0.2s' - "$tmp/empty" 2>&1) || fault "status $?"
	[ "$said" = '{"event":"ready"}' ] || fault "$said"
}
start_case_is wrong_command_line "a wrong command line: status 2"
wrong_command_line()
{
	refuses 2 "--duration" "$watch" --duration soon
	refuses 2 "no network namespace 'nowhere'" "$watch" --netns nowhere
}

case_is ends_by_itself "--duration ends it, --summary counts"
ends_by_itself()
{
	local said

	said=$("$watch" --duration 0.2s --summary 2>&1) || fault "status $?"
	[ "$said" = "0 dropped, 0 replayed" ] || fault "$said"
	said=$("$watch" --json --duration 1s --summary=300ms 2>&1) || fault "status $?"
	(($(grep -c '"event":"summary"' <<<"$said") >= 2)) || fault "not every 300 ms: $said"
}

case_is ends_with_its_reader "it ends when its reader ends"
ends_with_its_reader()
{
	local status

	timeout 60 "$watch" --json 2>"$tmp/errors" | read -r -t 50
	status=("${PIPESTATUS[@]}")
	[ "${status[*]}" = "0 0" ] || fault "status ${status[*]}: $(cat "$tmp/errors")"
	[ ! -s "$tmp/errors" ] || fault "$(cat "$tmp/errors")"
}

case_is ends_by_signals "SIGINT and SIGTERM end it with status 0"
ends_by_signals()
{
	start_watch
	stop_watch INT
	start_watch --summary
	seen=()
	stop_watch TERM
	[[ ${seen[0]} = *'"event":"summary","drops":0'* ]] || fault "no summary at its end"
}

# The BPF programs hold the module; they may go a moment after their watcher has ended.
case_is leaves_nothing "killed, it leaves nothing behind"
leaves_nothing()
{
	busywait 5000 is_not_held || fault "ip_vs is still held by watchers before: $(holds), not $unheld"
	start_watch
	(($(holds) > unheld)) || fault "ip_vs is not held while it runs: $(holds)"
	kill -KILL "$watch_pid"
	wait "$watch_pid" 2>/dev/null
	watch_pid=
	exec {watch_out}<&-
	busywait 5000 is_not_held || fault "ip_vs is still held: $(holds), not $unheld"
}
holds() { cat /sys/module/ip_vs/refcnt; }
is_not_held() { [ "$(holds)" = "$unheld" ]; }

case_is one_namespace_only "--netns by name, process or path: only that namespace"
one_namespace_only()
{
	start_watch --netns "$client"
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	lost yes
	look
	[ ${#seen[@]} = 0 ] || fault "not of its namespace: ${seen[*]}"
	stop_watch INT
	for which in "$name" $$ "/proc/$$/ns/net"; do
		start_watch --netns "$which"
		reconnect "$nat" "settled CLOSE" --end server-rst
		look
		[ ${#seen[@]} = 1 ] || fault "--netns $which: ${#seen[@]} events"
		stop_watch INT
	done
}

# Rows under a header, and on a terminal a view that is refreshed.
case_is table_for_people "a table for people, and a live view on a terminal"
table_for_people()
{
	local script_pid pair header row rows left

	: >"$tmp/terminal"
	script -qfc "stty cols 200 rows 40; exec '$watch'" "$tmp/terminal" >/dev/null </dev/null &
	script_pid=$!
	"$watch" --summary=500ms >"$tmp/plain" &
	watch_pid=$!
	busywait 60000 has "0 dropped, 0 replayed" "$tmp/terminal" || fault "no live view"
	busywait 60000 has "0 dropped, 0 replayed" "$tmp/plain" || fault "no summary in a file"
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	busywait 20000 has "1 dropped (1 closed), 0 replayed" "$tmp/terminal" || fault "$(cat "$tmp/terminal")"
	busywait 20000 has "1 dropped (1 closed), 0 replayed" "$tmp/plain" || fault "$(cat "$tmp/plain")"
	busywait 20000 grep -qE "0\.1 +1 +1  TCP +$nat +drop +closed" "$tmp/terminal" || fault "no rate: $(cat "$tmp/terminal")"
	kill -INT "$watch_pid"
	wait "$watch_pid" || fault "status $?"
	watch_pid=
	kill -INT "$(pgrep -P "$script_pid")"
	wait "$script_pid"
	# What it showed last stays when it has left the view.
	left=$(<"$tmp/terminal")
	left=${left##*$'\e[?1049l'}
	[[ $left = *"10.0.0.2:$port"*"1 dropped (1 closed), 0 replayed"* ]] || fault "what stays: $left"
	mapfile -t rows < <(grep -vE '^[0-9]+ dropped' "$tmp/plain")
	[ ${#rows[@]} = 2 ] || fault "expected a header and a row:" "${rows[@]}"
	for pair in CLIENT=10.0.0.2:$port VIRTUAL=$nat OLD="$(server)" IPVS=CLOSE WHAT=dropped:; do
		header=${rows[0]%%"${pair%%=*}"*} row=${rows[1]%%"${pair#*=}"*}
		[ ${#header} = ${#row} ] || fault "${pair#*=} is not under ${pair%%=*}:" "${rows[@]}"
	done
}
has() { [[ $(<"$2") = *"$1"* ]]; }

# A director that has lost a packet, told without an address.
case_is report "--report: what was lost, the settings and services, without an address"
report()
{
	local pid said expected

	"$watch" --report --duration 60s --netns "$name" >"$tmp/report" 2>"$tmp/errors" &
	pid=$!
	busywait 60000 has "watching for 1m" "$tmp/errors" || fault "it does not watch: $(cat "$tmp/errors")"
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	kill -INT "$pid"
	wait "$pid" || fault "status $?"
	said=$(<"$tmp/report")
	for expected in "Linux: $(uname -r)" "net/ipv4/vs/conn_reuse_mode: 1" "nft: 0 chains" \
		":80 rr" "Masq" "IPVS CLOSE, conntrack CLOSE: closed" "1 dropped (1 closed)"; do
		[[ $said = *"$expected"* ]] || fault "no '$expected': $said"
	done
	grep -qE '^TCP [A-Z_]+: [0-9]+$' "$tmp/report" || fault "no number of entries: $said"
	! grep -E '10\.(0|2|9)\.|fd00|0A0(00002|9000|20[12]02)|'"$name" "$tmp/report" || fault "the report has addresses"
	said=$("$watch" --report --with-addresses --duration 0.1s 2>&1) || fault "status $?"
	[[ $said = *"real addresses"*"TCP  $nat rr"* ]] || fault "no addresses: $said"
}

##############################################################################
# What else IPVS loses (docs/known-losses.md)

# connects ADDR:PORT: whether the client, from the last port, gets an answer within 2.5 s.
connects()
{
	local console=client line

	ask "reconnect --from 10.0.0.2:$port --to $1 --end fin --timeout 2.5s"
	[[ $line != *"no first connection"* ]]
}

# tells_only LINE: whether LINE, apart from time and conntrack's and IPVS' states, is each event, and there is one.
tells_only()
{
	local line

	((${#seen[@]})) || fault "no event"
	for line in "${seen[@]}"; do
		line=$(sed -E 's/"time":"[^"]*",//; s/_state":("[A-Z_]*"|null)/_state":null/g' <<<"$line")
		[ "$line" = "$1" ] || fault "expected $1"$'\n'"seen     $line"
	done
}

# A chain for NAT: conntrack finds another port for a connection whose replies it could not tell apart.
with_nat() { nft "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }"; }
without_nat() { nft delete table ip nat; }
# no_more_answers: to the last client port. The server sends again for minutes what nobody acknowledges.
# It may know the client by another port, which conntrack has changed back before the answer is dropped.
no_more_answers()
{
	nft "add table ip quiet; add chain ip quiet in { type filter hook prerouting priority filter; };
		add rule ip quiet in tcp dport $port drop" || fault "cannot keep the server's answers away"
}

case_is no_scheduler "the scheduler is changed: no_scheduler"
no_scheduler()
{
	local changer

	start_watch
	while ipvsadm -E -t "$one" -s wrr && ipvsadm -E -t "$one" -s rr; do :; done &
	changer=$!
	busywait 60000 is_refused || fault "nothing was dropped"
	kill "$changer"
	wait "$changer" 2>/dev/null
	stop_watch INT
}
# One of its two connections.
is_refused()
{
	port=$((port + 1))
	connects "$one"
	look
	[[ ${seen[*]} = *'"event":"drop"'*"\"client\":\"10.0.0.2:$port\",\"virtual\":\"$one\""*'"reason":"no_scheduler"'* ]]
}

case_is two_services_in_turn "two services, one server, one port, no NAT: clash"
two_services_in_turn()
{
	start_watch
	port=$((port + 1))
	connects "$one" || fault "no connection to the first service"
	look
	[ ${#seen[@]} = 0 ] || fault "${seen[@]}"
	! connects "$other" || fault "nothing was lost"
	look
	tells_only "$(line drop TCP 10.0.0.2:"$port" "$other" 10.2.1.2:80 null null clash)"
	stop_watch INT
}

case_is server_itself "a service, then its server itself: direct"
server_itself()
{
	start_watch
	with_nat
	port=$((port + 1))
	connects "$one" || fault "no connection to the service"
	look
	[ ${#seen[@]} = 0 ] || fault "${seen[@]}"
	! connects 10.2.1.2:80 || fault "nothing was lost"
	no_more_answers
	look
	tells_only "$(line misdirect TCP 10.0.0.2:"$port" "$one" 10.2.1.2:80 null null direct)"
	port=$((port + 1))
	connects 10.2.1.2:80 || fault "no connection from a fresh port"
	look
	[ ${#seen[@]} = 0 ] || fault "${seen[@]}"
	without_nat
	stop_watch INT
}

case_is two_services_at_once "two services, one server, one port, both open: other_service"
two_services_at_once()
{
	local to pids=()

	start_watch
	with_nat
	port=$((port + 1))
	mkfifo "$tmp/to-one" "$tmp/to-other"
	exec {to_one}<>"$tmp/to-one" {to_other}<>"$tmp/to-other"
	for to in one other; do
		in_ns "$client" socat - "TCP:${!to},sourceport=$port,reuseaddr" \
			<"$tmp/to-$to" >"$tmp/from-$to" 2>"$tmp/errors" &
		pids+=($!)
		busywait 20000 test -s "$tmp/from-$to" || fault "no connection to ${!to}: $(cat "$tmp/errors")"
	done
	look
	[ ${#seen[@]} = 0 ] || fault "${seen[@]}"
	echo "the server must acknowledge this" >&"$to_one"
	busywait 20000 is_misdirected || fault "nothing was misdirected"
	tells_only "$(line misdirect TCP 10.0.0.2:"$port" "$other" 10.2.1.2:80 null null other_service)"
	kill "${pids[@]}"
	wait "${pids[@]}" 2>/dev/null
	exec {to_one}>&- {to_other}>&-
	no_more_answers
	without_nat
	stop_watch INT
}
is_misdirected() { look; ((${#seen[@]})); }

##############################################################################

# Hundreds of flows reopened from a few ports: one drop for each SYN that was sent again, and no
# other.
case_is under_load "under load: a drop for every first packet that was sent again"
under_load()
{
	start_watch
	load
	stop_watch INT
	outcome="$syn_retransmits drops"
	[ "$syn_retransmits" != 0 ] || fault "no loss"
	[[ $summary = *"\"drops\":$syn_retransmits,\"replays\":0,\"misdirects\":0,\"missed\":0,"* ]] ||
		fault "the clients sent $syn_retransmits first packets again" "$summary"
	[ ${#seen[@]} = "$syn_retransmits" ] || fault "${#seen[@]} lines"
}

# 350 flows from 150 ports. Sets `syn_retransmits` to the number of SYNs that clients sent again, and
# looks.
load()
{
	local report

	settings 1 0
	report=$(in_ns "$client" "$harness" storm --from 10.0.0.2 --to "$nat" --ports 30000-30149 \
		--concurrency 25 --warm-up 0 --connections 350 --seconds 60 --hold 0s \
		--end server-rst 2>&1)
	look
	[[ $report =~ \"syn_retransmits\":([0-9]+) ]] || fault "no report: $report"
	syn_retransmits=${BASH_REMATCH[1]:-none}
}

##############################################################################
# With the module

insert() { load_module 2>"$tmp/errors" || fault "insmod: $(cat "$tmp/errors")"; }

# The module is loaded after the watcher has started.
module_case_is sees_replays_of_a_late_module "replays of a module that was loaded later"
sees_replays_of_a_late_module()
{
	start_watch
	insert
	look
	settings 1 0
	reconnect "$nat" "settled CLOSE" --end server-rst
	lost no
	look
	tells "$(line replay TCP 10.0.0.2:"$port" "$nat" "$(server)" CLOSE null closed)"
	stop_watch INT
}

module_case_is sees_replays "replays: no drop, and the flow's addresses, state and reason"
sees_replays()
{
	start_watch
	settings 1 1
	reconnect "$nat6" "settled CLOSE" --end server-rst
	lost no
	look
	tells "$(line replay TCP "[fd00::2]:$port" "$nat6" "[fd00:2:${first#rs}::2]:80" CLOSE null closed)"
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	lost no
	look
	tells "$(line replay TCP 10.0.0.2:"$port" "$nat" "$(server)" ESTABLISHED null drained)"
	client_is=director reconnect "$nat" "settled CLOSE" --end server-rst
	lost no
	look
	tells "$(line replay TCP 10.2.1.1:"$port" "$nat" "$(server)" CLOSE null closed)"
	[[ $summary = *'"drops":0,"replays":3,"misdirects":0,"missed":0,'* ]] || fault "$summary"
	stop_watch INT
}

# IPVS drops the replayed packet for want of a server: a drop of its own, for that reason, and not
# for the conntrack that the packet came with.
module_case_is sees_a_replayed_packet_dropped "all servers drained: a replay, then a drop: not_scheduled"
sees_a_replayed_packet_dropped()
{
	local both

	start_watch
	settings 1 1
	reconnect "$nat" "weights 0" --end hold
	weights 1
	look
	both=("${seen[@]}")
	[ ${#both[@]} = 2 ] || fault "expected 2 events, seen ${#both[@]}:" "${both[@]}"
	seen=("${both[0]:-}")
	tells "$(line replay TCP 10.0.0.2:"$port" "$nat" "$(server)" ESTABLISHED null drained)"
	seen=("${both[1]:-}")
	tells "$(line drop TCP 10.0.0.2:"$port" "$nat" "$(server)" ESTABLISHED NEW not_scheduled)"
	stop_watch INT
}

# The module's hook has looked it up, too, and leaves it to IPVS: one event, not two.
module_case_is sees_what_is_left_to_ipvs "a packet that is left to IPVS: unavailable, once"
sees_what_is_left_to_ipvs()
{
	start_watch
	server_deleted_entry_stays
	stop_watch INT
}

# The counters know how many packets were replayed, and the clients that none was lost.
module_case_is replays_under_load "under load: every replayed packet, and no drop"
replays_under_load()
{
	local replays

	replays=$(replayed)
	start_watch
	load
	stop_watch INT
	replays=$(($(replayed) - replays))
	outcome="$replays replays"
	[ "$replays" != 0 ] || fault "nothing was replayed"
	[ "$syn_retransmits" = 0 ] || fault "the clients sent $syn_retransmits first packets again"
	[[ $summary = *"\"drops\":0,\"replays\":$replays,\"misdirects\":0,\"missed\":0,"* ]] ||
		fault "the module counted $replays replays" "$summary"
	[ ${#seen[@]} = "$replays" ] || fault "${#seen[@]} lines"
}
replayed() { awk '/^replayed_/ { n += $2 } END { print n + 0 }' /proc/net/ip_vs_reuse; }

module_case_is holds_the_module "the module stays while it is watched, and goes afterwards"
holds_the_module()
{
	start_watch
	! rmmod ip_vs_reuse 2>/dev/null || fault "it was unloaded"
	stop_watch INT
	rmmod ip_vs_reuse 2>"$tmp/errors" || fault "rmmod: $(cat "$tmp/errors")"
}

##############################################################################

need_stock
choose_cases "$@"
# shellcheck disable=SC2086 # lists
set -- $start_cases $watched_cases $cases $module_cases
ktap_plan $#
if [[ $start_cases = *without_ipvs* ]]; then
	start_cases=${start_cases/without_ipvs/}
	# Earlier tests may have left ip_vs loaded and in use.
	if unload_ipvs; then
		check without_ipvs "${label_of[without_ipvs]}"
	else
		ktap_skip "${label_of[without_ipvs]}" "ip_vs is in use"
	fi
fi
setup
for this in $start_cases; do
	check "$this" "${label_of[$this]}"
done
start_watch
for this in $watched_cases; do
	since=$(now)
	check "$this" "stock: ${label_of[$this]}"
done
stop_watch INT
for this in $cases; do
	check "$this" "stock: ${label_of[$this]}"
done
for this in $module_cases; do
	since=$(now)
	if [ -z "${MODULE:-}" ]; then
		ktap_skip "module: ${label_of[$this]}" "MODULE is not set"
		continue
	fi
	# That case loads it by itself.
	[ "$this" = sees_replays_of_a_late_module ] || [ -e /sys/module/ip_vs_reuse ] || load_module
	check "$this" "module: ${label_of[$this]}"
done
ktap_exit
