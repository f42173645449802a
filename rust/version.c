// SPDX-License-Identifier: GPL-2.0
/* The module! macro does not support a version */

#include <linux/module.h>

MODULE_VERSION(IP_VS_REUSE_VERSION);
