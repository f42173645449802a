/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the abstractions of IPVS need and bindgen cannot call: static inlines. Each function
 * is the kernel's of the same name, unless
 * it says more.
 */
#ifndef _IP_VS_REUSE_IPVS_HELPERS_H
#define _IP_VS_REUSE_IPVS_HELPERS_H

struct ip_vs_conn;
struct ip_vs_dest;

void ip_vs_reuse_ip_vs_dest_hold(struct ip_vs_dest *dest);
void ip_vs_reuse_ip_vs_dest_put_and_free(struct ip_vs_dest *dest);
void ip_vs_reuse___ip_vs_conn_put(struct ip_vs_conn *cp);
void ip_vs_reuse_ip_vs_conn_forget_conntrack(struct ip_vs_conn *cp);

#endif /* _IP_VS_REUSE_IPVS_HELPERS_H */
