"""/proc/sys/vm/drop_caches: forgets clean page cache, and unused dentries and inodes.

Linux: fs/drop_caches.c (5.3). Same: 1 pages, 2 dentries and inodes, 3 both; what is in use or dirty stays.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.super import iterate_supers
from glasskernel.kernel.current import current
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import DROP_PAGECACHE, DROP_SLAB, GFP_KERNEL
from glasskernel.mm.shrinker import shrink_slab
from glasskernel.mm.truncate import invalidate_mapping_pages

if TYPE_CHECKING:
    from glasskernel.fs.types import SuperBlock
    from glasskernel.init.kernel import Kernel

_ALL_PAGES = (1 << 52) - 1


@may_sleep
def drop_pagecache_sb(sb: SuperBlock) -> None:
    """Drops the clean, unmapped pages of every file of a file system. tmpfs has no other copy: it keeps them."""
    for inode in list(sb.s_inode_list):
        mapping = inode.i_mapping
        if mapping is not None and mapping.pages and not mapping.unevictable:
            invalidate_mapping_pages(mapping, 0, _ALL_PAGES)
            cond_resched()


def drop_slab(kernel: Kernel) -> None:
    """Drops unused dentries and inodes, until next to nothing goes any more."""
    while shrink_slab(kernel, GFP_KERNEL, 0, 0) > 10:
        pass


@notrace
def drop_caches(kernel: Kernel, what: int) -> None:
    """what: 1 pages, 2 dentries and inodes, 4 says nothing in the log; added up."""
    if what & 1:
        kernel.filemap.invalidate_bh_lrus()        # lru_add_drain_all() does it in later Linux: buffers' pages can go
        iterate_supers(kernel, drop_pagecache_sb)
        kernel.mem.vm_event[DROP_PAGECACHE] += 1
    if what & 2:
        drop_slab(kernel)
        kernel.mem.vm_event[DROP_SLAB] += 1
    if not what & 4:
        task = current()
        printk(kernel, f"{task.comm.decode(errors='replace')} ({task.pid}): drop_caches: {what}")
