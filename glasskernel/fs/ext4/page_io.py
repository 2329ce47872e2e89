"""Writing pages: bios, and what happens when they are done.

Linux: fs/ext4/page-io.c (5.3). Same: neighbours share a bio, a page's write-back ends with its last buffer, unwritten
    extents are converted in the workqueue "ext4-rsv-conversion" when an io end asks for it (dioread_nolock).
Differs: a bio remembers its buffers in bi_private.
Owns: Ext4IoEnd. Invariant: an io end holds its count once for each bio under way and once for who builds it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import REQ_OP_WRITE, REQ_SYNC
from glasskernel.fs.buffer_head import (
    BH_Async_Write,
    BH_Delay,
    BH_Dirty,
    BH_Mapped,
    BH_New,
    BH_Unwritten,
    BH_Uptodate,
    buffers_of,
    page_buffers,
)
from glasskernel.fs.buffer_io import mark_buffer_write_io_error
from glasskernel.fs.ext4.convert import ext4_convert_unwritten_extents
from glasskernel.fs.ext4.errors import KERN_WARNING
from glasskernel.fs.ext4.ext4_jbd2 import Handle
from glasskernel.fs.ext4.types import EXT4_I, EXT4_SB
from glasskernel.fs.inode_wait import wait_while_inode, wake_up_inode
from glasskernel.kernel.printk import printk
from glasskernel.kernel.workqueue import WorkStruct, queue_work
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PG_error
from glasskernel.mm.page_writeback import end_page_writeback, mapping_set_error, set_page_writeback
from glasskernel.mm.pagemap import unlock_page, zero_user_segment
from glasskernel.mm.types import WB_SYNC_ALL

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode
    from glasskernel.mm.types import WritebackControl

EXT4_IO_END_UNWRITTEN = 1


@slotted
class Ext4IoEnd:
    """ext4_io_end_t. bios: finished, but their pages wait for the conversion of their extents."""

    inode: Inode
    handle: Handle = None
    flag: int = 0
    count: int = 1
    offset: int = 0
    size: int = 0
    bios: list[Bio] = field(default_factory=list)


@slotted
class Ext4IoSubmit:
    """struct ext4_io_submit: the bio under construction."""

    io_wbc: WritebackControl
    io_bio: Bio | None = None
    io_end: Ext4IoEnd = None  # type: ignore[assignment]
    io_next_block: int = 0


# ---- the end of I/O ----------------------------------------------------------------------------------------
def ext4_init_io_end(inode: Inode) -> Ext4IoEnd:
    return Ext4IoEnd(inode)


def ext4_get_io_end(io_end: Ext4IoEnd) -> Ext4IoEnd:
    io_end.count += 1
    return io_end


def ext4_finish_bio(bio: Bio) -> None:
    """The buffers of a bio are stored; a page without further buffers under way ends its write-back. Context: any."""
    kernel = bio.kernel
    _, buffers = bio.bi_private
    for bh in buffers:
        bh.b_state &= ~BH_Async_Write
        if bio.bi_status:
            kernel.mem.flags[bh.b_pfn] |= PG_error
            mapping = kernel.mem.mapping.get(bh.b_pfn)
            if mapping is not None:
                mapping_set_error(mapping, EIO)
            mark_buffer_write_io_error(bh)
    done: dict[int, None] = {}
    for bh in buffers:
        pfn = bh.b_pfn
        if pfn not in done and not any(each.b_state & BH_Async_Write for each in buffers_of(page_buffers(kernel, pfn))):
            done[pfn] = None
            end_page_writeback(kernel, pfn)


def ext4_release_io_end(io_end: Ext4IoEnd) -> None:
    for bio in io_end.bios:
        ext4_finish_bio(bio)
        bio_put(bio)
    io_end.bios = []


@notrace
def ext4_set_io_unwritten_flag(inode: Inode, io_end: Ext4IoEnd) -> None:
    """The io end has extents to convert."""
    if not io_end.flag & EXT4_IO_END_UNWRITTEN:
        io_end.flag |= EXT4_IO_END_UNWRITTEN
        EXT4_I(inode).i_unwritten += 1


@notrace
def ext4_clear_io_unwritten_flag(io_end: Ext4IoEnd) -> None:
    """It has none any more. Context: any."""
    if io_end.flag & EXT4_IO_END_UNWRITTEN:
        io_end.flag &= ~EXT4_IO_END_UNWRITTEN
        ei = EXT4_I(io_end.inode)
        ei.i_unwritten -= 1
        if not ei.i_unwritten:
            wake_up_inode(io_end.inode)


@notrace
@may_sleep
def ext4_unwritten_wait(inode: Inode) -> None:
    """Waits until no extent of the file is about to be converted."""
    ei = EXT4_I(inode)
    wait_while_inode(inode, lambda: ei.i_unwritten > 0)


@may_sleep
def ext4_end_io(io_end: Ext4IoEnd) -> None:
    """Converts the extents of an io end. Context: kworker, or who wrote directly."""
    handle, io_end.handle = io_end.handle, None
    try:
        ext4_convert_unwritten_extents(handle, io_end.inode, io_end.offset, io_end.size)
    except KernelError as e:
        sb = io_end.inode.i_sb
        printk(
            sb.kernel,
            f"EXT4-fs ({sb.s_id.decode()}): failed to convert unwritten extents to written extents -- potential data "
            f"loss!  (inode {io_end.inode.i_ino}, offset {io_end.offset}, size {io_end.size}, error {-e.errno})",
            KERN_WARNING,
        )
    ext4_clear_io_unwritten_flag(io_end)
    ext4_release_io_end(io_end)


def ext4_add_complete_io(io_end: Ext4IoEnd) -> None:
    """Leaves the conversion to the workqueue. Context: softirq."""
    ei = EXT4_I(io_end.inode)
    wq = EXT4_SB(io_end.inode.i_sb).rsv_conversion_wq
    if ei.i_rsv_conversion_work is None:
        ei.i_rsv_conversion_work = WorkStruct(ext4_end_io_rsv_work, ei)
    ei.i_rsv_conversion_list.append(io_end)
    queue_work(wq, ei.i_rsv_conversion_work)


@may_sleep
def ext4_end_io_rsv_work(work: WorkStruct) -> None:
    ei = work.data
    todo, ei.i_rsv_conversion_list = ei.i_rsv_conversion_list, []
    for io_end in todo:
        ext4_end_io(io_end)


def ext4_put_io_end_defer(io_end: Ext4IoEnd) -> None:
    """Drops a use; conversion, if there is one, goes to the workqueue. Context: any."""
    io_end.count -= 1
    if not io_end.count:
        if not io_end.flag & EXT4_IO_END_UNWRITTEN or not io_end.size:
            ext4_clear_io_unwritten_flag(io_end)
            ext4_release_io_end(io_end)
            return
        ext4_add_complete_io(io_end)


@may_sleep
def ext4_put_io_end(io_end: Ext4IoEnd) -> None:
    """Drops a use; conversion happens here."""
    io_end.count -= 1
    if not io_end.count:
        if io_end.flag & EXT4_IO_END_UNWRITTEN:
            ext4_end_io(io_end)
        else:
            ext4_release_io_end(io_end)


def ext4_end_bio(bio: Bio) -> None:
    """bi_end_io. Context: softirq."""
    io_end: Ext4IoEnd = bio.bi_private[0]
    if bio.bi_status:
        inode = io_end.inode
        buffers = bio.bi_private[1]
        printk(
            bio.kernel,
            f"EXT4-fs warning (device {inode.i_sb.s_id.decode()}): ext4_end_bio:315: I/O error {bio.bi_status} writing "
            f"to inode {inode.i_ino} (offset {io_end.offset} size {io_end.size} starting block {buffers[0].b_blocknr})",
            KERN_WARNING,
        )
        mapping_set_error(inode.i_mapping, EIO)
    if io_end.flag & EXT4_IO_END_UNWRITTEN:
        io_end.bios.append(bio)
        ext4_put_io_end_defer(io_end)
    else:
        ext4_put_io_end_defer(io_end)
        ext4_finish_bio(bio)
        bio_put(bio)


# ---- building bios -----------------------------------------------------------------------------------------
def ext4_io_submit(io: Ext4IoSubmit) -> None:
    """Submits the bio under construction."""
    bio = io.io_bio
    if bio is not None:
        bio.bi_opf = REQ_OP_WRITE | (REQ_SYNC if io.io_wbc.sync_mode == WB_SYNC_ALL else 0)
        io.io_bio = None
        submit_bio(bio)


@notrace
def io_submit_init_bio(io: Ext4IoSubmit, bh: BufferHead) -> Bio:
    bio = bio_alloc(bh.kernel, 256)
    assert bh.b_bdev is not None
    bio_set_dev(bio, bh.b_bdev)
    bio.bi_sector = bh.b_blocknr * (bh.b_size >> 9)
    bio.bi_end_io = ext4_end_bio
    bio.bi_private = (ext4_get_io_end(io.io_end), [])
    io.io_bio = bio
    io.io_next_block = bh.b_blocknr
    return bio


@notrace
def io_submit_add_bh(io: Ext4IoSubmit, bh: BufferHead) -> None:
    bio = io.io_bio
    if bio is not None and bh.b_blocknr != io.io_next_block:
        ext4_io_submit(io)
        bio = None
    while bio is None or bio_add_page(bio, bh.b_pfn, bh.b_size, bh.b_offset) < bh.b_size:
        ext4_io_submit(io)
        bio = io_submit_init_bio(io, bh)
    bio.bi_private[1].append(bh)
    io.io_next_block += 1


def ext4_bio_write_page(io: Ext4IoSubmit, pfn: int, length: int, inode: Inode) -> None:
    """Writes the dirty buffers of a page; unlocks it. Locks: page, clean since clear_page_dirty_for_io()."""
    kernel = inode.i_sb.kernel
    set_page_writeback(kernel, pfn)
    kernel.mem.flags[pfn] &= ~PG_error
    if length < 4096:
        zero_user_segment(kernel, pfn, length, 4096)     # bytes behind i_size that a mapping wrote
    todo: list[Any] = []
    for bh in buffers_of(page_buffers(kernel, pfn)):
        if bh.b_offset >= length:
            bh.b_state = bh.b_state & ~BH_Dirty | BH_Uptodate
            continue
        state = bh.b_state
        if not state & BH_Dirty or not state & BH_Mapped or state & (BH_Delay | BH_Unwritten):
            if not state & BH_Mapped:
                bh.b_state &= ~BH_Dirty
            if io.io_bio is not None:
                ext4_io_submit(io)
            continue
        bh.b_state = state & ~BH_New | BH_Async_Write
        todo.append(bh)
    for bh in todo:
        io_submit_add_bh(io, bh)
        bh.b_state &= ~BH_Dirty
    unlock_page(kernel, pfn)
    if not todo:
        end_page_writeback(kernel, pfn)
