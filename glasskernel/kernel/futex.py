"""Futexes: sleeping on a word of user memory.

Linux: kernel/futex.c (5.3). Same: private keys are (mm, address), shared ones the file and offset behind the
    address; WAIT tests the word after it queued; requeue, wake-op, bitsets; robust lists at exit; PI locks
    keep the owner's TID in the word, hand over to the longest waiter of the best priority and survive their
    owner.
Differs: the hash table is a dict, key -> waiters in order; no bucket locks (nobody runs between two
    schedule()s); a fault may sleep, so a word is read and written again after it.
Owns: kernel.futex (FutexState). Gaps: FUTEX_WAIT_REQUEUE_PI and
    FUTEX_CMP_REQUEUE_PI (ENOSYS); futex_waitv (ENOSYS).
Invariants: a FutexQ is in exactly one list, that of its key, while `queued`; no list in `hash` is empty.
Context: task; may sleep.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from glasskernel.arch.x86.uaccess import (
    access_ok,
    copy_from_user,
    get_user_u32,
    get_user_u64,
    put_user_u32,
    put_user_u64,
    user_page,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rtmutex import (
    rt_mutex_adjust_pi,
    rt_mutex_adjust_prio,
    rt_mutex_adjust_prio_chain,
    rt_mutex_deadlock,
)
from glasskernel.kernel.pid import find_task_by_vpid, task_pid_vnr
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_REALCREDS, ptrace_may_access
from glasskernel.kernel.sched.core import schedule, set_current_state, wake_q_add_safe, wake_up_process, wake_up_q
from glasskernel.kernel.task import (
    PF_EXITING,
    PF_KTHREAD,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
    TIF_SIGPENDING,
    TaskStruct,
)
from glasskernel.kernel.time.hrtimer import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    HRTIMER_MODE_ABS,
    KTIME_MAX,
    Hrtimer,
    hrtimer_cancel,
    hrtimer_init_sleeper,
    hrtimer_start_range_ns,
)
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import (
    EAGAIN,
    EDEADLK,
    EFAULT,
    EINVAL,
    ENOSYS,
    EPERM,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOINTR,
    ERESTARTSYS,
    ESRCH,
    ETIMEDOUT,
    KernelError,
    Restart,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t, u32
from glasskernel.mm.mmap import find_vma
from glasskernel.mm.types import VM_MAYSHARE, VM_WRITE

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

(FUTEX_WAIT, FUTEX_WAKE, FUTEX_FD, FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP, FUTEX_LOCK_PI,
 FUTEX_UNLOCK_PI, FUTEX_TRYLOCK_PI, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET, FUTEX_WAIT_REQUEUE_PI,
 FUTEX_CMP_REQUEUE_PI) = range(13)
FUTEX_PRIVATE_FLAG: Final = 128
FUTEX_CLOCK_REALTIME: Final = 256
FUTEX_CMD_MASK: Final = ~(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)
FUTEX_BITSET_MATCH_ANY: Final = 0xFFFF_FFFF
FUTEX_WAITERS: Final = 0x8000_0000
FUTEX_OWNER_DIED: Final = 0x4000_0000
FUTEX_TID_MASK: Final = 0x3FFF_FFFF
ROBUST_LIST_LIMIT: Final = 2048
FLAGS_SHARED, FLAGS_CLOCKRT = 1, 2

_TIMESPEC = struct.Struct("<qq")
_MAX_RT_PRIO: Final = 100

# (mm, page-aligned part and offset) or (mapping, page index, offset): compared by identity of the first part.
FutexKey = tuple[Any, ...]


@slotted
class FutexQ:
    """struct futex_q: one waiter. prio orders the list: real-time waiters first."""

    task: TaskStruct
    key: FutexKey
    bitset: int
    prio: int
    queued: bool = False
    pi_state: FutexPiState | None = None


@slotted
class FutexPiState:
    """struct futex_pi_state: a PI lock that has waiters. owner None: it died, and the next one must repair
    the word.
    """

    key: FutexKey
    owner: TaskStruct | None


@slotted
class FutexState:
    """kernel.futex. pi_owned: the PI locks that a task holds while others wait for them."""

    hash: dict[FutexKey, list[FutexQ]] = field(default_factory=dict)
    pi_owned: dict[TaskStruct, list[FutexPiState]] = field(default_factory=dict)


def futex_init(kernel: Kernel) -> None:
    """Makes kernel.futex. Called by start_kernel()."""
    kernel.futex = FutexState()
    kernel.sched.rt_mutex_adjust_pi = rt_mutex_adjust_pi


# ---- keys and queues ---------------------------------------------------------------------------------------
def get_futex_key(uaddr: int, shared: int, write: int) -> FutexKey:
    """What two tasks agree on when they mean the same word. Raises EINVAL (alignment), EFAULT."""
    offset = uaddr & 0xFFF
    if offset & 3:
        raise KernelError(EINVAL)
    if not access_ok(uaddr, 4):
        raise KernelError(EFAULT)
    mm = current().mm
    assert mm is not None
    if not shared:
        return (mm, uaddr)
    vma = find_vma(mm, uaddr)
    if vma is None or vma.vm_start > uaddr:
        raise KernelError(EFAULT)
    writable = vma.vm_flags & VM_WRITE
    if uaddr >> 12 not in (mm.tlb_write if writable else mm.tlb_read):
        user_page(uaddr, 1 if writable or write else 0)        # a private page becomes our own first
    file = vma.vm_file
    if (vma.vm_flags & VM_MAYSHARE and file is not None) or not writable:
        if file is None:
            raise KernelError(EFAULT)            # anonymous and read-only: nobody could ever change the word
        return (file.f_mapping, (uaddr - vma.vm_start >> 12) + vma.vm_pgoff, offset)
    return (mm, uaddr)                           # anonymous, or copied on write: nobody else sees it


def hash_futex(key: FutexKey) -> list[FutexQ] | None:
    """The waiters on a key, None: nobody."""
    return current().kernel.futex.hash.get(key)


@notrace
def queue_me(q: FutexQ) -> None:
    waiters = hash_futex(q.key)
    if waiters is None:
        q.task.kernel.futex.hash[q.key] = [q]
    elif q.prio >= waiters[-1].prio:
        waiters.append(q)
    else:
        for i, other in enumerate(waiters):
            if other.prio > q.prio:
                waiters.insert(i, q)
                break
    q.queued = True


def __unqueue_futex(q: FutexQ) -> None:
    table = q.task.kernel.futex.hash
    waiters = table[q.key]
    waiters.remove(q)
    if not waiters:
        del table[q.key]
    q.queued = False


@notrace
def unqueue_me(q: FutexQ) -> bool:
    """The waiter gives up. False: it had been woken already."""
    if not q.queued:
        return False
    __unqueue_futex(q)
    return True


@notrace
def new_futex_q(key: FutexKey, bitset: int) -> FutexQ:
    task = current()
    return FutexQ(task, key, bitset, min(task.normal_prio, _MAX_RT_PRIO))


def mark_wake_futex(wake_q: list[TaskStruct], q: FutexQ) -> None:
    """Takes a waiter off its queue; it is woken when the caller is done."""
    __unqueue_futex(q)
    wake_q_add_safe(wake_q, q.task)


# ---- waiting -----------------------------------------------------------------------------------------------
@notrace
def futex_setup_timer(expires_ns: int, flags: int) -> Hrtimer:
    """A timer that will wake the current task at an absolute time. timer.data is None once it fired."""
    timeout = Hrtimer()
    clock = CLOCK_REALTIME if flags & FLAGS_CLOCKRT else CLOCK_MONOTONIC
    hrtimer_init_sleeper(timeout, clock, HRTIMER_MODE_ABS)
    timeout.softexpires = expires_ns
    timeout.expires = expires_ns
    return timeout


@may_sleep
def futex_wait(uaddr: int, flags: int, val: int, abs_time: int | None, bitset: int) -> int:
    """Sleeps if the word is still `val`. abs_time: absolute ns, None: for ever.

    Raises EAGAIN (another value), ETIMEDOUT, EINVAL, EFAULT, Restart.
    """
    if not bitset:
        raise KernelError(EINVAL)
    to = futex_setup_timer(abs_time, flags) if abs_time is not None else None
    try:
        while True:
            q = futex_wait_setup(uaddr, val, flags, bitset)
            futex_wait_queue_me(q, to)
            if not unqueue_me(q):
                return 0                         # woken
            if to is not None and to.data is None:
                raise KernelError(ETIMEDOUT)
            if not q.task.ti_flags & TIF_SIGPENDING:
                continue                         # somebody woke us for another reason
            if abs_time is None:
                raise Restart(ERESTARTSYS)
            q.task.restart_block = lambda: futex_wait(uaddr, flags, val, abs_time, bitset)
            raise Restart(ERESTART_RESTARTBLOCK)
    finally:
        if to is not None:
            hrtimer_cancel(to)


def futex_wait_setup(uaddr: int, val: int, flags: int, bitset: int) -> FutexQ:
    """Queues the task if the word has the expected value; the word is read last.

    Raises EAGAIN, EFAULT, EINVAL.
    """
    key = get_futex_key(uaddr, flags & FLAGS_SHARED, 0)
    q = new_futex_q(key, bitset)
    if get_user_u32(uaddr) != val:
        raise KernelError(EAGAIN)
    # nothing can happen between here and schedule(): who changes the word finds us queued
    set_current_state(TASK_INTERRUPTIBLE)
    queue_me(q)
    return q


def futex_wait_queue_me(q: FutexQ, timeout: Hrtimer | None) -> None:
    """Sleeps until somebody takes us off the queue, a signal, or the timeout."""
    if timeout is not None:
        hrtimer_start_range_ns(timeout, timeout.expires, q.task.timer_slack_ns, HRTIMER_MODE_ABS)
    if q.queued and (timeout is None or timeout.data is not None):
        schedule()
    set_current_state(TASK_RUNNING)


# ---- waking ------------------------------------------------------------------------------------------------
def futex_wake(uaddr: int, flags: int, nr_wake: int, bitset: int) -> int:
    """Wakes up to nr_wake waiters whose bitset meets ours; answers how many."""
    if not bitset:
        raise KernelError(EINVAL)
    key = get_futex_key(uaddr, flags & FLAGS_SHARED, 0)
    waiters = hash_futex(key)
    if waiters is None:
        return 0
    wake_q: list[TaskStruct] = []
    for q in list(waiters):
        if q.pi_state is not None:
            raise KernelError(EINVAL)
        if q.bitset & bitset:
            mark_wake_futex(wake_q, q)
            if len(wake_q) >= nr_wake:
                break
    wake_up_q(wake_q)
    return len(wake_q)


@notrace
def futex_atomic_op_inuser(encoded_op: int, uaddr: int) -> bool:
    """Changes a word as FUTEX_WAKE_OP asks and compares its old value. Raises EFAULT, ENOSYS."""
    op = encoded_op >> 28 & 7
    cmp = encoded_op >> 24 & 15
    oparg = (encoded_op >> 12 & 0xFFF ^ 0x800) - 0x800
    cmparg = (encoded_op & 0xFFF ^ 0x800) - 0x800
    if encoded_op >> 31 & 1:
        oparg = 1 << (oparg & 31)
    if not access_ok(uaddr, 4):
        raise KernelError(EFAULT)
    user_page(uaddr, 1)                          # may sleep; from here on nobody else changes the word
    old = get_user_u32(uaddr)
    if op == 0:
        new = oparg
    elif op == 1:
        new = old + oparg
    elif op == 2:
        new = old | oparg
    elif op == 3:
        new = old & ~oparg
    elif op == 4:
        new = old ^ oparg
    else:
        raise KernelError(ENOSYS)
    put_user_u32(uaddr, new & 0xFFFF_FFFF)
    signed = (old ^ 0x8000_0000) - 0x8000_0000
    if cmp == 0:
        return signed == cmparg
    if cmp == 1:
        return signed != cmparg
    if cmp == 2:
        return signed < cmparg
    if cmp == 3:
        return signed <= cmparg
    if cmp == 4:
        return signed > cmparg
    if cmp == 5:
        return signed >= cmparg
    raise KernelError(ENOSYS)


def futex_wake_op(uaddr1: int, flags: int, uaddr2: int, nr_wake: int, nr_wake2: int, op: int) -> int:
    """Changes the second word, wakes waiters of the first, and of the second if its old value says so."""
    key1 = get_futex_key(uaddr1, flags & FLAGS_SHARED, 0)
    key2 = get_futex_key(uaddr2, flags & FLAGS_SHARED, 1)
    both = futex_atomic_op_inuser(op, uaddr2)
    wake_q: list[TaskStruct] = []
    for key, limit in ((key1, nr_wake), (key2, nr_wake2)) if both else ((key1, nr_wake),):
        for q in list(hash_futex(key) or ())[: max(limit, 1)]:
            if q.pi_state is not None:
                raise KernelError(EINVAL)
            mark_wake_futex(wake_q, q)
    wake_up_q(wake_q)
    return len(wake_q)


def futex_requeue(
    uaddr1: int, flags: int, uaddr2: int, nr_wake: int, nr_requeue: int, cmpval: int | None
) -> int:
    """Wakes nr_wake waiters and moves nr_requeue others to the second word; answers how many in all.

    Raises EAGAIN when the word is not cmpval.
    """
    if nr_wake < 0 or nr_requeue < 0:
        raise KernelError(EINVAL)
    key1 = get_futex_key(uaddr1, flags & FLAGS_SHARED, 0)
    key2 = get_futex_key(uaddr2, flags & FLAGS_SHARED, 0)
    if cmpval is not None and get_user_u32(uaddr1) != cmpval:
        raise KernelError(EAGAIN)
    wake_q: list[TaskStruct] = []
    chosen = list(hash_futex(key1) or ())[: nr_wake + nr_requeue]
    if any(q.pi_state is not None for q in chosen):
        raise KernelError(EINVAL)
    for q in chosen[:nr_wake]:
        mark_wake_futex(wake_q, q)
    for q in chosen[nr_wake:]:
        requeue_futex(q, key2)
    wake_up_q(wake_q)
    return len(chosen)


@notrace
def requeue_futex(q: FutexQ, key2: FutexKey) -> None:
    if q.key != key2:
        __unqueue_futex(q)
        q.key = key2
        queue_me(q)


# ---- priority-inheritance locks ----------------------------------------------------------------------------
def futex_top_waiter(key: FutexKey) -> FutexQ | None:
    waiters = hash_futex(key)
    return waiters[0] if waiters else None


@notrace
def _write_word(uaddr: int, value: int) -> None:
    put_user_u32(uaddr, value & 0xFFFF_FFFF)


def attach_to_pi_owner(key: FutexKey, tid: int) -> FutexPiState:
    """The first waiter of a lock that user space took alone. Raises ESRCH, EPERM."""
    owner = find_task_by_vpid(tid)
    if owner is None or owner.flags & PF_EXITING:
        raise KernelError(ESRCH)
    if owner.flags & PF_KTHREAD:
        raise KernelError(EPERM)
    state = FutexPiState(key, owner)
    owner.kernel.futex.pi_owned.setdefault(owner, []).append(state)
    return state


@notrace
def _pi_change_owner(state: FutexPiState, owner: TaskStruct | None) -> None:
    table = current().kernel.futex.pi_owned
    old = state.owner
    if old is not None:
        held = table[old]
        held.remove(state)
        if not held:
            del table[old]
    state.owner = owner
    if owner is not None:
        table.setdefault(owner, []).append(state)


@may_sleep
def futex_lock_pi(uaddr: int, flags: int, time: int | None, trylock: bool) -> int:
    """Takes the lock in a word: 0 or dead -> TID; held -> wait for the owner to hand it over.

    time: absolute, of CLOCK_REALTIME.
    Raises EDEADLK, EAGAIN (trylock), ETIMEDOUT, ESRCH, EPERM, EFAULT, Restart.
    """
    task = current()
    to = futex_setup_timer(time, FLAGS_CLOCKRT) if time is not None else None
    key = get_futex_key(uaddr, flags & FLAGS_SHARED, 1)
    user_page(uaddr, 1)
    word = get_user_u32(uaddr)
    tid = word & FUTEX_TID_MASK
    if tid == task_pid_vnr(task):
        raise KernelError(EDEADLK)
    top = futex_top_waiter(key)
    if top is None and not tid:                  # free, or its owner died and nobody waits
        _write_word(uaddr, word & FUTEX_OWNER_DIED | task_pid_vnr(task))
        return 0
    if top is not None and top.pi_state is None:
        raise KernelError(EINVAL)
    if trylock:
        raise KernelError(EAGAIN)
    if rt_mutex_deadlock(task, top.pi_state.owner if top is not None and top.pi_state is not None
                         else find_task_by_vpid(tid)):
        raise KernelError(EDEADLK)
    state = top.pi_state if top is not None else attach_to_pi_owner(key, tid)
    assert state is not None
    _write_word(uaddr, word | FUTEX_WAITERS)
    q = new_futex_q(key, FUTEX_BITSET_MATCH_ANY)
    q.prio = task.prio
    q.pi_state = state
    set_current_state(TASK_INTERRUPTIBLE)
    queue_me(q)
    task.pi_blocked_on = q
    rt_mutex_adjust_prio_chain(state.owner)        # task_blocks_on_rt_mutex()
    try:
        if to is not None:
            hrtimer_start_range_ns(to, to.expires, 0, HRTIMER_MODE_ABS)
        while q.queued and (to is None or to.data is not None) and not task.ti_flags & TIF_SIGPENDING:
            schedule()
            set_current_state(TASK_INTERRUPTIBLE)
        set_current_state(TASK_RUNNING)
    finally:
        task.pi_blocked_on = None
        if to is not None:
            hrtimer_cancel(to)
    if not q.queued:                             # the lock is ours; the word may still name a dead owner
        word = get_user_u32(uaddr)
        if word & FUTEX_TID_MASK != task_pid_vnr(task):
            more = FUTEX_WAITERS if hash_futex(key) else 0
            _write_word(uaddr, word & FUTEX_OWNER_DIED | more | task_pid_vnr(task))
        return 0
    __unqueue_futex(q)                           # remove_waiter()
    owner = state.owner
    if not hash_futex(key):
        _pi_change_owner(state, None)
    rt_mutex_adjust_prio_chain(owner)
    if to is not None and to.data is None:
        raise KernelError(ETIMEDOUT)
    raise Restart(ERESTARTNOINTR)


@notrace
def _pi_hand_over(state: FutexPiState, next_q: FutexQ) -> None:
    """The best waiter becomes the owner; the state lives on while others wait. Both get the priority they are due."""
    old = state.owner
    __unqueue_futex(next_q)
    next_q.task.pi_blocked_on = None
    _pi_change_owner(state, next_q.task if current().kernel.futex.hash.get(state.key) else None)
    rt_mutex_adjust_prio(next_q.task)
    if old is not None:
        rt_mutex_adjust_prio(old)


def futex_unlock_pi(uaddr: int, flags: int) -> int:
    """Gives the lock to the next waiter, or frees the word. Raises EPERM, EFAULT."""
    task = current()
    word = get_user_u32(uaddr)
    if word & FUTEX_TID_MASK != task_pid_vnr(task):
        raise KernelError(EPERM)
    key = get_futex_key(uaddr, flags & FLAGS_SHARED, 1)
    user_page(uaddr, 1)
    top = futex_top_waiter(key)
    if top is None:
        _write_word(uaddr, 0)
        return 0
    state = top.pi_state
    if state is None or state.owner is not task:
        raise KernelError(EINVAL)
    _pi_hand_over(state, top)
    _write_word(uaddr, task_pid_vnr(top.task) | (FUTEX_WAITERS if hash_futex(key) else 0))
    wake_up_process(top.task)
    return 0


def exit_pi_state_list(task: TaskStruct) -> None:
    """A dying task's PI locks go to their next waiters, who find OWNER_DIED in the word."""
    for state in list(task.kernel.futex.pi_owned.get(task, ())):
        top = futex_top_waiter(state.key)
        if top is None:
            _pi_change_owner(state, None)
            continue
        _pi_hand_over(state, top)
        wake_up_process(top.task)


# ---- robust lists ------------------------------------------------------------------------------------------
@syscall
def sys_set_robust_list(head: UserPtr, len: size_t) -> int:
    """set_robust_list(2). Errors: EINVAL."""
    if len != 24:
        raise KernelError(EINVAL)
    current().robust_list = head
    return 0


@syscall
def sys_get_robust_list(pid: int, head_ptr: UserPtr, len_ptr: UserPtr) -> int:
    """get_robust_list(2). Errors: ESRCH, EPERM, EFAULT."""
    task = find_task_by_vpid(pid) if pid else current()
    if task is None:
        raise KernelError(ESRCH)
    if not ptrace_may_access(task, PTRACE_MODE_READ_REALCREDS):
        raise KernelError(EPERM)
    put_user_u64(len_ptr, 24)
    put_user_u64(head_ptr, task.robust_list)
    return 0


def handle_futex_death(uaddr: int, task: TaskStruct, pi: int) -> None:
    """A robust lock of a dying task: marks the word OWNER_DIED and wakes one waiter.

    Raises EFAULT, EINVAL.
    """
    if uaddr & 3:
        raise KernelError(EINVAL)
    word = get_user_u32(uaddr)
    if word & FUTEX_TID_MASK != task_pid_vnr(task):
        return
    user_page(uaddr, 1)
    word = get_user_u32(uaddr)
    _write_word(uaddr, word & FUTEX_WAITERS | FUTEX_OWNER_DIED)
    if not pi and word & FUTEX_WAITERS:
        futex_wake(uaddr, FLAGS_SHARED, 1, FUTEX_BITSET_MATCH_ANY)


def exit_robust_list(task: TaskStruct) -> None:
    """Walks the list of locks that user space keeps, at most ROBUST_LIST_LIMIT of them.

    Bad pointers end the walk.
    """
    head = task.robust_list
    try:
        entry, offset, pending = struct.unpack("<QqQ", copy_from_user(head, 24))
        pi = entry & 1
        entry &= ~1
        limit = ROBUST_LIST_LIMIT
        while entry != head and limit:
            following = get_user_u64(entry)
            if entry != pending & ~1:
                handle_futex_death(entry + offset, task, pi)
            pi = following & 1
            entry = following & ~1
            limit -= 1
        if pending & ~1:
            handle_futex_death((pending & ~1) + offset, task, pending & 1)
    except KernelError:
        return


# ---- the system call ---------------------------------------------------------------------------------------
@may_sleep
def do_futex(uaddr: int, op: int, val: int, timeout: int | None, uaddr2: int, val2: int, val3: int) -> int:
    """futex(2) with a decoded timeout (absolute ns). val2: the fourth argument when it is a number."""
    cmd = op & FUTEX_CMD_MASK
    flags = 0
    if not op & FUTEX_PRIVATE_FLAG:
        flags = FLAGS_SHARED
    if op & FUTEX_CLOCK_REALTIME:
        flags |= FLAGS_CLOCKRT
        if cmd not in (FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI):
            raise KernelError(ENOSYS)
    if cmd == FUTEX_WAIT:
        return futex_wait(uaddr, flags, val, timeout, FUTEX_BITSET_MATCH_ANY)
    if cmd == FUTEX_WAIT_BITSET:
        return futex_wait(uaddr, flags, val, timeout, val3)
    if cmd == FUTEX_WAKE:
        return futex_wake(uaddr, flags, _signed(val), FUTEX_BITSET_MATCH_ANY)
    if cmd == FUTEX_WAKE_BITSET:
        return futex_wake(uaddr, flags, _signed(val), val3)
    if cmd == FUTEX_REQUEUE:
        return futex_requeue(uaddr, flags, uaddr2, _signed(val), _signed(val2), None)
    if cmd == FUTEX_CMP_REQUEUE:
        return futex_requeue(uaddr, flags, uaddr2, _signed(val), _signed(val2), val3)
    if cmd == FUTEX_WAKE_OP:
        return futex_wake_op(uaddr, flags, uaddr2, _signed(val), _signed(val2), val3)
    if cmd == FUTEX_LOCK_PI:
        return futex_lock_pi(uaddr, flags, timeout, False)
    if cmd == FUTEX_UNLOCK_PI:
        return futex_unlock_pi(uaddr, flags)
    if cmd == FUTEX_TRYLOCK_PI:
        return futex_lock_pi(uaddr, flags, None, True)
    raise KernelError(ENOSYS)


@notrace
def _signed(value: int) -> int:
    return (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000


@syscall(gaps="WAIT_REQUEUE_PI and CMP_REQUEUE_PI are ENOSYS")
def sys_futex(uaddr: UserPtr, op: int, val: u32, utime: UserPtr, uaddr2: UserPtr, val3: u32) -> int:
    """futex(2). Errors: EAGAIN, EINVAL, EFAULT, ENOSYS, ETIMEDOUT, EDEADLK, EPERM, ESRCH, EINTR."""
    cmd = op & FUTEX_CMD_MASK
    if cmd in (FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_LOCK_PI, FUTEX_WAIT_REQUEUE_PI):
        if not utime:
            return do_futex(uaddr, op, val, None, uaddr2, 0, val3)
        sec, nsec = _TIMESPEC.unpack(copy_from_user(utime, 16))
        if sec < 0 or not 0 <= nsec < 1_000_000_000:
            raise KernelError(EINVAL)
        time = sec * 1_000_000_000 + nsec
        if cmd == FUTEX_WAIT:                    # the only relative one
            time += ktime_get()
        return do_futex(uaddr, op, val, min(time, KTIME_MAX), uaddr2, 0, val3)
    return do_futex(uaddr, op, val, None, uaddr2, utime & 0xFFFF_FFFF, val3)
