"""Hierarchies of groups: made by mounting, their directories made by users.

Linux: kernel/cgroup/cgroup.c (5.3). Same: all controllers begin in the default hierarchy (cgroup2) and are rebound to
    the hierarchy that is mounted with them, as long as no group but the root uses them; a hierarchy lives as long as it
    is mounted or has groups; groups that have tasks or groups below them cannot be removed.
Differs: Kernel.cgroup is made when somebody mounts cgroups or asks for them, not at boot: until then all tasks are in
    one set, as with Linux's use_task_css_set_links.
Owns: CgroupState, every CgroupRoot, Cgroup and css. Gaps: cgroup namespaces, extended attributes, pressure files.
Invariants: state.ss_root[ss.id].cgrp.subsys[ss.id] is the controller's root css; a dead group is in no
    parent's children.
Locks: cgroup_mutex for everything that changes hierarchies or moves tasks.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.kernfs import kernfs_create_dir, kernfs_create_root, kernfs_fill_super, kernfs_path, kernfs_remove
from glasskernel.fs.super import kill_anon_super, mount_keyed
from glasskernel.kernel.cgroup.cgroup_file import cgroup_add_files, cgroup_rm_files
from glasskernel.kernel.cgroup.css_set import (
    cgroup1_check_for_release,
    cgroup_enable_task_cg_lists,
    cgroup_is_populated,
    cgroup_put,
    cgroup_update_populated,
    css_set_key,
    css_set_populated,
    link_css_set,
    rehash_css_sets,
    task_cgroup_from_root,
)
from glasskernel.kernel.cgroup.subsys import load_controllers
from glasskernel.kernel.cgroup.types import (
    CGRP_CPUSET_CLONE_CHILDREN,
    CGRP_NOTIFY_ON_RELEASE,
    CSS_DYING,
    CSS_ONLINE,
    Cgroup,
    CgroupRoot,
    CgroupState,
    CssSet,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.task import PF_EXITING
from glasskernel.kernel.workqueue import WorkStruct
from glasskernel.lib.errno import EAGAIN, EBUSY, EINVAL, ENODEV, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from glasskernel.fs.kernfs import KernfsNode, KernfsSyscallOps
    from glasskernel.fs.types import Dentry, FileSystemType, SuperBlock, SuperOperations
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import Cftype, CgroupSubsys, CgroupSubsysState
    from glasskernel.kernel.task import TaskStruct


# ---- the beginning -----------------------------------------------------------------------------------------------
def cgroup_init(kernel: Kernel) -> CgroupState:
    """Makes Kernel.cgroup: every controller in the default hierarchy, every task in its root."""
    state = CgroupState(kernel, load_controllers())
    root = state.cgrp_dfl_root = CgroupRoot(kernel, 0)
    root.subsys_mask = (1 << len(state.subsys)) - 1
    init_cgroup_root(state, root, None)
    state.roots[0] = root
    for ss in state.subsys:
        cgroup_init_subsys(state, ss)
    state.init_css_set = cset = CssSet([css for css in root.cgrp.subsys if css is not None], {}, refcount=1)
    link_css_set(cset, 0, root.cgrp)
    state.css_set_table[css_set_key(cset.subsys, cset.cgrps)] = cset
    kernel.cgroup = state
    cgroup_enable_task_cg_lists(state)
    return state


def cgroup_init_subsys(state: CgroupState, ss: CgroupSubsys) -> None:
    """A controller's root state, and what forks and exits have to call for it."""
    css = ss.css_alloc(state.kernel, None)
    init_and_link_css(state, css, ss, state.cgrp_dfl_root.cgrp)
    state.ss_root.append(state.cgrp_dfl_root)
    if ss.can_fork is not None:
        state.have_canfork_callback.append(ss)
    if ss.fork is not None:
        state.have_fork_callback.append(ss)
    if ss.exit is not None:
        state.have_exit_callback.append(ss)
    if ss.release is not None:
        state.have_release_callback.append(ss)
    online_css(css)
    css_populate_dir(css)


@notrace
def init_and_link_css(state: CgroupState, css: CgroupSubsysState, ss: CgroupSubsys, cgrp: Cgroup) -> None:
    state.next_serial += 1
    css.cgroup, css.ss, css.serial_nr = cgrp, ss, state.next_serial
    if cgrp.parent is not None:
        css.parent = cgrp.parent.subsys[ss.id]


def online_css(css: CgroupSubsysState) -> None:
    """The state begins to count. Raises what the controller raises."""
    if css.ss.css_online is not None:
        css.ss.css_online(css)
    css.flags |= CSS_ONLINE
    css.cgroup.subsys[css.ss.id] = css


def init_cgroup_root(state: CgroupState, root: CgroupRoot, scops: KernfsSyscallOps | None) -> None:
    """The root's group and its tree of files."""
    state.next_serial += 1
    cgrp = root.cgrp = Cgroup(root, None, 0, state.next_serial, [None] * len(state.subsys))
    root.kf_root = kernfs_create_root(root.kernel, cgrp, scops)
    cgrp.kn = root.kf_root.kn
    root.nr_cgrps = 1
    root.cgroup_idr[cgrp.id] = cgrp
    root.destroy_work = WorkStruct(css_free_rwork_fn, root)


# ---- hierarchies -------------------------------------------------------------------------------------------------
@may_sleep
def cgroup_setup_root(state: CgroupState, root: CgroupRoot, ss_mask: int, scops: KernfsSyscallOps,
                      base_files: Iterable[Cftype]) -> None:
    """A new hierarchy with these controllers: all tasks are in its root. Raises EBUSY. Locks: cgroup_mutex."""
    init_cgroup_root(state, root, scops)
    cgroup_add_files(root.cgrp, None, root.cgrp, base_files)
    rebind_subsystems(state, root, ss_mask)
    state.roots[root.hierarchy_id] = root
    for cset in state.css_set_table.values():
        link_css_set(cset, root.hierarchy_id, root.cgrp)
        if css_set_populated(cset):
            cgroup_update_populated(root.cgrp, True)
    rehash_css_sets(state)
    probe = state.kernel.tp.cgroup_setup_root
    if probe is not None:
        probe(root)


def rebind_subsystems(state: CgroupState, dst_root: CgroupRoot, ss_mask: int) -> None:
    """Controllers go to another hierarchy. Raises EBUSY where groups use them, or another hierarchy has them."""
    moving = [ss for ss in state.subsys if ss_mask >> ss.id & 1]
    for ss in moving:
        src_root = state.ss_root[ss.id]
        if any(child.subsys[ss.id] is not None for child in src_root.cgrp.children):
            raise KernelError(EBUSY)
        if src_root.hierarchy_id and dst_root.hierarchy_id:
            raise KernelError(EBUSY)
    for ss in moving:
        src_root = state.ss_root[ss.id]
        css = src_root.cgrp.subsys[ss.id]
        assert css is not None
        css_clear_dir(css)
        src_root.cgrp.subsys[ss.id] = None
        src_root.subsys_mask &= ~(1 << ss.id)
        src_root.cgrp.subtree_control &= ~(1 << ss.id)
        css.cgroup = dst_root.cgrp
        dst_root.cgrp.subsys[ss.id] = css
        dst_root.subsys_mask |= 1 << ss.id
        state.ss_root[ss.id] = dst_root
        css_populate_dir(css)
        if ss.bind is not None:
            ss.bind(css)


@notrace
def css_files(css: CgroupSubsysState) -> tuple[Cftype, ...]:
    return css.ss.legacy_cftypes if css.cgroup.root.hierarchy_id else css.ss.dfl_cftypes or ()


def css_populate_dir(css: CgroupSubsysState) -> None:
    cgroup_add_files(css.cgroup, css.ss, css, css_files(css))


def css_clear_dir(css: CgroupSubsysState) -> None:
    cgroup_rm_files(css.cgroup, css.ss, css_files(css))


def cgroup_destroy_root(state: CgroupState, root: CgroupRoot) -> None:
    """Nothing is left of the hierarchy but its root: its controllers go back. Locks: cgroup_mutex."""
    probe = state.kernel.tp.cgroup_destroy_root
    if probe is not None:
        probe(root)
    rebind_subsystems(state, state.cgrp_dfl_root, root.subsys_mask)
    for cset in state.css_set_table.values():
        del cset.cgrps[root.hierarchy_id]
    root.cgrp.cset_links.clear()
    del state.roots[root.hierarchy_id]
    rehash_css_sets(state)


@may_sleep
def cgroup_do_mount(root: CgroupRoot, fs_type: FileSystemType, flags: int, data: bytes, magic: int,
                    s_op: SuperOperations) -> Dentry:
    """A view of the hierarchy."""

    def fill_super(sb: SuperBlock, _data: bytes, _silent: bool) -> None:
        kernfs_fill_super(sb, root.kf_root, magic)
        sb.s_op = s_op

    return mount_keyed(root.kernel, fs_type, flags, data, root.kf_root, fill_super)


@may_sleep
def cgroup_kill_sb(sb: SuperBlock) -> None:
    """->kill_sb(): the last mount is gone. A hierarchy without groups goes with it."""
    cgrp: Cgroup = sb.s_fs_info.kn.priv
    root = cgrp.root
    kill_anon_super(sb)
    if root.hierarchy_id and not root.cgrp.children:
        root.dying = True
        cgroup_put(root.cgrp)


@may_sleep
def css_free_rwork_fn(work: WorkStruct) -> None:
    """In a worker: nothing uses the hierarchy any more."""
    root: CgroupRoot = work.data
    state = root.kernel.cgroup
    assert state is not None
    mutex_lock(state.cgroup_mutex)
    cgroup_destroy_root(state, root)
    mutex_unlock(state.cgroup_mutex)


# ---- groups ------------------------------------------------------------------------------------------------------
@may_sleep
@notrace
def cgroup_kn_lock_live(cgrp: Cgroup) -> CgroupState:
    """Takes cgroup_mutex for a change of the group. Raises ENODEV if it was removed."""
    state = cgrp.root.kernel.cgroup
    assert state is not None
    mutex_lock(state.cgroup_mutex)
    if cgrp.dead:
        mutex_unlock(state.cgroup_mutex)
        raise KernelError(ENODEV)
    return state


@may_sleep
def cgroup_mkdir(parent_kn: KernfsNode, name: bytes, mode: int, base_files: Iterable[Cftype],
                 release_agent: Callable[[WorkStruct], None] | None = None) -> None:
    """mkdir(2). Raises EINVAL (newline), ENODEV (the parent is gone), EEXIST, EAGAIN (limits of cgroup2), what
    controllers raise.
    """
    if b"\n" in name:
        raise KernelError(EINVAL)
    parent: Cgroup = parent_kn.priv
    state = cgroup_kn_lock_live(parent)
    try:
        cgroup_check_hierarchy_limits(parent)
        cgrp = cgroup_create(state, parent, name, mode, release_agent)
        cgroup_add_files(cgrp, None, cgrp, base_files)
        try:
            cgroup_apply_control_enable(state, cgrp)
        except KernelError:
            cgroup_destroy_locked(cgrp)
            raise
        probe = state.kernel.tp.cgroup_mkdir
        if probe is not None:
            probe(cgrp)
    finally:
        mutex_unlock(state.cgroup_mutex)


def cgroup_create(state: CgroupState, parent: Cgroup, name: bytes, mode: int,
                  release_agent: Callable[[WorkStruct], None] | None) -> Cgroup:
    """A group with its directory, which belongs to who made it."""
    state.next_serial += 1
    cgrp = Cgroup(parent.root, parent, parent.level + 1, state.next_serial, [None] * len(state.subsys))
    cgrp.kn = kernfs_create_dir(parent.kn, name, mode, cgrp)
    cred = current().cred
    cgrp.kn.uid, cgrp.kn.gid = cred.fsuid, cred.fsgid
    cgrp.flags = parent.flags & (CGRP_NOTIFY_ON_RELEASE | CGRP_CPUSET_CLONE_CHILDREN)
    if release_agent is not None:
        cgrp.release_agent_work = WorkStruct(release_agent, cgrp)
    root = parent.root
    cgrp.id = next(number for number in range(2, len(root.cgroup_idr) + 3) if number not in root.cgroup_idr)
    root.cgroup_idr[cgrp.id] = cgrp
    parent.children[cgrp] = None
    parent.refcnt += 1
    parent.root.nr_cgrps += 1
    return cgrp


def cgroup_check_hierarchy_limits(parent: Cgroup) -> None:
    """May there be one more group below? Raises EAGAIN."""
    level = 1
    cgrp: Cgroup | None = parent
    while cgrp is not None:
        if level > cgrp.max_depth or nr_descendants(cgrp) >= cgrp.max_descendants:
            raise KernelError(EAGAIN)
        cgrp, level = cgrp.parent, level + 1


@notrace
def nr_descendants(cgrp: Cgroup) -> int:
    return sum(1 + nr_descendants(child) for child in cgrp.children)


@notrace
def cgroup_control(cgrp: Cgroup) -> int:
    """The controllers that the group has a state of: a mask. In cgroup2: those that its parent gives it."""
    if cgrp.root.hierarchy_id:
        return cgrp.root.subsys_mask
    if cgrp.parent is not None:
        return cgrp.parent.subtree_control
    state = cgrp.root.kernel.cgroup
    assert state is not None
    mask = cgrp.root.subsys_mask
    for ss in state.subsys:
        if ss.dfl_cftypes is None:               # cgrp_dfl_inhibit_ss_mask
            mask &= ~(1 << ss.id)
    return mask


def cgroup_apply_control_enable(state: CgroupState, cgrp: Cgroup) -> None:
    """Makes the states that the group shall have. Raises what controllers raise."""
    mask = cgroup_control(cgrp)
    for ss in state.subsys:
        if mask >> ss.id & 1 and cgrp.subsys[ss.id] is None:
            css_populate_dir(css_create(state, cgrp, ss))


def css_create(state: CgroupState, cgrp: Cgroup, ss: CgroupSubsys) -> CgroupSubsysState:
    """A controller's state of a group. Raises what the controller raises."""
    assert cgrp.parent is not None
    css = ss.css_alloc(state.kernel, cgrp.parent.subsys[ss.id])
    init_and_link_css(state, css, ss, cgrp)
    try:
        online_css(css)
    except KernelError:
        if ss.css_free is not None:
            ss.css_free(css)
        raise
    return css


@may_sleep
def cgroup_rmdir(kn: KernfsNode) -> None:
    """rmdir(2). Raises EBUSY (tasks or groups are in it), ENODEV."""
    cgrp: Cgroup = kn.priv
    state = cgroup_kn_lock_live(cgrp)
    cgrp.refcnt += 1
    try:
        cgroup_destroy_locked(cgrp)
        probe = state.kernel.tp.cgroup_rmdir
        if probe is not None:
            probe(cgrp)
    finally:
        cgroup_put(cgrp)
        mutex_unlock(state.cgroup_mutex)


def cgroup_destroy_locked(cgrp: Cgroup) -> None:
    """Takes a group out of its hierarchy. Raises EBUSY. What exits in it may hold it a little longer."""
    if cgroup_is_populated(cgrp) or cgrp.children:
        raise KernelError(EBUSY)
    parent = cgrp.parent
    assert parent is not None
    cgrp.dead = True
    for css in cgrp.subsys:
        if css is not None:
            kill_css(css)
    kernfs_remove(cgrp.kn)
    del parent.children[cgrp]
    cgroup1_check_for_release(parent)
    cgroup_put(cgrp)


def kill_css(css: CgroupSubsysState) -> None:
    """The state stops to count (kill_css(), offline_css())."""
    css.flags |= CSS_DYING
    if css.ss.css_offline is not None:
        css.ss.css_offline(css)
    css.flags &= ~CSS_ONLINE


@notrace
def cgroup_path(cgrp: Cgroup) -> bytes:
    """b"/a/b": of a removed group too."""
    return kernfs_path(cgrp.kn)


# ---- /proc -------------------------------------------------------------------------------------------------------
def proc_cgroup_show(state: CgroupState, task: TaskStruct) -> bytes:
    """/proc/PID/cgroup: a line for each hierarchy, the youngest first."""
    lines = []
    for number in sorted(state.roots, reverse=True):
        root = state.roots[number]
        if not number and not state.cgrp_dfl_visible:
            continue
        names = [ss.legacy_name or ss.name for ss in state.subsys if number and root.subsys_mask >> ss.id & 1]
        if root.name:
            names.append(b"name=" + root.name)
        cgrp = task_cgroup_from_root(task, root)
        path = cgroup_path(cgrp) if not number or not task.flags & PF_EXITING else b"/"
        deleted = b" (deleted)" if not number and cgrp.dead else b""
        lines.append(b"%d:%b:%b%b\n" % (number, b",".join(names), path, deleted))
    return b"".join(lines)


def proc_cgroupstats_show(state: CgroupState) -> bytes:
    """/proc/cgroups"""
    lines = [b"#subsys_name\thierarchy\tnum_cgroups\tenabled\n"]
    for ss in state.subsys:
        root = state.ss_root[ss.id]
        lines.append(b"%b\t%d\t%d\t1\n" % (ss.legacy_name or ss.name, root.hierarchy_id, root.nr_cgrps))
    return b"".join(lines)
