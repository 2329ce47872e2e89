"""The objects of swapping: areas, their extents, and what the kernel knows of them.

Linux: include/linux/swap.h, mm/swapfile.c and swap_state.c (5.3). Only data, and what lower files may ask.
Differs: a count beyond SWAP_MAP_MAX goes on in a dict, which Linux keeps in pages of swap count continuations; there is
    one swap cache an area, Linux cuts it into pieces of 64 MB.
Owns: SwapState (kernel.swap), made by the first swapon(2). Until then kernel.swap is None and no page is swapped.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.pgtable import SWP_TYPE_SHIFT
from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.types import AddressSpace, VmAreaStruct, WritebackControl

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

MAX_SWAPFILES: Final = 32

# swap_info_struct.flags
(SWP_USED, SWP_WRITEOK, SWP_DISCARDABLE, SWP_DISCARDING, SWP_SOLIDSTATE, SWP_CONTINUED, SWP_BLKDEV, SWP_ACTIVATED,
 SWP_FS, SWP_AREA_DISCARD, SWP_PAGE_DISCARD, SWP_STABLE_WRITES, SWP_SYNCHRONOUS_IO) = (1 << n for n in range(13))

# swap_map[offset]: how many page-table entries hold the slot, and whether the swap cache does
SWAP_HAS_CACHE, COUNT_CONTINUED = 0x40, 0x80
SWAP_MAP_MAX, SWAP_MAP_BAD = 0x3E, 0x3F


@slotted
class SwapExtent:
    """struct swap_extent: pages [start_page, start_page + nr_pages) of the area lie in a row, from page start_block of
    the device on."""

    start_page: int
    nr_pages: int
    start_block: int


@slotted
class SwapInfoStruct:
    """struct swap_info_struct: one area. Slots are pages; slot 0 holds the header.

    swap_map: SWAP_MAP_* and counts, by slot. continuations: what counts at SWAP_MAP_MAX have beyond that.
    """

    type: int                            # its index in SwapState.info
    flags: int = 0                       # SWP_*
    prio: int = 0
    max: int = 0                         # slots, bad ones and the header included
    pages: int = 0                       # usable slots
    inuse_pages: int = 0
    swap_map: bytearray = field(default_factory=bytearray)
    continuations: dict[int, int] = field(default_factory=dict)
    lowest_bit: int = 0                  # no free slot lies below
    highest_bit: int = 0                 # nor above
    cluster_next: int = 0                # where the next one is looked for
    cluster_nr: int = 0                  # how many follow it until a free cluster is looked for
    swap_extents: list[SwapExtent] = field(default_factory=list)         # by start_page
    bdev: BlockDevice | None = None
    swap_file: File | None = None
    old_block_size: int = 0
    inode: Inode | None = None


@slotted
class ReadaheadStat:
    """How well reading ahead did (mm/swap_state.c)."""

    swapin_readahead_hits: int = 4
    prev_offset: int = 0
    last_readahead_pages: int = 0


@slotted
class SwapState:
    """kernel.swap. The callables are what lower files (page tables, reverse maps) ask of the files of this room.

    info: by type; flags 0: not in use. active: those in use, the highest priority first.
    private: page->private of frames in the swap cache: their swap entry. shmem_swaplist: inodes of tmpfs with swapped
    pages.
    """

    swap_duplicate: Callable[[Kernel, int], None]
    free_swap_and_cache: Callable[[Kernel, int], None]
    free_swap_cache: Callable[[Kernel, int], None]
    do_swap_page: Callable[[VmAreaStruct, int, int, int, int], int]
    do_wp_swap_cache_page: Callable[[VmAreaStruct, int, int, int], int]
    shmem_swap_page_out: Callable[[Kernel, AddressSpace, int, int, WritebackControl], bool]
    shmem_swapin_page: Callable[[Inode, int, int], int]
    shmem_free_swap: Callable[[Inode, int, int], None]
    info: list[SwapInfoStruct] = field(default_factory=list)
    active: list[SwapInfoStruct] = field(default_factory=list)
    spaces: list[AddressSpace] = field(default_factory=list)             # swapper_spaces, by type
    private: dict[int, int] = field(default_factory=dict)
    shmem_swaplist: dict[Inode, None] = field(default_factory=dict)
    total_swap_pages: int = 0
    nr_swap_pages: int = 0                                               # free ones
    least_priority: int = -1
    readahead: ReadaheadStat = field(default_factory=ReadaheadStat)
    swapon_mutex: Mutex = field(default_factory=Mutex)
    add_total: int = 0                                                   # swap_cache_info
    del_total: int = 0
    find_success: int = 0
    find_total: int = 0


@notrace
def swp_entry(type: int, offset: int) -> int:
    return type << SWP_TYPE_SHIFT | offset


@notrace
def swp_type(entry: int) -> int:
    return entry >> SWP_TYPE_SHIFT


@notrace
def swp_offset(entry: int) -> int:
    return entry & (1 << SWP_TYPE_SHIFT) - 1


@notrace
def get_nr_swap_pages(kernel: Kernel) -> int:
    """Free slots of all areas."""
    return kernel.swap.nr_swap_pages if kernel.swap is not None else 0


@notrace
def total_swap_pages(kernel: Kernel) -> int:
    return kernel.swap.total_swap_pages if kernel.swap is not None else 0


@notrace
def vm_swap_full(swap: SwapState) -> bool:
    """More than half is in use: pages give their slots up when they come back."""
    return swap.nr_swap_pages * 2 < swap.total_swap_pages
