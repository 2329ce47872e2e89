"""What protocols with connections share: timers, listeners and their requests, children, ends.

Linux: net/ipv4/inet_connection_sock.c, net/core/request_sock.c (5.3). Same: a request stands in the table of
connections with a timer of its own, which sends the answer again and doubles; three references (table, timer, caller).
accept() takes from a queue that the listener's backlog limits. Ports for bind() are in inet_csk_port.py.
Owns: icsk_accept_queue, icsk_pending, the three timers of a connection.
Invariants: qlen counts the hashed requests of a listener; sk_ack_backlog is len(fifo).
Locks: sk's owner, or softirq while nobody owns it, unless noted.
Gaps: SYN cookies, TCP Fast Open.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import current, register
from glasskernel.kernel.sched.core import schedule_timeout, signal_pending
from glasskernel.kernel.sched.wait import WaitQueueEntry, finish_wait, prepare_to_wait_exclusive
from glasskernel.kernel.softirq import local_bh_disable, local_bh_enable
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.kernel.time.timer import del_timer_sync, from_timer, mod_timer, timer_setup
from glasskernel.lib.errno import EADDRINUSE, EAGAIN, EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import (
    lock_sock_nested,
    release_sock,
    sk_clone_lock,
    sk_reset_timer,
    sk_stop_timer,
    sock_hold,
    sock_intr_errno,
    sock_orphan,
    sock_put,
    sock_rcvtimeo,
)
from glasskernel.net.core.stream import sk_stream_kill_queues
from glasskernel.net.ipv4.inet_hashtables import hashinfo, inet_ehash_insert, sk_ehashfn
from glasskernel.net.ipv4.inet_sk_state import inet_sk_set_state, inet_sk_state_store
from glasskernel.net.ipv4.route import ip_route_output_flow
from glasskernel.net.ipv4.tcp_types import (
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_DACK,
    TCP_RTO_MAX,
    TCP_TIMEOUT_INIT,
    RequestSock,
    RequestSockQueue,
    tcp_state_of,
)
from glasskernel.net.ipv4.types import Flowi4, Rtable
from glasskernel.net.types import (
    SOCK_BINDPORT_LOCK,
    SOCK_DEAD,
    SOCK_RCU_FREE,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.kernel.time.timer import TimerList
    from glasskernel.net.ipv4.tcp_types import InetConnectionSock, RequestSockOps, TcpSock
    from glasskernel.net.types import Sock


# ---- timers -----------------------------------------------------------------------------------------------
def inet_csk_init_xmit_timers(sk: InetConnectionSock, retransmit_handler: Callable[[TimerList], None],
                              delack_handler: Callable[[TimerList], None],
                              keepalive_handler: Callable[[TimerList], None]) -> None:
    """Prepares the three timers. They hold the sock while they are pending."""
    from_sk = (sk.icsk_retransmit_timer, sk.icsk_delack_timer)
    for timer, handler in zip(from_sk, (retransmit_handler, delack_handler), strict=True):
        timer_setup(timer, handler)
        timer.data = sk
    sk.sk_timer = sk_timer = type(sk.icsk_delack_timer)()
    timer_setup(sk_timer, keepalive_handler)
    sk_timer.data = sk
    sk.icsk_pending = sk.icsk_ack_pending = 0


def inet_csk_clear_xmit_timers(sk: InetConnectionSock) -> None:
    """Stops them."""
    sk.icsk_pending = sk.icsk_ack_pending = 0
    sk_stop_timer(sk, sk.icsk_retransmit_timer)
    sk_stop_timer(sk, sk.icsk_delack_timer)
    assert sk.sk_timer is not None
    sk_stop_timer(sk, sk.sk_timer)


@notrace
def inet_csk_clear_xmit_timer(sk: InetConnectionSock, what: int) -> None:
    """The timer goes on, but finds nothing to do (as in Linux, which saves the work of stopping it)."""
    if what == ICSK_TIME_DACK:
        sk.icsk_ack_pending = 0
        sk.icsk_ack_blocked = False
    else:
        sk.icsk_pending = 0


@notrace
def inet_csk_reset_xmit_timer(sk: InetConnectionSock, what: int, when: int, max_when: int) -> None:
    """(Re)starts a timer, `when` jiffies from now."""
    timeout = register.task.kernel.time.jiffies + (when if when < max_when else max_when)
    if what == ICSK_TIME_DACK:
        sk.icsk_ack_pending |= ICSK_ACK_TIMER
        sk.icsk_ack_timeout = timeout
        sk_reset_timer(sk, sk.icsk_delack_timer, timeout)
    else:
        sk.icsk_pending = what
        sk.icsk_timeout = timeout
        sk_reset_timer(sk, sk.icsk_retransmit_timer, timeout)


@notrace
def inet_csk_ack_scheduled(sk: InetConnectionSock) -> bool:
    return bool(sk.icsk_ack_pending & ICSK_ACK_SCHED)


def inet_csk_delete_keepalive_timer(sk: InetConnectionSock) -> None:
    assert sk.sk_timer is not None
    sk_stop_timer(sk, sk.sk_timer)


def inet_csk_reset_keepalive_timer(sk: InetConnectionSock, length: int) -> None:
    assert sk.sk_timer is not None
    sk_reset_timer(sk, sk.sk_timer, register.task.kernel.time.jiffies + length)


# ---- listening --------------------------------------------------------------------------------------------
def inet_csk_listen_start(sk: InetConnectionSock, backlog: int) -> None:
    """listen(2): the sock takes connections from now on. Raises EADDRINUSE."""
    reqsk_queue_alloc(sk.icsk_accept_queue)
    sk.sk_max_ack_backlog = backlog
    sk.sk_ack_backlog = 0
    sk.icsk_ack_pending = 0
    # It listens first and asks for its port second: so two who listen on one port collide here.
    inet_sk_state_store(sk, TCP_LISTEN)
    get_port = sk.sk_prot.get_port
    assert get_port is not None and sk.sk_prot.hash is not None
    if not get_port(sk, sk.inet_num):
        sk.inet_sport = sk.inet_num
        dst, sk.sk_dst_cache = sk.sk_dst_cache, None
        if dst is not None:
            dst.release()
        sk.sk_prot.hash(sk)
        return
    inet_sk_set_state(sk, TCP_CLOSE)
    raise KernelError(EADDRINUSE)


def reqsk_queue_alloc(queue: RequestSockQueue) -> None:
    queue.fifo.clear()
    queue.qlen = queue.young = 0


def inet_csk_listen_stop(sk: TcpSock) -> None:
    """The listener closes: who waits to be accepted is reset. Requests find out when their timers fire."""
    for req in tuple(sk.icsk_accept_queue.fifo):
        child = req.child
        assert child is not None
        local_bh_disable()
        sock_hold(child)
        inet_child_forget(sk, req, child)
        reqsk_put(req)
        local_bh_enable()
        sock_put(child)
    sk.icsk_accept_queue.fifo.clear()


def inet_child_forget(sk: TcpSock, req: RequestSock, child: TcpSock) -> None:
    """Ends a connection that nobody accepted."""
    disconnect = sk.sk_prot.disconnect
    assert disconnect is not None
    disconnect(child, 1 << 11)           # O_NONBLOCK
    sock_orphan(child)
    tcp_state_of(sk.sk_net).orphan_count += 1
    inet_csk_destroy_sock(child)


def inet_csk_destroy_sock(sk: Any) -> None:
    """The end of a sock that nobody has any more: its protocol cleans up, and its last reference goes.

    It must be closed and dead, and counted in orphan_count.
    """
    assert sk.sk_state == TCP_CLOSE and sk.sk_flags & SOCK_DEAD
    assert not sk.inet_num or sk.icsk_bind_hash is not None
    sk.sk_prot.destroy(sk)
    sk_stream_kill_queues(sk)
    tcp_state_of(sk.sk_net).orphan_count -= 1
    sock_put(sk)


def inet_csk_prepare_forced_close(sk: TcpSock) -> None:
    """A child that never got a file: makes it ready for tcp_done()."""
    sock_put(sk)
    sk.sk_flags |= SOCK_DEAD
    tcp_state_of(sk.sk_net).orphan_count += 1
    sk.inet_num = 0


@notrace
@may_sleep
def inet_csk_wait_for_connect(sk: TcpSock, timeo: int) -> None:
    """Sleeps until there is a connection to accept. Raises EAGAIN, EINVAL, EINTR."""
    wait = WaitQueueEntry()
    assert sk.sk_wq is not None
    wq = sk.sk_wq
    try:
        while True:
            prepare_to_wait_exclusive(wq, wait, TASK_INTERRUPTIBLE)
            release_sock(sk)
            if not sk.icsk_accept_queue.fifo:
                timeo = schedule_timeout(timeo)
            lock_sock_nested(sk)
            if sk.icsk_accept_queue.fifo:
                return
            if sk.sk_state != TCP_LISTEN:
                raise KernelError(EINVAL)
            if signal_pending(current()):
                raise sock_intr_errno(timeo)
            if not timeo:
                raise KernelError(EAGAIN)
    finally:
        finish_wait(wq, wait)


@may_sleep
def inet_csk_accept(sk: Sock, flags: int, kern: bool) -> Sock:
    """->accept(): the oldest connection, as a sock whose reference is the caller's. Raises EAGAIN, EINVAL, EINTR."""
    listener: TcpSock = sk  # type: ignore[assignment]
    lock_sock_nested(listener)
    try:
        if listener.sk_state != TCP_LISTEN:
            raise KernelError(EINVAL)
        queue = listener.icsk_accept_queue
        if not queue.fifo:
            timeo = sock_rcvtimeo(listener, flags & 0o4000)
            if not timeo:
                raise KernelError(EAGAIN)
            inet_csk_wait_for_connect(listener, timeo)
        req = queue.fifo.pop(0)
        listener.sk_ack_backlog -= 1
        newsk = req.child
        assert newsk is not None
    finally:
        release_sock(listener)
    reqsk_put(req)
    return newsk


# ---- requests ---------------------------------------------------------------------------------------------
def inet_reqsk_alloc(ops: RequestSockOps, sk_listener: TcpSock) -> RequestSock:
    """A request of a listener, which it holds; the caller has no reference yet."""
    req = RequestSock(sk_listener.sk_net, sk_listener.sk_prot, sk_listener.sk_family)
    req.sk_type, req.sk_protocol = sk_listener.sk_type, sk_listener.sk_protocol
    req.rsk_ops = ops
    req.rsk_listener = sk_listener
    sock_hold(sk_listener)
    req.sk_state = TCP_NEW_SYN_RECV
    req.sk_refcnt = 0
    return req


@notrace
def reqsk_free(req: RequestSock) -> None:
    req.rsk_ops.destructor(req)
    sock_put(req.rsk_listener)


@notrace
def reqsk_put(req: RequestSock) -> None:
    """One reference less; the last one lets the listener go."""
    req.sk_refcnt -= 1
    if not req.sk_refcnt:
        reqsk_free(req)


def inet_rtx_syn_ack(parent: TcpSock, req: RequestSock) -> None:
    """Sends the answer to a SYN again. Raises what sending raises."""
    req.rsk_ops.rtx_syn_ack(parent, req)
    req.num_retrans += 1


def inet_csk_reqsk_queue_hash_add(sk: TcpSock, req: RequestSock, timeout: int) -> None:
    """The request enters the table, and its timer (jiffies) starts; the caller has a reference afterwards."""
    reqsk_queue_hash_req(req, timeout)
    queue = sk.icsk_accept_queue
    queue.qlen += 1
    queue.young += 1


@notrace
def reqsk_queue_hash_req(req: RequestSock, timeout: int) -> None:
    timer_setup(req.rsk_timer, reqsk_timer_handler)
    req.rsk_timer.data = req
    mod_timer(req.rsk_timer, register.task.kernel.time.jiffies + timeout)
    inet_ehash_insert(req, None)
    req.sk_refcnt = 3


@notrace
def reqsk_queue_removed(queue: RequestSockQueue, req: RequestSock) -> None:
    if not req.num_timeout:
        queue.young -= 1
    queue.qlen -= 1


@notrace
def reqsk_queue_unlink(req: RequestSock) -> bool:
    """Out of the table, and its timer off. True if it was in."""
    found = req.sk_hashed
    if found:
        del hashinfo(req.sk_net).ehash[sk_ehashfn(req)]
        req.sk_hashed = False
    if del_timer_sync(req.rsk_timer):
        reqsk_put(req)
    return found


def inet_csk_reqsk_queue_drop(sk: TcpSock, req: RequestSock) -> bool:
    """The request ends without a connection."""
    unlinked = reqsk_queue_unlink(req)
    if unlinked:
        reqsk_queue_removed(sk.icsk_accept_queue, req)
        reqsk_put(req)
    return unlinked


def inet_csk_reqsk_queue_drop_and_put(sk: TcpSock, req: RequestSock) -> None:
    inet_csk_reqsk_queue_drop(sk, req)
    reqsk_put(req)


def reqsk_timer_handler(timer: TimerList) -> None:
    """No ACK came: the answer goes out again, twice as late each time, tcp_synack_retries times. Context: softirq."""
    req: RequestSock = from_timer(timer)
    sk = req.rsk_listener
    net = sk.sk_net
    if sk.sk_state != TCP_LISTEN:
        inet_csk_reqsk_queue_drop_and_put(sk, req)
        return
    queue = sk.icsk_accept_queue
    max_retries = thresh = sk.icsk_syn_retries or net.ipv4.sysctl["tcp_synack_retries"]
    qlen = queue.qlen
    if qlen << 1 > max(8, sk.sk_max_ack_backlog):        # the queue is half full: be less patient with the old
        young = queue.young << 1
        while thresh > 2 and qlen >= young:
            thresh -= 1
            young <<= 1
    defer_accept = queue.rskq_defer_accept
    if defer_accept:
        max_retries = defer_accept
    expire, resend = syn_ack_recalc(req, thresh, max_retries, defer_accept)
    req.rsk_ops.syn_ack_timeout(req)
    if not expire:
        if resend:
            try:
                inet_rtx_syn_ack(sk, req)
            except KernelError:
                expire = not req.acked
    if expire:
        inet_csk_reqsk_queue_drop_and_put(sk, req)
        return
    if not req.num_timeout:
        queue.young -= 1
    req.num_timeout += 1
    timeo = min(TCP_TIMEOUT_INIT << req.num_timeout, TCP_RTO_MAX)
    mod_timer(req.rsk_timer, register.task.kernel.time.jiffies + timeo)


@notrace
def syn_ack_recalc(req: RequestSock, thresh: int, max_retries: int, rskq_defer_accept: int) -> tuple[bool, bool]:
    """(the request is too old, the answer is to be sent again)"""
    if not rskq_defer_accept:
        return req.num_timeout >= thresh, True
    expire = req.num_timeout >= thresh and (not req.acked or req.num_timeout >= max_retries)
    # An ACK came, but no data: wait for it, and ask once more at the end.
    resend = not req.acked or req.num_timeout >= rskq_defer_accept - 1
    return expire, resend


def inet_csk_reqsk_queue_add(sk: TcpSock, req: RequestSock, child: TcpSock) -> TcpSock | None:
    """The connection waits for accept(); None if the listener has closed."""
    if sk.sk_state != TCP_LISTEN:
        inet_child_forget(sk, req, child)
        return None
    req.child = child
    sk.icsk_accept_queue.fifo.append(req)
    sk.sk_ack_backlog += 1
    return child


def inet_csk_complete_hashdance(sk: TcpSock, child: TcpSock, req: RequestSock, own_req: bool) -> TcpSock | None:
    """The handshake is over: the request becomes an entry of the accept queue."""
    if own_req:
        inet_csk_reqsk_queue_drop(sk, req)
        reqsk_queue_removed(sk.icsk_accept_queue, req)
        if inet_csk_reqsk_queue_add(sk, req, child) is not None:
            return child
    sock_put(child)
    return None


def inet_csk_clone_lock(sk: TcpSock, req: RequestSock) -> TcpSock:
    """A sock for the connection that a request became. References: 2, sk_clone_lock()."""
    newsk: TcpSock = sk_clone_lock(sk)  # type: ignore[assignment]
    inet_sk_set_state(newsk, TCP_SYN_RECV)
    newsk.sk_hashed = False
    newsk.kaddr = 0
    newsk.icsk_bind_hash = None
    newsk.sk_userlocks &= ~SOCK_BINDPORT_LOCK
    newsk.inet_dport = req.inet_dport
    newsk.inet_num = newsk.inet_sport = req.inet_num
    newsk.sk_flags &= ~SOCK_RCU_FREE
    newsk.inet_daddr = req.inet_daddr
    newsk.inet_rcv_saddr = newsk.inet_saddr = req.inet_rcv_saddr
    newsk.sk_mark = req.ir_mark
    newsk.icsk_retransmits = newsk.icsk_backoff = newsk.icsk_probes_out = 0
    newsk.icsk_ack_pending = newsk.icsk_ack_quick = newsk.icsk_ack_pingpong = 0
    newsk.icsk_ack_ato = newsk.icsk_ack_timeout = newsk.icsk_ack_lrcvtime = newsk.icsk_ack_last_seg_size = 0
    newsk.icsk_ack_rcv_mss = 0
    newsk.icsk_ack_blocked = False
    if newsk.sk_security is not None:
        newsk.sk_net.kernel.lsm.security_inet_csk_clone(newsk)
    return newsk


# ---- routes -----------------------------------------------------------------------------------------------
@notrace
def _flow_of_request(sk: TcpSock, fl4: Flowi4, req: RequestSock) -> Rtable | None:
    fl4.flowi4_oif = req.ir_iif
    fl4.flowi4_mark = req.ir_mark
    fl4.flowi4_tos = sk.tos & 0x1E
    fl4.flowi4_proto = sk.sk_protocol
    fl4.saddr, fl4.daddr = req.inet_rcv_saddr, req.inet_daddr
    fl4.fl4_sport, fl4.fl4_dport = req.inet_num, req.inet_dport
    fl4.flowi4_uid = sk.sk_uid
    try:
        return ip_route_output_flow(sk.sk_net, fl4, sk)
    except KernelError:
        sk.sk_net.mib.ip["OutNoRoutes"] += 1
        return None


def inet_csk_route_req(sk: TcpSock, fl4: Flowi4, req: RequestSock) -> Rtable | None:
    """The route back to who sent a SYN; fills in the flow. None: there is none."""
    return _flow_of_request(sk, fl4, req)


def inet_csk_route_child_sock(sk: TcpSock, newsk: TcpSock, req: RequestSock) -> Rtable | None:
    """The route of a new connection, which keeps its flow."""
    return _flow_of_request(sk, newsk.cork_fl4, req)
