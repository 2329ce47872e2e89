"""Descriptors: the table of a process, from number to open file.

Linux: fs/file.c, the descriptor half of fs/open.c (5.3). Same: the lowest free number, RLIMIT_NOFILE, what fork
and exec do with the table, a descriptor is reserved before its file is opened.
Differs: the bitmaps are Python's: `fd` itself says what is open, close_on_exec is an int. fdget() takes no
reference (Linux does so only for shared tables): who may sleep uses fget(), or fdget_shared().
Owns: FilesStruct. Invariant: fd[n] is None and n not in reserved for every free n; next_fd <= the lowest free.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.file_table import fput, get_file
from glasskernel.fs.locks import locks_remove_posix
from glasskernel.fs.types import FMODE_ATOMIC_POS, FMODE_PATH, O_CLOEXEC, _nothing
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.task import RLIMIT_NOFILE, FilesStruct
from glasskernel.lib.errno import EBADF, EBUSY, EINVAL, EMFILE, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, u32
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.types import File
    from glasskernel.kernel.task import TaskStruct

CLOSE_RANGE_UNSHARE, CLOSE_RANGE_CLOEXEC = 2, 4
FDPUT_FPUT, FDPUT_POS_UNLOCK = 1, 2


# ---- number -> file ----------------------------------------------------------------------------------------
def __fdget(fd: int) -> File:
    """The open file behind a descriptor of the caller, without a reference. Raises EBADF, also for O_PATH files."""
    return __fget_light(fd, FMODE_PATH)


fdget = __fdget                        # inline in Linux


def __fdget_raw(fd: int) -> File:
    """fdget() that takes O_PATH files too."""
    return __fget_light(fd, 0)


fdget_raw = __fdget_raw


def __fget_light(fd: int, mask: int) -> File:
    """The caller's open file, unless it was opened with a mode of the mask. Raises EBADF."""
    fds = register.task.files.fd
    if 0 <= fd < len(fds):
        file = fds[fd]
        if file is not None and not file.f_mode & mask:
            return file
    raise KernelError(EBADF)


@notrace
def fcheck(fd: int) -> File:
    """The caller's open file, O_PATH or not. Raises EBADF."""
    fds = register.task.files.fd
    file = fds[fd] if 0 <= fd < len(fds) else None
    if file is None:
        raise KernelError(EBADF)
    return file


def fget(fd: int) -> File:
    """fdget() with a reference: the caller drops it with fput(). Raises EBADF."""
    return __fget(fd, FMODE_PATH)


def fget_raw(fd: int) -> File:
    """fget() that takes O_PATH files too."""
    return __fget(fd, 0)


def __fget(fd: int, mask: int) -> File:
    """__fget_light() with a reference."""
    fds = register.task.files.fd
    if 0 <= fd < len(fds):
        file = fds[fd]
        if file is not None and not file.f_mode & mask:
            file.f_count += 1
            return file
    raise KernelError(EBADF)


@notrace
def fd_shared(*files: File) -> bool:
    """True if other tasks share the caller's table and could close its files: each has a reference then."""
    if register.task.files.count == 1:
        return False
    for file in files:
        file.f_count += 1
    return True


@may_sleep
def __fdget_pos(fd: int) -> tuple[File, int]:
    """(file, what fdput_pos() has to undo: FDPUT_FPUT, FDPUT_POS_UNLOCK, or nothing).

    A file that somebody else may close gets a reference; where the position moves atomically and somebody else may
    move it, f_pos_lock is taken.
    """
    file = __fget_light(fd, FMODE_PATH)
    if file.f_count == 1 and register.task.files.count == 1:
        return file, 0
    undo = FDPUT_FPUT if fd_shared(file) else 0
    if file.f_mode & FMODE_ATOMIC_POS and file.f_count > 1:
        lock = file.f_pos_lock
        if lock is None:
            lock = file.f_pos_lock = Mutex()
        mutex_lock(lock)
        undo |= FDPUT_POS_UNLOCK
    return file, undo


fdget_pos = __fdget_pos


@notrace
def fdput_pos(file: File, undo: int) -> None:
    """Ends fdget_pos() when it answered something to undo."""
    if undo & FDPUT_POS_UNLOCK:
        __f_unlock_pos(file)
    if undo & FDPUT_FPUT:
        fput(file)


def __f_unlock_pos(file: File) -> None:
    """Lets the next one move the position."""
    mutex_unlock(file.f_pos_lock)


# ---- new numbers -------------------------------------------------------------------------------------------
def __alloc_fd(files: FilesStruct, start: int, end: int, flags: int) -> int:
    """Reserves the lowest free number >= start and < end. Raises EMFILE."""
    fds = files.fd
    fd = files.next_fd
    if fd < start:
        fd = start
    reserved = files.reserved
    while True:
        try:
            fd = fds.index(None, fd)
        except ValueError:
            if fd < len(fds):
                fd = len(fds)
        if fd not in reserved:
            break
        fd += 1
    if fd >= end:
        raise KernelError(EMFILE)
    expand_files(files, fd)
    if start <= files.next_fd:
        files.next_fd = fd + 1
    reserved[fd] = None
    if flags & O_CLOEXEC:
        files.close_on_exec |= 1 << fd
    else:
        files.close_on_exec &= ~(1 << fd)
    return fd


def expand_files(files: FilesStruct, nr: int) -> None:
    """Makes room for descriptor `nr`. Raises EMFILE above /proc/sys/fs/nr_open."""
    if nr < len(files.fd):
        return
    if nr >= register.task.kernel.sysctl.nr_open:
        raise KernelError(EMFILE)
    files.fd.extend([None] * (nr + 1 - len(files.fd)))


def get_unused_fd_flags(flags: int) -> int:
    """Reserves the lowest free descriptor (flags: O_CLOEXEC), for fd_install() or put_unused_fd(). Raises EMFILE."""
    task = register.task
    return __alloc_fd(task.files, 0, task.signal.rlim[RLIMIT_NOFILE][0], flags)


@notrace
def put_unused_fd(fd: int) -> None:
    """Gives a reserved descriptor back."""
    files = register.task.files
    files.reserved.pop(fd, None)
    if fd < files.next_fd:
        files.next_fd = fd


def fd_install(fd: int, file: File) -> None:
    """Puts an open file behind a reserved descriptor; the reference is the table's from now on."""
    files = register.task.files
    files.fd[fd] = file
    files.reserved.pop(fd, None)


@notrace
def anon_fd(file: File, flags: int) -> int:
    """get_unused_fd_flags() and fd_install() in one; drops the file when there is no descriptor."""
    try:
        fd = get_unused_fd_flags(flags)
    except KernelError:
        fput(file)
        raise
    fd_install(fd, file)
    return fd


@notrace
def set_close_on_exec(fd: int, on: int) -> None:
    """Sets or clears FD_CLOEXEC."""
    files = register.task.files
    if on:
        files.close_on_exec |= 1 << fd
    else:
        files.close_on_exec &= ~(1 << fd)


@notrace
def get_close_on_exec(fd: int) -> bool:
    """FD_CLOEXEC of a descriptor."""
    return bool(register.task.files.close_on_exec >> fd & 1)


# ---- closing -----------------------------------------------------------------------------------------------
@may_sleep
def filp_close(file: File, owner: FilesStruct | None) -> None:
    """What close(2) does with a file: ->flush(), POSIX locks of the owner, the reference. Raises what flush does."""
    try:
        flush = file.f_op.flush
        if flush is not _nothing:
            flush(file)
    finally:
        if file.f_inode.i_fsnotify_marks:
            dnotify_flush = file.f_inode.i_sb.kernel.vfs.dnotify_flush
            if dnotify_flush is not None:
                dnotify_flush(file, owner)
        locks_remove_posix(file, owner)
        fput(file)


@notrace
def pick_file(files: FilesStruct, fd: int) -> File | None:
    """Takes a file out of the table; None if there is none."""
    fds = files.fd
    if not 0 <= fd < len(fds):
        return None
    file = fds[fd]
    if file is not None:
        fds[fd] = None
        if fd < files.next_fd:
            files.next_fd = fd
    return file


@may_sleep
def __close_fd(files: FilesStruct, fd: int) -> None:
    """close(2) of a descriptor of `files`. Raises EBADF."""
    file = pick_file(files, fd)
    if file is None:
        raise KernelError(EBADF)
    filp_close(file, files)


@may_sleep
@notrace
def close_fd(fd: int) -> None:
    """close(2) of a descriptor of the caller. Raises EBADF."""
    __close_fd(register.task.files, fd)


# ---- fork, exec, exit --------------------------------------------------------------------------------------
def dup_fd(oldf: FilesStruct) -> FilesStruct:
    """A copy of the table for fork(2): the same open files, one more reference each."""
    kernel = register.task.kernel
    address = kmem_cache_alloc(kernel.slab.files_cachep, GFP_KERNEL)
    fds = oldf.fd.copy()
    for file in fds:
        if file is not None:
            file.f_count += 1
    newf = FilesStruct(fds, oldf.close_on_exec, oldf.next_fd if not oldf.reserved else 0)
    newf.slab_address = address
    return newf


def copy_files(clone_files: bool, task: TaskStruct) -> FilesStruct:
    """The table of a new task: shared (CLONE_FILES) or copied."""
    files = task.files
    if clone_files:
        files.count += 1
        return files
    return dup_fd(files)


@may_sleep
def close_files(files: FilesStruct) -> None:
    """Closes everything of a table without users."""
    fds = files.fd
    for fd, file in enumerate(fds):
        if file is not None:
            fds[fd] = None
            filp_close_quietly(file, files)
    files.next_fd = 0


@notrace
def filp_close_quietly(file: File, files: FilesStruct) -> None:
    """filp_close() where nobody asks for the error."""
    with suppress(KernelError):
        filp_close(file, files)


@may_sleep
def put_files_struct(files: FilesStruct) -> None:
    """Drops a user of the table; the last one closes all."""
    files.count -= 1
    if not files.count:
        close_files(files)
        kmem_cache_free(register.task.kernel.slab.files_cachep, files.slab_address)


@may_sleep
def exit_files(task: TaskStruct) -> None:
    """exit(2): the task gives its table up."""
    files = task.files
    if files is not None:
        task.files = None  # type: ignore[assignment]
        if files.count == 1 and task is register.task:
            # ->flush() and ->release() may look at the caller's table, as they can in Linux until it is empty
            task.files = files
            try:
                put_files_struct(files)
            finally:
                task.files = None  # type: ignore[assignment]
        else:
            put_files_struct(files)


@may_sleep
def unshare_files(task: TaskStruct) -> FilesStruct | None:
    """Gives the task a table of its own (exec). Answers the old one, for put_files_struct(), or None."""
    files = task.files
    if files.count == 1:
        return None
    task.files = dup_fd(files)
    return files


@may_sleep
def do_close_on_exec(files: FilesStruct) -> None:
    """exec: closes every descriptor with FD_CLOEXEC."""
    bits = files.close_on_exec
    files.close_on_exec = 0
    while bits:
        low = bits & -bits
        bits ^= low
        file = pick_file(files, low.bit_length() - 1)
        if file is not None:
            filp_close_quietly(file, files)


def iterate_fd(files: FilesStruct, start: int, f: Callable[[File, int], int]) -> int:
    """Calls f(file, fd) for each open descriptor from `start` until it answers something other than 0."""
    for fd in range(start, len(files.fd)):
        file = files.fd[fd]
        if file is not None:
            result = f(file, fd)
            if result:
                return result
    return 0


# ---- dup ---------------------------------------------------------------------------------------------------
@may_sleep
def do_dup2(files: FilesStruct, file: File, fd: int, flags: int) -> int:
    """Puts `file` behind `fd`, closing what was there. Raises EBUSY if an open(2) has just reserved it."""
    tofree = files.fd[fd]
    if tofree is None and fd in files.reserved:
        raise KernelError(EBUSY)
    get_file(file)
    files.fd[fd] = file
    if flags & O_CLOEXEC:
        files.close_on_exec |= 1 << fd
    else:
        files.close_on_exec &= ~(1 << fd)
    if tofree is not None:
        filp_close_quietly(tofree, files)
    return fd


@may_sleep
def ksys_dup3(oldfd: int, newfd: int, flags: int) -> int:
    """dup3(2). Errors: EBADF, EINVAL, EBUSY."""
    if flags & ~O_CLOEXEC or oldfd == newfd:
        raise KernelError(EINVAL)
    task = register.task
    if not 0 <= newfd < task.signal.rlim[RLIMIT_NOFILE][0]:
        raise KernelError(EBADF)
    file = fcheck(oldfd)
    files = task.files
    if newfd >= len(files.fd):
        try:
            expand_files(files, newfd)
        except KernelError:
            raise KernelError(EBADF) from None
    return do_dup2(files, file, newfd, flags)


@syscall
def sys_dup3(oldfd: u32, newfd: u32, flags: int) -> int:
    """dup3(2). Errors: EBADF, EINVAL (same number, unknown flags), EBUSY."""
    return ksys_dup3(oldfd, newfd, flags)


@syscall
def sys_dup2(oldfd: u32, newfd: u32) -> int:
    """dup2(2). Errors: EBADF, EBUSY."""
    if newfd == oldfd:
        fdget_raw(oldfd)
        return oldfd
    return ksys_dup3(oldfd, newfd, 0)


@syscall
def sys_dup(fildes: u32) -> int:
    """dup(2). Errors: EBADF, EMFILE."""
    return ksys_dup(fildes)


def ksys_dup(fildes: int) -> int:
    file = fget_raw(fildes)
    try:
        fd = get_unused_fd_flags(0)
    except KernelError:
        fput(file)
        raise
    fd_install(fd, file)
    return fd


def f_dupfd(start: int, file: File, flags: int) -> int:
    """fcntl(F_DUPFD). Errors: EINVAL (start above the limit), EMFILE."""
    task = register.task
    limit = task.signal.rlim[RLIMIT_NOFILE][0]
    if start >= limit:
        raise KernelError(EINVAL)
    fd = __alloc_fd(task.files, start, limit, flags)
    file.f_count += 1
    fd_install(fd, file)
    return fd


@syscall
def sys_close_range(fd: u32, max_fd: u32, flags: u32) -> int:
    """close_range(2) (newer than 5.3; glibc and Python use it). Errors: EINVAL."""
    if flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) or fd > max_fd:
        raise KernelError(EINVAL)
    task = register.task
    old = None
    if flags & CLOSE_RANGE_UNSHARE:
        old = unshare_files(task)
    files = task.files
    last = min(max_fd, len(files.fd) - 1)
    if flags & CLOSE_RANGE_CLOEXEC:
        for n in range(fd, last + 1):
            if files.fd[n] is not None:
                files.close_on_exec |= 1 << n
    else:
        for n in range(fd, last + 1):
            file = pick_file(files, n)
            if file is not None:
                filp_close_quietly(file, files)
    if old is not None:
        put_files_struct(old)
    return 0
