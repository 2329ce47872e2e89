"""Messages to programs that keep decisions of their own (dbus-daemon, systemd): the mode or the policy has changed.

Linux: security/selinux/netlink.c (5.3). Same: group 1 of NETLINK_SELINUX, anybody may listen. Differs: the socket is
    made when the first program opens one of this protocol; earlier messages reach nobody in any case.
Owns: SelinuxState.selnl.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.netlink.af_netlink import __netlink_kernel_create
from glasskernel.net.netlink.delivery import netlink_broadcast
from glasskernel.net.netlink.nlmsg import nlmsg_new, nlmsg_put
from glasskernel.net.netlink.types import (
    NETLINK_SELINUX,
    NL_CFG_F_NONROOT_RECV,
    NetlinkKernelCfg,
    NetlinkSkbParms,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.security.selinux.types import SelinuxState

SELNL_MSG_SETENFORCE = 0x10             # struct selnl_msg_setenforce: __s32 val
SELNL_MSG_POLICYLOAD = 0x11             # struct selnl_msg_policyload: __u32 seqno
SELNLGRP_AVC = 1


def selnl_notify(state: SelinuxState, msgtype: int, value: int) -> None:
    """Tells the listeners. Context: task."""
    skb = nlmsg_new(4)
    nlmsg_put(skb, 0, 0, msgtype, value.to_bytes(4, "little"), 0)
    skb.cb = NetlinkSkbParms(dst_group=SELNLGRP_AVC)
    with suppress(KernelError):             # nobody listens
        netlink_broadcast(state.selnl, skb, 0, SELNLGRP_AVC)


def selnl_notify_setenforce(state: SelinuxState, val: int) -> None:
    selnl_notify(state, SELNL_MSG_SETENFORCE, val)


def selnl_notify_policyload(state: SelinuxState, seqno: int) -> None:
    selnl_notify(state, SELNL_MSG_POLICYLOAD, seqno)


@notrace
def selnl_init(kernel: Kernel) -> None:
    """Makes the socket. Context: task, at the first socket of the protocol."""
    state = kernel.selinux
    if state is None:
        return
    state.selnl = __netlink_kernel_create(net_of(kernel).init_net, NETLINK_SELINUX, NetlinkKernelCfg(
        groups=SELNLGRP_AVC, flags=NL_CFG_F_NONROOT_RECV))
    state.avc_ss_reset.append(selnl_notify_policyload)
    state.setenforce.append(selnl_notify_setenforce)
