"""struct sock: its life, its lock, and what wakes who waits for it.

Linux: net/core/sock.c, include/net/sock.h (5.3). Same: a sock is freed when nobody refers to it and none of its packets
is on the way; lock_sock() may sleep, softirqs that find it taken leave packets in the backlog for the owner; the
callbacks sk_data_ready and so on, and the poll events they wake with. Options are in sock_options.py, memory in
sock_memory.py, protocols in proto.py, packet filters in filter.py.
Differs: sk_wmem_alloc does not count the sock itself; kernel code is not interrupted (docs/architecture.md), so
sk_slock is taken only where softirqs could come in between; bh_lock_sock() is nothing and sock_owned_by_user() a field.
Owns: Sock.sk_refcnt, sk_lock_owned, sk_backlog; NetState.slabs.
Invariants: sk_lock_owned or the backlog is empty; a freed sock has sk_rmem_alloc 0 and sk_forward_alloc 0.
Gaps: cgroup accounting, busy polling, SO_ZEROCOPY.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.fcntl_signal import kill_fasync, send_sigurg
from glasskernel.fs.types import POLLERR, POLLIN, POLLOUT, POLLPRI, POLLRDBAND, POLLRDNORM, POLLWRBAND, POLLWRNORM
from glasskernel.kernel.cred import get_cred, put_cred
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.spinlock import SpinLock, _raw_spin_lock_bh, _raw_spin_unlock_bh
from glasskernel.kernel.pid import get_pid, put_pid
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.sched.core import cond_resched, schedule
from glasskernel.kernel.sched.preempt import might_resched
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    __wake_up,
    __wake_up_sync_key,
    add_wait_queue,
    finish_wait,
    prepare_to_wait_exclusive,
    remove_wait_queue,
    wait_woken,
    wake_up,
    woken_wake_function,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.kernel.time.timer import del_timer, mod_timer
from glasskernel.lib.errno import EINTR, KernelError, Restart
from glasskernel.lib.slotted import copy_fields
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.slab_common import kfree, kmalloc
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free
from glasskernel.net.core.filter import sk_filter_uncharge
from glasskernel.net.skbuff import SkBuffHead
from glasskernel.net.types import (
    MAX_SCHEDULE_TIMEOUT,
    SOCK_DEAD,
    SOCK_RCU_FREE,
    SOCK_TIMESTAMP,
    SOCK_ZAPPED,
    SOCKWQ_ASYNC_NOSPACE,
    SOCKWQ_ASYNC_WAITDATA,
    TCP_CLOSE,
    get_net,
    put_net,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.kernel.time.timer import TimerList
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net, Proto, Sock, Socket

SIGIO, SIGURG = 29, 23
SK_DEFAULT_STAMP = -1                    # of a sock that read no packet yet
POLL_IN, POLL_OUT, POLL_ERR, POLL_PRI, POLL_HUP = 1, 2, 4, 5, 6
SOCK_WAKE_IO, SOCK_WAKE_WAITD, SOCK_WAKE_SPACE, SOCK_WAKE_URG = range(4)
_READABLE = POLLIN | POLLPRI | POLLRDNORM | POLLRDBAND
_WRITABLE = POLLOUT | POLLWRNORM | POLLWRBAND


# ---- making and freeing ------------------------------------------------------------------------------------------
def sk_prot_alloc(net: Net, prot: Proto, family: int) -> Sock:
    """The object, and the slot of its protocol's cache."""
    kernel = net.kernel
    assert kernel.net is not None
    slab = kernel.net.slabs.get(prot.name)
    address = kmalloc(kernel, prot.obj_size, GFP_KERNEL) if slab is None else kmem_cache_alloc(slab, GFP_KERNEL)
    sk = prot.make(net, prot, family)
    sk.slab_address = address
    if kernel.lsm is not None:
        kernel.lsm.security_sk_alloc(sk)
    return sk


def sk_prot_free(prot: Proto, sk: Sock) -> None:
    kernel = sk.sk_net.kernel
    assert kernel.net is not None
    slab = kernel.net.slabs.get(prot.name)
    if slab is None:
        kfree(kernel, sk.slab_address)
    else:
        kmem_cache_free(slab, sk.slab_address)


def sk_alloc(net: Net, family: int, prot: Proto, kern: bool) -> Sock:
    """A sock of a protocol, with one reference; sock_init_data() is next. kern: it does not hold the namespace."""
    sk = sk_prot_alloc(net, prot, family)
    if not kern:
        sk.sk_net_refcnt = True
        get_net(net)
        net.sock_inuse += 1
    return sk


def sk_free(sk: Sock) -> None:
    """Nobody refers to the sock any more. It stays until its last packet was sent: sock_wfree()."""
    if not sk.sk_wmem_alloc:
        __sk_free(sk)


def __sk_free(sk: Sock) -> None:
    if sk.sk_net_refcnt:
        sk.sk_net.sock_inuse -= 1
    sk_destruct(sk)


@notrace
def sk_destruct(sk: Sock) -> None:
    """At once, or after a grace period if softirqs look it up without a reference."""
    if sk.sk_flags & SOCK_RCU_FREE:
        call_rcu(sk, __sk_destruct)
    else:
        __sk_destruct(sk)


def __sk_destruct(sk: Sock) -> None:
    destruct = sk.sk_destruct
    if destruct is not None:
        destruct(sk)
    if sk.sk_filter is not None:
        sk_filter_uncharge(sk, sk.sk_filter)
        sk.sk_filter = None
    sock_disable_timestamp(sk)
    if sk.sk_peer_cred is not None:
        put_cred(sk.sk_peer_cred)
        sk.sk_peer_cred = None
    put_pid(sk.sk_peer_pid)
    if sk.sk_net_refcnt:
        put_net(sk.sk_net)
    sk_prot_free(sk.sk_prot, sk)


@notrace
def sock_hold(sk: Sock) -> None:
    sk.sk_refcnt += 1


@notrace
def sock_put(sk: Sock) -> None:
    """One reference less; the last one frees it. Context: any."""
    sk.sk_refcnt -= 1
    if not sk.sk_refcnt:
        sk_free(sk)


def sock_init_data(sock: Socket | None, sk: Sock) -> None:
    """The fields that every family has, from the namespace's defaults; ties sock and sk together. Context: task."""
    state = sk.sk_net.kernel.net
    assert state is not None
    sk.sk_receive_queue = SkBuffHead()
    sk.sk_write_queue = SkBuffHead()
    sk.sk_error_queue = SkBuffHead()
    sk.sk_rcvbuf = state.rmem_default
    sk.sk_sndbuf = state.wmem_default
    sk.sk_state = TCP_CLOSE
    sk.sk_flags |= SOCK_ZAPPED
    sk.sk_stamp = SK_DEFAULT_STAMP
    sk_set_socket(sk, sock)
    if sock is not None:
        sk.sk_type = sock.type
        sk.sk_wq = sock.wq
        sock.sk = sk
        sk.sk_uid = sock.inode.i_uid
    sk.sk_state_change = sock_def_wakeup
    sk.sk_data_ready = sock_def_readable
    sk.sk_write_space = sock_def_write_space
    sk.sk_error_report = sock_def_error_report
    sk.sk_destruct = sock_def_destruct


def sk_clone_lock(sk: Sock) -> Sock:
    """A sock like this one, for a connection that a listener accepts: owned by nobody, without packets, references 2
    (the caller's and, as in Linux, that of whoever hashes it). Context: softirq."""
    newsk = sk_prot_alloc(sk.sk_net, sk.sk_prot, sk.sk_family)
    address = newsk.slab_address
    copy_fields(sk, newsk)
    newsk.slab_address = address
    lsm = newsk.sk_net.kernel.lsm
    if lsm is not None:
        lsm.security_sk_clone(sk, newsk)
    if newsk.sk_net_refcnt:
        get_net(newsk.sk_net)
        newsk.sk_net.sock_inuse += 1
    newsk.sk_slock = SpinLock()
    newsk.sk_lock_owned = False
    newsk.sk_backlog_len = 0
    newsk.sk_rmem_alloc = newsk.sk_wmem_alloc = newsk.sk_wmem_queued = newsk.sk_forward_alloc = 0
    newsk.sk_drops = 0
    newsk.sk_receive_queue = SkBuffHead()
    newsk.sk_write_queue = SkBuffHead()
    newsk.sk_error_queue = SkBuffHead()
    newsk.sk_dst_cache = None
    newsk.sk_cookie = 0
    newsk.sk_ack_backlog = 0
    newsk.sk_err = newsk.sk_err_soft = 0
    newsk.sk_timer = None
    newsk.sk_flags &= ~SOCK_DEAD
    if newsk.sk_filter is not None:
        newsk.sk_filter.refcnt += 1
    if newsk.sk_peer_cred is not None:
        get_cred(newsk.sk_peer_cred)
    if newsk.sk_peer_pid is not None:
        get_pid(newsk.sk_peer_pid)
    if newsk.sk_flags & SOCK_TIMESTAMP:
        net_enable_timestamp(newsk.sk_net)
    newsk.sk_refcnt = 2
    sk_set_socket(newsk, None)
    newsk.sk_wq = None
    return newsk


def sock_gen_cookie(sk: Sock) -> int:
    """A number that no other sock ever has. (net/core/sock_diag.c)"""
    if not sk.sk_cookie:
        state = sk.sk_net.kernel.net
        assert state is not None
        state.last_cookie += 1
        sk.sk_cookie = state.last_cookie
    return sk.sk_cookie


def sock_def_destruct(sk: Sock) -> None:
    """->sk_destruct() of who has nothing to take apart."""


# ---- the socket's side -------------------------------------------------------------------------------------------
@notrace
def sk_set_socket(sk: Sock, sock: Socket | None) -> None:
    sk.sk_socket = sock


@notrace
def sock_orphan(sk: Sock) -> None:
    """The file is closed: nobody waits for the sock any more."""
    sk.sk_flags |= SOCK_DEAD
    sk_set_socket(sk, None)
    sk.sk_wq = None


@notrace
def sock_graft(sk: Sock, parent: Socket) -> None:
    """A sock that was accepted gets its file."""
    sk.sk_wq = parent.wq
    parent.sk = sk
    sk_set_socket(sk, parent)
    sk.sk_uid = parent.inode.i_uid
    if sk.sk_security is not None:
        sk.sk_net.kernel.lsm.security_sock_graft(sk, parent)


def sock_i_uid(sk: Sock) -> int:
    """Who made the socket; root for one without a file."""
    sock = sk.sk_socket
    return sock.inode.i_uid if sock is not None else 0


def sock_i_ino(sk: Sock) -> int:
    """The number in "socket:[N]"; 0 without a file."""
    sock = sk.sk_socket
    return sock.inode.i_ino if sock is not None else 0


@notrace
def sk_dst_reset(sk: Sock) -> None:
    """The route that the sock remembers may be wrong now."""
    dst = sk.sk_dst_cache
    if dst is not None:
        sk.sk_dst_cache = None
        dst.release()                    # dst_release() without importing routes: local sockets have none


# ---- the lock ----------------------------------------------------------------------------------------------------
@may_sleep
def lock_sock_nested(sk: Sock) -> None:
    """Makes the caller the sock's owner. Softirqs use the backlog meanwhile. Context: task."""
    if register.preempt_points:
        might_resched()
    if sk.sk_lock_owned:
        __lock_sock(sk)
    sk.sk_lock_owned = True


lock_sock = lock_sock_nested


@may_sleep
def __lock_sock(sk: Sock) -> None:
    """Sleeps until nobody owns the sock."""
    wait = WaitQueueEntry()
    while True:
        prepare_to_wait_exclusive(sk.sk_lock_wq, wait, TASK_UNINTERRUPTIBLE)
        schedule()
        if not sk.sk_lock_owned:
            break
    finish_wait(sk.sk_lock_wq, wait)


def release_sock(sk: Sock) -> None:
    """Ends lock_sock(): works off the backlog, does what ->release_cb() put off, wakes the next one.

    Softirqs wait meanwhile: what ->release_cb() sends may come back at once, and nobody would look into the backlog.
    """
    _raw_spin_lock_bh(sk.sk_slock)
    if sk.sk_backlog:
        __release_sock(sk)
    release_cb = sk.sk_prot.release_cb
    if release_cb is not None:
        release_cb(sk)
    sk.sk_lock_owned = False
    if sk.sk_lock_wq.entries:
        wake_up(sk.sk_lock_wq)
    _raw_spin_unlock_bh(sk.sk_slock)


def __release_sock(sk: Sock) -> None:
    """The backlog, until it is empty: new packets may come in between. Locks: sk_slock, dropped for each packet."""
    backlog = sk.sk_backlog
    while backlog:
        skb = backlog.popleft()
        _raw_spin_unlock_bh(sk.sk_slock)
        sk_backlog_rcv(sk, skb)
        cond_resched()
        _raw_spin_lock_bh(sk.sk_slock)
    sk.sk_backlog_len = 0


@may_sleep
def lock_sock_fast(sk: Sock) -> bool:
    """lock_sock() for a moment in which nothing sleeps. Answers what unlock_sock_fast() wants to know."""
    if register.preempt_points:
        might_resched()
    if not sk.sk_lock_owned:
        return False
    __lock_sock(sk)
    sk.sk_lock_owned = True
    return True


@notrace
def unlock_sock_fast(sk: Sock, slow: bool) -> None:
    if slow:
        release_sock(sk)


@notrace
def sock_owned_by_user(sk: Sock) -> bool:
    """A softirq has to use the backlog."""
    return sk.sk_lock_owned


@notrace
def sk_backlog_rcv(sk: Sock, skb: SkBuff) -> int:
    return sk.sk_prot.backlog_rcv(sk, skb)


@notrace
def sk_add_backlog(sk: Sock, skb: SkBuff, limit: int) -> bool:
    """Leaves the packet to the owner; False if there wait too many already (ENOBUFS). Context: softirq."""
    if sk.sk_backlog_len + sk.sk_rmem_alloc > limit:
        return False
    sk.sk_backlog.append(skb)
    sk.sk_backlog_len += skb.truesize
    return True


# ---- waiting -----------------------------------------------------------------------------------------------------
@notrace
def sock_error(sk: Sock) -> int:
    """The pending error (an errno, or 0), which is reported once."""
    err = sk.sk_err
    if err:
        sk.sk_err = 0
    return err


@notrace
def sock_intr_errno(timeo: int) -> KernelError:
    """How a wait ends that a signal interrupted: restarted only if it had no time limit."""
    return Restart() if timeo == MAX_SCHEDULE_TIMEOUT else KernelError(EINTR)


@notrace
def sock_rcvtimeo(sk: Sock, noblock: int) -> int:
    return 0 if noblock else sk.sk_rcvtimeo


@notrace
def sock_sndtimeo(sk: Sock, noblock: int) -> int:
    return 0 if noblock else sk.sk_sndtimeo


@notrace
def sock_rcvlowat(sk: Sock, waitall: int, length: int) -> int:
    """How many bytes a receive waits for."""
    return (length if waitall else min(sk.sk_rcvlowat, length)) or 1


@notrace
@may_sleep
def sk_wait_event(sk: Sock, timeo: int, condition: Callable[[], bool], wait: WaitQueueEntry) -> tuple[bool, int]:
    """Sleeps, without the lock, until somebody wakes `wait` or `timeo` jiffies are over.

    Answers (condition(), the jiffies left). Locks: sk's owner, before and after.
    """
    release_sock(sk)
    if not condition():
        timeo = wait_woken(wait, TASK_INTERRUPTIBLE, timeo)
    lock_sock_nested(sk)
    return condition(), timeo


@may_sleep
def sk_wait_data(sk: Sock, timeo: int, skb: SkBuff | None) -> tuple[bool, int]:
    """Sleeps until another packet than `skb` ends the receive queue. Answers (there is one, the jiffies left).

    Locks: sk's owner.
    """
    assert sk.sk_wq is not None
    wq = sk.sk_wq
    queue = sk.sk_receive_queue.q
    wait = WaitQueueEntry(woken_wake_function)
    add_wait_queue(wq, wait)
    sk_set_bit(SOCKWQ_ASYNC_WAITDATA, sk)
    rc, timeo = sk_wait_event(sk, timeo, lambda: (queue[-1] if queue else None) is not skb, wait)
    sk_clear_bit(SOCKWQ_ASYNC_WAITDATA, sk)
    remove_wait_queue(wq, wait)
    return rc, timeo


@notrace
def sk_set_bit(flag: int, sk: Sock) -> None:
    if sk.sk_socket is not None:
        sk.sk_socket.flags |= flag


@notrace
def sk_clear_bit(flag: int, sk: Sock) -> None:
    if sk.sk_socket is not None:
        sk.sk_socket.flags &= ~flag


# ---- waking ------------------------------------------------------------------------------------------------------
@notrace
def sk_wake_async(sk: Sock, how: int, band: int) -> None:
    """SIGIO for who asked for it."""
    sock = sk.sk_socket
    if sock is not None and sock.fasync_list:
        sock_wake_async(sock, how, band)


def sock_wake_async(sock: Socket, how: int, band: int) -> None:
    """Signals the owners of the files on sock.fasync_list. Context: any."""
    if how == SOCK_WAKE_WAITD:
        if sock.flags & SOCKWQ_ASYNC_WAITDATA:
            return
    elif how == SOCK_WAKE_SPACE:
        if not sock.flags & SOCKWQ_ASYNC_NOSPACE:
            return
        sock.flags &= ~SOCKWQ_ASYNC_NOSPACE
    kill_fasync(sock.fasync_list, SIGURG if how == SOCK_WAKE_URG else SIGIO, band)


def sock_def_wakeup(sk: Sock) -> None:
    """->sk_state_change()"""
    wq = sk.sk_wq
    if wq is not None and wq.entries:
        __wake_up(wq, TASK_INTERRUPTIBLE, 0, None)


def sock_def_error_report(sk: Sock) -> None:
    """->sk_error_report()"""
    wq = sk.sk_wq
    if wq is not None and wq.entries:
        __wake_up(wq, TASK_INTERRUPTIBLE, 1, POLLERR)
    sk_wake_async(sk, SOCK_WAKE_IO, POLL_ERR)


def sock_def_readable(sk: Sock) -> None:
    """->sk_data_ready()"""
    wq = sk.sk_wq
    if wq is not None and wq.entries:
        __wake_up_sync_key(wq, TASK_INTERRUPTIBLE, 1, _READABLE)
    sk_wake_async(sk, SOCK_WAKE_WAITD, POLL_IN)


def sock_def_write_space(sk: Sock) -> None:
    """->sk_write_space(): wakes writers as soon as half of the send buffer is free."""
    if sk.sk_wmem_alloc << 1 <= sk.sk_sndbuf:
        wq = sk.sk_wq
        if wq is not None and wq.entries:
            __wake_up_sync_key(wq, TASK_INTERRUPTIBLE, 1, _WRITABLE)
        if sock_writeable(sk):
            sk_wake_async(sk, SOCK_WAKE_SPACE, POLL_OUT)


@notrace
def sock_writeable(sk: Sock) -> bool:
    """A datagram may be sent without waiting."""
    return sk.sk_wmem_alloc < sk.sk_sndbuf >> 1


def sk_send_sigurg(sk: Sock) -> None:
    """Urgent data came: SIGURG to the file's owner."""
    sock = sk.sk_socket
    if sock is not None and sock.file is not None and send_sigurg(sock.file):
        sk_wake_async(sk, SOCK_WAKE_URG, POLL_PRI)


# ---- timers, stamps ----------------------------------------------------------------------------------------------
def sk_reset_timer(sk: Sock, timer: TimerList, expires: int) -> None:
    """(Re)starts a timer of the sock; a pending timer holds it."""
    if not mod_timer(timer, expires):
        sk.sk_refcnt += 1


def sk_stop_timer(sk: Sock, timer: TimerList) -> None:
    if del_timer(timer):
        sock_put(sk)


@notrace
def net_enable_timestamp(net: Net) -> None:
    """Packets that arrive get a stamp from now on."""
    assert net.kernel.net is not None
    net.kernel.net.netstamp_needed += 1


def sock_enable_timestamp(sk: Sock) -> None:
    if not sk.sk_flags & SOCK_TIMESTAMP:
        sk.sk_flags |= SOCK_TIMESTAMP
        net_enable_timestamp(sk.sk_net)


def sock_disable_timestamp(sk: Sock) -> None:
    if sk.sk_flags & SOCK_TIMESTAMP:
        sk.sk_flags &= ~SOCK_TIMESTAMP
        state = sk.sk_net.kernel.net
        assert state is not None
        state.netstamp_needed -= 1


@notrace
def __net_timestamp(skb: SkBuff) -> None:
    skb.tstamp = ktime_get_real()


# ---- what families without an own one use ------------------------------------------------------------------------
def sk_common_release(sk: Sock) -> None:
    """Ends a sock of a simple protocol: out of its tables, off its file; packets on the way still hold it."""
    prot = sk.sk_prot
    if prot.destroy is not None:
        prot.destroy(sk)
    assert prot.unhash is not None
    prot.unhash(sk)
    sock_orphan(sk)
    sock_put(sk)

