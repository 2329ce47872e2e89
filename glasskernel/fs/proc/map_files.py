"""/proc/PID/map_files: a link for each area that maps a file, named by its addresses.

Linux: the map_files part of fs/proc/base.c (5.3). Same: following a link needs CAP_SYS_ADMIN.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.proc.fd import pid_emit_dots
from glasskernel.fs.proc.internal import get_proc_task, get_task_mm, proc_task
from glasskernel.fs.proc.pid_dentry import (
    instantiated,
    pid_delete_dentry,
    proc_fill_cache,
    proc_pid_make_inode,
    proc_setattr,
)
from glasskernel.fs.proc.pid_link import proc_pid_get_link, proc_pid_readlink
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import S_IFLNK, DentryOperations, FileOperations, InodeOperations, Path
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_FSCREDS, ptrace_may_access
from glasskernel.lib.errno import EACCES, ENOENT, EPERM, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Inode
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import VmAreaStruct


def dname_to_vma_addr(name: bytes) -> tuple[int, int] | None:
    """b"400000-401000" as two numbers."""
    first, dash, last = name.partition(b"-")
    try:
        return (int(first, 16), int(last, 16)) if dash and first and last else None
    except ValueError:
        return None


@notrace
def find_exact_vma(task: TaskStruct, name: bytes) -> VmAreaStruct | None:
    """The area with exactly these bounds that maps a file."""
    mm = get_task_mm(task)
    bounds = dname_to_vma_addr(name)
    if mm is None or bounds is None:
        return None
    vma = mm.vmas.first_ending_after(bounds[0])
    if vma is None or (vma.vm_start, vma.vm_end) != bounds or vma.vm_file is None:
        return None
    return vma


def map_files_d_revalidate(dentry: Dentry) -> bool:
    """False once the area is gone."""
    inode = dentry.d_inode
    task = get_proc_task(inode) if inode is not None else None
    return task is not None and find_exact_vma(task, dentry.d_name) is not None


def map_files_get_link(dentry: Dentry, inode: Inode) -> Path:
    """Errors: ENOENT."""
    vma = find_exact_vma(proc_task(inode), inode.i_private.entry)
    if vma is None or vma.vm_file is None:
        raise KernelError(ENOENT)
    path = vma.vm_file.f_path
    return Path(path.mnt, path.dentry)


def proc_map_files_get_link(dentry: Dentry | None, inode: Inode) -> Path:
    """Errors: EPERM."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    return proc_pid_get_link(dentry, inode)


def proc_map_files_instantiate(dentry: Dentry, task: TaskStruct, ptr: Any) -> Dentry | None:
    inode = proc_pid_make_inode(dentry.d_sb, task, S_IFLNK | ptr[1])
    inode.i_private.get_link = map_files_get_link
    inode.i_private.entry = ptr[0]
    inode.i_op = proc_map_files_link_inode_operations
    inode.i_size = 64
    return instantiated(dentry, inode, tid_map_files_dentry_operations)


@notrace
def _entry(vma: VmAreaStruct) -> tuple[bytes, int]:
    """(name, mode bits)"""
    assert vma.vm_file is not None
    mode = vma.vm_file.f_mode
    return b"%x-%x" % (vma.vm_start, vma.vm_end), (0o500 if mode & 1 else 0) | (0o300 if mode & 2 else 0)


def proc_map_files_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """Errors: ENOENT, EACCES."""
    task = get_proc_task(dir)
    if task is None:
        raise KernelError(ENOENT)
    if not ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS):
        raise KernelError(EACCES)
    vma = find_exact_vma(task, dentry.d_name)
    if vma is None:
        raise KernelError(ENOENT)
    return proc_map_files_instantiate(dentry, task, _entry(vma))


def proc_map_files_readdir(file: File, ctx: DirContext) -> None:
    """Errors: ENOENT, EACCES."""
    task = get_proc_task(file.f_inode)
    if task is None:
        raise KernelError(ENOENT)
    if not ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS):
        raise KernelError(EACCES)
    if not pid_emit_dots(file, ctx):
        return
    mm = get_task_mm(task)
    areas = [v for v in mm.vmas.values() if v.vm_file is not None] if mm is not None else []
    while ctx.pos - 2 < len(areas):
        entry = _entry(areas[ctx.pos - 2])
        if not proc_fill_cache(file, ctx, entry[0], proc_map_files_instantiate, task, entry):
            return
        ctx.pos += 1


tid_map_files_dentry_operations = DentryOperations(d_revalidate=map_files_d_revalidate, d_delete=pid_delete_dentry)
proc_map_files_link_inode_operations = InodeOperations(
    readlink=proc_pid_readlink, get_link=proc_map_files_get_link, setattr=proc_setattr,
)
proc_map_files_inode_operations = InodeOperations(lookup=proc_map_files_lookup, setattr=proc_setattr)
proc_map_files_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_map_files_readdir, llseek=generic_file_llseek,
)
