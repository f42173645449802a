/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _IP_VS_REUSE_NET_FOR_EACH_H
#define _IP_VS_REUSE_NET_FOR_EACH_H

struct net;

void ip_vs_reuse_walk_namespaces(void (*callback)(struct net *net, void *data), void *data);

#endif /* _IP_VS_REUSE_NET_FOR_EACH_H */
