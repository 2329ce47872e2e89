"""Network devices: the objects and tables that the core, the drivers and the protocols share.

Linux: include/linux/netdevice.h, net/sch_generic.h (5.3). Only data and defaults; net/core/dev.py and its neighbours
work on them. Gaps: several transmit queues, XPS, RPS, VLANs, hardware addresses longer than 6 bytes.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.errno import EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.skbuff import SkBuffHead

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfProg
    from glasskernel.net.core.xdp import NetdevBpf
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

IFNAMSIZ = 16
(IFF_UP, IFF_BROADCAST, IFF_DEBUG, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_NOTRAILERS, IFF_RUNNING, IFF_NOARP, IFF_PROMISC,
 IFF_ALLMULTI, IFF_MASTER, IFF_SLAVE, IFF_MULTICAST, IFF_PORTSEL, IFF_AUTOMEDIA, IFF_DYNAMIC, IFF_LOWER_UP,
 IFF_DORMANT) = (1 << i for i in range(18))
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
ETH_ALEN, ETH_HLEN, ETH_DATA_LEN = 6, 14, 1500
ETH_P_IP, ETH_P_ARP, ETH_P_IPV6, ETH_P_ALL, ETH_P_LOOPBACK = 0x0800, 0x0806, 0x86DD, 0x0003, 0x9000

NETDEV_TX_OK, NETDEV_TX_BUSY = 0, 0x10
NET_RX_SUCCESS, NET_RX_DROP = 0, 1
NET_XMIT_SUCCESS, NET_XMIT_DROP, NET_XMIT_CN = 0, 1, 2
# netdev_chain (enum netdev_cmd)
(NETDEV_UP, NETDEV_DOWN, NETDEV_REBOOT, NETDEV_CHANGE, NETDEV_REGISTER, NETDEV_UNREGISTER, NETDEV_CHANGEMTU,
 NETDEV_CHANGEADDR, NETDEV_PRE_CHANGEADDR, NETDEV_GOING_DOWN, NETDEV_CHANGENAME) = range(1, 12)
NETDEV_FEAT_CHANGE, NETDEV_PRE_UP, NETDEV_POST_INIT, NETDEV_NOTIFY_PEERS, NETDEV_PRECHANGEMTU = 12, 14, 17, 19, 23
# net_device.reg_state
(NETREG_UNINITIALIZED, NETREG_REGISTERED, NETREG_UNREGISTERING, NETREG_UNREGISTERED, NETREG_RELEASED) = range(5)
# net_device.operstate (RFC 2863)
(IF_OPER_UNKNOWN, IF_OPER_NOTPRESENT, IF_OPER_DOWN, IF_OPER_LOWERLAYERDOWN, IF_OPER_TESTING, IF_OPER_DORMANT,
 IF_OPER_UP) = range(7)
# net_device.state
__LINK_STATE_START, __LINK_STATE_PRESENT, __LINK_STATE_NOCARRIER = 1, 2, 4
# net_device.features
NETIF_F_SG, NETIF_F_IP_CSUM, NETIF_F_HW_CSUM, NETIF_F_TSO, NETIF_F_GSO, NETIF_F_GRO = 1, 2, 8, 1 << 16, 1 << 11, 1 << 14
NETIF_F_RXCSUM, NETIF_F_LOOPBACK = 1 << 40, 1 << 42
# napi_struct.state
NAPI_STATE_SCHED, NAPI_STATE_MISSED, NAPI_STATE_DISABLE = 1, 2, 4


@notrace
def _no_ioctl(dev: NetDevice, ifr: bytearray, cmd: int) -> None:
    raise KernelError(EOPNOTSUPP)


@slotted(frozen=True)
class NetDeviceOps:
    """struct net_device_ops: what a driver does. None where Linux tests for the entry.

    ndo_start_xmit(skb, dev) -> NETDEV_TX_*: takes the skb unless it answers BUSY. Context: softirq or bottom halves
    off.
    """

    ndo_start_xmit: Callable[[SkBuff, NetDevice], int]
    ndo_init: Callable[[NetDevice], None] | None = None
    ndo_uninit: Callable[[NetDevice], None] | None = None
    ndo_open: Callable[[NetDevice], None] | None = None
    ndo_stop: Callable[[NetDevice], None] | None = None
    ndo_set_rx_mode: Callable[[NetDevice], None] | None = None
    ndo_set_mac_address: Callable[[NetDevice, bytes], None] | None = None
    ndo_validate_addr: Callable[[NetDevice], None] | None = None
    ndo_change_mtu: Callable[[NetDevice, int], None] | None = None
    ndo_get_stats64: Callable[[NetDevice], NetDeviceStats] | None = None
    ndo_tx_timeout: Callable[[NetDevice], None] | None = None
    ndo_get_iflink: Callable[[NetDevice], int] | None = None
    ndo_do_ioctl: Callable[[NetDevice, bytearray, int], None] = _no_ioctl
    ndo_bpf: Callable[[NetDevice, NetdevBpf], None] | None = None
    ndo_xdp_xmit: Callable[[NetDevice, bytes], int] | None = None         # a frame -> 0 or a negative errno


@slotted(frozen=True)
class HeaderOps:
    """struct header_ops. create(skb, dev, type, daddr, saddr, len) pushes the header; answers its length, negative when
    the destination is not known yet. cache and cache_update are not used: a header is 14 bytes."""

    create: Callable[[SkBuff, NetDevice, int, bytes | None, bytes | None, int], int]
    parse: Callable[[SkBuff], bytes] | None = None


@slotted(frozen=True)
class EthtoolOps:
    """struct ethtool_ops: what ethtool(8) asks for. None: EOPNOTSUPP."""

    get_drvinfo: Callable[[NetDevice], dict[str, bytes]] | None = None
    get_link: Callable[[NetDevice], int] | None = None
    get_link_ksettings: Callable[[NetDevice], dict[str, int]] | None = None
    get_strings: Callable[[NetDevice], list[bytes]] | None = None
    get_ethtool_stats: Callable[[NetDevice], list[int]] | None = None
    get_ringparam: Callable[[NetDevice], dict[str, int]] | None = None


@slotted
class NetDeviceStats:
    """struct rtnl_link_stats64, in its order."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    multicast: int = 0
    collisions: int = 0
    rx_length_errors: int = 0
    rx_over_errors: int = 0
    rx_crc_errors: int = 0
    rx_frame_errors: int = 0
    rx_fifo_errors: int = 0
    rx_missed_errors: int = 0
    tx_aborted_errors: int = 0
    tx_carrier_errors: int = 0
    tx_fifo_errors: int = 0
    tx_heartbeat_errors: int = 0
    tx_window_errors: int = 0
    rx_compressed: int = 0
    tx_compressed: int = 0
    rx_nohandler: int = 0


@slotted
class Qdisc:
    """struct Qdisc: the queue before a device. ops: net.sched.sch_generic."""

    ops: Any
    dev: NetDevice
    handle: int = 0
    limit: int = 0
    flags: int = 0
    running: bool = False
    scheduled: bool = False
    bands: list[deque[SkBuff]] = field(default_factory=list)
    qlen: int = 0
    backlog: int = 0                     # bytes
    packets: int = 0
    bytes: int = 0
    drops: int = 0
    requeues: int = 0
    gso_skb: deque[SkBuff] = field(default_factory=deque)                # what the device did not take
    private: Any = None


@slotted
class NetdevQueue:
    """struct netdev_queue: a device's only transmit queue."""

    dev: NetDevice
    qdisc: Qdisc = None  # type: ignore[assignment]
    stopped: bool = False                # netif_stop_queue()
    trans_start: int = 0                 # jiffies
    trans_timeout: int = 0               # how often


@slotted
class NetDevice:
    """struct net_device. priv: the driver's. features, hw_features: NETIF_F_*."""

    name: bytes
    net: Net
    netdev_ops: NetDeviceOps
    ifindex: int = 0
    type: int = ARPHRD_ETHER
    flags: int = 0                       # IFF_*
    gflags: int = 0                      # those that users asked for
    state: int = 0                       # __LINK_STATE_*
    mtu: int = ETH_DATA_LEN
    min_mtu: int = 68
    max_mtu: int = ETH_DATA_LEN
    hard_header_len: int = ETH_HLEN
    needed_headroom: int = 0
    addr_len: int = ETH_ALEN
    addr_assign_type: int = 0
    dev_addr: bytes = bytes(6)
    perm_addr: bytes = bytes(6)
    broadcast: bytes = b"\xff" * 6
    promiscuity: int = 0
    allmulti: int = 0
    mc: dict[bytes, int] = field(default_factory=dict)                   # multicast addresses and their users
    tx_queue_len: int = 1000
    features: int = 0
    hw_features: int = 0
    gso_max_size: int = 65536
    gso_max_segs: int = 65535
    header_ops: HeaderOps | None = None
    ethtool_ops: EthtoolOps | None = None
    tx: NetdevQueue = None  # type: ignore[assignment]
    qdisc: Qdisc = None  # type: ignore[assignment]                      # the root
    napi_list: list[NapiStruct] = field(default_factory=list)
    ptype_all: list[PacketType] = field(default_factory=list)
    ptype_specific: dict[int, list[PacketType]] = field(default_factory=dict)         # by EtherType
    stats: NetDeviceStats = field(default_factory=NetDeviceStats)
    ip_ptr: Any = None                   # net.ipv4.types.InDevice
    refcnt: int = 1
    reg_state: int = 0
    operstate: int = 0
    link_mode: int = 0
    carrier_up_count: int = 0
    carrier_down_count: int = 0
    irq: int = 0
    base_addr: int = 0
    mem_start: int = 0
    mem_end: int = 0
    group: int = 0
    ifalias: bytes = b""
    rtnl_link_ops: Any = None
    watchdog_timeo: int = 0
    watchdog_timer: Any = None
    link_watch: bool = False             # a change of the carrier waits to be told
    kobj: Any = None                     # in sysfs: drivers.base.core.Device
    parent: bytes = b""                  # the PCI device that it belongs to, as sysfs calls it
    no_queue: bool = False               # IFF_NO_QUEUE: its default discipline is noqueue
    keep_dst: bool = False               # packets need their route after ndo_start_xmit() (no IFF_XMIT_DST_RELEASE)
    needs_free_netdev: bool = False      # unregistering frees it, too
    qdisc_sleeping: Qdisc = None  # type: ignore[assignment]             # the root while the device is down
    noop_qdisc: Qdisc = None  # type: ignore[assignment]
    kaddr: int = 0
    xdp_prog: BpfProg | None = None      # of generic XDP
    priv: Any = None


@slotted
class NapiStruct:
    """struct napi_struct. poll(napi, budget) -> how many packets it took; fewer than the budget: it called
    napi_complete_done(). gro_hash: flow -> packets that are held back; rx_list: packets to be handed on together."""

    dev: NetDevice
    poll: Callable[[NapiStruct, int], int]
    weight: int = 64
    state: int = 0
    napi_id: int = 0
    gro_hash: dict[Any, list[SkBuff]] = field(default_factory=dict)
    gro_count: int = 0
    rx_list: list[SkBuff] = field(default_factory=list)
    kaddr: int = 0                       # what events show


@slotted
class SoftnetData:
    """struct softnet_data: one for each CPU."""

    backlog: NapiStruct = None  # type: ignore[assignment]
    poll_list: list[NapiStruct] = field(default_factory=list)
    input_pkt_queue: SkBuffHead = field(default_factory=SkBuffHead)
    process_queue: SkBuffHead = field(default_factory=SkBuffHead)
    output_queue: list[Qdisc] = field(default_factory=list)
    processed: int = 0
    dropped: int = 0
    time_squeeze: int = 0
    received_rps: int = 0
    xmit_recursion: int = 0


@slotted
class PacketType:
    """struct packet_type: who gets packets of an EtherType. func(skb, dev, pt, orig_dev) -> NET_RX_*.

    list_func: for many at once. dev: only of this device. af_packet_priv: of AF_PACKET.
    """

    type: int
    func: Callable[[SkBuff, NetDevice, PacketType, NetDevice], int]
    list_func: Callable[[list[SkBuff], PacketType, NetDevice], None] | None = None
    dev: NetDevice | None = None
    af_packet_priv: Any = None           # the Sock: it does not see what it sends itself
    ignore_outgoing: bool = False


@slotted
class PacketOffload:
    """struct packet_offload: segmentation and its opposite for an EtherType (net.core.gro: dev_add_offload()).

    gso_segment(skb, features) -> the segments, or the empty list: none needed; skb.data is at the network header.
    gro_receive(held, skb) -> one of `held` that is complete, or None. held: packets that may be of the same flow
    (gro_cb(p).same_flow). gro_complete(skb, nhoff): headers of a merged packet; nhoff: of the network header, from
    data.
    """

    type: int
    gso_segment: Callable[[SkBuff, int], list[SkBuff]]
    gro_receive: Callable[[list[SkBuff], SkBuff], SkBuff | None]
    gro_complete: Callable[[SkBuff, int], None]


@notrace
def netif_running(dev: NetDevice) -> bool:
    """The interface is up."""
    return bool(dev.state & __LINK_STATE_START)


@notrace
def netif_carrier_ok(dev: NetDevice) -> bool:
    return not dev.state & __LINK_STATE_NOCARRIER


@notrace
def dev_hard_header(skb: SkBuff, dev: NetDevice, kind: int, daddr: bytes | None, saddr: bytes | None,
                    length: int) -> int:
    """Pushes the link's header; its length, 0 if the link has none, negative if daddr is missing."""
    ops = dev.header_ops
    return 0 if ops is None else ops.create(skb, dev, kind, daddr, saddr, length)


@notrace
def dev_hold(dev: NetDevice) -> None:
    dev.refcnt += 1


@notrace
def dev_put(dev: NetDevice) -> None:
    dev.refcnt -= 1
