"""Sockets that only messages in each other's queues refer to.

Linux: net/unix/garbage.c (5.3). Same: a socket whose open file is referred to by nothing but messages is a candidate;
whoever a socket outside the candidates can still receive stays; the messages of the others are destroyed.
Owns: UnixSock.gc_flags, UnixState.gc_in_progress.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.wait import wait_event, wake_up
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.skbuff import kfree_skb, skb_unlink
from glasskernel.net.types import TCP_LISTEN
from glasskernel.net.unix.scm import unix_get_socket
from glasskernel.net.unix.types import UNIX_GC_CANDIDATE, UNIX_GC_MAYBE_CYCLE, UnixSock, unix_cb

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.unix.types import UnixState

UNIX_INFLIGHT_TRIGGER_GC = 16000


def scan_inflight(x: UnixSock, func: Callable[[UnixSock], None], hitlist: list[SkBuff] | None) -> None:
    """Calls func for each candidate in messages of x. hitlist: takes those messages out of the queue."""
    for skb in tuple(x.sk_receive_queue.q):
        fpl = unix_cb(skb).fp if skb.cb is not None else None
        if fpl is None:
            continue
        hit = False
        for file in reversed(fpl.fp):
            u = unix_get_socket(file)
            if u is not None and u.gc_flags & UNIX_GC_CANDIDATE:
                hit = True
                func(u)
        if hit and hitlist is not None:
            skb_unlink(skb, x.sk_receive_queue)
            hitlist.append(skb)


def scan_children(x: UnixSock, func: Callable[[UnixSock], None], hitlist: list[SkBuff] | None) -> None:
    """scan_inflight() of x; of a listener, of the connections nobody has accepted."""
    if x.sk_state != TCP_LISTEN:
        scan_inflight(x, func, hitlist)
        return
    for skb in tuple(x.sk_receive_queue.q):
        assert isinstance(skb.sk, UnixSock)
        scan_inflight(skb.sk, func, hitlist)


def dec_inflight(usk: UnixSock) -> None:
    usk.inflight -= 1


def inc_inflight(usk: UnixSock) -> None:
    usk.inflight += 1


@may_sleep
def wait_for_unix_gc(state: UnixState) -> None:
    """Before something is sent: a collection if very many sockets are in flight; waits for one under way."""
    if state.tot_inflight > UNIX_INFLIGHT_TRIGGER_GC and not state.gc_in_progress:
        unix_gc(state)
    if state.gc_in_progress:
        wait_event(state.wait, lambda: not state.gc_in_progress)


@may_sleep
def unix_gc(state: UnixState) -> None:
    """Destroys the messages that keep each other's sockets alive."""
    if state.gc_in_progress:
        return
    state.gc_in_progress = True
    candidates: dict[UnixSock, None] = {}
    for u in state.gc_inflight_list:
        assert u.sk_socket is not None and u.sk_socket.file is not None
        total_refs = u.sk_socket.file.f_count
        assert u.inflight and total_refs >= u.inflight
        if total_refs == u.inflight:
            candidates[u] = None
            u.gc_flags |= UNIX_GC_CANDIDATE | UNIX_GC_MAYBE_CYCLE
    # what is left of inflight afterwards are references from messages outside the candidates
    for u in candidates:
        scan_children(u, dec_inflight, None)
    flagged = list(candidates)
    _keep_reachable(candidates)
    hitlist: list[SkBuff] = []
    for u in candidates:
        scan_children(u, inc_inflight, hitlist)
    for u in flagged:
        u.gc_flags = 0
    for skb in hitlist:
        kfree_skb(skb)
    state.gc_in_progress = False
    wake_up(state.wait)


@notrace
def _keep_reachable(candidates: dict[UnixSock, None]) -> None:
    """Takes out who is referred to from outside, and whoever is in their messages; restores their counts."""
    work = list(candidates)

    def inc_inflight_move_tail(u: UnixSock) -> None:
        u.inflight += 1
        if u.gc_flags & UNIX_GC_MAYBE_CYCLE:       # look at it again: it may be reachable now
            work.append(u)

    at = 0
    while at < len(work):
        u = work[at]
        at += 1
        if u in candidates and u.inflight > 0:
            del candidates[u]
            u.gc_flags &= ~UNIX_GC_MAYBE_CYCLE
            scan_children(u, inc_inflight_move_tail, None)
