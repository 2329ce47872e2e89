"""pids: how many tasks a group, and all groups below it, may have.

Linux: kernel/cgroup/pids.c (5.3). Same: a fork beyond the limit of the group, or of one above it, fails with EAGAIN;
    who is moved into a full group gets in; a zombie counts until it is reaped. Owns: every PidsCgroup.
Invariant: counter is the number of tasks in the group and below that are not reaped yet, for every group but the root.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from glasskernel.fs.kernfs import kernfs_path
from glasskernel.fs.seq_file import seq_printf, seq_puts
from glasskernel.kernel.cgroup.cgroup_file import cgroup_parse_number, of_css, seq_css
from glasskernel.kernel.cgroup.css_set import task_css
from glasskernel.kernel.cgroup.migrate import cgroup_taskset_for_each
from glasskernel.kernel.cgroup.types import (
    CFTYPE_NOT_ON_ROOT,
    PIDS_CGRP_ID,
    Cftype,
    CgroupSubsys,
    CgroupSubsysState,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EAGAIN, EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import CgroupTaskset
    from glasskernel.kernel.task import TaskStruct

PIDS_MAX: Final = (1 << 22) + 1


@slotted
class PidsCgroup(CgroupSubsysState):
    """struct pids_cgroup. events_limit: how many forks it refused."""

    counter: int = 0
    limit: int = PIDS_MAX
    events_limit: int = 0


@notrace
def task_pids(task: TaskStruct) -> PidsCgroup:
    css = task_css(task, PIDS_CGRP_ID)
    assert isinstance(css, PidsCgroup)
    return css


@notrace
def up(pids: CgroupSubsysState) -> Iterator[PidsCgroup]:
    """The group and those above it; the root counts nothing."""
    while pids.parent is not None:
        assert isinstance(pids, PidsCgroup)
        yield pids
        pids = pids.parent


def pids_css_alloc(kernel: Kernel, parent: CgroupSubsysState | None) -> PidsCgroup:
    return PidsCgroup()


# ---- counting ----------------------------------------------------------------------------------------------------
def pids_uncharge(pids: CgroupSubsysState, num: int) -> None:
    for group in up(pids):
        group.counter -= num
        assert group.counter >= 0


def pids_charge(pids: CgroupSubsysState, num: int) -> None:
    """Whatever the limits are: for tasks that come from elsewhere."""
    for group in up(pids):
        group.counter += num


def pids_try_charge(pids: CgroupSubsysState, num: int) -> None:
    """Raises EAGAIN."""
    for group in up(pids):
        if group.counter + num > group.limit:
            raise KernelError(EAGAIN)
    pids_charge(pids, num)


def pids_can_attach(tset: CgroupTaskset) -> None:
    for task, css in cgroup_taskset_for_each(tset):
        pids_charge(css, 1)
        pids_uncharge(task_pids(task), 1)


def pids_cancel_attach(tset: CgroupTaskset) -> None:
    for task, css in cgroup_taskset_for_each(tset):
        pids_charge(task_pids(task), 1)
        pids_uncharge(css, 1)


def pids_can_fork(task: TaskStruct) -> None:
    """Raises EAGAIN."""
    pids = task_pids(current())
    try:
        pids_try_charge(pids, 1)
    except KernelError:
        pids.events_limit += 1
        if pids.events_limit == 1:               # the log says it once
            path = kernfs_path(pids.cgroup.kn).decode(errors="replace")
            task.kernel.printk(f"cgroup: fork rejected by pids controller in {path}")
        raise


def pids_cancel_fork(task: TaskStruct) -> None:
    pids_uncharge(task_pids(current()), 1)


def pids_release(task: TaskStruct) -> None:
    pids_uncharge(task_pids(task), 1)


# ---- files -------------------------------------------------------------------------------------------------------
def pids_max_write(of: KernfsNode, buf: bytes) -> None:
    """Raises EINVAL."""
    text = buf.strip()
    limit = PIDS_MAX if text == b"max" else cgroup_parse_number(text, -1 << 63, (1 << 63) - 1)
    if limit < 0 or (limit >= PIDS_MAX and text != b"max"):
        raise KernelError(EINVAL)
    of_css(of).limit = limit


def pids_max_show(m: SeqFile, v: Any) -> int | None:
    limit = seq_css(m).limit
    seq_puts(m, b"max\n" if limit >= PIDS_MAX else b"%d\n" % limit)
    return None


def pids_current_read(pids: PidsCgroup, cft: Cftype) -> int:
    return pids.counter


def pids_events_show(m: SeqFile, v: Any) -> int | None:
    seq_printf(m, b"max %d\n", seq_css(m).events_limit)
    return None


_files = (
    Cftype(b"max", flags=CFTYPE_NOT_ON_ROOT, seq_show=pids_max_show, write=pids_max_write),
    Cftype(b"current", flags=CFTYPE_NOT_ON_ROOT, read_s64=pids_current_read),
    Cftype(b"events", flags=CFTYPE_NOT_ON_ROOT, seq_show=pids_events_show),
)
pids_cgrp_subsys = CgroupSubsys(
    b"pids", PIDS_CGRP_ID, pids_css_alloc,
    can_attach=pids_can_attach, cancel_attach=pids_cancel_attach,
    can_fork=pids_can_fork, cancel_fork=pids_cancel_fork, release=pids_release,
    legacy_cftypes=_files, dfl_cftypes=_files, threaded=True,
)
