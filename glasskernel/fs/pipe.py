"""Pipes and FIFOs: a byte stream between open files.

Linux: fs/pipe.c (5.3). Same: 16 slots of 4096 bytes, a write of at most PIPE_BUF bytes is atomic, small writes
join the last slot when they fit, SIGPIPE before EPIPE, rules of opening FIFOs, O_DIRECT packets, F_SETPIPE_SZ,
one wait queue for both sides.
Differs: a slot holds a bytes object (or a view of one), not a page: a write copies user memory once, a read
    copies it out once, and no frame is allocated or zeroed for a byte that lives for microseconds. So splice
    copies, and pipes do not show in the memory counters. No mutex where nothing sleeps: copying to user memory
    may sleep in a page fault, so the mutex is held around that.
Owns: every Pipe, kernel.vfs.pipe_mnt.
Invariants: 0 <= len(bufs) <= buffers; a slot holds at least one byte and at most 4096; whoever fills or empties
    the first slot, or drops the last reader or writer, wakes `wait`.
Lock order: pipe.mutex, then wait; two pipes by inode number (pipe_double_lock).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user, put_user_u32
from glasskernel.fs.d_path import dynamic_dname
from glasskernel.fs.dentry_open import stream_open
from glasskernel.fs.fcntl_signal import FasyncStruct, fasync_helper, kill_fasync
from glasskernel.fs.file import fd_install, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.file_table import alloc_file_clone, alloc_file_pseudo, fput
from glasskernel.fs.inode import current_time, file_accessed, file_update_time, get_next_ino, new_inode_pseudo
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.read_write import no_llseek
from glasskernel.fs.super import init_pseudo, kill_anon_super
from glasskernel.fs.types import (
    FMODE_ATOMIC_POS,
    FMODE_READ,
    FMODE_WRITE,
    O_CLOEXEC,
    O_DIRECT,
    O_NONBLOCK,
    O_RDONLY,
    O_WRONLY,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    S_IFIFO,
    SB_NOATIME,
    DentryOperations,
    FileOperations,
    FileSystemType,
    SuperOperations,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, CAP_SYS_RESOURCE, capable
from glasskernel.kernel.current import current, register
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.sched.core import schedule, signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    WaitQueueHead,
    finish_wait,
    prepare_to_wait,
    wake_up_interruptible,
    wake_up_interruptible_sync_poll,
)
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.errno import (
    EAGAIN,
    EBADF,
    EBUSY,
    EINVAL,
    ENOTTY,
    ENXIO,
    EPERM,
    EPIPE,
    KernelError,
    Restart,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Inode, Kiocb, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

PIPE_BUF = 4096
PIPE_DEF_BUFFERS = 16
PIPEFS_MAGIC = 0x50495045
PIPE_USER_PAGES_SOFT = 16384
SIGPIPE, SIGIO = 13, 29
POLL_IN, POLL_OUT = 1, 2
FIONREAD = 0x541B
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032
PIPE_BUF_FLAG_PACKET = 8


class PipeBuffer:
    """struct pipe_buffer. data[offset : offset + len] is what is left to read."""

    __slots__ = ("data", "flags", "len", "offset")

    def __init__(self, data: bytes | bytearray | memoryview, length: int, flags: int = 0) -> None:
        self.data = data
        self.offset = 0
        self.len = length
        self.flags = flags


@slotted
class Pipe:
    """struct pipe_inode_info. files: open files and splices that need it to stay."""

    inode: Inode
    wait: WaitQueueHead
    mutex: Mutex
    buffers: int = PIPE_DEF_BUFFERS
    files: int = 0
    # mutex protects:
    bufs: list[PipeBuffer] = field(default_factory=list)
    readers: int = 0
    writers: int = 0
    waiting_writers: int = 0
    r_counter: int = 0
    w_counter: int = 0
    user: int = 0                                   # uid that the slots are charged to
    fasync_readers: list[FasyncStruct] = field(default_factory=list)
    fasync_writers: list[FasyncStruct] = field(default_factory=list)


@notrace
def pipe_lock(pipe: Pipe) -> None:
    """Takes the mutex."""
    mutex_lock(pipe.mutex)


@notrace
def pipe_unlock(pipe: Pipe) -> None:
    """Drops the mutex."""
    mutex_unlock(pipe.mutex)


@may_sleep
def pipe_double_lock(pipe1: Pipe, pipe2: Pipe) -> None:
    """Both mutexes, by inode number."""
    assert pipe1 is not pipe2
    if pipe1.inode.i_ino > pipe2.inode.i_ino:
        pipe1, pipe2 = pipe2, pipe1
    mutex_lock(pipe1.mutex)
    mutex_lock(pipe2.mutex)


@may_sleep
def pipe_wait(pipe: Pipe) -> None:
    """Drops the mutex, sleeps until somebody changes the pipe or a signal comes, takes it again."""
    entry = WaitQueueEntry()
    prepare_to_wait(pipe.wait, entry, TASK_INTERRUPTIBLE)
    mutex_unlock(pipe.mutex)
    schedule()                                      # DOC: pipe-sleep
    finish_wait(pipe.wait, entry)
    mutex_lock(pipe.mutex)


# ---- read --------------------------------------------------------------------------------------------------
@may_sleep
def pipe_read(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): what is there, at least one byte; 0 when the last writer is gone and nothing is left."""
    if not to.count:
        return 0
    filp = iocb.ki_filp
    pipe: Pipe = filp.private_data
    do_wakeup = False
    ret = 0
    mutex_lock(pipe.mutex)
    try:
        while True:
            bufs = pipe.bufs
            if bufs:
                buf = bufs[0]
                chars = buf.len
                if chars > to.count:
                    chars = to.count
                offset = buf.offset
                data = buf.data
                if chars != len(data):
                    data = memoryview(data)[offset : offset + chars]
                try:
                    written = to.copy_to_iter(data)
                except KernelError:
                    if not ret:
                        raise
                    break
                ret += written
                buf.offset = offset + written
                buf.len -= written
                if buf.flags & PIPE_BUF_FLAG_PACKET:
                    to.count = 0                    # a packet is read once, the rest of it is lost
                    buf.len = 0
                if not buf.len:
                    del bufs[0]
                    do_wakeup = True
                if written < chars or not to.count:
                    break
                continue
            if not pipe.writers:
                break
            if not pipe.waiting_writers:
                if ret:
                    break
                if filp.f_flags & O_NONBLOCK:
                    raise KernelError(EAGAIN)
            if signal_pending(register.task):
                if not ret:
                    raise Restart
                break
            if do_wakeup:
                wake_up_interruptible_sync_poll(pipe.wait, POLLOUT | POLLWRNORM)
                if pipe.fasync_writers:
                    kill_fasync(pipe.fasync_writers, SIGIO, POLL_OUT)
            pipe_wait(pipe)
    finally:
        mutex_unlock(pipe.mutex)
        if do_wakeup:
            wake_up_interruptible_sync_poll(pipe.wait, POLLOUT | POLLWRNORM)
            if pipe.fasync_writers:
                kill_fasync(pipe.fasync_writers, SIGIO, POLL_OUT)
    if ret > 0:
        file_accessed(filp)
    return ret


# ---- write -------------------------------------------------------------------------------------------------
@may_sleep
def pipe_write(iocb: Kiocb, source: IovIter) -> int:
    """->write_iter(): all of it, sleeping for room. Raises EPIPE (and SIGPIPE), EAGAIN, Restart."""
    total_len = source.count
    if not total_len:
        return 0
    filp = iocb.ki_filp
    pipe: Pipe = filp.private_data
    ret = 0
    do_wakeup = False
    mutex_lock(pipe.mutex)
    try:
        if not pipe.readers:
            send_sig(SIGPIPE, register.task, 0)
            raise KernelError(EPIPE)
        packet = filp.f_flags & O_DIRECT
        bufs = pipe.bufs
        chars = total_len & 4095
        if bufs and chars and not packet:
            # a small write, or the odd bytes of a big one, may join the last slot
            last = bufs[-1]
            end = last.offset + last.len
            if end + chars <= 4096 and not last.flags & PIPE_BUF_FLAG_PACKET:
                data = source.copy_from_iter(chars)
                if last.data.__class__ is not bytearray:
                    last.data = bytearray(last.data[: end])
                last.data += data
                last.len += len(data)
                ret = len(data)
                do_wakeup = True
                if ret < chars or not source.count:
                    return ret
        while True:
            if not pipe.readers:
                send_sig(SIGPIPE, register.task, 0)
                if not ret:
                    raise KernelError(EPIPE)
                break
            room = pipe.buffers - len(bufs)
            if room > 0:
                want = source.count
                try:
                    data = source.copy_from_iter(want if want <= room << 12 else room << 12)
                except KernelError:
                    if not ret:
                        raise
                    break
                size = len(data)
                do_wakeup = True
                ret += size
                flags = PIPE_BUF_FLAG_PACKET if packet else 0
                if size <= 4096:
                    bufs.append(PipeBuffer(data, size, flags))
                else:
                    view = memoryview(data)
                    for start in range(0, size, 4096):
                        part = view[start : start + 4096]
                        bufs.append(PipeBuffer(part, len(part), flags))
                if size < want and size < room << 12:
                    break                           # a fault in the middle
                if not source.count:
                    break
                continue
            if filp.f_flags & O_NONBLOCK:
                if not ret:
                    raise KernelError(EAGAIN)
                break
            if signal_pending(register.task):
                if not ret:
                    raise Restart
                break
            if do_wakeup:
                wake_up_interruptible_sync_poll(pipe.wait, POLLIN | POLLRDNORM)
                if pipe.fasync_readers:
                    kill_fasync(pipe.fasync_readers, SIGIO, POLL_IN)
                do_wakeup = False
            pipe.waiting_writers += 1
            try:
                pipe_wait(pipe)
            finally:
                pipe.waiting_writers -= 1
    finally:
        mutex_unlock(pipe.mutex)
        if do_wakeup:
            wake_up_interruptible_sync_poll(pipe.wait, POLLIN | POLLRDNORM)
            if pipe.fasync_readers:
                kill_fasync(pipe.fasync_readers, SIGIO, POLL_IN)
        if ret > 0:
            file_update_time(filp)
    return ret


# ---- the rest of the table ---------------------------------------------------------------------------------
def pipe_poll(filp: File, wait: PollTable) -> int:
    """->poll()"""
    pipe: Pipe = filp.private_data
    poll_wait(filp, pipe.wait, wait)
    mask = 0
    if filp.f_mode & FMODE_READ:
        if pipe.bufs:
            mask = POLLIN | POLLRDNORM
        if not pipe.writers and filp.f_pos != pipe.w_counter:
            mask |= POLLHUP
    if filp.f_mode & FMODE_WRITE:
        if len(pipe.bufs) < pipe.buffers:
            mask |= POLLOUT | POLLWRNORM
        if not pipe.readers:
            mask |= POLLERR
    return mask


def pipe_ioctl(filp: File, cmd: int, arg: int) -> int:
    """->unlocked_ioctl(): FIONREAD. Raises ENOTTY."""
    pipe: Pipe = filp.private_data
    if cmd != FIONREAD:
        raise KernelError(ENOTTY)
    put_user_u32(arg, sum(buf.len for buf in pipe.bufs))
    return 0


def pipe_fasync(fd: int, filp: File, on: int) -> None:
    """->fasync()"""
    pipe: Pipe = filp.private_data
    if filp.f_mode & FMODE_READ:
        fasync_helper(fd, filp, on, pipe.fasync_readers)
    if filp.f_mode & FMODE_WRITE:
        fasync_helper(fd, filp, on, pipe.fasync_writers)


def put_pipe_info(inode: Inode, pipe: Pipe) -> None:
    """One file less; the last one frees the pipe."""
    pipe.files -= 1
    if not pipe.files:
        inode.i_pipe = None
        free_pipe_info(pipe)


def free_pipe_info(pipe: Pipe) -> None:
    """The slots go; what they hold is lost."""
    account_pipe_buffers(pipe, pipe.buffers, 0)
    pipe.bufs.clear()


def pipe_release(inode: Inode, file: File) -> None:
    """->release(): one reader or writer less."""
    pipe: Pipe = file.private_data
    if file.f_mode & FMODE_READ:
        pipe.readers -= 1
    if file.f_mode & FMODE_WRITE:
        pipe.writers -= 1
    if pipe.readers or pipe.writers:
        wake_up_interruptible_sync_poll(
            pipe.wait, POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM | POLLERR | POLLHUP)
        kill_fasync(pipe.fasync_readers, SIGIO, POLL_IN)
        kill_fasync(pipe.fasync_writers, SIGIO, POLL_OUT)
    put_pipe_info(inode, pipe)


def account_pipe_buffers(pipe: Pipe, old: int, new: int) -> int:
    """Moves the user's count of pipe pages; answers it."""
    pages = pipe.inode.i_sb.kernel.vfs.pipe_user_pages
    total = pages.get(pipe.user, 0) + new - old
    if total:
        pages[pipe.user] = total
    else:
        pages.pop(pipe.user, None)
    return total


def alloc_pipe_info(inode: Inode) -> Pipe:
    """A pipe with 16 slots, or 1 when the user has too many already. Raises ENFILE."""
    pipe = Pipe(inode, WaitQueueHead(), Mutex())
    pipe.user = register.task.cred.uid
    if account_pipe_buffers(pipe, 0, PIPE_DEF_BUFFERS) > PIPE_USER_PAGES_SOFT and not (
            capable(CAP_SYS_RESOURCE) or capable(CAP_SYS_ADMIN)):
        account_pipe_buffers(pipe, PIPE_DEF_BUFFERS, 1)
        pipe.buffers = 1
    pipe.r_counter = pipe.w_counter = 1
    return pipe


# ---- pipe(2) -----------------------------------------------------------------------------------------------
@notrace
def get_pipe_inode() -> Inode:
    """An inode with a pipe that has one reader and one writer."""
    sb = register.task.kernel.vfs.pipe_mnt.mnt_sb
    inode = new_inode_pseudo(sb)
    inode.i_ino = get_next_ino()
    pipe = alloc_pipe_info(inode)
    inode.i_pipe = pipe
    pipe.files = 2
    pipe.readers = pipe.writers = 1
    inode.i_fop = pipefifo_fops
    inode.i_mode = S_IFIFO | 0o600
    cred = register.task.cred
    inode.i_uid = cred.fsuid
    inode.i_gid = cred.fsgid
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    return inode


def create_pipe_files(flags: int) -> tuple[File, File]:
    """(read end, write end). Raises ENFILE."""
    inode = get_pipe_inode()
    pipe: Pipe = inode.i_pipe
    try:
        write_end = alloc_file_pseudo(
            inode, register.task.kernel.vfs.pipe_mnt, b"", O_WRONLY | flags & (O_NONBLOCK | O_DIRECT), pipefifo_fops)
    except KernelError:
        free_pipe_info(pipe)
        inode.i_count -= 1
        raise
    write_end.private_data = pipe
    try:
        read_end = alloc_file_clone(write_end, O_RDONLY | flags & O_NONBLOCK, pipefifo_fops)
    except KernelError:
        put_pipe_info(inode, pipe)
        fput(write_end)
        raise
    read_end.private_data = pipe
    stream_open(inode, read_end)
    stream_open(inode, write_end)
    return read_end, write_end


def __do_pipe_flags(flags: int) -> tuple[int, int, File, File]:
    """Two reserved descriptors and their files. Raises EINVAL, EMFILE, ENFILE."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT):
        raise KernelError(EINVAL)
    read_end, write_end = create_pipe_files(flags)
    fdr = -1
    try:
        fdr = get_unused_fd_flags(flags)
        fdw = get_unused_fd_flags(flags)
    except KernelError:
        if fdr >= 0:
            put_unused_fd(fdr)
        fput(read_end)
        fput(write_end)
        raise
    return fdr, fdw, read_end, write_end


def do_pipe2(fildes: UserPtr, flags: int) -> int:
    """pipe2(2)."""
    fdr, fdw, read_end, write_end = __do_pipe_flags(flags)
    try:
        copy_to_user(fildes, fdr.to_bytes(4, "little") + fdw.to_bytes(4, "little"))
    except KernelError:
        fput(read_end)
        fput(write_end)
        put_unused_fd(fdr)
        put_unused_fd(fdw)
        raise
    fd_install(fdr, read_end)
    fd_install(fdw, write_end)
    return 0


@syscall
def sys_pipe2(fildes: UserPtr, flags: int) -> int:
    """pipe2(2). Errors: EINVAL, EMFILE, ENFILE, EFAULT."""
    return do_pipe2(fildes, flags)


@syscall
def sys_pipe(fildes: UserPtr) -> int:
    """pipe(2)."""
    return do_pipe2(fildes, 0)


# ---- FIFOs -------------------------------------------------------------------------------------------------
@may_sleep
def wait_for_partner(pipe: Pipe, counter: str) -> None:
    """Sleeps until r_counter or w_counter moves. Raises Restart when a signal comes. Locks: the mutex."""
    before = getattr(pipe, counter)
    while getattr(pipe, counter) == before:
        pipe_wait(pipe)
        if signal_pending(register.task):
            break
    if getattr(pipe, counter) == before:
        raise Restart


@notrace
def wake_up_partner(pipe: Pipe) -> None:
    """Somebody opened the other end."""
    wake_up_interruptible(pipe.wait)


@may_sleep
def fifo_open(inode: Inode, filp: File) -> None:
    """->open(): a reader waits for a writer and the reverse. O_NONBLOCK: a writer without readers gets ENXIO."""
    is_pipe = inode.i_sb.s_magic == PIPEFS_MAGIC
    pipe: Pipe | None = inode.i_pipe
    if pipe is None:
        pipe = inode.i_pipe = alloc_pipe_info(inode)
    pipe.files += 1
    filp.private_data = pipe
    mutex_lock(pipe.mutex)
    mode = filp.f_mode & (FMODE_READ | FMODE_WRITE)
    filp.f_mode = filp.f_mode & ~FMODE_ATOMIC_POS
    stream_open(inode, filp)
    try:
        if mode == FMODE_READ:
            pipe.r_counter += 1
            pipe.readers += 1
            if pipe.readers == 1:
                wake_up_partner(pipe)
            if not is_pipe and not pipe.writers:
                if filp.f_flags & O_NONBLOCK:
                    # no POLLHUP until a writer was there
                    filp.f_pos = pipe.w_counter
                else:
                    try:
                        wait_for_partner(pipe, "w_counter")
                    except Restart:
                        pipe.readers -= 1
                        if not pipe.readers:
                            wake_up_interruptible(pipe.wait)
                        raise
        elif mode == FMODE_WRITE:
            if not is_pipe and filp.f_flags & O_NONBLOCK and not pipe.readers:
                raise KernelError(ENXIO)
            pipe.w_counter += 1
            pipe.writers += 1
            if pipe.writers == 1:
                wake_up_partner(pipe)
            if not is_pipe and not pipe.readers:
                try:
                    wait_for_partner(pipe, "r_counter")
                except Restart:
                    pipe.writers -= 1
                    if not pipe.writers:
                        wake_up_interruptible(pipe.wait)
                    raise
        elif mode == FMODE_READ | FMODE_WRITE:
            # POSIX leaves this open; Linux does not block
            pipe.readers += 1
            pipe.writers += 1
            pipe.r_counter += 1
            pipe.w_counter += 1
            if pipe.readers == 1 or pipe.writers == 1:
                wake_up_partner(pipe)
        else:
            raise KernelError(EINVAL)
    except BaseException:
        mutex_unlock(pipe.mutex)
        put_pipe_info(inode, pipe)
        raise
    mutex_unlock(pipe.mutex)


# ---- size --------------------------------------------------------------------------------------------------
def round_pipe_size(size: int) -> int:
    """A size in bytes as a power of two of pages; 0 if it is too big."""
    if size > 1 << 31:
        return 0
    size = max(size, 4096)
    return 1 << (size - 1).bit_length()


def pipe_set_size(pipe: Pipe, arg: int) -> int:
    """F_SETPIPE_SZ; answers the new size. Raises EINVAL, EPERM (above pipe-max-size), EBUSY (more than that in it)."""
    size = round_pipe_size(arg)
    slots = size >> 12
    if not slots:
        raise KernelError(EINVAL)
    if slots > pipe.buffers and size > current().kernel.vfs.pipe_max_size and not capable(CAP_SYS_RESOURCE):
        raise KernelError(EPERM)
    if slots < len(pipe.bufs):
        raise KernelError(EBUSY)
    if slots > pipe.buffers and account_pipe_buffers(pipe, pipe.buffers, slots) > PIPE_USER_PAGES_SOFT and not (
            capable(CAP_SYS_RESOURCE) or capable(CAP_SYS_ADMIN)):
        account_pipe_buffers(pipe, slots, pipe.buffers)
        raise KernelError(EPERM)
    if slots < pipe.buffers:
        account_pipe_buffers(pipe, pipe.buffers, slots)
    pipe.buffers = slots
    return slots << 12


@notrace
def get_pipe_info(file: File) -> Pipe | None:
    """The pipe of an open file, or None."""
    return file.private_data if file.f_op is pipefifo_fops else None


@may_sleep
def pipe_fcntl(file: File, cmd: int, arg: int) -> int:
    """fcntl(F_SETPIPE_SZ, F_GETPIPE_SZ). Raises EBADF through the caller if the file is no pipe."""
    pipe = get_pipe_info(file)
    if pipe is None:
        raise KernelError(EBADF)
    mutex_lock(pipe.mutex)
    try:
        if cmd == F_SETPIPE_SZ:
            return pipe_set_size(pipe, arg)
        return pipe.buffers << 12
    finally:
        mutex_unlock(pipe.mutex)


# ---- pipefs ------------------------------------------------------------------------------------------------
def pipefs_dname(dentry: Dentry) -> bytes:
    """->d_dname()"""
    return dynamic_dname(dentry, b"pipe")


pipefifo_fops = FileOperations(
    open=fifo_open, llseek=no_llseek, iter=True, read_iter=pipe_read, write_iter=pipe_write, poll=pipe_poll,
    unlocked_ioctl=pipe_ioctl, release=pipe_release, fasync=pipe_fasync)
pipefs_dentry_operations = DentryOperations(d_dname=pipefs_dname)
pipefs_ops = SuperOperations(statfs=simple_statfs)


def pipefs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount()"""
    return init_pseudo(kernel, fs_type, PIPEFS_MAGIC, pipefs_ops, pipefs_dentry_operations, SB_NOATIME)


pipe_fs_type = FileSystemType(b"pipefs", pipefs_mount, kill_anon_super)


@notrace
def init_pipe_fs(kernel: Kernel) -> None:
    """Boot: mounts pipefs; FIFOs of all file systems get pipefifo_fops."""
    kernel.vfs.special_fops[S_IFIFO] = pipefifo_fops
    kernel.vfs.pipe_mnt = kern_mount(kernel, pipe_fs_type)
