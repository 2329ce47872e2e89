"""Autogroups: each session is a task group, so that a build in one terminal leaves half of the CPU to another.

Linux: kernel/sched/autogroup.c, .h (5.3). Same: setsid() makes one, forks inherit it, cgroups go before it, its nice
    level is its share; a change of kernel.sched_autogroup_enabled is seen by the tasks that are forked afterwards.
Differs: as in Debian they are off unless `autogroup` is on the command line (`noautogroup`: off); a session's task
    group is made when the first task goes there, not by setsid(): with autogroups off there is only its number.
Owns: signal.autogroup, every Autogroup. Invariants: kref is the number of processes (zombies included) in the
    session, and of those who look; a task group whose `autogroup` is set has a kref above 0.
Context: task; sched_autogroup_exit(): any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.types import HZ, SCHED_FIXEDPOINT_SHIFT, sched_prio_to_weight
from glasskernel.kernel.task import PF_EXITING
from glasskernel.lib.errno import EAGAIN, EINVAL, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import TaskGroup
    from glasskernel.kernel.task import SignalStruct, TaskStruct


@slotted
class Autogroup:
    """struct autogroup"""

    kernel: Kernel
    id: int
    kref: int = 1
    nice: int = 0
    tg: TaskGroup | None = None                  # made by autogroup_tg()


# ---- sessions ------------------------------------------------------------------------------------------------
def sched_autogroup_create_attach(p: TaskStruct) -> None:
    """p began a session: its threads go to a group of their own."""
    sched = p.kernel.sched
    sched.autogroup_seq_nr += 1
    ag = Autogroup(p.kernel, sched.autogroup_seq_nr)
    autogroup_move_group(p, ag)
    autogroup_kref_put(ag)


def autogroup_move_group(p: TaskStruct, ag: Autogroup) -> None:
    """All threads of p's process go to the session's group."""
    prev = p.signal.autogroup
    if prev is ag:
        return
    ag.kref += 1
    p.signal.autogroup = ag
    if p.kernel.sched.sysctl_sched_autogroup_enabled or p.sched_task_group.autogroup is not None:
        from glasskernel.kernel.sched.group import sched_move_task

        for thread in list(p.signal.threads):
            sched_move_task(thread)
    if prev is not None:
        autogroup_kref_put(prev)


@notrace
def autogroup_kref_put(ag: Autogroup) -> None:
    ag.kref -= 1
    if not ag.kref and ag.tg is not None:
        autogroup_destroy(ag, ag.tg)


def autogroup_destroy(ag: Autogroup, tg: TaskGroup) -> None:
    """The last process of the session was reaped."""
    from glasskernel.kernel.sched.group import sched_destroy_group, sched_offline_group

    ag.tg = None
    sched_offline_group(ag.kernel, tg)
    sched_destroy_group(ag.kernel, tg)


@notrace
def autogroup_tg(ag: Autogroup) -> TaskGroup:
    """The rest of autogroup_create(): its task group."""
    if ag.tg is None:
        from glasskernel.kernel.sched.group import sched_create_group, sched_online_group

        root = ag.kernel.sched.root_task_group
        tg = ag.tg = sched_create_group(ag.kernel, root)
        tg.autogroup = ag
        tg.shares = nice_to_shares(ag.nice)
        sched_online_group(ag.kernel, tg, root)
    return ag.tg


# ---- fork and exit -------------------------------------------------------------------------------------------
def sched_autogroup_fork(sig: SignalStruct, parent: SignalStruct) -> None:
    """A new process is in its parent's session."""
    ag = sig.autogroup = parent.autogroup
    if ag is not None:
        ag.kref += 1


def sched_autogroup_exit(sig: SignalStruct) -> None:
    """The last that is left of a process goes."""
    if sig.autogroup is not None:
        autogroup_kref_put(sig.autogroup)
        sig.autogroup = None


def sched_autogroup_exit_task(p: TaskStruct) -> None:
    """p is exiting, and soon on no list of threads: it leaves the session's group, which may end before p does."""
    from glasskernel.kernel.sched.group import sched_move_task

    sched_move_task(p)


# ---- which group a task is in -------------------------------------------------------------------------------------
@notrace
def autogroup_task_group(p: TaskStruct, tg: TaskGroup) -> TaskGroup:
    """Its session's group instead of the root group, if there are such groups."""
    sched = p.kernel.sched
    if sched.sysctl_sched_autogroup_enabled and task_wants_autogroup(p, tg):
        return autogroup_tg(p.signal.autogroup)
    return tg


@notrace
def task_wants_autogroup(p: TaskStruct, tg: TaskGroup) -> bool:
    """A cgroup goes before a session; who is exiting cannot be followed any more."""
    return tg is p.kernel.sched.root_task_group and not p.flags & PF_EXITING and p.signal.autogroup is not None


@notrace
def forked_task_group(p: TaskStruct) -> TaskGroup:
    """The group of a task that is just being made; it still has its parent's signal_struct."""
    css_group = p.kernel.sched.task_css_group
    return autogroup_task_group(p, p.kernel.sched.root_task_group if css_group is None else css_group(register.task))


# ---- switching it on and off -----------------------------------------------------------------------------------
@notrace
def setup_autogroup(kernel: Kernel, cmdline: str) -> None:
    """`autogroup` and `noautogroup` of the command line; the last one counts."""
    for word in cmdline.split():
        if word in ("autogroup", "noautogroup"):
            enable_autogroups(kernel, int(word == "autogroup"))


@notrace
def enable_autogroups(kernel: Kernel, enabled: int) -> None:
    """kernel.sched_autogroup_enabled"""
    sched = kernel.sched
    sched.sysctl_sched_autogroup_enabled = enabled
    if enabled:
        sched.autogroup_task_group = autogroup_task_group
        sched.forked_task_group = forked_task_group


# ---- /proc/PID/autogroup ----------------------------------------------------------------------------------------
@notrace
def nice_to_shares(nice: int) -> int:
    return sched_prio_to_weight[nice + 20] << SCHED_FIXEDPOINT_SHIFT


def proc_sched_autogroup_set_nice(p: TaskStruct, nice: int) -> int:
    """The weight of p's session. Raises EINVAL, EPERM (it may not become nicer to itself), EAGAIN. Returns 0."""
    from glasskernel.kernel.sched.group import sched_group_set_shares
    from glasskernel.kernel.sched.policy import can_nice

    if not -20 <= nice <= 19:
        raise KernelError(EINVAL)
    kernel = p.kernel
    if nice < 0 and not can_nice(register.task, nice):
        raise KernelError(EPERM)
    now = kernel.time.jiffies
    if now < kernel.sched.autogroup_next_nice and not capable(CAP_SYS_ADMIN):
        raise KernelError(EAGAIN)                # it is expensive: ten times a second, all users together
    kernel.sched.autogroup_next_nice = now + HZ // 10
    ag: Autogroup | None = p.signal.autogroup
    if ag is None:
        raise KernelError(EINVAL)                # sched_group_set_shares() of the root group
    if ag.tg is not None:
        sched_group_set_shares(ag.tg, nice_to_shares(nice))
    ag.nice = nice
    return 0


def proc_sched_autogroup_show_task(p: TaskStruct) -> bytes:
    """The text of /proc/PID/autogroup; nothing for who never was in a session."""
    ag: Autogroup | None = p.signal.autogroup
    if ag is None:
        return b""
    return b"/autogroup-%d nice %d\n" % (ag.id, ag.nice)
