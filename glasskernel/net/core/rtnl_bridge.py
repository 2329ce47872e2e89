"""What `bridge link` and `bridge fdb` show where there are no bridges.

Linux: rtnl_bridge_getlink(), rtnl_fdb_dump() and ndo_dflt_fdb_dump() of net/core/rtnetlink.c (5.3). Gaps: adding and
    deleting entries (EOPNOTSUPP), bridges.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.net.core.neigh_netlink import NDA_LLADDR, ndmsg
from glasskernel.net.core.neighbour import NUD_PERMANENT
from glasskernel.net.core.rtnetlink import RTM_GETLINK, RTM_GETNEIGH, RTM_NEWNEIGH, rtnl_register, sock_net
from glasskernel.net.netdevice import ARPHRD_ETHER
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_put
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback
from glasskernel.net.nlattr import nla_put
from glasskernel.net.types import AF_BRIDGE

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff

NTF_SELF = 2


def rtnl_bridge_getlink(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETLINK: the ports of bridges."""
    return 0


def nlmsg_populate_fdb_fill(skb: SkBuff, dev: NetDevice, addr: bytes, portid: int, seq: int) -> None:
    """One address that the device listens to. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, RTM_NEWNEIGH, ndmsg.pack(
        AF_BRIDGE, dev.ifindex, NUD_PERMANENT, NTF_SELF, 0), NLM_F_MULTI)
    nla_put(skb, NDA_LLADDR, addr)
    nlmsg_end(skb, start)


def rtnl_fdb_dump(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETNEIGH: what each Ethernet device listens to."""
    net = sock_net(cb.skb)
    entries = [(dev, addr) for dev in net.dev_by_index.values() if dev.type == ARPHRD_ETHER for addr in dev.mc]
    return nlmsg_dump(skb, cb, entries, lambda entry: nlmsg_populate_fdb_fill(
        skb, *entry, cb.skb.cb.portid, cb.nlh.nlmsg_seq))


def rtnl_bridge_init(kernel: Kernel) -> None:
    rtnl_register(kernel, AF_BRIDGE, RTM_GETLINK, None, rtnl_bridge_getlink)
    rtnl_register(kernel, AF_BRIDGE, RTM_GETNEIGH, None, rtnl_fdb_dump)
