"""What must hold of cgroups between two programs.

Owns: nothing. For tests: tools/invariants.py calls it.
"""
from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from glasskernel.kernel.cgroup.css_set import css_set_key, task_css_set
from glasskernel.kernel.cgroup.pids import PidsCgroup
from glasskernel.kernel.cgroup.types import Cgroup, CssSet
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import CgroupState


@notrace
def check_cgroups(kernel: Kernel) -> list[str]:
    """Everything that is wrong, in words. Every task that has ended must have been freed."""
    state = kernel.cgroup
    if state is None:
        return []
    wrong = check_sets(state, kernel)
    for root in state.roots.values():
        groups = list(tree(root.cgrp))
        wrong += [problem for cgrp in groups for problem in check_group(state, cgrp)]
        if root.nr_cgrps != len(groups):
            wrong.append(f"hierarchy {root.hierarchy_id} counts {root.nr_cgrps} groups, there are {len(groups)}")
    return wrong


@notrace
def tree(cgrp: Cgroup) -> Iterator[Cgroup]:
    yield cgrp
    for child in cgrp.children:
        yield from tree(child)


@notrace
def check_sets(state: CgroupState, kernel: Kernel) -> list[str]:
    """A set has the tasks that say so, a reference for each (the initial one: one more), and is where it is found."""
    wrong = []
    members: Counter[CssSet] = Counter(task_css_set(task) for task in kernel.tasks)
    for key, cset in state.css_set_table.items():
        count = members.pop(cset, 0)
        if not len(cset.tasks) == cset.nr_tasks == count or cset.refcount != count + (cset is state.init_css_set):
            wrong.append(f"a css_set counts {cset.nr_tasks} tasks and {cset.refcount} users, {count} tasks are in it")
        if cset.dying_tasks:
            wrong.append(f"a css_set remembers {len(cset.dying_tasks)} tasks that were reaped")
        if key != css_set_key(cset.subsys, cset.cgrps):
            wrong.append("a css_set is in the wrong place of the table")
        wrong += [f"hierarchy {number}: a css_set is not linked with its group" for number, cgrp in cset.cgrps.items()
                  if cset not in cgrp.cset_links]
    return wrong + ["a task's css_set is in no table" for _ in members]


@notrace
def check_group(state: CgroupState, cgrp: Cgroup) -> list[str]:
    populated = sum(bool(cset.tasks) for cset in cgrp.cset_links)
    below = sum(bool(child.nr_populated_csets or child.nr_populated_children) for child in cgrp.children)
    users = 1 + len(cgrp.children) + (len(cgrp.cset_links) if cgrp.parent is not None else 0)
    wrong = []
    if (cgrp.nr_populated_csets, cgrp.nr_populated_children) != (populated, below):
        wrong.append(f"group {cgrp.kn.name!r} counts {cgrp.nr_populated_csets} and {cgrp.nr_populated_children} "
                     f"populated sets and groups, there are {populated} and {below}")
    if cgrp.refcnt != users - cgrp.root.dying:
        wrong.append(f"group {cgrp.kn.name!r} counts {cgrp.refcnt} users, there are {users}")
    for css in cgrp.subsys:
        if css is not None and css.cgroup is not cgrp:
            wrong.append(f"group {cgrp.kn.name!r} has {css.ss.name!r} of another group")
        if isinstance(css, PidsCgroup) and css.parent is not None:
            tasks = sum(len(cset.tasks) for group in tree(cgrp) for cset in group.cset_links)
            if css.counter != tasks:
                wrong.append(f"group {cgrp.kn.name!r} has {tasks} tasks, pids counts {css.counter}")
    return wrong
