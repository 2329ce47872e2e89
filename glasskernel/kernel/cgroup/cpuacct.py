"""cpuacct: how much CPU time the tasks of a group, and of the groups below it, have used on each CPU.

Linux: kernel/sched/cpuacct.c (5.3). Same: the files; a group counts for those above it, too.
Differs: time is counted from the first mount of the controller on, not from boot; user and system time are told apart
    exactly, in `stat` as in usage_user and usage_sys, by task.utime (cputime.py) instead of by the tick and by what
    lies on the task's stack.
Owns: every Cpuacct. Invariant: a group has used as much as its tasks did while they were in it, and the groups below.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from glasskernel.fs.seq_file import seq_printf, seq_puts
from glasskernel.kernel.cgroup.cgroup_file import seq_cft, seq_css
from glasskernel.kernel.cgroup.css_set import task_css
from glasskernel.kernel.cgroup.types import CPU_CGRP_ID, CPUACCT_CGRP_ID, Cftype, CgroupSubsys, CgroupSubsysState
from glasskernel.kernel.time.timekeeping import nsec_to_clock_t
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

CPUACCT_STAT_USER, CPUACCT_STAT_SYSTEM, CPUACCT_STAT_NSTATS = range(3)
_BOTH: Final = CPUACCT_STAT_NSTATS


@slotted
class Cpuacct(CgroupSubsysState):
    """struct cpuacct. cpuusage: [user, system] in ns by CPU. seen: the root's: utime of each task when it was charged
    last.
    """

    kernel: Kernel = None  # type: ignore[assignment]
    cpuusage: list[list[int]] = field(default_factory=list)
    seen: dict[TaskStruct, int] = field(default_factory=dict)


def cpuacct_css_alloc(kernel: Kernel, parent: CgroupSubsysState | None) -> Cpuacct:
    return Cpuacct(kernel=kernel, cpuusage=[[0, 0] for _ in kernel.sched.rqs])


@notrace
def cpuacct_bind(root_css: CgroupSubsysState) -> None:
    """The first mount: from now on the scheduler reports what runs."""
    assert isinstance(root_css, Cpuacct)
    account_cputime(root_css.kernel)


@notrace
def account_cputime(kernel: Kernel) -> None:
    """cgroup2's cpu.stat wants it, too."""
    sched = kernel.sched
    if sched.cpuacct_charge is None:
        sched.cpuacct_charge = cpuacct_charge
        for tg in sched.task_groups:
            for cfs_rq in tg.cfs_rq:
                cfs_rq.accounted = True


def cpuacct_charge(tsk: TaskStruct, cputime: int) -> None:
    """The task ran for so many ns. Context: any; called by update_curr() of its class."""
    ca: Any = task_css(tsk, CPUACCT_CGRP_ID)
    root: Any = ca
    while root.parent is not None:
        root = root.parent
    user = min(max(tsk.utime - root.seen.get(tsk, tsk.utime - cputime), 0), cputime)
    root.seen[tsk] = tsk.utime
    while ca is not None:
        usage = ca.cpuusage[tsk.cpu]
        usage[CPUACCT_STAT_USER] += user
        usage[CPUACCT_STAT_SYSTEM] += cputime - user
        ca = ca.parent
    cpu: Any = task_css(tsk, CPU_CGRP_ID)
    if not cpu.cgroup.root.hierarchy_id:
        __cgroup_account_cputime(cpu, user, cputime - user)


@notrace
def __cgroup_account_cputime(cpu: Any, user: int, system: int) -> None:
    """For cgroup2's cpu.stat."""
    while cpu is not None:
        cpu.utime += user
        cpu.stime += system
        cpu = cpu.parent


@notrace
def cpuacct_release(task: TaskStruct) -> None:
    """The task was reaped."""
    root: Any = task_css(task, CPUACCT_CGRP_ID)
    while root.parent is not None:
        root = root.parent
    root.seen.pop(task, None)


# ---- files -------------------------------------------------------------------------------------------------------
@notrace
def cpuacct_cpuusage_read(ca: Cpuacct, cpu: int, index: int) -> int:
    """ns; index _BOTH: user and system time together."""
    usage = ca.cpuusage[cpu]
    return sum(usage) if index == _BOTH else usage[index]


def __cpuusage_read(ca: Cpuacct, cft: Cftype) -> int:
    return sum(cpuacct_cpuusage_read(ca, cpu, cft.private) for cpu in range(len(ca.cpuusage)))


def cpuusage_write(ca: Cpuacct, cft: Cftype, val: int) -> None:
    """Only 0: begins anew. Raises EINVAL."""
    if val:
        raise KernelError(EINVAL)
    for usage in ca.cpuusage:
        usage[:] = [0, 0]


def __cpuacct_percpu_seq_show(m: SeqFile, v: Any) -> int | None:
    ca, index = seq_css(m), seq_cft(m).private
    for cpu in range(len(ca.cpuusage)):
        seq_printf(m, b"%d ", cpuacct_cpuusage_read(ca, cpu, index))
    seq_puts(m, b"\n")
    return None


def cpuacct_all_seq_show(m: SeqFile, v: Any) -> int | None:
    ca = seq_css(m)
    seq_puts(m, b"cpu user system\n")
    for cpu, (user, system) in enumerate(ca.cpuusage):
        seq_printf(m, b"%d %d %d\n", cpu, user, system)
    return None


def cpuacct_stats_show(m: SeqFile, v: Any) -> int | None:
    """In ticks of USER_HZ."""
    ca = seq_css(m)
    for index, name in enumerate((b"user", b"system")):
        total = sum(usage[index] for usage in ca.cpuusage)
        seq_printf(m, b"%b %d\n", name, nsec_to_clock_t(total))
    return None


cpuacct_cgrp_subsys = CgroupSubsys(
    b"cpuacct", CPUACCT_CGRP_ID, cpuacct_css_alloc, bind=cpuacct_bind, release=cpuacct_release,
    legacy_cftypes=(
        Cftype(b"usage", _BOTH, read_u64=__cpuusage_read, write_u64=cpuusage_write),
        Cftype(b"usage_user", CPUACCT_STAT_USER, read_u64=__cpuusage_read),
        Cftype(b"usage_sys", CPUACCT_STAT_SYSTEM, read_u64=__cpuusage_read),
        Cftype(b"usage_percpu", _BOTH, seq_show=__cpuacct_percpu_seq_show),
        Cftype(b"usage_percpu_user", CPUACCT_STAT_USER, seq_show=__cpuacct_percpu_seq_show),
        Cftype(b"usage_percpu_sys", CPUACCT_STAT_SYSTEM, seq_show=__cpuacct_percpu_seq_show),
        Cftype(b"usage_all", seq_show=cpuacct_all_seq_show),
        Cftype(b"stat", seq_show=cpuacct_stats_show),
    ),
)
