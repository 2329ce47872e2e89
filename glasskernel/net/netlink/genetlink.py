"""NETLINK_GENERIC: families of messages that are found by name.

Linux: net/netlink/genetlink.c (5.3). Same: the controller (nlctrl), which tells of all families; a family is a number,
    commands with doit and dumpit, and groups. Gaps: no family but the controller is built in (ethtool's came with
    5.6, taskstats and nl80211 are not here); families of modules.
Owns: NetState.genl_families, Net.genl_sock.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_NET_ADMIN
from glasskernel.lib.errno import EINVAL, ENOENT, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.netlink.af_netlink import __netlink_kernel_create, netlink_kernel_release
from glasskernel.net.netlink.delivery import netlink_unicast
from glasskernel.net.netlink.dump import __netlink_dump_start, netlink_rcv_skb
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_new, nlmsg_parse_deprecated, nlmsg_put
from glasskernel.net.netlink.sockopt import netlink_net_capable
from glasskernel.net.netlink.types import (
    NETLINK_GENERIC,
    NL_CFG_F_NONROOT_RECV,
    NLM_F_DUMP,
    NLM_F_MULTI,
    NetlinkCallback,
    NetlinkKernelCfg,
    Nlmsghdr,
)
from glasskernel.net.nlattr import (
    NLA_NUL_STRING,
    NLA_U16,
    NetlinkExtAck,
    nla_nest_end,
    nla_nest_start_noflag,
    nla_put_string,
    nla_put_u16,
    nla_put_u32,
    nla_str,
)
from glasskernel.net.types import PernetOperations

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

GENL_ID_CTRL = 0x10
GENL_ADMIN_PERM, GENL_CMD_CAP_DO, GENL_CMD_CAP_DUMP, GENL_CMD_CAP_HASPOL = 1, 2, 4, 8
CTRL_CMD_NEWFAMILY, CTRL_CMD_GETFAMILY = 1, 3
(CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_VERSION, CTRL_ATTR_HDRSIZE, CTRL_ATTR_MAXATTR, CTRL_ATTR_OPS,
 CTRL_ATTR_MCAST_GROUPS) = range(1, 8)
CTRL_ATTR_OP_ID, CTRL_ATTR_OP_FLAGS, CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID = 1, 2, 1, 2
genlmsghdr = struct.Struct("<BBxx")      # cmd, version


@slotted(frozen=True)
class GenlOps:
    """struct genl_ops: a command. doit raises its errors."""

    cmd: int
    doit: Callable[[SkBuff, Nlmsghdr, NetlinkExtAck], None] | None = None
    dumpit: Callable[[SkBuff, NetlinkCallback], int] | None = None
    flags: int = 0


@slotted(frozen=True)
class GenlFamily:
    """struct genl_family. mcgrps: (name, number)."""

    id: int
    name: bytes
    version: int
    maxattr: int
    ops: tuple[GenlOps, ...]
    mcgrps: tuple[tuple[bytes, int], ...] = ()
    hdrsize: int = 0


# ---- requests --------------------------------------------------------------------------------------
@may_sleep
def genl_rcv_msg(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> bool:
    """Raises ENOENT for a family that does not exist."""
    assert skb.sk is not None
    net = skb.sk.sk_net
    family = net_of(net.kernel).genl_families.get(nlh.nlmsg_type)
    if family is None:
        raise KernelError(ENOENT)
    return genl_family_rcv_msg(family, net, skb, nlh, extack)


@may_sleep
def genl_family_rcv_msg(family: GenlFamily, net: Net, skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> bool:
    """One command. Raises EINVAL, EOPNOTSUPP, EPERM."""
    if len(nlh.data) < genlmsghdr.size + family.hdrsize:
        raise KernelError(EINVAL)
    ops = next((ops for ops in family.ops if ops.cmd == nlh.data[0]), None)
    if ops is None:
        raise KernelError(EOPNOTSUPP)
    if ops.flags & GENL_ADMIN_PERM and not netlink_net_capable(skb, CAP_NET_ADMIN):
        raise KernelError(EPERM)
    if nlh.nlmsg_flags & NLM_F_DUMP == NLM_F_DUMP:
        if ops.dumpit is None:
            raise KernelError(EOPNOTSUPP)
        return __netlink_dump_start(net.genl_sock, skb, nlh, NetlinkCallback(skb, nlh, ops.dumpit))
    if ops.doit is None:
        raise KernelError(EOPNOTSUPP)
    ops.doit(skb, nlh, extack)
    return False


@may_sleep
def genl_rcv(skb: SkBuff) -> None:
    netlink_rcv_skb(skb, genl_rcv_msg)


# ---- the controller --------------------------------------------------------------------------------
def ctrl_fill_info(family: GenlFamily, portid: int, seq: int, flags: int, skb: SkBuff) -> None:
    """One family. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, GENL_ID_CTRL, genlmsghdr.pack(CTRL_CMD_NEWFAMILY, 2), flags)
    nla_put_string(skb, CTRL_ATTR_FAMILY_NAME, family.name)
    nla_put_u16(skb, CTRL_ATTR_FAMILY_ID, family.id)
    nla_put_u32(skb, CTRL_ATTR_VERSION, family.version)
    nla_put_u32(skb, CTRL_ATTR_HDRSIZE, family.hdrsize)
    nla_put_u32(skb, CTRL_ATTR_MAXATTR, family.maxattr)
    nest = nla_nest_start_noflag(skb, CTRL_ATTR_OPS)
    for number, ops in enumerate(family.ops, 1):
        op = nla_nest_start_noflag(skb, number)
        nla_put_u32(skb, CTRL_ATTR_OP_ID, ops.cmd)
        nla_put_u32(skb, CTRL_ATTR_OP_FLAGS, ops.flags | GENL_CMD_CAP_HASPOL | (GENL_CMD_CAP_DO if ops.doit else 0)
                    | (GENL_CMD_CAP_DUMP if ops.dumpit else 0))
        nla_nest_end(skb, op)
    nla_nest_end(skb, nest)
    if family.mcgrps:
        nest = nla_nest_start_noflag(skb, CTRL_ATTR_MCAST_GROUPS)
        for number, (name, group) in enumerate(family.mcgrps, 1):
            grp = nla_nest_start_noflag(skb, number)
            nla_put_u32(skb, CTRL_ATTR_MCAST_GRP_ID, group)
            nla_put_string(skb, CTRL_ATTR_MCAST_GRP_NAME, name)
            nla_nest_end(skb, grp)
        nla_nest_end(skb, nest)
    nlmsg_end(skb, start)


@may_sleep
def ctrl_getfamily(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """CTRL_CMD_GETFAMILY of one, by number or name. Raises ENOENT, EINVAL."""
    assert skb.sk is not None
    net = skb.sk.sk_net
    tb = nlmsg_parse_deprecated(nlh, genlmsghdr.size, CTRL_ATTR_MCAST_GROUPS, {
        CTRL_ATTR_FAMILY_ID: (NLA_U16, 0), CTRL_ATTR_FAMILY_NAME: (NLA_NUL_STRING, 15)}, extack)
    families = net_of(net.kernel).genl_families
    found = None
    if CTRL_ATTR_FAMILY_ID in tb:
        found = families.get(int.from_bytes(tb[CTRL_ATTR_FAMILY_ID], "little"))
    if CTRL_ATTR_FAMILY_NAME in tb:
        name = nla_str(tb[CTRL_ATTR_FAMILY_NAME])
        found = next((family for family in families.values() if family.name == name), None)
    elif CTRL_ATTR_FAMILY_ID not in tb:
        raise KernelError(EINVAL)
    if found is None:
        raise KernelError(ENOENT)
    answer = nlmsg_new(1024)
    ctrl_fill_info(found, skb.cb.portid, nlh.nlmsg_seq, 0, answer)
    netlink_unicast(net.genl_sock, answer, skb.cb.portid, 1)


def ctrl_dumpfamily(skb: SkBuff, cb: NetlinkCallback) -> int:
    """CTRL_CMD_GETFAMILY of all."""
    assert cb.skb.sk is not None
    families = net_of(cb.skb.sk.sk_net.kernel).genl_families
    return nlmsg_dump(skb, cb, sorted(families), lambda number: ctrl_fill_info(
        families[number], cb.skb.cb.portid, cb.nlh.nlmsg_seq, NLM_F_MULTI, skb))


genl_ctrl = GenlFamily(GENL_ID_CTRL, b"nlctrl", 2, CTRL_ATTR_MCAST_GROUPS,
                       (GenlOps(CTRL_CMD_GETFAMILY, ctrl_getfamily, ctrl_dumpfamily),), ((b"notify", GENL_ID_CTRL),))


@notrace
def genl_register_family(kernel: Kernel, family: GenlFamily) -> None:
    """Messages of a family are handled from now on."""
    net_of(kernel).genl_families[family.id] = family


def genl_pernet_init(net: Net) -> None:
    net.genl_sock = __netlink_kernel_create(net, NETLINK_GENERIC, NetlinkKernelCfg(
        groups=32, flags=NL_CFG_F_NONROOT_RECV, input=genl_rcv))


def genl_pernet_exit(net: Net) -> None:
    netlink_kernel_release(net.genl_sock)
    net.genl_sock = None


def genl_init(kernel: Kernel) -> None:
    genl_register_family(kernel, genl_ctrl)
    register_pernet_subsys(kernel, PernetOperations(genl_pernet_init, genl_pernet_exit))
