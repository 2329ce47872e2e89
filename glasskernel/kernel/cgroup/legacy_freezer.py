"""freezer: stops all tasks of a group, and of those below it, and lets them go on.

Linux: kernel/cgroup/legacy_freezer.c (5.3). Same: a group freezes when it is told to, or one above it is; FREEZING
    becomes FROZEN when somebody reads the state and finds all tasks frozen; who comes in freezes, who leaves thaws,
    who is born freezes before its first instruction. Owns: every Freezer, Kernel.cgroup_freezing.
Invariant: CgroupState.system_freezing_cnt is the number of groups whose state has one of CGROUP_FREEZING; the hook is
    set while it is not 0.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.seq_file import seq_puts
from glasskernel.kernel.cgroup.cgroup_file import of_css, seq_css
from glasskernel.kernel.cgroup.css_set import (
    css_for_each_child,
    css_for_each_descendant_pre,
    css_task_iter,
    task_css,
)
from glasskernel.kernel.cgroup.migrate import cgroup_taskset_for_each
from glasskernel.kernel.cgroup.types import (
    CFTYPE_NOT_ON_ROOT,
    FREEZER_CGRP_ID,
    Cftype,
    CgroupSubsys,
    CgroupSubsysState,
)
from glasskernel.kernel.freezer import __thaw_task, freeze_task, freezer_should_skip, freezing, frozen
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import CgroupTaskset
    from glasskernel.kernel.task import TaskStruct

CGROUP_FREEZER_ONLINE, CGROUP_FREEZING_SELF, CGROUP_FREEZING_PARENT, CGROUP_FROZEN = 1, 2, 4, 8
CGROUP_FREEZING = CGROUP_FREEZING_SELF | CGROUP_FREEZING_PARENT


@slotted
class Freezer(CgroupSubsysState):
    """struct freezer"""

    state: int = 0


@notrace
def css_freezer(css: CgroupSubsysState) -> Freezer:
    assert isinstance(css, Freezer)
    return css


@notrace
def count_freezing(freezer: Freezer, change: int) -> None:
    """system_freezing_cnt"""
    kernel = freezer.cgroup.root.kernel
    state = kernel.cgroup
    assert state is not None
    state.system_freezing_cnt += change
    kernel.cgroup_freezing = cgroup_freezing if state.system_freezing_cnt else None


def cgroup_freezing(task: TaskStruct) -> bool:
    return bool(css_freezer(task_css(task, FREEZER_CGRP_ID)).state & CGROUP_FREEZING)


# ---- groups ------------------------------------------------------------------------------------------------------
def freezer_css_alloc(kernel: Kernel, parent: CgroupSubsysState | None) -> Freezer:
    return Freezer()


def freezer_css_online(freezer: Freezer) -> None:
    """A group below a frozen one is frozen."""
    freezer.state |= CGROUP_FREEZER_ONLINE
    if freezer.parent is not None and css_freezer(freezer.parent).state & CGROUP_FREEZING:
        freezer.state |= CGROUP_FREEZING_PARENT | CGROUP_FROZEN
        count_freezing(freezer, 1)


def freezer_css_offline(freezer: Freezer) -> None:
    if freezer.state & CGROUP_FREEZING:
        count_freezing(freezer, -1)
    freezer.state = 0


# ---- tasks -------------------------------------------------------------------------------------------------------
def freezer_attach(tset: CgroupTaskset) -> None:
    """Tasks do as their new group does; with one that is not frozen yet, no group above is all frozen."""
    for task, css in cgroup_taskset_for_each(tset):
        node: CgroupSubsysState | None = css
        if not css_freezer(css).state & CGROUP_FREEZING:
            __thaw_task(task)
            continue
        freeze_task(task)
        while node is not None and css_freezer(node).state & CGROUP_FROZEN:
            css_freezer(node).state &= ~CGROUP_FROZEN
            node = node.parent


def freezer_fork(task: TaskStruct) -> None:
    """The parent forked before it saw that it shall freeze."""
    freezer = css_freezer(task_css(task, FREEZER_CGRP_ID))
    if freezer.parent is not None and freezer.state & CGROUP_FREEZING:
        freeze_task(task)


# ---- the state ---------------------------------------------------------------------------------------------------
def update_if_frozen(freezer: Freezer) -> None:
    """FREEZING becomes FROZEN, if that is so."""
    if not freezer.state & CGROUP_FREEZING or freezer.state & CGROUP_FROZEN:
        return
    for child in css_for_each_child(freezer):
        if css_freezer(child).state & CGROUP_FREEZER_ONLINE and not css_freezer(child).state & CGROUP_FROZEN:
            return
    for task in css_task_iter(freezer.cgroup):
        if freezing(task) and not frozen(task) and not freezer_should_skip(task):
            return
    freezer.state |= CGROUP_FROZEN


def freezer_read(m: SeqFile, v: Any) -> int | None:
    """freezer.state"""
    freezer: Freezer = seq_css(m)
    for below in reversed(list(css_for_each_descendant_pre(freezer))):       # children before their parents
        update_if_frozen(css_freezer(below))
    state = freezer.state
    seq_puts(m, b"FROZEN\n" if state & CGROUP_FROZEN else b"FREEZING\n" if state & CGROUP_FREEZING else b"THAWED\n")
    return None


def freezer_write(of: KernfsNode, buf: bytes) -> None:
    """Raises EINVAL."""
    text = buf.strip()
    if text not in (b"FROZEN", b"THAWED"):
        raise KernelError(EINVAL)
    freezer_change_state(of_css(of), text == b"FROZEN")


def freezer_change_state(freezer: Freezer, freeze: bool) -> None:
    """Of a group, and of those below it because of it."""
    for css in css_for_each_descendant_pre(freezer):
        below = css_freezer(css)
        if below is freezer:
            freezer_apply_state(below, freeze, CGROUP_FREEZING_SELF)
        else:
            assert below.parent is not None
            freezer_apply_state(below, bool(css_freezer(below.parent).state & CGROUP_FREEZING), CGROUP_FREEZING_PARENT)


def freezer_apply_state(freezer: Freezer, freeze: bool, state: int) -> None:
    was_freezing = freezer.state & CGROUP_FREEZING
    if freeze:
        freezer.state |= state
        if not was_freezing:
            count_freezing(freezer, 1)
        freeze_cgroup(freezer)
        return
    freezer.state &= ~state
    if not freezer.state & CGROUP_FREEZING:
        freezer.state &= ~CGROUP_FROZEN
        if was_freezing:
            count_freezing(freezer, -1)
        unfreeze_cgroup(freezer)


def freeze_cgroup(freezer: Freezer) -> None:
    for task in css_task_iter(freezer.cgroup):
        freeze_task(task)


def unfreeze_cgroup(freezer: Freezer) -> None:
    for task in css_task_iter(freezer.cgroup):
        __thaw_task(task)


def freezer_self_freezing_read(freezer: Freezer, cft: Cftype) -> int:
    return int(bool(freezer.state & CGROUP_FREEZING_SELF))


def freezer_parent_freezing_read(freezer: Freezer, cft: Cftype) -> int:
    return int(bool(freezer.state & CGROUP_FREEZING_PARENT))


freezer_cgrp_subsys = CgroupSubsys(
    b"freezer", FREEZER_CGRP_ID, freezer_css_alloc, freezer_css_online, freezer_css_offline,
    attach=freezer_attach, fork=freezer_fork,
    legacy_cftypes=(
        Cftype(b"state", flags=CFTYPE_NOT_ON_ROOT, seq_show=freezer_read, write=freezer_write),
        Cftype(b"self_freezing", flags=CFTYPE_NOT_ON_ROOT, read_u64=freezer_self_freezing_read),
        Cftype(b"parent_freezing", flags=CFTYPE_NOT_ON_ROOT, read_u64=freezer_parent_freezing_read),
    ),
)
