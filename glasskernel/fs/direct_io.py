"""O_DIRECT for file systems on block devices: user pages and the blocks of a file, without the page cache.

Linux: fs/direct-io.c (5.3). Same: do_blockdev_direct_IO() walks the pages of the iterator, asks get_block() for runs of
    blocks, gathers pages that follow one another on the device in one bio, zeros what a read finds in holes and the
    rest of new blocks that are larger than a sector, waits, and lets end_io() convert or extend at the end.
    An asynchronous transfer answers -EIOCBQUEUED; its end runs in the softirq of the last bio, or in the workqueue
    dio/NAME if end_io() may sleep, the data must be stored, or cached pages must go.
Owns: Dio, DioSubmit; inode.i_dio_count; sb.s_dio_done_wq. Lock order: i_rwsem (DIO_LOCKING takes it for reads).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import REQ_OP_READ, REQ_OP_WRITE, REQ_SYNC
from glasskernel.fs.block_dev import bdev_logical_block_size
from glasskernel.fs.buffer_head import BH_Defer_Completion, BH_Mapped, BH_New, BH_Unwritten, BufferHead
from glasskernel.fs.buffer_page import GetBlock, clean_bdev_aliases
from glasskernel.fs.inode import inode_dio_begin, inode_dio_end, inode_lock, inode_unlock
from glasskernel.fs.types import IOCB_DSYNC, IOCB_WRITE, AsyncKiocb, is_sync_kiocb
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.wait import WaitQueueHead, io_wait_event, wake_up_all
from glasskernel.kernel.workqueue import WQ_MEM_RECLAIM, WorkStruct, alloc_workqueue, queue_work
from glasskernel.lib.errno import EINVAL, EIO, EIOCBQUEUED, ENOTBLK, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import filemap_write_and_wait_range, generic_write_sync
from glasskernel.mm.iov_iter import iov_iter_alignment, iov_iter_get_pages
from glasskernel.mm.page_alloc import PG_anon, put_page
from glasskernel.mm.page_writeback import set_page_dirty
from glasskernel.mm.pagemap import zero_user_segment
from glasskernel.mm.truncate import invalidate_inode_pages2_range

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio, BlockDevice
    from glasskernel.fs.types import Inode, Kiocb, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

DIO_PAGES = 64
DIO_LOCKING, DIO_SKIP_HOLES = 0x01, 0x02
DIO_COMPLETE_ASYNC, DIO_COMPLETE_INVALIDATE = 0x01, 0x02
DioIodone = Callable[["Kiocb", int, int, Any], None]         # dio_iodone_t: end_io(iocb, offset, bytes, private)


@slotted
class Dio:
    """struct dio: one transfer. refcount: bios under way, and the submitter of an asynchronous one."""

    kernel: Kernel
    inode: Inode
    iocb: Kiocb
    bdev: BlockDevice
    write: bool
    op_flags: int
    flags: int
    i_size: int
    end_io: DioIodone | None
    refcount: int = 0
    io_error: bool = False
    result: int = 0
    private: Any = None                    # bh.b_private of get_block()
    waiter: WaitQueueHead = field(default_factory=WaitQueueHead)
    pages: list[int] = field(default_factory=list)           # pinned frames, for the end
    is_async: bool = False
    defer_completion: bool = False


@slotted
class DioSubmit:
    """struct dio_submit: where the walk is. In blocks of 1 << blkbits bytes, 1 << blkfactor in one of get_block()."""

    blkbits: int
    blkfactor: int
    get_block: GetBlock
    block_in_file: int
    final_block_in_request: int
    map_bh: BufferHead
    blocks_available: int = 0
    next_block_for_io: int = 0
    final_block_in_bio: int = 0
    bio: Bio | None = None


# ---- bios ------------------------------------------------------------------------------------------
def dio_bio_end_io(bio: Bio) -> None:
    """bi_end_io. Context: softirq."""
    dio: Dio = bio.bi_private
    if bio.bi_status:
        dio.io_error = True
    bio_put(bio)
    dio.refcount -= 1
    if not dio.refcount:
        wake_up_all(dio.waiter)


def dio_bio_end_aio(bio: Bio) -> None:
    """bi_end_io of an asynchronous transfer. Context: softirq."""
    dio: Dio = bio.bi_private
    if bio.bi_status:
        dio.io_error = True
    bio_put(bio)
    dio.refcount -= 1
    if dio.refcount == 1:
        wake_up_all(dio.waiter)                    # the submitter found that it must wait after all
    elif not dio.refcount:
        if dio.defer_completion or (dio.write and dio.inode.i_mapping.pages):
            queue_work(dio.inode.i_sb.s_dio_done_wq, WorkStruct(dio_aio_complete_work, dio))
        else:
            release_pages(dio)
            dio_complete(dio, 0, DIO_COMPLETE_ASYNC)


@may_sleep
def dio_aio_complete_work(work: WorkStruct) -> None:
    """The end of an asynchronous write that has to sleep."""
    dio: Dio = work.data
    release_pages(dio)
    dio_complete(dio, 0, DIO_COMPLETE_ASYNC | DIO_COMPLETE_INVALIDATE)


@may_sleep
def sb_init_dio_done_wq(sb: SuperBlock) -> None:
    """The workqueue for ends that sleep; generic_shutdown_super() destroys it."""
    sb.s_dio_done_wq = alloc_workqueue(sb.kernel, "dio/" + sb.s_id.decode(), WQ_MEM_RECLAIM, 0)


@may_sleep
def dio_set_defer_completion(dio: Dio) -> None:
    """The end must run where it may sleep."""
    dio.defer_completion = True
    if dio.inode.i_sb.s_dio_done_wq is None:
        sb_init_dio_done_wq(dio.inode.i_sb)


def dio_bio_alloc(dio: Dio, sdio: DioSubmit, first_sector: int, nr_vecs: int) -> None:
    bio = bio_alloc(dio.kernel, nr_vecs)
    assert sdio.map_bh.b_bdev is not None
    bio_set_dev(bio, sdio.map_bh.b_bdev)
    bio.bi_sector = first_sector
    bio.bi_opf = (REQ_OP_WRITE if dio.write else REQ_OP_READ) | dio.op_flags
    bio.bi_end_io = dio_bio_end_aio if dio.is_async else dio_bio_end_io
    sdio.bio = bio


def dio_bio_submit(dio: Dio, sdio: DioSubmit) -> None:
    bio = sdio.bio
    assert bio is not None
    bio.bi_private = dio
    dio.refcount += 1
    if dio.write:
        current().write_bytes += bio.bi_size
    sdio.bio = None
    submit_bio(bio)


def submit_page_section(dio: Dio, sdio: DioSubmit, pfn: int, offset: int, length: int, blocknr: int) -> None:
    """Adds a piece of a page at a block of the device to the bio, or to a new one (dio_send_cur_page)."""
    sectors_per_block = sdio.blkbits - 9
    if sdio.bio is not None and sdio.final_block_in_bio != blocknr:
        dio_bio_submit(dio, sdio)
    while True:
        if sdio.bio is None:
            dio_bio_alloc(dio, sdio, blocknr << sectors_per_block, DIO_PAGES)
        assert sdio.bio is not None
        if bio_add_page(sdio.bio, pfn, length, offset) >= length:
            break
        dio_bio_submit(dio, sdio)
    sdio.final_block_in_bio = blocknr + (length >> sdio.blkbits)


# ---- blocks ----------------------------------------------------------------------------------------
@may_sleep
def get_more_blocks(dio: Dio, sdio: DioSubmit) -> None:
    """Asks the file system for the next run. Raises what get_block() raises."""
    factor = sdio.blkfactor
    fs_startblk = sdio.block_in_file >> factor
    fs_endblk = (sdio.final_block_in_request - 1) >> factor
    map_bh = sdio.map_bh
    map_bh.b_state = 0
    map_bh.b_size = (fs_endblk - fs_startblk + 1) << (sdio.blkbits + factor)
    create = dio.write
    if dio.flags & DIO_SKIP_HOLES and dio.i_size and fs_startblk <= (dio.i_size - 1) >> (sdio.blkbits + factor):
        create = False                     # inside the file holes are left to the page cache
    sdio.get_block(dio.inode, fs_startblk, map_bh, int(create))
    dio.private = map_bh.b_private
    if create and map_bh.b_state & BH_Defer_Completion:
        dio_set_defer_completion(dio)
    if map_bh.b_state & BH_Mapped:
        offset_in_run = sdio.block_in_file & ((1 << factor) - 1)
        sdio.blocks_available = (map_bh.b_size >> sdio.blkbits) - offset_in_run
        sdio.next_block_for_io = (map_bh.b_blocknr << factor) + offset_in_run
        if map_bh.b_state & BH_New:
            assert map_bh.b_bdev is not None
            clean_bdev_aliases(map_bh.b_bdev, map_bh.b_blocknr, max(1, map_bh.b_size >> (sdio.blkbits + factor)))


@may_sleep
def dio_zero_block(dio: Dio, sdio: DioSubmit, end: bool) -> None:
    """A new block of the file system is larger than what is written: the rest of it must not show old data."""
    if not sdio.blkfactor or not sdio.map_bh.b_state & BH_New:
        return
    blocks_per_fs_block = 1 << sdio.blkfactor
    this_chunk = sdio.block_in_file & (blocks_per_fs_block - 1)
    if not this_chunk:
        return
    if end:
        this_chunk = blocks_per_fs_block - this_chunk
        first = sdio.next_block_for_io
    else:
        first = sdio.next_block_for_io - this_chunk
    submit_page_section(dio, sdio, dio.kernel.mem.zero_pfn, 0, this_chunk << sdio.blkbits, first)
    if end:
        sdio.next_block_for_io += this_chunk


@may_sleep
def do_direct_IO(dio: Dio, sdio: DioSubmit, to: IovIter) -> None:
    """Walks the iterator's pages. Raises EFAULT, ENOTBLK (a hole in a write: the page cache must do it), EIO."""
    kernel = dio.kernel
    blkbits = sdio.blkbits
    while sdio.block_in_file < sdio.final_block_in_request:
        pages = iov_iter_get_pages(kernel, to, DIO_PAGES, not dio.write)
        dio.pages += [pfn for pfn, _, _ in pages]
        for pfn, start, length in pages:
            stop = start + length
            while start < stop:
                if not sdio.blocks_available:
                    get_more_blocks(dio, sdio)
                    if sdio.map_bh.b_state & BH_Mapped:
                        dio_zero_block(dio, sdio, False)
                if not sdio.map_bh.b_state & BH_Mapped or (not dio.write and sdio.map_bh.b_state & BH_Unwritten):
                    if dio.write:
                        raise KernelError(ENOTBLK)
                    size = min(stop - start, 1 << blkbits)
                    if sdio.block_in_file << blkbits >= -(-dio.i_size >> blkbits) << blkbits:
                        return                     # behind the end
                    zero_user_segment(kernel, pfn, start, start + size)
                    start += size
                    sdio.block_in_file += size >> blkbits
                    dio.result += size
                    if sdio.blocks_available:
                        sdio.blocks_available -= 1
                        sdio.next_block_for_io += 1
                    continue
                this_chunk_blocks = min(sdio.blocks_available, (stop - start) >> blkbits)
                size = this_chunk_blocks << blkbits
                submit_page_section(dio, sdio, pfn, start, size, sdio.next_block_for_io)
                sdio.next_block_for_io += this_chunk_blocks
                sdio.blocks_available -= this_chunk_blocks
                sdio.block_in_file += this_chunk_blocks
                dio.result += size
                start += size
                if sdio.block_in_file >= sdio.final_block_in_request:
                    return


# ---- the end ---------------------------------------------------------------------------------------
@may_sleep
def dio_await_completion(dio: Dio) -> None:
    """Waits for every bio."""
    last = 1 if dio.is_async else 0                # the submitter's own
    io_wait_event(dio.waiter, lambda: dio.refcount == last)


@may_sleep
def dio_complete(dio: Dio, errno: int, flags: int) -> int:
    """How many bytes count; a read ends at i_size. Tells end_io(). Raises EIO and the walk's error if nothing went.

    DIO_COMPLETE_ASYNC: tells ki_complete() instead; it sleeps only with DIO_COMPLETE_INVALIDATE.
    """
    offset = dio.iocb.ki_pos
    transferred = dio.result
    if not dio.write and offset + transferred > dio.i_size:
        transferred = max(dio.i_size - offset, 0)
    if dio.io_error:
        errno = EIO
    if errno:
        transferred = 0 if errno != EINVAL else transferred
    ret = -errno if errno else transferred
    if dio.end_io is not None:
        dio.end_io(dio.iocb, offset, ret, dio.private)
    if flags & DIO_COMPLETE_INVALIDATE and ret > 0 and dio.write and dio.inode.i_mapping.pages:
        try:
            invalidate_inode_pages2_range(dio.inode.i_mapping, offset >> 12, (offset + ret - 1) >> 12)
        except KernelError:
            dio.kernel.printk("Page cache invalidation failure on direct I/O.  Possible data corruption due to "
                              "collision with buffered I/O!", 2)
    inode_dio_end(dio.inode)
    if flags & DIO_COMPLETE_ASYNC:
        iocb = dio.iocb
        assert isinstance(iocb, AsyncKiocb)
        iocb.ki_pos += transferred
        if ret > 0 and dio.write and iocb.ki_flags & IOCB_DSYNC:
            try:
                generic_write_sync(iocb, ret)
            except KernelError as e:
                ret = -e.errno
        iocb.ki_complete(iocb, ret)
        return 0
    if errno:
        raise KernelError(errno)
    return transferred


@may_sleep
def do_blockdev_direct_IO(iocb: Kiocb, inode: Inode, bdev: BlockDevice, to: IovIter, get_block: GetBlock,
                          end_io: DioIodone | None, flags: int) -> int:
    """One direct transfer at iocb.ki_pos: how many bytes went, or -EIOCBQUEUED.

    Raises EINVAL (alignment), EIO, EFAULT, ENOSPC ...

    Locks: a writer holds i_rwsem; with DIO_LOCKING a reader takes it while blocks are looked up.
    """
    kernel = current().kernel
    i_blkbits = blkbits = inode.i_blkbits
    offset = iocb.ki_pos
    count = to.count
    end = offset + count
    write = bool(iocb.ki_flags & IOCB_WRITE)
    align = offset | iov_iter_alignment(to)
    if align & ((1 << blkbits) - 1):
        blkbits = bdev_logical_block_size(bdev).bit_length() - 1
        if align & ((1 << blkbits) - 1):
            raise KernelError(EINVAL)
    if not write and not count:
        return 0
    locked = False
    if flags & DIO_LOCKING and not write:
        inode_lock(inode)
        locked = True
        try:
            filemap_write_and_wait_range(inode.i_mapping, offset, end - 1)
        except KernelError:
            inode_unlock(inode)
            raise
    dio = Dio(kernel, inode, iocb, bdev, write, REQ_SYNC | 1 << 15 if write else 0, flags, inode.i_size, end_io)
    if not write and offset >= dio.i_size:
        if locked:
            inode_unlock(inode)
        return 0
    # A write that makes the file longer is waited for: i_size must not show blocks before their data is there.
    dio.is_async = not is_sync_kiocb(iocb) and not (write and end > inode.i_size)
    if dio.is_async:
        dio.refcount = 1
        if write and iocb.ki_flags & IOCB_DSYNC:
            dio_set_defer_completion(dio)
        elif write and inode.i_sb.s_dio_done_wq is None:
            sb_init_dio_done_wq(inode.i_sb)
    sdio = DioSubmit(blkbits, i_blkbits - blkbits, get_block, offset >> blkbits, end >> blkbits, BufferHead(kernel))
    inode_dio_begin(inode)
    errno = 0
    plug = kernel.filemap.blk_start_plug()
    try:
        try:
            do_direct_IO(dio, sdio, to)
        except KernelError as e:
            errno = e.errno
            if errno == ENOTBLK:
                errno = 0                          # what is left goes through the page cache
        if sdio.map_bh.b_state & BH_Mapped:
            dio_zero_block(dio, sdio, True)
        if sdio.bio is not None:
            dio_bio_submit(dio, sdio)
    finally:
        kernel.filemap.blk_finish_plug(plug)
    if locked:
        inode_unlock(inode)
    if dio.is_async:
        if not errno and dio.result and (not write or dio.result == count):
            dio.refcount -= 1
            if dio.refcount:
                return -EIOCBQUEUED
        else:
            dio_await_completion(dio)
            dio.refcount = 0
    else:
        dio_await_completion(dio)
    release_pages(dio)
    if errno and dio.result and not dio.io_error:
        errno = 0                                  # bytes already moved win
    done = dio_complete(dio, errno, DIO_COMPLETE_INVALIDATE)
    left = count - to.count - dio.result
    if left > 0:
        to.revert(left)                            # pinned, but not transferred
    return done


@notrace
def release_pages(dio: Dio) -> None:
    """Unpins; what a device wrote into file pages makes them dirty (bio_check_pages_dirty)."""
    kernel = dio.kernel
    mem = kernel.mem
    for pfn in dio.pages:
        if not dio.write:
            mem.note_kernel_write(pfn)
            if not mem.flags[pfn] & PG_anon:
                set_page_dirty(kernel, pfn)
        put_page(kernel, pfn)


@may_sleep
def __blockdev_direct_IO(iocb: Kiocb, inode: Inode, bdev: BlockDevice, to: IovIter, get_block: GetBlock,
                         end_io: DioIodone | None = None, flags: int = DIO_LOCKING) -> int:
    """do_blockdev_direct_IO() (Linux has a submit_io argument before flags: only btrfs used it)."""
    return do_blockdev_direct_IO(iocb, inode, bdev, to, get_block, end_io, flags)


@notrace
@may_sleep
def blockdev_direct_IO(iocb: Kiocb, inode: Inode, to: IovIter, get_block: GetBlock) -> int:
    """->direct_IO of simple file systems: locking, holes inside the file go through the page cache."""
    return __blockdev_direct_IO(iocb, inode, inode.i_sb.s_bdev, to, get_block, None, DIO_LOCKING | DIO_SKIP_HOLES)
