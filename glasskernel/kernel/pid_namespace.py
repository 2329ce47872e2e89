"""PID namespaces other than the initial one.

Linux: kernel/pid_namespace.c (5.3). Same: a namespace for the children of who unshares, its first process is its init:
    only signals from outside that have to be obeyed reach it unasked, it takes the orphans, and takes all with it.
Differs: the initial one is no object (None). Owns: PidNamespace.
Gaps: reboot(2) in one; ns_last_pid is the initial one's, and so are the numbers in System V IPC, in locks, in cgroups'
    files and of pidfds in fdinfo.
Invariants: pids has every Pid that has a number there; no new one comes once `adding` is False.
Context of every function: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_MAX, PIDTYPE_PID, pid_task, thread_group_leader
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event
from glasskernel.kernel.signal import __fatal_signal_pending, group_send_sig_info
from glasskernel.kernel.signal_types import SEND_SIG_PRIV, SIG_IGN, SIGCHLD, SIGKILL
from glasskernel.kernel.task import TIF_SIGPENDING, KSigaction
from glasskernel.lib.errno import ECHILD, EINVAL, ENOSPC, KernelError, Restart
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

MAX_PID_NS_LEVEL = 32


@slotted
class PidNamespace:
    """struct pid_namespace. adding: PIDNS_ADDING. wait: its init, for all others to be gone. zap: ends them all."""

    kernel: Kernel
    parent: PidNamespace | None
    level: int
    inum: int
    pids: SortedDict = field(default_factory=SortedDict)             # number here -> Pid
    last_pid: int = 0
    child_reaper: TaskStruct | None = None
    adding: bool = True
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    count: int = 1
    zap: Callable[[PidNamespace, Callable[[], object]], None] = lambda ns, reap: zap_pid_ns_processes(ns, reap)


def create_pid_namespace(kernel: Kernel, parent: PidNamespace | None) -> PidNamespace:
    """Raises ENOSPC, too deep."""
    level = 1 if parent is None else parent.level + 1
    if level > MAX_PID_NS_LEVEL:
        raise KernelError(ENOSPC)
    kernel.vfs.last_ns_inum += 1
    if parent is not None:
        parent.count += 1
    return PidNamespace(kernel, parent, level, kernel.vfs.last_ns_inum)


def copy_pid_ns(old: PidNamespace | None) -> PidNamespace:
    """CLONE_NEWPID. Raises EINVAL (the caller's children are in another one already), ENOSPC."""
    task = current()
    if task.thread_pid.ns is not old:
        raise KernelError(EINVAL)
    return create_pid_namespace(task.kernel, old)


@may_sleep
def zap_pid_ns_processes(ns: PidNamespace, reap: Callable[[], object]) -> None:
    """Its init, the caller, ends: so does everybody in it. reap(): kernel_wait4() for any child."""
    me = current()
    ns.adding = False                             # disable_pid_allocation()
    me.sighand.action[SIGCHLD - 1] = KSigaction(SIG_IGN)             # whoever ends now is nobody's zombie
    for number in list(ns.pids.irange(2)):
        pid = ns.pids.get(number)
        task = pid_task(pid, PIDTYPE_PID)
        if task is not None and not __fatal_signal_pending(task):
            group_send_sig_info(SIGKILL, SEND_SIG_PRIV, task, PIDTYPE_MAX)
    while True:
        me.ti_flags &= ~TIF_SIGPENDING
        try:
            reap()
        except Restart:
            continue
        except KernelError as error:
            if error.errno == ECHILD:
                break
            raise
    left = 1 if thread_group_leader(me) else 2
    wait_event(ns.wait, lambda: len(ns.pids) <= left)
