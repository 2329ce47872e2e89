"""File locks: flock(2), POSIX record locks and open-file-description locks.

Linux: fs/locks.c (5.3). Same: merging and splitting of POSIX ranges, who conflicts with whom, EDEADLK for POSIX
waits in a circle, release at close (POSIX: of any descriptor of the file by that owner).
Differs: one list of locks per inode and flavour; waiters of an inode share one wait queue and look again.
Owns: Inode.i_flctx, kernel.vfs.file_locks (all locks, for /proc/locks), blocked_locks.
Gaps: leases (F_SETLEASE answers EINVAL), mandatory locks.
Invariants: the POSIX ranges of one owner in one file are sorted, do not touch with the same type, do not overlap.
"""
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import current
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible, wake_up_all
from glasskernel.lib.errno import EAGAIN, EDEADLK, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.types import File, Inode

F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2
FL_POSIX, FL_FLOCK, FL_OFDLCK = 1, 2, 1024
OFFSET_MAX = (1 << 63) - 1


@slotted
class FileLock:
    """struct file_lock. owner: FilesStruct (POSIX) or File (flock, OFD). end is the last byte, inclusive."""

    file: File
    owner: Any
    flags: int                         # FL_POSIX, FL_FLOCK, FL_POSIX|FL_OFDLCK
    type: int                          # F_RDLCK, F_WRLCK, F_UNLCK
    start: int = 0
    end: int = OFFSET_MAX
    pid: int = 0                       # -1: an open file description's
    blocker: FileLock | None = None    # what a waiting request waits for


@slotted
class FileLockContext:
    """struct file_lock_context."""

    flock: list[FileLock] = field(default_factory=list)
    posix: list[FileLock] = field(default_factory=list)
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)


def locks_get_lock_context(inode: Inode) -> FileLockContext:
    """The inode's lock lists, made at the first lock."""
    if inode.i_flctx is None:
        inode.i_flctx = FileLockContext()
    ctx: FileLockContext = inode.i_flctx
    return ctx


@notrace
def locks_overlap(a: FileLock, b: FileLock) -> bool:
    return a.end >= b.start and b.end >= a.start


@notrace
def locks_conflict(a: FileLock, b: FileLock) -> bool:
    return a.type == F_WRLCK or b.type == F_WRLCK


def posix_locks_conflict(caller: FileLock, other: FileLock) -> bool:
    """True if the request cannot stand beside a lock."""
    return (caller.owner is not other.owner and locks_overlap(caller, other) and locks_conflict(caller, other))


def flock_locks_conflict(caller: FileLock, other: FileLock) -> bool:
    """The same for flock(2): the owner is the open file."""
    return caller.file is not other.file and locks_conflict(caller, other)


@notrace
def _insert(inode: Inode, locks: list[FileLock], index: int, fl: FileLock) -> None:
    locks.insert(index, fl)
    inode.i_sb.kernel.vfs.file_locks.append(fl)


@notrace
def _remove(inode: Inode, locks: list[FileLock], fl: FileLock) -> None:
    locks.remove(fl)
    inode.i_sb.kernel.vfs.file_locks.remove(fl)


def posix_test_lock(inode: Inode, fl: FileLock) -> FileLock | None:
    """A lock that `fl` conflicts with, or None (F_GETLK)."""
    ctx = inode.i_flctx
    if ctx is not None:
        for other in ctx.posix:
            if posix_locks_conflict(fl, other):
                return other  # type: ignore[no-any-return]
    return None


def posix_locks_deadlock(caller: FileLock, blocker: FileLock) -> bool:
    """True if the owner of `blocker` waits, directly or not, for the caller. Never for OFD locks."""
    if caller.flags & FL_OFDLCK:
        return False
    waiting = current().kernel.vfs.blocked_locks
    owner = blocker.owner
    for _ in range(10):
        for request in waiting:
            if request.owner is owner and request.blocker is not None:
                owner = request.blocker.owner
                break
        else:
            return False
        if owner is caller.owner:
            return True
    return False


def posix_lock_inode(inode: Inode, request: FileLock) -> FileLock | None:
    """Sets or clears a record lock now; answers the lock in the way, or None when done. Context: task."""
    ctx = locks_get_lock_context(inode)
    locks = ctx.posix
    if request.type != F_UNLCK:
        for fl in locks:
            if posix_locks_conflict(request, fl):
                return fl
    start, end = request.start, request.end
    keep: list[FileLock] = []
    for fl in [fl for fl in locks if fl.owner is request.owner]:
        if fl.type == request.type:
            # neighbours and overlaps of the same type become one
            if fl.end < start - 1 or fl.start > end + 1:
                continue
            start, end = min(start, fl.start), max(end, fl.end)
            _remove(inode, locks, fl)
            continue
        if fl.end < start or fl.start > end:
            continue
        _remove(inode, locks, fl)
        if fl.start < start:
            keep.append(FileLock(fl.file, fl.owner, fl.flags, fl.type, fl.start, start - 1, fl.pid))
        if fl.end > end:
            keep.append(FileLock(fl.file, fl.owner, fl.flags, fl.type, end + 1, fl.end, fl.pid))
    if request.type != F_UNLCK:
        keep.append(FileLock(request.file, request.owner, request.flags, request.type, start, end, request.pid))
    for fl in keep:
        index = len(locks)
        for i, other in enumerate(locks):
            if other.owner is fl.owner and other.start > fl.start:
                index = i
                break
        _insert(inode, locks, index, fl)
    locks_wake_up_blocks(ctx)
    return None


def flock_lock_inode(inode: Inode, request: FileLock) -> FileLock | None:
    """Sets, changes or clears a flock now; answers the lock in the way, or None when done."""
    ctx = locks_get_lock_context(inode)
    locks = ctx.flock
    for fl in locks:
        if fl.file is request.file:
            if fl.type == request.type:
                return None
            _remove(inode, locks, fl)          # a change gives the old lock up first: not atomic, as documented
            locks_wake_up_blocks(ctx)
            break
    if request.type == F_UNLCK:
        return None
    for fl in locks:
        if flock_locks_conflict(request, fl):
            return fl
    _insert(inode, locks, len(locks), request)
    return None


@notrace
def locks_wake_up_blocks(ctx: FileLockContext) -> None:
    """Lets everybody who waits for a lock of this file look again."""
    wake_up_all(ctx.wait)


@notrace
def _may_try(fl: FileLock, blocker: FileLock, held: list[FileLock],
             conflict: Callable[[FileLock, FileLock], bool]) -> bool:
    """True once what stood in the way is gone or changed."""
    return blocker not in held or not conflict(fl, blocker)


@may_sleep
def locks_lock_inode_wait(inode: Inode, fl: FileLock, wait: bool) -> None:
    """Sets a lock, waiting for its turn if `wait`. Raises EAGAIN, EDEADLK; Restart when a signal comes."""
    flock = fl.flags & FL_FLOCK
    lock = flock_lock_inode if flock else posix_lock_inode
    blocker = lock(inode, fl)
    if blocker is None:
        return
    if not wait:
        raise KernelError(EAGAIN)
    ctx = locks_get_lock_context(inode)
    blocked = current().kernel.vfs.blocked_locks
    blocked.append(fl)
    try:
        while True:
            if not flock and posix_locks_deadlock(fl, blocker):
                raise KernelError(EDEADLK)
            fl.blocker = seen = blocker
            held = ctx.flock if flock else ctx.posix
            conflict = flock_locks_conflict if flock else posix_locks_conflict
            wait_event_interruptible(ctx.wait, partial(_may_try, fl, seen, held, conflict))
            blocker = lock(inode, fl)
            if blocker is None:
                return
    finally:
        fl.blocker = None
        blocked.remove(fl)


def locks_remove_posix(file: File, owner: object) -> None:
    """close(2): drops all POSIX locks that `owner` (a FilesStruct) has in the file. Called at every close."""
    ctx = file.f_inode.i_flctx
    if ctx is None or not ctx.posix:
        return
    gone = [fl for fl in ctx.posix if fl.owner is owner]
    for fl in gone:
        _remove(file.f_inode, ctx.posix, fl)
    if gone:
        locks_wake_up_blocks(ctx)


def locks_remove_file(file: File) -> None:
    """The last reference of an open file goes: drops its flock and OFD locks."""
    ctx = file.f_inode.i_flctx
    if ctx is None:
        return
    inode = file.f_inode
    gone = False
    for locks in (ctx.flock, ctx.posix):
        for fl in [fl for fl in locks if fl.file is file and (fl.flags & FL_FLOCK or fl.owner is file)]:
            _remove(inode, locks, fl)
            gone = True
    if gone:
        locks_wake_up_blocks(ctx)
