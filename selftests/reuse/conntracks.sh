#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client reuses its port, and the old connection has no conntrack, or another than usual: notrack,
# vs.conntrack switched between the two connections, settings of conntrack, conntracks that others have
# made, deleted, or let expire.
#
# The network is in lib.sh, the services and what a case does are in lib/rules.sh.
#
# One case: make case TEST=reuse/conntracks.sh CASE=notrack

# shellcheck disable=SC2034 # for lib/cases.sh
# shellcheck disable=SC2119 # conntracks without options
# shellcheck source=selftests/lib/rules.sh
. "$(dirname "$0")/../lib/rules.sh"

need_tools socat
need_modules nf_conntrack_ftp nfnetlink_cttimeout

##############################################################################
# The cases

# notrack, and vs.conntrack switched between the two connections.

case_is notrack "notrack"
notrack() { untracked "$nat"; }
case_is notrack_ipv6 "notrack, IPv6"
notrack_ipv6() { untracked "$nat6"; }

untracked()
{
	notrack_rules
	reset_and_reconnect "$1"
	[ -z "$(conntracks)" ] || fault "there is a conntrack"
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
}

notrack_rules()
{
	rules <<-END
		chain prerouting {
			type filter hook prerouting priority raw
			tcp dport 80 notrack
			tcp sport 80 notrack
		}
	END
}

# The SYN carries no conntrack. The old one stays.
case_is notrack_since "notrack since the old connection"
notrack_since()
{
	reset_and_reconnect "$nat" closed_then_notrack
	[ "$(conntrack_id)" = "$noted" ] || fault "the old conntrack is gone"
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
}

closed_then_notrack()
{
	settled CLOSE
	noted=$(conntrack_id)
	notrack_rules
}

# There is no old conntrack.
case_is notrack_until "notrack until after the old connection"
notrack_until()
{
	notrack_rules
	reset_and_reconnect "$nat" closed_then_tracked
	first_packet kept
	goes_elsewhere
	unseen
}

closed_then_tracked()
{
	settled CLOSE
	no_rules
}

# IPVS drops the packet for its conntrack, whatever the setting is by then.
case_is switched_off "vs.conntrack switched off since"
switched_off()
{
	reset_and_reconnect "$nat" closed_then_switched_off
	without
	kept_with_module
}

closed_then_switched_off()
{
	settled CLOSE
	with ipv4/vs/conntrack=0
}

case_is switched_on "vs.conntrack switched on since"
switched_on()
{
	with ipv4/vs/conntrack=0
	reset_and_reconnect "$nat" closed_then_switched_on
	first_packet kept
	goes_elsewhere
	unseen
}

closed_then_switched_on()
{
	settled CLOSE
	without
}

# Without vs.conntrack an entry has no IP_VS_CONN_F_NFCT. Here somebody else has made a conntrack with
# its addresses. IPVS drops the packet for it, but never kills that conntrack, so the module leaves both
# to IPVS.
case_is entry_untracked "a conntrack that IPVS has not made"
entry_untracked()
{
	with ipv4/vs/conntrack=0
	reset_and_reconnect "$nat" closed_with_conntrack_by_hand
	without
	first_packet lost lost
	goes_elsewhere
	leaves untracked
	[[ " $(conntrack_id) " = *" $noted "* ]] || fault "the conntrack is gone"
}

closed_with_conntrack_by_hand()
{
	settled CLOSE
	[ -z "$(conntracks)" ] || fault "there is a conntrack already"
	conntrack -I -p tcp -s 10.0.0.2 -d 10.9.0.1 --sport "$port" --dport 80 --state ESTABLISHED \
		-t 60 2>/dev/null || fault "cannot make a conntrack"
	noted=$(conntrack_id)
}

# Settings of conntrack, and conntracks that are not there or belong to other connections.

case_is loose_0 "tcp_loose=0"
loose_0() { set_to netfilter/nf_conntrack_tcp_loose=0; }
case_is liberal "tcp_be_liberal=1"
liberal() { set_to netfilter/nf_conntrack_tcp_be_liberal=1; }
case_is invalid_rst "tcp_ignore_invalid_rst=1"
invalid_rst() { set_to netfilter/nf_conntrack_tcp_ignore_invalid_rst=1; }

set_to()
{
	with "$1"
	reset_and_reconnect "$nat"
	without
	kept_with_module
}

case_is deleted_by_hand "the conntrack deleted by hand (conntrack -D)"
deleted_by_hand()
{
	reset_and_reconnect "$nat" closed_then_deleted
	first_packet kept
	goes_elsewhere
	unseen
}

closed_then_deleted()
{
	settled CLOSE
	conntrack -D -p tcp --orig-port-src "$port" >/dev/null 2>&1 || fault "no conntrack to delete"
}

# conntrack forgets the flow before IPVS does.
case_is timed_out_first "the conntrack timed out before the entry"
timed_out_first()
{
	rules <<-END
		ct timeout short {
			protocol tcp
			l3proto ip
			policy = { close: 1 }
		}
		chain prerouting {
			type filter hook prerouting priority filter
			tcp dport 80 ct timeout set "short"
		}
	END
	reset_and_reconnect "$nat" closed_and_timed_out
	no_rules
	first_packet kept
	goes_elsewhere
	unseen
}

closed_and_timed_out()
{
	settled CLOSE
	busywait 5000 no_conntrack || fault "the conntrack stays"
}

no_conntrack() { [ -z "$(conntrack_id)" ]; }

# What helps a little where neither module nor patch can be had.
case_is short_close "nf_conntrack_tcp_timeout_close=1, a second after the server's RST"
short_close()
{
	with netfilter/nf_conntrack_tcp_timeout_close=1
	reset_and_reconnect "$nat" closed_and_timed_out
	without
	first_packet kept
	goes_elsewhere
	unseen
}

# The old conntrack was expected by another one, as FTP's data connections are. IPVS kills it like any
# other, and so does the module.
case_is expected "an expected conntrack"
expected()
{
	rules <<-END
		ct helper ftp {
			type "ftp" protocol tcp
			l3proto ip
		}
		chain prerouting {
			type filter hook prerouting priority filter
			tcp dport 21 ct helper set "ftp"
		}
	END
	announce_connection
	reset_and_reconnect "$nat"
	no_rules
	kept_with_module
}

# An FTP server at the service's address tells the client to connect to port 80 there.
announce_connection()
{
	local server

	echo 'echo 220; read -r; echo "227 (10,9,0,1,0,80)"' >"$tmp/ftpd"
	socat TCP-LISTEN:21,bind=10.9.0.1,reuseaddr EXEC:"bash $tmp/ftpd" &
	server=$!
	in_ns "$client" bash -c '
		until exec 3<>/dev/tcp/10.9.0.1/21; do :; done
		read -r -t 5 <&3 && echo PASV >&3 && read -r -t 5 <&3' 2>/dev/null ||
		fault "no answer from port 21"
	wait "$server"
	[ -n "$(conntrack -L expect 2>/dev/null)" ] || fault "no conntrack is expected"
}

# The director connects from the service's address and port to the client's, so that the client's SYN
# belongs to the reply direction of that conntrack.

# conntrack takes the SYN for one half of a simultaneous open. IPVS drops it and kills the conntrack,
# whatever the direction.
case_is reply "reply direction of a connection in SYN_SENT"
reply()
{
	reset_and_reconnect "$nat" "closed_and_reversed SYN_SENT"
	kept_with_module
}

# To conntrack the SYN is invalid, and carries no conntrack.
case_is reply_established "reply direction of an established connection"
reply_established()
{
	reset_and_reconnect "$nat" "closed_and_reversed ESTABLISHED"
	first_packet kept
	goes_elsewhere
	unseen
}

# closed_and_reversed STATE
closed_and_reversed()
{
	closed_then_deleted
	conntrack -I -p tcp -s 10.9.0.1 -d 10.0.0.2 --sport 80 --dport "$port" --state "$1" -t 60 \
		2>/dev/null || fault "cannot make a conntrack"
}

##############################################################################

run_both_halves "$@"
