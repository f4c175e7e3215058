// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two functions that elfutils 0.192's static libelf.a calls from its private libeu.a, which Debian does not ship.
 * They set up and tear down the tree behind elf_getdata_rawchunk(), which libbpf never calls. Weak, so that a
 * libelf that brings its own wins.
 */
void eu_search_tree_init(void *tree);
void eu_search_tree_fini(void *tree, void *free_node);

__attribute__((weak)) void eu_search_tree_init(void *tree)
{
	(void)tree;
}

__attribute__((weak)) void eu_search_tree_fini(void *tree, void *free_node)
{
	(void)tree;
	(void)free_node;
}
