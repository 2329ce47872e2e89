"""Open files of overlayfs: each has a real file that does the work.

Linux: fs/overlayfs/file.c (5.3). Same: opening for writing copies up first; a file that was opened before
    the copy reads the copy from then on; mmap maps the real file, so read(2) and mmap(2) share its page
    cache.
Owns: file.private_data, the real file. Invariant: file.f_mapping is the real inode's.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.attr import file_remove_privs
from glasskernel.fs.dentry_open import open_with_fake_path
from glasskernel.fs.file_table import fput, get_file
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.overlayfs.copy_up import ovl_maybe_copy_up
from glasskernel.fs.overlayfs.util import OVL_FS, ovl_copyattr, ovl_inode_real
from glasskernel.fs.read_write import vfs_llseek
from glasskernel.fs.types import (
    O_APPEND,
    O_CREAT,
    O_DIRECT,
    O_EXCL,
    O_NOATIME,
    O_NOCTTY,
    O_NONBLOCK,
    O_TRUNC,
    FileOperations,
    Kiocb,
)
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import VmAreaStruct

OVL_SETFL_MASK = O_APPEND | O_NONBLOCK | O_DIRECT


def ovl_open_realfile(file: File, realinode: Inode) -> File:
    """Opens the real file under the overlay's name, as the mounter. Errors: those of the layer."""
    flags = file.f_flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC) | O_NOATIME
    return open_with_fake_path(file.f_path, flags, realinode, OVL_FS(file.f_inode.i_sb).creator_cred)


@may_sleep
def ovl_open(inode: Inode, file: File) -> None:
    """Errors: EROFS, ENOSPC from copying up; those of the layer's open()."""
    ovl_maybe_copy_up(file.f_path.dentry, file.f_flags, file.f_mode)
    real = ovl_open_realfile(file, ovl_inode_real(inode))
    file.private_data = real
    file.f_mapping = real.f_mapping


def ovl_release(inode: Inode, file: File) -> None:
    fput(file.private_data)
    file.private_data = None


@may_sleep
def ovl_real_fdget(file: File) -> File:
    """The real file; after a copy-up by somebody else, the copy's."""
    real: File = file.private_data
    inode = ovl_inode_real(file.f_inode)
    if real.f_inode is not inode:
        new = ovl_open_realfile(file, inode)
        fput(real)
        real = file.private_data = new
        file.f_mapping = new.f_mapping
    elif (real.f_flags ^ file.f_flags) & OVL_SETFL_MASK:
        real.f_flags = real.f_flags & ~OVL_SETFL_MASK | file.f_flags & OVL_SETFL_MASK
    return real


@may_sleep
def ovl_llseek(file: File, offset: int, whence: int) -> int:
    """Only the real file knows its size and holes. Errors: EINVAL, ENXIO."""
    real = ovl_real_fdget(file)
    real.f_pos = file.f_pos
    file.f_pos = vfs_llseek(real, offset, whence)
    return file.f_pos


@may_sleep
def ovl_read_iter(iocb: Kiocb, to: IovIter) -> int:
    if not to.count:
        return 0
    file = iocb.ki_filp
    real = ovl_real_fdget(file)
    inner = Kiocb(real, iocb.ki_pos, iocb.ki_flags)
    try:
        return real.f_op.read_iter(inner, to)
    finally:
        iocb.ki_pos = inner.ki_pos
        ovl_file_accessed(file)


@notrace
def ovl_file_accessed(file: File) -> None:
    """The real inode's access time was not touched (O_NOATIME); ours shows what the real one has."""
    inode = file.f_inode
    real = file.private_data.f_inode
    inode.i_mtime = real.i_mtime
    inode.i_ctime = real.i_ctime


@may_sleep
def ovl_write_iter(iocb: Kiocb, source: IovIter) -> int:
    if not source.count:
        return 0
    file = iocb.ki_filp
    inode = file.f_inode
    inode_lock(inode)
    try:
        real = ovl_real_fdget(file)
        ovl_copyattr(real.f_inode, inode)
        file_remove_privs(file)              # here: the real file's own would lock the real inode a second time
        inner = Kiocb(real, iocb.ki_pos, iocb.ki_flags)
        try:
            return real.f_op.write_iter(inner, source)
        finally:
            iocb.ki_pos = inner.ki_pos
            ovl_copyattr(real.f_inode, inode)
    finally:
        inode_unlock(inode)


@may_sleep
def ovl_fsync(file: File, start: int, end: int, datasync: int) -> None:
    real = ovl_real_fdget(file)
    real.f_op.fsync(real, start, end, datasync)


@may_sleep
def ovl_mmap(file: File, vma: VmAreaStruct) -> None:
    """The area belongs to the real file, which shows the overlay's path. Errors: ENODEV and the layer's."""
    real = ovl_real_fdget(file)
    vma.vm_file = get_file(real)         # the area's reference moves along
    fput(file)
    real.f_op.mmap(real, vma)


@may_sleep
def ovl_fallocate(file: File, mode: int, offset: int, length: int) -> None:
    real = ovl_real_fdget(file)
    real.f_op.fallocate(real, mode, offset, length)
    ovl_copyattr(real.f_inode, file.f_inode)


@may_sleep
def ovl_ioctl(file: File, cmd: int, arg: int) -> int:
    real = ovl_real_fdget(file)
    return real.f_op.unlocked_ioctl(real, cmd, arg)


def ovl_flush(file: File) -> None:
    real: File = file.private_data
    real.f_op.flush(real)


ovl_file_operations = FileOperations(
    open=ovl_open, release=ovl_release, llseek=ovl_llseek, iter=True, read_iter=ovl_read_iter,
    write_iter=ovl_write_iter, fsync=ovl_fsync, mmap=ovl_mmap, fallocate=ovl_fallocate, unlocked_ioctl=ovl_ioctl,
    flush=ovl_flush,
)
