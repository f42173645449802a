// SPDX-License-Identifier: GPL-2.0
/* The abstractions' C half once more: an object belongs to one module only. */
#include "../../rust/helpers.c"
