/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for the abstractions of IPVS: bindgen cannot bind to static inline functions. A helper
 * is named for the function that it calls, or has a comment in helpers.c.
 */
#ifndef _IP_VS_REUSE_IPVS_HELPERS_H
#define _IP_VS_REUSE_IPVS_HELPERS_H

#include <linux/types.h>

struct ip_vs_conn;
struct ip_vs_dest;

void ip_vs_reuse_ip_vs_dest_hold(struct ip_vs_dest *dest);
void ip_vs_reuse_ip_vs_dest_put_and_free(struct ip_vs_dest *dest);
bool ip_vs_reuse___ip_vs_conn_get(struct ip_vs_conn *cp);
void ip_vs_reuse___ip_vs_conn_put(struct ip_vs_conn *cp);
void ip_vs_reuse_ip_vs_conn_forget_conntrack(struct ip_vs_conn *cp);

#endif /* _IP_VS_REUSE_IPVS_HELPERS_H */
