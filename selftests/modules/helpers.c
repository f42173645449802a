// SPDX-License-Identifier: GPL-2.0
/* The abstractions' C half once more: an object belongs to one module only. */
#include "../../rust/base/helpers.c"
#include "../../rust/ipvs/helpers.c"
#include "../../rust/ipvs/lookup.c"
#include "../../rust/net/for_each.c"
#include "../../rust/net/helpers.c"
#include "../../rust/netfilter/helpers.c"
