"""Discards and zeroes for ranges of a device.

Linux: block/blk-lib.c (5.3). Same: a chain of bios of at most 4 GB each, ended one for all; zeroes are written as pages
    if the device has no command for them.
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_alloc, bio_chain, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio, submit_bio_wait
from glasskernel.block.blk_types import (
    QUEUE_FLAG_DISCARD,
    REQ_NOUNMAP,
    REQ_OP_DISCARD,
    REQ_OP_WRITE,
    REQ_OP_WRITE_ZEROES,
    Bio,
)
from glasskernel.lib.errno import EINVAL, ENXIO, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice

BLKDEV_ZERO_NOUNMAP, BLKDEV_ZERO_NOFALLBACK = 1, 2
_MAX_BIO_SECTORS = (1 << 32) - 1 >> 9


@may_sleep
def blk_next_bio(bio: Bio | None, bdev: BlockDevice) -> Bio:
    """The next bio of a chain; the one before it is submitted."""
    new = bio_alloc(bdev.bd_disk.queue.kernel, 256)
    if bio is not None:
        bio_chain(bio, new)
        submit_bio(bio)
    bio_set_dev(new, bdev)
    return new


@may_sleep
def __blkdev_issue_discard(bdev: BlockDevice, sector: int, nr_sects: int) -> Bio | None:
    """The last bio of a chain of discards. Raises EOPNOTSUPP, EINVAL, EPERM, ENXIO."""
    q = bdev.bd_disk.queue if bdev.bd_disk is not None else None
    if q is None:
        raise KernelError(ENXIO)
    if bdev.bd_part is not None and bdev.bd_part.policy:
        raise KernelError(EPERM)
    if not q.queue_flags & QUEUE_FLAG_DISCARD:
        raise KernelError(EOPNOTSUPP)
    if (sector | nr_sects) & (q.limits.logical_block_size >> 9) - 1:
        raise KernelError(EINVAL)
    bio = None
    while nr_sects:
        count = min(nr_sects, _MAX_BIO_SECTORS & ~7)
        bio = blk_next_bio(bio, bdev)
        bio.bi_sector = sector
        bio.bi_opf = REQ_OP_DISCARD
        bio.bi_size = count << 9
        sector += count
        nr_sects -= count
    return bio


@may_sleep
def blkdev_issue_discard(bdev: BlockDevice, sector: int, nr_sects: int) -> None:
    """The contents of these sectors are not needed any more. Raises EOPNOTSUPP, EINVAL, EIO ..."""
    bio = __blkdev_issue_discard(bdev, sector, nr_sects)
    if bio is not None:
        try:
            submit_bio_wait(bio)
        finally:
            bio_put(bio)


@may_sleep
def __blkdev_issue_write_zeroes(bdev: BlockDevice, sector: int, nr_sects: int, flags: int) -> Bio | None:
    q = bdev.bd_disk.queue
    if bdev.bd_part is not None and bdev.bd_part.policy:
        raise KernelError(EPERM)
    most = q.limits.max_write_zeroes_sectors
    if not most:
        raise KernelError(EOPNOTSUPP)
    bio = None
    while nr_sects:
        count = min(nr_sects, most)
        bio = blk_next_bio(bio, bdev)
        bio.bi_sector = sector
        bio.bi_opf = REQ_OP_WRITE_ZEROES | (REQ_NOUNMAP if flags & BLKDEV_ZERO_NOUNMAP else 0)
        bio.bi_size = count << 9
        sector += count
        nr_sects -= count
    return bio


@may_sleep
def __blkdev_issue_zero_pages(bdev: BlockDevice, sector: int, nr_sects: int) -> Bio | None:
    """Zeroes as data."""
    kernel = bdev.bd_disk.queue.kernel
    bio = None
    while nr_sects:
        bio = blk_next_bio(bio, bdev)
        bio.bi_sector = sector
        bio.bi_opf = REQ_OP_WRITE
        for _ in range(256):
            count = min(8, nr_sects)
            bio.bi_io_vec.append((kernel.mem.zero_pfn, 0, count << 9))
            bio.bi_size += count << 9
            sector += count
            nr_sects -= count
            if not nr_sects:
                break
    return bio


@may_sleep
def blkdev_issue_zeroout(bdev: BlockDevice, sector: int, nr_sects: int, flags: int = 0) -> None:
    """These sectors read as zeroes afterwards. Raises EINVAL, EOPNOTSUPP (BLKDEV_ZERO_NOFALLBACK), EIO."""
    if bdev.bd_disk is None or bdev.bd_disk.queue is None:
        raise KernelError(ENXIO)
    if (sector | nr_sects) & (bdev.bd_disk.queue.limits.logical_block_size >> 9) - 1:
        raise KernelError(EINVAL)
    try:
        bio = __blkdev_issue_write_zeroes(bdev, sector, nr_sects, flags)
        if bio is not None:
            submit_bio_wait(bio)
    except KernelError as error:
        if error.errno != EOPNOTSUPP or flags & BLKDEV_ZERO_NOFALLBACK:
            raise
        bio = __blkdev_issue_zero_pages(bdev, sector, nr_sects)
        if bio is not None:
            submit_bio_wait(bio)
