"""/proc/PID/fd, fdinfo: the open files of a process.

Linux: fs/proc/fd.c (5.3). Same: links that open(2) follows to the file itself; modes by the file's own.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.permission import generic_permission
from glasskernel.fs.proc.internal import ProcInode, get_proc_task, proc_task
from glasskernel.fs.proc.pid_dentry import (
    instantiated,
    name_to_int,
    pid_delete_dentry,
    proc_fill_cache,
    proc_pid_make_inode,
    proc_setattr,
    task_dump_owner,
)
from glasskernel.fs.proc.pid_link import proc_pid_link_inode_operations
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import seq_lseek, seq_puts, seq_read, single_open, single_release
from glasskernel.fs.types import (
    DT_DIR,
    FMODE_READ,
    FMODE_WRITE,
    O_CLOEXEC,
    S_IFDIR,
    S_IFLNK,
    S_IFREG,
    DentryOperations,
    FileOperations,
    InodeOperations,
    Path,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EACCES, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.types import Dentry, DirContext, File, Inode
    from glasskernel.kernel.task import TaskStruct


@notrace
def fcheck_files(task: TaskStruct, fd: int) -> File | None:
    files = task.files
    return files.fd[fd] if files is not None and fd < len(files.fd) else None


# ---- fd ------------------------------------------------------------------------------------------
@notrace
def tid_fd_mode(task: TaskStruct, fd: int) -> int | None:
    """f_mode of the open file, None if the descriptor is free."""
    file = fcheck_files(task, fd)
    return None if file is None else file.f_mode


def tid_fd_update_inode(task: TaskStruct, inode: Inode, f_mode: int) -> None:
    inode.i_uid, inode.i_gid = task_dump_owner(task, 0)
    if inode.i_mode & 0o170000 == S_IFLNK:
        mode = S_IFLNK
        if f_mode & FMODE_READ:
            mode |= 0o500
        if f_mode & FMODE_WRITE:
            mode |= 0o300
        inode.i_mode = mode


def tid_fd_revalidate(dentry: Dentry) -> bool:
    """False once the descriptor was closed."""
    inode = dentry.d_inode
    task = get_proc_task(inode) if inode is not None else None
    if inode is None or task is None:
        return False
    mode = tid_fd_mode(task, inode.i_private.fd)
    if mode is None:
        return False
    tid_fd_update_inode(task, inode, mode)
    return True


def proc_fd_link(dentry: Dentry, inode: Inode) -> Path:
    """The open file's path. Errors: ENOENT."""
    file = fcheck_files(proc_task(inode), inode.i_private.fd)
    if file is None:
        raise KernelError(ENOENT)
    return Path(file.f_path.mnt, file.f_path.dentry)


def proc_fd_instantiate(dentry: Dentry, task: TaskStruct, ptr: Any) -> Dentry | None:
    """Errors: ENOENT if the descriptor is free."""
    mode = tid_fd_mode(task, ptr)
    if mode is None:
        raise KernelError(ENOENT)
    inode = proc_pid_make_inode(dentry.d_sb, task, S_IFLNK)
    info: ProcInode = inode.i_private
    info.fd = ptr
    info.get_link = proc_fd_link
    inode.i_op = proc_pid_link_inode_operations
    inode.i_size = 64
    tid_fd_update_inode(task, inode, mode)
    return instantiated(dentry, inode, tid_fd_dentry_operations)


def proc_lookupfd_common(dir: Inode, dentry: Dentry, instantiate: Any) -> Dentry | None:
    """Errors: ENOENT."""
    task = get_proc_task(dir)
    fd = name_to_int(dentry.d_name)
    if task is None or fd is None or fcheck_files(task, fd) is None:
        raise KernelError(ENOENT)
    found: Dentry | None = instantiate(dentry, task, fd)
    return found


def proc_readfd_common(file: File, ctx: DirContext, instantiate: Any) -> None:
    """ ".", ".." and the numbers of open descriptors; position = number + 2. Errors: ENOENT."""
    inode = file.f_inode
    task = get_proc_task(inode)
    if task is None:
        raise KernelError(ENOENT)
    if not pid_emit_dots(file, ctx):
        return
    files = task.files
    if files is None:
        return
    while ctx.pos - 2 < len(files.fd):
        fd = ctx.pos - 2
        if files.fd[fd] is not None and not proc_fill_cache(file, ctx, b"%d" % fd, instantiate, task, fd):
            return
        ctx.pos += 1


@notrace
def pid_emit_dots(file: File, ctx: DirContext) -> bool:
    """dir_emit_dots()"""
    inode = file.f_inode
    if ctx.pos == 0:
        if not ctx.emit(b".", inode.i_ino, DT_DIR):
            return False
        ctx.pos = 1
    if ctx.pos == 1:
        parent = file.f_path.dentry.d_parent.d_inode
        if not ctx.emit(b"..", parent.i_ino if parent else inode.i_ino, DT_DIR):
            return False
        ctx.pos = 2
    return True


def proc_lookupfd(dir: Inode, dentry: Dentry) -> Dentry | None:
    return proc_lookupfd_common(dir, dentry, proc_fd_instantiate)


def proc_readfd(file: File, ctx: DirContext) -> None:
    proc_readfd_common(file, ctx, proc_fd_instantiate)


def proc_fd_permission(inode: Inode, mask: int) -> None:
    """A process may always look at its own descriptors. Errors: EACCES."""
    try:
        generic_permission(inode, mask)
    except KernelError:
        task = get_proc_task(inode)
        if task is None or task.tgid != current().tgid:
            raise KernelError(EACCES) from None


# ---- fdinfo --------------------------------------------------------------------------------------
def seq_show(m: SeqFile, v: Any) -> int | None:
    """pos, flags, mnt_id, and what the file itself tells. Errors: ENOENT."""
    inode = m.file.f_inode
    task = get_proc_task(inode)
    fd = inode.i_private.fd
    file = fcheck_files(task, fd) if task is not None else None
    if task is None or file is None:
        raise KernelError(ENOENT)
    flags = file.f_flags
    if task.files.close_on_exec >> fd & 1:
        flags |= O_CLOEXEC
    seq_puts(m, b"pos:\t%d\nflags:\t0%o\nmnt_id:\t%d\n" % (file.f_pos, flags, file.f_path.mnt.mnt_id))
    if file.f_op.show_fdinfo is not None:
        seq_puts(m, file.f_op.show_fdinfo(file))
    return None


def seq_fdinfo_open(inode: Inode, file: File) -> None:
    single_open(file, seq_show, None)


def proc_fdinfo_instantiate(dentry: Dentry, task: TaskStruct, ptr: Any) -> Dentry | None:
    """Errors: ENOENT."""
    mode = tid_fd_mode(task, ptr)
    if mode is None:
        raise KernelError(ENOENT)
    inode = proc_pid_make_inode(dentry.d_sb, task, S_IFREG | 0o400)
    inode.i_private.fd = ptr
    inode.i_fop = proc_fdinfo_file_operations
    tid_fd_update_inode(task, inode, 0)
    return instantiated(dentry, inode, tid_fd_dentry_operations)


def proc_lookupfdinfo(dir: Inode, dentry: Dentry) -> Dentry | None:
    return proc_lookupfd_common(dir, dentry, proc_fdinfo_instantiate)


def proc_readfdinfo(file: File, ctx: DirContext) -> None:
    proc_readfd_common(file, ctx, proc_fdinfo_instantiate)


PROC_FD_MODE = S_IFDIR | 0o500
tid_fd_dentry_operations = DentryOperations(d_revalidate=tid_fd_revalidate, d_delete=pid_delete_dentry)
proc_fd_inode_operations = InodeOperations(
    lookup=proc_lookupfd, permission=proc_fd_permission, setattr=proc_setattr,
)
proc_fd_operations = FileOperations(read_iter=generic_read_dir, iterate=proc_readfd, llseek=generic_file_llseek)
proc_fdinfo_inode_operations = InodeOperations(lookup=proc_lookupfdinfo, setattr=proc_setattr)
proc_fdinfo_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_readfdinfo, llseek=generic_file_llseek,
)
proc_fdinfo_file_operations = FileOperations(
    open=seq_fdinfo_open, read_iter=seq_read, llseek=seq_lseek, release=single_release,
)
