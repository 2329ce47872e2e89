"""swapon(2): a disk, a partition or a file becomes a swap area.

Linux: the second half of mm/swapfile.c, generic_swapfile_activate() of mm/page_io.c (5.3). Same: the header that
    mkswap(8) writes, priorities, the checks with their messages, extents of files; a swap file cannot be written,
    truncated or removed.
Differs: the size of an area does not depend on how bits of a PTE are spent (it may have 2 ** 32 - 1 pages).
Owns: SwapInfoStruct from the call on until swapoff(2) (mm/swapoff.py) has ended; S_SWAPFILE; makes kernel.swap.
Lock order: i_rwsem of the file, swapon_mutex.
Gaps: discarding (SWAP_FLAG_DISCARD is accepted, and means nothing on a disk that cannot discard), byte-swapped headers,
    ->swap_activate() of file systems, poll(2) of /proc/swaps.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from glasskernel.block.blk_types import QUEUE_FLAG_NONROT
from glasskernel.fs.block_dev import I_BDEV, bdgrab, blkdev_get, blkdev_put, set_blocksize
from glasskernel.fs.file_table import fput
from glasskernel.fs.inode import bmap, inode_lock, inode_unlock
from glasskernel.fs.open import filp_open
from glasskernel.fs.path_walk import getname
from glasskernel.fs.types import FMODE_EXCL, FMODE_READ, FMODE_WRITE, O_RDWR, S_IFBLK, S_IFMT, S_IFREG, S_SWAPFILE
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import EBUSY, EINVAL, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, u32
from glasskernel.lib.uapi import Layout, uapi
from glasskernel.mm.backing_dev import BDI_CAP_STABLE_WRITES, inode_to_bdi
from glasskernel.mm.filemap import filemap_write_and_wait, read_mapping_page
from glasskernel.mm.page_alloc import put_page
from glasskernel.mm.page_io import swap_aops
from glasskernel.mm.shmem_swap import shmem_free_swap, shmem_swap_page_out, shmem_swapin_page
from glasskernel.mm.swap_fault import do_swap_page, do_wp_swap_cache_page
from glasskernel.mm.swap_state import free_swap_cache
from glasskernel.mm.swap_types import (
    MAX_SWAPFILES,
    SWAP_MAP_BAD,
    SWP_BLKDEV,
    SWP_SOLIDSTATE,
    SWP_STABLE_WRITES,
    SWP_USED,
    SWP_WRITEOK,
    SwapInfoStruct,
    SwapState,
)
from glasskernel.mm.swapfile import add_swap_extent, free_swap_and_cache, plist_add, swap_duplicate
from glasskernel.mm.types import AS_NO_WRITEBACK_TAGS, AddressSpace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

SWAP_FLAG_PREFER, SWAP_FLAG_PRIO_MASK = 0x8000, 0x7FFF
SWAP_FLAG_DISCARD, SWAP_FLAG_DISCARD_ONCE, SWAP_FLAG_DISCARD_PAGES = 0x10000, 0x20000, 0x40000
SWAP_FLAGS_VALID: Final = (SWAP_FLAG_PRIO_MASK | SWAP_FLAG_PREFER | SWAP_FLAG_DISCARD | SWAP_FLAG_DISCARD_ONCE
                           | SWAP_FLAG_DISCARD_PAGES)
O_LARGEFILE: Final = 0o100000
MAX_SWAP_BADPAGES: Final = (4086 - 1536) // 4


@uapi("include/linux/swap.h", size=4096)
class SwapHeader(Layout):
    """union swap_header: the first page of an area. last_page: its highest slot."""

    bootbits: Annotated[bytes, "char[1024]"]
    version: u32
    last_page: u32
    nr_badpages: u32
    sws_uuid: Annotated[bytes, "char[16]"]
    sws_volume: Annotated[bytes, "char[16]"]
    padding: Annotated[tuple[int, ...], "u32[117]"]
    badpages: Annotated[tuple[int, ...], "u32[637]"]
    unused: Annotated[bytes, "char[2]"]
    magic: Annotated[bytes, "char[10]"]


# ---- the call ---------------------------------------------------------------------------------------------------
@syscall(gaps="SWAP_FLAG_DISCARD: slots are not discarded")
@may_sleep
def sys_swapon(specialfile: UserPtr, swap_flags: int) -> int:
    """swapon(2). Errors: EPERM (or 32 areas are in use), EINVAL (no header, holes), EBUSY, and those of open(2)."""
    if swap_flags & ~SWAP_FLAGS_VALID:
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    kernel = current().kernel
    swap = swap_init(kernel)
    p = alloc_swap_info(swap)
    name = b""
    try:
        name = getname(specialfile)
        p.swap_file = filp_open(name, O_RDWR | O_LARGEFILE, 0)
        nr_extents, span = setup_swap_area(kernel, p, p.swap_file)
    except KernelError:
        p.flags = 0
        if p.swap_file is not None:
            fput(p.swap_file)
            p.swap_file = None
        raise
    mutex_lock(swap.swapon_mutex)
    prio = swap_flags & SWAP_FLAG_PRIO_MASK if swap_flags & SWAP_FLAG_PREFER else -1
    enable_swap_info(swap, p, prio)
    printk(kernel, f"Adding {p.pages << 2}k swap on {name.decode(errors='replace')}.  Priority:{p.prio} "
                   f"extents:{nr_extents} across:{span << 2}k {'SS' if p.flags & SWP_SOLIDSTATE else ''}")
    mutex_unlock(swap.swapon_mutex)
    return 0


@notrace
def swap_init(kernel: Kernel) -> SwapState:
    """The first area: from now on pages may be swapped."""
    if kernel.swap is None:
        kernel.swap = SwapState(swap_duplicate, free_swap_and_cache, free_swap_cache, do_swap_page,
                                do_wp_swap_cache_page, shmem_swap_page_out, shmem_swapin_page, shmem_free_swap)
    return kernel.swap


def alloc_swap_info(swap: SwapState) -> SwapInfoStruct:
    """The lowest type that is not in use. Raises EPERM."""
    for type, si in enumerate(swap.info):
        if not si.flags:
            swap.info[type] = SwapInfoStruct(type, SWP_USED)
            return swap.info[type]
    if len(swap.info) >= MAX_SWAPFILES:
        raise KernelError(EPERM)
    si = SwapInfoStruct(len(swap.info), SWP_USED)
    swap.info.append(si)
    swap.spaces.append(AddressSpace(None, swap_aops, flags=AS_NO_WRITEBACK_TAGS))    # init_swap_address_space()
    return si


@notrace
@may_sleep
def setup_swap_area(kernel: Kernel, p: SwapInfoStruct, swap_file: File) -> tuple[int, int]:
    """Claims the file, reads its header, finds its blocks. (extents, pages between the first and the last one).

    Raises EINVAL, EBUSY, EIO.
    """
    mapping = swap_file.f_mapping
    inode = mapping.host
    assert inode is not None
    claim_swapfile(p, inode)
    try:
        page = read_mapping_page(mapping, 0, swap_file)
        header = SwapHeader.unpack(kernel.mem.ram[page << 12 : (page + 1) << 12])
        put_page(kernel, page)
        maxpages = read_swap_header(kernel, p, header, inode)
        bdi = inode_to_bdi(inode)
        if bdi is not None and bdi.capabilities & BDI_CAP_STABLE_WRITES:
            p.flags |= SWP_STABLE_WRITES
        if p.bdev is not None and p.bdev.bd_disk.queue is not None:
            if p.bdev.bd_disk.queue.queue_flags & QUEUE_FLAG_NONROT:
                p.flags |= SWP_SOLIDSTATE
        found = setup_swap_map_and_extents(kernel, p, header, maxpages)
        inode.i_flags |= S_SWAPFILE
        filemap_write_and_wait(mapping)                  # inode_drain_writes(): nothing dirty may be written later
        return found
    except KernelError:
        inode.i_flags &= ~S_SWAPFILE
        release_bdev(p)
        raise
    finally:
        inode_unlock(inode)


def claim_swapfile(p: SwapInfoStruct, inode: Inode) -> None:
    """A disk is ours alone; a file must not be in use already. i_rwsem is held afterwards. Raises EBUSY, EINVAL."""
    if inode.i_mode & S_IFMT == S_IFBLK:
        bdev = bdgrab(I_BDEV(inode))
        blkdev_get(bdev, FMODE_READ | FMODE_WRITE | FMODE_EXCL, p)
        p.bdev = bdev
        p.old_block_size = bdev.bd_block_size
        set_blocksize(bdev, 4096)
        p.flags |= SWP_BLKDEV
    elif inode.i_mode & S_IFMT == S_IFREG:
        p.bdev = inode.i_sb.s_bdev
    else:
        raise KernelError(EINVAL)
    inode_lock(inode)
    if inode.i_flags & S_SWAPFILE:
        inode_unlock(inode)
        release_bdev(p)
        raise KernelError(EBUSY)


@notrace
@may_sleep
def release_bdev(p: SwapInfoStruct) -> None:
    """A disk has the block size it had, and is free for others."""
    bdev, p.bdev = p.bdev, None
    if p.flags & SWP_BLKDEV and bdev is not None:
        set_blocksize(bdev, p.old_block_size)
        blkdev_put(bdev, FMODE_READ | FMODE_WRITE | FMODE_EXCL)


# ---- what is on it ----------------------------------------------------------------------------------------------
def read_swap_header(kernel: Kernel, p: SwapInfoStruct, header: SwapHeader, inode: Inode) -> int:
    """Checks what mkswap(8) wrote; answers how many slots there are, the header's included. Raises EINVAL."""
    complaint = ""
    if header.magic != b"SWAPSPACE2":
        complaint = "Unable to find swap-space signature"
    elif header.version != 1:
        complaint = f"Unable to handle swap header version {header.version}"
    elif not header.last_page:
        complaint = "Empty swap-file"
    elif header.last_page + 1 > inode.i_size >> 12:
        complaint = "Swap area shorter than signature indicates"
    if complaint:
        printk(kernel, complaint, 3 if header.magic != b"SWAPSPACE2" else 4)
        raise KernelError(EINVAL)
    if (header.nr_badpages and inode.i_mode & S_IFMT == S_IFREG) or header.nr_badpages > MAX_SWAP_BADPAGES:
        raise KernelError(EINVAL)
    p.lowest_bit = p.cluster_next = 1
    p.cluster_nr = 0
    p.highest_bit = header.last_page
    return header.last_page + 1


def setup_swap_map_and_extents(kernel: Kernel, p: SwapInfoStruct, header: SwapHeader, maxpages: int) -> tuple[int, int]:
    """The counts of all slots, and where they lie: (extents, span). Raises EINVAL."""
    p.swap_map = bytearray(maxpages)
    p.swap_map[0] = SWAP_MAP_BAD                         # the header
    p.max = maxpages
    p.pages = maxpages - 1
    for page in header.badpages[: header.nr_badpages]:
        if not page or page > header.last_page:
            raise KernelError(EINVAL)
        if page < maxpages and not p.swap_map[page]:
            p.swap_map[page] = SWAP_MAP_BAD
            p.pages -= 1
    found = setup_swap_extents(kernel, p) if p.pages else (0, 0)
    if not p.pages:
        printk(kernel, "Empty swap-file", 4)
        raise KernelError(EINVAL)
    return found


def setup_swap_extents(kernel: Kernel, p: SwapInfoStruct) -> tuple[int, int]:
    """(extents, span): a disk is one; a file has those of its blocks."""
    if p.flags & SWP_BLKDEV:
        add_swap_extent(p, 0, p.max, 0)
        return 0, p.pages
    assert p.swap_file is not None
    return generic_swapfile_activate(kernel, p, p.swap_file)


@may_sleep
def generic_swapfile_activate(kernel: Kernel, p: SwapInfoStruct, swap_file: File) -> tuple[int, int]:
    """Finds the aligned pages of the disk that a file consists of; what fills none is left out. Raises EINVAL."""
    inode = swap_file.f_mapping.host
    assert inode is not None
    blkbits = inode.i_blkbits
    per_page = 4096 >> blkbits
    last_block = inode.i_size >> blkbits
    probe = page_no = nr_extents = highest = 0
    lowest = 1 << 62
    while probe + per_page <= last_block and page_no < p.max:
        cond_resched()
        blocks = [bmap(inode, probe + i) for i in range(per_page)]
        if 0 in blocks:
            printk(kernel, "swapon: swapfile has holes", 3)
            raise KernelError(EINVAL)
        if blocks[0] % per_page or blocks != list(range(blocks[0], blocks[0] + per_page)):
            probe += 1
            continue
        first = blocks[0] // per_page
        if page_no:                                      # the header does not count
            lowest, highest = min(lowest, first), max(highest, first)
        nr_extents += add_swap_extent(p, page_no, 1, first)
        page_no += 1
        probe += per_page
    page_no = max(page_no, 1)
    p.max = page_no
    p.pages = page_no - 1
    p.highest_bit = page_no - 1
    return nr_extents, 1 + highest - lowest if page_no > 1 else 0


def enable_swap_info(swap: SwapState, p: SwapInfoStruct, prio: int) -> None:
    """From now on pages are swapped to it. prio -1: below all others. Locks: swapon_mutex."""
    if prio < 0:
        swap.least_priority -= 1
        prio = swap.least_priority
    p.prio = prio
    p.flags |= SWP_WRITEOK
    swap.nr_swap_pages += p.pages
    swap.total_swap_pages += p.pages
    plist_add(swap.active, p)
