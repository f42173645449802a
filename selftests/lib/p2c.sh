# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by the tests of the scheduler p2c: services of one real server's ports, bursts and loads of
# connections, and which server got how many. Sourced, not run, in place of lib.sh.
#
# The network is in lib.sh, with one real server's namespace. In it, each port is a separate server:
# rs1:7 is 10.2.1.2:7. Each check has its own virtual service, 10.9.0.N, and its own client address,
# 10.0.0.100+N. With one client address, flows of two services could look the same to the real server,
# and IPVS could not tell to which service a reply belongs.
#
# Statistical checks allow four standard deviations of the count, unless noted otherwise: one check in
# 15,000 fails by chance (harness share).

# shellcheck disable=SC2034 # used by the scripts that source this

# shellcheck source=selftests/lib/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cleanup()
{
	ipvsadm -C
	cleanup_network
	# shellcheck disable=SC2046 # a list
	kill $(jobs -p)
	uninstall_module
	rmmod ip_vs_reuse
	rmmod ip_vs_rs_rr
	rm -rf "$tmp"
} 2>/dev/null

need_module
become_director "$@"
need_tools depmod ip ipvsadm nft nsenter python3 tc
need_modules dummy ip_vs ip_vs_rr ip_vs_twos ip_vs_wlc nf_tables sch_netem veth
need_harness

rs_rr=$(dirname "$MODULE")/ip_vs_rs_rr.ko
modules=/lib/modules/$(uname -r)

# These go to services by firewall mark.
fwmark_vip=10.9.0.2

##############################################################################
# What a check is made of

# measured_case_is NAME LABEL: a measurement, skipped on slow kernels.
measured=
measured_case_is() { add_case measured "$@"; case_is "$@"; }

# is_share K N PERCENT, at_most ..., at_least ...: whether K of N can be such a share, by chance.
is_share() { "$harness" share is "$@" 2>/dev/null; }
at_most() { "$harness" share at-most "$@" 2>/dev/null; }
at_least() { "$harness" share at-least "$@" 2>/dev/null; }

# ratio A B: A/B to two places.
ratio() { local r=$((100 * $1 / $2)); printf '%d.%02d\n' $((r / 100)) $((r % 100)); }

# service WHICH SCHEDULER N...: makes the service WHICH, like `-t ADDR:PORT -p 60`, of the
# real servers rs1:N, and waits until they are in p2c's table.
service()
{
	{
		echo "-A $1 -s $2"
		(($# == 2)) || printf -- "-a ${1%% -[op]*} -r 10.2.1.2:%d -m\n" "${@:3}"
	} | ipvsadm -R 2>"$tmp/errors" || fault "ipvsadm: cannot make $1: $(cat "$tmp/errors")"
	(($# == 2)) || settle
}

# server OPTION SERVICE N ARGUMENTS...: adds (-a) or edits (-e) rs1:N; SERVICE is like
# `-t ADDR:PORT`. Weight 0 takes effect at once; other changes wait for p2c's table.
server()
{
	# shellcheck disable=SC2086 # options
	ipvsadm "$1" $2 -r "10.2.1.2:$3" -m "${@:4}" 2>"$tmp/errors" ||
		fault "ipvsadm $1 rs1:$3: $(cat "$tmp/errors")"
	[[ " $* " = *" -w 0 "* ]] || settle
}

# Of what the harness has reported: connections by the number of the server, all of them, and
# those that failed.
got=() connected=0 failed=0
read_report()
{
	local rest=$1

	[[ $rest =~ \"failed\":([0-9]+) ]]
	failed=${BASH_REMATCH[1]:-0}
	got=() connected=0
	while [[ $rest =~ \"rs1:([0-9]+)\":([0-9]+)(.*) ]]; do
		got[BASH_REMATCH[1]]=${BASH_REMATCH[2]}
		connected=$((connected + BASH_REMATCH[2]))
		rest=${BASH_REMATCH[3]}
	done
}

# client_of ADDR:PORT: its address.
client_of()
{
	case $1 in
		\[*) echo fd00:0::2 ;;
		*) set -- "${1%:*}" && echo "10.0.0.$((100 + ${1##*.}))" ;;
	esac
}

# burst ADDR:PORT CONNECTIONS [CLIENT]: opens them, waits until all are, resets them all.
burst()
{
	read_report "$("${as_client[@]}" burst --from "${3:-$(client_of "$1")}" --ports 30000-65535 \
		--to "$1" --connections "$2" --end client-rst 2>"$tmp/errors")"
	((connected + failed == $2)) || fault "a burst of $2: $(cat "$tmp/errors")"
}

# all_connected N / all_refused N: whether the last burst, of N, did.
all_connected()
{
	((connected == $1 && failed == 0)) ||
		fault "$connected of $1 connected" "$(tail -n 2 "$tmp/errors")"
}

all_refused()
{
	((connected == 0 && failed == $1)) || fault "$connected of $1 connected, and none should"
	grep -q 'Connection refused' "$tmp/errors" || fault "not refused: $(head -n 1 "$tmp/errors")"
}

# start_load NAME ADDR:PORT ARGUMENTS...: a load in the background; read_load NAME waits for it.
declare -A load_pids=()
start_load()
{
	"${as_client[@]}" load --from "$(client_of "$2")" --ports 1024-29999 --to "$2" "${@:3}" \
		>"$tmp/load.$1" 2>"$tmp/errors.$1" &
	load_pids[$1]=$!
}

read_load()
{
	wait "${load_pids[$1]}"
	summary=$(tail -n 1 "$tmp/load.$1")
	[[ $summary = *summary* ]] || fault "the load $1: $(cat "$tmp/errors.$1")"
	read_report "$summary"
}

# none_failed NAME: of that load, which has been read.
none_failed() { ((failed == 0)) || fault "$failed connections failed: $(head -n 3 "$tmp/errors.$1")"; }

# look ADDR:PORT N: sets `scheduler` to what the service has, and `weight`, `active` and
# `inactive` to what the director has of rs1:N.
scheduler='' weight='' active='' inactive=''
look()
{
	local numbers service server line here=no

	IFS=.: read -r -a numbers <<<"$1"
	printf -v service %02X%02X%02X%02X:%04X "${numbers[@]}"
	printf -v server 0A020102:%04X "$2"
	scheduler='' weight='' active='' inactive=''
	while read -r -a line; do
		case ${line[0]} in
			TCP)
				here=no
				[ "${line[1]}" != "$service" ] || here=yes scheduler=${line[2]}
				;;
			UDP | FWM) here=no ;;
			'->')
				[ "$here ${line[1]}" = "yes $server" ] || continue
				weight=${line[3]} active=${line[4]} inactive=${line[5]}
				return
				;;
		esac
	done </proc/net/ip_vs
	return 1
}

# send_datagrams ADDR:PORT: sends as many as `datagrams` says, of which each is a flow (-o). No more at
# once than a processor's receive queue takes (net.core.netdev_max_backlog).
datagrams=2000
send_datagrams()
{
	ipvsadm -Z -u "$1"
	for _ in {1..5}; do
		"${as_client[@]}" datagrams --from "$(client_of "$1"):5353" --to "$1" --count $((datagrams / 5)) \
			>"$tmp/report" 2>&1 || fault "$(cat "$tmp/report")"
	done
}

# count_datagrams ADDR:PORT N: sets `counts` to how many each of the servers rs1:1 to rs1:N got. IPVS sums
# them up every two seconds.
counts=()
count_datagrams() { busywait 10000 all_are_counted "$@" || fault "not all were counted: ${counts[*]}"; }

all_are_counted()
{
	mapfile -t counts < <(ipvsadm -Ln --stats --exact -u "$1" | sort -V | awk '$2 ~ /^10\.2\./ { print $3 }')
	((${#counts[@]} == $2 && $(IFS=+ && echo "${counts[*]}") == datagrams))
}

# measure ADDR:PORT: what rs1:5 gets. Sets `fifth` to how many datagrams, and `from` and `to` to when that
# was, in milliseconds after `came`.
came=0 fifth=0 from=0 to=0
measure()
{
	from=$(($(now_ms) - came))
	send_datagrams "$1"
	to=$(($(now_ms) - came))
	count_datagrams "$1" 5
	fifth=${counts[4]:-0}
}

# has_scheduler ADDR:PORT SCHEDULER: whether the service has it.
has_scheduler() { look "$1" 1 && [ "$scheduler" = "$2" ]; }

# ipvsadm that reads one line after another: a process for each change takes much longer than
# the change. `change OPTIONS...` is done when the table shows it.
start_changes()
{
	exec {changes_fd}> >(exec ipvsadm -R 2>"$tmp/errors.changes")
	changes_pid=$!
	changes=0
}

change()
{
	echo "$*" >&"$changes_fd"
	changes=$((changes + 1))
}

end_changes()
{
	exec {changes_fd}>&-
	wait "$changes_pid" || fault "ipvsadm: $(cat "$tmp/errors.changes")"
}

##############################################################################
# The network

setup()
{
	local listen=() n

	# Loads hold more connections than a process may have by default.
	ulimit -n 65536
	setup_network 1
	keep_table_small
	as_client=(nsenter --net="/run/netns/$client" -- "$harness")
	printf 'address add %s dev lo\n' 10.9.0.{1..45} fd00:9::1 | ip -batch -
	printf 'address add %s/24 dev director\n' 10.0.0.{101..145} | configure "$client"
	# A dummy device discards packets to 10.3.0.0/16.
	ip -batch - <<-END
		link add sink type dummy
		address add 10.3.0.1/16 dev sink
		link set sink up
	END
	# Tell each refused client at once, but not before its connect() has returned: TCP ignores an ICMP
	# error that arrives while the socket is locked.
	sysctl_set ipv4/icmp_ratelimit 0
	tc -n "$client" qdisc add dev director root netem delay 1ms limit 10000 ||
		bail_out "cannot make the client's link as slow as a wire"
	nft -f - <<-END || bail_out "cannot load the nft rules"
		table ip services {
			set moved { type ipv4_addr; }
			chain prerouting {
				type filter hook prerouting priority mangle
				ip daddr $fwmark_vip meta mark set 1
				ip daddr @moved meta mark set 2
			}
		}
	END
	for n in {1..32}; do
		listen+=(--listen "10.2.1.2:$n" --listen "[fd00:2:1::2]:$n")
	done
	start_servers --with-port "${listen[@]}"
}

# The kernel asks for the module by the scheduler's name. It is installed for that, beside
# what there is, and taken away again in the end.
install_module()
{
	mkdir -p "$tmp/index" "$modules/updates" && cp -a "$modules"/modules.* "$tmp/index/" &&
		cp "$MODULE" "$modules/updates/ip_vs_reuse.ko" || return
	depmod &
	depmod_pid=$!
}

uninstall_module()
{
	[ -d "$tmp/index" ] || return
	rm -f "$modules/updates/ip_vs_reuse.ko"
	cp -a "$tmp"/index/modules.* "$modules/"
}

##############################################################################
# The script's end

# check_p2c CASE...: sets the network up, runs those cases of the script, or all, and exits. The case
# loads_by_itself loads the module; without it the module is loaded before.
check_p2c()
{
	case_is log_is_clean "the kernel's log is clean"
	choose_cases "$@"
	# shellcheck disable=SC2086 # a list
	set -- $cases
	ktap_plan $#
	note_log
	if [[ $cases = *loads_by_itself* ]]; then
		install_module || bail_out "cannot install the module in $modules"
	else
		insmod "$MODULE" || bail_out "the module cannot be loaded"
	fi
	setup
	for name in "$@"; do
		if [[ $name = rs_rr_* && ! -e $rs_rr ]]; then
			ktap_skip "p2c: ${label_of[$name]}" "needs $rs_rr (IP_VS_REUSE_SELFTESTS=m)"
		elif ((slow > 1)) && grep -qw "$name" <<<"$measured"; then
			ktap_skip "p2c: ${label_of[$name]}" "needs a kernel as fast as others"
		else
			check "$name" "p2c: ${label_of[$name]}"
		fi
	done
	ktap_exit
}

log_is_clean()
{
	local said

	# What is suppressed is what IPVS says when no destination is available.
	said=$(new_complaints | grep -v 'net_ratelimit: ')
	[ -z "$said" ] || fault "$said"
}
