"""Protocols: their list, their caches, how many socks each has.

Linux: net/core/sock.c (5.3), its second half. /proc/net/protocols is in proto_proc.py.
Owns: NetState.protocols and slabs, Net.prot_inuse.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EALREADY, KernelError
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_HWCACHE_ALIGN

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net, Proto


def proto_register(kernel: Kernel, prot: Proto, alloc_slab: bool) -> None:
    """Makes a protocol known, with a cache for its socks if asked for. Raises EALREADY. Context: task."""
    state = kernel.net
    assert state is not None
    if prot.name in state.protocols:
        raise KernelError(EALREADY)
    if alloc_slab:
        name = (prot.slab_name or prot.name).encode()
        state.slabs[prot.name] = kmem_cache_create(kernel, name, prot.obj_size, 0, SLAB_HWCACHE_ALIGN)
    state.protocols[prot.name] = prot


def sock_prot_inuse_add(net: Net, prot: Proto, val: int) -> None:
    """The protocol has `val` socks more in this namespace."""
    net.prot_inuse[prot.name] = net.prot_inuse.get(prot.name, 0) + val


def sock_prot_inuse_get(net: Net, prot_name: str) -> int:
    return net.prot_inuse.get(prot_name, 0)


def sock_inuse_get(net: Net) -> int:
    """Sockets of the namespace, of every family."""
    return net.sock_inuse
