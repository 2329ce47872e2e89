"""The objects of the network and the operation tables between its rooms.

Linux: include/linux/net.h, socket.h, include/net/sock.h, net_namespace.h (5.3). Only data and defaults; net/core/*.py
and the families work on them. Tables hold module-level functions, so that traces show Linux's names; call sites never
test for a missing entry: a default raises the errno Linux answers (the few that Linux tests for are None and say so).
Addresses are `bytes` in the user's layout (struct sockaddr_*), ports and IPv4 addresses in fields are host-order ints.
Who owns the reference: a Socket holds one of its Sock, a Sock's timers and hash tables hold one each (sk_refcnt).
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.locking.spinlock import SpinLock
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.errno import ENODEV, EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb, Mount, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import Cred
    from glasskernel.kernel.time.timer import TimerList
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.slab_types import KmemCache
    from glasskernel.mm.types import VmAreaStruct
    from glasskernel.net.netdevice import NetDevice, PacketOffload, PacketType, SoftnetData
    from glasskernel.net.skbuff import SkBuff, SkBuffHead

AF_UNSPEC, AF_UNIX, AF_INET, AF_BRIDGE, AF_INET6, AF_NETLINK, AF_PACKET = 0, 1, 2, 7, 10, 16, 17
NPROTO = 45
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, SOCK_PACKET = 1, 2, 3, 4, 5, 10
SOCK_MAX, SOCK_TYPE_MASK = 11, 0xF
SOCK_NONBLOCK, SOCK_CLOEXEC = 0o4000, 0o2000000
IPPROTO_IP, IPPROTO_ICMP, IPPROTO_IGMP, IPPROTO_TCP, IPPROTO_UDP = 0, 1, 2, 6, 17
IPPROTO_UDPLITE, IPPROTO_RAW = 136, 255

# socket.state
SS_FREE, SS_UNCONNECTED, SS_CONNECTING, SS_CONNECTED, SS_DISCONNECTING = range(5)
# sock.sk_state (include/net/tcp_states.h), of every family
(TCP_ESTABLISHED, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_TIME_WAIT, TCP_CLOSE, TCP_CLOSE_WAIT,
 TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING, TCP_NEW_SYN_RECV) = range(1, 13)
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2
RCV_SHUTDOWN, SEND_SHUTDOWN, SHUTDOWN_MASK = 1, 2, 3

MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_CTRUNC, MSG_PROBE, MSG_TRUNC, MSG_DONTWAIT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40
MSG_EOR, MSG_WAITALL, MSG_CONFIRM, MSG_ERRQUEUE, MSG_NOSIGNAL = 0x80, 0x100, 0x800, 0x2000, 0x4000
MSG_MORE, MSG_WAITFORONE, MSG_SENDPAGE_NOTLAST, MSG_BATCH = 0x8000, 0x10000, 0x20000, 0x40000
MSG_FASTOPEN, MSG_CMSG_CLOEXEC = 0x20000000, 0x40000000

SOL_SOCKET, SOL_IP, SOL_TCP, SOL_UDP, SOL_UDPLITE, SOL_RAW, SOL_PACKET, SOL_NETLINK = 1, 0, 6, 17, 136, 255, 263, 270
(SO_DEBUG, SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_DONTROUTE, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE,
 SO_OOBINLINE, SO_NO_CHECK, SO_PRIORITY, SO_LINGER, SO_BSDCOMPAT, SO_REUSEPORT, SO_PASSCRED, SO_PEERCRED, SO_RCVLOWAT,
 SO_SNDLOWAT, SO_RCVTIMEO, SO_SNDTIMEO) = range(1, 22)
SO_BINDTODEVICE, SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_PEERNAME, SO_TIMESTAMP, SO_ACCEPTCONN = 25, 26, 27, 28, 29, 30
SO_PEERSEC, SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_PASSSEC, SO_TIMESTAMPNS, SO_MARK, SO_TIMESTAMPING = range(31, 38)
SO_PROTOCOL, SO_DOMAIN, SO_RXQ_OVFL, SO_WIFI_STATUS, SO_PEEK_OFF, SO_NOFCS, SO_LOCK_FILTER = 38, 39, 40, 41, 42, 43, 44
SO_ATTACH_BPF = 50
SO_BUSY_POLL, SO_MAX_PACING_RATE, SO_INCOMING_CPU, SO_MEMINFO, SO_COOKIE, SO_ZEROCOPY = 46, 47, 49, 55, 57, 60
SCM_RIGHTS, SCM_CREDENTIALS = 1, 2

# sock.sk_flags (enum sock_flags, as bits)
(SOCK_DEAD, SOCK_DONE, SOCK_URGINLINE, SOCK_KEEPOPEN, SOCK_LINGER, SOCK_DESTROY, SOCK_BROADCAST, SOCK_TIMESTAMP,
 SOCK_ZAPPED, SOCK_USE_WRITE_QUEUE, SOCK_DBG, SOCK_RCVTSTAMP, SOCK_RCVTSTAMPNS, SOCK_LOCALROUTE, SOCK_MEMALLOC,
 SOCK_RXQ_OVFL, SOCK_FILTER_LOCKED, SOCK_SELECT_ERR_QUEUE, SOCK_RCU_FREE) = (1 << i for i in range(19))
# socket.flags
SOCKWQ_ASYNC_NOSPACE, SOCKWQ_ASYNC_WAITDATA, SOCK_NOSPACE, SOCK_PASSCRED, SOCK_PASSSEC = 1, 2, 4, 8, 16
# sock.sk_userlocks
SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK, SOCK_BINDADDR_LOCK, SOCK_BINDPORT_LOCK = 1, 2, 4, 8

MAX_SCHEDULE_TIMEOUT = (1 << 63) - 1


# ---- messages ----------------------------------------------------------------------------------------------------
@slotted
class MsgHdr:
    """struct msghdr, the kernel's: one send or receive.

    msg_name: the destination (send), or what the protocol sets (receive; None: it has none). msg_control: the user's
    control messages (send). control: what put_cmsg() collected (receive), at most msg_controllen bytes.
    """

    msg_iter: IovIter
    msg_name: bytes | None = None
    msg_control: bytes = b""
    msg_controllen: int = 0              # receive: room for control messages
    control: bytearray = field(default_factory=bytearray)
    msg_flags: int = 0
    msg_iocb: Kiocb | None = None


# ---- sockets -----------------------------------------------------------------------------------------------------
@notrace
def sock_no_bind(sock: Socket, addr: bytes) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_connect(sock: Socket, addr: bytes, flags: int) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_socketpair(sock1: Socket, sock2: Socket) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_accept(sock: Socket, newsock: Socket, flags: int, kern: bool) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_getname(sock: Socket, peer: int) -> bytes:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_ioctl(sock: Socket, cmd: int, arg: int) -> int:
    raise KernelError(EOPNOTSUPP)        # who raises ENOIOCTLCMD instead leaves the command to the devices


@notrace
def sock_no_listen(sock: Socket, backlog: int) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_shutdown(sock: Socket, how: int) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_setsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_getsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_sendmsg(sock: Socket, msg: MsgHdr, size: int) -> int:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_recvmsg(sock: Socket, msg: MsgHdr, size: int, flags: int) -> int:
    raise KernelError(EOPNOTSUPP)


@notrace
def sock_no_mmap(file: File, sock: Socket, vma: VmAreaStruct) -> None:
    raise KernelError(ENODEV)


@slotted(frozen=True)
class ProtoOps:
    """struct proto_ops: what a family does for a Socket. Called without the sock's lock; may sleep.

    getname(sock, peer): peer 0 this end, 1 the other. setsockopt/getsockopt: optval is a user address; getsockopt's
    optlen is the user address of the length. release, poll have no default: every family has its own.
    """

    family: int
    release: Callable[[Socket], None]
    poll: Callable[[File, Socket, PollTable], int]
    bind: Callable[[Socket, bytes], None] = sock_no_bind
    connect: Callable[[Socket, bytes, int], None] = sock_no_connect
    socketpair: Callable[[Socket, Socket], None] = sock_no_socketpair
    accept: Callable[[Socket, Socket, int, bool], None] = sock_no_accept
    getname: Callable[[Socket, int], bytes] = sock_no_getname
    ioctl: Callable[[Socket, int, int], int] = sock_no_ioctl
    listen: Callable[[Socket, int], None] = sock_no_listen
    shutdown: Callable[[Socket, int], None] = sock_no_shutdown
    setsockopt: Callable[[Socket, int, int, int, int], None] = sock_no_setsockopt
    getsockopt: Callable[[Socket, int, int, int, int], None] = sock_no_getsockopt
    sendmsg: Callable[[Socket, MsgHdr, int], int] = sock_no_sendmsg
    recvmsg: Callable[[Socket, MsgHdr, int, int], int] = sock_no_recvmsg
    mmap: Callable[[File, Socket, VmAreaStruct], None] = sock_no_mmap
    gettstamp: Callable[[Socket, int, bool], None] | None = None         # (sock, user address, timeval not timespec)
    set_peek_off: Callable[[Sock, int], None] | None = None
    set_rcvlowat: Callable[[Sock, int], None] | None = None
    show_fdinfo: Callable[[Socket], bytes] | None = None


@slotted
class Socket:
    """struct socket: the file's side."""

    state: int                           # SS_*
    type: int                            # SOCK_*
    inode: Inode
    flags: int = 0                       # SOCK_NOSPACE, SOCK_PASSCRED ...
    file: File | None = None
    sk: Sock = None  # type: ignore[assignment]          # from ->create() to ->release()
    ops: ProtoOps = None  # type: ignore[assignment]
    wq: WaitQueueHead = field(default_factory=WaitQueueHead)
    fasync_list: list[Any] = field(default_factory=list)


@slotted(frozen=True)
class NetProtoFamily:
    """struct net_proto_family: create(net, sock, protocol, kern) gives sock.sk and sock.ops."""

    family: int
    create: Callable[[Net, Socket, int, bool], None]


# ---- the protocol's side -----------------------------------------------------------------------------------------
@notrace
def _no_backlog_rcv(sk: Sock, skb: SkBuff) -> int:
    raise AssertionError("a protocol without a backlog")


@notrace
def no_close(sk: Sock, timeout: int) -> None:
    raise AssertionError("a family whose ->release() does it")


@slotted(frozen=True)
class Proto:
    """struct proto: what a transport does for a Sock. None where Linux tests for the entry (nobody may call it else).

    close(sk, timeout in jiffies). connect/bind(sk, addr). sendmsg(sk, msg, len), recvmsg(sk, msg, len, flags) ->
    bytes; it sets msg.msg_name. get_port(sk, snum) -> True if the port is taken. Locks: sk's owner, except close,
    sendmsg, recvmsg (they lock themselves), and backlog_rcv, release_cb.
    """

    name: str
    close: Callable[[Sock, int], None]
    make: Callable[[Net, Proto, int], Sock]              # the object's class; called with net, itself, family
    slab_name: str = ""                                  # the cache its objects are counted in; "": none
    obj_size: int = 0
    connect: Callable[[Sock, bytes], None] | None = None
    disconnect: Callable[[Sock, int], None] | None = None
    accept: Callable[[Sock, int, bool], Sock] | None = None
    ioctl: Callable[[Sock, int, int], int] | None = None
    init: Callable[[Sock], None] | None = None
    destroy: Callable[[Sock], None] | None = None
    shutdown: Callable[[Sock, int], None] | None = None
    setsockopt: Callable[[Sock, int, int, int, int], None] | None = None
    getsockopt: Callable[[Sock, int, int, int, int], None] | None = None
    sendmsg: Callable[[Sock, MsgHdr, int], int] | None = None
    recvmsg: Callable[[Sock, MsgHdr, int, int], int] | None = None
    bind: Callable[[Sock, bytes], None] | None = None
    backlog_rcv: Callable[[Sock, SkBuff], int] = _no_backlog_rcv
    release_cb: Callable[[Sock], None] | None = None
    keepalive: Callable[[Sock, bool], None] | None = None
    hash: Callable[[Sock], None] | None = None
    unhash: Callable[[Sock], None] | None = None
    get_port: Callable[[Sock, int], bool] | None = None
    no_autobind: bool = False
    max_header: int = 0
    memory_allocated: bool = False                       # NetState.memory_allocated[name] counts its pages
    memory_pressure: bool = False                        # it has a state "under memory pressure", as TCP has
    stream_memory_free: Callable[[Sock, int], bool] | None = None        # a stream may queue more; 1: a poll asks
    enter_memory_pressure: Callable[[Sock], None] | None = None
    leave_memory_pressure: Callable[[Sock], None] | None = None
    sysctl_rmem: Callable[[Net], int] | None = None      # bytes a sock may have whatever memory is like
    sysctl_wmem: Callable[[Net], int] | None = None


@notrace
def _no_callback(sk: Sock) -> None:
    raise AssertionError("sock_init_data() was not called")


@slotted
class Sock:
    """struct sock. Protocols derive from it (InetSock, UnixSock ...). Buffer sizes in bytes, timeouts in jiffies.

    sk_lock_owned: lock_sock() ... release_sock(); meanwhile softirqs put packets into sk_backlog.
    """

    sk_net: Net
    sk_prot: Proto
    sk_family: int
    sk_type: int = 0
    sk_protocol: int = 0
    sk_state: int = TCP_CLOSE
    sk_refcnt: int = 1
    sk_flags: int = 0
    sk_reuse: int = 0
    sk_reuseport: int = 0
    sk_bound_dev_if: int = 0
    sk_userlocks: int = 0
    sk_socket: Socket | None = None
    sk_wq: WaitQueueHead | None = None                   # the Socket's, while there is one
    # lock_sock() protects, and softirqs use only while nobody owns it:
    sk_slock: SpinLock = field(default_factory=SpinLock)                 # sk_lock.slock
    sk_lock_owned: bool = False
    sk_lock_wq: WaitQueueHead = field(default_factory=WaitQueueHead)
    sk_backlog: deque[SkBuff] = field(default_factory=deque)
    sk_backlog_len: int = 0
    sk_receive_queue: SkBuffHead = None  # type: ignore[assignment]     # sock_init_data() makes the queues
    sk_error_queue: SkBuffHead = None  # type: ignore[assignment]
    sk_write_queue: SkBuffHead = None  # type: ignore[assignment]
    sk_rmem_alloc: int = 0
    sk_wmem_alloc: int = 0               # without Linux's 1 for the sock itself
    sk_omem_alloc: int = 0               # options
    sk_wmem_queued: int = 0
    sk_forward_alloc: int = 0
    sk_rcvbuf: int = 0
    sk_sndbuf: int = 0
    sk_err: int = 0
    sk_err_soft: int = 0
    sk_shutdown: int = 0
    sk_ack_backlog: int = 0
    sk_max_ack_backlog: int = 0
    sk_rcvlowat: int = 1
    sk_rcvtimeo: int = MAX_SCHEDULE_TIMEOUT
    sk_sndtimeo: int = MAX_SCHEDULE_TIMEOUT
    sk_lingertime: int = 0
    sk_priority: int = 0
    sk_mark: int = 0
    sk_uid: int = 0
    sk_drops: int = 0
    sk_peek_off: int = -1
    sk_stamp: int = 0                    # ns, of the last packet that was read
    sk_no_check_tx: bool = False
    sk_dst_cache: Any = None             # the route, a reference
    sk_route_caps: int = 0               # what the route's device can do: NETIF_F_*
    sk_gso_max_size: int = 0
    sk_gso_max_segs: int = 0
    sk_peer_pid: Any = None              # Pid
    sk_peer_cred: Cred | None = None
    sk_security: Any = None              # the security module's
    sk_timer: TimerList | None = None
    sk_filter: Any = None                # net.core.filter.SkFilter
    sk_cookie: int = 0
    sk_net_refcnt: bool = False                          # it holds its namespace: kernel sockets do not
    sk_incoming_cpu: int = -1
    sk_max_pacing_rate: int = (1 << 64) - 1              # bytes per second; all ones: no limit
    slab_address: int = 0
    kaddr: int = 0                       # what events show
    sk_state_change: Callable[[Sock], None] = _no_callback
    sk_data_ready: Callable[[Sock], None] = _no_callback
    sk_write_space: Callable[[Sock], None] = _no_callback
    sk_error_report: Callable[[Sock], None] = _no_callback
    sk_destruct: Callable[[Sock], None] | None = None


# ---- namespaces and the state of the whole room ------------------------------------------------------------------
@slotted
class PernetOperations:
    """struct pernet_operations: what a room keeps for each network namespace."""

    init: Callable[[Net], None] | None = None
    exit: Callable[[Net], None] | None = None


@slotted
class Net:
    """struct net: a network namespace. Rooms keep their part in the field that is named after them."""

    kernel: Kernel
    inum: int                            # of /proc/PID/ns/net
    count: int = 1
    ifindex: int = 0                     # the last that was given
    dev_base_seq: int = 0                # changes with the list of devices
    dev_by_name: dict[bytes, NetDevice] = field(default_factory=dict)
    dev_by_index: dict[int, NetDevice] = field(default_factory=dict)
    loopback_dev: NetDevice = None  # type: ignore[assignment]
    sock_inuse: int = 0
    prot_inuse: dict[str, int] = field(default_factory=dict)             # by Proto.name
    proc_net: Any = None
    proc_net_stat: Any = None
    sysctls: Any = None                  # fs.proc.proc_sysctl.CtlDir: /proc/sys/net
    ipv4: Any = None                     # net.ipv4.types.NetnsIpv4
    mib: Any = None                      # SNMP counters
    unx: Any = None                      # net.unix
    packet: Any = None                   # net.packet
    rtnl: Any = None                     # rtnetlink's kernel socket
    uevent_sock: Any = None
    genl_sock: Any = None
    diag_nlsk: Any = None


@slotted
class NetState:
    """kernel.net. net_families: by AF_*. ptype_all: taps; ptype_base: by EtherType."""

    init_net: Net
    sock_mnt: Mount = None  # type: ignore[assignment]
    sock_inode_cachep: KmemCache | None = None
    dev_ioctl: Callable[[Net, int, int], int] | None = None              # net.core.dev_ioctl: (net, cmd, user address)
    net_families: dict[int, NetProtoFamily] = field(default_factory=dict)
    pernet_list: list[PernetOperations] = field(default_factory=list)
    first_device: int = 0                # where in pernet_list those of devices begin, which come last
    cleanup_list: list[Net] = field(default_factory=list)
    netns_wq: Any = None
    net_cleanup_work: Any = None
    net_namespace_list: list[Net] = field(default_factory=list)
    softnet_data: list[SoftnetData] = field(default_factory=list)        # by CPU
    ptype_all: list[PacketType] = field(default_factory=list)
    ptype_base: dict[int, list[PacketType]] = field(default_factory=dict)
    offload_base: list[PacketOffload] = field(default_factory=list)
    protocols: dict[str, Proto] = field(default_factory=dict)            # proto_register()
    netdev_chain: list[Callable[[int, NetDevice], None]] = field(default_factory=list)
    rtnl_mutex: Any = None
    sock_diag_handlers: dict[int, Any] = field(default_factory=dict)     # AF_* -> net.core.sock_diag
    sock_diag_mutex: Any = None
    inet_diag_table: dict[int, Any] = field(default_factory=dict)        # IPPROTO_* -> InetDiagHandler
    genl_families: dict[int, Any] = field(default_factory=dict)          # net.netlink.genetlink.GenlFamily
    link_ops: dict[bytes, Any] = field(default_factory=dict)             # kind -> net.core.rtnl_setlink.RtnlLinkOps
    rtnl_msg_handlers: dict[tuple[int, int], Any] = field(default_factory=dict)      # (AF_*, RTM_*) -> RtnlLink
    nl_table: dict[int, Any] = field(default_factory=dict)               # NETLINK_* -> net.netlink.types.NetlinkTable
    net_todo_list: list[NetDevice] = field(default_factory=list)         # unregistered, to be freed by rtnl_unlock()
    napi_gen_id: int = 0
    lweventlist: list[NetDevice] = field(default_factory=list)           # linkwatch has to look at them
    linkwatch_work: Any = None
    # calls upwards: rtnetlink's and sysfs', set when those are there
    rtmsg_ifinfo: Callable[[NetDevice, int, bool], None] | None = None
    netdev_register_kobject: Callable[[NetDevice], None] | None = None
    netdev_unregister_kobject: Callable[[NetDevice], None] | None = None
    netdev_rename_kobject: Callable[[NetDevice], None] | None = None
    last_cookie: int = 0
    slabs: dict[str, KmemCache] = field(default_factory=dict)            # by Proto.slab_name
    memory_allocated: dict[str, int] = field(default_factory=dict)       # pages, by Proto.name
    memory_pressure: dict[str, bool] = field(default_factory=dict)
    sockets_allocated: dict[str, int] = field(default_factory=dict)
    sysctl_mem: dict[str, list[int]] = field(default_factory=dict)       # pages, by Proto.name; missing: no limit
    do_xdp_generic: Callable[[Any, SkBuff], int] | None = None           # (program, packet); None: no device has one
    generic_xdp_needed: int = 0          # devices that have
    dev_xdp_uninstall: Callable[[NetDevice], None] | None = None         # set by the first program
    netstamp_needed: int = 0             # socks that want skb.tstamp of what arrives
    cleanup_net: Callable[[Net], None] | None = None                     # the last user of a namespace went
    devices_started: bool = False        # start_network() ran
    unix: Any = None                     # net.unix.types.UnixState
    optmem_max: int = 20480
    rmem_max: int = 212992
    wmem_max: int = 212992
    rmem_default: int = 212992
    wmem_default: int = 212992
    somaxconn: int = 128
    netdev_max_backlog: int = 1000
    netdev_budget: int = 300
    netdev_budget_usecs: int = 8000
    dev_weight: int = 64


@notrace
def get_net(net: Net) -> Net:
    """One more user of a namespace."""
    net.count += 1
    return net


@notrace
def put_net(net: Net) -> None:
    """One user less; the last one ends it."""
    net.count -= 1
    if not net.count:
        state = net.kernel.net
        assert state is not None and state.cleanup_net is not None
        state.cleanup_net(net)
