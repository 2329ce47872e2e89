"""Backing devices: what stores the pages of an inode, and its dirty inodes.

Linux: mm/backing-dev.c, include/linux/backing-dev-defs.h (5.3).
Same: one bdi_writeback per device with the lists b_dirty, b_io, b_more_io and b_dirty_time, a delayed work on the
    workqueue "writeback"; devices that store nothing share noop_backing_dev_info.
Differs: lists are dicts of inodes, oldest first (Linux adds at the head); inode.i_wb_list is the
    dict that has the inode.
    A super block with s_bdi None is on noop_backing_dev_info: its inodes are on no list.
Owns: kernel.writeback, every BackingDevInfo, inode.i_wb_list.
Gaps: cgroup writeback, congestion marks of the queue.
Invariant: WB_has_dirty_io is set exactly while b_dirty, b_io or b_more_io has an inode.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import io_schedule_timeout
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.kernel.task import TASK_UNINTERRUPTIBLE
from glasskernel.kernel.time.timer import jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.kernel.workqueue import (
    WQ_MEM_RECLAIM,
    WQ_SYSFS,
    WQ_UNBOUND,
    DelayedWork,
    WorkqueueStruct,
    alloc_workqueue,
    cancel_delayed_work_sync,
    flush_delayed_work,
    mod_delayed_work,
    queue_delayed_work,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock
    from glasskernel.init.kernel import Kernel

VM_READAHEAD_PAGES = 32        # 128 KB

BDI_CAP_NO_ACCT_DIRTY, BDI_CAP_NO_WRITEBACK, BDI_CAP_NO_ACCT_WB, BDI_CAP_STABLE_WRITES = 1, 2, 4, 8
BDI_CAP_STRICTLIMIT, BDI_CAP_CGROUP_WRITEBACK, BDI_CAP_SYNCHRONOUS_IO = 0x10, 0x20, 0x40
BDI_CAP_NO_ACCT_AND_WRITEBACK = BDI_CAP_NO_WRITEBACK | BDI_CAP_NO_ACCT_DIRTY | BDI_CAP_NO_ACCT_WB

WB_registered, WB_writeback_running, WB_has_dirty_io, WB_start_all = 1, 2, 4, 8
WB_RECLAIMABLE, WB_WRITEBACK, WB_DIRTIED, WB_WRITTEN = range(4)

INIT_BW = 100 << (20 - 12)     # 100 MB/s, in pages


@slotted
class BdiWriteback:
    """struct bdi_writeback. Bandwidths in pages a second, time stamps in jiffies."""

    bdi: BackingDevInfo
    state: int = 0                                           # WB_*
    last_old_flush: int = 0
    b_dirty: dict[Inode, None] = field(default_factory=dict)
    b_io: dict[Inode, None] = field(default_factory=dict)
    b_more_io: dict[Inode, None] = field(default_factory=dict)
    b_dirty_time: dict[Inode, None] = field(default_factory=dict)
    stat: list[int] = field(default_factory=lambda: [0, 0, 0, 0])            # WB_RECLAIMABLE ...
    bw_time_stamp: int = 0
    dirtied_stamp: int = 0
    written_stamp: int = 0
    completions: int = 0                                     # pages written lately: halved every 3 s
    completions_stamp: int = 0
    write_bandwidth: int = INIT_BW
    avg_write_bandwidth: int = INIT_BW
    dirty_ratelimit: int = INIT_BW
    balanced_dirty_ratelimit: int = INIT_BW
    dirty_exceeded: bool = False
    start_all_reason: int = 0
    work_list: deque[Any] = field(default_factory=deque)     # fs.fs_writeback.WbWritebackWork
    dwork: DelayedWork = None  # type: ignore[assignment]


@slotted
class BackingDevInfo:
    """struct backing_dev_info. dev: its device number, or None before bdi_register()."""

    kernel: Kernel
    wb: BdiWriteback = None  # type: ignore[assignment]
    ra_pages: int = VM_READAHEAD_PAGES
    io_pages: int = VM_READAHEAD_PAGES
    capabilities: int = 0
    name: bytes = b""
    dev_name: bytes | None = None                            # "8:0", the name in /sys/class/bdi
    min_ratio: int = 0
    max_ratio: int = 100
    refcnt: int = 1
    wb_waitq: WaitQueueHead = field(default_factory=WaitQueueHead)
    device: Any = None                                       # drivers.base: the object in /sys/class/bdi
    owner: Any = None                                        # the disk's device

    def __repr__(self) -> str:
        return f"<bdi {(self.dev_name or self.name).decode()}>"


@notrace
def _no_wb_workfn(_work: Any) -> None:
    return None


@notrace
def _no_inode(_inode: Any) -> None:
    return None


@notrace
def _no_bdi(_bdi: Any) -> None:
    return None


@notrace
def _not_found(_inode: Any) -> None:
    return None


@slotted
class WritebackState:
    """kernel.writeback: devices, the sysctls of /proc/sys/vm/dirty_*, and what upper rooms plug in.

    Intervals in units of 10 ms, as in Linux; dirtytime_expire_interval in seconds; global limits in pages.
    """

    noop_backing_dev_info: BackingDevInfo
    bdi_list: dict[BackingDevInfo, None] = field(default_factory=dict)
    bdi_wq: WorkqueueStruct | None = None
    dirty_background_ratio: int = 10
    dirty_background_bytes: int = 0
    vm_dirty_ratio: int = 20
    vm_dirty_bytes: int = 0
    dirty_writeback_interval: int = 500
    dirty_expire_interval: int = 3000
    dirtytime_expire_interval: int = 43200
    dirty_limit: int = 0                                     # global_wb_domain.dirty_limit, smoothed
    dirty_limit_tstamp: int = 0
    bdp_ratelimits: list[int] = field(default_factory=list)  # pages dirtied since the last check, by CPU
    ratelimit_pages: int = 32
    inode_waiters: dict[Any, WaitQueueHead] = field(default_factory=dict)    # see fs/inode_wait.py
    last_bdi_id: int = 0
    dirtytime_work: DelayedWork | None = None
    # plugged in by fs_writeback_init(), block and drivers
    wb_workfn: Callable[[Any], None] = _no_wb_workfn
    wb_start_background_writeback: Callable[[BdiWriteback], None] = _no_wb_workfn
    sb_mark_inode_writeback: Callable[[Any], None] = _no_inode
    sb_clear_inode_writeback: Callable[[Any], None] = _no_inode
    iput: Callable[[Any], None] = _no_inode
    bdi_device_add: Callable[[BackingDevInfo], None] = _no_bdi
    bdi_device_del: Callable[[BackingDevInfo], None] = _no_bdi
    bdev_bdi: Callable[[Any], BackingDevInfo | None] = _not_found            # of a block device's own inode


def default_bdi_init(kernel: Kernel) -> None:
    """Makes kernel.writeback. Context: boot, before the first super block."""
    noop = BackingDevInfo(kernel, capabilities=BDI_CAP_NO_ACCT_AND_WRITEBACK, name=b"noop", ra_pages=VM_READAHEAD_PAGES)
    kernel.writeback = state = WritebackState(noop)
    state.bdp_ratelimits = [0] * len(kernel.machine.cpus)
    noop.wb = BdiWriteback(noop)


@notrace
def bdi_wq(kernel: Kernel) -> WorkqueueStruct:
    """The workqueue "writeback", made when the first device is registered: most kernels have none."""
    state = kernel.writeback
    if state.bdi_wq is None:
        state.bdi_wq = alloc_workqueue(kernel, "writeback", WQ_MEM_RECLAIM | WQ_UNBOUND | WQ_SYSFS, 0)
    return state.bdi_wq


# ---- devices ---------------------------------------------------------------------------------------
def wb_init(wb: BdiWriteback, bdi: BackingDevInfo) -> None:
    kernel = bdi.kernel
    now = jiffies()
    wb.last_old_flush = wb.bw_time_stamp = now
    wb.dwork = DelayedWork(kernel.writeback.wb_workfn, wb)


def bdi_alloc(kernel: Kernel) -> BackingDevInfo:
    """A device that is not known to anybody yet, with one reference (bdi_alloc_node)."""
    bdi = BackingDevInfo(kernel)
    bdi.wb = BdiWriteback(bdi)
    wb_init(bdi.wb, bdi)
    return bdi


def bdi_register(bdi: BackingDevInfo, name: bytes) -> None:
    """From now on its dirty inodes are written. name: as in /sys/class/bdi, "8:0" for a disk."""
    if bdi.dev_name is not None:
        return
    kernel = bdi.kernel
    bdi_wq(kernel)
    bdi.dev_name = name
    bdi.wb.state |= WB_registered
    kernel.writeback.bdi_list[bdi] = None
    kernel.writeback.bdi_device_add(bdi)
    probe = kernel.tp.writeback_bdi_register
    if probe is not None:
        probe(bdi)


def bdi_register_owner(bdi: BackingDevInfo, owner: Any, devt: int) -> None:
    """bdi_register() of a disk, under its device number."""
    bdi_register(bdi, b"%d:%d" % (devt >> 20, devt & 0xFFFFF))
    bdi.owner = owner


@may_sleep
def wb_shutdown(wb: BdiWriteback) -> None:
    """No more work for it; what is queued is done first."""
    if not wb.state & WB_registered:
        return
    wb.state &= ~WB_registered
    mod_delayed_work(bdi_wq(wb.bdi.kernel), wb.dwork, 0)
    flush_delayed_work(wb.dwork)
    cancel_delayed_work_sync(wb.dwork)
    assert not wb.work_list, "writeback works were lost"


@may_sleep
def bdi_unregister(bdi: BackingDevInfo) -> None:
    """The device is gone. Context: task."""
    bdi.kernel.writeback.bdi_list.pop(bdi, None)
    wb_shutdown(bdi.wb)
    if bdi.dev_name is not None:
        bdi.kernel.writeback.bdi_device_del(bdi)
        bdi.dev_name = None
        bdi.owner = None


@may_sleep
def bdi_put(bdi: BackingDevInfo) -> None:
    """Drops a reference; the last one unregisters."""
    bdi.refcnt -= 1
    if not bdi.refcnt:
        if bdi.wb.state & WB_registered:
            bdi_unregister(bdi)


def super_setup_bdi_name(sb: SuperBlock, name: bytes) -> None:
    """A device of its own for a file system without one. Context: fill_super."""
    bdi = bdi_alloc(sb.kernel)
    bdi.name = sb.s_type.name
    bdi_register(bdi, name)
    sb.s_bdi = bdi


def super_setup_bdi(sb: SuperBlock) -> None:
    """The same, named after the type: "hostfs-1"."""
    state = sb.kernel.writeback
    state.last_bdi_id += 1
    super_setup_bdi_name(sb, b"%b-%d" % (sb.s_type.name, state.last_bdi_id))


# ---- which device ----------------------------------------------------------------------------------
@notrace
def inode_to_bdi(inode: Inode | None) -> BackingDevInfo | None:
    """The device that stores an inode; None: noop_backing_dev_info."""
    if inode is None:
        return None
    sb = inode.i_sb
    if sb is sb.kernel.vfs.blockdev_superblock:
        return sb.kernel.writeback.bdev_bdi(inode)
    return sb.s_bdi  # type: ignore[no-any-return]


@notrace
def bdi_cap_account_dirty(bdi: BackingDevInfo | None) -> bool:
    return bdi is not None and not bdi.capabilities & BDI_CAP_NO_ACCT_DIRTY


# ---- dirty inodes ----------------------------------------------------------------------------------
@notrace
def wb_has_dirty_io(wb: BdiWriteback) -> bool:
    return bool(wb.state & WB_has_dirty_io)


def wb_wakeup_delayed(wb: BdiWriteback) -> None:
    """Something got dirty: the flusher comes after dirty_writeback_interval. Context: any."""
    kernel = wb.bdi.kernel
    if wb.state & WB_registered:
        timeout = kernel.writeback.dirty_writeback_interval * 10 * HZ // 1000
        queue_delayed_work(bdi_wq(kernel), wb.dwork, timeout)


def wb_wakeup(wb: BdiWriteback) -> None:
    """The flusher comes now. Context: any."""
    if wb.state & WB_registered:
        mod_delayed_work(bdi_wq(wb.bdi.kernel), wb.dwork, 0)


@may_sleep
def congestion_wait(timeout: int) -> None:
    """Gives devices time to write, in jiffies: no queue says that it is congested no more, as with blk-mq in Linux."""
    register.task.state = TASK_UNINTERRUPTIBLE
    io_schedule_timeout(timeout)
