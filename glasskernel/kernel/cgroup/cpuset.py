"""cpuset: a group's tasks may use these CPUs and memory nodes only.

Linux: kernel/cgroup/cpuset.c (5.3), version 1. Same: a group's CPUs and nodes are some of its parent's; exclusive ones
    overlap with no sibling; a group needs CPUs and nodes before a task may enter; sched_setaffinity(2) is confined to
    them; a change moves the tasks of the group; children inherit, and clone_children copies.
Differs: what the kernel allocates for itself may lie anywhere when the group's nodes are full, not only in those of the
    nearest exclusive group above. Spreading of memory is kept as a flag only.
Owns: every Cpuset, SchedState.cpuset_cpus_allowed, TaskStruct.mems_allowed.
Gaps: cgroup2's cpuset and partitions, sched_load_balance=0 with its scheduling domains (EINVAL),
    sched_relax_domain_level, memory_pressure, CPU hotplug, deadline bandwidth.
Invariants: child.cpus_allowed is in parent.cpus_allowed; effective_cpus is what the group's tasks have at most.
Locks: cpuset_mutex is cgroup_mutex here, or nothing: changes do not sleep until they are made.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from glasskernel.fs.kernfs import kernfs_path
from glasskernel.fs.seq_file import seq_puts
from glasskernel.kernel.capability import CAP_SYS_NICE, capable
from glasskernel.kernel.cgroup.cgroup_file import of_cft, of_css, seq_cft, seq_css
from glasskernel.kernel.cgroup.css_set import (
    css_for_each_child,
    css_for_each_descendant_pre,
    css_task_iter,
    task_css,
    task_css_is_root,
)
from glasskernel.kernel.cgroup.migrate import cgroup_taskset_for_each
from glasskernel.kernel.cgroup.types import (
    CGRP_CPUSET_CLONE_CHILDREN,
    CPUSET_CGRP_ID,
    Cftype,
    CgroupSubsys,
    CgroupSubsysState,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.policy import set_cpus_allowed_ptr
from glasskernel.kernel.task import PF_NO_SETAFFINITY
from glasskernel.lib.bitmap import bitmap_parselist
from glasskernel.lib.errno import EACCES, EBUSY, EINVAL, ENOSPC, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.lib.vsprintf import cpumask_list
from glasskernel.mm.mempolicy import MAX_NUMNODES, cpuset_mems_allowed, mpol_rebind_policy
from glasskernel.mm.mmap import mmget, mmput
from glasskernel.mm.types import TASK_SIZE

if TYPE_CHECKING:
    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import CgroupTaskset
    from glasskernel.kernel.task import TaskStruct

(FILE_MEMORY_MIGRATE, FILE_CPULIST, FILE_MEMLIST, FILE_EFFECTIVE_CPULIST, FILE_EFFECTIVE_MEMLIST, FILE_CPU_EXCLUSIVE,
 FILE_MEM_EXCLUSIVE, FILE_MEM_HARDWALL, FILE_SCHED_LOAD_BALANCE, FILE_SPREAD_PAGE, FILE_SPREAD_SLAB) = range(11)
(CS_CPU_EXCLUSIVE, CS_MEM_EXCLUSIVE, CS_MEM_HARDWALL, CS_MEMORY_MIGRATE, CS_SCHED_LOAD_BALANCE, CS_SPREAD_PAGE,
 CS_SPREAD_SLAB) = (1 << bit for bit in range(1, 8))
_FLAG: Final = {
    FILE_MEMORY_MIGRATE: CS_MEMORY_MIGRATE, FILE_CPU_EXCLUSIVE: CS_CPU_EXCLUSIVE, FILE_MEM_EXCLUSIVE: CS_MEM_EXCLUSIVE,
    FILE_MEM_HARDWALL: CS_MEM_HARDWALL, FILE_SCHED_LOAD_BALANCE: CS_SCHED_LOAD_BALANCE,
    FILE_SPREAD_PAGE: CS_SPREAD_PAGE, FILE_SPREAD_SLAB: CS_SPREAD_SLAB,
}


@slotted
class Cpuset(CgroupSubsysState):
    """struct cpuset. Masks. cs_flags: CS_* (cpuset.flags)."""

    cs_flags: int = CS_SCHED_LOAD_BALANCE
    cpus_allowed: int = 0
    mems_allowed: int = 0
    effective_cpus: int = 0
    effective_mems: int = 0
    attach_in_progress: int = 0


@notrace
def task_cs(task: TaskStruct) -> Cpuset:
    css = task_css(task, CPUSET_CGRP_ID)
    assert isinstance(css, Cpuset)
    return css


@notrace
def parent_cs(cs: Cpuset) -> Cpuset | None:
    assert cs.parent is None or isinstance(cs.parent, Cpuset)
    return cs.parent


@notrace
def top_cpuset(cs: Cpuset) -> Cpuset:
    while cs.parent is not None:
        cs = cs.parent  # type: ignore[assignment]
    return cs


# ---- what a group may be -----------------------------------------------------------------------------------------
@notrace
def is_cpuset_subset(p: Cpuset, q: Cpuset) -> bool:
    """p's CPUs and nodes are among q's, and p is exclusive only where q is."""
    exclusive = CS_CPU_EXCLUSIVE | CS_MEM_EXCLUSIVE
    return not (p.cpus_allowed & ~q.cpus_allowed or p.mems_allowed & ~q.mems_allowed
                or p.cs_flags & exclusive & ~q.cs_flags)


def validate_change(cur: Cpuset, trial: Cpuset) -> None:
    """May cur become trial? Raises EBUSY (a child has more), EACCES (the parent has less), EINVAL (a sibling's), ENOSPC
    (tasks would be left with nothing).
    """
    for child in css_for_each_child(cur):
        if not is_cpuset_subset(child, trial):  # type: ignore[arg-type]
            raise KernelError(EBUSY)
    parent = parent_cs(cur)
    if parent is None:
        return
    if not is_cpuset_subset(trial, parent):
        raise KernelError(EACCES)
    for sibling in css_for_each_child(parent):
        assert isinstance(sibling, Cpuset)
        if sibling is cur:
            continue
        flags = trial.cs_flags | sibling.cs_flags
        if flags & CS_CPU_EXCLUSIVE and trial.cpus_allowed & sibling.cpus_allowed:
            raise KernelError(EINVAL)
        if flags & CS_MEM_EXCLUSIVE and trial.mems_allowed & sibling.mems_allowed:
            raise KernelError(EINVAL)
    if cpuset_has_tasks(cur) and ((cur.cpus_allowed and not trial.cpus_allowed)
                                  or (cur.mems_allowed and not trial.mems_allowed)):
        raise KernelError(ENOSPC)


@notrace
def cpuset_has_tasks(cs: Cpuset) -> bool:
    return bool(cs.cgroup.nr_populated_csets or cs.attach_in_progress)


@notrace
def alloc_trial_cpuset(cs: Cpuset) -> Cpuset:
    """A copy to try a change on."""
    trial = Cpuset(cs.cgroup, cs.ss, cs.parent)
    trial.cs_flags, trial.cpus_allowed, trial.mems_allowed = cs.cs_flags, cs.cpus_allowed, cs.mems_allowed
    return trial


# ---- changing it -------------------------------------------------------------------------------------------------
@may_sleep
def update_cpumask(cs: Cpuset, trial: Cpuset, buf: bytes) -> None:
    """Writes cpuset.cpus. Raises EACCES (the root's), EINVAL, ERANGE, what validate_change() raises."""
    if cs.parent is None:
        raise KernelError(EACCES)
    trial.cpus_allowed = bitmap_parselist(buf, 64)
    if trial.cpus_allowed & ~top_cpuset(cs).cpus_allowed:
        raise KernelError(EINVAL)
    if cs.cpus_allowed == trial.cpus_allowed:
        return
    validate_change(cs, trial)
    cs.cpus_allowed = trial.cpus_allowed
    update_cpumasks_hier(cs)


@may_sleep
def update_cpumasks_hier(cs: Cpuset) -> None:
    """The CPUs of a group changed: so do those of its tasks."""
    for cp in css_for_each_descendant_pre(cs):
        assert isinstance(cp, Cpuset)
        parent = parent_cs(cp)
        assert parent is not None
        new_cpus = compute_effective_cpumask(cp, parent)
        if cp is not cs and cp.effective_cpus == new_cpus:
            continue
        cp.effective_cpus = new_cpus
        update_tasks_cpumask(cp)


def compute_effective_cpumask(cs: Cpuset, parent: Cpuset) -> int:
    return cs.cpus_allowed & parent.effective_cpus


@may_sleep
def update_tasks_cpumask(cs: Cpuset) -> None:
    """Every task of the group gets the group's CPUs, whatever it had."""
    for task in css_task_iter(cs.cgroup):
        set_cpus_allowed_ptr(task, cs.effective_cpus)


@may_sleep
def update_nodemask(cs: Cpuset, trial: Cpuset, buf: bytes) -> None:
    """Writes cpuset.mems. Raises EACCES (the root's), EINVAL, ERANGE, what validate_change() raises."""
    if cs.parent is None:
        raise KernelError(EACCES)
    trial.mems_allowed = bitmap_parselist(buf, MAX_NUMNODES)
    if trial.mems_allowed & ~top_cpuset(cs).mems_allowed:
        raise KernelError(EINVAL)
    if cs.mems_allowed == trial.mems_allowed:
        return
    validate_change(cs, trial)
    cs.mems_allowed = trial.mems_allowed
    update_nodemasks_hier(cs)


@may_sleep
def update_nodemasks_hier(cs: Cpuset) -> None:
    """The nodes of a group changed: so do those of its tasks."""
    for cp in css_for_each_descendant_pre(cs):
        assert isinstance(cp, Cpuset)
        parent = parent_cs(cp)
        assert parent is not None
        new_mems = cp.mems_allowed & parent.effective_mems
        if cp is not cs and cp.effective_mems == new_mems:
            continue
        old_mems, cp.effective_mems = cp.effective_mems, new_mems
        update_tasks_nodemask(cp, old_mems)


@may_sleep
def update_tasks_nodemask(cs: Cpuset, old_mems: int) -> None:
    """Every task of the group, and its policies, get the group's nodes; with memory_migrate its pages move there."""
    for task in css_task_iter(cs.cgroup):
        cpuset_change_task_nodemask(task, guarantee_online_mems(cs))
        if cs.cs_flags & CS_MEMORY_MIGRATE:
            cpuset_migrate_mm(task, old_mems, cs.effective_mems)


def cpuset_change_task_nodemask(task: TaskStruct, nodes: int) -> None:
    """A mask of all nodes is stored as -1: allocations need not look at it."""
    if not task.kernel.mem.numa:
        return
    task.mems_allowed = nodes if task.kernel.mem.nodes_online & ~nodes else -1
    task.mempolicy = mpol_rebind_policy(task.mempolicy, nodes)         # mpol_rebind_task(), mpol_rebind_mm()
    if task.mm is not None:
        for vma in task.mm.vmas.overlapping(0, TASK_SIZE):
            vma.vm_policy = mpol_rebind_policy(vma.vm_policy, nodes)


@may_sleep
def cpuset_migrate_mm(task: TaskStruct, old: int, new: int) -> None:
    """Pages move from the nodes of one mask to those of another. In Linux a workqueue does it, and the caller waits: so
    what its own cpuset allows does not matter.
    """
    from glasskernel.mm.mbind import MPOL_MF_MOVE_ALL, do_migrate_pages  # late: few need it

    mm = task.mm
    if mm is not None and task is task.group_leader and old & ~new and new:
        mine = current().mems_allowed
        mmget(mm)
        try:
            current().mems_allowed = -1
            do_migrate_pages(mm, old, new, MPOL_MF_MOVE_ALL)
        except KernelError:                      # no memory there: they stay
            pass
        finally:
            current().mems_allowed = mine
            mmput(mm)


def update_flag(bit: int, cs: Cpuset, turning_on: bool) -> None:
    """Writes one of the flags. Raises what validate_change() raises; EINVAL for sched_load_balance=0."""
    trial = alloc_trial_cpuset(cs)
    trial.cs_flags = cs.cs_flags | bit if turning_on else cs.cs_flags & ~bit
    validate_change(cs, trial)
    if bit == CS_SCHED_LOAD_BALANCE and not turning_on:
        raise KernelError(EINVAL)                # scheduling domains cannot be divided yet
    cs.cs_flags = trial.cs_flags


# ---- files -------------------------------------------------------------------------------------------------------
@may_sleep
def cpuset_write_resmask(of: KernfsNode, buf: bytes) -> None:
    """cpuset.cpus and cpuset.mems."""
    cs: Cpuset = of_css(of)
    text = buf.split(b"\0")[0].strip()
    trial = alloc_trial_cpuset(cs)
    if of_cft(of).private == FILE_CPULIST:
        update_cpumask(cs, trial, text)
    else:
        update_nodemask(cs, trial, text)


def cpuset_common_seq_show(m: SeqFile, v: Any) -> int | None:
    cs: Cpuset = seq_css(m)
    mask = {FILE_CPULIST: cs.cpus_allowed, FILE_MEMLIST: cs.mems_allowed, FILE_EFFECTIVE_CPULIST: cs.effective_cpus,
            FILE_EFFECTIVE_MEMLIST: cs.effective_mems}[seq_cft(m).private]
    seq_puts(m, cpumask_list(mask) + b"\n")
    return None


def cpuset_read_u64(cs: Cpuset, cft: Cftype) -> int:
    return int(bool(cs.cs_flags & _FLAG[cft.private]))


def cpuset_write_u64(cs: Cpuset, cft: Cftype, value: int) -> None:
    update_flag(_FLAG[cft.private], cs, bool(value))


# ---- groups ------------------------------------------------------------------------------------------------------
def cpuset_css_alloc(kernel: Kernel, parent: CgroupSubsysState | None) -> Cpuset:
    """The root has everything, a new group nothing."""
    cs = Cpuset()
    if parent is None:
        cs.cpus_allowed = cs.effective_cpus = kernel.sched.cpu_active_mask
        cs.mems_allowed = cs.effective_mems = kernel.mem.nodes_online
        cs.cs_flags |= CS_CPU_EXCLUSIVE | CS_MEM_EXCLUSIVE
        kernel.sched.cpuset_cpus_allowed = cpuset_cpus_allowed
    return cs


def cpuset_css_online(cs: Cpuset) -> None:
    """With clone_children, a new group has what its parent has, unless a sibling has something for itself."""
    parent = parent_cs(cs)
    if parent is None:
        return
    cs.cs_flags |= parent.cs_flags & (CS_SPREAD_PAGE | CS_SPREAD_SLAB)
    if not cs.cgroup.flags & CGRP_CPUSET_CLONE_CHILDREN:
        return
    exclusive = CS_CPU_EXCLUSIVE | CS_MEM_EXCLUSIVE
    if any(sibling.cs_flags & exclusive for sibling in css_for_each_child(parent)):  # type: ignore[attr-defined]
        return
    cs.cpus_allowed = cs.effective_cpus = parent.cpus_allowed
    cs.mems_allowed = cs.effective_mems = parent.mems_allowed


# ---- tasks -------------------------------------------------------------------------------------------------------
def cpuset_can_attach(tset: CgroupTaskset) -> None:
    """Raises ENOSPC (the group has no CPUs or no nodes), EINVAL (a thread is bound), EPERM."""
    destination: Cpuset | None = None
    for task, css in cgroup_taskset_for_each(tset):
        assert isinstance(css, Cpuset)
        destination = css
        if not css.cpus_allowed or not css.mems_allowed:
            raise KernelError(ENOSPC)
        task_can_attach(task)
    if destination is not None:
        destination.attach_in_progress += 1


def task_can_attach(task: TaskStruct) -> None:
    """Whose CPUs must not change cannot enter (kernel/sched/core.c). The others: who may set their scheduling may."""
    if task.flags & PF_NO_SETAFFINITY:
        raise KernelError(EINVAL)
    cred, tcred = current().cred, task.real_cred
    if tcred.cap_permitted & ~cred.cap_permitted and not capable(CAP_SYS_NICE):      # cap_task_setscheduler()
        raise KernelError(EPERM)


def cpuset_cancel_attach(tset: CgroupTaskset) -> None:
    for _task, css in cgroup_taskset_for_each(tset):
        assert isinstance(css, Cpuset)
        css.attach_in_progress -= 1
        return


@may_sleep
def cpuset_attach(tset: CgroupTaskset) -> None:
    """The tasks have come: they get the group's CPUs and nodes."""
    destination: Cpuset | None = None
    for task, css in cgroup_taskset_for_each(tset):
        assert isinstance(css, Cpuset)
        destination = css
        set_cpus_allowed_ptr(task, guarantee_online_cpus(css))
        old_mems = cpuset_mems_allowed(task)
        cpuset_change_task_nodemask(task, guarantee_online_mems(css))
        if css.cs_flags & CS_MEMORY_MIGRATE:
            cpuset_migrate_mm(task, old_mems, css.effective_mems)
    if destination is not None:
        destination.attach_in_progress -= 1


def guarantee_online_cpus(cs: Cpuset) -> int:
    """The group's CPUs; if it has none any more, those of the nearest group above that has some."""
    while not cs.effective_cpus:
        assert isinstance(cs.parent, Cpuset)
        cs = cs.parent
    return cs.effective_cpus


def guarantee_online_mems(cs: Cpuset) -> int:
    """The group's nodes, or those of the nearest group above that has some."""
    while not cs.effective_mems:
        assert isinstance(cs.parent, Cpuset)
        cs = cs.parent
    return cs.effective_mems


def cpuset_cpus_allowed(task: TaskStruct) -> int:
    """The CPUs that the task's group lets it have: sched_setaffinity(2) asks."""
    return guarantee_online_cpus(task_cs(task))


def cpuset_fork(task: TaskStruct) -> None:
    """A child may be where its parent may be now; that can have changed since its mask was copied."""
    if not task_css_is_root(task, CPUSET_CGRP_ID):
        set_cpus_allowed_ptr(task, current().cpus_allowed)
        task.mems_allowed = current().mems_allowed


def proc_cpuset_show(task: TaskStruct) -> bytes:
    """/proc/PID/cpuset"""
    return kernfs_path(task_cs(task).cgroup.kn) + b"\n"


cpuset_cgrp_subsys = CgroupSubsys(
    b"cpuset", CPUSET_CGRP_ID, cpuset_css_alloc, cpuset_css_online,
    can_attach=cpuset_can_attach, cancel_attach=cpuset_cancel_attach, attach=cpuset_attach, fork=cpuset_fork,
    legacy_cftypes=(
        Cftype(b"cpus", FILE_CPULIST, seq_show=cpuset_common_seq_show, write=cpuset_write_resmask),
        Cftype(b"mems", FILE_MEMLIST, seq_show=cpuset_common_seq_show, write=cpuset_write_resmask),
        Cftype(b"effective_cpus", FILE_EFFECTIVE_CPULIST, seq_show=cpuset_common_seq_show),
        Cftype(b"effective_mems", FILE_EFFECTIVE_MEMLIST, seq_show=cpuset_common_seq_show),
        Cftype(b"cpu_exclusive", FILE_CPU_EXCLUSIVE, read_u64=cpuset_read_u64, write_u64=cpuset_write_u64),
        Cftype(b"mem_exclusive", FILE_MEM_EXCLUSIVE, read_u64=cpuset_read_u64, write_u64=cpuset_write_u64),
        Cftype(b"mem_hardwall", FILE_MEM_HARDWALL, read_u64=cpuset_read_u64, write_u64=cpuset_write_u64),
        Cftype(b"sched_load_balance", FILE_SCHED_LOAD_BALANCE, read_u64=cpuset_read_u64, write_u64=cpuset_write_u64),
        Cftype(b"memory_migrate", FILE_MEMORY_MIGRATE, read_u64=cpuset_read_u64, write_u64=cpuset_write_u64),
        Cftype(b"memory_spread_page", FILE_SPREAD_PAGE, read_u64=cpuset_read_u64, write_u64=cpuset_write_u64),
        Cftype(b"memory_spread_slab", FILE_SPREAD_SLAB, read_u64=cpuset_read_u64, write_u64=cpuset_write_u64),
    ),
)
