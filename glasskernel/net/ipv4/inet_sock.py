"""The end of every socket of AF_INET.

Linux: net/ipv4/af_inet.c: inet_sock_destruct (5.3). Differs: a file of its own, below the protocols.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.net.core.dst import dst_release
from glasskernel.net.core.sock_memory import sk_mem_reclaim
from glasskernel.net.skbuff import skb_queue_purge
from glasskernel.net.types import SOCK_DEAD, SOCK_STREAM, TCP_CLOSE

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import InetSock


def inet_sock_destruct(sk: InetSock) -> None:
    """Gives back what a socket still has. Locks: none, nobody refers to it."""
    skb_queue_purge(sk.sk_receive_queue)
    skb_queue_purge(sk.sk_error_queue)
    sk_mem_reclaim(sk)
    assert sk.sk_type != SOCK_STREAM or sk.sk_state == TCP_CLOSE
    assert sk.sk_flags & SOCK_DEAD
    assert not sk.sk_rmem_alloc and not sk.sk_wmem_alloc and not sk.sk_wmem_queued
    sk.inet_opt = b""
    dst, sk.sk_dst_cache = sk.sk_dst_cache, None
    dst_release(dst)
