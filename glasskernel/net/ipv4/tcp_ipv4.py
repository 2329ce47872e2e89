"""TCP over IPv4: which sock gets a packet, connect(), what ICMP tells.

Linux: net/ipv4/tcp_ipv4.c (5.3). Same: the lookup, requests and timewait socks on the way, the backlog of an owned
sock, the call order down to tcp_rcv_established().
Owns: tcp_prot, net.ipv4.tcp.
Invariants: whoever looks a sock up holds it until the packet is worked off; listeners excepted, as in Linux.
Context: softirq, unless noted. Gaps: MD5, SYN cookies, early demux.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.lib.errno import (
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    ENETUNREACH,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dst import dst_release
from glasskernel.net.core.filter import sk_filter
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.secure_seq import secure_tcp_seq, secure_tcp_ts_off
from glasskernel.net.core.sock import sk_add_backlog, sock_hold, sock_put
from glasskernel.net.core.sock_dst import sk_setup_caps
from glasskernel.net.ipv4.af_inet import inet_ctl_sock_create, inet_ctl_sock_destroy
from glasskernel.net.ipv4.inet_connection_sock import (
    inet_csk_accept,
    inet_csk_reqsk_queue_drop_and_put,
    reqsk_put,
)
from glasskernel.net.ipv4.inet_csk_port import inet_csk_get_port
from glasskernel.net.ipv4.inet_hash_connect import inet_hash_connect
from glasskernel.net.ipv4.inet_hashtables import (
    InetHashinfo,
    __inet_lookup_established,
    __inet_lookup_listener,
    inet_hash,
    inet_put_port,
    inet_unhash,
)
from glasskernel.net.ipv4.inet_timewait_sock import inet_twsk_deschedule_put, inet_twsk_purge, inet_twsk_put
from glasskernel.net.ipv4.ip_errqueue import read_sockaddr_in
from glasskernel.net.ipv4.route import ip_route_connect, ip_route_newports, rt_tos
from glasskernel.net.ipv4.tcp import (
    tcp_close,
    tcp_disconnect,
    tcp_init_sock,
    tcp_ioctl,
    tcp_recvmsg,
    tcp_sendmsg,
    tcp_shutdown,
    tcp_stream_memory_free,
)
from glasskernel.net.ipv4.tcp_cong import (
    tcp_cleanup_congestion_control,
    tcp_register_congestion_control,
    tcp_reno,
)
from glasskernel.net.ipv4.tcp_control import tcp_connect
from glasskernel.net.ipv4.tcp_cubic import cubictcp
from glasskernel.net.ipv4.tcp_icmp import tcp_v4_err, tcp_v4_mtu_reduced
from glasskernel.net.ipv4.tcp_input import tcp_csum_error, tcp_rcv_established, tcp_rcv_state_process
from glasskernel.net.ipv4.tcp_minisocks import tcp_check_req, tcp_child_process
from glasskernel.net.ipv4.tcp_output import tcp_push_pending_frames
from glasskernel.net.ipv4.tcp_parse import tcp_hdr
from glasskernel.net.ipv4.tcp_proc import tcp_proc_exit, tcp_proc_init
from glasskernel.net.ipv4.tcp_reply import tcp_v4_send_reset, tcp_v4_timewait_ack
from glasskernel.net.ipv4.tcp_request import ip_addresses
from glasskernel.net.ipv4.tcp_retransmit import tcp_xmit_retransmit_queue
from glasskernel.net.ipv4.tcp_sockopt import tcp_getsockopt, tcp_setsockopt
from glasskernel.net.ipv4.tcp_state import tcp_clear_xmit_timers, tcp_set_state, tcp_write_queue_purge
from glasskernel.net.ipv4.tcp_timer import tcp_delack_timer_handler, tcp_set_keepalive, tcp_write_timer_handler
from glasskernel.net.ipv4.tcp_timewait import (
    TCP_TW_ACK,
    TCP_TW_RST,
    TCP_TW_SYN,
    tcp_timewait_state_process,
)
from glasskernel.net.ipv4.tcp_transmit import tcp_tasklet_init
from glasskernel.net.ipv4.tcp_types import (
    MAX_TCP_HEADER,
    TCP_DEFERRED_ALL,
    TCP_DELACK_TIMER_DEFERRED,
    TCP_MTU_REDUCED_DEFERRED,
    TCP_TSQ_DEFERRED,
    TCP_WRITE_TIMER_DEFERRED,
    TCPHDR_FIN,
    TCPHDR_SYN,
    TcpSkbCb,
    TcpSock,
    TcpState,
    tcp_count_socket,
)
from glasskernel.net.ipv4.tcp_window import tcp_mstamp_refresh
from glasskernel.net.ipv4.types import (
    IP_PMTUDISC_DO,
    RTCF_BROADCAST,
    RTCF_MULTICAST,
    NetProtocol,
)
from glasskernel.net.skbuff import (
    PACKET_HOST,
    __kfree_skb,
    kfree_skb,
    pskb_may_pull,
    skb_checksum_complete,
    skb_checksum_init_v4,
)
from glasskernel.net.types import (
    AF_INET,
    IPPROTO_TCP,
    SOCK_RAW,
    SOCK_USE_WRITE_QUEUE,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    PernetOperations,
    Proto,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.ipv4.tcp_types import TcpHdr, TimewaitSock
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net, Sock



# ---- receiving ---------------------------------------------------------------------------------------------
def tcp_v4_fill_cb(skb: SkBuff, th: TcpHdr) -> None:
    """What TCP wants to know of a packet."""
    tcb = TcpSkbCb()
    flags = th.flags
    tcb.seq = th.seq
    tcb.end_seq = th.seq + bool(flags & TCPHDR_SYN) + (flags & TCPHDR_FIN) + skb.len - th.doff & 0xFFFFFFFF
    tcb.ack_seq = th.ack_seq
    tcb.tcp_flags = flags
    tcb.th = th
    skb.cb = tcb


def tcp_filter(sk: TcpSock, skb: SkBuff) -> int:
    """SO_ATTACH_FILTER. Nonzero: the packet is dropped."""
    return sk_filter(sk, skb)


def tcp_add_backlog(sk: TcpSock, skb: SkBuff) -> bool:
    """Leaves the packet to the owner. True: there is no room."""
    limit = sk.sk_rcvbuf + sk.sk_sndbuf + 64 * 1024
    dst = skb.dst
    if dst is not None:
        skb.dst = None
        dst_release(dst)
    if not sk_add_backlog(sk, skb, limit):
        sk.sk_net.mib.net["TCPBacklogDrop"] += 1
        return True
    return False


def tcp_v4_do_rcv(sk: Sock, skb: SkBuff) -> int:
    """->backlog_rcv(): a packet for a sock that nobody else uses now. Takes the packet."""
    tp: TcpSock = sk  # type: ignore[assignment]
    if tp.sk_state == TCP_ESTABLISHED:
        tcp_rcv_established(tp, skb)
        return 0
    if skb_checksum_complete(skb):
        tcp_csum_error(tp, skb)
        return 0
    if tcp_rcv_state_process(tp, skb):
        tcp_v4_send_reset(tp, skb)
        kfree_skb(skb)
    return 0


def tcp_v4_rcv(skb: SkBuff) -> int:
    """->handler(): a segment; skb.data is at its header. Takes the packet."""
    dev = skb.dev
    assert dev is not None
    net = dev.net
    mib = net.mib.tcp
    if skb.pkt_type != PACKET_HOST:
        kfree_skb(skb)
        return 0
    mib["InSegs"] += 1
    if not pskb_may_pull(skb, 20):
        mib["InErrs"] += 1
        kfree_skb(skb)
        return 0
    th = tcp_hdr(skb)
    if th.doff < 20 or not pskb_may_pull(skb, th.doff):
        mib["InErrs"] += 1
        kfree_skb(skb)
        return 0
    saddr, daddr = ip_addresses(skb)
    if skb_checksum_init_v4(skb, 6, saddr, daddr):
        mib["InCsumErrors"] += 1
        mib["InErrs"] += 1
        kfree_skb(skb)
        return 0
    tcp_v4_fill_cb(skb, th)
    dif = skb.skb_iif
    while True:
        sk = __inet_lookup_established(net, saddr, th.source, daddr, th.dest, dif)
        refcounted = sk is not None
        if sk is None:
            sk = __inet_lookup_listener(net, saddr, th.source, daddr, th.dest, dif)
        if sk is None:
            _no_tcp_socket(net, skb)
            return 0
        if sk.sk_state == TCP_TIME_WAIT:
            sk = _do_time_wait(net, sk, skb, th, dif)
            if sk is None:
                return 0
            refcounted = False
        if sk.sk_state != TCP_NEW_SYN_RECV:
            break
        req = sk
        listener: TcpSock = req.rsk_listener
        if skb_checksum_complete(skb):
            reqsk_put(req)
            tcp_csum_error(listener, skb)
            return 0
        if listener.sk_state != TCP_LISTEN:
            inet_csk_reqsk_queue_drop_and_put(listener, req)
            continue
        sock_hold(listener)
        sk = listener
        refcounted = True
        nsk = None
        if not tcp_filter(sk, skb):
            nsk = tcp_check_req(sk, skb, req)
        if nsk is None:
            reqsk_put(req)
            _discard(sk, skb, True)
            return 0
        if nsk is not sk:
            if tcp_child_process(sk, nsk, skb):
                tcp_v4_send_reset(nsk, skb)
                _discard(sk, skb, True)
            else:
                sock_put(sk)
            return 0
        reqsk_put(req)                   # a packet that fits no handshake: the listener resets it
        break
    if sk.min_ttl and skb.head[skb.network_header + 8] < sk.min_ttl:
        net.mib.net["TCPMinTTLDrop"] += 1
        _discard(sk, skb, refcounted)
        return 0
    if sk.sk_filter is not None and tcp_filter(sk, skb):
        _discard(sk, skb, refcounted)
        return 0
    skb.dev = None
    if sk.sk_state == TCP_LISTEN:
        tcp_v4_do_rcv(sk, skb)
    else:
        sk.segs_in += max(1, skb.shinfo.gso_segs)        # tcp_segs_in()
        if skb.len > th.doff:
            sk.data_segs_in += max(1, skb.shinfo.gso_segs)
        if not sk.sk_lock_owned:
            tcp_v4_do_rcv(sk, skb)
        elif tcp_add_backlog(sk, skb):
            _discard(sk, skb, refcounted)
            return 0
    if refcounted:
        sock_put(sk)
    return 0


@notrace
def _discard(sk: TcpSock, skb: SkBuff, refcounted: bool) -> None:
    sk.sk_drops += 1
    if refcounted:
        sock_put(sk)
    kfree_skb(skb)


@notrace
def _no_tcp_socket(net: Net, skb: SkBuff) -> None:
    """Nobody listens: RST."""
    if skb_checksum_complete(skb):
        net.mib.tcp["InCsumErrors"] += 1
        net.mib.tcp["InErrs"] += 1
    else:
        tcp_v4_send_reset(None, skb)
    kfree_skb(skb)


@notrace
def _do_time_wait(net: Net, tw: TimewaitSock, skb: SkBuff, th: TcpHdr, dif: int) -> TcpSock | None:
    """A packet for a timewait sock. A listener: it is a SYN that may begin anew; None: the packet was taken."""
    if skb_checksum_complete(skb):
        net.mib.tcp["InCsumErrors"] += 1
        inet_twsk_put(tw)
        kfree_skb(skb)
        return None
    verdict, isn = tcp_timewait_state_process(tw, skb, th)
    if verdict == TCP_TW_SYN:
        sk2 = __inet_lookup_listener(net, *_flow(skb, th), dif)
        if sk2 is not None:
            inet_twsk_deschedule_put(tw)
            skb.cb.tw_isn = isn
            return sk2
        verdict = TCP_TW_ACK
    if verdict == TCP_TW_ACK:
        tcp_v4_timewait_ack(tw, skb)
    elif verdict == TCP_TW_RST:
        tcp_v4_send_reset(tw, skb)
        inet_twsk_deschedule_put(tw)
    kfree_skb(skb)
    return None


@notrace
def _flow(skb: SkBuff, th: TcpHdr) -> tuple[int, int, int, int]:
    saddr, daddr = ip_addresses(skb)
    return saddr, th.source, daddr, th.dest


# ---- a sock's life -----------------------------------------------------------------------------------------
@may_sleep
def tcp_v4_connect(sk: Sock, uaddr: bytes) -> None:
    """->connect(): finds route, address and port, and sends a SYN.

    Raises EINVAL, EAFNOSUPPORT, ENETUNREACH, EADDRNOTAVAIL, and what the route says. Locks: sk's owner.
    """
    tp: TcpSock = sk  # type: ignore[assignment]
    net = tp.sk_net
    family, daddr, dport = read_sockaddr_in(uaddr)
    if family != AF_INET:
        raise KernelError(EAFNOSUPPORT)
    orig_sport, orig_dport = tp.inet_sport, dport
    fl4 = tp.cork_fl4
    try:
        rt = ip_route_connect(fl4, daddr, tp.inet_saddr, rt_tos(tp), tp.sk_bound_dev_if, 6, orig_sport, orig_dport, tp)
    except KernelError as e:
        if e.errno == ENETUNREACH:
            net.mib.ip["OutNoRoutes"] += 1
        raise
    if rt.rt_flags & (RTCF_MULTICAST | RTCF_BROADCAST):
        dst_release(rt)
        raise KernelError(ENETUNREACH)
    daddr = fl4.daddr
    if not tp.inet_saddr:
        tp.inet_saddr = fl4.saddr
    tp.inet_rcv_saddr = tp.inet_saddr
    if tp.rx_opt.ts_recent_stamp and tp.inet_daddr != daddr:
        tp.rx_opt.ts_recent = tp.rx_opt.ts_recent_stamp = 0
        tp.write_seq = 0
    tp.inet_dport, tp.inet_daddr = dport, daddr
    tp.rx_opt.mss_clamp = 536
    # SYN_SENT before the port is chosen: the sock enters the table as a connection.
    tcp_set_state(tp, TCP_SYN_SENT)
    try:
        inet_hash_connect(tp)
        rt = ip_route_newports(fl4, rt, orig_sport, orig_dport, tp.inet_sport, tp.inet_dport, tp)
        sk_setup_caps(tp, rt)
        if not tp.write_seq:
            tp.write_seq = secure_tcp_seq(net, tp.inet_saddr, tp.inet_daddr, tp.inet_sport, dport)
        tp.tsoffset = secure_tcp_ts_off(net, tp.inet_saddr, tp.inet_daddr)
        tp.inet_id = (tp.write_seq ^ register.task.kernel.time.jiffies) & 0xFFFF
        tcp_connect(tp)
    except KernelError as e:
        tcp_set_state(tp, TCP_CLOSE)
        if e.errno == EADDRNOTAVAIL:
            dst_release(rt)
        tp.sk_route_caps = 0
        tp.inet_dport = 0
        raise


def tcp_twsk_unique(sk: TcpSock, tw: TimewaitSock) -> bool:
    """A connection may take over the port and addresses of one in TIME_WAIT (tcp_tw_reuse), which it then holds."""
    reuse = sk.sk_net.ipv4.sysctl["tcp_tw_reuse"]
    if reuse == 2:                       # only over loopback
        loopback = tw.sk_bound_dev_if == 1 or tw.inet_daddr >> 24 == 127 or tw.inet_rcv_saddr >> 24 == 127
        reuse = 1 if loopback else 0
    now_s = sk.sk_net.kernel.machine.now() // 1000000000
    if not tw.tw_ts_recent_stamp or not reuse or now_s <= tw.tw_ts_recent_stamp:
        return False
    sk.write_seq = tw.tw_snd_nxt + 65535 + 2 & 0xFFFFFFFF or 1
    sk.rx_opt.ts_recent, sk.rx_opt.ts_recent_stamp = tw.tw_ts_recent, tw.tw_ts_recent_stamp
    tw.sk_refcnt += 1
    return True


def tcp_v4_init_sock(sk: Sock) -> None:
    """->init()"""
    tcp_init_sock(sk)  # type: ignore[arg-type]


def tcp_v4_destroy_sock(sk: Sock) -> None:
    """->destroy(): gives back what TCP has of it."""
    tp: TcpSock = sk  # type: ignore[assignment]
    probe = tp.sk_net.kernel.tp.tcp_destroy_sock
    if probe is not None:
        probe(tp)
    tcp_clear_xmit_timers(tp)
    tcp_cleanup_congestion_control(tp)
    tcp_write_queue_purge(tp)
    for skb in tp.out_of_order_queue:
        __kfree_skb(skb)
    tp.out_of_order_queue.clear()
    if tp.icsk_bind_hash is not None:
        inet_put_port(tp)
    tcp_count_socket(tp, -1)


def tcp_release_cb(sk: Sock) -> None:
    """->release_cb(): what softirqs left to the owner."""
    tp: TcpSock = sk  # type: ignore[assignment]
    flags = tp.tsq_flags
    if not flags & TCP_DEFERRED_ALL:
        return
    tp.tsq_flags = flags & ~TCP_DEFERRED_ALL
    if flags & TCP_TSQ_DEFERRED:
        tcp_tsq_write(tp)
        sock_put(tp)
    # From here on softirqs may use the sock: as the owner, timers must not be lost.
    tp.sk_lock_owned = False
    if flags & TCP_WRITE_TIMER_DEFERRED:
        tcp_write_timer_handler(tp)
        sock_put(tp)
    if flags & TCP_DELACK_TIMER_DEFERRED:
        tcp_delack_timer_handler(tp)
        sock_put(tp)
    if flags & TCP_MTU_REDUCED_DEFERRED:
        tcp_v4_mtu_reduced(tp)
        sock_put(tp)


def tcp_tsq_write(sk: TcpSock) -> None:
    """The device has sent something: more may go."""
    if sk.sk_state not in (TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_CLOSING, TCP_CLOSE_WAIT, TCP_LAST_ACK):
        return
    if sk.lost_out > sk.retrans_out and sk.snd_cwnd > sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out:
        tcp_mstamp_refresh(sk)
        tcp_xmit_retransmit_queue(sk)
    tcp_push_pending_frames(sk)


def tcp_tsq_handler(sk: TcpSock) -> None:
    """For the tasklet."""
    if not sk.sk_lock_owned:
        tcp_tsq_write(sk)
    elif not sk.tsq_flags & TCP_TSQ_DEFERRED:
        sk.tsq_flags |= TCP_TSQ_DEFERRED
        sock_hold(sk)


# ---- registration -----------------------------------------------------------------------------------------------
def tcp_enter_memory_pressure(sk: Sock) -> None:
    sk.sk_net.mib.net["TCPMemoryPressures"] += 1


@notrace
def _least_rmem(net: Net) -> int:
    least: int = net.ipv4.sysctl["tcp_rmem"][0]
    return least


@notrace
def _least_wmem(net: Net) -> int:
    least: int = net.ipv4.sysctl["tcp_wmem"][0]
    return least


tcp_prot = Proto(
    "TCP", tcp_close, TcpSock, "TCP", 2208, connect=tcp_v4_connect, disconnect=tcp_disconnect, accept=inet_csk_accept,
    ioctl=tcp_ioctl, init=tcp_v4_init_sock, destroy=tcp_v4_destroy_sock, shutdown=tcp_shutdown,
    setsockopt=tcp_setsockopt, getsockopt=tcp_getsockopt, sendmsg=tcp_sendmsg, recvmsg=tcp_recvmsg,
    backlog_rcv=tcp_v4_do_rcv, release_cb=tcp_release_cb, keepalive=tcp_set_keepalive, hash=inet_hash,
    unhash=inet_unhash, get_port=inet_csk_get_port, max_header=MAX_TCP_HEADER, memory_allocated=True,
    memory_pressure=True, stream_memory_free=tcp_stream_memory_free,
    enter_memory_pressure=tcp_enter_memory_pressure, sysctl_rmem=_least_rmem, sysctl_wmem=_least_wmem)
tcp_protocol = NetProtocol(tcp_v4_rcv, tcp_v4_err)


def tcp_sk_init(net: Net) -> None:
    """A namespace's tables and variables."""
    ipv4 = net.ipv4
    info = ipv4.tcp = InetHashinfo()
    info.twsk_unique = tcp_twsk_unique
    # by the machine's memory, as tcp_init() does with its hash tables
    limit = _limit(net)
    ipv4.sysctl.update(
        tcp_ecn=2, tcp_timestamps=1, tcp_sack=1, tcp_window_scaling=1, tcp_syncookies=1, tcp_reordering=3,
        tcp_max_reordering=300, tcp_retries1=3, tcp_retries2=15, tcp_syn_retries=6, tcp_synack_retries=5,
        tcp_orphan_retries=0, tcp_fin_timeout=60, tcp_keepalive_time=7200, tcp_keepalive_probes=9,
        tcp_keepalive_intvl=75, tcp_max_tw_buckets=limit, tcp_max_syn_backlog=max(128, limit // 128), tcp_tw_reuse=2,
        tcp_rfc1337=0, tcp_stdurg=0, tcp_abort_on_overflow=0, tcp_dsack=1, tcp_app_win=31, tcp_adv_win_scale=1,
        tcp_frto=2, tcp_moderate_rcvbuf=1, tcp_tso_win_divisor=3, tcp_limit_output_bytes=1048576,
        tcp_challenge_ack_limit=1000, tcp_min_tso_segs=2, tcp_min_rtt_wlen=300, tcp_autocorking=1,
        tcp_invalid_ratelimit=500, tcp_pacing_ss_ratio=200, tcp_pacing_ca_ratio=120, tcp_early_retrans=3,
        tcp_slow_start_after_idle=1, tcp_notsent_lowat=0xFFFFFFFF, tcp_min_snd_mss=48, tcp_workaround_signed_windows=0,
        tcp_congestion_control="cubic", tcp_allowed_congestion_control=["reno", "cubic"])
    wmem, rmem = _buffers(net)
    ipv4.sysctl["tcp_wmem"], ipv4.sysctl["tcp_rmem"] = wmem, rmem
    sk = ipv4.tcp_sk = inet_ctl_sock_create(net, AF_INET, SOCK_RAW, IPPROTO_TCP)
    sk.sk_flags |= SOCK_USE_WRITE_QUEUE
    sk.pmtudisc = IP_PMTUDISC_DO
    tcp_proc_init(net)


def tcp_sk_exit(net: Net) -> None:
    tcp_proc_exit(net)
    inet_ctl_sock_destroy(net.ipv4.tcp_sk)
    inet_twsk_purge(net)


@notrace
def _limit(net: Net) -> int:
    """How many entries the table of connections would have: one for 128 KiB of memory, a power of two."""
    mem = net.kernel.mem
    entries = mem.totalram_pages >> 5
    return 1 << max(entries, 128).bit_length() - 1


@notrace
def _buffers(net: Net) -> tuple[list[int], list[int]]:
    """tcp_wmem and tcp_rmem: minimum, default, maximum."""
    limit = net.kernel.mem.totalram_pages << 12 - 7
    return [4096, 16 * 1024, max(64 * 1024, min(4 << 20, limit))], [4096, 131072, max(131072, min(6 << 20, limit))]


@notrace
def tcp_init_mem(net: Net) -> list[int]:
    """tcp_mem, in pages: no pressure below, pressure, the end."""
    limit = max(net.kernel.mem.totalram_pages // 16, 128)
    return [limit // 4 * 3, limit, limit // 4 * 3 * 2]


def tcp_init(kernel: Kernel) -> None:
    """What TCP has for all namespaces, and for each. Context: task, from inet_init()."""
    state = kernel.net
    assert state is not None and kernel.inet is not None
    net = state.init_net
    tcp = kernel.inet.tcp = TcpState()
    tcp.max_orphans = _limit(net)
    tcp_register_congestion_control(tcp, tcp_reno)
    tcp_register_congestion_control(tcp, cubictcp)
    tcp.tsq_tasklet = tcp_tasklet_init(kernel, tcp_tsq_handler)
    state.sysctl_mem["TCP"] = tcp_init_mem(net)
    register_pernet_subsys(kernel, PernetOperations(tcp_sk_init, tcp_sk_exit))
