"""bind() gets a port.

Linux: net/ipv4/inet_connection_sock.c (5.3), its first half. Same: who shares a port with whom (SO_REUSEADDR among
socks that do not listen, SO_REUSEPORT of one user), the shortcuts of the bucket, odd ports for bind(0).
Locks: sk's owner.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.lib.types import notrace
from glasskernel.net.core.sock import sock_i_uid
from glasskernel.net.ipv4.inet_hash_connect import inet_get_local_port_range
from glasskernel.net.ipv4.inet_hashtables import hashinfo, inet_bind_bucket_create, inet_bind_hash
from glasskernel.net.types import TCP_LISTEN, TCP_TIME_WAIT

if TYPE_CHECKING:
    from glasskernel.net.ipv4.inet_hashtables import InetBindBucket
    from glasskernel.net.types import Sock

FASTREUSEPORT_ANY, FASTREUSEPORT_STRICT = 1, 2


@notrace
def inet_rcv_saddr_equal(sk: Any, sk2: Any, match_wildcard: bool) -> bool:
    """Both are bound to one address; match_wildcard: "any" equals all."""
    if match_wildcard and (not sk.inet_rcv_saddr or not sk2.inet_rcv_saddr):
        return True
    equal: bool = sk.inet_rcv_saddr == sk2.inet_rcv_saddr
    return equal


def inet_csk_bind_conflict(sk: Any, tb: InetBindBucket, relax: bool, reuseport_ok: bool) -> bool:
    """An owner of the port does not want to share it with sk."""
    reuse = sk.sk_reuse
    reuseport = bool(sk.sk_reuseport) and reuseport_ok
    uid = sock_i_uid(sk)
    for sk2 in tb.owners:
        if sk is sk2 or (sk.sk_bound_dev_if and sk2.sk_bound_dev_if and sk.sk_bound_dev_if != sk2.sk_bound_dev_if):
            continue
        shares = reuse and sk2.sk_reuse and sk2.sk_state != TCP_LISTEN
        if shares:
            if relax:
                continue
        elif reuseport and sk2.sk_reuseport and (sk2.sk_state == TCP_TIME_WAIT or uid == sock_i_uid(sk2)):
            continue
        if inet_rcv_saddr_equal(sk, sk2, True):
            return True
    return False


def inet_csk_find_open_port(sk: Any) -> tuple[InetBindBucket | None, int]:
    """A port for bind(0), with its bucket if it is shared; (None, 0): all are taken."""
    net = sk.sk_net
    bhash = hashinfo(net).bhash
    low, high = inet_get_local_port_range(net)
    attempts = [(low, high + 1)]
    if high - low >= 4 and sk.sk_reuse:                  # in the lower half first: leaves the rest for others
        attempts.insert(0, (low, low + (high - low >> 2 << 1)))
    reserved = net.ipv4.sysctl.get("ip_local_reserved_ports", ())
    for low, end in attempts:
        remaining = end - low
        if remaining > 1:
            remaining &= ~1
        offset = int.from_bytes(net.kernel.machine.random_bytes(4), "little") % remaining | 1
        for start in (offset, offset - 1):
            port = low + start
            for _ in range(0, remaining, 2):
                if port >= end:
                    port -= remaining
                tb = bhash.get(port)
                if port not in reserved and (tb is None or not inet_csk_bind_conflict(sk, tb, False, False)):
                    return tb, port
                port += 2
    return None, 0


@notrace
def sk_reuseport_match(tb: InetBindBucket, sk: Any) -> bool:
    """The bucket's last owner would share with sk, and all others with it."""
    return bool(tb.fastreuseport > 0 and sk.sk_reuseport and tb.fastuid == sock_i_uid(sk)
                and tb.fastreuseport == FASTREUSEPORT_ANY)


def inet_csk_get_port(sk: Sock, snum: int) -> bool:
    """->get_port(): sk owns port snum (0: any) afterwards. True if it cannot."""
    csk: Any = sk
    port = snum
    reuse = bool(csk.sk_reuse) and csk.sk_state != TCP_LISTEN
    if not port:
        tb, port = inet_csk_find_open_port(csk)
        if not port:
            return True
    else:
        tb = hashinfo(csk.sk_net).bhash.get(port)
    if tb is None:
        tb = inet_bind_bucket_create(csk.sk_net, port)
    elif (tb.owners and not (tb.fastreuse > 0 and reuse) and not sk_reuseport_match(tb, csk)
          and inet_csk_bind_conflict(csk, tb, True, True)):
        return True
    inet_csk_update_fastreuse(csk, tb, reuse)
    if csk.icsk_bind_hash is None:
        inet_bind_hash(csk, tb, port)
    return False


def inet_csk_update_fastreuse(sk: Any, tb: InetBindBucket, reuse: bool) -> None:
    """Notes in the bucket whether all of its owners share."""
    uid = sock_i_uid(sk)
    if not tb.owners:
        tb.fastreuse = int(reuse)
        tb.fastreuseport = FASTREUSEPORT_ANY if sk.sk_reuseport else 0
        tb.fastuid = uid
        return
    if not reuse:
        tb.fastreuse = 0
    if not sk.sk_reuseport:
        tb.fastreuseport = 0
    elif tb.fastreuseport <= 0 or tb.fastuid != uid:     # not all share any more, but those of this user do
        tb.fastreuseport = FASTREUSEPORT_STRICT
        tb.fastuid = uid
