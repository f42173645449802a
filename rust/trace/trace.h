/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions that hit the tracepoints of events.h, for trace/mod.rs.
 */
#ifndef _IP_VS_REUSE_TRACE_H
#define _IP_VS_REUSE_TRACE_H

struct ip_vs_conn;
struct ip_vs_dest;
struct ip_vs_service;

void ip_vs_reuse_trace_replay(const struct ip_vs_conn *cp, const char *reason);
void ip_vs_reuse_trace_leave(const struct ip_vs_conn *cp, const char *reason);
void ip_vs_reuse_trace_pick(const struct ip_vs_service *svc, const struct ip_vs_dest *dest);

#endif /* _IP_VS_REUSE_TRACE_H */
