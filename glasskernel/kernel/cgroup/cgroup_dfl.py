"""cgroup version 2: the default hierarchy, in which every group chooses the controllers of those below it.

Linux: cgroup_base_files and cgroup_subtree_control_write() of kernel/cgroup/cgroup.c (5.3). Same: who may be moved
    where, which controllers can be turned on and off, limits of depth and number, errors.
Owns: nothing. Gaps: threaded groups (EOPNOTSUPP), freezing (cgroup.freeze, "frozen" of cgroup.events), poll(2) of
    cgroup.events, nsdelegate without cgroup namespaces, cpu.stat without the controller.
Context: task. Locks: cgroup_mutex for what is written.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.kernfs import KernfsSyscallOps, kernfs_find_and_get, kernfs_put_super
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.seq_file import seq_puts
from glasskernel.fs.types import SuperOperations
from glasskernel.kernel.capability import CAP_DAC_OVERRIDE, capable
from glasskernel.kernel.cgroup.cgroup import (
    cgroup_apply_control_enable,
    cgroup_control,
    cgroup_do_mount,
    cgroup_init,
    cgroup_kn_lock_live,
    cgroup_mkdir,
    cgroup_rmdir,
    css_clear_dir,
    kill_css,
    nr_descendants,
)
from glasskernel.kernel.cgroup.cgroup_file import (
    cgroup_add_files,
    cgroup_parse_number,
    of_cft,
    of_css,
    seq_cft,
    seq_css,
)
from glasskernel.kernel.cgroup.cgroup_v1 import cgroup_procs_write_start
from glasskernel.kernel.cgroup.css_set import (
    CSS_TASK_ITER_PROCS,
    cgroup_is_populated,
    css_task_iter,
    task_cgroup_from_root,
)
from glasskernel.kernel.cgroup.migrate import cgroup_attach_task, cgroup_update_dfl_csses
from glasskernel.kernel.cgroup.types import CFTYPE_NOT_ON_ROOT, CGROUP2_SUPER_MAGIC, CSS_DYING, INT_MAX, Cftype
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_unlock
from glasskernel.lib.errno import EACCES, EBUSY, EINVAL, ENOENT, EOPNOTSUPP, ERANGE, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.types import Dentry, FileSystemType
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import Cgroup, CgroupState

MAX_DEPTH, MAX_DESCENDANTS = 0, 1                # Cftype.private


@may_sleep
def cgroup_get_tree(kernel: Kernel, fs_type: FileSystemType, flags: int, data: bytes) -> Dentry:
    """mount -t cgroup2. Raises EINVAL."""
    if data.strip(b",") not in (b"", b"nsdelegate"):
        raise KernelError(EINVAL)
    state = kernel.cgroup or cgroup_init(kernel)
    root = state.cgrp_dfl_root
    if not state.cgrp_dfl_visible:
        state.cgrp_dfl_visible = True
        root.kf_root.syscall_ops = cgroup_kf_syscall_ops
        cgroup_add_files(root.cgrp, None, root.cgrp, cgroup_base_files)
    return cgroup_do_mount(root, fs_type, flags, data, CGROUP2_SUPER_MAGIC, cgroup2_sops)


@notrace
def descendants(cgrp: Cgroup) -> Iterator[Cgroup]:
    """All groups below, parents first."""
    for child in tuple(cgrp.children):
        yield child
        yield from descendants(child)


# ---- tasks -------------------------------------------------------------------------------------------------------
def cgroup_procs_show(m: SeqFile, v: Any) -> int | None:
    cgrp: Cgroup = seq_css(m)
    seq_puts(m, b"".join(b"%d\n" % task.tgid for task in css_task_iter(cgrp, CSS_TASK_ITER_PROCS)))
    return None


def cgroup_threads_show(m: SeqFile, v: Any) -> int | None:
    cgrp: Cgroup = seq_css(m)
    seq_puts(m, b"".join(b"%d\n" % task.pid for task in css_task_iter(cgrp)))
    return None


@may_sleep
def cgroup_procs_write(of: KernfsNode, buf: bytes) -> None:
    """Moves a process. Raises EINVAL, ESRCH, EACCES, EBUSY (groups below have controllers), ENODEV."""
    dst: Cgroup = of_css(of)
    state = cgroup_kn_lock_live(dst)
    try:
        task = cgroup_procs_write_start(buf, True)
        cgroup_procs_write_permission(task_cgroup_from_root(task, state.cgrp_dfl_root), dst)
        cgroup_migrate_vet_dst(state, dst)
        cgroup_attach_task(state, dst, task, True)
    finally:
        mutex_unlock(state.cgroup_mutex)


@may_sleep
def cgroup_threads_write(of: KernfsNode, buf: bytes) -> None:
    """A thread cannot leave its process's group: there are no threaded groups. Raises EOPNOTSUPP."""
    dst: Cgroup = of_css(of)
    state = cgroup_kn_lock_live(dst)
    try:
        task = cgroup_procs_write_start(buf, False)
        if task_cgroup_from_root(task, state.cgrp_dfl_root) is not dst:
            raise KernelError(EOPNOTSUPP)
    finally:
        mutex_unlock(state.cgroup_mutex)


def cgroup_procs_write_permission(src: Cgroup, dst: Cgroup) -> None:
    """Who moves a process must be able to write cgroup.procs of the nearest group above both. Raises EACCES."""
    above: Cgroup = dst
    while above is not src and not _is_descendant(src, above):
        assert above.parent is not None
        above = above.parent
    kn = kernfs_find_and_get(above.kn, b"cgroup.procs")
    assert kn is not None
    cred = current().cred
    if cred.fsuid == kn.uid:
        allowed = kn.mode & 0o200
    elif cred.fsgid == kn.gid or kn.gid in cred.groups:
        allowed = kn.mode & 0o020
    else:
        allowed = kn.mode & 0o002
    if not allowed and not capable(CAP_DAC_OVERRIDE):
        raise KernelError(EACCES)


@notrace
def _is_descendant(cgrp: Cgroup, above: Cgroup) -> bool:
    node: Cgroup | None = cgrp
    while node is not None and node is not above:
        node = node.parent
    return node is above


@notrace
def cgroup_can_be_thread_root(state: CgroupState, cgrp: Cgroup) -> bool:
    """It may have tasks although groups below it have controllers: only such as can share out among threads."""
    threaded = sum(1 << ss.id for ss in state.subsys if ss.threaded)
    return cgrp.parent is None or (not cgrp.nr_populated_children and not cgrp.subtree_control & ~threaded)


def cgroup_migrate_vet_dst(state: CgroupState, dst: Cgroup) -> None:
    """Tasks are at the root or in leaves. Raises EBUSY."""
    if not cgroup_can_be_thread_root(state, dst) and dst.subtree_control:
        raise KernelError(EBUSY)


# ---- controllers -------------------------------------------------------------------------------------------------
@notrace
def cgroup_print_ss_mask(m: SeqFile, cgrp: Cgroup, mask: int) -> None:
    state = cgrp.root.kernel.cgroup
    assert state is not None
    names = [ss.name for ss in state.subsys if mask >> ss.id & 1]
    if names:
        seq_puts(m, b" ".join(names) + b"\n")


def cgroup_controllers_show(m: SeqFile, v: Any) -> int | None:
    cgrp: Cgroup = seq_css(m)
    cgroup_print_ss_mask(m, cgrp, cgroup_control(cgrp))
    return None


def cgroup_subtree_control_show(m: SeqFile, v: Any) -> int | None:
    cgrp: Cgroup = seq_css(m)
    cgroup_print_ss_mask(m, cgrp, cgrp.subtree_control)
    return None


@may_sleep
def cgroup_subtree_control_write(of: KernfsNode, buf: bytes) -> None:
    """"+pids -cpu": what groups below shall have. Raises EINVAL (unknown), ENOENT (not given to this one), EBUSY (it is
    used further below; or tasks are in this group).
    """
    cgrp: Cgroup = of_css(of)
    state = cgroup_kn_lock_live(cgrp)
    try:
        enable = disable = 0
        for word in buf.strip().split():
            ids = [ss.id for ss in state.subsys if ss.name == word[1:] and ss.dfl_cftypes is not None]
            if not ids or word[:1] not in (b"+", b"-"):
                raise KernelError(EINVAL)
            bit = 1 << ids[0]
            if word[:1] == b"+":
                enable, disable = enable | bit, disable & ~bit
            else:
                enable, disable = enable & ~bit, disable | bit
        enable &= ~cgrp.subtree_control
        disable &= cgrp.subtree_control
        if enable & ~cgroup_control(cgrp):
            raise KernelError(ENOENT)
        if any(child.subtree_control & disable for child in cgrp.children):
            raise KernelError(EBUSY)
        cgroup_vet_subtree_control_enable(state, cgrp, enable)
        if enable or disable:
            cgroup_apply_control(state, cgrp, enable, disable)
    finally:
        mutex_unlock(state.cgroup_mutex)


def cgroup_vet_subtree_control_enable(state: CgroupState, cgrp: Cgroup, enable: int) -> None:
    """No group competes with its own tasks. Raises EBUSY."""
    if not enable or cgrp.parent is None:
        return
    domain_enable = any(enable >> ss.id & 1 and not ss.threaded for ss in state.subsys)
    if not domain_enable and cgroup_can_be_thread_root(state, cgrp):
        return
    if cgrp.nr_populated_csets:
        raise KernelError(EBUSY)


@may_sleep
def cgroup_apply_control(state: CgroupState, cgrp: Cgroup, enable: int, disable: int) -> None:
    """The groups right below get and lose states of controllers, and the tasks below go to sets that have them."""
    before = cgrp.subtree_control
    cgrp.subtree_control = before & ~disable | enable
    leaving = [css for child in cgrp.children for css in child.subsys if css is not None and disable >> css.ss.id & 1]
    for css in leaving:
        css.flags |= CSS_DYING
    try:
        for child in cgrp.children:
            cgroup_apply_control_enable(state, child)
        cgroup_update_dfl_csses(state, list(descendants(cgrp)))
    except KernelError:
        cgrp.subtree_control = before
        for css in leaving:
            css.flags &= ~CSS_DYING
        raise
    for css in leaving:                          # cgroup_finalize_control()
        css_clear_dir(css)
        css.cgroup.subsys[css.ss.id] = None
        kill_css(css)
        if css.ss.css_free is not None:
            css.ss.css_free(css)


# ---- the other files ---------------------------------------------------------------------------------------------
def cgroup_type_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, b"domain\n")
    return None


def cgroup_type_write(of: KernfsNode, buf: bytes) -> None:
    """Only "threaded" could be written. Raises EINVAL, EOPNOTSUPP."""
    raise KernelError(EOPNOTSUPP if buf.strip() == b"threaded" else EINVAL)


def cgroup_events_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, b"populated %d\n" % cgroup_is_populated(seq_css(m)))
    return None


def cgroup_stat_show(m: SeqFile, v: Any) -> int | None:
    """How many groups are below; those that were removed and are still held by tasks that exit, separately."""
    cgrp: Cgroup = seq_css(m)
    alive = nr_descendants(cgrp)
    state = cgrp.root.kernel.cgroup
    assert state is not None
    held = [cset.cgrps[cgrp.root.hierarchy_id] for cset in state.css_set_table.values()]
    dying = dict.fromkeys(group for group in held if group.dead and _is_descendant(group, cgrp))
    seq_puts(m, b"nr_descendants %d\nnr_dying_descendants %d\n" % (alive, len(dying)))
    return None


@notrace
def cgroup_max_show(m: SeqFile, v: Any) -> int | None:
    """cgroup.max.depth, cgroup.max.descendants"""
    cgrp: Cgroup = seq_css(m)
    limit = cgrp.max_depth if seq_cft(m).private == MAX_DEPTH else cgrp.max_descendants
    seq_puts(m, b"max\n" if limit == INT_MAX else b"%d\n" % limit)
    return None


@notrace
def cgroup_max_write(of: KernfsNode, buf: bytes) -> None:
    """Raises EINVAL, ERANGE."""
    text = buf.strip()
    limit = INT_MAX if text == b"max" else cgroup_parse_number(text, -1 << 31, INT_MAX)
    if limit < 0:
        raise KernelError(ERANGE)
    cgrp: Cgroup = of_css(of)
    state = cgroup_kn_lock_live(cgrp)
    if of_cft(of).private == MAX_DEPTH:
        cgrp.max_depth = limit
    else:
        cgrp.max_descendants = limit
    mutex_unlock(state.cgroup_mutex)


@notrace
@may_sleep
def cgroup2_mkdir(parent_kn: KernfsNode, name: bytes, mode: int) -> None:
    cgroup_mkdir(parent_kn, name, mode, cgroup_base_files)


cgroup_kf_syscall_ops = KernfsSyscallOps(cgroup2_mkdir, cgroup_rmdir)
cgroup2_sops = SuperOperations(simple_statfs, put_super=kernfs_put_super)
cgroup_base_files = (
    Cftype(b"cgroup.type", flags=CFTYPE_NOT_ON_ROOT, seq_show=cgroup_type_show, write=cgroup_type_write),
    Cftype(b"cgroup.procs", seq_show=cgroup_procs_show, write=cgroup_procs_write),
    Cftype(b"cgroup.threads", seq_show=cgroup_threads_show, write=cgroup_threads_write),
    Cftype(b"cgroup.controllers", seq_show=cgroup_controllers_show),
    Cftype(b"cgroup.subtree_control", seq_show=cgroup_subtree_control_show, write=cgroup_subtree_control_write),
    Cftype(b"cgroup.events", flags=CFTYPE_NOT_ON_ROOT, seq_show=cgroup_events_show),
    Cftype(b"cgroup.max.descendants", MAX_DESCENDANTS, seq_show=cgroup_max_show, write=cgroup_max_write),
    Cftype(b"cgroup.max.depth", MAX_DEPTH, seq_show=cgroup_max_show, write=cgroup_max_write),
    Cftype(b"cgroup.stat", seq_show=cgroup_stat_show),
)
