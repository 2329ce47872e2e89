"""Generic receive offload: packets of one stream that came together go up as one.

Linux: net/core/dev.c, skb_gro_receive() of net/core/skbuff.c (5.3; lists of normal packets as in 5.4: the call graphs
that we are compared with have them). Same: a poll holds back packets until a later one continues them or the poll ends;
protocols decide through their packet_offload what continues what.
Differs: merged payload is appended to the first packet's fragments.
Gaps: gro_flush_timeout, napi_gro_frags(), dodgy checksums of tunnels.
Owns: NapiStruct.gro_hash, gro_count, rx_list; SkBuff.cb while a packet is here (NapiGroCb). Context: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.dev_receive import netif_receive_skb_list_internal
from glasskernel.net.netdevice import NETIF_F_GRO, NapiStruct, PacketOffload
from glasskernel.net.skbuff import (
    MAX_SKB_FRAGS,
    SkBuff,
    __kfree_skb,
    kfree_skb,
    pskb_may_pull,
    skb_add_data_frag,
    skb_copy_bits,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

GRO_MERGED, GRO_MERGED_FREE, GRO_HELD, GRO_NORMAL, GRO_DROP = range(5)
MAX_GRO_SKBS = 8
GRO_HASH_BUCKETS = 8
GRO_NORMAL_BATCH = 8
GRO_MAX_SIZE = 65536


@slotted
class NapiGroCb:
    """struct napi_gro_cb: what GRO knows of a packet.

    data_offset: of the header that comes next, from data. flush: nonzero: it cannot be held. flush_id: IP's ids do not
    follow. same_flow: it belongs to the packet that is looked at. count: how many it has become. age: jiffies.
    """

    data_offset: int = 0
    flush: int = 0
    flush_id: int = 0
    count: int = 0
    age: int = 0
    same_flow: bool = False
    is_atomic: bool = False
    free: bool = False


@notrace
def gro_cb(skb: SkBuff) -> NapiGroCb:
    """NAPI_GRO_CB()"""
    cb: NapiGroCb = skb.cb
    return cb


@notrace
def skb_gro_offset(skb: SkBuff) -> int:
    return gro_cb(skb).data_offset


@notrace
def skb_gro_len(skb: SkBuff) -> int:
    return skb.len - gro_cb(skb).data_offset


@notrace
def skb_gro_pull(skb: SkBuff, length: int) -> None:
    """The next header begins `length` bytes later."""
    gro_cb(skb).data_offset += length


@notrace
def skb_gro_header(skb: SkBuff, hlen: int) -> int:
    """Where in head the next header begins, of which `hlen` bytes are linear; -1: the packet is too short."""
    offset = gro_cb(skb).data_offset
    return skb.data + offset if pskb_may_pull(skb, offset + hlen) else -1


def dev_add_offload(kernel: Kernel, po: PacketOffload) -> None:
    """From now on packets of po.type are segmented and merged by it."""
    net_of(kernel).offload_base.append(po)


def gro_find_receive_by_type(kernel: Kernel, kind: int) -> PacketOffload | None:
    """Who merges packets of an EtherType."""
    return next((po for po in net_of(kernel).offload_base if po.type == kind), None)


# ---- receiving ------------------------------------------------------------------------------------------------------
def napi_gro_receive(napi: NapiStruct, skb: SkBuff) -> int:
    """A polled driver received a packet. Answers GRO_*."""
    tp = register.task.kernel.tp
    probe = tp.napi_gro_receive_entry
    if probe is not None:
        probe(skb)
    skb.cb = NapiGroCb()
    ret = napi_skb_finish(napi, dev_gro_receive(napi, skb), skb)
    probe = tp.napi_gro_receive_exit
    if probe is not None:
        probe(ret)
    return ret


def dev_gro_receive(napi: NapiStruct, skb: SkBuff) -> int:
    """Merges the packet, holds it back, or says GRO_NORMAL."""
    dev = skb.dev
    assert dev is not None
    if not dev.features & NETIF_F_GRO:
        return GRO_NORMAL
    po = gro_find_receive_by_type(dev.net.kernel, skb.protocol)
    if po is None:
        return GRO_NORMAL
    held = napi.gro_hash.setdefault(skb.hash & GRO_HASH_BUCKETS - 1, [])
    gro_list_prepare(held, skb)
    skb.network_header = skb.data
    skb.mac_len = skb.network_header - skb.mac_header
    cb = gro_cb(skb)
    done = po.gro_receive(held, skb)
    if done is not None:
        held.remove(done)
        napi.gro_count -= 1
        napi_gro_complete(napi, done)
    if cb.same_flow:
        return GRO_MERGED_FREE if cb.free else GRO_MERGED
    if cb.flush:
        return GRO_NORMAL
    if len(held) >= MAX_GRO_SKBS:
        napi.gro_count -= 1
        napi_gro_complete(napi, held.pop(0))
    cb.count = 1
    cb.age = dev.net.kernel.time.jiffies
    skb.shinfo.gso_size = skb_gro_len(skb)
    held.append(skb)
    napi.gro_count += 1
    return GRO_HELD


@notrace
def gro_list_prepare(held: list[SkBuff], skb: SkBuff) -> None:
    """Marks those that came from the same device with the same link header."""
    mac = bytes(skb.head[skb.mac_header : skb.data])
    for p in held:
        cb = gro_cb(p)
        cb.flush = 0
        cb.same_flow = p.dev is skb.dev and bytes(p.head[p.mac_header : p.data]) == mac


@notrace
def napi_skb_finish(napi: NapiStruct, ret: int, skb: SkBuff) -> int:
    if ret == GRO_NORMAL:
        gro_normal_one(napi, skb)
    elif ret == GRO_MERGED_FREE:
        __kfree_skb(skb)
    elif ret == GRO_DROP:
        kfree_skb(skb)
    return ret


def skb_gro_receive(p: SkBuff, skb: SkBuff) -> bool:
    """Appends what is behind skb's headers to p. False: p would be too long. The skb is to be freed then (cb.free)."""
    length = skb_gro_len(skb)
    if p.len + length >= GRO_MAX_SIZE or gro_cb(skb).flush or len(p.shinfo.frags) >= MAX_SKB_FRAGS:
        return False
    skb_add_data_frag(p, skb_copy_bits(skb, skb_gro_offset(skb), length))
    gro_cb(p).count += 1
    cb = gro_cb(skb)
    cb.same_flow = True
    cb.free = True
    return True


# ---- handing on -----------------------------------------------------------------------------------------------------
def napi_gro_complete(napi: NapiStruct, skb: SkBuff) -> None:
    """A held packet goes up; its headers are made right if it is more than one."""
    if gro_cb(skb).count == 1:
        skb.shinfo.gso_size = 0
    else:
        assert skb.dev is not None
        po = gro_find_receive_by_type(skb.dev.net.kernel, skb.protocol)
        assert po is not None
        po.gro_complete(skb, 0)
    gro_normal_one(napi, skb)


def gro_normal_one(napi: NapiStruct, skb: SkBuff) -> None:
    napi.rx_list.append(skb)
    if len(napi.rx_list) >= GRO_NORMAL_BATCH:
        gro_normal_list(napi)


def gro_normal_list(napi: NapiStruct) -> None:
    """What is ready goes up, as one list."""
    if not napi.rx_list:
        return
    skbs, napi.rx_list = napi.rx_list, []
    netif_receive_skb_list_internal(skbs)


def napi_gro_flush(napi: NapiStruct, flush_old: bool) -> None:
    """Nothing is held back any more; flush_old: but what came in this jiffy."""
    now = register.task.kernel.time.jiffies
    for held in napi.gro_hash.values():
        while held and not (flush_old and gro_cb(held[0]).age == now):
            napi.gro_count -= 1
            napi_gro_complete(napi, held.pop(0))
