"""Ends of packets, and their way to users.

Linux: include/trace/events/skb.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.trace.events.values import caller_ip, kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff

skb = trace_system("skb")


@skb.event(fields="const void * skbaddr; int len", print_fmt='"skbaddr=%p len=%d", REC->skbaddr, REC->len')
def skb_copy_datagram_iovec(skb: SkBuff, len_: int) -> Values:
    return (kaddr_of(skb), len_)


@skb.event(fields="void * skbaddr", print_fmt='"skbaddr=%p", REC->skbaddr')
def consume_skb(skb: SkBuff) -> Values:
    return (kaddr_of(skb),)


@skb.event(
    fields="void * skbaddr; void * location; unsigned short protocol",
    print_fmt='"skbaddr=%p protocol=%u location=%p", REC->skbaddr, REC->protocol, REC->location',
)
def kfree_skb(skb: SkBuff) -> Values:
    """location: who called kfree_skb()."""
    return (kaddr_of(skb), caller_ip(register.task.kernel, 1), skb.protocol)
