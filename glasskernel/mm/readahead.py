"""Reading a file's pages before they are asked for.

Linux: mm/readahead.c (5.3). Same: the window of struct file_ra_state, its ramp-up, PG_readahead as the mark
    that starts the next window, context readahead for interleaved streams; random access reads what is
    asked.
Owns: FileRaState (File.f_ra).
Invariant: of a window [start, start + size) the mark lies on start + size - async_size when async_size > 0.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import inode_to_bdi
from glasskernel.mm.page_alloc import GFP_HIGHUSER_MOVABLE, PG_readahead, PG_writeback, put_page
from glasskernel.mm.pagemap import __page_cache_alloc, add_to_page_cache_lru
from glasskernel.mm.types import AddressSpace

if TYPE_CHECKING:
    from glasskernel.fs.types import File

VM_READAHEAD_PAGES = 32        # 128 KB
FMODE_RANDOM = 0x1000          # include/linux/fs.h: POSIX_FADV_RANDOM


@slotted
class FileRaState:
    """struct file_ra_state. In pages, but prev_pos: the byte where the last read ended."""

    start: int = 0
    size: int = 0
    async_size: int = 0
    ra_pages: int = VM_READAHEAD_PAGES
    mmap_miss: int = 0
    prev_pos: int = -1


@notrace
def file_ra(file: File) -> FileRaState:
    """file.f_ra, made at the first use (Linux: file_ra_state_init() at every open)."""
    ra = file.f_ra
    if ra is None:
        ra = FileRaState()
        file_ra_state_init(ra, file.f_mapping)
        file.f_ra = ra
    return ra  # type: ignore[no-any-return]


@notrace
def file_ra_state_init(ra: FileRaState, mapping: AddressSpace) -> None:
    """A window for a fresh open: nothing read so far."""
    bdi = inode_to_bdi(mapping.host)
    ra.ra_pages = VM_READAHEAD_PAGES if bdi is None else bdi.ra_pages
    ra.prev_pos = -1


# ---- entry points ----------------------------------------------------------------------------------
@may_sleep
def page_cache_sync_readahead(
    mapping: AddressSpace, ra: FileRaState, filp: File | None, offset: int, req_size: int
) -> None:
    """A page is missing: reads it and what follows. offset: its index; req_size: pages the caller wants."""
    if not ra.ra_pages:
        return
    if filp is not None and filp.f_mode & FMODE_RANDOM:
        force_page_cache_readahead(mapping, filp, offset, req_size)
        return
    ondemand_readahead(mapping, ra, filp, False, offset, req_size)


@may_sleep
def page_cache_async_readahead(
    mapping: AddressSpace, ra: FileRaState, filp: File | None, pfn: int, offset: int, req_size: int
) -> None:
    """The reader met the PG_readahead mark: starts the next window while it still has pages to read."""
    if not ra.ra_pages:
        return
    flags = current().kernel.mem.flags
    if flags[pfn] & PG_writeback:
        return
    flags[pfn] &= ~PG_readahead
    ondemand_readahead(mapping, ra, filp, True, offset, req_size)


@may_sleep
def force_page_cache_readahead(
    mapping: AddressSpace, filp: File | None, offset: int, nr_to_read: int
) -> None:
    """Reads exactly this range, in pieces of 2 MB: readahead(2), POSIX_FADV_WILLNEED, MADV_WILLNEED."""
    bdi = inode_to_bdi(mapping.host)
    limit = VM_READAHEAD_PAGES if bdi is None else max(bdi.io_pages, bdi.ra_pages)
    nr_to_read = min(nr_to_read, limit)
    while nr_to_read > 0:
        this_chunk = min(512, nr_to_read)
        __do_page_cache_readahead(mapping, filp, offset, this_chunk, 0)
        offset += this_chunk
        nr_to_read -= this_chunk


@notrace
@may_sleep
def ra_submit(ra: FileRaState, mapping: AddressSpace, filp: File | None) -> int:
    """Reads the window as it stands."""
    return __do_page_cache_readahead(mapping, filp, ra.start, ra.size, ra.async_size)


# ---- the window ------------------------------------------------------------------------------------
@notrace
def get_init_ra_size(size: int, maximum: int) -> int:
    """The first window: the request rounded up to a power of two, times 4 or 2, at most `maximum`."""
    newsize = 1 << max(size - 1, 0).bit_length()
    if newsize <= maximum // 32:
        return newsize * 4
    if newsize <= maximum // 4:
        return newsize * 2
    return maximum


@notrace
def get_next_ra_size(ra: FileRaState, maximum: int) -> int:
    """The next window: 4 or 2 times the last one, at most `maximum`."""
    if ra.size < maximum // 16:
        return 4 * ra.size
    if ra.size <= maximum // 2:
        return 2 * ra.size
    return maximum


@notrace
def count_history_pages(mapping: AddressSpace, offset: int, maximum: int) -> int:
    """How many pages right before `offset` are cached: the trace that a sequential reader leaves."""
    pages = mapping.pages
    head = offset - 1
    while head >= 0 and offset - head <= maximum and head in pages:
        head -= 1
    return offset - 1 - head


@notrace
def try_context_readahead(
    mapping: AddressSpace, ra: FileRaState, offset: int, req_size: int, maximum: int
) -> bool:
    """Guesses a window from the cached pages before `offset`, for a reader whose own state does not tell."""
    size = count_history_pages(mapping, offset, maximum)
    if size <= req_size:
        return False
    if size >= offset:                             # from the file's start: a long sequential read
        size *= 2
    ra.start = offset
    ra.size = min(size + req_size, maximum)
    ra.async_size = 1
    return True


@may_sleep
def ondemand_readahead(
    mapping: AddressSpace,
    ra: FileRaState,
    filp: File | None,
    hit_readahead_marker: bool,
    offset: int,
    req_size: int,
) -> int:
    """Decides on the next window and reads it; answers how many pages were started."""
    max_pages = ra.ra_pages
    bdi = inode_to_bdi(mapping.host)
    io_pages = VM_READAHEAD_PAGES if bdi is None else bdi.io_pages
    if req_size > max_pages and io_pages > max_pages:
        max_pages = min(req_size, io_pages)
    if not offset:
        initial = True
    elif offset in (ra.start + ra.size - ra.async_size, ra.start + ra.size):
        ra.start += ra.size                        # as expected: ramp up and go on
        ra.size = get_next_ra_size(ra, max_pages)
        ra.async_size = ra.size
        initial = False
    elif hit_readahead_marker:
        # A mark that is not ours: interleaved readers. The next missing page begins the new window.
        pages = mapping.pages
        start = offset + 1
        while start in pages:
            start += 1
            if start - offset > max_pages:
                return 0
        ra.start = start
        ra.size = start - offset + req_size
        ra.size = get_next_ra_size(ra, max_pages)
        ra.async_size = ra.size
        initial = False
    elif req_size > max_pages or offset - (ra.prev_pos >> 12) in (0, 1):
        initial = True                             # oversized, or sequential but new to us
    elif try_context_readahead(mapping, ra, offset, req_size, max_pages):
        initial = False
    else:
        return __do_page_cache_readahead(mapping, filp, offset, req_size, 0)       # random: as it is
    if initial:
        ra.start = offset
        ra.size = get_init_ra_size(req_size, max_pages)
        ra.async_size = ra.size - req_size if ra.size > req_size else ra.size
    if offset == ra.start and ra.size == ra.async_size:
        # The mark would be met at once: add the next window now.
        add_pages = get_next_ra_size(ra, max_pages)
        if ra.size + add_pages <= max_pages:
            ra.async_size = add_pages
            ra.size += add_pages
        else:
            ra.size = max_pages
            ra.async_size = max_pages >> 1
    return ra_submit(ra, mapping, filp)


@may_sleep
def __do_page_cache_readahead(
    mapping: AddressSpace, filp: File | None, offset: int, nr_to_read: int, lookahead_size: int
) -> int:
    """Reads the pages of [offset, offset + nr_to_read) that are missing and not behind the end of the file.

    Page offset + nr_to_read - lookahead_size gets the PG_readahead mark. Answers how many pages were read.
    """
    inode = mapping.host
    assert inode is not None
    isize = inode.i_size
    if not isize:
        return 0
    end_index = (isize - 1) >> 12
    kernel = current().kernel
    flags = kernel.mem.flags
    cached = mapping.pages
    pages: list[tuple[int, int]] = []
    nr_pages = 0
    mark = offset + nr_to_read - lookahead_size
    for index in range(offset, min(offset + nr_to_read, end_index + 1)):
        if index in cached:
            if pages:                              # a hole in the run: read what is collected
                read_pages(mapping, filp, pages)
                pages = []
            continue
        try:
            pfn = __page_cache_alloc(kernel, GFP_HIGHUSER_MOVABLE)
        except KernelError:
            break                                  # no memory: readahead is only a hint
        if index == mark:
            flags[pfn] |= PG_readahead
        pages.append((index, pfn))
        nr_pages += 1
    if pages:
        read_pages(mapping, filp, pages)
    return nr_pages


@may_sleep
def read_pages(mapping: AddressSpace, filp: File | None, pages: list[tuple[int, int]]) -> None:
    """Puts a run of fresh pages into the cache and starts to read them; an error leaves a page not up to date."""
    kernel = current().kernel
    a_ops = mapping.a_ops
    plug = kernel.filemap.blk_start_plug()
    try:
        if a_ops.readpages is not None:
            a_ops.readpages(filp, mapping, pages)
        else:
            readpage = a_ops.readpage
            for index, pfn in pages:
                if add_to_page_cache_lru(kernel, pfn, mapping, index):
                    with suppress(KernelError):        # the reader itself will meet the error, and report it
                        readpage(filp, mapping, index, pfn)
                put_page(kernel, pfn)
    finally:
        kernel.filemap.blk_finish_plug(plug)
