"""bios: making them, taking pages in, cutting, chaining, ending.

Linux: block/bio.c, include/linux/bio.h (5.3). Same: a bio ends once, in bio_endio(), when all parts that were chained
    to it have; a clone shares the segments of its original.
Differs: memory is Python's, so there are no bio_sets or mempools and bio_put() frees nothing.
Owns: every Bio's iterator. Context: any, unless it says otherwise.
Gaps: integrity data, cgroups, bounce buffers, user-mapped bios (fs/direct_io.py maps pages itself).
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import (
    BIO_CHAIN,
    BIO_CLONED,
    BIO_TRACE_COMPLETION,
    Bio,
    blk_status_to_errno,
)
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.init.kernel import Kernel


@notrace
def bio_alloc(kernel: Kernel, nr: int) -> Bio:
    """A bio with room for nr segments (bio_alloc_bioset)."""
    return bio_alloc_bioset(kernel, nr)


def bio_alloc_bioset(kernel: Kernel, nr_iovecs: int) -> Bio:
    bio = Bio(kernel)
    bio.bi_max_vecs = nr_iovecs
    return bio


@notrace
def bio_set_dev(bio: Bio, bdev: BlockDevice) -> None:
    """The bio is for this disk or partition."""
    bio.bi_disk = bdev.bd_disk
    bio.bi_partno = bdev.bd_partno


def bio_put(bio: Bio) -> None:
    """Drops a reference; the pages are the owner's to put."""
    assert bio.bi_cnt > 0, "bio_put() once too often"
    bio.bi_cnt -= 1


def bio_add_page(bio: Bio, pfn: int, length: int, offset: int) -> int:
    """Appends a part of a page. Returns length, or 0 if the bio is full."""
    if not __bio_try_merge_page(bio, pfn, length, offset):
        if len(bio.bi_io_vec) >= bio.bi_max_vecs:
            return 0
        __bio_add_page(bio, pfn, length, offset)
    return length


def __bio_try_merge_page(bio: Bio, pfn: int, length: int, offset: int) -> bool:
    """Makes the last segment longer if this is the next part of the same page."""
    if bio.bi_flags & BIO_CLONED or not bio.bi_io_vec:
        return False
    last_pfn, last_offset, last_length = bio.bi_io_vec[-1]
    if last_pfn != pfn or last_offset + last_length != offset:
        return False
    bio.bi_io_vec[-1] = (pfn, last_offset, last_length + length)
    bio.bi_size += length
    return True


def __bio_add_page(bio: Bio, pfn: int, length: int, offset: int) -> None:
    bio.bi_io_vec.append((pfn, offset, length))
    bio.bi_size += length


@notrace
def bio_has_data(bio: Bio) -> bool:
    """False for flushes, discards and the like: bi_size is a length on the disk then, not in memory."""
    return bool(bio.bi_size and bio.bi_io_vec)


@notrace
def bio_sectors(bio: Bio) -> int:
    return bio.bi_size >> 9


@notrace
def bio_for_each_segment(bio: Bio) -> Iterator[tuple[int, int, int]]:
    """(pfn, offset, length) of what is left."""
    left = bio.bi_size
    done = bio.bi_bvec_done
    vec = bio.bi_io_vec
    index = bio.bi_idx
    while left and index < len(vec):
        pfn, offset, length = vec[index]
        take = min(length - done, left)
        yield pfn, offset + done, take
        left -= take
        done = 0
        index += 1


def bio_advance(bio: Bio, nbytes: int) -> None:
    """nbytes from the front are done."""
    bio.bi_sector += nbytes >> 9
    bio.bi_size -= nbytes
    if not bio.bi_io_vec:
        return
    nbytes += bio.bi_bvec_done
    vec = bio.bi_io_vec
    index = bio.bi_idx
    while index < len(vec) and nbytes >= vec[index][2]:
        nbytes -= vec[index][2]
        index += 1
    bio.bi_idx = index
    bio.bi_bvec_done = nbytes


# ---- clones and chains -----------------------------------------------------------------------------
def bio_clone_fast(bio_src: Bio) -> Bio:
    """Another bio for the same pages and sectors."""
    bio = bio_alloc_bioset(bio_src.kernel, 0)
    __bio_clone_fast(bio, bio_src)
    return bio


def __bio_clone_fast(bio: Bio, bio_src: Bio) -> None:
    bio.bi_disk = bio_src.bi_disk
    bio.bi_partno = bio_src.bi_partno
    bio.bi_flags = bio_src.bi_flags & ~(BIO_TRACE_COMPLETION | BIO_CHAIN) | BIO_CLONED
    bio.bi_opf = bio_src.bi_opf
    bio.bi_ioprio = bio_src.bi_ioprio
    bio.bi_io_vec = bio_src.bi_io_vec
    bio.bi_sector = bio_src.bi_sector
    bio.bi_size = bio_src.bi_size
    bio.bi_idx = bio_src.bi_idx
    bio.bi_bvec_done = bio_src.bi_bvec_done


def bio_split(bio: Bio, sectors: int) -> Bio:
    """Cuts the first sectors off: they are the bio that is returned, the rest stays in `bio`."""
    assert 0 < sectors < bio_sectors(bio)
    split = bio_clone_fast(bio)
    split.bi_size = sectors << 9
    bio_advance(bio, split.bi_size)
    split.bi_flags |= bio.bi_flags & BIO_TRACE_COMPLETION
    return split


def bio_chain(bio: Bio, parent: Bio) -> None:
    """`parent` ends only when `bio` has, too."""
    assert bio.bi_end_io is None and bio.bi_private is None
    bio.bi_private = parent
    bio.bi_end_io = bio_chain_endio
    parent.bi_flags |= BIO_CHAIN               # bio_inc_remaining()
    parent.bi_remaining += 1


@notrace
def __bio_chain_endio(bio: Bio) -> Bio:
    parent: Bio = bio.bi_private
    if not parent.bi_status:
        parent.bi_status = bio.bi_status
    bio_put(bio)
    return parent


def bio_chain_endio(bio: Bio) -> None:
    bio_endio(__bio_chain_endio(bio))


@notrace
def bio_remaining_done(bio: Bio) -> bool:
    if not bio.bi_flags & BIO_CHAIN:
        return True
    bio.bi_remaining -= 1
    if bio.bi_remaining:
        return False
    bio.bi_flags &= ~BIO_CHAIN
    return True


def bio_endio(bio: Bio) -> None:
    """The bio is done, bi_status says how. Whoever submitted it hears of it through bi_end_io."""
    while True:
        if not bio_remaining_done(bio):
            return
        if bio.bi_end_io is not bio_chain_endio:
            break
        bio = __bio_chain_endio(bio)           # in a loop: chains may be long
    if bio.bi_flags & BIO_TRACE_COMPLETION:
        bio.bi_flags &= ~BIO_TRACE_COMPLETION
        probe = bio.kernel.tp.block_bio_complete
        if probe is not None and bio.bi_disk is not None:
            probe(bio.bi_disk.queue, bio, -blk_status_to_errno(bio.bi_status))
    if bio.bi_end_io is not None:
        bio.bi_end_io(bio)


@notrace
def bio_io_error(bio: Bio) -> None:
    bio.bi_status = 10                         # BLK_STS_IOERR
    bio_endio(bio)
