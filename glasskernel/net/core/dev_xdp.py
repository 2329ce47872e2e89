"""XDP on devices: attaching programs, and running them where a driver does not (generic XDP).

Linux: net/core/dev.c (5.3), its XDP part. Same: a driver's own XDP is preferred; not both kinds at once; the generic
one runs before the first tap sees the packet, whose linear buffer then holds all of it and 256 bytes of headroom.
Differs: generic_xdp_needed_key is NetState.do_xdp_generic, which is None as long as no device needs it.
Gaps: offload to hardware (EOPNOTSUPP), LRO.
Owns: NetDevice.xdp_prog: one reference. Locks: rtnl, where programs are changed. Context of packets: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf.objects import bpf_prog_get_type, bpf_prog_put
from glasskernel.kernel.bpf.types import BPF_PROG_TYPE_XDP, BpfProg
from glasskernel.lib.errno import EBUSY, EEXIST, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.filter_xdp import bpf_warn_invalid_xdp_action
from glasskernel.net.core.xdp import (
    XDP_ABORTED,
    XDP_DROP,
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_HW_MODE,
    XDP_FLAGS_SKB_MODE,
    XDP_FLAGS_UPDATE_IF_NOEXIST,
    XDP_PACKET_HEADROOM,
    XDP_PASS,
    XDP_QUERY_PROG,
    XDP_REDIRECT,
    XDP_SETUP_PROG,
    XDP_TX,
    NetdevBpf,
    XdpBuff,
    XdpRxqInfo,
    __dev_xdp_query,
)
from glasskernel.net.core.xdp_redirect import generic_xdp_tx, trace_xdp_exception, xdp_do_generic_redirect
from glasskernel.net.ethernet.eth import eth_type_trans
from glasskernel.net.netdevice import ETH_HLEN
from glasskernel.net.nlattr import nla_error
from glasskernel.net.skbuff import (
    NET_SKB_PAD,
    SkBuff,
    __pskb_pull_tail,
    kfree_skb,
    pskb_expand_head,
    skb_cloned,
    skb_pull,
    skb_push,
    skb_reset_network_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.nlattr import NetlinkExtAck

    BpfOp = Callable[[NetDevice, NetdevBpf], None]


# ---- attaching ------------------------------------------------------------------------------------------------------
@may_sleep
def dev_change_xdp_fd(dev: NetDevice, extack: NetlinkExtAck | None, fd: int, flags: int) -> None:
    """Attaches the program of a descriptor; none, if that is negative.

    Raises EOPNOTSUPP, EEXIST, EBUSY, EBADF, EINVAL. Locks: rtnl.
    """
    native: BpfOp | None = dev.netdev_ops.ndo_bpf
    if native is None and flags & (XDP_FLAGS_DRV_MODE | XDP_FLAGS_HW_MODE):
        raise nla_error(EOPNOTSUPP, extack, b"underlying driver does not support XDP in native mode")
    if flags & XDP_FLAGS_HW_MODE:                # no driver can
        raise KernelError(EOPNOTSUPP)
    bpf_op = native if native is not None and not flags & XDP_FLAGS_SKB_MODE else generic_xdp_install
    other = generic_xdp_install if bpf_op is native else native
    prog: BpfProg | None = None
    if fd >= 0:
        if other is not None and __dev_xdp_query(dev, other):
            raise nla_error(EEXIST, extack, b"native and generic XDP can't be active at the same time")
        prog_id = __dev_xdp_query(dev, bpf_op)
        if flags & XDP_FLAGS_UPDATE_IF_NOEXIST and prog_id:
            raise nla_error(EBUSY, extack, b"XDP program already attached")
        prog = bpf_prog_get_type(fd, BPF_PROG_TYPE_XDP)
        if prog.id == prog_id:
            bpf_prog_put(prog)
            return
    elif not __dev_xdp_query(dev, bpf_op):
        return
    try:
        dev_xdp_install(dev, bpf_op, extack, flags, prog)
    except KernelError:
        if prog is not None:
            bpf_prog_put(prog)
        raise


def dev_xdp_install(dev: NetDevice, bpf_op: BpfOp, extack: NetlinkExtAck | None, flags: int,
                    prog: BpfProg | None) -> None:
    """The device takes over the reference, unless it raises."""
    bpf_op(dev, NetdevBpf(XDP_SETUP_PROG, flags, prog, extack))
    net_of(dev.net.kernel).dev_xdp_uninstall = dev_xdp_uninstall


def generic_xdp_install(dev: NetDevice, xdp: NetdevBpf) -> None:
    """->ndo_bpf() of every device."""
    old = dev.xdp_prog
    if xdp.command == XDP_QUERY_PROG:
        xdp.prog_id = old.id if old is not None else 0
        return
    dev.xdp_prog = xdp.prog
    state = net_of(dev.net.kernel)
    state.generic_xdp_needed += (xdp.prog is not None) - (old is not None)
    state.do_xdp_generic = do_xdp_generic if state.generic_xdp_needed else None
    if old is not None:
        bpf_prog_put(old)


def dev_xdp_uninstall(dev: NetDevice) -> None:
    """The device goes."""
    for bpf_op in (generic_xdp_install, dev.netdev_ops.ndo_bpf):
        if bpf_op is not None and __dev_xdp_query(dev, bpf_op):
            dev_xdp_install(dev, bpf_op, None, 0, None)


# ---- packets --------------------------------------------------------------------------------------------------------
def do_xdp_generic(xdp_prog: BpfProg | None, skb: SkBuff) -> int:
    """XDP_PASS: the packet goes on. XDP_DROP: the program decided otherwise, and the skb is gone."""
    if xdp_prog is None:
        return XDP_PASS
    assert skb.dev is not None
    xdp = XdpBuff(bytearray(), 0, 0, 0, 0, XdpRxqInfo(skb.dev, skb.queue_mapping))
    act = netif_receive_generic_xdp(skb, xdp, xdp_prog)
    if act == XDP_PASS:
        return XDP_PASS
    if act == XDP_REDIRECT:
        if xdp_do_generic_redirect(skb.dev, skb, xdp, xdp_prog):
            kfree_skb(skb)
    elif act == XDP_TX:
        generic_xdp_tx(skb, xdp_prog)
    return XDP_DROP


def netif_receive_generic_xdp(skb: SkBuff, xdp: XdpBuff, xdp_prog: BpfProg) -> int:
    """Runs the program; what it did to the packet is done to the skb. It is freed for anything but PASS, TX and
    REDIRECT."""
    dev = skb.dev
    assert dev is not None
    mac_len = skb.data - skb.mac_header
    act = run_xdp_on_skb(skb, xdp, xdp_prog)
    if act in (XDP_REDIRECT, XDP_TX):
        skb_push(skb, mac_len)
    elif act != XDP_PASS:
        xdp_dropped(dev, xdp_prog, act)
        kfree_skb(skb)
    return act


@notrace
def run_xdp_on_skb(skb: SkBuff, xdp: XdpBuff, xdp_prog: BpfProg) -> int:
    """The program's answer; the packet is as it left it. skb.data is behind the link's header, before and after."""
    dev = skb.dev
    assert dev is not None
    if skb_cloned(skb) or skb.data_len or skb.mac_header < XDP_PACKET_HEADROOM:
        missing = max(XDP_PACKET_HEADROOM - skb.mac_header, 0)
        pskb_expand_head(skb, -(-missing // NET_SKB_PAD) * NET_SKB_PAD, 0)
        if skb.data_len:
            __pskb_pull_tail(skb, skb.data_len)
    data, data_end = skb.mac_header, skb.tail
    xdp.memory, xdp.data_hard_start = skb.head, 0
    xdp.data = xdp.data_meta = data
    xdp.data_end = data_end
    before = _ethernet(xdp)
    act = xdp_prog.run(xdp)
    off = xdp.data - data
    if off:
        if off > 0:
            skb_pull(skb, off)
        else:
            skb_push(skb, -off)
        skb.mac_header += off
        skb_reset_network_header(skb)
    if xdp.data_end != data_end:                 # it can only have become shorter
        skb.tail = xdp.data_end
        skb.len -= data_end - xdp.data_end
    if _ethernet(xdp) != before:
        skb_push(skb, ETH_HLEN)
        skb.protocol = eth_type_trans(skb, dev)
    return act


@notrace
def xdp_dropped(dev: NetDevice, xdp_prog: BpfProg, act: int) -> None:
    """Tells of a packet that was lost, unless the program wanted that."""
    if act == XDP_DROP:
        return
    if act != XDP_ABORTED:
        bpf_warn_invalid_xdp_action(dev.net.kernel, act)
    trace_xdp_exception(dev, xdp_prog, act)


@notrace
def _ethernet(xdp: XdpBuff) -> tuple[int, bytes]:
    """What eth_type_trans() looked at, as far as it matters here: is it for many, and what is inside."""
    return xdp.memory[xdp.data] & 1, bytes(xdp.memory[xdp.data + 12 : xdp.data + 14])
