"""One buffer at a time: its lock, its I/O, and marking it dirty.

Linux: the parts of fs/buffer.c (5.3) that know nothing of pages' rings and of the cache of a device.
Same: who submits a buffer has locked it, b_end_io unlocks it; a dirty buffer makes its page and the page's inode dirty.
Owns: kernel.buffers, BH_Lock, BH_Dirty, BH_Uptodate of every buffer. Lock order: page lock, buffer lock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import REQ_META, REQ_OP_READ, REQ_OP_WRITE, REQ_PRIO, REQ_SYNC
from glasskernel.fs.buffer_head import (
    BH_Delay,
    BH_Dirty,
    BH_Lock,
    BH_Mapped,
    BH_Meta,
    BH_Prio,
    BH_Quiet,
    BH_Req,
    BH_Unwritten,
    BH_Uptodate,
    BH_Write_EIO,
    BufferHead,
    get_bh,
    put_bh,
)
from glasskernel.fs.fs_writeback import __mark_inode_dirty
from glasskernel.fs.types import I_DIRTY_PAGES
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.wait import WaitQueueHead, wake_up_all
from glasskernel.kernel.sched.wait_bit import bit_wait_io, out_of_line_wait_on_bit, out_of_line_wait_on_bit_lock
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PG_dirty
from glasskernel.mm.page_writeback import account_page_dirtied, mapping_set_error
from glasskernel.mm.swap import mark_page_accessed

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace


@slotted
class BufferState:
    """kernel.buffers. waiters: who waits for BH_Lock. bh_lrus: by CPU, the last buffers that were asked for."""

    waiters: dict[BufferHead, WaitQueueHead] = field(default_factory=dict)
    bh_lrus: list[list[BufferHead]] = field(default_factory=list)
    max_buffer_heads: int = 0
    nr_buffer_heads: int = 0


# ---- the buffer lock -------------------------------------------------------------------------------
@notrace
def trylock_buffer(bh: BufferHead) -> bool:
    """BH_Lock for the caller if it was free."""
    if bh.b_state & BH_Lock:
        return False
    bh.b_state |= BH_Lock
    return True


@notrace
@may_sleep
def lock_buffer(bh: BufferHead) -> None:
    """Takes BH_Lock. Context: task, a reference to the buffer held."""
    while bh.b_state & BH_Lock:
        __lock_buffer(bh)
    bh.b_state |= BH_Lock


@may_sleep
def __lock_buffer(bh: BufferHead) -> None:
    out_of_line_wait_on_bit_lock(lambda: waiters_of(bh), lambda: bh.b_state & BH_Lock, bit_wait_io)


def unlock_buffer(bh: BufferHead) -> None:
    """Drops BH_Lock. Context: any."""
    bh.b_state &= ~BH_Lock
    queue = bh.kernel.buffers.waiters.pop(bh, None)
    if queue is not None:
        wake_up_all(queue)


@notrace
@may_sleep
def wait_on_buffer(bh: BufferHead) -> None:
    """Waits until the I/O under way is done."""
    if bh.b_state & BH_Lock:
        __wait_on_buffer(bh)


@may_sleep
def __wait_on_buffer(bh: BufferHead) -> None:
    out_of_line_wait_on_bit(lambda: waiters_of(bh), lambda: bh.b_state & BH_Lock, bit_wait_io)


@notrace
def waiters_of(bh: BufferHead) -> WaitQueueHead:
    """Who waits until the buffer is unlocked."""
    waiters = bh.kernel.buffers.waiters
    queue = waiters.get(bh)
    if queue is None:
        queue = waiters[bh] = WaitQueueHead()
    return queue


def touch_buffer(bh: BufferHead) -> None:
    """The buffer is used: reclaim passes its page by once more."""
    probe = bh.kernel.tp.block_touch_buffer
    if probe is not None:
        probe(bh)
    mark_page_accessed(bh.kernel, bh.b_pfn)


@notrace
def brelse(bh: BufferHead | None) -> None:
    """Drops a reference."""
    if bh is not None:
        __brelse(bh)


def __brelse(bh: BufferHead) -> None:
    assert bh.b_count > 0, "brelse() of a free buffer"
    bh.b_count -= 1


# ---- dirty -----------------------------------------------------------------------------------------
def __set_page_dirty(kernel: Kernel, pfn: int, mapping: AddressSpace) -> None:
    """Tags a page whose PG_dirty was just set."""
    if kernel.mem.mapping.get(pfn) is not None:                # not truncated
        account_page_dirtied(kernel, mapping, pfn)


def mark_buffer_dirty(bh: BufferHead) -> None:
    """The block in RAM is newer than the device's: it, its page and the page's inode are dirty. Context: any."""
    kernel = bh.kernel
    probe = kernel.tp.block_dirty_buffer
    if probe is not None:
        probe(bh)
    if bh.b_state & BH_Dirty:
        return
    assert bh.b_state & (BH_Uptodate | BH_Write_EIO), "mark_buffer_dirty() of a buffer that is not up to date"
    bh.b_state |= BH_Dirty
    pfn = bh.b_pfn
    mem = kernel.mem
    if not mem.flags[pfn] & PG_dirty:
        mem.flags[pfn] |= PG_dirty
        mapping = mem.mapping.get(pfn)
        if mapping is not None:
            __set_page_dirty(kernel, pfn, mapping)
            if mapping.host is not None:
                __mark_inode_dirty(mapping.host, I_DIRTY_PAGES)


def mark_buffer_write_io_error(bh: BufferHead) -> None:
    """The block could not be stored: the file that owns it, or the device, has to say so at the next fsync()."""
    bh.b_state |= BH_Write_EIO
    mapping = bh.kernel.mem.mapping.get(bh.b_pfn)
    if mapping is not None:
        mapping_set_error(mapping, EIO)
    if bh.b_assoc_map is not None:
        mapping_set_error(bh.b_assoc_map, EIO)


def buffer_io_error(bh: BufferHead, msg: str) -> None:
    if not bh.b_state & BH_Quiet and bh.b_bdev is not None:
        name = bh.b_bdev.bd_disk.disk_name if bh.b_bdev.bd_disk is not None else b"?"
        part = b"%d" % bh.b_bdev.bd_partno if bh.b_bdev.bd_partno else b""
        printk(bh.kernel, f"Buffer I/O error on dev {(name + part).decode()}, logical block {bh.b_blocknr}{msg}", 3)


# ---- the end of I/O: b_end_io(bh, uptodate). Context: any ---------------------------------------------
def __end_buffer_read_notouch(bh: BufferHead, uptodate: bool) -> None:
    if uptodate:
        bh.b_state |= BH_Uptodate
    else:
        bh.b_state &= ~BH_Uptodate
    unlock_buffer(bh)


def end_buffer_read_sync(bh: BufferHead, uptodate: bool) -> None:
    """A buffer was read; the reference of who submitted it is dropped."""
    __end_buffer_read_notouch(bh, uptodate)
    put_bh(bh)


def end_buffer_write_sync(bh: BufferHead, uptodate: bool) -> None:
    """A buffer was written; the reference of who submitted it is dropped."""
    if uptodate:
        bh.b_state |= BH_Uptodate
    else:
        buffer_io_error(bh, ", lost sync page write")
        mark_buffer_write_io_error(bh)
        bh.b_state &= ~BH_Uptodate
    unlock_buffer(bh)
    put_bh(bh)


# ---- submitting ------------------------------------------------------------------------------------
def end_bio_bh_io_sync(bio: Bio) -> None:
    """bi_end_io: hands the result to the buffer. Context: softirq."""
    bh: BufferHead = bio.bi_private
    assert bh.b_end_io is not None
    bh.b_end_io(bh, not bio.bi_status)
    bio_put(bio)


def guard_bio_eod(op: int, bio: Bio, bh: BufferHead) -> None:
    """A block at the end of an odd-sized device: only the sectors that exist are asked for, the rest reads as zeros."""
    assert bh.b_bdev is not None
    maxsector = bh.b_bdev.bd_inode.i_size >> 9
    if not maxsector or bio.bi_sector >= maxsector:
        return                                     # generic_make_request() will refuse it
    left = (maxsector - bio.bi_sector) << 9
    if left >= bio.bi_size:
        return
    pfn, offset, length = bio.bi_io_vec[-1]
    truncated = bio.bi_size - left
    bio.bi_io_vec[-1] = (pfn, offset, length - truncated)
    bio.bi_size = left
    if op == REQ_OP_READ:
        start = (pfn << 12) + offset + length - truncated
        bh.kernel.mem.ram[start : start + truncated] = bytes(truncated)


def submit_bh_wbc(op: int, op_flags: int, bh: BufferHead) -> None:
    kernel = bh.kernel
    state = bh.b_state
    assert state & (BH_Lock | BH_Mapped | BH_Delay | BH_Unwritten) == BH_Lock | BH_Mapped, f"submit_bh() of {bh!r}"
    assert bh.b_end_io is not None
    if state & BH_Req and op == REQ_OP_WRITE:
        bh.b_state &= ~BH_Write_EIO
    bh.b_state |= BH_Req
    bio = bio_alloc(kernel, 1)
    bio.bi_sector = bh.b_blocknr * (bh.b_size >> 9)
    assert bh.b_bdev is not None
    bio_set_dev(bio, bh.b_bdev)
    bio_add_page(bio, bh.b_pfn, bh.b_size, bh.b_offset)
    bio.bi_end_io = end_bio_bh_io_sync
    bio.bi_private = bh
    guard_bio_eod(op, bio, bh)
    if state & BH_Meta:
        op_flags |= REQ_META
    if state & BH_Prio:
        op_flags |= REQ_PRIO
    bio.bi_opf = op | op_flags
    submit_bio(bio)


def submit_bh(op: int, op_flags: int, bh: BufferHead) -> None:
    """Starts the I/O of one buffer. Locks: buffer; b_end_io is set and will unlock it."""
    submit_bh_wbc(op, op_flags, bh)


@may_sleep
def ll_rw_block(op: int, op_flags: int, bhs: list[BufferHead]) -> None:
    """Starts I/O of unlocked buffers that need it: what is up to date is not read, what is clean is not written."""
    for bh in bhs:
        if not trylock_buffer(bh):
            continue
        if op == REQ_OP_WRITE:
            if bh.b_state & BH_Dirty:
                bh.b_state &= ~BH_Dirty
                bh.b_end_io = end_buffer_write_sync
                get_bh(bh)
                submit_bh(op, op_flags, bh)
                continue
        elif not bh.b_state & BH_Uptodate:
            bh.b_end_io = end_buffer_read_sync
            get_bh(bh)
            submit_bh(op, op_flags, bh)
            continue
        unlock_buffer(bh)


@may_sleep
def write_dirty_buffer(bh: BufferHead, op_flags: int) -> None:
    """Starts to write a buffer if it is dirty."""
    lock_buffer(bh)
    if not bh.b_state & BH_Dirty:
        unlock_buffer(bh)
        return
    bh.b_state &= ~BH_Dirty
    bh.b_end_io = end_buffer_write_sync
    get_bh(bh)
    submit_bh(REQ_OP_WRITE, op_flags, bh)


@may_sleep
def __sync_dirty_buffer(bh: BufferHead, op_flags: int) -> None:
    """Writes a dirty buffer and waits. Raises EIO."""
    assert bh.b_count >= 1
    lock_buffer(bh)
    if not bh.b_state & BH_Dirty:
        unlock_buffer(bh)
        return
    bh.b_state &= ~BH_Dirty
    get_bh(bh)
    bh.b_end_io = end_buffer_write_sync
    submit_bh(REQ_OP_WRITE, op_flags, bh)
    wait_on_buffer(bh)
    if not bh.b_state & BH_Uptodate:
        raise KernelError(EIO)


@may_sleep
def sync_dirty_buffer(bh: BufferHead) -> None:
    """Writes a dirty buffer and waits. Raises EIO."""
    __sync_dirty_buffer(bh, REQ_SYNC)


@may_sleep
def bh_uptodate_or_lock(bh: BufferHead) -> bool:
    """True: up to date. False: it is not, and locked for the caller to read it."""
    if not bh.b_state & BH_Uptodate:
        lock_buffer(bh)
        if not bh.b_state & BH_Uptodate:
            return False
        unlock_buffer(bh)
    return True


@may_sleep
def bh_submit_read(bh: BufferHead) -> None:
    """Reads a buffer and waits. Locks: buffer, dropped. Raises EIO."""
    assert bh.b_state & BH_Lock
    if bh.b_state & BH_Uptodate:
        unlock_buffer(bh)
        return
    get_bh(bh)
    bh.b_end_io = end_buffer_read_sync
    submit_bh(REQ_OP_READ, 0, bh)
    wait_on_buffer(bh)
    if not bh.b_state & BH_Uptodate:
        raise KernelError(EIO)
