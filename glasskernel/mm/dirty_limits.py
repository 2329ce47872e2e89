"""How much may be dirty: thresholds, the speed of devices, and slowing down who dirties faster than they store.

Linux: the first half of mm/page-writeback.c (5.3). Same: dirtyable memory, vm.dirty_* sysctls, the free run up to the
    middle between both thresholds, position ratio (a cubic curve around the set point), write bandwidth and
    dirty rate limit measured every 200 ms, pauses of at most 200 ms in TASK_KILLABLE.
Differs: a device's share of the threshold is its part of the pages written lately (a count halved every 3 s, where
    Linux has fprop_local_percpu); the control line of a single device is the global one scaled by its share.
Owns: BdiWriteback's bandwidths, task.nr_dirtied_pause and dirty_paused_when. Gaps: cgroup limits, strictlimit.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import fatal_signal_pending, io_schedule_timeout
from glasskernel.kernel.task import TASK_KILLABLE
from glasskernel.kernel.time.timer import jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import (
    WB_DIRTIED,
    WB_RECLAIMABLE,
    WB_WRITEBACK,
    WB_WRITTEN,
    WB_writeback_running,
    bdi_cap_account_dirty,
    inode_to_bdi,
)
from glasskernel.mm.page_alloc import NR_FILE_DIRTY, NR_FILE_PAGES, NR_SHMEM, NR_WRITEBACK, nr_free_pages

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.backing_dev import BdiWriteback
    from glasskernel.mm.types import AddressSpace

MAX_PAUSE = HZ // 5                        # 200 ms
BANDWIDTH_INTERVAL = HZ // 5
DIRTY_POLL_THRESH = 32                     # 128 KB
RATELIMIT_CALC_SHIFT = 10
VM_COMPLETIONS_PERIOD = 3 * HZ


@slotted
class DirtyThrottleControl:
    """struct dirty_throttle_control. All in pages."""

    wb: BdiWriteback | None
    avail: int = 0                         # dirtyable memory
    dirty: int = 0
    thresh: int = 0
    bg_thresh: int = 0
    wb_dirty: int = 0
    wb_thresh: int = 0
    wb_bg_thresh: int = 0
    pos_ratio: int = 0


# ---- thresholds ------------------------------------------------------------------------------------
def global_dirtyable_memory(kernel: Kernel) -> int:
    """Pages that may hold dirty data: free ones above the reserves, and file pages."""
    mem = kernel.mem
    free = nr_free_pages(mem)
    return max(free - mem.totalreserve_pages, 0) + mem.vm_stat[NR_FILE_PAGES] - mem.vm_stat[NR_SHMEM] + 1


def domain_dirty_limits(kernel: Kernel, dtc: DirtyThrottleControl) -> None:
    """dtc.thresh and bg_thresh of dtc.avail, as the sysctls say."""
    state = kernel.writeback
    thresh = -(-state.vm_dirty_bytes // 4096) if state.vm_dirty_bytes else state.vm_dirty_ratio * dtc.avail // 100
    if state.dirty_background_bytes:
        bg_thresh = -(-state.dirty_background_bytes // 4096)
    else:
        bg_thresh = state.dirty_background_ratio * dtc.avail // 100
    if bg_thresh >= thresh:
        bg_thresh = thresh // 2
    dtc.thresh = thresh
    dtc.bg_thresh = bg_thresh
    probe = kernel.tp.global_dirty_state
    if probe is not None:
        probe(bg_thresh, thresh)


def global_dirty_limits(kernel: Kernel) -> tuple[int, int]:
    """(background, dirty) in pages: /proc/vmstat, and who wants to stop in time."""
    dtc = DirtyThrottleControl(None, global_dirtyable_memory(kernel))
    domain_dirty_limits(kernel, dtc)
    return dtc.bg_thresh, dtc.thresh


def dirty_freerun_ceiling(thresh: int, bg_thresh: int) -> int:
    return (thresh + bg_thresh) // 2


def __wb_calc_thresh(wb: BdiWriteback, thresh: int) -> int:
    """A device's part of a threshold: as much as it wrote of everything written lately."""
    kernel = wb.bdi.kernel
    wbs = [bdi.wb for bdi in kernel.writeback.bdi_list]
    mine = written_lately(wb)
    total = sum(written_lately(other) for other in wbs)
    share = thresh if not total else thresh * mine // total
    bdi = wb.bdi
    share += thresh * bdi.min_ratio // 100
    return max(1, min(share, thresh * bdi.max_ratio // 100))


@notrace
def written_lately(wb: BdiWriteback) -> int:
    """The decaying count of pages a device has stored. Before its first page a device counts as one that can."""
    age = (jiffies() - wb.completions_stamp) // VM_COMPLETIONS_PERIOD
    return 1 + (wb.completions >> min(age, 63)) + wb.stat[WB_WRITTEN] - wb.written_stamp


def wb_calc_thresh(wb: BdiWriteback, thresh: int) -> int:
    return __wb_calc_thresh(wb, thresh)


def wb_over_bg_thresh(wb: BdiWriteback) -> bool:
    """True if the flusher has background work to do."""
    kernel = wb.bdi.kernel
    dtc = DirtyThrottleControl(wb, global_dirtyable_memory(kernel))
    dtc.dirty = kernel.mem.vm_stat[NR_FILE_DIRTY]
    domain_dirty_limits(kernel, dtc)
    if dtc.dirty > dtc.bg_thresh:
        return True
    return wb.stat[WB_RECLAIMABLE] > wb_calc_thresh(wb, dtc.bg_thresh)


# ---- speed -----------------------------------------------------------------------------------------
def wb_update_write_bandwidth(wb: BdiWriteback, elapsed: int, written: int) -> None:
    """The speed of the device over the last 3 s, and the same smoothed."""
    period = 1 << (3 * HZ).bit_length()
    bw = written * HZ
    if elapsed > period:
        wb.write_bandwidth = wb.avg_write_bandwidth = max(bw // elapsed, 1)
        return
    old = wb.write_bandwidth
    bw = (bw + old * (period - elapsed)) // period
    avg = wb.avg_write_bandwidth
    if avg > old >= bw:
        avg -= (avg - old) >> 3
    if avg < old <= bw:
        avg += (old - avg) >> 3
    wb.write_bandwidth = bw
    wb.avg_write_bandwidth = max(avg, 1)


def wb_update_dirty_ratelimit(dtc: DirtyThrottleControl, dirtied: int, elapsed: int) -> None:
    """How fast each task may dirty so that all together match the device: stepwise towards the balanced rate."""
    wb = dtc.wb
    assert wb is not None
    dirty_rate = dirtied * HZ // elapsed
    task_ratelimit = (wb.dirty_ratelimit * dtc.pos_ratio >> RATELIMIT_CALC_SHIFT) + 1
    balanced = min(task_ratelimit * wb.avg_write_bandwidth // (dirty_rate | 1), wb.avg_write_bandwidth)
    wb.balanced_dirty_ratelimit = balanced
    step = 0
    rate = wb.dirty_ratelimit
    setpoint = (dirty_freerun_ceiling(dtc.thresh, dtc.bg_thresh) + dtc.thresh) // 2
    if dtc.dirty < setpoint:
        low = min(wb.balanced_dirty_ratelimit, balanced, task_ratelimit)
        if rate < low:
            step = low - rate
    else:
        high = max(wb.balanced_dirty_ratelimit, balanced, task_ratelimit)
        if rate > high:
            step = rate - high
    shift = rate // (2 * step + 1)
    step = (step >> shift if shift < 64 else 0)
    step = (step + 7) // 8
    rate += step if rate < balanced else -step
    wb.dirty_ratelimit = max(rate, 1)
    probe = wb.bdi.kernel.tp.bdi_dirty_ratelimit
    if probe is not None:
        probe(wb, dirty_rate, task_ratelimit)


def __wb_update_bandwidth(dtc: DirtyThrottleControl, start_time: int, update_ratelimit: bool) -> None:
    wb = dtc.wb
    assert wb is not None
    now = jiffies()
    elapsed = now - wb.bw_time_stamp
    if elapsed < BANDWIDTH_INTERVAL:
        return
    dirtied, written = wb.stat[WB_DIRTIED], wb.stat[WB_WRITTEN]
    if elapsed <= HZ or wb.bw_time_stamp >= start_time:        # else: idle in between, nothing to learn
        if update_ratelimit:
            wb_update_dirty_ratelimit(dtc, dirtied - wb.dirtied_stamp, elapsed)
        wb_update_write_bandwidth(wb, elapsed, written - wb.written_stamp)
    age = (now - wb.completions_stamp) // VM_COMPLETIONS_PERIOD
    if age:
        wb.completions >>= min(age, 63)
        wb.completions_stamp = now
    wb.completions += written - wb.written_stamp
    wb.dirtied_stamp = dirtied
    wb.written_stamp = written
    wb.bw_time_stamp = now


def wb_update_bandwidth(wb: BdiWriteback, start_time: int) -> None:
    """Called by the flusher now and then. start_time: when its work began, in jiffies."""
    __wb_update_bandwidth(DirtyThrottleControl(wb), start_time, False)


# ---- throttling ------------------------------------------------------------------------------------
def pos_ratio_polynom(setpoint: int, dirty: int, limit: int) -> int:
    """2.0 at the free run, 1.0 at the set point, 0 at the limit; in 1/1024."""
    x = ((setpoint - dirty) << RATELIMIT_CALC_SHIFT) // ((limit - setpoint) or 1)
    pos = x
    pos = pos * x >> RATELIMIT_CALC_SHIFT
    pos = pos * x >> RATELIMIT_CALC_SHIFT
    pos += 1 << RATELIMIT_CALC_SHIFT
    return max(0, min(pos, 2 << RATELIMIT_CALC_SHIFT))


def wb_position_ratio(dtc: DirtyThrottleControl) -> None:
    """dtc.pos_ratio: by how much tasks must be slower or may be faster than the balanced rate."""
    limit = dtc.thresh
    dtc.pos_ratio = 0
    if dtc.dirty >= limit:
        return
    freerun = dirty_freerun_ceiling(dtc.thresh, dtc.bg_thresh)
    setpoint = (freerun + limit) // 2
    pos_ratio = pos_ratio_polynom(setpoint, dtc.dirty, limit)
    wb_setpoint = setpoint * dtc.wb_thresh // (limit + 1)
    span = max((dtc.thresh - dtc.wb_thresh + 8 * dtc.avail // 1000) * dtc.wb_thresh // (dtc.thresh + 1), 1)
    x_intercept = wb_setpoint + span
    if dtc.wb_dirty < x_intercept - span // 4:
        pos_ratio = pos_ratio * (x_intercept - dtc.wb_dirty) // max(x_intercept - wb_setpoint, 1)
    else:
        pos_ratio //= 4
    x_intercept = dtc.wb_thresh // 2
    if dtc.wb_dirty < x_intercept:                 # an idle device may take a gulp
        pos_ratio = pos_ratio * x_intercept // dtc.wb_dirty if dtc.wb_dirty > x_intercept // 8 else pos_ratio * 8
    dtc.pos_ratio = pos_ratio


def wb_dirty_limits(dtc: DirtyThrottleControl) -> None:
    wb = dtc.wb
    assert wb is not None
    dtc.wb_thresh = __wb_calc_thresh(wb, dtc.thresh)
    dtc.wb_bg_thresh = dtc.bg_thresh * dtc.wb_thresh // dtc.thresh if dtc.thresh else 0
    dtc.wb_dirty = wb.stat[WB_RECLAIMABLE] + wb.stat[WB_WRITEBACK]


def dirty_poll_interval(dirty: int, thresh: int) -> int:
    """Pages until the next look: the further from the threshold, the more."""
    if thresh > dirty:
        return 1 << ((thresh - dirty).bit_length() - 1 >> 1)
    return 1


def wb_max_pause(wb: BdiWriteback, wb_dirty: int) -> int:
    """Jiffies: short while little is dirty, so that the device does not run dry."""
    bw = wb.avg_write_bandwidth
    t = wb_dirty // (1 + bw // (1 << (HZ // 8).bit_length() - 1)) + 1
    return min(t, MAX_PAUSE)


def wb_min_pause(wb: BdiWriteback, max_pause: int, task_ratelimit: int, dirty_ratelimit: int) -> tuple[int, int]:
    """(shortest pause worth sleeping, pages until the next one)."""
    hi = wb.avg_write_bandwidth.bit_length() - 1
    lo = wb.dirty_ratelimit.bit_length() - 1
    t = max(1, HZ // 100)
    if hi > lo:
        t += (hi - lo) * (10 * HZ) // 1024
    t = min(t, 1 + max_pause // 2)
    pages = dirty_ratelimit * t // HZ
    if pages < DIRTY_POLL_THRESH:
        t = max_pause
        pages = dirty_ratelimit * t // HZ
        if pages > DIRTY_POLL_THRESH:
            pages = DIRTY_POLL_THRESH
            t = HZ * DIRTY_POLL_THRESH // dirty_ratelimit
    pause = HZ * pages // (task_ratelimit + 1)
    if pause > max_pause:
        t = max_pause
        pages = task_ratelimit * t // HZ
    return (1 + t // 2 if pages >= DIRTY_POLL_THRESH else t), pages


@may_sleep
def balance_dirty_pages(wb: BdiWriteback, pages_dirtied: int) -> None:
    """Lets a task that dirties pages sleep as long as it takes to store them. A fatal signal ends it. Context: task."""
    task = current()
    kernel = task.kernel
    stat = kernel.mem.vm_stat
    dtc = DirtyThrottleControl(wb)
    dirty_exceeded = False
    start_time = jiffies()
    while True:
        now = jiffies()
        nr_reclaimable = stat[NR_FILE_DIRTY]
        dtc.avail = global_dirtyable_memory(kernel)
        dtc.dirty = nr_reclaimable + stat[NR_WRITEBACK]
        domain_dirty_limits(kernel, dtc)
        kernel.writeback.dirty_limit = dtc.thresh
        if dtc.dirty <= dirty_freerun_ceiling(dtc.thresh, dtc.bg_thresh):
            task.dirty_paused_when = now
            task.nr_dirtied = 0
            task.nr_dirtied_pause = dirty_poll_interval(dtc.dirty, dtc.thresh)
            break
        if not wb.state & WB_writeback_running:
            kernel.writeback.wb_start_background_writeback(wb)
        wb_dirty_limits(dtc)
        dirty_exceeded = dtc.wb_dirty > dtc.wb_thresh and dtc.dirty > dtc.thresh
        wb_position_ratio(dtc)
        if dirty_exceeded:
            wb.dirty_exceeded = True
        if now > wb.bw_time_stamp + BANDWIDTH_INTERVAL:
            __wb_update_bandwidth(dtc, start_time, True)
        dirty_ratelimit = wb.dirty_ratelimit
        task_ratelimit = dirty_ratelimit * dtc.pos_ratio >> RATELIMIT_CALC_SHIFT
        max_pause = wb_max_pause(wb, dtc.wb_dirty)
        min_pause, nr_dirtied_pause = wb_min_pause(wb, max_pause, task_ratelimit, dirty_ratelimit)
        if not task_ratelimit:
            period = pause = max_pause
        else:
            period = HZ * pages_dirtied // task_ratelimit
            pause = period
            if task.dirty_paused_when:
                pause -= now - task.dirty_paused_when
            if pause < min_pause:
                trace_balance(kernel, dtc, wb, dirty_ratelimit, task_ratelimit, pages_dirtied, period, min(pause, 0),
                              start_time)
                if pause < -HZ:
                    task.dirty_paused_when = now
                    task.nr_dirtied = 0
                elif period:
                    task.dirty_paused_when += period
                    task.nr_dirtied = 0
                elif task.nr_dirtied_pause <= pages_dirtied:
                    task.nr_dirtied_pause += pages_dirtied
                break
            if pause > max_pause:
                now += min(pause - max_pause, max_pause)
                pause = max_pause
        trace_balance(kernel, dtc, wb, dirty_ratelimit, task_ratelimit, pages_dirtied, period, pause, start_time)
        task.state = TASK_KILLABLE
        io_schedule_timeout(pause)
        task.dirty_paused_when = now + pause
        task.nr_dirtied = 0
        task.nr_dirtied_pause = nr_dirtied_pause
        if task_ratelimit or fatal_signal_pending(task):
            break
    if not dirty_exceeded and wb.dirty_exceeded:
        wb.dirty_exceeded = False
    if wb.state & WB_writeback_running:
        return
    if stat[NR_FILE_DIRTY] > dtc.bg_thresh:
        kernel.writeback.wb_start_background_writeback(wb)


@notrace
def trace_balance(kernel: Kernel, dtc: DirtyThrottleControl, wb: BdiWriteback, dirty_ratelimit: int,
                  task_ratelimit: int, dirtied: int, period: int, pause: int, start_time: int) -> None:
    probe = kernel.tp.balance_dirty_pages
    if probe is not None:
        probe(wb, dtc.thresh, dtc.bg_thresh, dtc.dirty, dtc.wb_thresh, dtc.wb_dirty, dirty_ratelimit, task_ratelimit,
              dirtied, period, pause, start_time)


@may_sleep
def balance_dirty_pages_ratelimited(mapping: AddressSpace) -> None:
    """Called after each dirtied page: now and then it looks whether the task must slow down. Context: task."""
    bdi = inode_to_bdi(mapping.host)
    if not bdi_cap_account_dirty(bdi):
        return
    assert bdi is not None
    task = current()
    state = task.kernel.writeback
    wb = bdi.wb
    ratelimit = task.nr_dirtied_pause
    if wb.dirty_exceeded:
        ratelimit = min(ratelimit, 8)
    ratelimits = state.bdp_ratelimits
    if task.nr_dirtied >= ratelimit:
        ratelimits[task.cpu] = 0
    elif ratelimits[task.cpu] >= state.ratelimit_pages:
        ratelimits[task.cpu] = 0
        ratelimit = 0
    if task.nr_dirtied >= ratelimit:
        balance_dirty_pages(wb, task.nr_dirtied)


def writeback_set_ratelimit(kernel: Kernel) -> None:
    """How many pages a CPU may dirty between two looks: 1/32 of the threshold, shared by the CPUs."""
    _background, dirty = global_dirty_limits(kernel)
    kernel.writeback.dirty_limit = dirty
    kernel.writeback.ratelimit_pages = max(dirty // (len(kernel.machine.cpus) * 32), 16)
