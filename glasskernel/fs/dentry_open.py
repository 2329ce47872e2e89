"""From a dentry to an open file, and truncation.

Linux: the inner half of fs/open.c (5.3): do_dentry_open, vfs_open, do_truncate. The system calls are in open.py,
which stands above path walks.
Owns: Inode.i_writecount together with mm (mappings) and exec (deny_write_access).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.attr import notify_change, should_remove_suid
from glasskernel.fs.file_table import alloc_empty_file, file_free, fput, put_write_access
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.mnt_writers import __mnt_drop_write, __mnt_want_write
from glasskernel.fs.mount import path_get, path_put
from glasskernel.fs.types import (
    ATTR_CTIME,
    ATTR_FILE,
    ATTR_FORCE,
    ATTR_MTIME,
    ATTR_OPEN,
    ATTR_SIZE,
    FMODE_ATOMIC_POS,
    FMODE_CAN_READ,
    FMODE_CAN_WRITE,
    FMODE_LSEEK,
    FMODE_OPENED,
    FMODE_PATH,
    FMODE_PREAD,
    FMODE_PWRITE,
    FMODE_READ,
    FMODE_STREAM,
    FMODE_WRITE,
    FMODE_WRITER,
    O_CREAT,
    O_DIRECT,
    O_EXCL,
    O_NOCTTY,
    O_PATH,
    O_TRUNC,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    FileOperations,
    Iattr,
    Path,
    _einval,
    _nothing,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EACCES, EINVAL, ENXIO, ETXTBSY, KernelError
from glasskernel.lib.errseq import errseq_sample
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.types import Dentry, File, Inode
    from glasskernel.kernel.task import Cred

empty_fops = FileOperations()
FMODE_EXEC_FLAG = 0x20                   # __FMODE_EXEC in open flags


# ---- who has it open for writing ---------------------------------------------------------------------------
@notrace
def get_write_access(inode: Inode) -> None:
    """One more writer. Raises ETXTBSY while the file is being executed."""
    if inode.i_writecount < 0:
        raise KernelError(ETXTBSY)
    inode.i_writecount += 1


@notrace
def deny_write_access(file: File) -> None:
    """Forbids writers while a program runs. Raises ETXTBSY if there is one."""
    inode = file.f_inode
    if inode.i_writecount > 0:
        raise KernelError(ETXTBSY)
    inode.i_writecount -= 1


@notrace
def allow_write_access(file: File | None) -> None:
    """Ends deny_write_access()."""
    if file is not None:
        file.f_inode.i_writecount += 1


# ---- opening -----------------------------------------------------------------------------------------------
@may_sleep
def do_dentry_open(f: File, inode: Inode, open: Callable[[Inode, File], None] | None) -> None:
    """Fills an empty file whose f_path is set, and calls ->open(). Raises what it raises, EROFS, ETXTBSY, EACCES."""
    path_get(f.f_path)
    f.f_inode = inode
    f.f_mapping = mapping = inode.i_mapping
    if mapping is not None and mapping.wb_err:
        f.f_wb_err = errseq_sample(mapping.wb_err)             # filemap_sample_wb_err()
    if f.f_flags & O_PATH:
        f.f_mode = FMODE_PATH | FMODE_OPENED
        f.f_op = empty_fops
        return
    kind = inode.i_mode & S_IFMT
    try:
        mode = f.f_mode
        if f.f_flags & FMODE_EXEC_FLAG and kind != S_IFREG:
            raise KernelError(EACCES)
        if mode & FMODE_WRITE and kind in (S_IFREG, S_IFDIR):
            get_write_access(inode)
            try:
                __mnt_want_write(f.f_path.mnt)
            except KernelError:
                put_write_access(inode)
                raise
            mode |= FMODE_WRITER
        if kind in (S_IFREG, S_IFDIR):
            mode |= FMODE_ATOMIC_POS
        f.f_op = inode.i_fop
        f.f_mode = mode | FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE
        if f.f_security is not None:
            inode.i_sb.kernel.lsm.security_file_open(f)
        if open is None:
            open = inode.i_fop.open
        if open is not _nothing:
            open(inode, f)
        mode = f.f_mode | FMODE_OPENED
        if mode & FMODE_READ and f.f_op.read_iter is not _einval:
            mode |= FMODE_CAN_READ
        if mode & FMODE_WRITE and f.f_op.write_iter is not _einval:
            mode |= FMODE_CAN_WRITE
        f.f_mode = mode
        f.f_flags &= ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC)
        if f.f_flags & O_DIRECT and (f.f_mapping is None or f.f_mapping.a_ops.direct_IO is None):
            raise KernelError(EINVAL)
    except BaseException:
        if f.f_mode & FMODE_OPENED:
            # O_DIRECT was refused after ->open(): fput() of the caller releases it
            raise
        if f.f_mode & FMODE_WRITER:
            put_write_access(inode)
            __mnt_drop_write(f.f_path.mnt)
        path_put(f.f_path)
        f.f_path = None  # type: ignore[assignment]
        f.f_inode = None  # type: ignore[assignment]
        f.f_op = empty_fops
        f.f_mode &= ~FMODE_WRITER
        raise


@may_sleep
def vfs_open(path: Path, file: File) -> None:
    """Opens `path` into an empty file. Takes references of its own on the path."""
    file.f_path = Path(path.mnt, path.dentry)
    inode = path.dentry.d_inode
    assert inode is not None
    do_dentry_open(file, inode, None)


@may_sleep
def finish_open(file: File, dentry: Dentry, open: Callable[[Inode, File], None] | None) -> None:
    """Opens a dentry of file.f_path's mount: O_TMPFILE, atomic_open."""
    file.f_path.dentry = dentry
    assert dentry.d_inode is not None
    do_dentry_open(file, dentry.d_inode, open)


@may_sleep
def dentry_open(path: Path, flags: int, cred: Cred | None = None) -> File:
    """An open file for a path that was looked up before: no permission checks."""
    file = alloc_empty_file(flags, cred or current().cred)
    try:
        vfs_open(path, file)
    except BaseException:
        fput_unopened(file)
        raise
    return file


@may_sleep
def open_with_fake_path(path: Path, flags: int, inode: Inode, cred: Cred) -> File:
    """An open file of `inode` that shows another path (overlayfs: the real file under the overlay's name)."""
    file = alloc_empty_file(flags, cred)
    file.f_path = Path(path.mnt, path.dentry)
    try:
        do_dentry_open(file, inode, None)
    except BaseException:
        fput_unopened(file)
        raise
    return file


@notrace
def fput_unopened(file: File) -> None:
    """fput() of a file whose open failed."""
    if file.f_mode & FMODE_OPENED:
        fput(file)
    else:
        file_free(file)


def generic_file_open(inode: Inode, file: File) -> None:
    """->open() of regular files: nothing to do with 64-bit sizes."""


def nonseekable_open(_inode: Inode, file: File) -> None:
    """->open() of files without a position."""
    file.f_mode &= ~(FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE)


def stream_open(_inode: Inode, file: File) -> None:
    """->open() of streams: no position, and none to lock."""
    file.f_mode = file.f_mode & ~(FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE | FMODE_ATOMIC_POS) | FMODE_STREAM


def no_open(_inode: Inode, _file: File) -> None:
    """->open() of what cannot be opened."""
    raise KernelError(ENXIO)


# ---- truncating --------------------------------------------------------------------------------------------
@may_sleep
def do_truncate(dentry: Dentry, length: int, time_attrs: int, file: File | None) -> None:
    """Changes a file's size. time_attrs: ATTR_MTIME|ATTR_CTIME (ftruncate), ATTR_OPEN. Raises EINVAL, EFBIG."""
    if length < 0:
        raise KernelError(EINVAL)
    inode = dentry.d_inode
    assert inode is not None
    valid = ATTR_SIZE | time_attrs
    if file is not None:
        valid |= ATTR_FILE
    kill = should_remove_suid(inode)
    if kill:
        valid |= kill | ATTR_FORCE
    inode_lock(inode)
    try:
        notify_change(dentry, Iattr(valid, ia_size=length, ia_file=file))
    finally:
        inode_unlock(inode)


@may_sleep
def handle_truncate(file: File) -> None:
    """open(O_TRUNC). Locks: none."""
    dentry = file.f_path.dentry
    inode = dentry.d_inode
    assert inode is not None
    get_write_access(inode)
    try:
        do_truncate(dentry, 0, ATTR_MTIME | ATTR_CTIME | ATTR_OPEN, file)
    finally:
        put_write_access(inode)
