"""Dirty inodes and the threads that write them.

Linux: fs/fs-writeback.c (5.3). Same: __mark_inode_dirty() queues an inode on its device's b_dirty and wakes the
    flusher after dirty_writeback_interval; wb_workfn() runs queued works, then old data, then background; inodes move
    from b_dirty to b_io and are requeued, redirtied or dropped as in Linux; I_SYNC while one is written; lazytime.
Differs: no cgroups, so an inode's bdi_writeback is its device's; a list is a dict, oldest first (mm/backing_dev.py);
    a work that somebody waits for carries its count.
Owns: inode.i_wb_list, dirtied_when, I_DIRTY*, I_SYNC; sb.s_inodes_wb.
Invariants: an inode with I_DIRTY is on a list of its device, or has I_SYNC; an inode with I_FREEING is on none.
Gaps: laptop mode, cgroup writeback.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glasskernel.fs.inode_wait import wait_while_inode, wake_up_inode
from glasskernel.fs.types import (
    I_DIRTY,
    I_DIRTY_ALL,
    I_DIRTY_INODE,
    I_DIRTY_PAGES,
    I_DIRTY_SYNC,
    I_DIRTY_TIME,
    I_DIRTY_TIME_EXPIRED,
    I_FREEING,
    I_NEW,
    I_SYNC,
    I_WILL_FREE,
    S_IFBLK,
    S_IFMT,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.kernel.sched.wait import wait_event, wake_up_all
from glasskernel.kernel.time.timer import jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.kernel.workqueue import DelayedWork, delayed_work_pending, schedule_delayed_work, set_worker_desc
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import (
    WB_has_dirty_io,
    WB_registered,
    WB_start_all,
    WB_writeback_running,
    bdi_cap_account_dirty,
    inode_to_bdi,
    wb_has_dirty_io,
    wb_wakeup,
    wb_wakeup_delayed,
)
from glasskernel.mm.dirty_limits import wb_over_bg_thresh, wb_update_bandwidth
from glasskernel.mm.filemap import filemap_fdatawait, filemap_fdatawait_keep_errors
from glasskernel.mm.page_alloc import NR_FILE_DIRTY
from glasskernel.mm.page_writeback import LLONG_MAX, do_writepages
from glasskernel.mm.types import WB_SYNC_ALL, WB_SYNC_NONE, WritebackControl

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.backing_dev import BackingDevInfo, BdiWriteback

MIN_WRITEBACK_PAGES = 4096 >> 2                # 4 MB
# enum wb_reason
(WB_REASON_BACKGROUND, WB_REASON_VMSCAN, WB_REASON_SYNC, WB_REASON_PERIODIC, WB_REASON_LAPTOP_TIMER,
 WB_REASON_FREE_MORE_MEM, WB_REASON_FS_FREE_SPACE, WB_REASON_FORKER_THREAD) = range(8)


@slotted
class WbCompletion:
    """struct wb_completion: how many works, and the one who waits for them, are not done."""

    cnt: int = 1


@slotted
class WbWritebackWork:
    """struct wb_writeback_work. older_than_this: jiffies; only inodes that were dirtied before are written."""

    nr_pages: int
    sb: SuperBlock | None = None
    older_than_this: int | None = None
    sync_mode: int = WB_SYNC_NONE
    tagged_writepages: bool = False
    for_kupdate: bool = False
    range_cyclic: bool = False
    for_background: bool = False
    for_sync: bool = False
    auto_free: bool = False
    reason: int = 0
    done: WbCompletion | None = None


@notrace
def fs_writeback_init(kernel: Kernel) -> None:
    """Plugs the flusher into kernel.writeback, and dirtying into the page cache. Context: boot."""
    state = kernel.writeback
    state.wb_workfn = wb_workfn
    state.wb_start_background_writeback = wb_start_background_writeback
    state.sb_mark_inode_writeback = sb_mark_inode_writeback
    state.sb_clear_inode_writeback = sb_clear_inode_writeback
    kernel.filemap.mark_inode_dirty = __mark_inode_dirty


# ---- lists -----------------------------------------------------------------------------------------
def wb_io_lists_populated(wb: BdiWriteback) -> bool:
    """The first dirty inode of a device. True if it is."""
    if wb_has_dirty_io(wb):
        return False
    wb.state |= WB_has_dirty_io
    return True


def wb_io_lists_depopulated(wb: BdiWriteback) -> None:
    if wb_has_dirty_io(wb) and not wb.b_dirty and not wb.b_io and not wb.b_more_io:
        wb.state &= ~WB_has_dirty_io


def inode_io_list_move_locked(inode: Inode, wb: BdiWriteback, head: dict[Inode, None]) -> bool:
    """Puts an inode on a list, as the newest. True if the device had no dirty inode before."""
    if inode.i_wb_list is not None:
        del inode.i_wb_list[inode]
    head[inode] = None
    inode.i_wb_list = head
    if head is not wb.b_dirty_time:
        return wb_io_lists_populated(wb)
    wb_io_lists_depopulated(wb)
    return False


def inode_io_list_del_locked(inode: Inode, wb: BdiWriteback) -> None:
    if inode.i_wb_list is not None:
        del inode.i_wb_list[inode]
        inode.i_wb_list = None
    wb_io_lists_depopulated(wb)


def inode_io_list_del(inode: Inode) -> None:
    """The inode is going away: off every list."""
    if inode.i_wb_list is not None:
        bdi = inode_to_bdi(inode)
        assert bdi is not None
        inode_io_list_del_locked(inode, bdi.wb)


def sb_mark_inode_writeback(inode: Inode) -> None:
    """A page of the file is on its way: sync(2) will wait for it."""
    inodes = inode.i_sb.s_inodes_wb
    if inode not in inodes:
        inodes[inode] = None
        probe = inode.i_sb.kernel.tp.sb_mark_inode_writeback
        if probe is not None:
            probe(inode)


def sb_clear_inode_writeback(inode: Inode) -> None:
    """No page of it is any more."""
    inodes = inode.i_sb.s_inodes_wb
    if inode in inodes:
        del inodes[inode]
        probe = inode.i_sb.kernel.tp.sb_clear_inode_writeback
        if probe is not None:
            probe(inode)


def redirty_tail(inode: Inode, wb: BdiWriteback) -> None:
    """It could not be written now: it becomes the newest dirty inode, and gets its turn again in 30 s."""
    if wb.b_dirty:
        newest = next(reversed(wb.b_dirty))
        if inode.dirtied_when < newest.dirtied_when:
            inode.dirtied_when = jiffies()
    inode_io_list_move_locked(inode, wb, wb.b_dirty)


def requeue_io(inode: Inode, wb: BdiWriteback) -> None:
    """More to be written at once: the next round."""
    inode_io_list_move_locked(inode, wb, wb.b_more_io)


def inode_sync_complete(inode: Inode) -> None:
    """Ends I_SYNC."""
    inode.i_state &= ~I_SYNC
    wake_up_inode(inode)


def move_expired_inodes(delaying_queue: dict[Inode, None], dispatch_queue: dict[Inode, None], flags: int,
                        work: WbWritebackWork) -> int:
    """Moves inodes that are old enough, grouped by super block; answers how many."""
    older_than_this = work.older_than_this
    expire = 0
    if flags & 1:                                  # EXPIRE_DIRTY_ATIME
        if work.reason == WB_REASON_SYNC:
            older_than_this = None
        else:
            kernel = current().kernel
            older_than_this = jiffies() - kernel.writeback.dirtytime_expire_interval * HZ
        expire = 1
    moved: list[Inode] = []
    for inode in delaying_queue:
        if older_than_this is not None and inode.dirtied_when > older_than_this:
            break
        moved.append(inode)
    sbs = dict.fromkeys(inode.i_sb for inode in moved)
    for sb in sbs:
        for inode in moved:
            if inode.i_sb is sb:
                del delaying_queue[inode]
                dispatch_queue[inode] = None
                inode.i_wb_list = dispatch_queue
                if expire:
                    inode.i_state |= I_DIRTY_TIME_EXPIRED
    return len(moved)


def queue_io(wb: BdiWriteback, work: WbWritebackWork) -> None:
    """Fills b_io: what was left over, and what is old enough."""
    for inode in wb.b_more_io:
        wb.b_io[inode] = None
        inode.i_wb_list = wb.b_io
    wb.b_more_io.clear()
    moved = move_expired_inodes(wb.b_dirty, wb.b_io, 0, work)
    moved += move_expired_inodes(wb.b_dirty_time, wb.b_io, 1, work)
    if moved:
        wb_io_lists_populated(wb)
    probe = wb.bdi.kernel.tp.writeback_queue_io
    if probe is not None:
        probe(wb, work, moved)


# ---- marking ---------------------------------------------------------------------------------------
def __mark_inode_dirty(inode: Inode, flags: int) -> None:
    """The inode (I_DIRTY_SYNC, _DATASYNC), its times only (I_DIRTY_TIME) or its pages are newer than what is stored.

    Context: any. Files of noop_backing_dev_info are never written, so they are on no list.
    """
    sb = inode.i_sb
    kernel = sb.kernel
    probe = kernel.tp.writeback_mark_inode_dirty
    if probe is not None:
        probe(inode, flags)
    if flags & (I_DIRTY_INODE | I_DIRTY_TIME):
        dirty_inode = sb.s_op.dirty_inode
        if dirty_inode is not None:
            probe = kernel.tp.writeback_dirty_inode_start
            if probe is not None:
                probe(inode, flags)
            dirty_inode(inode, flags)
            probe = kernel.tp.writeback_dirty_inode
            if probe is not None:
                probe(inode, flags)
    if flags & I_DIRTY_INODE:
        flags &= ~I_DIRTY_TIME
    dirtytime = flags & I_DIRTY_TIME
    state = inode.i_state
    if state & flags == flags or (dirtytime and state & I_DIRTY_INODE):
        return
    was_dirty = state & I_DIRTY
    if flags & I_DIRTY_INODE:
        state &= ~I_DIRTY_TIME
    inode.i_state = state | flags
    if state & I_SYNC:                             # who writes it puts it on the right list
        return
    if inode.i_mode & S_IFMT != S_IFBLK and not inode.i_hashed and sb is not kernel.vfs.blockdev_superblock:
        return                                     # unlinked, or not known yet: nobody wants it stored
    if state & I_FREEING or was_dirty:
        return
    bdi = inode_to_bdi(inode)
    if bdi is None:
        return
    wb = bdi.wb
    inode.dirtied_when = jiffies()
    if dirtytime:
        inode.dirtied_time_when = jiffies()
        if kernel.writeback.dirtytime_work is None:
            start_dirtytime_writeback(kernel)
    dirty_list = wb.b_dirty if inode.i_state & I_DIRTY else wb.b_dirty_time
    wakeup_bdi = inode_io_list_move_locked(inode, wb, dirty_list)
    probe = kernel.tp.writeback_dirty_inode_enqueue
    if probe is not None:
        probe(inode)
    if wakeup_bdi and bdi_cap_account_dirty(bdi):
        wb_wakeup_delayed(wb)


@notrace
def mark_inode_dirty(inode: Inode) -> None:
    """__mark_inode_dirty(I_DIRTY)"""
    __mark_inode_dirty(inode, I_DIRTY)


@notrace
def mark_inode_dirty_sync(inode: Inode) -> None:
    """__mark_inode_dirty(I_DIRTY_SYNC): not needed to find the data again."""
    __mark_inode_dirty(inode, I_DIRTY_SYNC)


# ---- waiting for I_SYNC ----------------------------------------------------------------------------
@may_sleep
def __inode_wait_for_writeback(inode: Inode) -> None:
    wait_while_inode(inode, lambda: bool(inode.i_state & I_SYNC))


@may_sleep
def inode_wait_for_writeback(inode: Inode) -> None:
    """Until nobody writes the inode."""
    __inode_wait_for_writeback(inode)


# ---- one inode -------------------------------------------------------------------------------------
@may_sleep
def write_inode(inode: Inode, wbc: WritebackControl) -> None:
    """->write_inode(). Raises EIO."""
    write = inode.i_sb.s_op.write_inode
    if write is None:
        return
    kernel = inode.i_sb.kernel
    probe = kernel.tp.writeback_write_inode_start
    if probe is not None:
        probe(inode, wbc)
    write(inode, wbc)
    probe = kernel.tp.writeback_write_inode
    if probe is not None:
        probe(inode, wbc)


@may_sleep
def __writeback_single_inode(inode: Inode, wbc: WritebackControl) -> None:
    """Writes pages, then the inode. Locks: I_SYNC is the caller's. Raises EIO, ENOSPC."""
    mapping = inode.i_mapping
    kernel = inode.i_sb.kernel
    nr_to_write = wbc.nr_to_write
    probe = kernel.tp.writeback_single_inode_start
    if probe is not None:
        probe(inode, wbc, nr_to_write)
    errno = 0
    if mapping is not None:
        try:
            do_writepages(mapping, wbc)
        except KernelError as e:
            errno = e.errno
        # Data first; the inode may say what is valid only once it is. sync(2) waits for all files together.
        if wbc.sync_mode == WB_SYNC_ALL and not wbc.for_sync:
            try:
                filemap_fdatawait(mapping)
            except KernelError as e:
                errno = errno or e.errno
    dirty = inode.i_state & I_DIRTY
    lazytime = False
    if inode.i_state & I_DIRTY_TIME:
        if (dirty & I_DIRTY_INODE or wbc.sync_mode == WB_SYNC_ALL or inode.i_state & I_DIRTY_TIME_EXPIRED
                or jiffies() > inode.dirtied_time_when + kernel.writeback.dirtytime_expire_interval * HZ):
            dirty |= I_DIRTY_TIME | I_DIRTY_TIME_EXPIRED
            lazytime = True
    else:
        inode.i_state &= ~I_DIRTY_TIME_EXPIRED
    inode.i_state &= ~dirty
    if mapping is not None and mapping.dirty:      # dirtied again meanwhile
        inode.i_state |= I_DIRTY_PAGES
    if lazytime:
        probe = kernel.tp.writeback_lazytime
        if probe is not None:
            probe(inode)
        __mark_inode_dirty(inode, I_DIRTY_SYNC)
        inode.i_state &= ~I_DIRTY_SYNC
    if dirty & ~I_DIRTY_PAGES:
        try:
            write_inode(inode, wbc)
        except KernelError as e:
            errno = errno or e.errno
    probe = kernel.tp.writeback_single_inode
    if probe is not None:
        probe(inode, wbc, nr_to_write)
    if errno:
        raise KernelError(errno)


@may_sleep
def writeback_single_inode(inode: Inode, wbc: WritebackControl) -> None:
    """Writes one inode for who asks for just this one (write_inode_now). Raises EIO, ENOSPC."""
    if inode.i_state & I_SYNC:
        if wbc.sync_mode != WB_SYNC_ALL:
            return
        __inode_wait_for_writeback(inode)
    if not inode.i_state & I_DIRTY_ALL and (
            wbc.sync_mode != WB_SYNC_ALL or inode.i_mapping is None or not inode.i_mapping.writeback):
        return
    inode.i_state |= I_SYNC
    try:
        __writeback_single_inode(inode, wbc)
    finally:
        bdi = inode_to_bdi(inode)
        if bdi is not None and not inode.i_state & I_DIRTY_ALL:
            inode_io_list_del_locked(inode, bdi.wb)
        elif bdi is not None and inode.i_wb_list is None and not inode.i_state & I_FREEING:
            inode_io_list_move_locked(inode, bdi.wb, bdi.wb.b_dirty)
        inode_sync_complete(inode)


@notrace
def writeback_chunk_size(wb: BdiWriteback, work: WbWritebackWork) -> int:
    """How many pages of one inode are written before the next inode gets its turn."""
    if work.sync_mode == WB_SYNC_ALL or work.tagged_writepages:
        return LLONG_MAX
    pages = min(wb.avg_write_bandwidth // 2, wb.bdi.kernel.writeback.dirty_limit // 8 or LLONG_MAX)
    pages = min(pages, work.nr_pages)
    return (pages + MIN_WRITEBACK_PAGES) // MIN_WRITEBACK_PAGES * MIN_WRITEBACK_PAGES


def requeue_inode(inode: Inode, wb: BdiWriteback, wbc: WritebackControl) -> None:
    """After it was written: where it belongs now."""
    if inode.i_state & I_FREEING:
        return
    if inode.i_state & I_DIRTY and (wbc.sync_mode == WB_SYNC_ALL or wbc.tagged_writepages):
        inode.dirtied_when = jiffies()             # sync(2) must not chase who dirties it all the time
    if wbc.pages_skipped:
        redirty_tail(inode, wb)
        return
    if inode.i_mapping is not None and inode.i_mapping.dirty:
        if wbc.nr_to_write <= 0:
            requeue_io(inode, wb)                  # its slice was used up
        else:
            redirty_tail(inode, wb)                # blocked by something
    elif inode.i_state & I_DIRTY:
        redirty_tail(inode, wb)
    elif inode.i_state & I_DIRTY_TIME:
        inode.dirtied_when = jiffies()
        inode_io_list_move_locked(inode, wb, wb.b_dirty_time)
    else:
        inode_io_list_del_locked(inode, wb)


@may_sleep
def writeback_sb_inodes(sb: SuperBlock, wb: BdiWriteback, work: WbWritebackWork) -> int:
    """Writes inodes of one file system from b_io; answers how many pages and inodes went."""
    wbc = WritebackControl(0, sync_mode=work.sync_mode, tagged_writepages=work.tagged_writepages,
                           for_kupdate=work.for_kupdate, for_background=work.for_background, for_sync=work.for_sync,
                           range_cyclic=work.range_cyclic, range_start=0, range_end=LLONG_MAX)
    kernel = sb.kernel
    start_time = jiffies()
    wrote = 0
    while wb.b_io:
        inode = next(iter(wb.b_io))
        if inode.i_sb is not sb:
            if work.sb is not None:
                redirty_tail(inode, wb)            # we only want this file system
                continue
            break                                  # the caller takes the next one
        if inode.i_state & (I_NEW | I_FREEING | I_WILL_FREE):
            redirty_tail(inode, wb)
            continue
        if inode.i_state & I_SYNC and wbc.sync_mode != WB_SYNC_ALL:
            requeue_io(inode, wb)                  # somebody writes it
            probe = kernel.tp.writeback_sb_inodes_requeue
            if probe is not None:
                probe(inode)
            continue
        if inode.i_state & I_SYNC:
            inode_sleep_on_writeback(inode)
            continue
        inode.i_state |= I_SYNC
        wbc.inode = inode
        wbc.wb = wb
        write_chunk = writeback_chunk_size(wb, work)
        wbc.nr_to_write = write_chunk
        wbc.pages_skipped = 0
        # I_SYNC keeps the inode: evict() waits for it.
        with suppress(KernelError):                # noted in the mapping: fsync() will tell
            __writeback_single_inode(inode, wbc)
        work.nr_pages -= write_chunk - wbc.nr_to_write
        wrote += write_chunk - wbc.nr_to_write
        cond_resched()
        if not inode.i_state & I_DIRTY_ALL:
            wrote += 1
        requeue_inode(inode, wb, wbc)
        inode_sync_complete(inode)
        if wrote:
            if jiffies() - start_time > HZ // 10:
                break
            if work.nr_pages <= 0:
                break
    return wrote


@may_sleep
def inode_sleep_on_writeback(inode: Inode) -> None:
    """Sleeps once until I_SYNC goes; the inode may be gone afterwards."""
    __inode_wait_for_writeback(inode)


@may_sleep
def __writeback_inodes_wb(wb: BdiWriteback, work: WbWritebackWork) -> int:
    """Writes b_io, one super block after the other."""
    start_time = jiffies()
    wrote = 0
    while wb.b_io:
        inode = next(iter(wb.b_io))
        sb = inode.i_sb
        if not trylock_super(sb):
            redirty_tail(inode, wb)                # being mounted or unmounted
            continue
        wrote += writeback_sb_inodes(sb, wb, work)
        if wrote:
            if jiffies() - start_time > HZ // 10:
                break
            if work.nr_pages <= 0:
                break
    return wrote


def trylock_super(sb: SuperBlock) -> bool:
    """True if the file system is alive: its root is there (s_umount is not a lock here: umount waits for I_SYNC)."""
    return sb.s_root is not None


@may_sleep
def wb_writeback(wb: BdiWriteback, work: WbWritebackWork) -> int:
    """Does one work: until it is done, nothing is left, or (background) the limits are kept. Answers pages written."""
    kernel = wb.bdi.kernel
    state = kernel.writeback
    tp = kernel.tp
    nr_pages = work.nr_pages
    oldest_jif = jiffies()
    work.older_than_this = oldest_jif
    hooks = kernel.filemap
    plug = hooks.blk_start_plug()
    try:
        while True:
            if work.nr_pages <= 0:
                break
            if (work.for_background or work.for_kupdate) and wb.work_list:
                break                              # somebody waits for another work
            if work.for_background and not wb_over_bg_thresh(wb):
                break
            if work.for_kupdate:
                oldest_jif = jiffies() - state.dirty_expire_interval * 10 * HZ // 1000
                work.older_than_this = oldest_jif
            elif work.for_background:
                work.older_than_this = jiffies()
            if tp.writeback_start is not None:
                tp.writeback_start(wb, work)
            wb_start = jiffies()
            if not wb.b_io:
                queue_io(wb, work)
            if work.sb is not None:
                progress = writeback_sb_inodes(work.sb, wb, work)
            else:
                progress = __writeback_inodes_wb(wb, work)
            if tp.writeback_written is not None:
                tp.writeback_written(wb, work)
            wb_update_bandwidth(wb, wb_start)
            if progress:
                continue
            if not wb.b_more_io:
                break
            if tp.writeback_wait is not None:
                tp.writeback_wait(wb, work)
            inode = next(iter(wb.b_more_io))
            if not inode.i_state & I_SYNC:
                break
            inode_sleep_on_writeback(inode)
    finally:
        hooks.blk_finish_plug(plug)
    return nr_pages - work.nr_pages


# ---- works -----------------------------------------------------------------------------------------
def wb_queue_work(wb: BdiWriteback, work: WbWritebackWork) -> None:
    """Queues a work and wakes the flusher."""
    if work.done is not None:
        work.done.cnt += 1
    probe = wb.bdi.kernel.tp.writeback_queue
    if probe is not None:
        probe(wb, work)
    if wb.state & WB_registered:
        wb.work_list.append(work)
        wb_wakeup(wb)
    else:
        finish_writeback_work(wb, work)


def finish_writeback_work(wb: BdiWriteback, work: WbWritebackWork) -> None:
    done = work.done
    if done is not None:
        done.cnt -= 1
        if not done.cnt:
            wake_up_all(wb.bdi.wb_waitq)


@notrace
def get_next_work_item(wb: BdiWriteback) -> WbWritebackWork | None:
    return wb.work_list.popleft() if wb.work_list else None


@notrace
def get_nr_dirty_pages(kernel: Kernel) -> int:
    return kernel.mem.vm_stat[NR_FILE_DIRTY] + kernel.vfs.nr_inodes


@may_sleep
def wb_check_background_flush(wb: BdiWriteback) -> int:
    """More is dirty than the background limit allows."""
    if wb_over_bg_thresh(wb):
        return wb_writeback(wb, WbWritebackWork(
            LLONG_MAX, sync_mode=WB_SYNC_NONE, for_background=True, range_cyclic=True, reason=WB_REASON_BACKGROUND))
    return 0


@may_sleep
def wb_check_old_data_flush(wb: BdiWriteback) -> int:
    """Data older than dirty_expire_interval, looked for every dirty_writeback_interval."""
    kernel = wb.bdi.kernel
    interval = kernel.writeback.dirty_writeback_interval
    if not interval:
        return 0
    if jiffies() < wb.last_old_flush + interval * 10 * HZ // 1000:
        return 0
    wb.last_old_flush = jiffies()
    nr_pages = get_nr_dirty_pages(kernel)
    if nr_pages:
        return wb_writeback(wb, WbWritebackWork(
            nr_pages, sync_mode=WB_SYNC_NONE, for_kupdate=True, range_cyclic=True, reason=WB_REASON_PERIODIC))
    return 0


@may_sleep
def wb_check_start_all(wb: BdiWriteback) -> int:
    """wb_start_writeback() was called."""
    if not wb.state & WB_start_all:
        return 0
    nr_pages = get_nr_dirty_pages(wb.bdi.kernel)
    done = 0
    if nr_pages:
        done = wb_writeback(wb, WbWritebackWork(
            nr_pages, sync_mode=WB_SYNC_NONE, range_cyclic=True, reason=wb.start_all_reason))
    wb.state &= ~WB_start_all
    return done


@may_sleep
def wb_do_writeback(wb: BdiWriteback) -> int:
    """Everything there is to do for a device at the moment."""
    wrote = 0
    wb.state |= WB_writeback_running
    while True:
        work = get_next_work_item(wb)
        if work is None:
            break
        probe = wb.bdi.kernel.tp.writeback_exec
        if probe is not None:
            probe(wb, work)
        wrote += wb_writeback(wb, work)
        finish_writeback_work(wb, work)
    wrote += wb_check_start_all(wb)
    wrote += wb_check_old_data_flush(wb)
    wrote += wb_check_background_flush(wb)
    wb.state &= ~WB_writeback_running
    return wrote


@may_sleep
def wb_workfn(work: Any) -> None:
    """The flusher of one device. Context: a kworker of "writeback"; it is called kworker/u8:0+flush-8:0 then."""
    wb: BdiWriteback = work.data
    kernel = wb.bdi.kernel
    set_worker_desc("flush-" + (wb.bdi.dev_name or b"(unknown)").decode())
    while True:
        pages_written = wb_do_writeback(wb)
        probe = kernel.tp.writeback_pages_written
        if probe is not None:
            probe(pages_written)
        if not wb.work_list:
            break
    if wb.work_list:
        wb_wakeup(wb)
    elif wb_has_dirty_io(wb) and kernel.writeback.dirty_writeback_interval:
        wb_wakeup_delayed(wb)


def wb_start_writeback(wb: BdiWriteback, reason: int) -> None:
    if not wb_has_dirty_io(wb) or wb.state & WB_start_all:
        return
    wb.state |= WB_start_all
    wb.start_all_reason = reason
    wb_wakeup(wb)


def wb_start_background_writeback(wb: BdiWriteback) -> None:
    """The background limit is crossed. Context: any."""
    probe = wb.bdi.kernel.tp.writeback_wake_background
    if probe is not None:
        probe(wb)
    wb_wakeup(wb)


def wakeup_flusher_threads(kernel: Kernel, reason: int) -> None:
    """Every device starts to write everything: sync(2), reclaim."""
    for bdi in list(kernel.writeback.bdi_list):
        wb_start_writeback(bdi.wb, reason)


def wakeup_dirtytime_writeback(work: Any) -> None:
    """Twice in dirtytime_expire_interval: devices that only have lazytime inodes look for old ones."""
    kernel: Kernel = work.data
    for bdi in kernel.writeback.bdi_list:
        if bdi.wb.b_dirty_time:
            wb_wakeup(bdi.wb)
    start_dirtytime_writeback(kernel)


def start_dirtytime_writeback(kernel: Kernel) -> None:
    """Plans wakeup_dirtytime_writeback(). Called when the first file system with lazytime appears."""
    state = kernel.writeback
    if state.dirtytime_work is None:
        state.dirtytime_work = DelayedWork(wakeup_dirtytime_writeback, kernel, True)
    if state.dirtytime_expire_interval and not delayed_work_pending(state.dirtytime_work):
        schedule_delayed_work(state.dirtytime_work, state.dirtytime_expire_interval * HZ)


# ---- file systems ----------------------------------------------------------------------------------
@may_sleep
def __writeback_inodes_sb_nr(sb: SuperBlock, nr: int, reason: int, skip_if_busy: bool) -> None:
    bdi = sb.s_bdi
    if bdi is None or not wb_has_dirty_io(bdi.wb):
        return
    done = WbCompletion()
    work = WbWritebackWork(nr, sb=sb, sync_mode=WB_SYNC_NONE, tagged_writepages=True, reason=reason, done=done)
    wb_queue_work(bdi.wb, work)
    wb_wait_for_completion(bdi, done)


@may_sleep
def wb_wait_for_completion(bdi: BackingDevInfo, done: WbCompletion) -> None:
    """Sleeps until the flusher has done all works that carry `done`."""
    done.cnt -= 1                                  # DEFINE_WB_COMPLETION_ONSTACK() counts who waits
    wait_event(bdi.wb_waitq, lambda: not done.cnt)


@may_sleep
def writeback_inodes_sb(sb: SuperBlock, reason: int) -> None:
    """Starts to write a file system's dirty inodes; waits until that is started."""
    writeback_inodes_sb_nr(sb, get_nr_dirty_pages(sb.kernel), reason)


@may_sleep
def writeback_inodes_sb_nr(sb: SuperBlock, nr: int, reason: int) -> None:
    __writeback_inodes_sb_nr(sb, nr, reason, False)


@may_sleep
def try_to_writeback_inodes_sb(sb: SuperBlock, reason: int) -> None:
    """The same; used when a file system runs out of space for delayed allocation."""
    __writeback_inodes_sb_nr(sb, get_nr_dirty_pages(sb.kernel), reason, True)


@may_sleep
def sync_inodes_sb(sb: SuperBlock) -> None:
    """Writes a file system's dirty inodes and waits for all of it: sync(2), umount."""
    bdi = sb.s_bdi
    if bdi is None:
        return
    if bdi.wb.b_dirty_time or wb_has_dirty_io(bdi.wb):
        done = WbCompletion()
        work = WbWritebackWork(LLONG_MAX, sb=sb, sync_mode=WB_SYNC_ALL, range_cyclic=False, for_sync=True,
                               reason=WB_REASON_SYNC, done=done)
        wb_queue_work(bdi.wb, work)
        wb_wait_for_completion(bdi, done)
    wait_sb_inodes(sb)


@may_sleep
def wait_sb_inodes(sb: SuperBlock) -> None:
    """Waits for every page that is on its way; errors stay for fsync()."""
    for inode in list(sb.s_inodes_wb):
        if inode not in sb.s_inodes_wb or inode.i_state & (I_FREEING | I_WILL_FREE | I_NEW):
            continue
        inode.i_count += 1
        try:
            filemap_fdatawait_keep_errors(inode.i_mapping)
            cond_resched()
        finally:
            inode.i_count -= 1                     # the last user may be gone meanwhile
            if not inode.i_count:
                inode.i_count = 1
                sb.kernel.writeback.iput(inode)


@may_sleep
def write_inode_now(inode: Inode, sync: int) -> None:
    """Writes one inode with its pages. Raises EIO, ENOSPC."""
    wbc = WritebackControl(LLONG_MAX, range_start=0, range_end=LLONG_MAX,
                           sync_mode=WB_SYNC_ALL if sync else WB_SYNC_NONE)
    if inode_to_bdi(inode) is None:
        wbc.nr_to_write = 0
    writeback_single_inode(inode, wbc)


@may_sleep
def sync_inode(inode: Inode, wbc: WritebackControl) -> None:
    """writeback_single_inode() as the caller says."""
    writeback_single_inode(inode, wbc)


@may_sleep
def sync_inode_metadata(inode: Inode, wait: int) -> None:
    """Writes the inode, not its pages. Raises EIO."""
    sync_inode(inode, WritebackControl(0, sync_mode=WB_SYNC_ALL if wait else WB_SYNC_NONE))
