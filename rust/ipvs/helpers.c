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
