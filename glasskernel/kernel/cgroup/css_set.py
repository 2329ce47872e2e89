"""Which groups a task is in: sets of groups that tasks share.

Linux: the css_set part of kernel/cgroup/cgroup.c (5.3). Same: a set is found, or made, for a group that a task goes to
    and the groups it stays in; sets count their tasks, groups their sets that have tasks; who exits goes to the
    set's dying tasks until it is reaped, for the sake of processes whose first thread has ended.
Differs: sets are found by the numbers of what they consist of, in a table; css_task_iter_* is one function that
    answers a list; css_set_lock is nothing here: no function in this file sleeps.
Owns: CgroupState.css_set_table. Invariants: task.cgroups is None for tasks in init_css_set that were made before
    anybody used cgroups, and nowhere else after cgroup_enable_task_cg_lists(); a set is in the table as long as its
    refcount is not 0; cgrp.cset_links are the sets in the table that have the group.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.kernel.cgroup.types import CGRP_NOTIFY_ON_RELEASE, CSS_DYING, CssSet
from glasskernel.kernel.pid import for_each_thread, thread_group_leader
from glasskernel.kernel.task import PF_EXITING
from glasskernel.kernel.workqueue import schedule_work
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.kernel.cgroup.types import Cgroup, CgroupRoot, CgroupState, CgroupSubsysState
    from glasskernel.kernel.task import TaskStruct

CSS_TASK_ITER_PROCS: Final = 1


# ---- asking ------------------------------------------------------------------------------------------------------
@notrace
def task_css_set(task: TaskStruct) -> CssSet:
    """The task's set. Only where Kernel.cgroup is."""
    cset: CssSet | None = task.cgroups
    if cset is None:
        state = task.kernel.cgroup
        assert state is not None
        return state.init_css_set
    return cset


@notrace
def task_css(task: TaskStruct, ssid: int) -> CgroupSubsysState:
    """A controller's state that applies to the task."""
    return task_css_set(task).subsys[ssid]


@notrace
def task_css_is_root(task: TaskStruct, ssid: int) -> bool:
    return task_css(task, ssid).parent is None


@notrace
def cset_cgroup_from_root(cset: CssSet, root: CgroupRoot) -> Cgroup:
    """The set's group in a hierarchy."""
    return cset.cgrps[root.hierarchy_id]


@notrace
def task_cgroup_from_root(task: TaskStruct, root: CgroupRoot) -> Cgroup:
    return cset_cgroup_from_root(task_css_set(task), root)


@notrace
def css_task_iter(cgrp: Cgroup, flags: int = 0) -> list[TaskStruct]:
    """The tasks of a group (css_task_iter_start, _next, _end). CSS_TASK_ITER_PROCS: first threads only, and also
    those that have ended before the others of their process.
    """
    tasks: list[TaskStruct] = []
    for cset in cgrp.cset_links:
        if flags & CSS_TASK_ITER_PROCS:
            tasks += [task for task in cset.tasks if thread_group_leader(task)]
            tasks += [task for task in cset.dying_tasks if thread_group_leader(task) and task.signal.live]
        else:
            tasks += cset.tasks
    return tasks


@notrace
def css_for_each_child(css: CgroupSubsysState) -> Iterator[CgroupSubsysState]:
    """A controller's states of the groups right below."""
    ssid = css.ss.id
    for cgrp in tuple(css.cgroup.children):
        child = cgrp.subsys[ssid]
        if child is not None:
            yield child


@notrace
def css_for_each_descendant_pre(css: CgroupSubsysState) -> Iterator[CgroupSubsysState]:
    """This one and all below, parents first."""
    yield css
    for child in css_for_each_child(css):
        yield from css_for_each_descendant_pre(child)


# ---- populated or not --------------------------------------------------------------------------------------------
@notrace
def cgroup_is_populated(cgrp: Cgroup) -> bool:
    """Tasks are in it or below it."""
    return bool(cgrp.nr_populated_csets or cgrp.nr_populated_children)


@notrace
def css_set_populated(cset: CssSet) -> bool:
    return bool(cset.tasks)


def cgroup_update_populated(cgrp: Cgroup, populated: bool) -> None:
    """A set of the group got its first task, or lost its last one: the groups above learn it as far as it matters."""
    node: Cgroup | None = cgrp
    child: Cgroup | None = None
    adjust = 1 if populated else -1
    while node is not None:
        was_populated = cgroup_is_populated(node)
        if child is None:
            node.nr_populated_csets += adjust
        else:
            node.nr_populated_children += adjust
        if was_populated == cgroup_is_populated(node):
            break
        cgroup1_check_for_release(node)
        probe = node.root.kernel.tp.cgroup_notify_populated
        if probe is not None:
            probe(node, populated)
        child, node = node, node.parent


@notrace
def css_set_update_populated(cset: CssSet, populated: bool) -> None:
    for cgrp in cset.cgrps.values():
        cgroup_update_populated(cgrp, populated)


def cgroup1_check_for_release(cgrp: Cgroup) -> None:
    """Nobody is in the group any more, and no group below it: its release agent shall know (cgroup-v1.c)."""
    if (cgrp.flags & CGRP_NOTIFY_ON_RELEASE and not cgroup_is_populated(cgrp) and not cgrp.children
            and not cgrp.dead and cgrp.parent is not None):
        schedule_work(cgrp.release_agent_work)


def css_set_move_task(task: TaskStruct, from_cset: CssSet | None, to_cset: CssSet | None) -> None:
    """Takes a task out of a set's list, or puts it into another's. References are the caller's business."""
    if to_cset is not None and not css_set_populated(to_cset):
        css_set_update_populated(to_cset, True)
    if from_cset is not None:
        del from_cset.tasks[task]
        if not css_set_populated(from_cset):
            css_set_update_populated(from_cset, False)
    if to_cset is not None:
        assert not task.flags & PF_EXITING
        task.cgroups = to_cset
        to_cset.tasks[task] = None


# ---- sets --------------------------------------------------------------------------------------------------------
@notrace
def css_set_key(subsys: list[CgroupSubsysState], cgrps: dict[int, Cgroup]) -> tuple[int, ...]:
    """What two sets differ in (css_set_hash() and compare_css_sets())."""
    return (*(css.serial_nr for css in subsys), *(cgrps[number].serial_nr for number in sorted(cgrps)))


def cgroup_e_css(cgrp: Cgroup, ssid: int) -> CgroupSubsysState:
    """What of a controller applies in a group: its own, or that of the nearest group above that has one."""
    node: Cgroup | None = cgrp
    while node is not None:
        css = node.subsys[ssid]
        if css is not None and not css.flags & CSS_DYING:
            return css
        node = node.parent
    raise AssertionError("the hierarchy has not the controller")


def find_css_set(state: CgroupState, old_cset: CssSet, cgrp: Cgroup) -> CssSet:
    """The set that has cgrp, and elsewhere the groups of old_cset, with a reference."""
    template = [
        cgroup_e_css(cgrp, ss.id) if cgrp.root.subsys_mask >> ss.id & 1 else old_cset.subsys[ss.id]
        for ss in state.subsys]
    cgrps = {**old_cset.cgrps, cgrp.root.hierarchy_id: cgrp}
    key = css_set_key(template, cgrps)
    cset = state.css_set_table.get(key)
    if cset is None:
        cset = CssSet(template, {})
        for number, member in cgrps.items():
            link_css_set(cset, number, member)
        state.css_set_table[key] = cset
    cset.refcount += 1
    return cset


@notrace
def link_css_set(cset: CssSet, hierarchy_id: int, cgrp: Cgroup) -> None:
    cset.cgrps[hierarchy_id] = cgrp
    cgrp.cset_links[cset] = None
    if cgrp.parent is not None:
        cgrp.refcnt += 1                         # cgroup_get_live()


def put_css_set(state: CgroupState, cset: CssSet) -> None:
    """One user less; with the last one it goes, and its groups lose a user."""
    cset.refcount -= 1
    if not cset.refcount:
        put_css_set_locked(state, cset)


@notrace
def put_css_set_locked(state: CgroupState, cset: CssSet) -> None:
    assert not cset.tasks and not cset.dying_tasks
    del state.css_set_table[css_set_key(cset.subsys, cset.cgrps)]
    for cgrp in cset.cgrps.values():
        del cgrp.cset_links[cset]
        if cgrp.parent is not None:
            cgroup_put(cgrp)


@notrace
def cgroup_put(cgrp: Cgroup) -> None:
    """One user less. With the last one (it was removed, and no set has it) its controllers free what they have; a
    hierarchy goes, in a worker. Context: any.
    """
    cgrp.refcnt -= 1
    if cgrp.refcnt:
        return
    root = cgrp.root
    if cgrp.parent is None:
        schedule_work(root.destroy_work)
        return
    state = root.kernel.cgroup
    assert state is not None
    for css, ss in zip(cgrp.subsys, state.subsys, strict=True):
        if css is not None and ss.css_free is not None:
            ss.css_free(css)
    probe = root.kernel.tp.cgroup_release
    if probe is not None:
        probe(cgrp)
    del root.cgroup_idr[cgrp.id]
    root.nr_cgrps -= 1
    cgroup_put(cgrp.parent)


@notrace
def rehash_css_sets(state: CgroupState) -> None:
    """Hierarchies came or went: the sets have other numbers."""
    state.css_set_table = {css_set_key(cset.subsys, cset.cgrps): cset for cset in state.css_set_table.values()}


def cgroup_enable_task_cg_lists(state: CgroupState) -> None:
    """The first mount: every task that there is enters the initial set. Until then nobody pays for it."""
    cset = state.init_css_set
    for task in for_each_thread(state.kernel):
        if not task.flags & PF_EXITING:
            cset.refcount += 1
            cset.nr_tasks += 1
            css_set_move_task(task, None, cset)
