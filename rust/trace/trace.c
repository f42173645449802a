// SPDX-License-Identifier: GPL-2.0
/*
 * Instantiates the tracepoints of events.h, with a function to call each of them from Rust.
 */

#include <net/ip_vs.h>

#include "trace.h"

/* Tracepoints store addresses as struct sockaddr, for %pIS: one format for IPv4 and IPv6 */
static void ip_vs_reuse_trace_addr(u8 *to, u16 af, const union nf_inet_addr *addr,
				   __be16 port)
{
	memset(to, 0, sizeof(struct sockaddr_in6));
	if (af == AF_INET6) {
		struct sockaddr_in6 sin6 = {
			.sin6_family = AF_INET6, .sin6_addr = addr->in6, .sin6_port = port,
		};
		memcpy(to, &sin6, sizeof(sin6));
	} else {
		struct sockaddr_in sin = {
			.sin_family = AF_INET, .sin_addr = addr->in, .sin_port = port,
		};
		memcpy(to, &sin, sizeof(sin));
	}
}

#define CREATE_TRACE_POINTS
#include "events.h"

void ip_vs_reuse_trace_replay(const struct ip_vs_conn *cp, const char *reason)
{
	trace_ip_vs_reuse_replay(cp, reason);
}

void ip_vs_reuse_trace_leave(const struct ip_vs_conn *cp, const char *reason)
{
	trace_ip_vs_reuse_leave(cp, reason);
}

void ip_vs_reuse_trace_pick(const struct ip_vs_service *svc, const struct ip_vs_dest *dest)
{
	trace_ip_vs_reuse_pick(svc, dest);
}
