"""splice(2), tee(2), vmsplice(2), sendfile(2), copy_file_range(2).

Linux: fs/splice.c, and the end of fs/read_write.c (5.3). Same: which ends may be what, blocking, counts, positions.
Differs: pipes hold bytes, so everything here copies; SPLICE_F_MOVE and SPLICE_F_GIFT mean nothing.
Lock order: two pipes by inode number.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import get_user_u64, put_user_u64
from glasskernel.fs.file import fd_shared, fdget
from glasskernel.fs.file_table import fput
from glasskernel.fs.fsnotify import IN_ACCESS, IN_MODIFY, fsnotify_dentry
from glasskernel.fs.pipe import (
    SIGPIPE,
    Pipe,
    PipeBuffer,
    get_pipe_info,
    pipe_double_lock,
    pipe_lock,
    pipe_read,
    pipe_unlock,
    pipe_wait,
    pipe_write,
)
from glasskernel.fs.read_write import copy_iovec, iocb_flags, rw_verify_area
from glasskernel.fs.types import (
    FMODE_PREAD,
    FMODE_PWRITE,
    FMODE_READ,
    FMODE_STREAM,
    FMODE_WRITE,
    MAY_READ,
    MAY_WRITE,
    O_APPEND,
    O_NONBLOCK,
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    S_IFBLK,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    Kiocb,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import wake_up_interruptible_sync_poll
from glasskernel.kernel.signal import send_sig
from glasskernel.lib.errno import EAGAIN, EBADF, EINVAL, EISDIR, EOVERFLOW, EPIPE, ESPIPE, KernelError, Restart
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t, to_s64, u32, ulong
from glasskernel.mm.iov_iter import KernelIter

if TYPE_CHECKING:
    from glasskernel.fs.types import File

SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE, SPLICE_F_GIFT = 1, 2, 4, 8
SPLICE_F_ALL = 15
MAX_RW_COUNT = 0x7FFF_F000
CHUNK = 65536


# ---- waiting for a pipe ------------------------------------------------------------------------------------
@may_sleep
def wait_for_space(pipe: Pipe, nonblock: bool) -> None:
    """Until a slot is free. Locks: the pipe's mutex. Raises EPIPE (with SIGPIPE), EAGAIN, Restart."""
    while True:
        if not pipe.readers:
            send_sig(SIGPIPE, register.task, 0)
            raise KernelError(EPIPE)
        if len(pipe.bufs) < pipe.buffers:
            return
        if nonblock:
            raise KernelError(EAGAIN)
        if signal_pending(register.task):
            raise Restart
        pipe.waiting_writers += 1
        try:
            pipe_wait(pipe)
        finally:
            pipe.waiting_writers -= 1


@may_sleep
def ipipe_prep(pipe: Pipe, nonblock: bool) -> bool:
    """Until there is something to read; False at the end of the stream. Locks: mutex. Raises EAGAIN, Restart."""
    while not pipe.bufs:
        if not pipe.writers:
            return False
        if nonblock:
            raise KernelError(EAGAIN)
        if signal_pending(register.task):
            raise Restart
        pipe_wait(pipe)
    return True


@notrace
def wakeup_pipe_readers(pipe: Pipe) -> None:
    wake_up_interruptible_sync_poll(pipe.wait, POLLIN | POLLRDNORM)


@notrace
def wakeup_pipe_writers(pipe: Pipe) -> None:
    wake_up_interruptible_sync_poll(pipe.wait, POLLOUT | POLLWRNORM)


# ---- reading and writing at a position ---------------------------------------------------------------------
@may_sleep
@notrace
def read_chunk(file: File, pos: int, size: int) -> tuple[bytes, int]:
    """(bytes, new position) from ->read_iter()."""
    buffer = bytearray(size)
    iocb = Kiocb(file, pos, iocb_flags(file) & ~2)
    got = file.f_op.read_iter(iocb, KernelIter(buffer))
    if got and register.task.kernel.vfs.nr_marks:
        fsnotify_dentry(file.f_path.dentry, IN_ACCESS)
    return bytes(buffer[:got]), iocb.ki_pos


@may_sleep
@notrace
def write_chunk(file: File, pos: int, data: bytes) -> tuple[int, int]:
    """(count, new position) from ->write_iter()."""
    iocb = Kiocb(file, pos, iocb_flags(file))
    count = file.f_op.write_iter(iocb, KernelIter(data))
    if register.task.kernel.vfs.nr_marks:
        fsnotify_dentry(file.f_path.dentry, IN_MODIFY)
    return count, iocb.ki_pos


# ---- splice ------------------------------------------------------------------------------------------------
@may_sleep
def splice_pipe_to_pipe(ipipe: Pipe, opipe: Pipe, length: int, nonblock: bool) -> int:
    """Moves slots from one pipe to another."""
    if ipipe is opipe:
        raise KernelError(EINVAL)
    while True:
        pipe_lock(ipipe)
        try:
            if not ipipe_prep(ipipe, nonblock):
                return 0
        finally:
            pipe_unlock(ipipe)
        pipe_lock(opipe)
        try:
            wait_for_space(opipe, nonblock)
        finally:
            pipe_unlock(opipe)
        pipe_double_lock(ipipe, opipe)
        moved = 0
        try:
            while length and ipipe.bufs and len(opipe.bufs) < opipe.buffers and opipe.readers:
                buf = ipipe.bufs[0]
                if buf.len <= length:
                    del ipipe.bufs[0]
                    opipe.bufs.append(buf)
                    size = buf.len
                else:
                    size = length
                    part = PipeBuffer(bytes(memoryview(buf.data)[buf.offset : buf.offset + size]), size)
                    opipe.bufs.append(part)
                    buf.offset += size
                    buf.len -= size
                moved += size
                length -= size
        finally:
            pipe_unlock(ipipe)
            pipe_unlock(opipe)
        if moved:
            wakeup_pipe_readers(opipe)
            wakeup_pipe_writers(ipipe)
            return moved


@may_sleep
def link_pipe(ipipe: Pipe, opipe: Pipe, length: int) -> int:
    """tee: copies slots without taking them."""
    pipe_double_lock(ipipe, opipe)
    done = 0
    try:
        for buf in ipipe.bufs:
            if not opipe.readers:
                send_sig(SIGPIPE, register.task, 0)
                if not done:
                    raise KernelError(EPIPE)
                break
            if not length or len(opipe.bufs) >= opipe.buffers:
                break
            size = min(buf.len, length)
            opipe.bufs.append(PipeBuffer(bytes(memoryview(buf.data)[buf.offset : buf.offset + size]), size))
            done += size
            length -= size
    finally:
        pipe_unlock(ipipe)
        pipe_unlock(opipe)
    if done:
        wakeup_pipe_readers(opipe)
    return done


@may_sleep
def do_splice_to(file: File, pos: int, pipe: Pipe, length: int, nonblock: bool) -> tuple[int, int]:
    """File to pipe: (count, new position)."""
    rw_verify_area(MAY_READ, file, pos, length)
    pipe_lock(pipe)
    try:
        wait_for_space(pipe, nonblock)
        room = (pipe.buffers - len(pipe.bufs)) << 12
    finally:
        pipe_unlock(pipe)
    if file.f_op.splice_read is not None:
        return file.f_op.splice_read(file, pos, pipe, min(length, room), nonblock)
    data, pos = read_chunk(file, pos, min(length, room, CHUNK))
    if data:
        pipe_lock(pipe)
        try:
            view = memoryview(data)
            for start in range(0, len(data), 4096):
                part = view[start : start + 4096]
                pipe.bufs.append(PipeBuffer(part, len(part)))
        finally:
            pipe_unlock(pipe)
        wakeup_pipe_readers(pipe)
    return len(data), pos


@may_sleep
def do_splice_from(pipe: Pipe, file: File, pos: int, length: int, nonblock: bool) -> tuple[int, int]:
    """Pipe to file: (count, new position)."""
    pipe_lock(pipe)
    try:
        if not ipipe_prep(pipe, nonblock):
            return 0, pos
        done = 0
        while pipe.bufs and length:
            buf = pipe.bufs[0]
            size = min(buf.len, length)
            try:
                count, pos = write_chunk(file, pos, bytes(memoryview(buf.data)[buf.offset : buf.offset + size]))
            except KernelError:
                if not done:
                    raise
                break
            buf.offset += count
            buf.len -= count
            done += count
            length -= count
            if not buf.len:
                del pipe.bufs[0]
            if count < size:
                break
    finally:
        pipe_unlock(pipe)
    if done:
        wakeup_pipe_writers(pipe)
    return done, pos


@may_sleep
def do_splice(fin: File, off_in: UserPtr, fout: File, off_out: UserPtr, length: int, flags: int) -> int:
    """splice(2). Raises EBADF, EINVAL, ESPIPE, EAGAIN, EPIPE, Restart."""
    if not fin.f_mode & FMODE_READ or not fout.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    ipipe, opipe = get_pipe_info(fin), get_pipe_info(fout)
    nonblock = bool(flags & SPLICE_F_NONBLOCK)
    if ipipe is not None and opipe is not None:
        if off_in or off_out:
            raise KernelError(ESPIPE)
        return splice_pipe_to_pipe(ipipe, opipe, length, nonblock or bool((fin.f_flags | fout.f_flags) & O_NONBLOCK))
    if ipipe is not None:
        if off_in:
            raise KernelError(ESPIPE)
        if off_out and not fout.f_mode & FMODE_PWRITE:
            raise KernelError(EINVAL)
        if fout.f_flags & O_APPEND:
            raise KernelError(EINVAL)
        start = to_s64(get_user_u64(off_out)) if off_out else fout.f_pos
        if start < 0:
            raise KernelError(EINVAL)
        rw_verify_area(MAY_WRITE, fout, start, length)
        done, pos = do_splice_from(ipipe, fout, start, length, nonblock or bool(fin.f_flags & O_NONBLOCK))
        if off_out:
            put_user_u64(off_out, pos)
        elif not fout.f_mode & FMODE_STREAM:
            fout.f_pos = pos
        return done
    if opipe is not None:
        if off_out:
            raise KernelError(ESPIPE)
        if off_in and not fin.f_mode & FMODE_PREAD:
            raise KernelError(EINVAL)
        start = to_s64(get_user_u64(off_in)) if off_in else fin.f_pos
        if start < 0:
            raise KernelError(EINVAL)
        done, pos = do_splice_to(fin, start, opipe, length, nonblock or bool(fout.f_flags & O_NONBLOCK))
        if off_in:
            put_user_u64(off_in, pos)
        elif not fin.f_mode & FMODE_STREAM:
            fin.f_pos = pos
        return done
    raise KernelError(EINVAL)


@syscall
def sys_splice(fd_in: int, off_in: UserPtr, fd_out: int, off_out: UserPtr, len: size_t, flags: u32) -> int:
    """splice(2). Errors: EBADF, EINVAL, ESPIPE, EAGAIN, EPIPE, EFAULT."""
    if not len:
        return 0
    if flags & ~SPLICE_F_ALL:
        raise KernelError(EINVAL)
    fin, fout = fdget(fd_in), fdget(fd_out)
    shared = fd_shared(fin, fout)
    try:
        return do_splice(fin, off_in, fout, off_out, min(len, MAX_RW_COUNT), flags)
    finally:
        if shared:
            fput(fin)
            fput(fout)


@may_sleep
def do_tee(fin: File, fout: File, length: int, flags: int) -> int:
    """tee(2) of open files."""
    ipipe, opipe = get_pipe_info(fin), get_pipe_info(fout)
    if not fin.f_mode & FMODE_READ or not fout.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    if ipipe is None or opipe is None or ipipe is opipe:
        raise KernelError(EINVAL)
    nonblock = bool(flags & SPLICE_F_NONBLOCK or (fin.f_flags | fout.f_flags) & O_NONBLOCK)
    pipe_lock(ipipe)
    try:
        if not ipipe_prep(ipipe, nonblock):
            return 0
    finally:
        pipe_unlock(ipipe)
    pipe_lock(opipe)
    try:
        wait_for_space(opipe, nonblock)
    finally:
        pipe_unlock(opipe)
    return link_pipe(ipipe, opipe, length)


@syscall
def sys_tee(fdin: int, fdout: int, len: size_t, flags: u32) -> int:
    """tee(2). Errors: EBADF, EINVAL, EAGAIN, EPIPE."""
    if flags & ~SPLICE_F_ALL:
        raise KernelError(EINVAL)
    if not len:
        return 0
    fin, fout = fdget(fdin), fdget(fdout)
    shared = fd_shared(fin, fout)
    try:
        return do_tee(fin, fout, min(len, MAX_RW_COUNT), flags)
    finally:
        if shared:
            fput(fin)
            fput(fout)


@syscall
def sys_vmsplice(fd: int, uiov: UserPtr, nr_segs: ulong, flags: u32) -> int:
    """vmsplice(2): copies, both ways. Errors: EBADF (no pipe), EINVAL, EAGAIN, EFAULT."""
    if flags & ~SPLICE_F_ALL:
        raise KernelError(EINVAL)
    file = fdget(fd)
    it = copy_iovec(uiov, nr_segs)
    if not file.f_mode & (FMODE_READ | FMODE_WRITE) or get_pipe_info(file) is None:
        raise KernelError(EBADF)
    if not it.count:
        return 0
    file.f_count += 1
    old = file.f_flags
    try:
        if flags & SPLICE_F_NONBLOCK:
            file.f_flags |= O_NONBLOCK
        iocb = Kiocb(file, 0, 0)
        return pipe_write(iocb, it) if file.f_mode & FMODE_WRITE else pipe_read(iocb, it)
    finally:
        file.f_flags = old
        fput(file)


# ---- sendfile ----------------------------------------------------------------------------------------------
@may_sleep
def do_splice_direct(fin: File, pos: int, fout: File, opos: int, length: int) -> tuple[int, int, int]:
    """Copies a file to anything: (count, position in, position out). Raises if not one byte went."""
    done = 0
    try:
        while done < length:
            data, new_pos = read_chunk(fin, pos, min(length - done, CHUNK))
            if not data:
                break
            count, opos = write_chunk(fout, opos, data)
            done += count
            pos += count
            if count < len(data):
                break
            pos = new_pos
            if signal_pending(register.task):
                break
    except KernelError:
        if not done:
            raise
    return done, pos, opos


@may_sleep
def do_sendfile(out_fd: int, in_fd: int, pos: int | None, count: int) -> tuple[int, int]:
    """sendfile(2): (count, position in). pos None: the file's own. Raises EBADF, ESPIPE, EINVAL, EAGAIN ..."""
    fin = fdget(in_fd)
    if not fin.f_mode & FMODE_READ:
        raise KernelError(EBADF)
    if pos is None:
        start = fin.f_pos
    else:
        if not fin.f_mode & FMODE_PREAD:
            raise KernelError(ESPIPE)
        start = pos
    if start < 0:
        raise KernelError(EINVAL)
    fout = fdget(out_fd)
    if not fout.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    if fin.f_inode.i_mode & S_IFMT not in (S_IFREG, S_IFBLK):
        raise KernelError(EINVAL)               # what was read from a stream could be lost
    if fout.f_flags & O_APPEND:
        raise KernelError(EINVAL)
    if start + count > (1 << 63) - 1:
        raise KernelError(EOVERFLOW)
    rw_verify_area(MAY_READ, fin, start, count)
    rw_verify_area(MAY_WRITE, fout, fout.f_pos, count)
    shared = fd_shared(fin, fout)
    try:
        done, end, opos = do_splice_direct(fin, start, fout, fout.f_pos, min(count, MAX_RW_COUNT))
        if done:
            task = register.task
            task.rchar += done
            task.wchar += done
            task.syscr += 1
            task.syscw += 1
            if not fout.f_mode & FMODE_STREAM:
                fout.f_pos = opos
            if pos is None:
                fin.f_pos = end
        return done, end
    finally:
        if shared:
            fput(fin)
            fput(fout)


@syscall
def sys_sendfile(out_fd: int, in_fd: int, offset: UserPtr, count: size_t) -> int:
    """sendfile(2) (sendfile64). Errors: EBADF, EINVAL, ESPIPE, EAGAIN, EFAULT, EPIPE."""
    if not offset:
        return do_sendfile(out_fd, in_fd, None, count)[0]
    done, end = do_sendfile(out_fd, in_fd, to_s64(get_user_u64(offset)), count)
    put_user_u64(offset, end)
    return done


# ---- copy_file_range ---------------------------------------------------------------------------------------
@may_sleep
def vfs_copy_file_range(fin: File, pos_in: int, fout: File, pos_out: int, length: int) -> tuple[int, int, int]:
    """copy_file_range(2) of open files. Raises EISDIR, EINVAL, EBADF, EOVERFLOW."""
    kinds = (fin.f_inode.i_mode & S_IFMT, fout.f_inode.i_mode & S_IFMT)
    if S_IFDIR in kinds:
        raise KernelError(EISDIR)
    if kinds != (S_IFREG, S_IFREG):
        raise KernelError(EINVAL)
    if not fin.f_mode & FMODE_READ or not fout.f_mode & FMODE_WRITE or fout.f_flags & O_APPEND:
        raise KernelError(EBADF)
    if pos_in < 0 or pos_out < 0:
        raise KernelError(EINVAL)
    if pos_in + length > (1 << 63) - 1 or pos_out + length > (1 << 63) - 1:
        raise KernelError(EOVERFLOW)
    rw_verify_area(MAY_READ, fin, pos_in, length)
    rw_verify_area(MAY_WRITE, fout, pos_out, length)
    size = fin.f_inode.i_size
    length = min(length, max(size - pos_in, 0))
    if fin.f_inode is fout.f_inode and pos_out + length > pos_in and pos_out < pos_in + length:
        raise KernelError(EINVAL)
    if not length:
        return 0, pos_in, pos_out
    return do_splice_direct(fin, pos_in, fout, pos_out, min(length, MAX_RW_COUNT))


@syscall
def sys_copy_file_range(fd_in: int, off_in: UserPtr, fd_out: int, off_out: UserPtr, len: size_t, flags: u32) -> int:
    """copy_file_range(2), also between file systems, as 5.3 can. Errors: EBADF, EINVAL, EISDIR, EOVERFLOW, EFAULT."""
    fin, fout = fdget(fd_in), fdget(fd_out)
    pos_in = to_s64(get_user_u64(off_in)) if off_in else fin.f_pos
    pos_out = to_s64(get_user_u64(off_out)) if off_out else fout.f_pos
    if flags:
        raise KernelError(EINVAL)
    shared = fd_shared(fin, fout)
    try:
        done, end_in, end_out = vfs_copy_file_range(fin, pos_in, fout, pos_out, len)
        if done:
            if off_in:
                put_user_u64(off_in, end_in)
            else:
                fin.f_pos = end_in
            if off_out:
                put_user_u64(off_out, end_out)
            else:
                fout.f_pos = end_out
        return done
    finally:
        if shared:
            fput(fin)
            fput(fout)


