"""Links over netlink: changing, adding and deleting them.

Linux: net/core/rtnetlink.c (5.3). Same: which attribute changes what, in which order; errors and their texts. A kind of
    virtual device is a RtnlLinkOps; drivers that nobody needed yet are found as rtnl-link-KIND.
Owns: NetState.link_ops.
Gaps: masters (bridge, bond), VF attributes, IFLA_TARGET_NETNSID, IFLA_MAP.
"""
from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from glasskernel.fs.file_table import fput
from glasskernel.fs.nsfs import proc_ns_fget
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.lib.errno import EEXIST, EINVAL, ENODEV, EOPNOTSUPP, EPERM, ESRCH, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace, to_s32
from glasskernel.net.core.dev_chain import (
    __dev_get_by_index,
    __dev_get_by_name,
    call_netdevice_notifiers,
    net_of,
    netdev_state_change,
    register_netdevice_notifier,
)
from glasskernel.net.core.dev_open import (
    dev_change_flags,
    dev_change_tx_queue_len,
    dev_set_mac_address,
    dev_set_mtu,
)
from glasskernel.net.core.dev_register import (
    alloc_netdev_mqs,
    dev_change_name,
    dev_change_net_namespace,
    register_netdevice,
    unregister_netdevice,
)
from glasskernel.net.core.rtnetlink import (
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
    rtnl_register,
    sock_net,
)
from glasskernel.net.core.rtnl_ifinfo import (
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_BROADCAST,
    IFLA_CARRIER,
    IFLA_GROUP,
    IFLA_GSO_MAX_SEGS,
    IFLA_GSO_MAX_SIZE,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET_CONF,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_LINKMODE,
    IFLA_MAP,
    IFLA_MASTER,
    IFLA_MAX,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_NET_NS_PID,
    IFLA_OPERSTATE,
    IFLA_PROTO_DOWN,
    IFLA_TARGET_NETNSID,
    IFLA_TXQLEN,
    IFLA_XDP,
    IFLA_XDP_ATTACHED,
    IFLA_XDP_FD,
    IFLA_XDP_FLAGS,
    IFLA_XDP_MAX,
    IFLA_XDP_PROG_ID,
    IPV4_DEVCONF,
    ifinfomsg,
)
from glasskernel.net.core.rtnl_link import (
    ifla_policy,
    rtmsg_ifinfo,
    rtnetlink_event,
    rtnl_dump_ifinfo,
    rtnl_get_dev,
    rtnl_getlink,
)
from glasskernel.net.core.xdp import XDP_FLAGS_MASK, XDP_FLAGS_MODES
from glasskernel.net.init import task_net
from glasskernel.net.netdevice import (
    IF_OPER_DORMANT,
    IF_OPER_UNKNOWN,
    IF_OPER_UP,
    NETDEV_CHANGEADDR,
)
from glasskernel.net.netlink.nlmsg import nlmsg_parse_deprecated
from glasskernel.net.netlink.types import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from glasskernel.net.nlattr import (
    NLA_U8,
    NLA_U32,
    Attributes,
    NetlinkExtAck,
    Policy,
    nla_error,
    nla_get_u32,
    nla_parse_nested_deprecated,
    nla_str,
)
from glasskernel.net.types import AF_INET, AF_UNSPEC

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.netlink.types import Nlmsghdr
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

# kinds of devices that are built as modules: rtnl-link-KIND
LINK_MODULES = {b"dummy": ("drivers.net.dummy", "dummy_init_module"), b"veth": ("drivers.net.veth", "veth_init")}
ifla_xdp_policy: Policy = {IFLA_XDP_FD: (NLA_U32, 0), IFLA_XDP_ATTACHED: (NLA_U8, 0), IFLA_XDP_FLAGS: (NLA_U32, 0),
                           IFLA_XDP_PROG_ID: (NLA_U32, 0)}
_NOT_HERE = (IFLA_MAP, IFLA_MASTER, IFLA_CARRIER, IFLA_PROTO_DOWN, IFLA_TARGET_NETNSID)


@slotted(frozen=True)
class RtnlLinkOps:
    """struct rtnl_link_ops: a kind of virtual device. newlink(net, dev, tb, data): registers it; None:
    register_netdevice(). validate raises. dellink: None: such devices cannot be deleted."""

    kind: bytes
    setup: Callable[[NetDevice], None] | None = None
    validate: Callable[[Attributes, Attributes, NetlinkExtAck], None] | None = None
    newlink: Callable[[Net, NetDevice, Attributes, Attributes, NetlinkExtAck], None] | None = None
    dellink: Callable[[NetDevice], None] | None = None
    fill_info: Callable[[SkBuff, NetDevice], None] | None = None


def rtnl_link_register(kernel: Kernel, ops: RtnlLinkOps) -> None:
    """Devices of a kind can be made from now on. Raises EEXIST."""
    kinds = net_of(kernel).link_ops
    if ops.kind in kinds:
        raise KernelError(EEXIST)
    kinds[ops.kind] = ops


def rtnl_link_ops_get(kernel: Kernel, kind: bytes) -> RtnlLinkOps | None:
    """A kind; its module is loaded if need be (request_module("rtnl-link-KIND"))."""
    kinds = net_of(kernel).link_ops
    if kind not in kinds and kind in LINK_MODULES:
        module, name = LINK_MODULES[kind]
        getattr(import_module(f"glasskernel.{module}"), name)(kernel)
    ops: RtnlLinkOps | None = kinds.get(kind)
    return ops


# ---- changing --------------------------------------------------------------------------------------
def set_operstate(dev: NetDevice, transition: int) -> None:
    """IFLA_OPERSTATE: what user space says of a dormant link."""
    operstate = dev.operstate
    if transition == IF_OPER_UP:
        if operstate in (IF_OPER_DORMANT, IF_OPER_UNKNOWN):
            operstate = IF_OPER_UP
    elif transition == IF_OPER_DORMANT and operstate in (IF_OPER_UP, IF_OPER_UNKNOWN):
        operstate = IF_OPER_DORMANT
    if dev.operstate != operstate:
        dev.operstate = operstate
        netdev_state_change(dev)


def inet_set_link_af(dev: NetDevice, spec: bytes) -> None:
    """IFLA_AF_SPEC of AF_INET: entries of the device's conf. Raises EINVAL."""
    conf = nla_parse_nested_deprecated(spec, IFLA_INET_CONF).get(IFLA_INET_CONF)
    if conf is None or dev.ip_ptr is None:
        return
    for number, value in nla_parse_nested_deprecated(conf, len(IPV4_DEVCONF)).items():
        dev.ip_ptr.cnf[IPV4_DEVCONF[number - 1]] = nla_get_u32(value)


@notrace
def validate_linkmsg(dev: NetDevice | None, tb: Attributes) -> None:
    if dev is not None and any(len(tb[kind]) < dev.addr_len for kind in (IFLA_ADDRESS, IFLA_BROADCAST) if kind in tb):
        raise KernelError(EINVAL)


@notrace
def rtnl_dev_combine_flags(dev: NetDevice, flags: int, change: int) -> int:
    return flags & change | dev.flags & ~change if change else flags


def get_net_ns_by_pid(kernel: Kernel, pid: int) -> Net:
    """The namespace of a process. Raises ESRCH. (net/core/net_namespace.c)"""
    task = find_task_by_vpid(pid)
    if task is None or task.nsproxy is None:
        raise KernelError(ESRCH)
    return task_net(task)


def get_net_ns_by_fd(kernel: Kernel, fd: int) -> Net:
    """The namespace whose file this is. Raises EBADF, EINVAL. (net/core/net_namespace.c)"""
    file = proc_ns_fget(fd)
    common = file.f_inode.i_private
    fput(file)
    if common.ops.name != b"net":
        raise KernelError(EINVAL)
    net: Net | None = common.ns
    return net if net is not None else net_of(kernel).init_net


def rtnl_link_get_net(net: Net, tb: Attributes) -> Net:
    """The namespace that a request names; else its own. Raises ESRCH, EBADF, EINVAL."""
    if IFLA_NET_NS_PID in tb:
        return get_net_ns_by_pid(net.kernel, nla_get_u32(tb[IFLA_NET_NS_PID]))
    if IFLA_NET_NS_FD in tb:
        return get_net_ns_by_fd(net.kernel, nla_get_u32(tb[IFLA_NET_NS_FD]))
    return net


@may_sleep
def do_setlink(dev: NetDevice, ifm: tuple[int, ...], extack: NetlinkExtAck, tb: Attributes) -> None:
    """Changes a device as a message says. Raises EOPNOTSUPP, EINVAL, and what the changes raise. Locks: rtnl."""
    _family, _type, index, flags, change = ifm
    if any(kind in tb for kind in _NOT_HERE):
        raise KernelError(EOPNOTSUPP)
    if IFLA_NET_NS_PID in tb or IFLA_NET_NS_FD in tb:
        name = nla_str(tb[IFLA_IFNAME]) if IFLA_IFNAME in tb else b""
        dev_change_net_namespace(dev, rtnl_link_get_net(dev.net, tb), name)
    if IFLA_ADDRESS in tb:
        dev_set_mac_address(dev, dev.type, tb[IFLA_ADDRESS][: dev.addr_len])
    if IFLA_MTU in tb:
        _set_mtu(dev, nla_get_u32(tb[IFLA_MTU]), extack)
    if IFLA_GROUP in tb:
        dev.group = nla_get_u32(tb[IFLA_GROUP])
    if index > 0 and IFLA_IFNAME in tb and nla_str(tb[IFLA_IFNAME]):
        dev_change_name(dev, nla_str(tb[IFLA_IFNAME]))
    changed = False
    if IFLA_IFALIAS in tb:
        dev.ifalias = nla_str(tb[IFLA_IFALIAS])
        changed = True
    if IFLA_BROADCAST in tb:
        dev.broadcast = tb[IFLA_BROADCAST][: dev.addr_len]
        call_netdevice_notifiers(NETDEV_CHANGEADDR, dev)
    if flags or change:
        dev_change_flags(dev, rtnl_dev_combine_flags(dev, flags, change))
    if IFLA_TXQLEN in tb:
        dev_change_tx_queue_len(dev, nla_get_u32(tb[IFLA_TXQLEN]))
        changed = True
    if IFLA_GSO_MAX_SIZE in tb:
        if nla_get_u32(tb[IFLA_GSO_MAX_SIZE]) > 65536:
            raise KernelError(EINVAL)
        dev.gso_max_size = nla_get_u32(tb[IFLA_GSO_MAX_SIZE])
    if IFLA_GSO_MAX_SEGS in tb:
        if nla_get_u32(tb[IFLA_GSO_MAX_SEGS]) > 65535:
            raise KernelError(EINVAL)
        dev.gso_max_segs = nla_get_u32(tb[IFLA_GSO_MAX_SEGS])
    if IFLA_OPERSTATE in tb:
        set_operstate(dev, tb[IFLA_OPERSTATE][0])
    if IFLA_LINKMODE in tb:
        dev.link_mode = tb[IFLA_LINKMODE][0]
        changed = True
    if IFLA_AF_SPEC in tb:
        inet = nla_parse_nested_deprecated(tb[IFLA_AF_SPEC], AF_INET).get(AF_INET)
        if inet is not None:
            inet_set_link_af(dev, inet)
    if IFLA_XDP in tb and _set_xdp(dev, tb[IFLA_XDP], extack):
        changed = True
    if changed:
        netdev_state_change(dev)


@notrace
def _set_xdp(dev: NetDevice, nested: bytes, extack: NetlinkExtAck) -> bool:
    """IFLA_XDP: attaches a program. Raises EINVAL, and what dev_change_xdp_fd() raises. True: something changed."""
    from glasskernel.net.core.dev_xdp import dev_change_xdp_fd  # BPF is imported by the first who wants it

    xdp = nla_parse_nested_deprecated(nested, IFLA_XDP_MAX, ifla_xdp_policy)
    flags = nla_get_u32(xdp[IFLA_XDP_FLAGS]) if IFLA_XDP_FLAGS in xdp else 0
    if (IFLA_XDP_ATTACHED in xdp or IFLA_XDP_PROG_ID in xdp or flags & ~XDP_FLAGS_MASK
            or (flags & XDP_FLAGS_MODES).bit_count() > 1):
        raise KernelError(EINVAL)
    if IFLA_XDP_FD not in xdp:
        return False
    dev_change_xdp_fd(dev, extack, to_s32(nla_get_u32(xdp[IFLA_XDP_FD])), flags)
    return True


@notrace
def _set_mtu(dev: NetDevice, mtu: int, extack: NetlinkExtAck) -> None:
    """dev_set_mtu_ext()"""
    if mtu < dev.min_mtu:
        raise nla_error(EINVAL, extack, b"mtu less than device minimum")
    if dev.max_mtu and mtu > dev.max_mtu:
        raise nla_error(EINVAL, extack, b"mtu greater than device maximum")
    dev_set_mtu(dev, mtu)


@may_sleep
def rtnl_setlink(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_SETLINK. Raises ENODEV, EINVAL, and what do_setlink() raises."""
    tb = nlmsg_parse_deprecated(nlh, ifinfomsg.size, IFLA_MAX, ifla_policy, extack)
    ifm = ifinfomsg.unpack_from(nlh.data)
    dev = rtnl_get_dev(sock_net(skb), ifm[2], tb)
    if dev is None:
        raise KernelError(ENODEV)
    validate_linkmsg(dev, tb)
    do_setlink(dev, ifm, extack, tb)


# ---- adding and deleting ---------------------------------------------------------------------------
def rtnl_group_changelink(net: Net, group: int, ifm: tuple[int, ...], extack: NetlinkExtAck, tb: Attributes) -> None:
    """ip link set group N: all its devices. Raises what the first one that cannot raises."""
    for dev in list(net.dev_by_index.values()):
        if dev.group == group:
            do_setlink(dev, ifm, extack, tb)


def rtnl_create_link(net: Net, ifname: bytes, ops: RtnlLinkOps, tb: Attributes) -> NetDevice:
    """A device of a kind, with what the message says of it, not registered yet."""
    assert ops.setup is not None
    dev = alloc_netdev_mqs(net, ifname, ops.setup)
    dev.rtnl_link_ops = ops
    if IFLA_MTU in tb:
        dev.mtu = nla_get_u32(tb[IFLA_MTU])
    if IFLA_ADDRESS in tb:
        dev.dev_addr = tb[IFLA_ADDRESS][: dev.addr_len]
        dev.addr_assign_type = 3         # NET_ADDR_SET
    if IFLA_BROADCAST in tb:
        dev.broadcast = tb[IFLA_BROADCAST][: dev.addr_len]
    if IFLA_TXQLEN in tb:
        dev.tx_queue_len = nla_get_u32(tb[IFLA_TXQLEN])
    if IFLA_OPERSTATE in tb:
        set_operstate(dev, tb[IFLA_OPERSTATE][0])
    if IFLA_LINKMODE in tb:
        dev.link_mode = tb[IFLA_LINKMODE][0]
    if IFLA_GROUP in tb:
        dev.group = nla_get_u32(tb[IFLA_GROUP])
    return dev


def rtnl_configure_link(dev: NetDevice, flags: int, change: int) -> None:
    """The new device's flags."""
    if flags or change:
        dev_change_flags(dev, rtnl_dev_combine_flags(dev, flags, change))


@may_sleep
def rtnl_newlink(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_NEWLINK: changes a device that exists, or makes one. Raises EEXIST, ENODEV, EOPNOTSUPP, EINVAL ..."""
    __rtnl_newlink(skb, nlh, extack)


@may_sleep
def __rtnl_newlink(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    net = sock_net(skb)
    tb = nlmsg_parse_deprecated(nlh, ifinfomsg.size, IFLA_MAX, ifla_policy, extack)
    ifm = ifinfomsg.unpack_from(nlh.data)
    _family, _type, index, flags, change = ifm
    ifname = nla_str(tb[IFLA_IFNAME]) if IFLA_IFNAME in tb else b""
    dev = __dev_get_by_index(net, index) if index > 0 else __dev_get_by_name(net, ifname) if ifname else None
    validate_linkmsg(dev, tb)
    linkinfo = nla_parse_nested_deprecated(tb[IFLA_LINKINFO], 5) if IFLA_LINKINFO in tb else {}
    kind = nla_str(linkinfo[IFLA_INFO_KIND]) if IFLA_INFO_KIND in linkinfo else b""
    ops = rtnl_link_ops_get(net.kernel, kind) if kind else None
    data = nla_parse_nested_deprecated(linkinfo[IFLA_INFO_DATA], 64) if IFLA_INFO_DATA in linkinfo else {}
    if ops is not None and ops.validate is not None:
        ops.validate(tb, data, extack)
    if dev is not None:
        if nlh.nlmsg_flags & NLM_F_EXCL:
            raise KernelError(EEXIST)
        if nlh.nlmsg_flags & NLM_F_REPLACE:
            raise KernelError(EOPNOTSUPP)
        if IFLA_INFO_DATA in linkinfo:
            raise KernelError(EOPNOTSUPP)            # no kind can be changed
        do_setlink(dev, ifm, extack, tb)
        return
    if not nlh.nlmsg_flags & NLM_F_CREATE:
        if not index and IFLA_GROUP in tb:
            rtnl_group_changelink(net, nla_get_u32(tb[IFLA_GROUP]), ifm, extack, tb)
            return
        raise KernelError(ENODEV)
    if IFLA_MAP in tb or IFLA_PROTO_DOWN in tb:
        raise KernelError(EOPNOTSUPP)
    if ops is None:
        raise nla_error(EOPNOTSUPP, extack, b"Unknown device type")
    if ops.setup is None:
        raise KernelError(EOPNOTSUPP)
    net = rtnl_link_get_net(net, tb)
    dev = rtnl_create_link(net, ifname or kind + b"%d", ops, tb)
    dev.ifindex = index
    if ops.newlink is not None:
        ops.newlink(net, dev, tb, data, extack)
    else:
        register_netdevice(dev)
    rtnl_configure_link(dev, flags, change)


@may_sleep
def rtnl_delete_link(dev: NetDevice) -> None:
    """Raises EOPNOTSUPP for a device that is not of a deletable kind."""
    ops = dev.rtnl_link_ops
    if ops is None:
        raise KernelError(EOPNOTSUPP)
    if ops.dellink is not None:
        ops.dellink(dev)
    else:
        unregister_netdevice(dev)


@may_sleep
def rtnl_dellink(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_DELLINK. Raises ENODEV, EINVAL, EOPNOTSUPP."""
    net = sock_net(skb)
    tb = nlmsg_parse_deprecated(nlh, ifinfomsg.size, IFLA_MAX, ifla_policy, extack)
    index = ifinfomsg.unpack_from(nlh.data)[2]
    if index <= 0 and IFLA_IFNAME not in tb and IFLA_GROUP in tb:
        rtnl_group_dellink(net, nla_get_u32(tb[IFLA_GROUP]))
        return
    dev = rtnl_get_dev(net, index, tb)
    if dev is None:
        raise KernelError(ENODEV)
    rtnl_delete_link(dev)


def rtnl_group_dellink(net: Net, group: int) -> None:
    """All devices of a group, or none. Raises EPERM, EOPNOTSUPP, ENODEV."""
    if not group:
        raise KernelError(EPERM)
    devices = [dev for dev in net.dev_by_index.values() if dev.group == group]
    if any(dev.rtnl_link_ops is None for dev in devices):
        raise KernelError(EOPNOTSUPP)
    if not devices:
        raise KernelError(ENODEV)
    for dev in devices:
        rtnl_delete_link(dev)


def rtnl_link_init(kernel: Kernel) -> None:
    """The handlers, and notifications of what happens to devices."""
    net_of(kernel).rtmsg_ifinfo = rtmsg_ifinfo
    register_netdevice_notifier(kernel, rtnetlink_event)
    rtnl_register(kernel, AF_UNSPEC, RTM_GETLINK, rtnl_getlink, rtnl_dump_ifinfo)
    rtnl_register(kernel, AF_UNSPEC, RTM_SETLINK, rtnl_setlink, None)
    rtnl_register(kernel, AF_UNSPEC, RTM_NEWLINK, rtnl_newlink, None)
    rtnl_register(kernel, AF_UNSPEC, RTM_DELLINK, rtnl_dellink, None)
