"""What every task passes: its groups at fork, and at its end.

Linux: cgroup_fork() to cgroup_free() at the end of kernel/cgroup/cgroup.c (5.3). Same: what is done when. Until
    somebody uses cgroups, all tasks are in one set that nobody keeps a list of (use_task_css_set_links).
Differs: the rest of cgroups is imported by who uses it first; no cgroup_threadgroup_rwsem: nothing sleeps between
    cgroup_can_fork() and cgroup_post_fork().
Owns: task.cgroups. Context: the forking task; the exiting task; who reaps it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.lib.errno import KernelError

if TYPE_CHECKING:
    from glasskernel.kernel.cgroup.types import CgroupSubsys
    from glasskernel.kernel.task import TaskStruct


def cgroup_fork(child: TaskStruct) -> None:
    """A child is in no group of its own yet: cgroup_post_fork() puts it into its parent's."""
    state = child.kernel.cgroup
    child.cgroups = None if state is None else state.init_css_set


def cgroup_can_fork(child: TaskStruct) -> None:
    """Asks the controllers. Raises what they say (EAGAIN: pids)."""
    state = child.kernel.cgroup
    if state is None:
        return
    asked: list[CgroupSubsys] = []
    for ss in state.have_canfork_callback:
        assert ss.can_fork is not None
        try:
            ss.can_fork(child)
        except KernelError:
            for earlier in reversed(asked):
                if earlier.cancel_fork is not None:
                    earlier.cancel_fork(child)
            raise
        asked.append(ss)


def cgroup_cancel_fork(child: TaskStruct) -> None:
    """The fork failed after cgroup_can_fork()."""
    state = child.kernel.cgroup
    if state is not None:
        for ss in state.have_canfork_callback:
            if ss.cancel_fork is not None:
                ss.cancel_fork(child)


def cgroup_post_fork(child: TaskStruct) -> None:
    """The child can be seen now: it joins the groups of the task that made it."""
    state = child.kernel.cgroup
    if state is None:
        return
    cset = current().cgroups
    if cset is None:                             # made by one of the idle tasks
        cset = state.init_css_set
    cset.refcount += 1
    cset.nr_tasks += 1
    from glasskernel.kernel.cgroup.css_set import css_set_move_task

    css_set_move_task(child, None, cset)
    for ss in state.have_fork_callback:
        assert ss.fork is not None
        ss.fork(child)


def cgroup_exit(task: TaskStruct) -> None:
    """The task leaves its groups; they remember it until it is reaped."""
    state = task.kernel.cgroup
    if state is None:
        return
    cset = task.cgroups
    if cset is not None and task in cset.tasks:
        from glasskernel.kernel.cgroup.css_set import css_set_move_task

        css_set_move_task(task, cset, None)
        cset.dying_tasks[task] = None
        cset.nr_tasks -= 1
    for ss in state.have_exit_callback:
        assert ss.exit is not None
        ss.exit(task)


def cgroup_release(task: TaskStruct) -> None:
    """The task was reaped."""
    state = task.kernel.cgroup
    if state is None:
        return
    for ss in state.have_release_callback:
        assert ss.release is not None
        ss.release(task)
    if task.cgroups is not None:
        task.cgroups.dying_tasks.pop(task, None)


def cgroup_free(task: TaskStruct) -> None:
    """Nobody needs the task any more: its set has one user less."""
    state = task.kernel.cgroup
    if state is not None and task.cgroups is not None:
        from glasskernel.kernel.cgroup.css_set import put_css_set

        cset, task.cgroups = task.cgroups, None
        put_css_set(state, cset)
