"""Timewait socks: they answer for a connection that is over until its last packets have left the network.

Linux: net/ipv4/inet_timewait_sock.c (5.3). Same: three references (connection table, port, timer); tcp_max_tw_buckets.
Owns: InetHashinfo.tw_count, the timers of timewait socks.
Invariants: a hashed timewait sock owns its port and its timer is pending.
Context: any. Locks: none.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timer import del_timer_sync, from_timer, mod_timer, timer_setup
from glasskernel.lib.types import notrace
from glasskernel.net.core.proto import sock_prot_inuse_add
from glasskernel.net.ipv4.inet_hashtables import (
    hashinfo,
    inet_bind_bucket_destroy,
    sk_ehashfn,
)
from glasskernel.net.ipv4.tcp_types import TimewaitSock
from glasskernel.net.types import TCP_TIME_WAIT

if TYPE_CHECKING:
    from glasskernel.kernel.time.timer import TimerList
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.types import Net


def inet_twsk_alloc(sk: TcpSock, state: int) -> TimewaitSock | None:
    """The rest of a connection; None if there are too many already."""
    net = sk.sk_net
    info = hashinfo(net)
    if info.tw_count >= net.ipv4.sysctl["tcp_max_tw_buckets"]:
        return None
    tw = TimewaitSock(net, sk.sk_prot, sk.sk_family)
    tw.sk_type, tw.sk_protocol = sk.sk_type, sk.sk_protocol
    tw.inet_daddr, tw.inet_dport = sk.inet_daddr, sk.inet_dport
    tw.inet_rcv_saddr, tw.inet_num = sk.inet_rcv_saddr, sk.inet_num
    tw.sk_bound_dev_if = sk.sk_bound_dev_if
    tw.sk_reuse, tw.sk_reuseport = sk.sk_reuse, sk.sk_reuseport
    tw.sk_cookie = sk.sk_cookie
    tw.tw_tos = sk.tos
    tw.tw_mark = sk.sk_mark
    tw.sk_state = TCP_TIME_WAIT
    tw.tw_substate = state
    tw.sk_refcnt = 0
    timer_setup(tw.tw_timer, tw_timer_handler)
    tw.tw_timer.data = tw
    return tw


def inet_twsk_hashdance(tw: TimewaitSock, sk: TcpSock) -> None:
    """Takes the place of a connection in its tables."""
    tb = sk.icsk_bind_hash
    assert tb is not None
    tw.tw_tb = tb
    tb.owners[tw] = None
    if sk.sk_hashed:
        sk.sk_hashed = False
        sock_prot_inuse_add(sk.sk_net, sk.sk_prot, -1)
    hashinfo(sk.sk_net).ehash[sk_ehashfn(tw)] = tw
    tw.sk_hashed = True
    tw.sk_refcnt = 3


def tw_timer_handler(timer: TimerList) -> None:
    """Its time is over."""
    tw = from_timer(timer)
    tw.sk_net.mib.net["TW"] += 1
    inet_twsk_kill(tw)


def inet_twsk_kill(tw: TimewaitSock) -> None:
    """Out of all tables, and gone."""
    info = hashinfo(tw.sk_net)
    if tw.sk_hashed:
        del info.ehash[sk_ehashfn(tw)]
        tw.sk_hashed = False
        tw.sk_refcnt -= 1
    inet_twsk_bind_unhash(tw)
    info.tw_count -= 1
    inet_twsk_put(tw)


def inet_twsk_bind_unhash(tw: TimewaitSock) -> None:
    """It owns its port no longer."""
    tb = tw.tw_tb
    if tb is None:
        return
    del tb.owners[tw]
    tw.tw_tb = None
    inet_bind_bucket_destroy(tb)
    tw.sk_refcnt -= 1


def inet_twsk_put(tw: TimewaitSock) -> None:
    """One reference less."""
    tw.sk_refcnt -= 1
    assert tw.sk_refcnt >= 0


def __inet_twsk_schedule(tw: TimewaitSock, timeo: int, rearm: bool) -> None:
    """(Re)starts its time, in jiffies from now. rearm: it runs already."""
    expires = register.task.kernel.time.jiffies + timeo
    if not rearm:
        mod_timer(tw.tw_timer, expires)
        hashinfo(tw.sk_net).tw_count += 1
    else:
        mod_timer(tw.tw_timer, expires)


@notrace
def inet_twsk_schedule(tw: TimewaitSock, timeo: int) -> None:
    __inet_twsk_schedule(tw, timeo, False)


@notrace
def inet_twsk_reschedule(tw: TimewaitSock, timeo: int) -> None:
    __inet_twsk_schedule(tw, timeo, True)


def inet_twsk_deschedule_put(tw: TimewaitSock) -> None:
    """Ends it before its time; the caller's reference goes, too."""
    if del_timer_sync(tw.tw_timer):
        inet_twsk_kill(tw)
    inet_twsk_put(tw)


def inet_twsk_purge(net: Net) -> None:
    """A namespace ends: so do its timewait socks."""
    for sk in list(hashinfo(net).ehash.values()):
        if sk.sk_state == TCP_TIME_WAIT and sk.sk_net is net:
            sk.sk_refcnt += 1
            inet_twsk_deschedule_put(sk)
