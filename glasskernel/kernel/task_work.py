"""Work that a task does itself, on its way back to user mode or when it exits.

Linux: kernel/task_work.c (5.3). Same: the last added runs first; work added while work runs is run, too; an exiting
task takes no more once it has run the rest. Gaps: task_work_cancel().
Owns: TaskStruct.task_works. Invariants: TIF_NOTIFY_RESUME is set while a task that will see user mode again has work.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import kick_process
from glasskernel.kernel.task import PF_EXITING, TIF_NOTIFY_RESUME
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


@slotted
class CallbackHead:
    """struct callback_head: func(data), once."""

    func: Callable[[Any], None]
    data: Any


def task_work_add(task: TaskStruct, work: CallbackHead, notify: bool) -> bool:
    """Gives a task work. notify: it shall enter the kernel for it. False: it is past its last work. Context: any."""
    works = task.task_works
    if works is None:
        return False
    works.append(work)
    if notify and not task.ti_flags & TIF_NOTIFY_RESUME:     # set_notify_resume()
        task.ti_flags |= TIF_NOTIFY_RESUME
        kick_process(task)
    return True


@may_sleep
def task_work_run() -> None:
    """Runs what there is, and what that adds."""
    task = register.task
    while task.task_works:
        works, task.task_works = task.task_works, []
        for work in reversed(works):
            work.func(work.data)
    if task.flags & PF_EXITING:
        task.task_works = None


@notrace
def exit_task_work(task: TaskStruct) -> None:
    """The last chance."""
    task_work_run()
