"""/proc/PID/ns: the namespaces of a process.

Linux: fs/proc/namespaces.c, fs/nsfs.c (5.3). Same: names and numbers; readlink shows b"mnt:[4026531840]".
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.proc.fd import pid_emit_dots
from glasskernel.fs.proc.internal import get_proc_task, proc_task
from glasskernel.fs.proc.pid_dentry import (
    instantiated,
    pid_dentry_operations,
    proc_fill_cache,
    proc_pid_make_inode,
    proc_setattr,
)
from glasskernel.fs.proc_ns import (
    ProcNsOperations,
    cgroupns_operations,
    ipcns_operations,
    mntns_operations,
    netns_operations,
    ns_inum,
    pidns_for_children_operations,
    pidns_operations,
    userns_operations,
    utsns_operations,
)
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import S_IFLNK, FileOperations, InodeOperations, Path
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_FSCREDS, ptrace_may_access
from glasskernel.lib.errno import EACCES, ENOENT, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Inode
    from glasskernel.kernel.task import TaskStruct

# the names of the links
NS_ENTRIES: tuple[tuple[bytes, ProcNsOperations], ...] = (
    (b"net", netns_operations), (b"uts", utsns_operations), (b"ipc", ipcns_operations), (b"pid", pidns_operations),
    (b"pid_for_children", pidns_for_children_operations), (b"user", userns_operations), (b"mnt", mntns_operations),
    (b"cgroup", cgroupns_operations),
)


def proc_ns_readlink(dentry: Dentry) -> bytes:
    """Errors: EACCES, ENOENT."""
    inode = dentry.d_inode
    assert inode is not None
    task = proc_task(inode)
    if not ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS):
        raise KernelError(EACCES)
    ops: ProcNsOperations = inode.i_private.ns
    return b"%b:[%d]" % (ops.name, ns_inum(ops, ops.get(task)))


@may_sleep
def proc_ns_get_link(dentry: Dentry | None, inode: Inode) -> Path:
    """The namespace's file. Errors: EACCES, ESRCH."""
    task = proc_task(inode)
    if not ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS):
        raise KernelError(EACCES)
    from glasskernel.fs.nsfs import ns_get_path, nsfs_init  # late: start-up time

    ops: ProcNsOperations = inode.i_private.ns
    state = inode.i_sb.kernel.proc
    if state.nsfs_mnt is None:
        state.nsfs_mnt = nsfs_init(inode.i_sb.kernel)
    return ns_get_path(state.nsfs_mnt, ops, ops.get(task))


def proc_ns_instantiate(dentry: Dentry, task: TaskStruct, ptr: Any) -> Dentry | None:
    inode = proc_pid_make_inode(dentry.d_sb, task, S_IFLNK | 0o777)
    inode.i_op = proc_ns_link_inode_operations
    inode.i_private.ns = ptr
    return instantiated(dentry, inode, pid_dentry_operations)


def proc_ns_dir_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """Errors: ENOENT."""
    task = get_proc_task(dir)
    for entry in NS_ENTRIES:
        if entry[0] == dentry.d_name and task is not None:
            return proc_ns_instantiate(dentry, task, entry[1])
    raise KernelError(ENOENT)


def proc_ns_dir_readdir(file: File, ctx: DirContext) -> None:
    """Errors: ENOENT."""
    task = get_proc_task(file.f_inode)
    if task is None:
        raise KernelError(ENOENT)
    if not pid_emit_dots(file, ctx):
        return
    while ctx.pos - 2 < len(NS_ENTRIES):
        entry = NS_ENTRIES[ctx.pos - 2]
        if not proc_fill_cache(file, ctx, entry[0], proc_ns_instantiate, task, entry[1]):
            return
        ctx.pos += 1


proc_ns_link_inode_operations = InodeOperations(
    readlink=proc_ns_readlink, get_link=proc_ns_get_link, setattr=proc_setattr,
)
proc_ns_dir_inode_operations = InodeOperations(lookup=proc_ns_dir_lookup, setattr=proc_setattr)
proc_ns_dir_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_ns_dir_readdir, llseek=generic_file_llseek,
)
