"""Hierarchies, groups, and tasks that move between them.

Linux: include/trace/events/cgroup.h (5.3). Gaps: freezing of cgroup2's groups, cgroup_transfer_tasks (CPUs that go
    away).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.kernfs import kernfs_path
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.kernel.cgroup.types import Cgroup, CgroupRoot
    from glasskernel.kernel.task import TaskStruct

cgroup = trace_system("cgroup")

_ROOT_FIELDS = "int root; u16 ss_mask; __data_loc char[] name"
_ROOT_FMT = '"root=%d ss_mask=%#x name=%s", REC->root, REC->ss_mask, __get_str(name)'
_FIELDS = "int root; int id; int level; __data_loc char[] path"
_FMT = '"root=%d id=%d level=%d path=%s", REC->root, REC->id, REC->level, __get_str(path)'


@cgroup.event(fields=_ROOT_FIELDS, print_fmt=_ROOT_FMT)
def cgroup_setup_root(root: CgroupRoot) -> Values:
    return (root.hierarchy_id, root.subsys_mask, root.name)


@cgroup.event(fields=_ROOT_FIELDS, print_fmt=_ROOT_FMT)
def cgroup_destroy_root(root: CgroupRoot) -> Values:
    return (root.hierarchy_id, root.subsys_mask, root.name)


@cgroup.event(fields=_ROOT_FIELDS, print_fmt=_ROOT_FMT)
def cgroup_remount(root: CgroupRoot) -> Values:
    return (root.hierarchy_id, root.subsys_mask, root.name)


@cgroup.event(fields=_FIELDS, print_fmt=_FMT)
def cgroup_mkdir(cgrp: Cgroup) -> Values:
    return (cgrp.root.hierarchy_id, cgrp.id, cgrp.level, kernfs_path(cgrp.kn))


@cgroup.event(fields=_FIELDS, print_fmt=_FMT)
def cgroup_rmdir(cgrp: Cgroup) -> Values:
    return (cgrp.root.hierarchy_id, cgrp.id, cgrp.level, kernfs_path(cgrp.kn))


@cgroup.event(fields=_FIELDS, print_fmt=_FMT)
def cgroup_release(cgrp: Cgroup) -> Values:
    return (cgrp.root.hierarchy_id, cgrp.id, cgrp.level, kernfs_path(cgrp.kn))


@cgroup.event(fields=_FIELDS, print_fmt=_FMT)
def cgroup_rename(cgrp: Cgroup) -> Values:
    return (cgrp.root.hierarchy_id, cgrp.id, cgrp.level, kernfs_path(cgrp.kn))


@cgroup.event(
    fields="int dst_root; int dst_id; int dst_level; int pid; __data_loc char[] dst_path; __data_loc char[] comm",
    print_fmt=(
        '"dst_root=%d dst_id=%d dst_level=%d dst_path=%s pid=%d comm=%s", REC->dst_root, REC->dst_id, REC->dst_level, '
        '__get_str(dst_path), REC->pid, __get_str(comm)'),
)
def cgroup_attach_task(dst_cgrp: Cgroup, task: TaskStruct) -> Values:
    return (dst_cgrp.root.hierarchy_id, dst_cgrp.id, dst_cgrp.level, task.pid, kernfs_path(dst_cgrp.kn), task.comm)


@cgroup.event(
    fields=_FIELDS + "; int val",
    print_fmt='"root=%d id=%d level=%d path=%s val=%d", REC->root, REC->id, REC->level, __get_str(path), REC->val',
)
def cgroup_notify_populated(cgrp: Cgroup, val: bool) -> Values:
    return (cgrp.root.hierarchy_id, cgrp.id, cgrp.level, kernfs_path(cgrp.kn), int(val))
