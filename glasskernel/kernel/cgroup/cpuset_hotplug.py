"""Cpusets when CPUs come and go.

Linux: cpuset_update_active_cpus(), cpuset_hotplug_workfn() and what they call, of kernel/cgroup/cpuset.c (5.3), the
behaviour of version 1: a group loses CPUs that go off line for good; one that has none left gives its tasks to the
nearest group above that has some.
Differs: done at once, not by a work. Owns: nothing. Context: cpuhp/N, may sleep.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.cgroup.cpuset import (
    Cpuset,
    compute_effective_cpumask,
    parent_cs,
    task_cs,
    top_cpuset,
    update_tasks_cpumask,
)
from glasskernel.kernel.cgroup.css_set import css_for_each_descendant_pre, css_task_iter
from glasskernel.kernel.cgroup.migrate import cgroup_migrate
from glasskernel.kernel.current import register
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@may_sleep
def cpuset_update_active_cpus(kernel: Kernel) -> None:
    """The mask of active CPUs has changed."""
    new_cpus = kernel.sched.cpu_active_mask
    top = top_cpuset(task_cs(register.task))
    if top.effective_cpus == new_cpus:
        return
    top.cpus_allowed = top.effective_cpus = new_cpus
    for cs in css_for_each_descendant_pre(top):
        assert isinstance(cs, Cpuset)
        if cs is not top:
            cpuset_hotplug_update_tasks(kernel, cs)


@may_sleep
def cpuset_hotplug_update_tasks(kernel: Kernel, cs: Cpuset) -> None:
    """One group: hotplug_update_tasks_legacy()."""
    parent = parent_cs(cs)
    assert parent is not None
    new_cpus = compute_effective_cpumask(cs, parent)
    if new_cpus == cs.effective_cpus:
        return
    cs.cpus_allowed = cs.effective_cpus = new_cpus
    if new_cpus:
        update_tasks_cpumask(cs)
    else:
        remove_tasks_in_empty_cpuset(kernel, cs)


@may_sleep
def remove_tasks_in_empty_cpuset(kernel: Kernel, cs: Cpuset) -> None:
    """Its tasks go to the nearest ancestor with CPUs and nodes."""
    parent = parent_cs(cs)
    while parent is not None and not (parent.cpus_allowed and parent.mems_allowed):
        parent = parent_cs(parent)
    assert parent is not None
    tasks = list(css_task_iter(cs.cgroup))
    if not tasks:
        return
    assert kernel.cgroup is not None
    try:
        cgroup_migrate(kernel.cgroup, parent.cgroup, tasks)      # cgroup_transfer_tasks()
    except KernelError:
        kernel.printk("cpuset: failed to transfer tasks out of empty cpuset", 3)
