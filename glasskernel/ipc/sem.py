"""System V semaphores.

Linux: ipc/sem.c (5.3). Same: all operations of one semop() happen at once or none; sleepers are tried again, in the
    order in which they came, after every change; SEM_UNDO is undone at exit; a signal ends a sleep with EINTR for good.
Differs: kernel code is not interrupted, so there are no locks, and one queue for each set.
Owns: SemArray, SemUndo (task.sysvsem, shared by CLONE_SYSVSEM).
Invariants: 0 <= semval <= SEMVMX; no operation in `pending` could be done now.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.ipc.util import (
    IPC_INFO,
    IPC_NOWAIT,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    S_IRUGO,
    S_IWUGO,
    KernIpcPerm,
    highest,
    ipc_addid,
    ipc_obtain_object_check,
    ipc_obtain_object_idr,
    ipc_rmid,
    ipc_state,
    ipc_update_perm,
    ipcctl_obtain_check,
    ipcget_public,
    ipcperms,
    kernel_to_ipc64_perm,
    new_perm,
    seconds,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import MAX_SCHEDULE_TIMEOUT
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible_timeout, wake_up
from glasskernel.kernel.time.hrtimer import get_timespec64
from glasskernel.lib.errno import (
    E2BIG,
    EAGAIN,
    EFBIG,
    EIDRM,
    EINTR,
    EINVAL,
    ENOSPC,
    ERANGE,
    KernelError,
    Restart,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.ipc.util import IpcState
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.lib.types import UserPtr, s32, u32, ulong

GETPID, GETVAL, GETALL, GETNCNT, GETZCNT, SETVAL, SETALL, SEM_STAT, SEM_INFO, SEM_STAT_ANY = range(11, 21)
SEM_UNDO = 0x1000
SEMVMX, SEMAEM = 32767, 32767
_NS_PER_JIFFY = 4_000_000
CLONE_SYSVSEM = 0x40000
_SEMBUF = struct.Struct("<Hhh")                    # struct sembuf


@slotted
class Sem:
    """struct sem"""

    semval: int = 0
    sempid: int = 0
    otime: int = 0


@slotted
class SemQueue:
    """struct sem_queue: a semop() that sleeps. status: None while it does; then 0 or an errno."""

    sops: list[tuple[int, int, int]]
    undo: SemUndo | None
    pid: int
    blocking: int                                  # index in sops of the operation that cannot be done
    status: int | None = None
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)


@slotted
class SemArray(KernIpcPerm):
    """struct sem_array"""

    sems: list[Sem] = field(default_factory=list)
    ctime: int = 0
    pending: list[SemQueue] = field(default_factory=list)
    undos: list[SemUndo] = field(default_factory=list)


@slotted
class SemUndo:
    """struct sem_undo: what exit adds to each semaphore of one set."""

    array: SemArray
    semadj: list[int]


@slotted
class SemUndoList:
    """struct sem_undo_list. users: tasks that share it."""

    users: int = 1
    undos: dict[SemArray, SemUndo] = field(default_factory=dict)


# ---- doing and waiting ------------------------------------------------------------------------------------------
def perform_atomic_semop(array: SemArray, q: SemQueue) -> bool | int:
    """Does all operations of q: True; or none: False, q.blocking says why. An errno: EAGAIN, ERANGE."""
    done: list[tuple[Sem, int]] = []
    failed: bool | int = True
    for i, (number, op, flags) in enumerate(q.sops):
        sem = array.sems[number]
        result = sem.semval + op
        if (op == 0 and sem.semval) or result < 0:
            q.blocking = i
            failed = EAGAIN if flags & IPC_NOWAIT else False
            break
        if result > SEMVMX:
            failed = ERANGE
            break
        if flags & SEM_UNDO and q.undo is not None and not -SEMAEM - 1 <= q.undo.semadj[number] - op <= SEMAEM:
            failed = ERANGE
            break
        done.append((sem, sem.semval))
        sem.semval = result
    if failed is not True:
        for sem, value in reversed(done):
            sem.semval = value
        return failed
    now = seconds()
    for number, op, flags in q.sops:
        array.sems[number].sempid = q.pid
        array.sems[number].otime = now
        if flags & SEM_UNDO and q.undo is not None:
            q.undo.semadj[number] -= op
    return True


def update_queue(array: SemArray) -> None:
    """Something changed: lets every sleeper go on that can, and starts again while one did."""
    again = True
    while again:
        again = False
        for q in list(array.pending):
            result = perform_atomic_semop(array, q)
            if result is False:
                continue
            wake_up_sem_queue_prepare(array, q, 0 if result is True else result)
            if result is True and any(op for _, op, _ in q.sops):
                again = True
                break


def wake_up_sem_queue_prepare(array: SemArray, q: SemQueue, status: int) -> None:
    """Ends a sleep with an errno, or 0."""
    array.pending.remove(q)
    q.status = status
    wake_up(q.wait)


@may_sleep
def do_semtimedop(semid: int, tsops: int, nsops: int, timeout_ns: int | None) -> int:
    """semtimedop(2). Raises E2BIG, EACCES, EAGAIN, EFAULT, EFBIG, EIDRM, EINTR, EINVAL, ERANGE."""
    state = ipc_state()
    if nsops < 1 or semid < 0:
        raise KernelError(EINVAL)
    if nsops > state.sem_opm:
        raise KernelError(E2BIG)
    sops = list(_SEMBUF.iter_unpack(copy_from_user(tsops, nsops * _SEMBUF.size)))
    array: SemArray = ipc_obtain_object_check(state.sem, semid)
    if max(number for number, _, _ in sops) >= len(array.sems):
        raise KernelError(EFBIG)
    alter = any(op for _, op, _ in sops)
    ipcperms(array, S_IWUGO if alter else S_IRUGO)
    if array.security is not None:
        current().kernel.lsm.security_sem_semop(array, alter)
    task = current()
    undo = find_alloc_undo(task, array) if any(flags & SEM_UNDO for _, _, flags in sops) else None
    q = SemQueue([(number, op, flags & 0xFFFF) for number, op, flags in sops], undo, task.tgid, 0)
    result = perform_atomic_semop(array, q)
    if result is True:
        update_queue(array)
        return 0
    if result is not False:
        raise KernelError(result)
    array.pending.append(q)
    timeout = MAX_SCHEDULE_TIMEOUT if timeout_ns is None else -(-timeout_ns // _NS_PER_JIFFY)
    try:
        if timeout or timeout_ns is None:
            wait_event_interruptible_timeout(q.wait, lambda: q.status is not None, timeout)
    except Restart:
        if q.status is None:
            array.pending.remove(q)
            raise KernelError(EINTR) from None
    if q.status is None:
        array.pending.remove(q)
        raise KernelError(EAGAIN)
    if q.status:
        raise KernelError(q.status)
    return 0


@syscall
def sys_semop(semid: int, tsops: UserPtr, nsops: u32) -> int:
    """semop(2)"""
    return do_semtimedop(semid, tsops, nsops, None)


@syscall
def sys_semtimedop(semid: int, tsops: UserPtr, nsops: u32, timeout: UserPtr) -> int:
    """semtimedop(2). The timeout is relative."""
    if not timeout:
        return do_semtimedop(semid, tsops, nsops, None)
    sec, nsec = get_timespec64(timeout)
    if sec < 0 or not 0 <= nsec < 1_000_000_000:
        raise KernelError(EINVAL)
    return do_semtimedop(semid, tsops, nsops, sec * 1_000_000_000 + nsec)


# ---- making and controlling ---------------------------------------------------------------------------------------
@syscall
def sys_semget(key: s32, nsems: int, semflg: int) -> int:
    """semget(2). Errors: EACCES, EEXIST, EINVAL, ENOENT, ENOSPC."""
    state = ipc_state()
    if not 0 <= nsems <= state.sem_msl:
        raise KernelError(EINVAL)
    array: SemArray | None = ipcget_public(state.sem, key, semflg)
    if array is None:
        return newary(state, key, nsems, semflg)
    if nsems > len(array.sems):
        raise KernelError(EINVAL)
    ipcperms(array, semflg)
    if array.security is not None:
        current().kernel.lsm.security_sem_associate(array, semflg)
    return array.id


def newary(state: IpcState, key: int, nsems: int, semflg: int) -> int:
    """A new set. Raises EINVAL, ENOSPC."""
    if not nsems:
        raise KernelError(EINVAL)
    if state.used_sems + nsems > state.sem_mns:
        raise KernelError(ENOSPC)
    array = SemArray(*new_perm(key, semflg), sems=[Sem() for _ in range(nsems)], ctime=seconds())
    lsm = current().kernel.lsm
    if lsm is not None:
        lsm.security_sem_alloc(array)
    ipc_addid(state.sem, array, state.sem_mni)
    state.used_sems += nsems
    return array.id


def freeary(state: IpcState, array: SemArray) -> None:
    """The set goes: sleepers get EIDRM, undo entries vanish."""
    for undo in array.undos:
        undo.semadj = []
    ipc_rmid(state.sem, array)
    for q in list(array.pending):
        wake_up_sem_queue_prepare(array, q, EIDRM)
    state.used_sems -= len(array.sems)


@syscall
def sys_semctl(semid: int, semnum: int, cmd: int, arg: ulong) -> int:
    """semctl(2). Errors: EACCES, EFAULT, EIDRM, EINVAL, EPERM, ERANGE."""
    state = ipc_state()
    if semid < 0:
        raise KernelError(EINVAL)
    if cmd in (IPC_INFO, SEM_INFO):
        return semctl_info(state, cmd, arg)
    if cmd in (IPC_STAT, SEM_STAT, SEM_STAT_ANY):
        return semctl_stat(state, semid, cmd, arg)
    if cmd in (IPC_RMID, IPC_SET):
        return semctl_down(state, semid, cmd, arg)
    if cmd not in (GETPID, GETVAL, GETALL, GETNCNT, GETZCNT, SETVAL, SETALL):
        raise KernelError(EINVAL)
    return semctl_main(state, semid, semnum, cmd, arg)


def semctl_info(state: IpcState, cmd: int, arg: int) -> int:
    """IPC_INFO, SEM_INFO: struct seminfo."""
    lsm = current().kernel.lsm
    if lsm is not None:
        lsm.security_sem_semctl(None, cmd)
    semusz, semaem = (len(state.sem.objects), state.used_sems) if cmd == SEM_INFO else (20, SEMAEM)
    copy_to_user(arg, struct.pack(
        "<10i", state.sem_mns, state.sem_mni, state.sem_mns, state.sem_mns, state.sem_msl, state.sem_opm, state.sem_opm,
        semusz, SEMVMX, semaem))
    return highest(state.sem)


def semctl_stat(state: IpcState, semid: int, cmd: int, arg: int) -> int:
    """struct semid64_ds"""
    array: SemArray = (ipc_obtain_object_check if cmd == IPC_STAT else ipc_obtain_object_idr)(state.sem, semid)
    if cmd != SEM_STAT_ANY:
        ipcperms(array, S_IRUGO)
    if array.security is not None:
        current().kernel.lsm.security_sem_semctl(array, cmd)
    otime = max(sem.otime for sem in array.sems)
    copy_to_user(arg, kernel_to_ipc64_perm(array) + struct.pack("<7Q", otime, 0, array.ctime, 0, len(array.sems), 0, 0))
    return 0 if cmd == IPC_STAT else array.id


def semctl_down(state: IpcState, semid: int, cmd: int, arg: int) -> int:
    """IPC_RMID and IPC_SET"""
    data = copy_from_user(arg, 48) if cmd == IPC_SET else b""
    array: SemArray = ipcctl_obtain_check(state.sem, semid)
    if array.security is not None:
        current().kernel.lsm.security_sem_semctl(array, cmd)
    if cmd == IPC_RMID:
        freeary(state, array)
    else:
        ipc_update_perm(data, array)
        array.ctime = seconds()
    return 0


def semctl_main(state: IpcState, semid: int, semnum: int, cmd: int, arg: int) -> int:
    """Looks at values and sets them."""
    array: SemArray = ipc_obtain_object_check(state.sem, semid)
    count = len(array.sems)
    if cmd == SETVAL:
        return semctl_setval(array, semnum, (arg & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000)
    ipcperms(array, S_IWUGO if cmd == SETALL else S_IRUGO)
    if array.security is not None:
        current().kernel.lsm.security_sem_semctl(array, cmd)
    if cmd == GETALL:
        copy_to_user(arg, struct.pack(f"<{count}H", *(sem.semval for sem in array.sems)))
        return 0
    if cmd == SETALL:
        values = struct.unpack(f"<{count}H", copy_from_user(arg, 2 * count))
        if max(values) > SEMVMX:
            raise KernelError(ERANGE)
        for i, (sem, value) in enumerate(zip(array.sems, values, strict=True)):
            sem.semval, sem.sempid = value, current().tgid
            for undo in array.undos:
                undo.semadj[i] = 0
        array.ctime = seconds()
        update_queue(array)
        return 0
    if not 0 <= semnum < count:
        raise KernelError(EINVAL)
    if cmd == GETVAL:
        return array.sems[semnum].semval
    if cmd == GETPID:
        return array.sems[semnum].sempid
    return count_semcnt(array, semnum, cmd == GETZCNT)


def semctl_setval(array: SemArray, semnum: int, value: int) -> int:
    """SETVAL"""
    if not 0 <= value <= SEMVMX:
        raise KernelError(ERANGE)
    if not 0 <= semnum < len(array.sems):
        raise KernelError(EINVAL)
    ipcperms(array, S_IWUGO)
    if array.security is not None:
        current().kernel.lsm.security_sem_semctl(array, SETVAL)
    for undo in array.undos:
        undo.semadj[semnum] = 0
    array.sems[semnum].semval = value
    array.sems[semnum].sempid = current().tgid
    array.ctime = seconds()
    update_queue(array)
    return 0


def count_semcnt(array: SemArray, semnum: int, zero: bool) -> int:
    """How many sleepers wait for one semaphore to grow, or to become zero."""
    blocking = (q.sops[q.blocking] for q in array.pending)
    return sum(number == semnum and (op == 0) == zero for number, op, _ in blocking)


# ---- undo ---------------------------------------------------------------------------------------------------------
def find_alloc_undo(task: TaskStruct, array: SemArray) -> SemUndo:
    """The undo entry of a task's list for one set."""
    if task.sysvsem is None:
        task.sysvsem = SemUndoList()
    undos: SemUndoList = task.sysvsem
    undo = undos.undos.get(array)
    if undo is None:
        undo = undos.undos[array] = SemUndo(array, [0] * len(array.sems))
        array.undos.append(undo)
    return undo


def copy_semundo(clone_flags: int, task: TaskStruct) -> None:
    """fork: CLONE_SYSVSEM shares the list; otherwise the child has none."""
    if not clone_flags & CLONE_SYSVSEM:
        task.sysvsem = None
        return
    parent = current()
    if parent.sysvsem is None:
        parent.sysvsem = SemUndoList()
    parent.sysvsem.users += 1
    task.sysvsem = parent.sysvsem


def exit_sem(task: TaskStruct) -> None:
    """exit(2), unshare(2): the last user of the list undoes what SEM_UNDO promised."""
    undos: SemUndoList | None = task.sysvsem
    task.sysvsem = None
    if undos is None:
        return
    undos.users -= 1
    if undos.users:
        return
    for array, undo in undos.undos.items():
        if array.deleted:
            continue
        array.undos.remove(undo)
        for sem, adjust in zip(array.sems, undo.semadj, strict=True):
            if adjust:
                sem.semval = min(max(sem.semval + adjust, 0), SEMVMX)
                sem.sempid = task.tgid
                sem.otime = seconds()
        update_queue(array)


@notrace
def sysvipc_sem_lines(state: IpcState) -> list[bytes]:
    """/proc/sysvipc/sem"""
    lines = [b"       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"]
    for array in sorted(state.sem.objects.values(), key=lambda a: int(a.id)):
        otime = max(sem.otime for sem in array.sems)
        lines.append(b"%10d %10d  %4o %10d %5d %5d %5d %5d %10d %10d\n" % (
            array.key, array.id, array.mode, len(array.sems), array.uid, array.gid, array.cuid, array.cgid, otime,
            array.ctime))
    return lines
