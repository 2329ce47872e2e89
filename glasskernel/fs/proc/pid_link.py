"""The magic links of /proc/PID: cwd, root, exe, fd/N, map_files/*: they lead to an object, not to a name.

Linux: proc_pid_get_link() and the get_link functions of fs/proc/base.c (5.3).
Owns: nothing. Invariant: a path that a function here answers is borrowed: its owner keeps the references.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.d_path import d_path
from glasskernel.fs.proc.internal import get_proc_task, get_task_mm, proc_task
from glasskernel.fs.proc.pid_dentry import proc_setattr
from glasskernel.fs.types import InodeOperations, Path
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_FSCREDS, ptrace_may_access
from glasskernel.lib.errno import EACCES, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode


def proc_cwd_link(dentry: Dentry, inode: Inode) -> Path:
    """Errors: ENOENT for a task that has begun to exit."""
    fs = proc_task(inode).fs
    if fs is None:
        raise KernelError(ENOENT)
    return Path(fs.pwd.mnt, fs.pwd.dentry)


def proc_root_link(dentry: Dentry, inode: Inode) -> Path:
    """Errors: ENOENT."""
    fs = proc_task(inode).fs
    if fs is None:
        raise KernelError(ENOENT)
    return Path(fs.root.mnt, fs.root.dentry)


def proc_exe_link(dentry: Dentry, inode: Inode) -> Path:
    """Errors: ENOENT for a kernel thread or a zombie."""
    mm = get_task_mm(proc_task(inode))
    file = mm.exe_file if mm is not None else None
    if file is None:
        raise KernelError(ENOENT)
    return Path(file.f_path.mnt, file.f_path.dentry)


@notrace
def proc_fd_access_allowed(inode: Inode) -> bool:
    task = get_proc_task(inode)
    return task is not None and ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS)


def proc_pid_get_link(dentry: Dentry | None, inode: Inode) -> Path:
    """Errors: EACCES, ENOENT."""
    if not proc_fd_access_allowed(inode):
        raise KernelError(EACCES)
    path: Path = inode.i_private.get_link(dentry, inode)
    return path


def proc_pid_readlink(dentry: Dentry) -> bytes:
    """The path's text, as the caller sees it. Errors: EACCES, ENOENT."""
    inode = dentry.d_inode
    assert inode is not None
    return d_path(proc_pid_get_link(dentry, inode))


proc_pid_link_inode_operations = InodeOperations(
    get_link=proc_pid_get_link, readlink=proc_pid_readlink, setattr=proc_setattr,
)
