"""Who owns a port, who listens on it, and which sock a packet belongs to.

Linux: net/ipv4/inet_hashtables.c, include/net/inet_hashtables.h (5.3). Same: connections, requests and timewait socks
stand in one table, listeners in another, owners of a port in a third; a listener is chosen by how exactly it fits.
Differs: the tables are dicts, their keys what Linux hashes; a namespace has its own tables. Searching a port for
connect() is in inet_hash_connect.py.
Owns: net.ipv4.tcp (InetHashinfo).
Invariants: a sock is hashed in at most one table, and sk_hashed says so; a bind bucket exists while somebody owns it.
Context: any. Locks: none.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.core.proto import sock_prot_inuse_add
from glasskernel.net.ipv4.tcp_types import tcp_state_of
from glasskernel.net.types import TCP_CLOSE, TCP_LISTEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.net.ipv4.tcp_types import InetConnectionSock, RequestSock, TcpSock, TimewaitSock
    from glasskernel.net.types import Net, Sock

Flow = tuple[int, int, int, int]         # local address and port, remote address and port


@slotted
class InetBindBucket:
    """struct inet_bind_bucket: a local port that is in use. fastreuse -1: of connect(), no bind() looked at it."""

    net: Net
    port: int
    fastreuse: int = 0
    fastreuseport: int = 0
    fastuid: int = 0
    owners: dict[Any, None] = field(default_factory=dict)


@slotted
class InetHashinfo:
    """struct inet_hashinfo and inet_timewait_death_row.

    twsk_unique(sk, sktw): a connection may take the place of a timewait sock, which it then holds.
    """

    ehash: dict[Flow, Any] = field(default_factory=dict)
    bhash: dict[int, InetBindBucket] = field(default_factory=dict)
    listening_hash: dict[int, list[TcpSock]] = field(default_factory=dict)
    tw_count: int = 0
    hint: int = 0
    twsk_unique: Callable[[TcpSock, TimewaitSock], bool] | None = None


@notrace
def hashinfo(net: Net) -> InetHashinfo:
    info: InetHashinfo = net.ipv4.tcp
    return info


# ---- ports ----------------------------------------------------------------------------------------------
def inet_bind_bucket_create(net: Net, snum: int) -> InetBindBucket:
    tb = InetBindBucket(net, snum)
    hashinfo(net).bhash[snum] = tb
    return tb


@notrace
def inet_bind_bucket_destroy(tb: InetBindBucket) -> None:
    if not tb.owners:
        del hashinfo(tb.net).bhash[tb.port]


def inet_bind_hash(sk: InetConnectionSock, tb: InetBindBucket, snum: int) -> None:
    """The sock owns the port from now on, with those who do already."""
    sk.inet_num = snum
    tb.owners[sk] = None
    sk.icsk_bind_hash = tb


@notrace
def __inet_put_port(sk: InetConnectionSock) -> None:
    tb = sk.icsk_bind_hash
    assert tb is not None
    del tb.owners[sk]
    sk.icsk_bind_hash = None
    sk.inet_num = 0
    inet_bind_bucket_destroy(tb)


def inet_put_port(sk: InetConnectionSock) -> None:
    __inet_put_port(sk)


def __inet_inherit_port(sk: InetConnectionSock, child: InetConnectionSock) -> None:
    """A new connection owns the port of its listener, too."""
    tb = sk.icsk_bind_hash
    assert tb is not None
    inet_bind_hash(child, tb, tb.port)


# ---- connections ----------------------------------------------------------------------------------------
def inet_ehashfn(laddr: int, lport: int, faddr: int, fport: int) -> Flow:
    """The key of a connection."""
    return laddr, lport, faddr, fport


@notrace
def sk_ehashfn(sk: Any) -> Flow:
    return inet_ehashfn(sk.inet_rcv_saddr, sk.inet_num, sk.inet_daddr, sk.inet_dport)


def inet_ehash_insert(sk: Any, osk: RequestSock | None) -> bool:
    """Enters a sock into the table of connections. osk: what stood there for it (a request), and goes.

    False if osk was gone already: somebody else has done it.
    """
    ehash: dict[Flow, Any] = hashinfo(sk.sk_net).ehash
    key = sk_ehashfn(sk)
    if osk is not None:
        old = ehash.get(key)
        if old is not osk:
            return False
        old.sk_hashed = False
        old.sk_refcnt -= 1               # the table's
    ehash[key] = sk
    sk.sk_hashed = True
    return True


def inet_ehash_nolisten(sk: TcpSock, osk: Any) -> bool:
    """inet_ehash_insert() of a connection; one that cannot be entered is dead."""
    ok = inet_ehash_insert(sk, osk)
    if ok:
        sock_prot_inuse_add(sk.sk_net, sk.sk_prot, 1)
    else:
        tcp_state_of(sk.sk_net).orphan_count += 1
        sk.sk_state = TCP_CLOSE
    return ok


def __inet_hash(sk: TcpSock, osk: Any) -> None:
    if sk.sk_state != TCP_LISTEN:
        inet_ehash_nolisten(sk, osk)
        return
    hashinfo(sk.sk_net).listening_hash.setdefault(sk.inet_num, []).append(sk)
    sk.sk_hashed = True
    sock_prot_inuse_add(sk.sk_net, sk.sk_prot, 1)


def inet_hash(sk: Sock) -> None:
    """->hash()"""
    if sk.sk_state != TCP_CLOSE:
        __inet_hash(sk, None)  # type: ignore[arg-type]


def inet_unhash(sk: Any) -> None:
    """->unhash(): out of the table. Harmless if it is out already."""
    if sk.sk_hashed:
        __inet_unhash(sk)


def __inet_unhash(sk: Any) -> None:
    info = hashinfo(sk.sk_net)
    if sk.sk_state == TCP_LISTEN:
        listeners = info.listening_hash[sk.inet_num]
        listeners.remove(sk)
        if not listeners:
            del info.listening_hash[sk.inet_num]
    else:
        del info.ehash[sk.inet_rcv_saddr, sk.inet_num, sk.inet_daddr, sk.inet_dport]
    sk.sk_hashed = False
    sock_prot_inuse_add(sk.sk_net, sk.sk_prot, -1)


def __inet_lookup_established(net: Net, saddr: int, sport: int, daddr: int, hnum: int, dif: int) -> Any:
    """The sock of a connection (or its request, or its timewait sock), with a reference; None. saddr: the other end."""
    sk = hashinfo(net).ehash.get(inet_ehashfn(daddr, hnum, saddr, sport))
    if sk is None or (sk.sk_bound_dev_if and sk.sk_bound_dev_if != dif):
        return None
    sk.sk_refcnt += 1
    return sk


@notrace
def compute_score(sk: TcpSock, daddr: int, dif: int) -> int:
    """How exactly a listener fits; -1: not at all."""
    score = 2                            # sk_family == PF_INET, the only one
    if sk.inet_rcv_saddr:
        if sk.inet_rcv_saddr != daddr:
            return -1
        score += 4
    if sk.sk_bound_dev_if:
        if sk.sk_bound_dev_if != dif:
            return -1
        score += 4
    return score


def inet_lhash2_lookup(net: Net, saddr: int, sport: int, daddr: int, hnum: int, dif: int) -> TcpSock | None:
    """The listener that fits best; of a group with SO_REUSEPORT the flow decides which one."""
    best: list[TcpSock] = []
    hiscore = 0
    for sk in hashinfo(net).listening_hash.get(hnum, ()):
        score = compute_score(sk, daddr, dif)
        if score > hiscore:
            hiscore = score
            best = [sk]
        elif score == hiscore and sk.sk_reuseport:
            best.append(sk)
    if len(best) > 1:
        return best[(saddr * 31 + sport * 17 + daddr) % len(best)]       # reciprocal_scale() of a hash in Linux
    return best[0] if best else None


def __inet_lookup_listener(net: Net, saddr: int, sport: int, daddr: int, hnum: int, dif: int) -> TcpSock | None:
    """Who listens; no reference is taken. saddr: the other end."""
    return inet_lhash2_lookup(net, saddr, sport, daddr, hnum, dif)
