#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# IPVS of other kernels (baselines/*.patch), for comparison in benchmarks: each must behave as its
# patch says. lib/cases.sh says how a case is judged; virtual services as in basics.sh.
#
# IPVS: a directory with the baseline's ip_vs.ko, which is loaded; its name is ipvs-NAME-...
#
# One case: IPVS=legacy make case TEST=baselines/baselines.sh CASE=legacy_drained

# shellcheck disable=SC2034 # for lib/cases.sh
# ipvs-watch knows the current IPVS only.
unset WATCH
# shellcheck source=selftests/lib/cases.sh
. "$(dirname "$0")/../lib/cases.sh"

need_modules nft_masq

nat=10.9.0.1:80
masq=10.9.0.2:80
zone=10.9.0.3:80

baseline=${IPVS:-}
baseline=${baseline##*/ipvs-}
baseline=${baseline%%-*}
case $baseline in
legacy | tencent) ;;
*) skip_all "IPVS is not the directory of a baseline: scripts/build/ipvs-variant.sh legacy, or tencent" ;;
esac

setup()
{
	begin_director 2
	masquerade_and_zone $masq $zone
	service -t $nat -m 80
	service -t $masq -m 80
	service -t $zone -m 82
	make_services
	start_traffic --listen 0.0.0.0:80 --listen 0.0.0.0:82 --proto tcp
}

# expect WHAT: what becomes of the first packet.
expect() { first_packet "$1" "$1"; }

# after_the ENDING STATE WHAT: the old connection has ended, and the new one is scheduled anew.
after_the()
{
	settings 1 0
	reconnect "${service:-$nat}" "settled $2" --end "$1" --timeout 2.5s
	expect "$3"
	goes_elsewhere
}

case_is legacy_server_fin "server's FIN: lost, although conntrack reopens the flow"
legacy_server_fin() { after_the fin TIME_WAIT lost; }
case_is legacy_client_rst "client's RST: lost, although conntrack reopens the flow"
legacy_client_rst() { after_the client-rst CLOSE lost; }
case_is legacy_server_rst "server's RST: lost"
legacy_server_rst() { after_the server-rst CLOSE lost; }

drained()
{
	settings 1 1
	reconnect "$nat" "drain -t $nat" --end hold
	undrain -t "$nat"
	expect "$1"
	goes_elsewhere
}

case_is legacy_drained "still open, server drained: lost"
legacy_drained() { drained lost; }

closed_then_drained()
{
	settled CLOSE
	drain -t "$nat"
}

case_is legacy_drained_mode_0 "server's RST, then drained, conn_reuse_mode=0: sticks to the drained server"
legacy_drained_mode_0()
{
	settings 0 1
	reconnect "$nat" closed_then_drained --end server-rst
	undrain -t "$nat"
	expect kept
	stays
}

server_goes()
{
	remove -t "$nat"
	# An IPVS that removes the entries of a deleted server has done so by then.
	sleep 0.5
	entry_is ESTABLISHED || fault "the entry did not stay"
}

case_is legacy_deleted "still open, server deleted: the entry stays, lost"
legacy_deleted()
{
	settings 1 1
	reconnect "$nat" server_goes --end hold
	restore -t "$nat"
	expect lost
	goes_elsewhere
}

case_is tencent_server_fin "server's FIN: nothing lost"
tencent_server_fin() { after_the fin TIME_WAIT kept; }
case_is tencent_server_rst "server's RST: nothing lost"
tencent_server_rst() { after_the server-rst CLOSE kept; }
case_is tencent_drained "still open, server drained: nothing lost"
tencent_drained() { drained kept; }
case_is tencent_masqueraded "server's RST, masqueraded: lost"
tencent_masqueraded() { local service=$masq; after_the server-rst CLOSE lost; }
case_is tencent_zone "server's RST, conntrack zone: never"
tencent_zone() { local service=$zone; after_the server-rst CLOSE never; }

closed_with_conntrack()
{
	settled CLOSE
	old_conntrack=$(conntrack_id)
}

case_is tencent_stays_on_old_conntrack "server's RST: the new connection has the old conntrack"
tencent_stays_on_old_conntrack()
{
	local old_conntrack='' now

	settings 1 0
	reconnect "$nat" closed_with_conntrack --end server-rst
	expect kept
	now=$(conntrack_id)
	[ -n "$old_conntrack" ] || fault "there was no conntrack"
	[[ $now = *"$old_conntrack"* ]] || fault "had conntrack $old_conntrack, has ${now:-none}"
}

case_is tencent_switched_off "server's RST, conn_reuse_old_conntrack=0: lost"
tencent_switched_off()
{
	sysctl_set ipv4/vs/conn_reuse_old_conntrack 0
	after_the server-rst CLOSE lost
	sysctl_set ipv4/vs/conn_reuse_old_conntrack 1
}

# A case's name begins with its baseline's.
# shellcheck disable=SC2046 # a list
choose_cases $(compgen -A function "${baseline}_")
choose_cases "$@"

half=$baseline column_of[$baseline]="IPVS, $baseline"
# shellcheck disable=SC2086 # a list
set -- $cases
ktap_plan $#
setup
run_cases
ktap_exit
