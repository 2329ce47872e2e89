"""connect() looks for a free local port.

Linux: net/ipv4/inet_hashtables.c (5.3), its second half. Same: the search begins at a place that depends on the
destination, takes even ports first (bind() takes odd ones), shares ports among connections to different destinations,
and may take over a port in TIME_WAIT (tcp_tw_reuse).
Context: task. Locks: sk's owner. Raises EADDRNOTAVAIL.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EADDRNOTAVAIL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.proto import sock_prot_inuse_add
from glasskernel.net.core.secure_seq import secure_ipv4_port_ephemeral
from glasskernel.net.ipv4.inet_hashtables import (
    hashinfo,
    inet_bind_bucket_create,
    inet_bind_hash,
    inet_ehash_nolisten,
    inet_ehashfn,
)
from glasskernel.net.ipv4.inet_timewait_sock import inet_twsk_bind_unhash, inet_twsk_deschedule_put
from glasskernel.net.types import TCP_TIME_WAIT

if TYPE_CHECKING:
    from glasskernel.net.ipv4.inet_hashtables import InetBindBucket
    from glasskernel.net.ipv4.tcp_types import TcpSock, TimewaitSock
    from glasskernel.net.types import Net


def inet_get_local_port_range(net: Net) -> tuple[int, int]:
    """ip_local_port_range"""
    low, high = net.ipv4.sysctl["ip_local_port_range"]
    return low, high


def __inet_check_established(sk: TcpSock, lport: int) -> tuple[bool, TimewaitSock | None]:
    """Enters the sock as a connection from lport, if there is none yet.

    Answers (it is entered, the timewait sock it replaces, with a reference).
    """
    info = hashinfo(sk.sk_net)
    key = inet_ehashfn(sk.inet_rcv_saddr, lport, sk.inet_daddr, sk.inet_dport)
    sk2 = info.ehash.get(key)
    tw = None
    if sk2 is not None:
        assert info.twsk_unique is not None
        if sk2.sk_state != TCP_TIME_WAIT or not info.twsk_unique(sk, sk2):
            return False, None
        tw = sk2
        tw.sk_hashed = False
        tw.sk_refcnt -= 1                # the table's
        sk.sk_net.mib.net["TWRecycled"] += 1
    sk.inet_num = sk.inet_sport = lport
    info.ehash[key] = sk
    sk.sk_hashed = True
    sock_prot_inuse_add(sk.sk_net, sk.sk_prot, 1)
    return True, tw


@notrace
def _takes_over(sk: TcpSock, tb: InetBindBucket, port: int, tw: TimewaitSock | None) -> None:
    inet_bind_hash(sk, tb, port)
    if tw is not None:
        inet_twsk_bind_unhash(tw)
        inet_twsk_deschedule_put(tw)


def __inet_hash_connect(sk: TcpSock, port_offset: int) -> None:
    """A port for the sock, and its entry in the table of connections."""
    net = sk.sk_net
    info = hashinfo(net)
    port = sk.inet_num
    if port:
        tb = sk.icsk_bind_hash
        assert tb is not None
        if len(tb.owners) == 1:
            inet_ehash_nolisten(sk, None)
            return
        ok, tw = __inet_check_established(sk, port)
        if not ok:
            raise KernelError(EADDRNOTAVAIL)
        if tw is not None:
            inet_twsk_deschedule_put(tw)
        return
    low, high = inet_get_local_port_range(net)
    remaining = high + 1 - low
    if remaining > 1:
        remaining &= ~1
    reserved = net.ipv4.sysctl.get("ip_local_reserved_ports", ())
    offset = (info.hint + port_offset) % remaining & ~1
    for parity in (0, 1):
        port = low + offset + parity
        for i in range(0, remaining, 2):
            if port > high:
                port -= remaining
            if port in reserved:
                port += 2
                continue
            tb = info.bhash.get(port)
            if tb is None:
                tb = inet_bind_bucket_create(net, port)
                tb.fastreuse = tb.fastreuseport = -1
                sk.inet_num = sk.inet_sport = port
                inet_ehash_nolisten(sk, None)
                info.hint += i + 2
                _takes_over(sk, tb, port, None)
                return
            if tb.fastreuse < 0 and tb.fastreuseport < 0:
                ok, tw = __inet_check_established(sk, port)
                if ok:
                    info.hint += i + 2
                    _takes_over(sk, tb, port, tw)
                    return
            port += 2
        if remaining <= 1:
            break
    raise KernelError(EADDRNOTAVAIL)


def inet_hash_connect(sk: TcpSock) -> None:
    port_offset = 0
    if not sk.inet_num:
        port_offset = secure_ipv4_port_ephemeral(sk.sk_net, sk.inet_rcv_saddr, sk.inet_daddr, sk.inet_dport)
    __inet_hash_connect(sk, port_offset)
