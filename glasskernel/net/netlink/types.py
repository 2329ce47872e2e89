"""Netlink's objects: messages, sockets, dumps, tables, and the constants users see.

Linux: include/uapi/linux/netlink.h, include/linux/netlink.h, net/netlink/af_netlink.h (5.3). Only data.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.slotted import field, slotted
from glasskernel.net.types import Sock

if TYPE_CHECKING:
    from glasskernel.net.nlattr import NetlinkExtAck
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

(NETLINK_ROUTE, NETLINK_UNUSED, NETLINK_USERSOCK, NETLINK_FIREWALL, NETLINK_SOCK_DIAG, NETLINK_NFLOG, NETLINK_XFRM,
 NETLINK_SELINUX, NETLINK_ISCSI, NETLINK_AUDIT, NETLINK_FIB_LOOKUP, NETLINK_CONNECTOR, NETLINK_NETFILTER,
 NETLINK_IP6_FW, NETLINK_DNRTMSG, NETLINK_KOBJECT_UEVENT, NETLINK_GENERIC) = range(17)
MAX_LINKS = 32

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR, NLM_F_DUMP_FILTERED = 1, 2, 4, 8, 16, 32
NLM_F_ROOT, NLM_F_MATCH, NLM_F_ATOMIC = 0x100, 0x200, 0x400                  # of GET
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800          # of NEW
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200                                  # of an answer
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN, NLMSG_MIN_TYPE = 1, 2, 3, 4, 16
NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS, NLMSGERR_ATTR_COOKIE = 1, 2, 3
NLMSG_HDRLEN = 16

(NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP, NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS,
 NETLINK_RX_RING, NETLINK_TX_RING, NETLINK_LISTEN_ALL_NSID, NETLINK_LIST_MEMBERSHIPS, NETLINK_CAP_ACK, NETLINK_EXT_ACK,
 NETLINK_GET_STRICT_CHK) = range(1, 13)

# netlink_sock.flags
NETLINK_F_KERNEL_SOCKET, NETLINK_F_RECV_PKTINFO, NETLINK_F_BROADCAST_SEND_ERROR = 0x1, 0x2, 0x4
NETLINK_F_RECV_NO_ENOBUFS, NETLINK_F_LISTEN_ALL_NSID, NETLINK_F_CAP_ACK = 0x8, 0x10, 0x20
NETLINK_F_EXT_ACK, NETLINK_F_STRICT_CHK = 0x40, 0x80
NETLINK_CONNECTED, NETLINK_UNCONNECTED = 1, 0
NETLINK_S_CONGESTED = 1
# netlink_table.flags
NL_CFG_F_NONROOT_RECV, NL_CFG_F_NONROOT_SEND = 1, 2

nlmsghdr = struct.Struct("<IHHII")
sockaddr_nl = struct.Struct("<HHII")


@slotted
class Nlmsghdr:
    """struct nlmsghdr, received. data: what follows it (without the padding)."""

    nlmsg_len: int
    nlmsg_type: int
    nlmsg_flags: int
    nlmsg_seq: int
    nlmsg_pid: int
    data: bytes


@slotted
class NetlinkSkbParms:
    """struct netlink_skb_parms: skb.cb of every netlink message. creds: (pid, uid, gid). sk: the sender's."""

    portid: int = 0
    dst_group: int = 0
    creds: tuple[int, int, int] = (0, 0, 0)
    sk: Sock | None = None
    cred: Any = None                     # the sender's credentials, where the message came from a user


@slotted
class NetlinkCallback:
    """struct netlink_callback: a dump that is under way.

    dump(skb, cb): adds messages; > 0: there is more, 0: that was all. args: the dumper's position; data: what it likes.
    """

    skb: SkBuff                          # the request
    nlh: Nlmsghdr
    dump: Callable[[SkBuff, NetlinkCallback], int]
    data: Any = None
    extack: NetlinkExtAck | None = None
    family: int = 0
    answer_flags: int = 0
    min_dump_alloc: int = 0
    prev_seq: int = 0
    seq: int = 0
    strict_check: bool = False
    args: list[int] = field(default_factory=lambda: [0] * 6)


@slotted
class NetlinkSock(Sock):
    """struct netlink_sock. groups: bit n - 1 for group n. netlink_rcv(skb): takes what is sent to a kernel socket."""

    portid: int = 0
    dst_portid: int = 0
    dst_group: int = 0
    nl_flags: int = 0
    subscriptions: int = 0
    ngroups: int = 0
    groups: int = 0
    state: int = 0
    nl_state: int = 0                    # NETLINK_CONNECTED
    bound: bool = False
    max_recvmsg_len: int = 0
    cb_running: bool = False
    dump_done_errno: int = 0
    cb: NetlinkCallback | None = None
    cb_mutex: Mutex = field(default_factory=Mutex)
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)           # senders, while it is congested
    netlink_rcv: Callable[[SkBuff], None] | None = None


@slotted
class NetlinkTable:
    """struct netlink_table: a protocol. hash: (namespace number, portid) -> socket; mc_list: who joined groups."""

    hash: dict[tuple[int, int], NetlinkSock] = field(default_factory=dict)
    mc_list: list[NetlinkSock] = field(default_factory=list)
    flags: int = 0
    groups: int = 0
    cb_mutex: Mutex | None = None        # one for all sockets of the protocol, or each has its own
    bind: Callable[[Net, int], None] | None = None
    unbind: Callable[[Net, int], None] | None = None
    loaded: bool = False                 # its module was asked for


@slotted(frozen=True)
class NetlinkKernelCfg:
    """struct netlink_kernel_cfg: what a protocol's kernel side wants. input(skb): a message to the kernel."""

    groups: int = 32
    flags: int = 0
    input: Callable[[SkBuff], None] | None = None
    cb_mutex: Mutex | None = None        # rtnl: dumps exclude changes
    bind: Callable[[Net, int], None] | None = None
    unbind: Callable[[Net, int], None] | None = None
