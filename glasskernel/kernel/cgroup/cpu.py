"""cpu: how much CPU a group gets beside its siblings, and how much at most.

Linux: cpu_cgroup_*(), cpu_legacy_files, cpu_files of kernel/sched/core.c (5.3). Same: cpu.shares, cpu.cfs_quota_us,
    cpu.cfs_period_us, cpu.stat, the root's too; in cgroup2 cpu.weight, cpu.weight.nice, cpu.max, cpu.stat; only tasks
    of the fair class can be moved between groups. The groups themselves: kernel/sched/group.py, the quotas:
    kernel/sched/bandwidth.py.
Differs: a task group ends when nobody is in it any more (Linux: begins to end at css_released).
Owns: tg.css. Gaps: wait_sum in cpu.stat, real-time groups (off in Debian's kernel, too); in cgroup2 cpu.pressure, and
    time that was used before the controller was enabled.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from glasskernel.fs.seq_file import seq_printf
from glasskernel.kernel.cgroup.cgroup_file import of_css, seq_css
from glasskernel.kernel.cgroup.cpuacct import account_cputime
from glasskernel.kernel.cgroup.css_set import task_css
from glasskernel.kernel.cgroup.migrate import cgroup_taskset_for_each
from glasskernel.kernel.cgroup.types import CFTYPE_NOT_ON_ROOT, CPU_CGRP_ID, Cftype, CgroupSubsys, CgroupSubsysState
from glasskernel.kernel.sched.bandwidth import (
    NSEC_PER_USEC,
    RUNTIME_INF,
    tg_get_cfs_period,
    tg_get_cfs_quota,
    tg_set_cfs_bandwidth,
    tg_set_cfs_period,
    tg_set_cfs_quota,
)
from glasskernel.kernel.sched.fair import fair_sched_class
from glasskernel.kernel.sched.group import (
    sched_change_group,
    sched_create_group,
    sched_destroy_group,
    sched_group_set_shares,
    sched_move_task,
    sched_offline_group,
    sched_online_group,
)
from glasskernel.kernel.sched.rq import update_rq_clock
from glasskernel.kernel.sched.types import (
    MAX_SHARES,
    SCHED_FIXEDPOINT_SHIFT,
    TASK_SET_GROUP,
    CfsBandwidth,
    TaskGroup,
    sched_prio_to_weight,
)
from glasskernel.kernel.task import TASK_NEW
from glasskernel.lib.errno import EINVAL, ERANGE, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import CgroupTaskset
    from glasskernel.kernel.task import TaskStruct

U64_MAX: Final = (1 << 64) - 1
CGROUP_WEIGHT_MIN, CGROUP_WEIGHT_DFL, CGROUP_WEIGHT_MAX = 1, 100, 10_000


@slotted
class CpuCgroup(CgroupSubsysState):
    """The css in struct task_group. utime, stime: what cgroup2 counts, in ns."""

    tg: TaskGroup = None  # type: ignore[assignment]
    utime: int = 0
    stime: int = 0


@notrace
def task_css_group(task: TaskStruct) -> TaskGroup:
    """The task's group in the hierarchy, whatever its session says."""
    css = task_css(task, CPU_CGRP_ID)
    assert isinstance(css, CpuCgroup)
    return css.tg


@notrace
def on_dfl(css: CgroupSubsysState) -> bool:
    """cgroup_subsys_on_dfl(): the controller is in cgroup2."""
    return not css.cgroup.root.hierarchy_id


# ---- groups come and go ------------------------------------------------------------------------------------------
def cpu_cgroup_css_alloc(kernel: Kernel, parent: CgroupSubsysState | None) -> CpuCgroup:
    if parent is None:
        kernel.sched.task_css_group = task_css_group
        tg = kernel.sched.root_task_group
    else:
        assert isinstance(parent, CpuCgroup)
        if on_dfl(parent):
            account_cputime(kernel)
        tg = sched_create_group(kernel, parent.tg)
    css = CpuCgroup(tg=tg)
    tg.css = css
    return css


def cpu_cgroup_css_online(css: CpuCgroup) -> None:
    if css.tg.parent is not None:
        kernel = css.tg.cfs_rq[0].rq.kernel
        sched_online_group(kernel, css.tg, css.tg.parent)


def cpu_cgroup_css_free(css: CpuCgroup) -> None:
    """Zombies have left, too."""
    if css.tg.parent is None:
        return
    kernel = css.tg.cfs_rq[0].rq.kernel
    if css.tg in kernel.sched.task_groups:
        sched_offline_group(kernel, css.tg)
    sched_destroy_group(kernel, css.tg)


# ---- tasks come and go -------------------------------------------------------------------------------------------
def cpu_cgroup_fork(task: TaskStruct) -> None:
    """A new task joins its group before it runs: sched_fork() put it beside its parent."""
    update_rq_clock(task.kernel.sched.rqs[task.cpu])
    sched_change_group(task, TASK_SET_GROUP)


def cpu_cgroup_can_attach(tset: CgroupTaskset) -> None:
    """Raises EINVAL: real-time tasks have no groups; a task that was never woken cannot be moved."""
    for task, _ in cgroup_taskset_for_each(tset):
        if task.sched_class is not fair_sched_class or task.state == TASK_NEW:
            raise KernelError(EINVAL)


def cpu_cgroup_attach(tset: CgroupTaskset) -> None:
    for task, _ in cgroup_taskset_for_each(tset):
        sched_move_task(task)


# ---- files -------------------------------------------------------------------------------------------------------
def cpu_shares_read_u64(css: CpuCgroup, cft: Cftype) -> int:
    return css.tg.shares >> SCHED_FIXEDPOINT_SHIFT


def cpu_shares_write_u64(css: CpuCgroup, cft: Cftype, shareval: int) -> None:
    """Raises EINVAL for the root group."""
    if shareval > U64_MAX >> SCHED_FIXEDPOINT_SHIFT:
        shareval = MAX_SHARES
    sched_group_set_shares(css.tg, shareval << SCHED_FIXEDPOINT_SHIFT)


def cpu_cfs_quota_read_s64(css: CpuCgroup, cft: Cftype) -> int:
    return tg_get_cfs_quota(css.tg)


def cpu_cfs_quota_write_s64(css: CpuCgroup, cft: Cftype, cfs_quota_us: int) -> None:
    """Raises EINVAL."""
    tg_set_cfs_quota(css.tg, cfs_quota_us)


def cpu_cfs_period_read_u64(css: CpuCgroup, cft: Cftype) -> int:
    return tg_get_cfs_period(css.tg)


def cpu_cfs_period_write_u64(css: CpuCgroup, cft: Cftype, cfs_period_us: int) -> None:
    """Raises EINVAL."""
    tg_set_cfs_period(css.tg, cfs_period_us)


def cpu_cfs_stat_show(m: SeqFile, v: Any) -> int | None:
    tg = seq_css(m).tg
    cfs_b = tg.cfs_bandwidth or CfsBandwidth(tg)
    seq_printf(m, b"nr_periods %d\nnr_throttled %d\nthrottled_time %d\n",
               cfs_b.nr_periods, cfs_b.nr_throttled, cfs_b.throttled_time)
    return None


# ---- files of cgroup2 --------------------------------------------------------------------------------------------
def cpu_weight_read_u64(css: CpuCgroup, cft: Cftype) -> int:
    """100 for 1024."""
    return ((css.tg.shares >> SCHED_FIXEDPOINT_SHIFT) * CGROUP_WEIGHT_DFL + 512) // 1024


def cpu_weight_write_u64(css: CpuCgroup, cft: Cftype, weight: int) -> None:
    """Raises ERANGE."""
    if not CGROUP_WEIGHT_MIN <= weight <= CGROUP_WEIGHT_MAX:
        raise KernelError(ERANGE)
    weight = (weight * 1024 + CGROUP_WEIGHT_DFL // 2) // CGROUP_WEIGHT_DFL
    sched_group_set_shares(css.tg, weight << SCHED_FIXEDPOINT_SHIFT)


def cpu_weight_nice_read_s64(css: CpuCgroup, cft: Cftype) -> int:
    """The nice level whose weight is nearest."""
    weight = css.tg.shares >> SCHED_FIXEDPOINT_SHIFT
    return min(range(40), key=lambda prio: abs(sched_prio_to_weight[prio] - weight)) - 20


def cpu_weight_nice_write_s64(css: CpuCgroup, cft: Cftype, nice: int) -> None:
    """Raises ERANGE."""
    if not -20 <= nice <= 19:
        raise KernelError(ERANGE)
    sched_group_set_shares(css.tg, sched_prio_to_weight[nice + 20] << SCHED_FIXEDPOINT_SHIFT)


def cpu_max_show(m: SeqFile, v: Any) -> int | None:
    tg = seq_css(m).tg
    quota = tg_get_cfs_quota(tg)
    seq_printf(m, b"%b %d\n", b"max" if quota < 0 else b"%d" % quota, tg_get_cfs_period(tg))
    return None


def cpu_max_write(of: KernfsNode, buf: bytes) -> None:
    """b"QUOTA [PERIOD]" in us, QUOTA a number or "max". Raises EINVAL."""
    tg = of_css(of).tg
    words = buf.split()
    if not words or not all(word.isdigit() for word in words[1:2]) or not (words[0] == b"max" or words[0].isdigit()):
        raise KernelError(EINVAL)
    period = int(words[1]) if len(words) > 1 else tg_get_cfs_period(tg)
    quota = RUNTIME_INF if words[0] == b"max" else int(words[0]) * NSEC_PER_USEC
    tg_set_cfs_bandwidth(tg, period * NSEC_PER_USEC, quota)


def cpu_stat_show(m: SeqFile, v: Any) -> int | None:
    css = seq_css(m)
    seq_printf(m, b"usage_usec %d\nuser_usec %d\nsystem_usec %d\n",
               (css.utime + css.stime) // NSEC_PER_USEC, css.utime // NSEC_PER_USEC, css.stime // NSEC_PER_USEC)
    cfs_b = css.tg.cfs_bandwidth or CfsBandwidth(css.tg)
    seq_printf(m, b"nr_periods %d\nnr_throttled %d\nthrottled_usec %d\n",
               cfs_b.nr_periods, cfs_b.nr_throttled, cfs_b.throttled_time // NSEC_PER_USEC)
    return None


cpu_cgrp_subsys = CgroupSubsys(
    b"cpu", CPU_CGRP_ID, cpu_cgroup_css_alloc,
    css_online=cpu_cgroup_css_online, css_free=cpu_cgroup_css_free,
    can_attach=cpu_cgroup_can_attach, attach=cpu_cgroup_attach, fork=cpu_cgroup_fork,
    legacy_cftypes=(
        Cftype(b"shares", read_u64=cpu_shares_read_u64, write_u64=cpu_shares_write_u64),
        Cftype(b"cfs_quota_us", read_s64=cpu_cfs_quota_read_s64, write_s64=cpu_cfs_quota_write_s64),
        Cftype(b"cfs_period_us", read_u64=cpu_cfs_period_read_u64, write_u64=cpu_cfs_period_write_u64),
        Cftype(b"stat", seq_show=cpu_cfs_stat_show),
    ),
    dfl_cftypes=(
        Cftype(b"weight", flags=CFTYPE_NOT_ON_ROOT, read_u64=cpu_weight_read_u64, write_u64=cpu_weight_write_u64),
        Cftype(b"weight.nice", flags=CFTYPE_NOT_ON_ROOT, read_s64=cpu_weight_nice_read_s64,
               write_s64=cpu_weight_nice_write_s64),
        Cftype(b"max", flags=CFTYPE_NOT_ON_ROOT, seq_show=cpu_max_show, write=cpu_max_write),
        Cftype(b"stat", flags=CFTYPE_NOT_ON_ROOT, seq_show=cpu_stat_show),
    ),
    threaded=True,
)
