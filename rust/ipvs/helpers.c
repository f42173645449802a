// SPDX-License-Identifier: GPL-2.0

#include <net/ip_vs.h>

#include "helpers.h"

void ip_vs_reuse_ip_vs_dest_hold(struct ip_vs_dest *dest)
{
	ip_vs_dest_hold(dest);
}

void ip_vs_reuse_ip_vs_dest_put_and_free(struct ip_vs_dest *dest)
{
	ip_vs_dest_put_and_free(dest);
}

bool ip_vs_reuse___ip_vs_conn_get(struct ip_vs_conn *cp)
{
	return __ip_vs_conn_get(cp);
}

void ip_vs_reuse___ip_vs_conn_put(struct ip_vs_conn *cp)
{
	__ip_vs_conn_put(cp);
}

/*
 * Called after the entry's conntrack was killed. Otherwise the expiry of the entry, which looks up
 * by tuple, would kill the conntrack of the next flow.
 */
void ip_vs_reuse_ip_vs_conn_forget_conntrack(struct ip_vs_conn *cp)
{
	spin_lock_bh(&cp->lock);
	cp->flags &= ~IP_VS_CONN_F_NFCT;
	spin_unlock_bh(&cp->lock);
}
