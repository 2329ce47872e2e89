"""AF_UNIX: sockets between programs of one machine.

Linux: net/unix/af_unix.c (5.3). Same: a connection is a pair of socks that refer to each other; a listener's queue
holds one packet for each connection, whose skb.sk is the new sock; who closes with unread data resets his peer.
Names are in table.py, data in stream.py and dgram.py, control messages in scm.py, garbage.py, /proc in proc.py.
Owns: UnixSock, UnixState, Net.unx. Locks: none but iolock (one reader) and bindlock: nothing else sleeps.
Gaps: SO_PASSSEC, splice without a copy.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file import anon_fd
from glasskernel.fs.mount import path_get, path_put
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.types import (
    O_CLOEXEC,
    O_NONBLOCK,
    O_PATH,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    Path,
)
from glasskernel.kernel.capability import CAP_NET_ADMIN, capable
from glasskernel.kernel.cred import get_cred, put_cred
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.pid import PIDTYPE_TGID, get_pid, get_task_pid, put_pid
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import (
    __wake_up_sync_key,
    wake_up_interruptible,
    wake_up_interruptible_all,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.errno import (
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EINVAL,
    EISCONN,
    ENFILE,
    ENOENT,
    ENOIOCTLCMD,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.datagram import datagram_events, sk_set_peek_off, skb_free_datagram, skb_recv_datagram
from glasskernel.net.core.proto import proto_register, sock_prot_inuse_add
from glasskernel.net.core.sock import (
    POLL_HUP,
    POLL_IN,
    POLL_OUT,
    SOCK_WAKE_SPACE,
    SOCK_WAKE_WAITD,
    sk_alloc,
    sk_set_bit,
    sk_wake_async,
    sock_graft,
    sock_init_data,
    sock_intr_errno,
    sock_orphan,
    sock_put,
    sock_sndtimeo,
)
from glasskernel.net.core.sock_memory import sock_wmalloc
from glasskernel.net.skbuff import kfree_skb, skb_dequeue, skb_queue_tail
from glasskernel.net.socket import sock_register
from glasskernel.net.types import (
    AF_UNIX,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUT_RD,
    SHUT_RDWR,
    SHUTDOWN_MASK,
    SOCK_DEAD,
    SOCK_DGRAM,
    SOCK_PASSCRED,
    SOCK_RAW,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOCKWQ_ASYNC_NOSPACE,
    SS_CONNECTED,
    SS_UNCONNECTED,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    NetProtoFamily,
    Proto,
    ProtoOps,
    no_close,
)
from glasskernel.net.unix.dgram import (
    skb_queue_purge,
    unix_dgram_disconnected,
    unix_dgram_peer_wake_disconnect,
    unix_dgram_peer_wake_disconnect_wakeup,
    unix_dgram_peer_wake_me,
    unix_dgram_recvmsg,
    unix_dgram_sendmsg,
    unix_may_send,
    unix_recvq_full,
    unix_seqpacket_recvmsg,
    unix_seqpacket_sendmsg,
    unix_wait_for_peer,
)
from glasskernel.net.unix.garbage import unix_gc
from glasskernel.net.unix.stream import unix_skb_len, unix_stream_recvmsg, unix_stream_sendmsg
from glasskernel.net.unix.table import unix_autobind, unix_bind, unix_find_other, unix_mkname, unix_remove_socket
from glasskernel.net.unix.types import (
    SIZEOF_UNIX_SOCK,
    SUN_PATH,
    UnixNet,
    UnixSkbParms,
    UnixSock,
    UnixState,
    unix_state,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net, Sock, Socket

SIOCOUTQ, SIOCINQ, SIOCUNIXFILE = 0x5411, 0x541B, 0x89E0
_STREAMLIKE = (SOCK_STREAM, SOCK_SEQPACKET)
_NO_NAME = AF_UNIX.to_bytes(2, "little")


@notrace
def unix_sk(sk: Sock) -> UnixSock:
    assert isinstance(sk, UnixSock)
    return sk


# ---- making and releasing -------------------------------------------------------------------------------------
def unix_create1(net: Net, sock: Socket | None, kern: bool) -> UnixSock:
    """A sock without a name. Raises ENFILE."""
    state: UnixState = net.kernel.net.unix  # type: ignore[union-attr]
    if state.nr_socks + 1 > 2 * net.kernel.vfs.max_files:
        raise KernelError(ENFILE)
    state.nr_socks += 1
    sk = unix_sk(sk_alloc(net, AF_UNIX, unix_proto, kern))
    sock_init_data(sock, sk)
    sk.sk_write_space = unix_write_space
    sk.sk_max_ack_backlog = net.unx.sysctl_max_dgram_qlen
    sk.sk_destruct = unix_sock_destructor
    net.unx.sockets[sk] = None
    sk.sk_refcnt += 1                              # the table's
    sock_prot_inuse_add(net, unix_proto, 1)
    return sk


def unix_create(net: Net, sock: Socket, protocol: int, kern: bool) -> None:
    """socket(AF_UNIX). Raises EPROTONOSUPPORT, ESOCKTNOSUPPORT, ENFILE."""
    if protocol and protocol != AF_UNIX:
        raise KernelError(EPROTONOSUPPORT)
    sock.state = SS_UNCONNECTED
    if sock.type == SOCK_RAW:                      # as BSD has it
        sock.type = SOCK_DGRAM
    ops = _OPS.get(sock.type)
    if ops is None:
        raise KernelError(ESOCKTNOSUPPORT)
    sock.ops = ops
    unix_create1(net, sock, kern)


def unix_sock_destructor(sk: Sock) -> None:
    """->sk_destruct(): nobody refers to the sock, and all it sent was received."""
    u = unix_sk(sk)
    assert not u.sk_wmem_alloc and not u.sk_receive_queue.q and u.path is None
    unix_state(u).nr_socks -= 1
    sock_prot_inuse_add(u.sk_net, unix_proto, -1)


@may_sleep
def unix_release(sock: Socket) -> None:
    """->release()"""
    sk = sock.sk
    if sk is not None:
        unix_release_sock(unix_sk(sk), False)


@may_sleep
def unix_release_sock(sk: UnixSock, embrion: bool) -> None:
    """Ends a sock. embrion: a connection that nobody accepted."""
    unix_remove_socket(sk)
    sock_orphan(sk)
    sk.sk_shutdown = SHUTDOWN_MASK
    path, sk.path = sk.path, None
    state = sk.sk_state
    sk.sk_state = TCP_CLOSE
    wake_up_interruptible_all(sk.peer_wait)
    skpair = sk.peer
    if skpair is not None:
        if sk.sk_type in _STREAMLIKE:
            skpair.sk_shutdown = SHUTDOWN_MASK
            if sk.sk_receive_queue.q or embrion:
                skpair.sk_err = ECONNRESET
            skpair.sk_state_change(skpair)
            sk_wake_async(skpair, SOCK_WAKE_WAITD, POLL_HUP)
        unix_dgram_peer_wake_disconnect(sk, skpair)
        sk.peer = None
        sock_put(skpair)
    if state == TCP_LISTEN:
        while True:
            skb = skb_dequeue(sk.sk_receive_queue)
            if skb is None:
                break
            assert skb.sk is not None
            unix_release_sock(unix_sk(skb.sk), True)
            kfree_skb(skb)
    else:
        skb_queue_purge(sk)
    if path is not None:
        path_put(path)
    unix = unix_state(sk)
    sock_put(sk)
    if unix.tot_inflight:
        unix_gc(unix)


@notrace
def unix_writable(sk: Sock) -> bool:
    return sk.sk_state != TCP_LISTEN and sk.sk_wmem_alloc << 2 <= sk.sk_sndbuf


def unix_write_space(sk: Sock) -> None:
    """->sk_write_space()"""
    if sk.sk_state != TCP_LISTEN and sk.sk_wmem_alloc << 2 <= sk.sk_sndbuf:
        wq = sk.sk_wq
        if wq is not None and wq.entries:
            __wake_up_sync_key(wq, TASK_INTERRUPTIBLE, 1, POLLOUT | POLLWRNORM | POLLWRBAND)
        sk_wake_async(sk, SOCK_WAKE_SPACE, POLL_OUT)


# ---- who the other end is -------------------------------------------------------------------------------------
def init_peercred(sk: UnixSock) -> None:
    """Who made this end, for SO_PEERCRED of the other one."""
    put_pid(sk.sk_peer_pid)
    if sk.sk_peer_cred is not None:
        put_cred(sk.sk_peer_cred)
    task = register.task
    sk.sk_peer_pid = get_task_pid(task, PIDTYPE_TGID)
    sk.sk_peer_cred = get_cred(task.cred)


def copy_peercred(sk: UnixSock, peersk: UnixSock) -> None:
    put_pid(sk.sk_peer_pid)
    if sk.sk_peer_cred is not None:
        put_cred(sk.sk_peer_cred)
    assert peersk.sk_peer_cred is not None
    sk.sk_peer_pid = get_pid(peersk.sk_peer_pid)
    sk.sk_peer_cred = get_cred(peersk.sk_peer_cred)


# ---- connecting -----------------------------------------------------------------------------------------------
def unix_listen(sock: Socket, backlog: int) -> None:
    """->listen(). Raises EOPNOTSUPP, EINVAL (no name, or connected)."""
    sk = unix_sk(sock.sk)
    if sock.type not in _STREAMLIKE:
        raise KernelError(EOPNOTSUPP)
    if not sk.addr or sk.sk_state not in (TCP_CLOSE, TCP_LISTEN):
        raise KernelError(EINVAL)
    if backlog > sk.sk_max_ack_backlog:
        wake_up_interruptible_all(sk.peer_wait)
    sk.sk_max_ack_backlog = backlog
    sk.sk_state = TCP_LISTEN
    init_peercred(sk)


@may_sleep
def unix_stream_connect(sock: Socket, uaddr: bytes, flags: int) -> None:
    """->connect(). Raises EINVAL, ECONNREFUSED, EAGAIN (the backlog is full), EISCONN, EINTR, Restart, EPROTOTYPE."""
    sk = unix_sk(sock.sk)
    sunaddr = unix_mkname(uaddr)
    if sock.flags & SOCK_PASSCRED and not sk.addr:
        unix_autobind(sock)
    timeo = sock_sndtimeo(sk, flags & O_NONBLOCK)
    newsk = unix_create1(sk.sk_net, None, False)   # now, as a connection must not fail halfway
    skb = sock_wmalloc(newsk, 1, False)
    assert skb is not None
    skb.cb = UnixSkbParms()
    try:
        other = _find_listener(sk, sunaddr, timeo)
    except KernelError:
        kfree_skb(skb)
        unix_release_sock(newsk, False)
        raise
    if sk.sk_security is not None:
        try:
            sk.sk_net.kernel.lsm.security_unix_stream_connect(sk, other, newsk)
        except KernelError:
            sock_put(other)
            kfree_skb(skb)
            unix_release_sock(newsk, False)
            raise
    sk.sk_refcnt += 1
    newsk.peer = sk
    newsk.sk_state = TCP_ESTABLISHED
    newsk.sk_type = sk.sk_type
    init_peercred(newsk)
    newsk.addr = other.addr
    if other.path is not None:
        path_get(other.path)
        newsk.path = Path(other.path.mnt, other.path.dentry)
    copy_peercred(sk, other)
    sock.state = SS_CONNECTED
    sk.sk_state = TCP_ESTABLISHED
    newsk.sk_refcnt += 1
    sk.peer = newsk
    skb_queue_tail(other.sk_receive_queue, skb)
    other.sk_data_ready(other)
    sock_put(other)


@notrace
@may_sleep
def _find_listener(sk: UnixSock, sunaddr: bytes, timeo: int) -> UnixSock:
    """Who listens at this address and has room for a connection, with a reference."""
    while True:
        other = unix_find_other(sk.sk_net, sunaddr, sk.sk_type)
        try:
            if other.sk_flags & SOCK_DEAD:
                sock_put(other)
                continue
            if other.sk_state != TCP_LISTEN or other.sk_shutdown & RCV_SHUTDOWN:
                raise KernelError(ECONNREFUSED)
            if unix_recvq_full(other):
                if not timeo:
                    raise KernelError(EAGAIN)
                timeo = unix_wait_for_peer(other, timeo)
                if signal_pending(register.task):
                    raise sock_intr_errno(timeo)
                sock_put(other)
                continue
            if sk.sk_state != TCP_CLOSE:
                raise KernelError(EISCONN if sk.sk_state == TCP_ESTABLISHED else EINVAL)
        except KernelError:
            sock_put(other)
            raise
        return other


@may_sleep
def unix_accept(sock: Socket, newsock: Socket, flags: int, kern: bool) -> None:
    """->accept(). Raises EOPNOTSUPP, EINVAL (does not listen, shut down), EAGAIN, EINTR, Restart."""
    sk = unix_sk(sock.sk)
    if sock.type not in _STREAMLIKE:
        raise KernelError(EOPNOTSUPP)
    if sk.sk_state != TCP_LISTEN:
        raise KernelError(EINVAL)
    skb = skb_recv_datagram(sk, 0, flags & O_NONBLOCK)
    if skb is None:
        raise KernelError(EINVAL)
    tsk = skb.sk
    assert tsk is not None
    skb_free_datagram(sk, skb)
    wake_up_interruptible(sk.peer_wait)
    newsock.state = SS_CONNECTED
    sock_graft(tsk, newsock)


def unix_socketpair(socka: Socket, sockb: Socket) -> None:
    """->socketpair()"""
    ska, skb = unix_sk(socka.sk), unix_sk(sockb.sk)
    ska.sk_refcnt += 1
    skb.sk_refcnt += 1
    ska.peer = skb
    skb.peer = ska
    init_peercred(ska)
    init_peercred(skb)
    if ska.sk_type != SOCK_DGRAM:
        ska.sk_state = skb.sk_state = TCP_ESTABLISHED
        socka.state = sockb.state = SS_CONNECTED


@may_sleep
def unix_dgram_connect(sock: Socket, addr: bytes, flags: int) -> None:
    """->connect(): where packets go, and from whom they come; AF_UNSPEC: nowhere, anybody. Raises EINVAL, EPERM,
    ECONNREFUSED, EPROTOTYPE."""
    sk = unix_sk(sock.sk)
    if len(addr) < SUN_PATH:
        raise KernelError(EINVAL)
    other: UnixSock | None = None
    if addr[:2] != b"\0\0":
        sunaddr = unix_mkname(addr)
        if sock.flags & SOCK_PASSCRED and not sk.addr:
            unix_autobind(sock)
        while other is None:
            other = unix_find_other(sk.sk_net, sunaddr, sk.sk_type)
            if other.sk_flags & SOCK_DEAD:
                sock_put(other)
                other = None
        if not unix_may_send(sk, other):
            sock_put(other)
            raise KernelError(EPERM)
        if other.sk_security is not None and other.sk_socket is not None:
            try:
                sk.sk_net.kernel.lsm.security_unix_may_send(sock, other.sk_socket)
            except KernelError:
                sock_put(other)
                raise
    old_peer, sk.peer = sk.peer, other
    if old_peer is not None:
        unix_dgram_peer_wake_disconnect_wakeup(sk, old_peer)
        if other is not old_peer:
            unix_dgram_disconnected(sk, old_peer)
        sock_put(old_peer)


def unix_getname(sock: Socket, peer: int) -> bytes:
    """->getname(). Raises ENOTCONN."""
    sk = unix_sk(sock.sk)
    if peer:
        if sk.peer is None:
            raise KernelError(ENOTCONN)
        sk = sk.peer
    return sk.addr or _NO_NAME


def unix_shutdown(sock: Socket, mode: int) -> None:
    """->shutdown(): of both ends of a connection. Raises EINVAL."""
    sk = unix_sk(sock.sk)
    if not SHUT_RD <= mode <= SHUT_RDWR:
        raise KernelError(EINVAL)
    mode += 1                                      # RCV_SHUTDOWN, SEND_SHUTDOWN, both
    sk.sk_shutdown |= mode
    other = sk.peer
    if other is not None:
        other.sk_refcnt += 1
    sk.sk_state_change(sk)
    if other is None:
        return
    if sk.sk_type in _STREAMLIKE:
        peer_mode = (SEND_SHUTDOWN if mode & RCV_SHUTDOWN else 0) | (RCV_SHUTDOWN if mode & SEND_SHUTDOWN else 0)
        other.sk_shutdown |= peer_mode
        other.sk_state_change(other)
        if peer_mode == SHUTDOWN_MASK:
            sk_wake_async(other, SOCK_WAKE_WAITD, POLL_HUP)
        elif peer_mode & RCV_SHUTDOWN:
            sk_wake_async(other, SOCK_WAKE_WAITD, POLL_IN)
    sock_put(other)


# ---- ioctl, poll ----------------------------------------------------------------------------------------------
def unix_inq_len(sk: UnixSock) -> int:
    """SIOCINQ: bytes of a stream, or of the next packet. Raises EINVAL for a listener."""
    if sk.sk_state == TCP_LISTEN:
        raise KernelError(EINVAL)
    queue = sk.sk_receive_queue.q
    if sk.sk_type in _STREAMLIKE:
        return sum(unix_skb_len(skb) for skb in queue)
    return queue[0].len if queue else 0


def unix_outq_len(sk: UnixSock) -> int:
    """SIOCOUTQ: memory of what nobody has received yet."""
    return sk.sk_wmem_alloc


def unix_open_file(sk: UnixSock) -> int:
    """SIOCUNIXFILE: a descriptor (O_PATH) of the file that is the socket's name. Raises EPERM, ENOENT, EMFILE."""
    if not capable(CAP_NET_ADMIN):
        raise KernelError(EPERM)
    if sk.path is None:
        raise KernelError(ENOENT)
    return anon_fd(dentry_open(sk.path, O_PATH, register.task.cred), O_CLOEXEC)


def unix_ioctl(sock: Socket, cmd: int, arg: int) -> int:
    """->ioctl(). Raises EINVAL, EFAULT, ENOIOCTLCMD."""
    sk = unix_sk(sock.sk)
    if cmd == SIOCOUTQ:
        put_user_u32(arg, unix_outq_len(sk))
    elif cmd == SIOCINQ:
        put_user_u32(arg, unix_inq_len(sk))
    elif cmd == SIOCUNIXFILE:
        return unix_open_file(sk)
    else:
        raise KernelError(ENOIOCTLCMD)
    return 0


def unix_poll(file: File, sock: Socket, wait: PollTable) -> int:
    """->poll() of streams."""
    sk = sock.sk
    poll_wait(file, sock.wq, wait)
    mask = POLLERR if sk.sk_err else 0
    if sk.sk_shutdown == SHUTDOWN_MASK:
        mask |= POLLHUP
    if sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= POLLRDHUP | POLLIN | POLLRDNORM
    if sk.sk_receive_queue.q:
        mask |= POLLIN | POLLRDNORM
    if sk.sk_state == TCP_CLOSE:
        mask |= POLLHUP
    if unix_writable(sk):
        mask |= POLLOUT | POLLWRNORM | POLLWRBAND
    return mask


def unix_dgram_poll(file: File, sock: Socket, wait: PollTable) -> int:
    """->poll() of packets: writable only if the peer's queue has room."""
    sk = unix_sk(sock.sk)
    poll_wait(file, sock.wq, wait)
    mask = datagram_events(sk)
    if not wait.key & (POLLWRBAND | POLLWRNORM | POLLOUT):
        return mask
    writable = unix_writable(sk)
    if writable:
        other = sk.peer
        if (other is not None and other.peer is not sk and unix_recvq_full(other)
                and unix_dgram_peer_wake_me(sk, other)):
            writable = False
    if writable:
        mask |= POLLOUT | POLLWRNORM | POLLWRBAND
    else:
        sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk)
    return mask


@may_sleep
def unix_set_peek_off(sk: Sock, val: int) -> None:
    """->set_peek_off()"""
    u = unix_sk(sk)
    mutex_lock(u.iolock)
    sk_set_peek_off(sk, val)
    mutex_unlock(u.iolock)


# ---- tables ---------------------------------------------------------------------------------------------------
unix_proto = Proto("UNIX", no_close, UnixSock, obj_size=SIZEOF_UNIX_SOCK)
unix_stream_ops = ProtoOps(
    AF_UNIX, unix_release, unix_poll, bind=unix_bind, connect=unix_stream_connect, socketpair=unix_socketpair,
    accept=unix_accept, getname=unix_getname, ioctl=unix_ioctl, listen=unix_listen, shutdown=unix_shutdown,
    sendmsg=unix_stream_sendmsg, recvmsg=unix_stream_recvmsg, set_peek_off=unix_set_peek_off)
unix_dgram_ops = ProtoOps(
    AF_UNIX, unix_release, unix_dgram_poll, bind=unix_bind, connect=unix_dgram_connect, socketpair=unix_socketpair,
    getname=unix_getname, ioctl=unix_ioctl, shutdown=unix_shutdown, sendmsg=unix_dgram_sendmsg,
    recvmsg=unix_dgram_recvmsg, set_peek_off=unix_set_peek_off)
unix_seqpacket_ops = ProtoOps(
    AF_UNIX, unix_release, unix_dgram_poll, bind=unix_bind, connect=unix_stream_connect, socketpair=unix_socketpair,
    accept=unix_accept, getname=unix_getname, ioctl=unix_ioctl, listen=unix_listen, shutdown=unix_shutdown,
    sendmsg=unix_seqpacket_sendmsg, recvmsg=unix_seqpacket_recvmsg, set_peek_off=unix_set_peek_off)
unix_family_ops = NetProtoFamily(AF_UNIX, unix_create)
_OPS = {SOCK_STREAM: unix_stream_ops, SOCK_DGRAM: unix_dgram_ops, SOCK_SEQPACKET: unix_seqpacket_ops}


def af_unix_init(kernel: Kernel) -> None:
    """The family exists from now on. What its namespaces show comes with the first device: net_init.py."""
    state = kernel.net
    assert state is not None
    state.unix = UnixState()
    proto_register(kernel, unix_proto, True)
    for net in state.net_namespace_list:
        net.unx = UnixNet()
    sock_register(kernel, unix_family_ops)
