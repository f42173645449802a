/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints:
 *
 *   ip_vs_reuse_replay  a packet reopens a flow; its conntrack was killed, and it is replayed
 *                       next, which a full receive queue may still prevent (dropped_backlog)
 *   ip_vs_reuse_leave   a packet reopens a flow, and is left to IPVS
 *   ip_vs_reuse_pick    p2c has chosen a destination
 *
 * The reasons are the names of the counters in /proc/net/ip_vs_reuse.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ip_vs_reuse

#if !defined(_IP_VS_REUSE_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _IP_VS_REUSE_EVENTS_H

#include <linux/tracepoint.h>
#include <net/ip_vs.h>

DECLARE_EVENT_CLASS(ip_vs_reuse_match,
	TP_PROTO(const struct ip_vs_conn *cp, const char *reason),
	TP_ARGS(cp, reason),
	TP_STRUCT__entry(
		__field(u16, protocol)
		__field(u16, state)
		__array(u8, client, sizeof(struct sockaddr_in6))
		__array(u8, virtual, sizeof(struct sockaddr_in6))
		__array(u8, server, sizeof(struct sockaddr_in6))
		__string(reason, reason)
	),
	TP_fast_assign(
		__entry->protocol = cp->protocol;
		__entry->state = cp->state;
		ip_vs_reuse_trace_addr(__entry->client, cp->af, &cp->caddr, cp->cport);
		ip_vs_reuse_trace_addr(__entry->virtual, cp->af, &cp->vaddr, cp->vport);
		ip_vs_reuse_trace_addr(__entry->server, cp->daf, &cp->daddr, cp->dport);
		__assign_str(reason);
	),
	TP_printk("protocol=%u client=%pISpc virtual=%pISpc server=%pISpc state=%u reason=%s",
		  __entry->protocol, __entry->client, __entry->virtual, __entry->server,
		  __entry->state, __get_str(reason))
);

DEFINE_EVENT(ip_vs_reuse_match, ip_vs_reuse_replay,
	TP_PROTO(const struct ip_vs_conn *cp, const char *reason),
	TP_ARGS(cp, reason)
);

DEFINE_EVENT(ip_vs_reuse_match, ip_vs_reuse_leave,
	TP_PROTO(const struct ip_vs_conn *cp, const char *reason),
	TP_ARGS(cp, reason)
);

/* The load of the destination does not include the new connection */
TRACE_EVENT(ip_vs_reuse_pick,
	TP_PROTO(const struct ip_vs_service *svc, const struct ip_vs_dest *dest),
	TP_ARGS(svc, dest),
	TP_STRUCT__entry(
		__field(u32, fwmark)
		__field(s32, active)
		__field(s32, weight)
		__field(u16, protocol)
		__array(u8, virtual, sizeof(struct sockaddr_in6))
		__array(u8, server, sizeof(struct sockaddr_in6))
	),
	TP_fast_assign(
		__entry->fwmark = svc->fwmark;
		__entry->active = atomic_read(&dest->activeconns);
		__entry->weight = atomic_read(&dest->weight);
		__entry->protocol = svc->protocol;
		ip_vs_reuse_trace_addr(__entry->virtual, svc->af, &svc->addr, svc->port);
		ip_vs_reuse_trace_addr(__entry->server, dest->af, &dest->addr, dest->port);
	),
	TP_printk("protocol=%u virtual=%pISpc fwmark=%u server=%pISpc active=%d weight=%d",
		  __entry->protocol, __entry->virtual, __entry->fwmark, __entry->server,
		  __entry->active, __entry->weight)
);

#endif /* _IP_VS_REUSE_EVENTS_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE events
#include <trace/define_trace.h>
