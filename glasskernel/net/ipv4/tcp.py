"""TCP for programs: send, receive, poll, close.

Linux: net/ipv4/tcp.c (5.3). Same: how much goes into a segment and when it is pushed, what wakes whom, urgent data,
what close() does to unread data. Options are in tcp_sockopt.py, states in tcp_state.py.
Differs: what one send() gives is one fragment (Linux: pages). Gaps: zero copy, Fast Open, TCP_REPAIR, splice()
without a copy. Locks: tcp_sendmsg, tcp_recvmsg and tcp_close lock the sock themselves.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.types import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLRDNORM, POLLWRNORM
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.spinlock import _raw_spin_lock_bh, _raw_spin_unlock_bh
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EAGAIN, ECONNRESET, EINVAL, ENOIOCTLCMD, ENOTCONN, EPIPE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import (
    __release_sock,
    lock_sock_nested,
    release_sock,
    sk_clear_bit,
    sk_dst_reset,
    sk_set_bit,
    sk_wait_data,
    sock_error,
    sock_hold,
    sock_intr_errno,
    sock_orphan,
    sock_put,
    sock_rcvlowat,
    sock_rcvtimeo,
    sock_sndtimeo,
)
from glasskernel.net.core.sock_memory import sk_mem_charge, sk_mem_reclaim, sk_wmem_schedule
from glasskernel.net.core.stream import (
    sk_stream_error,
    sk_stream_is_writeable,
    sk_stream_memory_free,
    sk_stream_wait_close,
    sk_stream_wait_connect,
    sk_stream_wait_memory,
    sk_stream_write_space,
)
from glasskernel.net.ipv4.inet_connection_sock import (
    inet_csk_destroy_sock,
    inet_csk_listen_stop,
    inet_csk_reset_keepalive_timer,
)
from glasskernel.net.ipv4.tcp_cong import tcp_assign_congestion_control
from glasskernel.net.ipv4.tcp_control import (
    sk_forced_mem_schedule,
    tcp_clear_retrans,
    tcp_send_ack,
    tcp_send_active_reset,
    tcp_send_fin,
)
from glasskernel.net.ipv4.tcp_output import (
    __tcp_push_pending_frames,
    tcp_add_write_queue_tail,
    tcp_chrono_start,
    tcp_chrono_stop,
    tcp_push_one,
    tcp_wmem_free_skb,
)
from glasskernel.net.ipv4.tcp_rcv_window import tcp_rcv_space_adjust
from glasskernel.net.ipv4.tcp_rtt import tcp_rate_check_app_limited
from glasskernel.net.ipv4.tcp_state import tcp_clear_xmit_timers, tcp_set_state, tcp_write_queue_purge
from glasskernel.net.ipv4.tcp_timer import tcp_init_xmit_timers, tcp_out_of_resources
from glasskernel.net.ipv4.tcp_timewait import tcp_time_wait
from glasskernel.net.ipv4.tcp_types import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    MAX_TCP_HEADER,
    TCP_CHRONO_SNDBUF_LIMITED,
    TCP_INFINITE_SSTHRESH,
    TCP_INIT_CWND,
    TCP_MSS_DEFAULT,
    TCP_NAGLE_CORK,
    TCP_NAGLE_PUSH,
    TCP_TIMEOUT_INIT,
    TCP_TIMEWAIT_LEN,
    TCP_URG_READ,
    TCP_URG_VALID,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCP_CA_Open,
    TcpOptionsReceived,
    TcpSkbCb,
    after,
    before,
    inet_csk_in_pingpong_mode,
    tcp_count_socket,
    tcp_fin_time,
    tcp_receive_window,
    tcp_state_of,
)
from glasskernel.net.ipv4.tcp_window import __tcp_select_window, tcp_current_mss, tcp_set_ca_state
from glasskernel.net.skbuff import (
    CHECKSUM_PARTIAL,
    SkBuff,
    __kfree_skb,
    skb_copy_datagram_iter,
    skb_queue_purge,
)
from glasskernel.net.types import (
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_BINDADDR_LOCK,
    SOCK_DONE,
    SOCK_LINGER,
    SOCK_NOSPACE,
    SOCK_URGINLINE,
    SOCK_USE_WRITE_QUEUE,
    SOCKWQ_ASYNC_NOSPACE,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File, PollTable
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.types import MsgHdr, Sock, Socket

SIOCINQ, SIOCOUTQ, SIOCATMARK, SIOCOUTQNSD = 0x541B, 0x5411, 0x8905, 0x894B
PAGE_FRAG = 32768                        # small writes share a fragment up to that size
# the state after close() or shutdown(), and whether a FIN says so
NEW_STATE = {
    TCP_ESTABLISHED: (TCP_FIN_WAIT1, True), TCP_SYN_SENT: (TCP_CLOSE, False), TCP_SYN_RECV: (TCP_FIN_WAIT1, True),
    TCP_CLOSE_WAIT: (TCP_LAST_ACK, True), TCP_LISTEN: (TCP_CLOSE, False),
}


def tcp_init_sock(sk: TcpSock) -> None:
    """A new sock, closed."""
    sysctl = sk.sk_net.ipv4.sysctl
    tcp_init_xmit_timers(sk)
    sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.mdev_us = TCP_TIMEOUT_INIT * (1000000 // HZ)
    sk.snd_cwnd = TCP_INIT_CWND
    sk.app_limited = 0
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    sk.snd_cwnd_clamp = 0xFFFFFFFF
    sk.mss_cache = TCP_MSS_DEFAULT
    sk.reordering = sysctl["tcp_reordering"]
    tcp_assign_congestion_control(sk)
    sk.sk_state = TCP_CLOSE
    sk.sk_write_space = sk_stream_write_space
    sk.sk_flags |= SOCK_USE_WRITE_QUEUE
    sk.sk_sndbuf = sysctl["tcp_wmem"][1]
    sk.sk_rcvbuf = sysctl["tcp_rmem"][1]
    tcp_count_socket(sk, 1)


# ---- sending -----------------------------------------------------------------------------------------------
@notrace
def tcp_stream_memory_free(sk: Sock, wake: int) -> bool:
    """TCP_NOTSENT_LOWAT: no more than that waits to be sent."""
    tp: TcpSock = sk  # type: ignore[assignment]
    lowat = tp.notsent_lowat or tp.sk_net.ipv4.sysctl["tcp_notsent_lowat"]
    return (tp.write_seq - tp.snd_nxt & 0xFFFFFFFF) << wake < lowat


def sk_stream_alloc_skb(sk: TcpSock) -> SkBuff | None:
    """An empty segment; None: no memory."""
    skb = SkBuff(MAX_TCP_HEADER)
    if not sk.sk_write_queue.q and not sk.tcp_rtx_queue:
        sk_forced_mem_schedule(sk, skb.truesize)
    elif not sk_wmem_schedule(sk, skb.truesize):
        return None
    skb.data = skb.tail = MAX_TCP_HEADER
    return skb


def skb_entail(sk: TcpSock, skb: SkBuff) -> None:
    """The segment is the last of the write queue."""
    tcb = TcpSkbCb()
    skb.cb = tcb
    tcb.seq = tcb.end_seq = sk.write_seq
    tcb.tcp_flags = TCPHDR_ACK
    tcp_add_write_queue_tail(sk, skb)
    sk.sk_wmem_queued += skb.truesize
    sk_mem_charge(sk, skb.truesize)
    skb.ip_summed = CHECKSUM_PARTIAL
    if sk.nonagle & TCP_NAGLE_PUSH:
        sk.nonagle &= ~TCP_NAGLE_PUSH


def tcp_send_mss(sk: TcpSock, flags: int) -> tuple[int, int]:
    """(bytes in a segment, bytes that one skb may hold)"""
    mss_now = tcp_current_mss(sk)
    return mss_now, tcp_xmit_size_goal(sk, mss_now, not flags & MSG_OOB)


@notrace
def tcp_xmit_size_goal(sk: TcpSock, mss_now: int, large_allowed: bool) -> int:
    if not large_allowed or not sk.sk_gso_max_size:
        return mss_now
    new_size_goal = sk.sk_gso_max_size - 1 - MAX_TCP_HEADER
    half = max(sk.max_window >> 1, 68 - sk.tcp_header_len)
    if sk.max_window and new_size_goal > half:           # tcp_bound_to_half_wnd()
        new_size_goal = half
    size_goal = sk.gso_segs * mss_now
    if new_size_goal < size_goal or new_size_goal >= size_goal + mss_now:
        sk.gso_segs = min(new_size_goal // mss_now, sk.sk_gso_max_segs)
        size_goal = sk.gso_segs * mss_now
    return max(size_goal, mss_now)


@notrace
def forced_push(sk: TcpSock) -> bool:
    return after(sk.write_seq, sk.pushed_seq + (sk.max_window >> 1) & 0xFFFFFFFF)


@notrace
def tcp_mark_push(sk: TcpSock, skb: SkBuff) -> None:
    skb.cb.tcp_flags |= TCPHDR_PSH
    sk.pushed_seq = sk.write_seq


@notrace
def tcp_should_autocork(sk: TcpSock, skb: SkBuff, size_goal: int) -> bool:
    """A short segment waits while the device still sends an earlier one."""
    return bool(skb.len < size_goal and sk.sk_net.ipv4.sysctl["tcp_autocorking"] and sk.tcp_rtx_queue
                and sk.sk_wmem_alloc > skb.truesize)


def tcp_push(sk: TcpSock, flags: int, mss_now: int, nonagle: int, size_goal: int) -> None:
    """The program has written: sends it, unless it should wait for more."""
    queue = sk.sk_write_queue.q
    if not queue:
        return
    skb = queue[-1]
    if not flags & MSG_MORE or forced_push(sk):
        tcp_mark_push(sk, skb)
    if flags & MSG_OOB:
        sk.snd_up = sk.write_seq
    if tcp_should_autocork(sk, skb, size_goal):
        if not sk.tsq_flags & 1:
            sk.sk_net.mib.net["TCPAutoCorking"] += 1
            sk.tsq_flags |= 1            # TSQ_THROTTLED: tcp_wfree() goes on
        return
    if flags & MSG_MORE:
        nonagle = TCP_NAGLE_CORK
    __tcp_push_pending_frames(sk, mss_now, nonagle)


@may_sleep
def tcp_sendmsg_locked(sk: TcpSock, msg: MsgHdr, size: int) -> int:
    """Bytes taken. Raises EPIPE (and SIGPIPE), EAGAIN, EINTR, the sock's error."""
    flags = msg.msg_flags
    it = msg.msg_iter
    copied = 0
    timeo = sock_sndtimeo(sk, flags & MSG_DONTWAIT)
    queue = sk.sk_write_queue.q
    try:
        tcp_rate_check_app_limited(sk)
        if sk.sk_state not in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
            timeo = sk_stream_wait_connect(sk, timeo)
        sk_clear_bit(SOCKWQ_ASYNC_NOSPACE, sk)
        mss_now, size_goal = tcp_send_mss(sk, flags)
        if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            raise KernelError(EPIPE)
        while it.count:
            skb = queue[-1] if queue else None
            copy = 0 if skb is None or skb.cb.eor else size_goal - skb.len
            if copy <= 0:
                skb = sk_stream_alloc_skb(sk) if sk_stream_memory_free(sk) else None
                if skb is None:
                    sk_set_bit(SOCK_NOSPACE, sk)
                    if copied:
                        tcp_push(sk, flags & ~MSG_MORE, mss_now, TCP_NAGLE_PUSH, size_goal)
                    tcp_chrono_start(sk, TCP_CHRONO_SNDBUF_LIMITED)
                    timeo = sk_stream_wait_memory(sk, timeo)
                    mss_now, size_goal = tcp_send_mss(sk, flags)
                    continue
                skb_entail(sk, skb)
                copy = size_goal
            assert skb is not None
            copy = min(copy, it.count)
            if not sk_wmem_schedule(sk, copy):
                if copied:
                    tcp_push(sk, flags & ~MSG_MORE, mss_now, TCP_NAGLE_PUSH, size_goal)
                timeo = sk_stream_wait_memory(sk, timeo)
                mss_now, size_goal = tcp_send_mss(sk, flags)
                continue
            data = it.copy_from_iter(copy)
            copy = len(data)
            _append(skb, data)
            sk.sk_wmem_queued += copy
            sk_mem_charge(sk, copy)
            tcb: TcpSkbCb = skb.cb
            if not copied:
                tcb.tcp_flags &= ~TCPHDR_PSH
            sk.write_seq = sk.write_seq + copy & 0xFFFFFFFF
            tcb.end_seq = tcb.end_seq + copy & 0xFFFFFFFF
            tcb.tcp_gso_segs = 0
            copied += copy
            if not it.count:
                if flags & MSG_EOR:
                    tcb.eor = True
                break
            if skb.len < size_goal or flags & MSG_OOB:
                continue
            if forced_push(sk):
                tcp_mark_push(sk, skb)
                __tcp_push_pending_frames(sk, mss_now, TCP_NAGLE_PUSH)
            elif skb is queue[0]:
                tcp_push_one(sk, mss_now)
    except KernelError as e:
        _remove_empty_skb(sk)
        if copied:
            tcp_push(sk, flags, mss_now, sk.nonagle, size_goal)
            return copied
        if e.errno == EAGAIN and not queue and not sk.tcp_rtx_queue:
            sk.sk_write_space(sk)        # nothing in flight will wake who polls
            tcp_chrono_stop(sk, TCP_CHRONO_SNDBUF_LIMITED)
        if e.errno == EPIPE:
            raise sk_stream_error(sk, flags, EPIPE) from None
        raise
    if copied:
        tcp_push(sk, flags, mss_now, sk.nonagle, size_goal)
    return copied


@notrace
def _append(skb: SkBuff, data: bytes) -> None:
    """Data at the end of a segment that was never sent; small pieces join."""
    frags = skb.shinfo.frags
    size = len(data)
    if frags and len(frags[-1]) + size <= PAGE_FRAG:
        frags[-1] = bytes(frags[-1]) + data
    else:
        frags.append(data)
    skb.len += size
    skb.data_len += size
    skb.truesize += size


@notrace
def _remove_empty_skb(sk: TcpSock) -> None:
    """tcp_remove_empty_skb(): a segment that was begun, and no data came."""
    queue = sk.sk_write_queue.q
    if queue and not queue[-1].len and queue[-1].cb.seq == queue[-1].cb.end_seq:
        tcp_wmem_free_skb(sk, queue.pop())


@may_sleep
def tcp_sendmsg(sk: Sock, msg: MsgHdr, size: int) -> int:
    tp: TcpSock = sk  # type: ignore[assignment]
    lock_sock_nested(tp)
    try:
        return tcp_sendmsg_locked(tp, msg, size)
    finally:
        release_sock(tp)


# ---- receiving ---------------------------------------------------------------------------------------------
def tcp_cleanup_rbuf(sk: TcpSock, copied: int) -> None:
    """The program has read: an ACK, if one is due or the window has opened much."""
    time_to_ack = False
    pending = sk.icsk_ack_pending
    if pending & ICSK_ACK_SCHED:
        time_to_ack = sk.icsk_ack_blocked or (sk.rcv_nxt - sk.rcv_wup & 0xFFFFFFFF) > sk.icsk_ack_rcv_mss or (
            copied > 0 and (bool(pending & ICSK_ACK_PUSHED2) or (
                bool(pending & ICSK_ACK_PUSHED) and not inet_csk_in_pingpong_mode(sk))) and not sk.sk_rmem_alloc)
    if copied > 0 and not time_to_ack and not sk.sk_shutdown & RCV_SHUTDOWN:
        rcv_window_now = tcp_receive_window(sk)
        if 2 * rcv_window_now <= sk.window_clamp:
            new_window = __tcp_select_window(sk)
            time_to_ack = bool(new_window) and new_window >= 2 * rcv_window_now
    if time_to_ack:
        tcp_send_ack(sk)


def tcp_recv_urg(sk: TcpSock, msg: MsgHdr, length: int, flags: int) -> int:
    """MSG_OOB: the urgent byte. Raises EINVAL: there is none; EAGAIN: it is still on its way."""
    if sk.sk_flags & SOCK_URGINLINE or not sk.urg_data or sk.urg_data == TCP_URG_READ:
        raise KernelError(EINVAL)
    if sk.sk_state == TCP_CLOSE and not sk.sk_flags & SOCK_DONE:
        raise KernelError(ENOTCONN)
    if sk.urg_data & TCP_URG_VALID:
        byte = sk.urg_data & 0xFF
        if not flags & MSG_PEEK:
            sk.urg_data = TCP_URG_READ
        msg.msg_flags |= MSG_OOB
        if length <= 0:
            msg.msg_flags |= MSG_TRUNC
            return 0
        if not flags & MSG_TRUNC:
            msg.msg_iter.copy_to_iter(bytes([byte]))
        return 1
    if sk.sk_state == TCP_CLOSE or sk.sk_shutdown & RCV_SHUTDOWN:
        return 0
    raise KernelError(EAGAIN)


@may_sleep
def tcp_recvmsg(sk: Sock, msg: MsgHdr, length: int, flags: int) -> int:
    """Bytes read; 0: the other side has closed. Raises ENOTCONN, EAGAIN, EINTR, the sock's error."""
    tp: TcpSock = sk  # type: ignore[assignment]
    lock_sock_nested(tp)
    try:
        if tp.sk_state == TCP_LISTEN:
            raise KernelError(ENOTCONN)
        if flags & MSG_OOB:
            return tcp_recv_urg(tp, msg, length, flags)
        return _recv(tp, msg, length, flags)
    finally:
        release_sock(tp)


@notrace
def _recv(sk: TcpSock, msg: MsgHdr, length: int, flags: int) -> int:
    peek = flags & MSG_PEEK
    queue = sk.sk_receive_queue.q
    timeo = sock_rcvtimeo(sk, flags & MSG_DONTWAIT)
    target = sock_rcvlowat(sk, flags & MSG_WAITALL, length)
    seq = sk.copied_seq
    urg_hole = copied = at = 0
    while length > 0:
        if sk.urg_data and sk.urg_seq == seq:
            if copied:
                break
            if signal_pending(current()):
                raise sock_intr_errno(timeo) if timeo else KernelError(EAGAIN)
        skb = None
        fin = False
        while at < len(queue):
            skb = queue[at]
            offset = seq - skb.cb.seq & 0xFFFFFFFF
            if offset < skb.len:
                break
            fin = bool(skb.cb.tcp_flags & TCPHDR_FIN)
            if fin:
                break
            at += 1
            skb = None
        if skb is None:
            if copied >= target and not sk.sk_backlog:
                break
            if copied:
                if (sk.sk_err or sk.sk_state == TCP_CLOSE or sk.sk_shutdown & RCV_SHUTDOWN or not timeo
                        or signal_pending(current())):
                    break
            elif _nothing_comes(sk, timeo):
                break
            tcp_cleanup_rbuf(sk, copied)
            if copied >= target:         # the backlog may have more
                release_sock(sk)
                lock_sock_nested(sk)
            else:
                _, timeo = sk_wait_data(sk, timeo, queue[-1] if queue else None)
            if peek and sk.copied_seq - seq + copied + urg_hole & 0xFFFFFFFF:
                seq = sk.copied_seq      # somebody else has read meanwhile
                at = 0
            elif not peek:
                seq = sk.copied_seq
                at = 0
            continue
        if not fin:
            used = min(skb.len - offset, length)
            if sk.urg_data:
                urg_offset = sk.urg_seq - seq & 0xFFFFFFFF
                if urg_offset < used:
                    if urg_offset:
                        used = urg_offset                # stop in front of it
                    elif not sk.sk_flags & SOCK_URGINLINE:
                        seq = seq + 1 & 0xFFFFFFFF       # skip it
                        urg_hole += 1
                        offset += 1
                        used -= 1
            if used:
                if not flags & MSG_TRUNC:
                    try:
                        skb_copy_datagram_iter(skb, offset, msg.msg_iter, used)
                    except KernelError:
                        if copied:
                            break
                        raise
                seq = seq + used & 0xFFFFFFFF
                copied += used
                length -= used
            if not peek:
                sk.copied_seq = seq
            if used:
                tcp_rcv_space_adjust(sk)
            if sk.urg_data and after(sk.copied_seq, sk.urg_seq):
                sk.urg_data = 0
            if used + offset < skb.len:
                continue
            fin = bool(skb.cb.tcp_flags & TCPHDR_FIN)
        if fin:
            seq = seq + 1 & 0xFFFFFFFF
        if peek:
            at += 1
        else:
            sk.copied_seq = seq
            assert queue[0] is skb
            __kfree_skb(queue.popleft())                 # sk_eat_skb()
            at = 0
        if fin:
            break
    tcp_cleanup_rbuf(sk, copied)
    return copied


@notrace
def _nothing_comes(sk: TcpSock, timeo: int) -> bool:
    """The queue is empty: True at the end of the stream; raises; or the caller waits."""
    if sk.sk_flags & SOCK_DONE:
        return True
    if sk.sk_err:
        raise KernelError(sock_error(sk))
    if sk.sk_shutdown & RCV_SHUTDOWN:
        return True
    if sk.sk_state == TCP_CLOSE:
        raise KernelError(ENOTCONN)      # read() of a socket that was never connected
    if not timeo:
        raise KernelError(EAGAIN)
    if signal_pending(current()):
        raise sock_intr_errno(timeo)
    return False


# ---- asking ------------------------------------------------------------------------------------------------
def tcp_poll(file: File, sock: Socket, wait: PollTable) -> int:
    """POLL*: what would not wait."""
    sk: TcpSock = sock.sk  # type: ignore[assignment]
    poll_wait(file, sock.wq, wait)
    state = sk.sk_state
    if state == TCP_LISTEN:
        return POLLIN | POLLRDNORM if sk.icsk_accept_queue.fifo else 0
    mask = 0
    shutdown = sk.sk_shutdown
    if shutdown == SHUTDOWN_MASK or state == TCP_CLOSE:
        mask |= POLLHUP
    if shutdown & RCV_SHUTDOWN:
        mask |= POLLIN | POLLRDNORM | POLLRDHUP
    if state not in (TCP_SYN_SENT, TCP_SYN_RECV):
        target = sk.sk_rcvlowat or 1
        if sk.urg_seq == sk.copied_seq and not sk.sk_flags & SOCK_URGINLINE and sk.urg_data:
            target += 1
        if (sk.rcv_nxt - sk.copied_seq & 0xFFFFFFFF) >= target:
            mask |= POLLIN | POLLRDNORM
        if shutdown & SEND_SHUTDOWN or sk_stream_is_writeable(sk):
            mask |= POLLOUT | POLLWRNORM
        else:
            sk_set_bit(SOCKWQ_ASYNC_NOSPACE | SOCK_NOSPACE, sk)
        if sk.urg_data & TCP_URG_VALID:
            mask |= POLLPRI
    if sk.sk_err or sk.sk_error_queue.q:
        mask |= POLLERR
    return mask


@notrace
def tcp_inq(sk: TcpSock) -> int:
    """Bytes that can be read."""
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        return 0
    if (sk.sk_flags & SOCK_URGINLINE or not sk.urg_data or before(sk.urg_seq, sk.copied_seq)
            or not before(sk.urg_seq, sk.rcv_nxt)):
        answ = sk.rcv_nxt - sk.copied_seq & 0xFFFFFFFF
        return answ - 1 if answ and sk.sk_flags & SOCK_DONE else answ
    return sk.urg_seq - sk.copied_seq & 0xFFFFFFFF


def tcp_ioctl(sk: Sock, cmd: int, arg: int) -> int:
    """SIOCINQ (FIONREAD), SIOCATMARK, SIOCOUTQ, SIOCOUTQNSD"""
    tp: TcpSock = sk  # type: ignore[assignment]
    if cmd not in (SIOCINQ, SIOCATMARK, SIOCOUTQ, SIOCOUTQNSD):
        raise KernelError(ENOIOCTLCMD)
    if cmd == SIOCATMARK:
        answ = int(bool(tp.urg_data) and tp.urg_seq == tp.copied_seq)
    else:
        if tp.sk_state == TCP_LISTEN:
            raise KernelError(EINVAL)
        if cmd == SIOCINQ:
            answ = tcp_inq(tp)
        elif tp.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
            answ = 0
        else:
            answ = tp.write_seq - (tp.snd_una if cmd == SIOCOUTQ else tp.snd_nxt) & 0xFFFFFFFF
    put_user_u32(arg, answ)
    return 0


# ---- closing -----------------------------------------------------------------------------------------------
@notrace
def tcp_close_state(sk: TcpSock) -> bool:
    """The next state; True if a FIN has to be sent."""
    state, action = NEW_STATE.get(sk.sk_state, (sk.sk_state, False))
    tcp_set_state(sk, state)
    return action


def tcp_shutdown(sk: Sock, how: int) -> None:
    """shutdown(SHUT_WR)"""
    tp: TcpSock = sk  # type: ignore[assignment]
    if how & SEND_SHUTDOWN and tp.sk_state in (TCP_ESTABLISHED, TCP_SYN_SENT, TCP_SYN_RECV, TCP_CLOSE_WAIT) and (
            tcp_close_state(tp)):
        tcp_send_fin(tp)


@may_sleep
def tcp_close(sk: Sock, timeout: int) -> None:
    """The last descriptor is closed. The connection lives on until all is sent and acknowledged."""
    tp: TcpSock = sk  # type: ignore[assignment]
    lock_sock_nested(tp)
    tp.sk_shutdown = SHUTDOWN_MASK
    mib = tp.sk_net.mib.net
    if tp.sk_state == TCP_LISTEN:
        tcp_set_state(tp, TCP_CLOSE)
        inet_csk_listen_stop(tp)
    else:
        _end_of_stream(tp, timeout)
    state = tp.sk_state
    sock_hold(tp)
    sock_orphan(tp)
    _raw_spin_lock_bh(tp.sk_slock)       # local_bh_disable() and bh_lock_sock()
    __release_sock(tp)                   # what came meanwhile, still as the owner
    tcp_state_of(tp.sk_net).orphan_count += 1
    if state == TCP_CLOSE or tp.sk_state != TCP_CLOSE:   # else the backlog has ended it already
        finished = False
        if tp.sk_state == TCP_FIN_WAIT2:
            if tp.linger2 < 0:
                tcp_set_state(tp, TCP_CLOSE)
                tcp_send_active_reset(tp)
                mib["TCPAbortOnLinger"] += 1
            else:
                tmo = tcp_fin_time(tp)
                if tmo > TCP_TIMEWAIT_LEN:
                    inet_csk_reset_keepalive_timer(tp, tmo - TCP_TIMEWAIT_LEN)
                else:
                    tcp_time_wait(tp, TCP_FIN_WAIT2, tmo)
                    finished = True
        if not finished:
            if tp.sk_state != TCP_CLOSE:
                sk_mem_reclaim(tp)
                finished = tcp_out_of_resources(tp, True)
            if not finished and tp.sk_state == TCP_CLOSE:
                inet_csk_destroy_sock(tp)
    _raw_spin_unlock_bh(tp.sk_slock)
    release_sock(tp)
    sock_put(tp)


@notrace
def _end_of_stream(sk: TcpSock, timeout: int) -> None:
    """FIN, or RST if there is data that nobody read (RFC 2525) or SO_LINGER with 0 says so."""
    data_was_unread = 0
    queue = sk.sk_receive_queue.q
    while queue:
        skb = queue.popleft()
        tcb: TcpSkbCb = skb.cb
        data_was_unread += (tcb.end_seq - tcb.seq & 0xFFFFFFFF) - bool(tcb.tcp_flags & TCPHDR_FIN)
        __kfree_skb(skb)
    sk_mem_reclaim(sk)
    if sk.sk_state == TCP_CLOSE:
        return
    mib = sk.sk_net.mib.net
    if data_was_unread:
        mib["TCPAbortOnClose"] += 1
        tcp_set_state(sk, TCP_CLOSE)
        tcp_send_active_reset(sk)
    elif sk.sk_flags & SOCK_LINGER and not sk.sk_lingertime:
        tcp_disconnect(sk, 0)
        mib["TCPAbortOnData"] += 1
    elif tcp_close_state(sk):
        tcp_send_fin(sk)
    sk_stream_wait_close(sk, timeout)


@notrace
def tcp_need_reset(state: int) -> bool:
    return state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV)


def tcp_disconnect(sk: Sock, flags: int) -> None:
    """connect(AF_UNSPEC), and the hard end of a connection: as good as new afterwards."""
    tp: TcpSock = sk  # type: ignore[assignment]
    old_state = tp.sk_state
    if old_state != TCP_CLOSE:
        tcp_set_state(tp, TCP_CLOSE)
    if old_state == TCP_LISTEN:
        inet_csk_listen_stop(tp)
    elif tcp_need_reset(old_state) or (tp.snd_nxt != tp.write_seq and old_state in (TCP_CLOSING, TCP_LAST_ACK)):
        tcp_send_active_reset(tp)
        tp.sk_err = ECONNRESET
    elif old_state == TCP_SYN_SENT:
        tp.sk_err = ECONNRESET
    tcp_clear_xmit_timers(tp)
    skb_queue_purge(tp.sk_receive_queue)
    tp.copied_seq = tp.rcv_nxt
    tp.urg_data = 0
    tcp_write_queue_purge(tp)
    for skb in tp.out_of_order_queue:
        __kfree_skb(skb)
    tp.out_of_order_queue.clear()
    tp.inet_dport = 0
    if not tp.sk_userlocks & SOCK_BINDADDR_LOCK:
        tp.inet_rcv_saddr = tp.inet_saddr = 0            # inet_reset_saddr()
    tp.sk_shutdown = 0
    tp.sk_flags &= ~SOCK_DONE
    tp.srtt_us = 0
    tp.mdev_us = TCP_TIMEOUT_INIT * (1000000 // HZ)
    tp.rcv_rtt_last_tsecr = 0
    tp.write_seq = tp.write_seq + tp.max_window + 2 & 0xFFFFFFFF or 1
    tp.icsk_backoff = tp.icsk_probes_out = 0
    tp.icsk_rto = TCP_TIMEOUT_INIT
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH
    tp.snd_cwnd = TCP_INIT_CWND
    tp.snd_cwnd_cnt = tp.window_clamp = tp.delivered = 0
    if tp.icsk_ca_initialized:
        tcp_set_ca_state(tp, TCP_CA_Open)
    tcp_clear_retrans(tp)
    tp.total_retrans = 0
    tp.icsk_ack_pending = tp.icsk_ack_quick = tp.icsk_ack_pingpong = tp.icsk_ack_ato = 0
    tp.icsk_ack_rcv_mss = 88
    user_mss = tp.rx_opt.user_mss
    tp.rx_opt = TcpOptionsReceived()
    tp.rx_opt.user_mss = user_mss
    tp.selective_acks = []
    sk_dst_reset(tp)
    tp.bytes_sent = tp.bytes_acked = tp.bytes_received = tp.bytes_retrans = 0
    tp.segs_in = tp.segs_out = tp.data_segs_in = tp.data_segs_out = 0
    tp.sk_error_report(tp)
