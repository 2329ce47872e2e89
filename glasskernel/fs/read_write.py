"""read(2), write(2) and their relatives, and lseek(2).

Linux: fs/read_write.c (5.3). sendfile(2) and copy_file_range(2) are in splice.py, which needs pipes.
Same: the call chain ksys_read > vfs_read > __vfs_read > new_sync_read > ->read_iter(), EBADF before EFAULT,
counts cut to MAX_RW_COUNT, f_pos moves only on success.
Differs: a position argument of None means "the file's own position", where Linux passes &file->f_pos.
Errors of all: EBADF (not open that way), EINVAL, EFAULT, and what the file raises.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.fs.file import fd_shared, fdget, fdget_pos, fdput_pos
from glasskernel.fs.file_table import fput
from glasskernel.fs.fsnotify import IN_ACCESS, IN_MODIFY, fsnotify_dentry
from glasskernel.fs.types import (
    FMODE_CAN_READ,
    FMODE_CAN_WRITE,
    FMODE_LSEEK,
    FMODE_PREAD,
    FMODE_PWRITE,
    FMODE_READ,
    FMODE_STREAM,
    FMODE_WRITE,
    IOCB_APPEND,
    IOCB_DIRECT,
    IOCB_DSYNC,
    IOCB_SYNC,
    MAY_READ,
    MAY_WRITE,
    O_APPEND,
    O_DIRECT,
    O_DSYNC,
    Kiocb,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.preempt import busy_for
from glasskernel.lib.errno import EBADF, EFAULT, EINVAL, ENXIO, EOPNOTSUPP, EOVERFLOW, ESPIPE, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, s64, size_t, to_s64, u32, ulong
from glasskernel.machine.costs import COPY_SHIFT
from glasskernel.mm.iov_iter import KernelIter, UserIter, import_iovec

if TYPE_CHECKING:
    from glasskernel.fs.types import File

MAX_RW_COUNT = 0x7FFF_F000
LONG_COPY = 1 << 16            # bytes: copies for which it matters that interrupts come in between
TASK_SIZE = 0x7FFF_FFFF_F000
SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE = range(5)
RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND = 1, 2, 4, 8, 16
UIO_MAXIOV = 1024
O_SYNC_BIT = 0o4000000                     # __O_SYNC
_SPECIAL = O_APPEND | O_DIRECT | O_DSYNC | O_SYNC_BIT
_OFFSET_MAX = (1 << 63) - 1


@notrace
def iocb_flags(file: File) -> int:
    """IOCB_* for a file's O_* flags."""
    flags = file.f_flags
    result = 0
    if flags & O_APPEND:
        result |= IOCB_APPEND
    if flags & O_DIRECT:
        result |= IOCB_DIRECT
    if flags & O_DSYNC:
        result |= IOCB_DSYNC
    if flags & O_SYNC_BIT:
        result |= IOCB_SYNC
    return result


def rw_verify_area(mask: int, file: File, pos: int | None, count: int) -> None:
    """Before each transfer; mask: MAY_READ or MAY_WRITE. Raises EOVERFLOW (the largest position), EACCES."""
    if pos is not None and pos >= 0 and pos + min(count, MAX_RW_COUNT) > _OFFSET_MAX:
        raise KernelError(EOVERFLOW)
    if file.f_security is not None:
        file.f_inode.i_sb.kernel.lsm.security_file_permission(file, mask)


# ---- read --------------------------------------------------------------------------------------------------
@may_sleep
def new_sync_read(filp: File, buf: UserPtr, count: int, pos: int | None) -> int:
    """Calls ->read_iter() with a fresh kiocb over one user buffer."""
    return call_read(filp, buf, count, pos)


@may_sleep
@notrace
def call_read(filp: File, buf: UserPtr, count: int, pos: int | None) -> int:
    flags = iocb_flags(filp) if filp.f_flags & _SPECIAL else 0
    if pos is None:
        iocb = Kiocb(filp, filp.f_pos, flags)
        ret = filp.f_op.read_iter(iocb, UserIter([(buf, count)]))
        if not filp.f_mode & FMODE_STREAM:
            filp.f_pos = iocb.ki_pos
        return ret
    return filp.f_op.read_iter(Kiocb(filp, pos, flags), UserIter([(buf, count)]))


@may_sleep
def __vfs_read(file: File, buf: UserPtr, count: int, pos: int | None) -> int:
    """vfs_read() without its checks."""
    if file.f_op.iter:
        return new_sync_read(file, buf, count, pos)
    return call_read(file, buf, count, pos)


@may_sleep
def vfs_read(file: File, buf: UserPtr, count: int, pos: int | None) -> int:
    """Reads at most `count` bytes into user memory at `pos` (None: f_pos, which moves). Context: task, no locks.

    Raises EBADF (not open for reading), EINVAL, EFAULT, and what the file raises.
    """
    mode = file.f_mode
    if not mode & FMODE_READ:
        raise KernelError(EBADF)
    if not mode & FMODE_CAN_READ:
        raise KernelError(EINVAL)
    if buf + count > TASK_SIZE:
        raise KernelError(EFAULT)
    rw_verify_area(MAY_READ, file, pos, count)
    if count > MAX_RW_COUNT:
        count = MAX_RW_COUNT
    task = register.task
    task.syscr += 1
    ret = __vfs_read(file, buf, count, pos)
    if ret > 0:
        if task.kernel.vfs.nr_marks:
            fsnotify_dentry(file.f_path.dentry, IN_ACCESS)
        task.rchar += ret
        if ret < LONG_COPY:
            task.kernel.machine.this_cpu.clock_ns += ret >> COPY_SHIFT
        else:
            busy_for(ret >> COPY_SHIFT)
    return ret


@may_sleep
def ksys_read(fd: int, buf: UserPtr, count: int) -> int:
    """read(2)."""
    file, locked = fdget_pos(fd)
    if not locked:
        return vfs_read(file, buf, count, None)
    try:
        return vfs_read(file, buf, count, None)
    finally:
        fdput_pos(file, locked)


@syscall
def sys_read(fd: u32, buf: UserPtr, count: size_t) -> int:
    """read(2). Errors: EBADF, EFAULT, EINVAL, EISDIR, EAGAIN, EINTR, EIO."""
    return ksys_read(fd, buf, count)


# ---- write -------------------------------------------------------------------------------------------------
@may_sleep
def new_sync_write(filp: File, buf: UserPtr, count: int, pos: int | None) -> int:
    """Calls ->write_iter() with a fresh kiocb over one user buffer."""
    return call_write(filp, buf, count, pos)


@may_sleep
@notrace
def call_write(filp: File, buf: UserPtr, count: int, pos: int | None) -> int:
    flags = iocb_flags(filp) if filp.f_flags & _SPECIAL else 0
    if pos is None:
        iocb = Kiocb(filp, filp.f_pos, flags)
        ret = filp.f_op.write_iter(iocb, UserIter([(buf, count)]))
        if ret > 0 and not filp.f_mode & FMODE_STREAM:
            filp.f_pos = iocb.ki_pos
        return ret
    return filp.f_op.write_iter(Kiocb(filp, pos, flags), UserIter([(buf, count)]))


@may_sleep
def __vfs_write(file: File, buf: UserPtr, count: int, pos: int | None) -> int:
    """vfs_write() without its checks."""
    if file.f_op.iter:
        return new_sync_write(file, buf, count, pos)
    return call_write(file, buf, count, pos)


@may_sleep
def vfs_write(file: File, buf: UserPtr, count: int, pos: int | None) -> int:
    """Writes at most `count` bytes of user memory at `pos` (None: f_pos, which moves). Raises as vfs_read()."""
    mode = file.f_mode
    if not mode & FMODE_WRITE:
        raise KernelError(EBADF)
    if not mode & FMODE_CAN_WRITE:
        raise KernelError(EINVAL)
    if buf + count > TASK_SIZE:
        raise KernelError(EFAULT)
    rw_verify_area(MAY_WRITE, file, pos, count)
    if count > MAX_RW_COUNT:
        count = MAX_RW_COUNT
    task = register.task
    task.syscw += 1
    ret = __vfs_write(file, buf, count, pos)
    if ret > 0:
        if task.kernel.vfs.nr_marks:
            fsnotify_dentry(file.f_path.dentry, IN_MODIFY)
        task.wchar += ret
        if ret < LONG_COPY:
            task.kernel.machine.this_cpu.clock_ns += ret >> COPY_SHIFT
        else:
            busy_for(ret >> COPY_SHIFT)
    return ret


@may_sleep
def ksys_write(fd: int, buf: UserPtr, count: int) -> int:
    """write(2)."""
    file, locked = fdget_pos(fd)
    if not locked:
        return vfs_write(file, buf, count, None)
    try:
        return vfs_write(file, buf, count, None)
    finally:
        fdput_pos(file, locked)


@syscall
def sys_write(fd: u32, buf: UserPtr, count: size_t) -> int:
    """write(2). Errors: EBADF, EFAULT, EINVAL, EFBIG, ENOSPC, EPIPE, EAGAIN, EINTR, EIO."""
    return ksys_write(fd, buf, count)


# ---- at a position -----------------------------------------------------------------------------------------
@may_sleep
def ksys_pread64(fd: int, buf: UserPtr, count: int, pos: int) -> int:
    """pread64(2)."""
    if pos < 0:
        raise KernelError(EINVAL)
    file = fdget(fd)
    if not file.f_mode & FMODE_PREAD:
        raise KernelError(ESPIPE)
    shared = fd_shared(file)
    try:
        return vfs_read(file, buf, count, pos)
    finally:
        if shared:
            fput(file)


@syscall
def sys_pread64(fd: u32, buf: UserPtr, count: size_t, pos: s64) -> int:
    """pread64(2). Errors: EINVAL (negative), ESPIPE, and those of read(2)."""
    return ksys_pread64(fd, buf, count, pos)


@may_sleep
def ksys_pwrite64(fd: int, buf: UserPtr, count: int, pos: int) -> int:
    """pwrite64(2)."""
    if pos < 0:
        raise KernelError(EINVAL)
    file = fdget(fd)
    if not file.f_mode & FMODE_PWRITE:
        raise KernelError(ESPIPE)
    shared = fd_shared(file)
    try:
        return vfs_write(file, buf, count, pos)
    finally:
        if shared:
            fput(file)


@syscall
def sys_pwrite64(fd: u32, buf: UserPtr, count: size_t, pos: s64) -> int:
    """pwrite64(2). Errors: EINVAL (negative), ESPIPE, and those of write(2)."""
    return ksys_pwrite64(fd, buf, count, pos)


# ---- vectors -----------------------------------------------------------------------------------------------
@notrace
def copy_iovec(vec: UserPtr, vlen: int) -> UserIter:
    """An iterator over an iovec array of user memory. Raises EINVAL (too many, negative length), EFAULT."""
    if vlen > UIO_MAXIOV:
        raise KernelError(EINVAL)
    words = struct.unpack(f"<{vlen * 2}Q", copy_from_user(vec, vlen * 16)) if vlen else ()
    entries = []
    total = 0
    for i in range(0, vlen * 2, 2):
        length = words[i + 1]
        if length >> 63:
            raise KernelError(EINVAL)
        if length > MAX_RW_COUNT - total:
            length = MAX_RW_COUNT - total
        entries.append((words[i], length))
        total += length
    return import_iovec(entries)


@notrace
def kiocb_set_rw_flags(iocb: Kiocb, flags: int) -> None:
    """RWF_* of preadv2 and pwritev2. Raises EOPNOTSUPP."""
    if flags & ~(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND) or flags & RWF_NOWAIT:
        raise KernelError(EOPNOTSUPP)
    if flags & RWF_DSYNC:
        iocb.ki_flags |= IOCB_DSYNC
    if flags & RWF_SYNC:
        iocb.ki_flags |= IOCB_DSYNC | IOCB_SYNC
    if flags & RWF_APPEND:
        iocb.ki_flags |= IOCB_APPEND


@may_sleep
def do_iter_readv_writev(filp: File, it: UserIter, pos: int | None, write: bool, flags: int) -> int:
    """Calls ->read_iter() or ->write_iter() over several buffers."""
    iocb = Kiocb(filp, filp.f_pos if pos is None else pos, iocb_flags(filp))
    if flags:
        kiocb_set_rw_flags(iocb, flags)
    ret = filp.f_op.write_iter(iocb, it) if write else filp.f_op.read_iter(iocb, it)
    if pos is None and ret > 0 and not filp.f_mode & FMODE_STREAM:
        filp.f_pos = iocb.ki_pos
    return ret


@may_sleep
def vfs_readv(file: File, vec: UserPtr, vlen: int, pos: int | None, flags: int) -> int:
    """readv(2) of an open file."""
    it = copy_iovec(vec, vlen)
    if not file.f_mode & FMODE_READ:
        raise KernelError(EBADF)
    if not file.f_mode & FMODE_CAN_READ:
        raise KernelError(EINVAL)
    task = register.task
    task.syscr += 1
    rw_verify_area(MAY_READ, file, pos, it.count)
    if not it.count:
        return 0
    ret = do_iter_readv_writev(file, it, pos, False, flags)
    if ret > 0:
        task.rchar += ret
        if task.kernel.vfs.nr_marks:
            fsnotify_dentry(file.f_path.dentry, IN_ACCESS)
    return ret


@may_sleep
def vfs_writev(file: File, vec: UserPtr, vlen: int, pos: int | None, flags: int) -> int:
    """writev(2) of an open file."""
    it = copy_iovec(vec, vlen)
    if not file.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    if not file.f_mode & FMODE_CAN_WRITE:
        raise KernelError(EINVAL)
    task = register.task
    task.syscw += 1
    rw_verify_area(MAY_WRITE, file, pos, it.count)
    if not it.count:
        return 0
    ret = do_iter_readv_writev(file, it, pos, True, flags)
    if ret > 0:
        task.wchar += ret
        if task.kernel.vfs.nr_marks:
            fsnotify_dentry(file.f_path.dentry, IN_MODIFY)
    return ret


@may_sleep
def do_readv(fd: int, vec: UserPtr, vlen: int, flags: int) -> int:
    """readv(2)."""
    file, locked = fdget_pos(fd)
    try:
        return vfs_readv(file, vec, vlen, None, flags)
    finally:
        if locked:
            fdput_pos(file, locked)


@may_sleep
def do_writev(fd: int, vec: UserPtr, vlen: int, flags: int) -> int:
    """writev(2)."""
    file, locked = fdget_pos(fd)
    try:
        return vfs_writev(file, vec, vlen, None, flags)
    finally:
        if locked:
            fdput_pos(file, locked)


@may_sleep
def do_preadv(fd: int, vec: UserPtr, vlen: int, pos: int, flags: int) -> int:
    """preadv(2)."""
    if pos < 0:
        raise KernelError(EINVAL)
    file = fdget(fd)
    if not file.f_mode & FMODE_PREAD:
        raise KernelError(ESPIPE)
    shared = fd_shared(file)
    try:
        return vfs_readv(file, vec, vlen, pos, flags)
    finally:
        if shared:
            fput(file)


@may_sleep
def do_pwritev(fd: int, vec: UserPtr, vlen: int, pos: int, flags: int) -> int:
    """pwritev(2)."""
    if pos < 0:
        raise KernelError(EINVAL)
    file = fdget(fd)
    if not file.f_mode & FMODE_PWRITE:
        raise KernelError(ESPIPE)
    shared = fd_shared(file)
    try:
        return vfs_writev(file, vec, vlen, pos, flags)
    finally:
        if shared:
            fput(file)


@syscall
def sys_readv(fd: ulong, vec: UserPtr, vlen: ulong) -> int:
    """readv(2)."""
    return do_readv(fd & 0xFFFFFFFF, vec, vlen, 0)


@syscall
def sys_writev(fd: ulong, vec: UserPtr, vlen: ulong) -> int:
    """writev(2)."""
    return do_writev(fd & 0xFFFFFFFF, vec, vlen, 0)


@syscall
def sys_preadv(fd: ulong, vec: UserPtr, vlen: ulong, pos_l: ulong, pos_h: ulong) -> int:
    """preadv(2). pos_h is for 32-bit callers."""
    return do_preadv(fd & 0xFFFFFFFF, vec, vlen, to_s64(pos_l), 0)


@syscall
def sys_pwritev(fd: ulong, vec: UserPtr, vlen: ulong, pos_l: ulong, pos_h: ulong) -> int:
    """pwritev(2)."""
    return do_pwritev(fd & 0xFFFFFFFF, vec, vlen, to_s64(pos_l), 0)


@syscall(gaps="RWF_NOWAIT")
def sys_preadv2(fd: ulong, vec: UserPtr, vlen: ulong, pos_l: ulong, pos_h: ulong, flags: int) -> int:
    """preadv2(2). Position -1: the file's own."""
    pos = to_s64(pos_l)
    if pos == -1:
        return do_readv(fd & 0xFFFFFFFF, vec, vlen, flags)
    return do_preadv(fd & 0xFFFFFFFF, vec, vlen, pos, flags)


@syscall(gaps="RWF_NOWAIT")
def sys_pwritev2(fd: ulong, vec: UserPtr, vlen: ulong, pos_l: ulong, pos_h: ulong, flags: int) -> int:
    """pwritev2(2)."""
    pos = to_s64(pos_l)
    if pos == -1:
        return do_writev(fd & 0xFFFFFFFF, vec, vlen, flags)
    return do_pwritev(fd & 0xFFFFFFFF, vec, vlen, pos, flags)


# ---- from and to kernel memory -----------------------------------------------------------------------------
@may_sleep
def kernel_read(file: File, count: int, pos: int) -> bytes:
    """At most `count` bytes of a file at `pos`, for the kernel. Raises EBADF, EINVAL, EIO."""
    if not file.f_mode & FMODE_READ:
        raise KernelError(EBADF)
    if count <= 0:
        return b""
    buffer = bytearray(min(count, MAX_RW_COUNT))
    it = KernelIter(buffer)
    size = len(buffer)
    iocb = Kiocb(file, pos, 0)
    while it.count:
        if not file.f_op.read_iter(iocb, it):
            break
    return bytes(buffer[: size - it.count])


@may_sleep
def kernel_write(file: File, data: bytes, pos: int) -> int:
    """Writes kernel memory to a file at `pos`; answers how many bytes went. Raises EBADF, EINVAL, ENOSPC ..."""
    if not file.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    iocb = Kiocb(file, pos, iocb_flags(file))
    return file.f_op.write_iter(iocb, KernelIter(data))


# ---- seeking -----------------------------------------------------------------------------------------------
def vfs_setpos(file: File, offset: int, maxsize: int) -> int:
    """Sets f_pos. Raises EINVAL outside [0, maxsize]."""
    if not 0 <= offset <= maxsize:
        raise KernelError(EINVAL)
    file.f_pos = offset
    return offset


def generic_file_llseek_size(file: File, offset: int, whence: int, maxsize: int, eof: int) -> int:
    """lseek(2) of a file `eof` bytes long without holes. Raises EINVAL, ENXIO."""
    if whence == SEEK_END:
        offset += eof
    elif whence == SEEK_CUR:
        if not offset:
            return file.f_pos
        offset += file.f_pos
    elif whence == SEEK_DATA:
        if not 0 <= offset < eof:
            raise KernelError(ENXIO)
    elif whence == SEEK_HOLE:
        if not 0 <= offset < eof:
            raise KernelError(ENXIO)
        offset = eof
    return vfs_setpos(file, offset, maxsize)


def generic_file_llseek(file: File, offset: int, whence: int) -> int:
    """->llseek() of regular files and directories."""
    inode = file.f_mapping.host if file.f_mapping is not None else file.f_inode
    if inode is None:
        inode = file.f_inode
    return generic_file_llseek_size(file, offset, whence, inode.i_sb.s_maxbytes, inode.i_size)


def fixed_size_llseek(file: File, offset: int, whence: int, size: int) -> int:
    """->llseek() of something with a size that never changes."""
    if whence not in (SEEK_SET, SEEK_CUR, SEEK_END):
        raise KernelError(EINVAL)
    return generic_file_llseek_size(file, offset, whence, size, size)


def noop_llseek(file: File, offset: int, whence: int) -> int:
    """->llseek() that succeeds and does nothing."""
    return file.f_pos


def no_llseek(file: File, offset: int, whence: int) -> int:
    """->llseek() of what cannot seek."""
    raise KernelError(ESPIPE)


def default_llseek(file: File, offset: int, whence: int) -> int:
    """->llseek() where a table names none."""
    return generic_file_llseek_size(file, offset, whence, _OFFSET_MAX, file.f_inode.i_size)


def vfs_llseek(file: File, offset: int, whence: int) -> int:
    """lseek(2) of an open file. Raises ESPIPE, EINVAL, ENXIO."""
    if not file.f_mode & FMODE_LSEEK:
        raise KernelError(ESPIPE)
    llseek = file.f_op.llseek
    return default_llseek(file, offset, whence) if llseek is None else llseek(file, offset, whence)


def ksys_lseek(fd: int, offset: int, whence: int) -> int:
    """lseek(2)."""
    file, locked = fdget_pos(fd)
    try:
        if whence > SEEK_HOLE:
            raise KernelError(EINVAL)
        return vfs_llseek(file, offset, whence)
    finally:
        if locked:
            fdput_pos(file, locked)


@syscall
def sys_lseek(fd: u32, offset: s64, whence: u32) -> int:
    """lseek(2). Errors: EBADF, ESPIPE, EINVAL, ENXIO."""
    return ksys_lseek(fd, offset, whence)
