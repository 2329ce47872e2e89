"""XDP: programs that see a packet before the network does.

Linux: include/net/xdp.h, net/core/xdp.c, struct xdp_md of include/uapi/linux/bpf.h (5.3). Same: what a program sees.
Differs: pointers are offsets into a bytearray; programs see that at XDP_MEMORY, for a packet lies nowhere in RAM.
Gaps: memory models of drivers (xdp_rxq_info_reg_mem_model()), zero copy.
Context: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import slotted

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.kernel.bpf.types import BpfMap, BpfProg
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.nlattr import NetlinkExtAck

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)
XDP_PACKET_HEADROOM = 256
XDP_MEMORY = 0xFFFF_B000_0000_0000       # in the direct map, behind all RAM
# how a program is attached: IFLA_XDP_FLAGS and IFLA_XDP_ATTACHED
XDP_FLAGS_UPDATE_IF_NOEXIST, XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_HW_MODE = 1, 2, 4, 8
XDP_FLAGS_MODES = XDP_FLAGS_SKB_MODE | XDP_FLAGS_DRV_MODE | XDP_FLAGS_HW_MODE
XDP_FLAGS_MASK = XDP_FLAGS_UPDATE_IF_NOEXIST | XDP_FLAGS_MODES
XDP_SETUP_PROG, XDP_QUERY_PROG = 0, 2    # enum bpf_netdev_command
XDP_ATTACHED_NONE, XDP_ATTACHED_DRV, XDP_ATTACHED_SKB, XDP_ATTACHED_HW, XDP_ATTACHED_MULTI = range(5)


@slotted
class XdpRxqInfo:
    """struct xdp_rxq_info: where a packet came in."""

    dev: NetDevice
    queue_index: int = 0


@slotted
class XdpBuff:
    """struct xdp_buff: a packet as a program sees and changes it. data*: offsets into memory. redirect: what the
    last bpf_redirect*() wants (struct bpf_redirect_info)."""

    memory: bytearray
    data: int
    data_end: int
    data_meta: int
    data_hard_start: int
    rxq: XdpRxqInfo
    redirect: tuple[int, BpfMap | None, NetDevice | None] | None = None  # index, and what a map has there


@slotted
class NetdevBpf:
    """struct netdev_bpf: what ->ndo_bpf(dev, it) shall do: XDP_SETUP_PROG takes over the reference `prog` (None: away
    with the old one); XDP_QUERY_PROG answers in prog_id. Raises what the driver cannot do."""

    command: int
    flags: int = 0                       # XDP_FLAGS_*
    prog: BpfProg | None = None
    extack: NetlinkExtAck | None = None
    prog_id: int = 0


def __dev_xdp_query(dev: NetDevice, bpf_op: Callable[[NetDevice, NetdevBpf], None]) -> int:
    """The number of the program that is attached in this way; 0: none. (net/core/dev.c)"""
    xdp = NetdevBpf(XDP_QUERY_PROG)
    bpf_op(dev, xdp)
    return xdp.prog_id
