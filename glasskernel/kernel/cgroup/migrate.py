"""Moving tasks between groups.

Linux: cgroup_migrate_*() and cgroup_attach_task() of kernel/cgroup/cgroup.c (5.3). Same: first every set that is needed
    is found or made, then the controllers whose state changes are asked, all tasks move at once, and the controllers
    are told. Differs: the context of a migration is a small table here, not marks in the sets.
Owns: nothing. Locks: cgroup_mutex is held. Context: task; controllers may sleep in attach().
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.cgroup.css_set import css_set_move_task, find_css_set, put_css_set, task_css_set
from glasskernel.kernel.cgroup.types import CgroupTaskset
from glasskernel.kernel.task import PF_EXITING
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.kernel.cgroup.types import Cgroup, CgroupState, CgroupSubsys, CgroupSubsysState, CssSet
    from glasskernel.kernel.task import TaskStruct


@notrace
def cgroup_taskset_for_each(tset: CgroupTaskset) -> Iterator[tuple[TaskStruct, CgroupSubsysState]]:
    """The tasks that move, and the state of the controller that is called, where they go. While can_attach() runs,
    task_css() is still where they come from; in attach() it is where they went.
    """
    assert tset.ss is not None
    ssid = tset.ss.id
    for task, _src, dst in tset.tasks:
        yield task, dst.subsys[ssid]


@may_sleep
def cgroup_attach_task(state: CgroupState, dst_cgrp: Cgroup, leader: TaskStruct, threadgroup: bool) -> None:
    """Moves a thread, or (threadgroup) all of a process. Raises what a controller's can_attach() raises."""
    tasks = list(leader.signal.threads) if threadgroup else [leader]
    cgroup_migrate(state, dst_cgrp, tasks)
    probe = state.kernel.tp.cgroup_attach_task
    if probe is not None:
        probe(dst_cgrp, leader)


@may_sleep
def cgroup_migrate(state: CgroupState, dst_cgrp: Cgroup, tasks: list[TaskStruct]) -> None:
    """Moves tasks to a group, all or none. Raises what a controller's can_attach() raises."""
    preloaded: dict[CssSet, CssSet] = {}
    tset = CgroupTaskset(None, [])
    try:
        for task in tasks:
            src = task_css_set(task)
            if src.cgrps[dst_cgrp.root.hierarchy_id] is dst_cgrp or task.flags & PF_EXITING:
                continue
            if src not in preloaded:
                preloaded[src] = find_css_set(state, src, dst_cgrp)
                src.refcount += 1
            tset.tasks.append((task, src, preloaded[src]))
        if tset.tasks:
            cgroup_migrate_execute(state, tset, preloaded)
    finally:
        for src, dst in preloaded.items():       # cgroup_migrate_finish()
            put_css_set(state, dst)
            put_css_set(state, src)


@may_sleep
def cgroup_update_dfl_csses(state: CgroupState, cgrps: list[Cgroup]) -> None:
    """Other states apply in these groups now: their tasks go to sets with them. Raises what can_attach() raises."""
    preloaded: dict[CssSet, CssSet] = {}
    tset = CgroupTaskset(None, [])
    try:
        for cgrp in cgrps:
            for src in tuple(cgrp.cset_links):
                dst = find_css_set(state, src, cgrp)
                if dst is src:
                    put_css_set(state, dst)
                    continue
                preloaded[src] = dst
                src.refcount += 1
                tset.tasks += [(task, src, dst) for task in src.tasks]
        if tset.tasks:
            cgroup_migrate_execute(state, tset, preloaded)
    finally:
        for src, dst in preloaded.items():
            put_css_set(state, dst)
            put_css_set(state, src)


@may_sleep
def cgroup_migrate_execute(state: CgroupState, tset: CgroupTaskset, preloaded: dict[CssSet, CssSet]) -> None:
    """Asks, moves, tells."""
    concerned = [ss for ss in state.subsys
                 if any(src.subsys[ss.id] is not dst.subsys[ss.id] for src, dst in preloaded.items())]
    asked: list[CgroupSubsys] = []
    for ss in concerned:
        tset.ss = ss
        if ss.can_attach is not None:
            try:
                ss.can_attach(tset)
            except KernelError:
                for earlier in asked:
                    tset.ss = earlier
                    if earlier.cancel_attach is not None:
                        earlier.cancel_attach(tset)
                raise
        asked.append(ss)
    for task, src, dst in tset.tasks:
        dst.refcount += 1
        dst.nr_tasks += 1
        css_set_move_task(task, src, dst)
        src.nr_tasks -= 1
        put_css_set(state, src)
    for ss in concerned:
        tset.ss = ss
        if ss.attach is not None:
            ss.attach(tset)
