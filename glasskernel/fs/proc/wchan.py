"""Where a sleeping task sleeps: /proc/PID/wchan and stack.

Linux: arch/x86/kernel/process.c get_wchan(), kernel/stacktrace.c (5.3). A kernel stack is a greenlet here,
    so the frames are Python's; in `name+0x1a/0x40` the numbers are the offset in the function's bytecode
    and its size.
Owns: nothing. Invariant: frames of scheduler functions are skipped by wchan, as in_sched_functions() does.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from types import FrameType

    from glasskernel.kernel.task import TaskStruct

_SCHED = ("glasskernel.kernel.sched.", "glasskernel.kernel.locking.", "glasskernel.arch.x86.process")
_MACHINE = "glasskernel.machine."


@notrace
def task_frames(task: TaskStruct) -> list[FrameType]:
    """The frames of a task that does not run, innermost first, without the machine's and helpers'."""
    stack = task.stack
    frame = stack.gr_frame if stack is not None else None
    frames: list[FrameType] = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_MACHINE) and module.startswith("glasskernel."):
            function = frame.f_globals.get(frame.f_code.co_name)
            if not getattr(function, "__notrace__", False) and not frame.f_code.co_name.startswith("<"):
                frames.append(frame)
        frame = frame.f_back
    return frames


def get_wchan(task: TaskStruct) -> str | None:
    """The function that a sleeping task waits in; None for one that runs or could."""
    if task.on_cpu or task.on_rq or task.exit_state or task.state == 0:
        return None
    for frame in task_frames(task):
        if not frame.f_globals["__name__"].startswith(_SCHED):
            return frame.f_code.co_name
    return None


def stack_trace_save_tsk(task: TaskStruct) -> list[str]:
    """The task's kernel stack, innermost first: "name+0x1a/0x40". schedule() itself is left out."""
    lines: list[str] = []
    for frame in task_frames(task):
        if not lines and frame.f_globals["__name__"].startswith(_SCHED):
            continue
        code = frame.f_code
        lines.append(f"{code.co_name}+{max(frame.f_lasti, 0):#x}/{len(code.co_code):#x}")
    return lines
