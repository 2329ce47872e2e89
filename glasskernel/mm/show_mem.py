"""The state of memory in the kernel log, and the names of gfp flags.

Linux: lib/show_mem.c, show_free_areas() of mm/page_alloc.c, gfpflag_names of mm/debug.c, show_swap_cache_info() of
    mm/swap_state.c (5.3). Same: lines, their order, figures and units.
Differs: frames of user pages are not counted by zone, so a zone's line has its free frames and marks only.
Owns: nothing. Imported by who reports.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.kernel.printk import printk
from glasskernel.lib.types import notrace
from glasskernel.mm.kswapd import MAX_RECLAIM_RETRIES, zone_lru_size
from glasskernel.mm.page_alloc import (
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    LRU_UNEVICTABLE,
    NR_FILE_DIRTY,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_ISOLATED_ANON,
    NR_ISOLATED_FILE,
    NR_KERNEL_STACK_KB,
    NR_PAGETABLE,
    NR_SHMEM,
    NR_SLAB_RECLAIMABLE,
    NR_SLAB_UNRECLAIMABLE,
    NR_WRITEBACK,
    Zone,
    nr_free_pages,
)
from glasskernel.mm.util import si_swapinfo
from glasskernel.mm.vmstat import node_page_state

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState, PglistData

# gfpflag_names: combinations first
_GFP_NAMES: Final = (
    (0x100CCA, "GFP_HIGHUSER_MOVABLE"), (0x100CC2, "GFP_HIGHUSER"), (0x100CC0, "GFP_USER"),
    (0x400CC0, "GFP_KERNEL_ACCOUNT"), (0xCC0, "GFP_KERNEL"), (0xC40, "GFP_NOFS"), (0xA20, "GFP_ATOMIC"),
    (0xC00, "GFP_NOIO"), (0x800, "GFP_NOWAIT"), (0x1, "GFP_DMA"), (0x2, "__GFP_HIGHMEM"), (0x4, "GFP_DMA32"),
    (0x20, "__GFP_HIGH"), (0x200, "__GFP_ATOMIC"), (0x40, "__GFP_IO"), (0x80, "__GFP_FS"), (0x2000, "__GFP_NOWARN"),
    (0x4000, "__GFP_RETRY_MAYFAIL"), (0x8000, "__GFP_NOFAIL"), (0x10000, "__GFP_NORETRY"), (0x40000, "__GFP_COMP"),
    (0x100, "__GFP_ZERO"), (0x80000, "__GFP_NOMEMALLOC"), (0x20000, "__GFP_MEMALLOC"), (0x100000, "__GFP_HARDWALL"),
    (0x200000, "__GFP_THISNODE"), (0x10, "__GFP_RECLAIMABLE"), (0x8, "__GFP_MOVABLE"), (0x400000, "__GFP_ACCOUNT"),
    (0x1000, "__GFP_WRITE"), (0xC00, "__GFP_RECLAIM"), (0x400, "__GFP_DIRECT_RECLAIM"),
    (0x800, "__GFP_KSWAPD_RECLAIM"),
)


@notrace
def gfp_names(gfp: int) -> str:
    """What %pGg prints."""
    names = []
    for bits, name in _GFP_NAMES:
        if gfp & bits == bits:
            names.append(name)
            gfp &= ~bits
    return "|".join(names) if names else "0x0"


def show_mem(kernel: Kernel) -> None:
    """All of it, in the log."""
    mem = kernel.mem
    printk(kernel, "Mem-Info:", 4)
    show_free_areas(kernel)
    present = sum(zone.end_pfn - zone.start_pfn for zone in mem.zones)
    printk(kernel, f"{present} pages RAM\n0 pages HighMem/MovableOnly\n{present - mem.totalram_pages} pages reserved")


def show_free_areas(kernel: Kernel) -> None:
    mem = kernel.mem
    stat = mem.vm_stat
    lru = [len(pages) for pages in mem.lru]
    free_pcp = sum(len(pcp) for zone in mem.zones for pcp in zone.pcp)
    printk(kernel, f"active_anon:{lru[LRU_ACTIVE_ANON]} inactive_anon:{lru[LRU_INACTIVE_ANON]} "
                   f"isolated_anon:{stat[NR_ISOLATED_ANON]}\n"
                   f" active_file:{lru[LRU_ACTIVE_FILE]} inactive_file:{lru[LRU_INACTIVE_FILE]} "
                   f"isolated_file:{stat[NR_ISOLATED_FILE]}\n"
                   f" unevictable:{lru[LRU_UNEVICTABLE]} dirty:{stat[NR_FILE_DIRTY]} writeback:{stat[NR_WRITEBACK]} "
                   f"unstable:0\n"
                   f" slab_reclaimable:{stat[NR_SLAB_RECLAIMABLE]} "
                   f"slab_unreclaimable:{stat[NR_SLAB_UNRECLAIMABLE]}\n"
                   f" mapped:{stat[NR_FILE_MAPPED]} shmem:{stat[NR_SHMEM]} pagetables:{stat[NR_PAGETABLE]} bounce:0\n"
                   f" free:{nr_free_pages(mem) - free_pcp} free_pcp:{free_pcp} free_cma:0")
    for pgdat in mem.node_data:
        show_node(kernel, mem, pgdat)
    for zone in mem.zones:
        show_zone(kernel, mem, zone)
    for zone in mem.zones:
        show_free_blocks(kernel, zone)
    printk(kernel, f"{stat[NR_FILE_PAGES]} total pagecache pages")
    show_swap_cache_info(kernel)


@notrace
def show_node(kernel: Kernel, mem: MemState, pgdat: PglistData) -> None:
    stat = node_page_state(mem, pgdat)
    lru = [sum([zone_lru_size(mem, zone, lru) for zone in pgdat.node_zones]) << 2 for lru in range(len(mem.lru))]
    printk(kernel, f"Node {pgdat.node_id} active_anon:{lru[LRU_ACTIVE_ANON]}kB "
                   f"inactive_anon:{lru[LRU_INACTIVE_ANON]}kB active_file:{lru[LRU_ACTIVE_FILE]}kB "
                   f"inactive_file:{lru[LRU_INACTIVE_FILE]}kB "
                   f"unevictable:{lru[LRU_UNEVICTABLE]}kB isolated(anon):{stat[NR_ISOLATED_ANON] << 2}kB "
                   f"isolated(file):{stat[NR_ISOLATED_FILE] << 2}kB mapped:{stat[NR_FILE_MAPPED] << 2}kB "
                   f"dirty:{stat[NR_FILE_DIRTY] << 2}kB writeback:{stat[NR_WRITEBACK] << 2}kB "
                   f"shmem:{stat[NR_SHMEM] << 2}kB writeback_tmp:0kB unstable:0kB "
                   f"kernel_stack:{stat[NR_KERNEL_STACK_KB]}kB all_unreclaimable? "
                   f"{'yes' if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES else 'no'}")


@notrace
def show_zone(kernel: Kernel, mem: MemState, zone: Zone) -> None:
    mark = [pages << 2 for pages in zone.watermark]
    free_pcp = sum(map(len, zone.pcp))
    spanned = zone.end_pfn - zone.start_pfn
    local = len(zone.pcp[mem.machine.this_cpu.id])
    printk(kernel, f"Node {zone.node} {zone.name} free:{zone.nr_free << 2}kB min:{mark[0]}kB low:{mark[1]}kB "
                   f"high:{mark[2]}kB present:{spanned << 2}kB managed:{zone.managed_pages << 2}kB bounce:0kB "
                   f"free_pcp:{free_pcp << 2}kB local_pcp:{local << 2}kB free_cma:0kB")
    printk(kernel, "lowmem_reserve[]:" + "".join(f" {pages}" for pages in zone.lowmem_reserve))


@notrace
def show_free_blocks(kernel: Kernel, zone: Zone) -> None:
    blocks = [f"{len(area)}*{4 << order}kB " for order, area in enumerate(zone.free_area)]
    printk(kernel, f"Node {zone.node} {zone.name}: {''.join(blocks)}= {zone.nr_free << 2}kB")


def show_swap_cache_info(kernel: Kernel) -> None:
    swap = kernel.swap
    cached, *counts = ((len(swap.private), swap.add_total, swap.del_total, swap.find_success, swap.find_total)
                       if swap is not None else (0, 0, 0, 0, 0))
    free, total = si_swapinfo(kernel)
    printk(kernel, f"{cached} pages in swap cache\n"
                   f"Swap cache stats: add {counts[0]}, delete {counts[1]}, find {counts[2]}/{counts[3]}\n"
                   f"Free swap  = {free << 2}kB\nTotal swap = {total << 2}kB")
