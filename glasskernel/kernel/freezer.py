"""Freezing tasks: they stop where they would handle signals, and stay there until they are thawed.

Linux: kernel/freezer.c, include/linux/freezer.h (5.3). Same: a fake signal brings a task to the refrigerator; it sleeps
    there without minding signals; who waits for a vfork child, is stopped or traced need not come.
Differs: only the cgroup controller freezes (kernel/cgroup/legacy_freezer.py), so Kernel.cgroup_freezing, which is None
    while nothing does, is system_freezing_cnt and cgroup_freezing() in one. Kernel threads are never frozen.
Owns: PF_FROZEN, PF_FREEZER_SKIP of the running task. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import schedule, set_current_state, wake_up_process
from glasskernel.kernel.signal import signal_wake_up
from glasskernel.kernel.task import PF_FREEZER_SKIP, PF_FROZEN, PF_KTHREAD, TASK_UNINTERRUPTIBLE
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


@notrace
def freezing(p: TaskStruct) -> bool:
    """Shall the task freeze, or stay frozen?"""
    return p.kernel.cgroup_freezing is not None and freezing_slow_path(p)


def freezing_slow_path(p: TaskStruct) -> bool:
    cgroup_freezing = p.kernel.cgroup_freezing
    return not p.flags & PF_KTHREAD and cgroup_freezing is not None and cgroup_freezing(p)


@notrace
def frozen(p: TaskStruct) -> bool:
    return bool(p.flags & PF_FROZEN)


@notrace
@may_sleep
def try_to_freeze() -> bool:
    """A place where the task can freeze. True: it was frozen."""
    return freezing(current()) and __refrigerator()


@may_sleep
def __refrigerator() -> bool:
    """Sleeps until the task may go on."""
    task = current()
    was_frozen = False
    save = task.state
    while True:
        set_current_state(TASK_UNINTERRUPTIBLE)
        task.flags |= PF_FROZEN
        if not freezing(task):
            task.flags &= ~PF_FROZEN
            break
        was_frozen = True
        schedule()
    set_current_state(save)
    return was_frozen


def freeze_task(p: TaskStruct) -> bool:
    """Sends a task to the refrigerator. False: it shall not freeze, or is frozen."""
    if not freezing(p) or frozen(p):
        return False
    fake_signal_wake_up(p)
    return True


@notrace
def fake_signal_wake_up(p: TaskStruct) -> None:
    signal_wake_up(p, False)


def __thaw_task(p: TaskStruct) -> None:
    """The task finds out by itself whether it may go on."""
    if frozen(p):
        wake_up_process(p)


@notrace
def freezer_do_not_count() -> None:
    """The task will sleep for something that may be frozen itself: it counts as frozen meanwhile."""
    current().flags |= PF_FREEZER_SKIP


@notrace
@may_sleep
def freezer_count() -> None:
    """It is back: and freezes now, if it shall."""
    current().flags &= ~PF_FREEZER_SKIP
    try_to_freeze()


@notrace
def freezer_should_skip(p: TaskStruct) -> bool:
    return bool(p.flags & PF_FREEZER_SKIP)
