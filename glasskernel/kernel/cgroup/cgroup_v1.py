"""cgroup version 1: mount options, and the files that every group has.

Linux: kernel/cgroup/cgroup-v1.c (5.3). Same: which hierarchy a mount finds or makes; tasks, cgroup.procs,
    cgroup.clone_children, cgroup.sane_behavior, notify_on_release and release_agent; a release agent runs when the last
    task and the last group below have gone. Differs: tasks and cgroup.procs are made anew for every read that
    starts at 0 (Linux keeps them for a second).
Owns: nothing.
Gaps: cgroup_disable= and cgroup_no_v1=, taskstats about groups, extended attributes (the option xattr is kept, and does
    nothing).
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glasskernel.fs.kernfs import KernfsSyscallOps, kernfs_put_super, kernfs_rename_ns
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.seq_file import seq_printf, seq_puts
from glasskernel.fs.types import SuperOperations
from glasskernel.kernel.cgroup.cgroup import (
    cgroup_do_mount,
    cgroup_init,
    cgroup_kn_lock_live,
    cgroup_mkdir,
    cgroup_path,
    cgroup_rmdir,
    cgroup_setup_root,
)
from glasskernel.kernel.cgroup.cgroup_file import cgroup_parse_number, of_cft, of_css, seq_cft, seq_css
from glasskernel.kernel.cgroup.css_set import css_task_iter
from glasskernel.kernel.cgroup.migrate import cgroup_attach_task
from glasskernel.kernel.cgroup.types import (
    CFTYPE_ONLY_ON_ROOT,
    CGROUP_SUPER_MAGIC,
    CGRP_CPUSET_CLONE_CHILDREN,
    CGRP_NOTIFY_ON_RELEASE,
    CGRP_ROOT_NOPREFIX,
    CGRP_ROOT_XATTR,
    Cftype,
    CgroupRoot,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.task import PF_NO_SETAFFINITY
from glasskernel.kernel.umh import call_usermodehelper
from glasskernel.lib.errno import EACCES, EBUSY, EEXIST, EINVAL, ENOTDIR, EPERM, ESRCH, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.types import Dentry, FileSystemType, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import Cgroup, CgroupState
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.workqueue import WorkStruct

CGROUP_FILE_PROCS, CGROUP_FILE_TASKS = 0, 1                # Cftype.private
PATH_MAX, MAX_CGROUP_ROOT_NAMELEN = 4096, 64


# ---- mounting ----------------------------------------------------------------------------------------------------
@slotted
class Cgroup1Options:
    """struct cgroup_fs_context. subsys_mask: the controllers that were named."""

    subsys_mask: int = 0
    flags: int = 0
    none: bool = False
    all_ss: bool = False
    cpuset_clone_children: bool = False
    name: bytes = b""
    release_agent: bytes = b""


def cgroup1_parse_param(state: CgroupState, ctx: Cgroup1Options, option: bytes) -> None:
    """One mount option. Raises EINVAL."""
    key, _, value = option.partition(b"=")
    for ss in state.subsys:
        if option == (ss.legacy_name or ss.name):
            ctx.subsys_mask |= 1 << ss.id
            return
    if option == b"none":
        ctx.none = True
    elif option == b"all":
        ctx.all_ss = True
    elif option == b"noprefix":
        ctx.flags |= CGRP_ROOT_NOPREFIX
    elif option == b"xattr":
        ctx.flags |= CGRP_ROOT_XATTR
    elif option == b"clone_children":
        ctx.cpuset_clone_children = True
    elif key == b"release_agent" and value and not ctx.release_agent and len(value) < PATH_MAX:
        ctx.release_agent = value
    elif key == b"name" and value and not ctx.name and len(value) < MAX_CGROUP_ROOT_NAMELEN:
        good = value.replace(b".", b"").replace(b"_", b"").replace(b"-", b"")
        if good and not good.isalnum():
            raise KernelError(EINVAL)
        ctx.name = value
    else:
        raise KernelError(EINVAL)


def check_cgroupfs_options(state: CgroupState, ctx: Cgroup1Options) -> None:
    """Do the options make sense together? Raises EINVAL."""
    cpuset = next((1 << ss.id for ss in state.subsys if ss.name == b"cpuset"), 0)
    if ctx.all_ss and ctx.subsys_mask:
        raise KernelError(EINVAL)
    if ctx.all_ss or not (ctx.subsys_mask or ctx.none or ctx.name):
        ctx.subsys_mask = (1 << len(state.subsys)) - 1
    if not ctx.subsys_mask and not ctx.name:
        raise KernelError(EINVAL)
    if ctx.flags & CGRP_ROOT_NOPREFIX and ctx.subsys_mask & ~cpuset:
        raise KernelError(EINVAL)
    if ctx.subsys_mask and ctx.none:
        raise KernelError(EINVAL)


@notrace
def cgroup1_options(state: CgroupState, data: bytes) -> Cgroup1Options:
    """All of them. Raises EINVAL."""
    ctx = Cgroup1Options()
    for option in data.split(b","):
        if option:
            cgroup1_parse_param(state, ctx, option)
    check_cgroupfs_options(state, ctx)
    return ctx


def cgroup1_root_to_use(state: CgroupState, ctx: Cgroup1Options) -> CgroupRoot:
    """The hierarchy that fits, or a new one. Raises EBUSY (some of the controllers are elsewhere), EINVAL."""
    for number in sorted(state.roots, reverse=True):
        root = state.roots[number]
        if not number:
            continue
        name_match = False
        if ctx.name:
            if ctx.name != root.name:
                continue
            name_match = True
        if (ctx.subsys_mask or ctx.none) and ctx.subsys_mask != root.subsys_mask:
            if not name_match:
                continue
            raise KernelError(EBUSY)
        if root.flags ^ ctx.flags:
            state.kernel.printk("cgroup: new mount options do not match the existing superblock, will be ignored", 4)
        return root
    if not ctx.subsys_mask and not ctx.none:
        raise KernelError(EINVAL)
    root = CgroupRoot(state.kernel, state.next_hierarchy_id, 0, ctx.flags, ctx.name, ctx.release_agent)
    cgroup_setup_root(state, root, ctx.subsys_mask, cgroup1_kf_syscall_ops, cgroup1_base_files)
    state.next_hierarchy_id += 1
    if ctx.cpuset_clone_children:
        root.cgrp.flags |= CGRP_CPUSET_CLONE_CHILDREN
    return root


@may_sleep
def cgroup1_get_tree(kernel: Kernel, fs_type: FileSystemType, flags: int, data: bytes) -> Dentry:
    """mount -t cgroup. Raises EINVAL, EBUSY."""
    state = kernel.cgroup or cgroup_init(kernel)
    ctx = cgroup1_options(state, data)
    while True:
        mutex_lock(state.cgroup_mutex)
        try:
            if not any(ss_root.dying for ss_root in state.roots.values()):
                root = cgroup1_root_to_use(state, ctx)
                break
        finally:
            mutex_unlock(state.cgroup_mutex)
        msleep(10)                               # one is on its way out: perhaps the one that is asked for
    return cgroup_do_mount(root, fs_type, flags, data, CGROUP_SUPER_MAGIC, cgroup1_sops)


def cgroup1_reconfigure(sb: SuperBlock, flags: int, data: bytes) -> int:
    """A remount may change the release agent only. Raises EINVAL, EBUSY."""
    root: CgroupRoot = sb.s_fs_info.kn.priv.root
    state = sb.kernel.cgroup
    assert state is not None
    ctx = cgroup1_options(state, data)
    if ctx.flags != root.flags or (ctx.name and ctx.name != root.name):
        raise KernelError(EINVAL)
    if ctx.subsys_mask != root.subsys_mask:
        raise KernelError(EBUSY if root.cgrp.children else EINVAL)
    if ctx.release_agent:
        root.release_agent_path = ctx.release_agent
    probe = sb.kernel.tp.cgroup_remount
    if probe is not None:
        probe(root)
    return flags


def cgroup1_show_options(dentry: Dentry) -> bytes:
    """The end of the line in /proc/mounts."""
    root: CgroupRoot = dentry.d_sb.s_fs_info.kn.priv.root
    state = root.kernel.cgroup
    assert state is not None
    options = [ss.legacy_name or ss.name for ss in state.subsys if root.subsys_mask >> ss.id & 1]
    if root.flags & CGRP_ROOT_NOPREFIX:
        options.append(b"noprefix")
    if root.flags & CGRP_ROOT_XATTR:
        options.append(b"xattr")
    if root.release_agent_path:
        options.append(b"release_agent=" + root.release_agent_path)
    if root.cgrp.flags & CGRP_CPUSET_CLONE_CHILDREN:
        options.append(b"clone_children")
    if root.name:
        options.append(b"name=" + root.name)
    return b"".join(b"," + option for option in options)


# ---- tasks and cgroup.procs --------------------------------------------------------------------------------------
def cgroup_pidlist_show(m: SeqFile, v: Any) -> int | None:
    """The numbers of the group's threads or processes, each once, in order."""
    cgrp: Cgroup = seq_css(m)
    if seq_cft(m).private == CGROUP_FILE_PROCS:
        numbers = {task.tgid for task in css_task_iter(cgrp)}
    else:
        numbers = {task.pid for task in css_task_iter(cgrp)}
    seq_puts(m, b"".join(b"%d\n" % number for number in sorted(numbers)))
    return None


@notrace
def cgroup_procs_write_start(buf: bytes, threadgroup: bool) -> TaskStruct:
    """The task whose number was written; 0: the writer. Raises EINVAL, ESRCH."""
    pid = cgroup_parse_number(buf.strip(), -1 << 31, (1 << 31) - 1)
    if pid < 0:
        raise KernelError(EINVAL)
    task = find_task_by_vpid(pid) if pid else current()
    if task is None:
        raise KernelError(ESRCH)
    if threadgroup:
        task = task.group_leader
    # kthreadd makes threads that are bound to CPUs: what is bound must not move
    if task is task.kernel.sched.kthreadd_task or task.flags & PF_NO_SETAFFINITY:
        raise KernelError(EINVAL)
    return task


@may_sleep
def __cgroup1_procs_write(of: KernfsNode, buf: bytes, threadgroup: bool) -> None:
    """Raises EINVAL, ESRCH, EACCES (another user's), ENODEV, what controllers raise."""
    cgrp: Cgroup = of_css(of)
    state = cgroup_kn_lock_live(cgrp)
    try:
        task = cgroup_procs_write_start(buf, threadgroup)
        cred, tcred = current().cred, task.real_cred
        if cred.euid and cred.euid not in (tcred.uid, tcred.suid):
            raise KernelError(EACCES)
        cgroup_attach_task(state, cgrp, task, threadgroup)
    finally:
        mutex_unlock(state.cgroup_mutex)


@may_sleep
def cgroup1_procs_write(of: KernfsNode, buf: bytes) -> None:
    __cgroup1_procs_write(of, buf, True)


@may_sleep
def cgroup1_tasks_write(of: KernfsNode, buf: bytes) -> None:
    __cgroup1_procs_write(of, buf, False)


# ---- the other files ---------------------------------------------------------------------------------------------
def cgroup_release_agent_write(of: KernfsNode, buf: bytes) -> None:
    cgrp: Cgroup = of_css(of)
    assert of_cft(of).flags & CFTYPE_ONLY_ON_ROOT
    cgrp.root.release_agent_path = buf.split(b"\0")[0].strip()[:PATH_MAX - 1]


def cgroup_release_agent_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, seq_css(m).root.release_agent_path + b"\n")
    return None


def cgroup_sane_behavior_show(m: SeqFile, v: Any) -> int | None:
    """0: this is version 1."""
    seq_printf(m, b"%d\n", int(not seq_css(m).root.hierarchy_id))
    return None


def cgroup_read_notify_on_release(cgrp: Cgroup, cft: Cftype) -> int:
    return int(bool(cgrp.flags & CGRP_NOTIFY_ON_RELEASE))


def cgroup_write_notify_on_release(cgrp: Cgroup, cft: Cftype, value: int) -> None:
    cgrp.flags = cgrp.flags | CGRP_NOTIFY_ON_RELEASE if value else cgrp.flags & ~CGRP_NOTIFY_ON_RELEASE


def cgroup_clone_children_read(cgrp: Cgroup, cft: Cftype) -> int:
    return int(bool(cgrp.flags & CGRP_CPUSET_CLONE_CHILDREN))


def cgroup_clone_children_write(cgrp: Cgroup, cft: Cftype, value: int) -> None:
    cgrp.flags = cgrp.flags | CGRP_CPUSET_CLONE_CHILDREN if value else cgrp.flags & ~CGRP_CPUSET_CLONE_CHILDREN


@may_sleep
def cgroup1_release_agent(work: WorkStruct) -> None:
    """In a worker: starts the hierarchy's agent with the path of a group that is empty now."""
    cgrp: Cgroup = work.data
    agent = cgrp.root.release_agent_path
    if agent and not cgrp.dead:
        with suppress(KernelError):              # Linux does not look at the answer either
            call_usermodehelper(agent, [agent, cgroup_path(cgrp)], [b"HOME=/", b"PATH=/sbin:/bin:/usr/sbin:/usr/bin"])


# ---- directories -------------------------------------------------------------------------------------------------
@notrace
@may_sleep
def cgroup1_mkdir(parent_kn: KernfsNode, name: bytes, mode: int) -> None:
    cgroup_mkdir(parent_kn, name, mode, cgroup1_base_files, cgroup1_release_agent)


def cgroup1_rename(kn: KernfsNode, new_parent: KernfsNode, new_name: bytes) -> None:
    """A group gets another name, in the same directory. Raises EINVAL (newline), ENOTDIR, EPERM, EEXIST."""
    if b"\n" in new_name:
        raise KernelError(EINVAL)
    if kn.children is None:
        raise KernelError(ENOTDIR)
    if kn.parent is not new_parent:
        raise KernelError(EPERM)
    if new_parent.children is not None and new_name in new_parent.children:
        raise KernelError(EEXIST)
    kernfs_rename_ns(kn, new_parent, new_name)
    probe = kn.root.kernel.tp.cgroup_rename
    if probe is not None:
        probe(kn.priv)


cgroup1_kf_syscall_ops = KernfsSyscallOps(cgroup1_mkdir, cgroup_rmdir, cgroup1_rename)
cgroup1_sops = SuperOperations(simple_statfs, put_super=kernfs_put_super, show_options=cgroup1_show_options,
                               remount_fs=cgroup1_reconfigure)
cgroup1_base_files = (
    Cftype(b"cgroup.procs", CGROUP_FILE_PROCS, seq_show=cgroup_pidlist_show, write=cgroup1_procs_write),
    Cftype(b"cgroup.clone_children", read_u64=cgroup_clone_children_read, write_u64=cgroup_clone_children_write),
    Cftype(b"cgroup.sane_behavior", flags=CFTYPE_ONLY_ON_ROOT, seq_show=cgroup_sane_behavior_show),
    Cftype(b"tasks", CGROUP_FILE_TASKS, seq_show=cgroup_pidlist_show, write=cgroup1_tasks_write),
    Cftype(b"notify_on_release", read_u64=cgroup_read_notify_on_release, write_u64=cgroup_write_notify_on_release),
    Cftype(b"release_agent", flags=CFTYPE_ONLY_ON_ROOT, seq_show=cgroup_release_agent_show,
           write=cgroup_release_agent_write),
)
