"""sk_buff: a packet on its way through the layers, and queues of packets.

Linux: include/linux/skbuff.h, net/core/skbuff.c (5.3). Same: headers are pushed and pulled in one linear buffer; what
users wrote hangs behind it as fragments that nobody changes; clones share both. Differs: offsets into a bytearray
instead of pointers; a fragment is bytes (or a memoryview of bytes), not a page; a queue is a deque. Everything that
is inline in Linux is @notrace here.
Invariants: 0 <= data <= tail <= len(head); len == tail - data + data_len; data_len is the sum of the fragments. The
    linear buffer is written only through an skb that owns it: skb_cow_head() first, if it may be cloned.
Gaps: frag_list (GRO and IP reassembly append fragments instead), zero copy.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.lib.checksum import csum_block_add, csum_fold, csum_partial, csum_tcpudp_magic
from glasskernel.lib.errno import EFAULT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Sock

    Fragment = bytes | memoryview

CHECKSUM_NONE, CHECKSUM_UNNECESSARY, CHECKSUM_COMPLETE, CHECKSUM_PARTIAL = range(4)
PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST, PACKET_OTHERHOST, PACKET_OUTGOING, PACKET_LOOPBACK = range(6)
SKB_GSO_TCPV4, SKB_GSO_DODGY, SKB_GSO_TCP_ECN, SKB_GSO_UDP_L4 = 0x1, 0x2, 0x4, 0x20000
MAX_SKB_FRAGS = 17
NET_SKB_PAD = 64
SKB_OVERHEAD = 232 + 320                 # struct sk_buff and skb_shared_info: what truesize counts besides the data
SKB_CAPACITY = 1 << 30                   # an offset that was never set


class SkbSharedInfo:
    """struct skb_shared_info: what clones share. dataref: how many skbs use head and frags."""

    __slots__ = ("dataref", "frags", "gso_segs", "gso_size", "gso_type", "tx_flags")

    def __init__(self) -> None:
        self.dataref = 1
        self.frags: list[Fragment] = []
        self.gso_size = 0
        self.gso_segs = 0
        self.gso_type = 0
        self.tx_flags = 0


class SkBuff:
    """struct sk_buff. data, tail, *_header: offsets into head. cb: the control block of the layer that has the skb.

    protocol: the EtherType, host order. tstamp: ns, 0 if not taken. csum: see ip_summed; with CHECKSUM_PARTIAL,
    csum_start (an offset into head) and csum_offset say what the device has to fill in.
    """

    __slots__ = ("cb", "cloned", "csum", "csum_offset", "csum_start", "data", "data_len", "destructor",
                 "dev", "dst", "hash", "head", "ignore_df", "ip_summed", "kaddr", "len", "mac_header", "mac_len",
                 "mark", "network_header", "peeked", "pkt_type", "priority", "protocol", "queue_mapping", "shinfo",
                 "sk", "skb_iif", "tail", "transport_header", "truesize", "tstamp", "users", "vlan_tci")

    def __init__(self, size: int) -> None:
        self.head = bytearray(size)
        self.data = self.tail = 0
        self.len = self.data_len = 0
        self.mac_len = 0
        self.shinfo = SkbSharedInfo()
        self.cloned = False
        self.users = 1
        self.truesize = size + SKB_OVERHEAD
        self.sk: Sock | None = None
        self.dev: NetDevice | None = None
        self.dst: Any = None             # a reference: net.ipv4.types.Rtable
        self.destructor: Callable[[SkBuff], None] | None = None
        self.cb: Any = None
        self.protocol = 0
        self.pkt_type = PACKET_HOST
        self.ip_summed = CHECKSUM_NONE
        self.csum = self.csum_start = self.csum_offset = 0
        self.mac_header = self.network_header = self.transport_header = SKB_CAPACITY
        self.priority = 0
        self.mark = 0
        self.hash = 0
        self.skb_iif = 0
        self.queue_mapping = 0
        self.vlan_tci = 0
        self.tstamp = 0
        self.peeked = False
        self.ignore_df = False


# ---- making and freeing ---------------------------------------------------------------------------------------------
def __alloc_skb(size: int) -> SkBuff:
    """An empty skb with a linear buffer of `size` bytes. Context: any. Raises ENOBUFS never: RAM of the host is
    enough."""
    return SkBuff(size)


@notrace
def alloc_skb(size: int) -> SkBuff:
    return __alloc_skb(size)


def alloc_skb_with_frags(header_len: int, data_len: int) -> SkBuff:
    """An skb with a linear buffer of header_len bytes that counts for data_len bytes of fragments as well.

    truesize is Linux's: the linear part comes from kmalloc() with the shared info behind it, fragments are pages.
    """
    skb = __alloc_skb(header_len)
    linear = (header_len + 63 & ~63) + 320
    skb.truesize = (1 << (linear - 1).bit_length()) + 256 + (data_len + 4095 & ~4095)
    return skb


def __netdev_alloc_skb(dev: NetDevice, length: int) -> SkBuff:
    """An skb for what a device received, with NET_SKB_PAD bytes of headroom."""
    skb = SkBuff(length + NET_SKB_PAD)
    skb.data = skb.tail = NET_SKB_PAD
    skb.dev = dev
    return skb


def kfree_skb(skb: SkBuff) -> None:
    """One user less; the last one drops the packet (the tracepoint skb/kfree_skb tells of it)."""
    skb.users -= 1
    if skb.users:
        return
    probe = register.task.kernel.tp.kfree_skb
    if probe is not None:
        probe(skb)
    __kfree_skb(skb)


def consume_skb(skb: SkBuff) -> None:
    """kfree_skb() of a packet that did its job."""
    skb.users -= 1
    if skb.users:
        return
    probe = register.task.kernel.tp.consume_skb
    if probe is not None:
        probe(skb)
    __kfree_skb(skb)


def __consume_stateless_skb(skb: SkBuff) -> None:
    """consume_skb() by the last user of a packet that refers to nothing but its data."""
    probe = register.task.kernel.tp.consume_skb
    if probe is not None:
        probe(skb)
    skb_release_data(skb)


def __kfree_skb(skb: SkBuff) -> None:
    skb_release_head_state(skb)
    skb_release_data(skb)


def skb_release_head_state(skb: SkBuff) -> None:
    """Drops what the skb refers to: its route and, through the destructor, its sock's memory."""
    skb_dst_drop(skb)
    destructor = skb.destructor
    if destructor is not None:
        skb.destructor = None
        destructor(skb)
    skb.sk = None


def skb_release_data(skb: SkBuff) -> None:
    skb.shinfo.dataref -= 1


@notrace
def skb_get(skb: SkBuff) -> SkBuff:
    """One more user."""
    skb.users += 1
    return skb


@notrace
def skb_shared(skb: SkBuff) -> bool:
    return skb.users != 1


@notrace
def skb_cloned(skb: SkBuff) -> bool:
    return skb.cloned and skb.shinfo.dataref != 1


@notrace
def skb_dst_drop(skb: SkBuff) -> None:
    dst = skb.dst
    if dst is not None:
        skb.dst = None
        dst.release()


@notrace
def skb_dst_set(skb: SkBuff, dst: Any) -> None:
    """The skb takes over the caller's reference."""
    skb.dst = dst


@notrace
def skb_orphan(skb: SkBuff) -> None:
    """The skb no longer counts for its sock."""
    destructor = skb.destructor
    if destructor is not None:
        skb.destructor = None
        destructor(skb)
    skb.sk = None


@notrace
def __copy_skb_header(new: SkBuff, old: SkBuff) -> None:
    """What a copy or a segment has in common with its origin. Written out: a clone is made of each TCP segment."""
    new.dev, new.protocol, new.pkt_type, new.cb = old.dev, old.protocol, old.pkt_type, old.cb
    new.ip_summed, new.csum, new.csum_start, new.csum_offset = old.ip_summed, old.csum, old.csum_start, old.csum_offset
    new.mac_header, new.mac_len = old.mac_header, old.mac_len
    new.network_header, new.transport_header = old.network_header, old.transport_header
    new.priority, new.mark, new.hash, new.tstamp = old.priority, old.mark, old.hash, old.tstamp
    new.skb_iif, new.queue_mapping = old.skb_iif, old.queue_mapping
    new.vlan_tci, new.ignore_df = old.vlan_tci, old.ignore_df


@notrace
def _new_view(skb: SkBuff, head: bytearray, shinfo: SkbSharedInfo) -> SkBuff:
    new = SkBuff.__new__(SkBuff)
    new.head = head
    new.shinfo = shinfo
    new.data, new.tail, new.len, new.data_len = skb.data, skb.tail, skb.len, skb.data_len
    __copy_skb_header(new, skb)
    new.truesize = skb.truesize
    new.users = 1
    new.cloned = False
    new.peeked = False
    new.sk = None
    new.destructor = None
    dst = skb.dst
    new.dst = dst
    if dst is not None:
        dst.hold()
    return new


def skb_clone(skb: SkBuff) -> SkBuff:
    """A second skb over the same data, without a sock. cb is shared: who changes it, replaces it."""
    skb.cloned = True
    new = _new_view(skb, skb.head, skb.shinfo)
    new.cloned = True
    skb.shinfo.dataref += 1
    return new


@notrace
def _copy_shinfo(shinfo: SkbSharedInfo) -> SkbSharedInfo:
    new = SkbSharedInfo()
    new.frags = shinfo.frags[:]
    new.gso_size, new.gso_segs, new.gso_type = shinfo.gso_size, shinfo.gso_segs, shinfo.gso_type
    new.tx_flags = shinfo.tx_flags
    return new


@notrace
def pskb_copy(skb: SkBuff) -> SkBuff:
    """A copy with headers of its own; fragments are shared, as nobody writes into them."""
    return __pskb_copy_fclone(skb)


def __pskb_copy_fclone(skb: SkBuff) -> SkBuff:
    return _new_view(skb, bytearray(skb.head), _copy_shinfo(skb.shinfo))


def pskb_expand_head(skb: SkBuff, nhead: int, ntail: int) -> None:
    """A linear buffer of the skb's own, with more room in front and behind."""
    skb.head = bytearray(nhead) + skb.head + bytearray(ntail)
    old = skb.shinfo
    if old.dataref != 1:
        old.dataref -= 1
        skb.shinfo = _copy_shinfo(old)
    skb.cloned = False
    skb.truesize += nhead + ntail
    if nhead:
        skb.data += nhead
        skb.tail += nhead
        skb.csum_start += nhead
        for name in ("mac_header", "network_header", "transport_header"):
            offset = getattr(skb, name)
            if offset != SKB_CAPACITY:
                setattr(skb, name, offset + nhead)


@notrace
def skb_cow_head(skb: SkBuff, headroom: int) -> None:
    """Makes the headers writable, with at least `headroom` bytes in front of data."""
    delta = headroom - skb.data if headroom > skb.data else 0
    if delta or skb_cloned(skb):
        pskb_expand_head(skb, (delta + 63) & ~63, 0)


# ---- the linear part ------------------------------------------------------------------------------------------------
@notrace
def skb_reserve(skb: SkBuff, length: int) -> None:
    """Moves the empty data `length` bytes back: headroom."""
    skb.data += length
    skb.tail += length


def skb_put(skb: SkBuff, length: int) -> int:
    """Makes the linear data longer; answers where in head the new bytes begin."""
    start = skb.tail
    assert not skb.data_len and start + length <= len(skb.head), "skb_over_panic"
    skb.tail = start + length
    skb.len += length
    return start


@notrace
def skb_put_data(skb: SkBuff, data: bytes | bytearray | memoryview) -> None:
    start = skb_put(skb, len(data))
    skb.head[start : start + len(data)] = data


def skb_push(skb: SkBuff, length: int) -> int:
    """Makes room for a header in front; answers where in head it begins."""
    assert skb.data >= length, "skb_under_panic"
    skb.data -= length
    skb.len += length
    return skb.data


def skb_pull(skb: SkBuff, length: int) -> int:
    """Takes `length` bytes of headers off. They must be linear: pskb_may_pull() first."""
    assert length <= skb.len - skb.data_len
    skb.data += length
    skb.len -= length
    return skb.data


@notrace
def pskb_may_pull(skb: SkBuff, length: int) -> bool:
    """True if the first `length` bytes exist; they are linear then."""
    linear = skb.len - skb.data_len
    if length <= linear:
        return True
    if length > skb.len:
        return False
    __pskb_pull_tail(skb, length - linear)
    return True


def __pskb_pull_tail(skb: SkBuff, delta: int) -> None:
    """Moves `delta` bytes from the fragments into the linear part."""
    if skb.shinfo.dataref != 1 or len(skb.head) - skb.tail < delta:
        pskb_expand_head(skb, 0, max(delta - (len(skb.head) - skb.tail), 0))
    frags = skb.shinfo.frags
    left = delta
    while left:
        frag = frags[0]
        take = min(left, len(frag))
        skb.head[skb.tail : skb.tail + take] = frag[:take]
        skb.tail += take
        left -= take
        if take == len(frag):
            del frags[0]
        else:
            frags[0] = memoryview(frag)[take:]
    skb.data_len -= delta


def ___pskb_trim(skb: SkBuff, length: int) -> None:
    """Cuts any skb off after `length` bytes; the fragments become its own if they were shared."""
    if skb.len <= length:
        return
    if skb.shinfo.dataref != 1:
        pskb_expand_head(skb, 0, 0)
    linear = skb.len - skb.data_len
    if length <= linear:
        skb.shinfo.frags.clear()
        skb.tail = skb.data + length
        skb.data_len = 0
    else:
        room = length - linear
        frags = skb.shinfo.frags
        for i, frag in enumerate(frags):
            if room <= len(frag):
                frags[i] = memoryview(frag)[:room]
                del frags[i + 1 if room else i :]
                break
            room -= len(frag)
        skb.data_len = length - linear
    skb.len = length


@notrace
def pskb_trim_rcsum(skb: SkBuff, length: int) -> None:
    """___pskb_trim() of a received packet: a sum over all of it is no longer right."""
    if skb.len > length:
        if skb.ip_summed == CHECKSUM_COMPLETE:
            skb.ip_summed = CHECKSUM_NONE
        ___pskb_trim(skb, length)


@notrace
def skb_add_data_frag(skb: SkBuff, data: Fragment) -> None:
    """Appends a fragment (skb_fill_page_desc() and the lengths)."""
    skb.shinfo.frags.append(data)
    size = len(data)
    skb.len += size
    skb.data_len += size
    skb.truesize += size


@notrace
def skb_reset_mac_header(skb: SkBuff) -> None:
    skb.mac_header = skb.data


@notrace
def skb_reset_network_header(skb: SkBuff) -> None:
    skb.network_header = skb.data


@notrace
def skb_reset_transport_header(skb: SkBuff) -> None:
    skb.transport_header = skb.data


# ---- the bytes ------------------------------------------------------------------------------------------------------
def skb_copy_bits(skb: SkBuff, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) behind data. Raises EFAULT beyond the end."""
    if offset < 0 or offset + length > skb.len:
        raise KernelError(EFAULT)
    linear = skb.len - skb.data_len
    if offset + length <= linear:
        start = skb.data + offset
        return bytes(skb.head[start : start + length])
    parts: list[bytes | bytearray | memoryview] = []
    if offset < linear:
        parts.append(skb.head[skb.data + offset : skb.tail])
        length -= linear - offset
        offset = linear
    offset -= linear
    for frag in skb.shinfo.frags:
        if not length:
            break
        if offset >= len(frag):
            offset -= len(frag)
            continue
        part = memoryview(frag)[offset : offset + length]
        parts.append(part)
        length -= len(part)
        offset = 0
    return b"".join(parts)


def skb_copy_datagram_iter(skb: SkBuff, offset: int, to: IovIter, length: int) -> None:
    """Copies bytes behind data to a user's buffers. Raises EFAULT if not all of them could go. Context: task."""
    probe = register.task.kernel.tp.skb_copy_datagram_iovec
    if probe is not None:
        probe(skb, length)
    linear = skb.len - skb.data_len
    if offset < linear:
        start = skb.data + offset
        size = min(linear - offset, length)
        if to.copy_to_iter(memoryview(skb.head)[start : start + size]) != size:
            raise KernelError(EFAULT)
        length -= size
        offset = linear
    offset -= linear
    for frag in skb.shinfo.frags:
        if not length:
            return
        if offset >= len(frag):
            offset -= len(frag)
            continue
        part = memoryview(frag)[offset : offset + length]
        if to.copy_to_iter(part) != len(part):
            raise KernelError(EFAULT)
        length -= len(part)
        offset = 0
    if length:
        raise KernelError(EFAULT)


def skb_checksum(skb: SkBuff, offset: int, length: int, csum: int) -> int:
    """The partial sum of bytes behind data, added to csum."""
    linear = skb.len - skb.data_len
    if offset + length <= linear:
        start = skb.data + offset
        return csum_partial(memoryview(skb.head)[start : start + length], csum)
    return csum_block_add(csum, csum_partial(skb_copy_bits(skb, offset, length)), 0)


def skb_checksum_help(skb: SkBuff) -> None:
    """Fills in what CHECKSUM_PARTIAL leaves to the device."""
    skb_cow_head(skb, 0)
    offset = skb.csum_start - skb.data
    assert 0 <= offset < skb.len
    at = skb.csum_start + skb.csum_offset
    csum = skb_checksum(skb, offset, skb.len - offset, 0)
    skb.head[at : at + 2] = (csum_fold(csum) or 0xFFFF).to_bytes(2, "big")
    skb.ip_summed = CHECKSUM_NONE


def __skb_checksum_complete_head(skb: SkBuff, length: int) -> int:
    """0 if the sum of the first bytes behind data, with the pseudo header that skb.csum holds, is right."""
    folded = csum_fold(skb_checksum(skb, 0, length, skb.csum))
    if not folded:
        skb.ip_summed = CHECKSUM_UNNECESSARY
    return folded


def __skb_checksum_complete(skb: SkBuff) -> int:
    """The same for all bytes."""
    return __skb_checksum_complete_head(skb, skb.len)


@notrace
def skb_checksum_init_v4(skb: SkBuff, proto: int, saddr: int, daddr: int) -> int:
    """skb_checksum_init() with IPv4's pseudo header; the transport header is at data. Nonzero: wrong.

    Long packets are only prepared: skb_checksum_complete() finds out when they are read.
    """
    if skb.ip_summed in (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL):
        return 0
    if skb.ip_summed == CHECKSUM_COMPLETE and not csum_tcpudp_magic(saddr, daddr, skb.len, proto, skb.csum):
        skb.ip_summed = CHECKSUM_UNNECESSARY
        return 0
    skb.csum = (saddr >> 16) + (saddr & 0xFFFF) + (daddr >> 16) + (daddr & 0xFFFF) + skb.len + proto
    skb.ip_summed = CHECKSUM_NONE
    if skb.len <= 76:                    # CHECKSUM_BREAK
        return __skb_checksum_complete(skb)
    return 0


@notrace
def skb_checksum_complete(skb: SkBuff) -> int:
    if skb.ip_summed in (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL):
        return 0
    return __skb_checksum_complete(skb)


# ---- segmentation ---------------------------------------------------------------------------------------------
def skb_segment(head_skb: SkBuff) -> list[SkBuff]:
    """Packets of gso_size bytes with copies of the headers, which are what lies from mac_header to data.

    Their data is at the link header; transport_header and the other offsets are right. They leave their checksum to the
    device if head_skb does: the protocol corrects lengths and the pseudo header's sum. head_skb stays, without headers
    pulled. Context: any.
    """
    mss = head_skb.shinfo.gso_size
    doffset = head_skb.data - head_skb.mac_header
    payload = skb_copy_bits(head_skb, 0, head_skb.len)
    skb_push(head_skb, doffset)
    headers = head_skb.head[head_skb.data : head_skb.data + doffset]
    shift = NET_SKB_PAD - head_skb.data
    segs = []
    for offset in range(0, len(payload), mss):
        part = memoryview(payload)[offset : offset + mss]
        seg = SkBuff(NET_SKB_PAD + doffset + len(part))
        __copy_skb_header(seg, head_skb)
        for name in ("mac_header", "network_header", "transport_header", "csum_start"):
            setattr(seg, name, getattr(head_skb, name) + shift)
        seg.dst = head_skb.dst
        if seg.dst is not None:
            seg.dst.hold()
        skb_reserve(seg, NET_SKB_PAD)
        skb_put_data(seg, headers)
        skb_put_data(seg, part)
        segs.append(seg)
    return segs


# ---- queues ---------------------------------------------------------------------------------------------------------
class SkBuffHead:
    """struct sk_buff_head. qlen is len(q)."""

    __slots__ = ("q",)

    def __init__(self) -> None:
        self.q: deque[SkBuff] = deque()


def skb_queue_tail(queue: SkBuffHead, skb: SkBuff) -> None:
    queue.q.append(skb)


def skb_dequeue(queue: SkBuffHead) -> SkBuff | None:
    """Takes the first one."""
    return queue.q.popleft() if queue.q else None


@notrace
def __skb_dequeue(queue: SkBuffHead) -> SkBuff | None:
    return queue.q.popleft() if queue.q else None


@notrace
def __skb_unlink(skb: SkBuff, queue: SkBuffHead) -> None:
    if queue.q[0] is skb:
        queue.q.popleft()
    else:
        queue.q.remove(skb)


def skb_unlink(skb: SkBuff, queue: SkBuffHead) -> None:
    """Takes it out, wherever it stands."""
    if queue.q[0] is skb:
        queue.q.popleft()
    else:
        queue.q.remove(skb)


def skb_queue_purge(queue: SkBuffHead) -> None:
    """Frees all."""
    while queue.q:
        kfree_skb(queue.q.popleft())
