"""Write-back: dirty inodes, the flusher, and how writers are slowed down.

Linux: include/trace/events/writeback.h (5.3).
Same: without cgroup write-back cgroup_ino is -1. Gaps: congestion waits.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.trace.events.values import HELPERS
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace
from glasskernel.mm.backing_dev import inode_to_bdi
from glasskernel.mm.page_alloc import NR_DIRTIED, NR_FILE_DIRTY, NR_WRITEBACK, NR_WRITTEN

if TYPE_CHECKING:
    from glasskernel.fs.fs_writeback import WbWritebackWork
    from glasskernel.fs.types import Inode
    from glasskernel.mm.backing_dev import BackingDevInfo, BdiWriteback
    from glasskernel.mm.types import AddressSpace, WritebackControl

NO_CGROUP = 0xFFFF_FFFF
HZ = 250

SHOW_INODE_STATE = (
    '{(1 << 0), "I_DIRTY_SYNC"}, {(1 << 1), "I_DIRTY_DATASYNC"}, {(1 << 2), "I_DIRTY_PAGES"}, {(1 << 3), "I_NEW"}, '
    '{(1 << 4), "I_WILL_FREE"}, {(1 << 5), "I_FREEING"}, {(1 << 6), "I_CLEAR"}, {(1 << 7), "I_SYNC"}, {(1 << 11), '
    '"I_DIRTY_TIME"}, {(1 << 12), "I_DIRTY_TIME_EXPIRED"}, {(1 << 8), "I_REFERENCED"} )'
)
SHOW_WORK_REASON = (
    '{ 0, "background" }, { 1, "vmscan" }, { 2, "sync" }, { 3, "periodic" }, { 4, "laptop_timer" }, { 5, '
    '"fs_free_space" }, { 6, "forker_thread" })'
)


@notrace
def _name(bdi: BackingDevInfo | None) -> bytes:
    """dev_name(bdi->dev)"""
    return (bdi.dev_name or b"(unknown)")[:31] if bdi is not None else b"(unknown)"


@notrace
def _kbps(pages: int) -> int:
    return pages << 2


@notrace
def _msecs(jiffies: int) -> int:
    return jiffies * 1000 // HZ


@notrace
def _host(mapping: AddressSpace | None) -> Inode | None:
    return mapping.host if mapping is not None else None


writeback = trace_system("writeback")


@writeback.event_class(
    fields="char name[32]; unsigned long ino; unsigned long index",
    print_fmt='"bdi %s: ino=%lu index=%lu", REC->name, REC->ino, REC->index',
)
def writeback_page_template(pfn: int, mapping: AddressSpace | None) -> Values:
    host = _host(mapping)
    index = current().kernel.mem.index[pfn]
    return (_name(inode_to_bdi(host)), host.i_ino if host is not None else 0, index)


writeback_dirty_page = writeback_page_template.define("writeback_dirty_page", irqs_off=True)
wait_on_page_writeback = writeback_page_template.define("wait_on_page_writeback")


@writeback.event_class(
    fields="char name[32]; unsigned long ino; unsigned long state; unsigned long flags",
    print_fmt=(
        '"bdi %s: ino=%lu state=%s flags=%s", REC->name, REC->ino, __print_flags(REC->state, "|", '
        + SHOW_INODE_STATE
        + ', __print_flags(REC->flags, "|", '
        + SHOW_INODE_STATE),
)
def writeback_dirty_inode_template(inode: Inode, flags: int) -> Values:
    return (_name(inode_to_bdi(inode)), inode.i_ino, inode.i_state, flags)


writeback_mark_inode_dirty = writeback_dirty_inode_template.define("writeback_mark_inode_dirty")
writeback_dirty_inode_start = writeback_dirty_inode_template.define("writeback_dirty_inode_start")
writeback_dirty_inode = writeback_dirty_inode_template.define("writeback_dirty_inode")


@writeback.event_class(
    fields="char name[32]; unsigned long ino; int sync_mode; unsigned int cgroup_ino",
    print_fmt='"bdi %s: ino=%lu sync_mode=%d cgroup_ino=%u", REC->name, REC->ino, REC->sync_mode, REC->cgroup_ino',
)
def writeback_write_inode_template(inode: Inode, wbc: WritebackControl) -> Values:
    return (_name(inode_to_bdi(inode)), inode.i_ino, wbc.sync_mode, NO_CGROUP)


writeback_write_inode_start = writeback_write_inode_template.define("writeback_write_inode_start")
writeback_write_inode = writeback_write_inode_template.define("writeback_write_inode")


@writeback.event_class(
    fields=(
        "char name[32]; long nr_pages; dev_t sb_dev; int sync_mode; int for_kupdate; int range_cyclic; "
        "int for_background; int reason; unsigned int cgroup_ino"),
    print_fmt=(
        ('"bdi %s: sb_dev %d:%d nr_pages=%ld sync_mode=%d kupdate=%d range_cyclic=%d background=%d reason=%s '
         'cgroup_ino=%u", REC->name, ((unsigned int) ((REC->sb_dev) >> 20)), '
         '((unsigned int) ((REC->sb_dev) & ((1U << 20) - 1))), REC->nr_pages, REC->sync_mode, REC->for_kupdate, '
         'REC->range_cyclic, REC->for_background, __print_symbolic(REC->reason, ')
        + SHOW_WORK_REASON
        + ', REC->cgroup_ino'),
)
def writeback_work_class(wb: BdiWriteback, work: WbWritebackWork) -> Values:
    return (_name(wb.bdi), work.nr_pages, work.sb.s_dev if work.sb is not None else 0, work.sync_mode, work.for_kupdate,
            work.range_cyclic, work.for_background, work.reason, NO_CGROUP)


writeback_queue = writeback_work_class.define("writeback_queue")
writeback_exec = writeback_work_class.define("writeback_exec")
writeback_start = writeback_work_class.define("writeback_start")
writeback_written = writeback_work_class.define("writeback_written")
writeback_wait = writeback_work_class.define("writeback_wait")


@writeback.event(
    fields="long pages",
    print_fmt='"%ld", REC->pages',
)
def writeback_pages_written(pages_written: int) -> Values:
    return (pages_written,)


@writeback.event(
    fields="char name[32]; unsigned int cgroup_ino",
    print_fmt='"bdi %s: cgroup_ino=%u", REC->name, REC->cgroup_ino',
)
def writeback_wake_background(wb: BdiWriteback) -> Values:
    return (_name(wb.bdi), NO_CGROUP)


@writeback.event(
    fields="char name[32]",
    print_fmt='"bdi %s", REC->name',
)
def writeback_bdi_register(bdi: BackingDevInfo) -> Values:
    return (_name(bdi),)


@writeback.event(
    fields=(
        "char name[32]; long nr_to_write; long pages_skipped; int sync_mode; int for_kupdate; int for_background; "
        "int for_reclaim; int range_cyclic; long range_start; long range_end; unsigned int cgroup_ino"),
    print_fmt=(
        '"bdi %s: towrt=%ld skip=%ld mode=%d kupd=%d bgrd=%d reclm=%d cyclic=%d start=0x%lx end=0x%lx '
        'cgroup_ino=%u", REC->name, REC->nr_to_write, REC->pages_skipped, REC->sync_mode, REC->for_kupdate, '
        'REC->for_background, REC->for_reclaim, REC->range_cyclic, REC->range_start, REC->range_end, '
        'REC->cgroup_ino'),
)
def wbc_writepage(wbc: WritebackControl, bdi: BackingDevInfo | None) -> Values:
    return (_name(bdi), wbc.nr_to_write, wbc.pages_skipped, wbc.sync_mode, wbc.for_kupdate, wbc.for_background,
            wbc.for_reclaim, wbc.range_cyclic, wbc.range_start, wbc.range_end, NO_CGROUP)


@writeback.event(
    fields="char name[32]; unsigned long older; long age; int moved; int reason; unsigned int cgroup_ino",
    print_fmt=(
        ('"bdi %s: older=%lu age=%ld enqueue=%d reason=%s cgroup_ino=%u", REC->name, REC->older, REC->age, '
         'REC->moved, __print_symbolic(REC->reason, ')
        + SHOW_WORK_REASON
        + ', REC->cgroup_ino'),
)
def writeback_queue_io(wb: BdiWriteback, work: WbWritebackWork, moved: int) -> Values:
    older = work.older_than_this or 0
    age = _msecs(wb.bdi.kernel.time.jiffies - older) if older else -1
    return (_name(wb.bdi), older, age, moved, work.reason, NO_CGROUP)


@writeback.event(
    fields=(
        "unsigned long nr_dirty; unsigned long nr_writeback; unsigned long nr_unstable; "
        "unsigned long background_thresh; unsigned long dirty_thresh; unsigned long dirty_limit; "
        "unsigned long nr_dirtied; unsigned long nr_written"),
    print_fmt=(
        '"dirty=%lu writeback=%lu unstable=%lu bg_thresh=%lu thresh=%lu limit=%lu dirtied=%lu written=%lu", '
        'REC->nr_dirty, REC->nr_writeback, REC->nr_unstable, REC->background_thresh, REC->dirty_thresh, '
        'REC->dirty_limit, REC->nr_dirtied, REC->nr_written'),
)
def global_dirty_state(background_thresh: int, dirty_thresh: int) -> Values:
    """No page of NFS is unstable here."""
    kernel = current().kernel
    stat = kernel.mem.vm_stat
    return (stat[NR_FILE_DIRTY], stat[NR_WRITEBACK], 0, background_thresh, dirty_thresh, kernel.writeback.dirty_limit,
            stat[NR_DIRTIED], stat[NR_WRITTEN])


@writeback.event(
    fields=(
        "char bdi[32]; unsigned long write_bw; unsigned long avg_write_bw; unsigned long dirty_rate; "
        "unsigned long dirty_ratelimit; unsigned long task_ratelimit; unsigned long balanced_dirty_ratelimit; "
        "unsigned int cgroup_ino"),
    print_fmt=(
        '"bdi %s: write_bw=%lu awrite_bw=%lu dirty_rate=%lu dirty_ratelimit=%lu task_ratelimit=%lu '
        'balanced_dirty_ratelimit=%lu cgroup_ino=%u", REC->bdi, REC->write_bw, REC->avg_write_bw, '
        'REC->dirty_rate, REC->dirty_ratelimit, REC->task_ratelimit, REC->balanced_dirty_ratelimit, '
        'REC->cgroup_ino'),
)
def bdi_dirty_ratelimit(wb: BdiWriteback, dirty_rate: int, task_ratelimit: int) -> Values:
    return (_name(wb.bdi), _kbps(wb.write_bandwidth), _kbps(wb.avg_write_bandwidth), _kbps(dirty_rate),
            _kbps(wb.dirty_ratelimit), _kbps(task_ratelimit), _kbps(wb.balanced_dirty_ratelimit), NO_CGROUP)


@writeback.event(
    fields=(
        "char bdi[32]; unsigned long limit; unsigned long setpoint; unsigned long dirty; "
        "unsigned long bdi_setpoint; unsigned long bdi_dirty; unsigned long dirty_ratelimit; "
        "unsigned long task_ratelimit; unsigned int dirtied; unsigned int dirtied_pause; unsigned long paused; "
        "long pause; unsigned long period; long think; unsigned int cgroup_ino"),
    print_fmt=(
        '"bdi %s: limit=%lu setpoint=%lu dirty=%lu bdi_setpoint=%lu bdi_dirty=%lu dirty_ratelimit=%lu '
        'task_ratelimit=%lu dirtied=%u dirtied_pause=%u paused=%lu pause=%ld period=%lu think=%ld cgroup_ino=%u", '
        'REC->bdi, REC->limit, REC->setpoint, REC->dirty, REC->bdi_setpoint, REC->bdi_dirty, '
        'REC->dirty_ratelimit, REC->task_ratelimit, REC->dirtied, REC->dirtied_pause, REC->paused, REC->pause, '
        'REC->period, REC->think, REC->cgroup_ino'),
)
def balance_dirty_pages(wb: BdiWriteback, thresh: int, bg_thresh: int, dirty: int, bdi_thresh: int, bdi_dirty: int,
                        dirty_ratelimit: int, task_ratelimit: int, dirtied: int, period: int, pause: int,
                        start_time: int) -> Values:
    task = current()
    jiffies = task.kernel.time.jiffies
    limit = task.kernel.writeback.dirty_limit
    setpoint = (limit + (thresh + bg_thresh) // 2) // 2
    think = _msecs(jiffies - task.dirty_paused_when) if task.dirty_paused_when else 0
    return (_name(wb.bdi), limit, setpoint, dirty, setpoint * bdi_thresh // (thresh + 1), bdi_dirty,
            _kbps(dirty_ratelimit), _kbps(task_ratelimit), dirtied, task.nr_dirtied_pause,
            _msecs(jiffies - start_time), _msecs(pause), _msecs(period), think, NO_CGROUP)


@writeback.event(
    fields=(
        "char name[32]; unsigned long ino; unsigned long state; unsigned long dirtied_when; unsigned int cgroup_ino"),
    print_fmt=(
        ('"bdi %s: ino=%lu state=%s dirtied_when=%lu age=%lu cgroup_ino=%u", REC->name, REC->ino, '
         '__print_flags(REC->state, "|", ')
        + SHOW_INODE_STATE
        + ', REC->dirtied_when, (jiffies - REC->dirtied_when) / 250, REC->cgroup_ino'),
    helpers=HELPERS,
)
def writeback_sb_inodes_requeue(inode: Inode) -> Values:
    return (_name(inode_to_bdi(inode)), inode.i_ino, inode.i_state, inode.dirtied_when, NO_CGROUP)


@writeback.event_class(
    fields=(
        "char name[32]; unsigned long ino; unsigned long state; unsigned long dirtied_when; "
        "unsigned long writeback_index; long nr_to_write; unsigned long wrote; unsigned int cgroup_ino"),
    print_fmt=(
        ('"bdi %s: ino=%lu state=%s dirtied_when=%lu age=%lu index=%lu to_write=%ld wrote=%lu cgroup_ino=%u", '
         'REC->name, REC->ino, __print_flags(REC->state, "|", ')
        + SHOW_INODE_STATE
        + (', REC->dirtied_when, (jiffies - REC->dirtied_when) / 250, REC->writeback_index, REC->nr_to_write, '
           'REC->wrote, REC->cgroup_ino')),
    helpers=HELPERS,
)
def writeback_single_inode_template(inode: Inode, wbc: WritebackControl, nr_to_write: int) -> Values:
    return (_name(inode_to_bdi(inode)), inode.i_ino, inode.i_state, inode.dirtied_when,
            inode.i_mapping.writeback_index, nr_to_write, nr_to_write - wbc.nr_to_write, NO_CGROUP)


writeback_single_inode_start = writeback_single_inode_template.define("writeback_single_inode_start")
writeback_single_inode = writeback_single_inode_template.define("writeback_single_inode")


@writeback.event_class(
    fields="dev_t dev; unsigned long ino; unsigned long state; __u16 mode; unsigned long dirtied_when",
    print_fmt=(
        ('"dev %d,%d ino %lu dirtied %lu state %s mode 0%o", ((unsigned int) ((REC->dev) >> 20)), '
         '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->ino, REC->dirtied_when, __print_flags(REC->state, '
         '"|", ')
        + SHOW_INODE_STATE
        + ', REC->mode'),
)
def writeback_inode_template(inode: Inode) -> Values:
    return (inode.i_sb.s_dev, inode.i_ino, inode.i_state, inode.i_mode, inode.dirtied_when)


writeback_lazytime = writeback_inode_template.define("writeback_lazytime")
writeback_lazytime_iput = writeback_inode_template.define("writeback_lazytime_iput")
writeback_dirty_inode_enqueue = writeback_inode_template.define("writeback_dirty_inode_enqueue")
sb_mark_inode_writeback = writeback_inode_template.define("sb_mark_inode_writeback", irqs_off=True)
sb_clear_inode_writeback = writeback_inode_template.define("sb_clear_inode_writeback", irqs_off=True)
