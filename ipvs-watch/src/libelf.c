// SPDX-License-Identifier: GPL-2.0
/*
 * What Debian 13's libelf.a needs and does not contain: a search tree of the pieces that
 * elf_getdata_rawchunk() has read. libbpf does not call that function, so the tree stays empty.
 */

#include <stddef.h>

struct search_tree {
	void *root;
};

void eu_search_tree_init(struct search_tree *tree)
{
	tree->root = NULL;
}

void eu_search_tree_fini(const struct search_tree *tree, const void *free_node)
{
	(void)tree;
	(void)free_node;
}
