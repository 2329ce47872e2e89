"""Where XDP sends a packet: back, or out of another device.

Linux: the XDP part of net/core/filter.c, generic_xdp_tx() of net/core/dev.c (5.3). Same: what is refused; a packet that
generic XDP redirects goes to the other device's driver at once, past its queue and its taps.
Differs: struct bpf_redirect_info is XdpBuff.redirect: no packet is between its program and its redirection meanwhile.
Gaps: redirection to CPUs and to AF_XDP sockets; bulks (each frame is sent by itself).
Context: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, EMSGSIZE, ENETDOWN, EOPNOTSUPP
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev import dev_get_by_index_rcu, netdev_core_pick_tx
from glasskernel.net.core.dev_xmit import dev_xmit_complete
from glasskernel.net.core.xdp import XDP_TX, XdpBuff
from glasskernel.net.netdevice import IFF_UP
from glasskernel.net.skbuff import SkBuff, kfree_skb

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfMap, BpfProg
    from glasskernel.net.netdevice import NetDevice

VLAN_HLEN = 4


def generic_xdp_tx(skb: SkBuff, xdp_prog: BpfProg) -> None:
    """Gives the packet to the driver of skb.dev."""
    dev = skb.dev
    assert dev is not None
    txq = netdev_core_pick_tx(dev, skb)
    if not txq.stopped and dev_xmit_complete(dev.netdev_ops.ndo_start_xmit(skb, dev)):
        return
    trace_xdp_exception(dev, xdp_prog, XDP_TX)
    kfree_skb(skb)


def xdp_ok_fwd_dev(fwd: NetDevice, pktlen: int) -> int:
    """0, or a negative errno: the device cannot send so much, or nothing."""
    if not fwd.flags & IFF_UP:
        return -ENETDOWN
    return -EMSGSIZE if pktlen > fwd.mtu + fwd.hard_header_len + VLAN_HLEN else 0


@notrace
def _target(dev: NetDevice, xdp: XdpBuff, pktlen: int) -> tuple[NetDevice | None, int, int, BpfMap | None]:
    """(the device, its number or index, negative errno, the map it was found in) of what the program wants."""
    assert xdp.redirect is not None
    index, map, fwd = xdp.redirect
    if map is None:
        fwd = dev_get_by_index_rcu(dev.net, index)
    if fwd is None:
        return None, index, -EINVAL, map
    return fwd, index, xdp_ok_fwd_dev(fwd, pktlen), map


def xdp_do_generic_redirect(dev: NetDevice, skb: SkBuff, xdp: XdpBuff, xdp_prog: BpfProg) -> int:
    """XDP_REDIRECT of an skb. A negative errno: it is still the caller's."""
    fwd, index, err, map = _target(dev, xdp, skb.len)
    if err:
        trace_xdp_redirect(dev, xdp_prog, fwd, index, err, map)
        return err
    skb.dev = fwd
    trace_xdp_redirect(dev, xdp_prog, fwd, index, 0, map)
    generic_xdp_tx(skb, xdp_prog)
    return 0


def xdp_do_redirect(dev: NetDevice, xdp: XdpBuff, xdp_prog: BpfProg) -> int:
    """XDP_REDIRECT in a driver: the frame goes to ->ndo_xdp_xmit(). A negative errno: it went nowhere."""
    fwd, index, err, map = _target(dev, xdp, xdp.data_end - xdp.data)
    if not err:
        assert fwd is not None
        xmit = fwd.netdev_ops.ndo_xdp_xmit
        err = -EOPNOTSUPP if xmit is None else xmit(fwd, bytes(xdp.memory[xdp.data : xdp.data_end]))
    trace_xdp_redirect(dev, xdp_prog, fwd, index, err, map)
    return err


# ---- tracepoints ----------------------------------------------------------------------------------------------------
@notrace
def trace_xdp_exception(dev: NetDevice, xdp_prog: BpfProg, act: int) -> None:
    probe = dev.net.kernel.tp.xdp_exception
    if probe is not None:
        probe(dev, xdp_prog, act)


@notrace
def trace_xdp_redirect(dev: NetDevice, xdp_prog: BpfProg, fwd: NetDevice | None, index: int, err: int,
                       map: BpfMap | None) -> None:
    """xdp_redirect, xdp_redirect_map, and those with _err."""
    tp = dev.net.kernel.tp
    if map is None:
        probe = tp.xdp_redirect_err if err else tp.xdp_redirect
        to_ifindex, map_id, map_index = index, 0, 0
    else:
        probe = tp.xdp_redirect_map_err if err else tp.xdp_redirect_map
        to_ifindex, map_id, map_index = fwd.ifindex if fwd is not None else 0, map.id, index
    if probe is not None:
        probe(dev, xdp_prog, to_ifindex, err, map_id, map_index)
