"""AF_UNIX's objects: its sock, what it writes into skb.cb, the table of names.

Linux: include/net/af_unix.h, net/netns/unix.h (5.3). Only data.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.kernel.sched.wait import WaitQueueEntry, WaitQueueHead
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.types import Sock

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, Path
    from glasskernel.net.scm import ScmFpList
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import MsgHdr

UNIX_GC_CANDIDATE, UNIX_GC_MAYBE_CYCLE = 1, 2
SUN_PATH = 2                              # offsetof(struct sockaddr_un, sun_path)
SIZEOF_SOCKADDR_UN = 110
SIZEOF_UNIX_SOCK = 1088


@slotted
class UnixSock(Sock):
    """struct unix_sock. addr: a struct sockaddr_un, b"" if it has no name. path: where the name is a file."""

    addr: bytes = b""
    path: Path | None = None
    iolock: Mutex = field(default_factory=Mutex)         # one reader at a time
    bindlock: Mutex = field(default_factory=Mutex)
    peer: UnixSock | None = None          # a reference
    peer_wait: WaitQueueHead = field(default_factory=WaitQueueHead)      # who waits for room in the receive queue
    peer_wake: WaitQueueEntry | None = None                              # on the peer's peer_wait, for who polls this
    peer_wake_private: UnixSock | None = None                            # whose
    # garbage collection
    inflight: int = 0                     # how often it lies in a message that nobody received yet
    gc_flags: int = 0


class UnixSkbParms:
    """struct unix_skb_parms, in skb.cb. creds: (pid, uid, gid) of the sender. consumed: bytes a stream has read."""

    __slots__ = ("consumed", "creds", "fp")

    def __init__(self) -> None:
        self.creds: tuple[int, int, int] | None = None
        self.fp: ScmFpList | None = None
        self.consumed = 0


@notrace
def unix_cb(skb: SkBuff) -> UnixSkbParms:
    cb: UnixSkbParms = skb.cb
    return cb


@slotted
class UnixNet:
    """struct netns_unix. sockets: all, oldest first. abstract: by (type, name with its leading NUL)."""

    sockets: dict[UnixSock, None] = field(default_factory=dict)
    abstract: dict[tuple[int, bytes], UnixSock] = field(default_factory=dict)
    sysctl_max_dgram_qlen: int = 10


@slotted
class UnixState:
    """What net/unix keeps in globals. by_inode: names that are files, of all namespaces."""

    by_inode: dict[Inode, UnixSock] = field(default_factory=dict)
    nr_socks: int = 0
    ordernum: int = 1                     # unix_autobind()
    gc_inflight_list: dict[UnixSock, None] = field(default_factory=dict)
    tot_inflight: int = 0
    gc_in_progress: bool = False
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)           # for the end of a collection


@notrace
def unix_net(sk: Sock) -> UnixNet:
    net: UnixNet = sk.sk_net.unx
    return net


@notrace
def unix_state(sk: Sock) -> UnixState:
    assert sk.sk_net.kernel.net is not None
    state: UnixState = sk.sk_net.kernel.net.unix
    return state


@notrace
def unix_copy_addr(msg: MsgHdr, sk: Sock | None) -> None:
    """The sender's name, for the receiver: none if it has none."""
    assert isinstance(sk, UnixSock)
    msg.msg_name = sk.addr
