"""Which messages to the kernel read, and which change something.

Linux: security/selinux/nlmsgtab.c (5.3). Same: numbers and verdicts, also where they surprise. Owns: nothing.
Gaps: NETLINK_XFRM and NETLINK_AUDIT: this kernel has neither.
"""
from __future__ import annotations

from glasskernel.lib.errno import EINVAL, ENOENT, KernelError
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.av_permissions import (
    NETLINK_ROUTE_SOCKET__NLMSG_READ,
    NETLINK_ROUTE_SOCKET__NLMSG_WRITE,
)
from glasskernel.security.selinux.flask import SECCLASS_NETLINK_ROUTE_SOCKET, SECCLASS_NETLINK_TCPDIAG_SOCKET

_READ, _WRITE = NETLINK_ROUTE_SOCKET__NLMSG_READ, NETLINK_ROUTE_SOCKET__NLMSG_WRITE
# RTM_NEWx, RTM_DELx and RTM_GETx of what has all three, by the number of the first.
_FAMILIES = (16, 20, 24, 28, 32, 36, 40, 44, 48, 72, 84, 100, 104)
nlmsg_route_perms = {first + n: perm for first in _FAMILIES for n, perm in enumerate((_WRITE, _WRITE, _READ))} | {
    19: _WRITE,                        # RTM_SETLINK
    52: _WRITE,                        # RTM_NEWPREFIX
    58: _READ, 62: _READ,              # RTM_GETMULTICAST, RTM_GETANYCAST
    66: _READ, 67: _WRITE,             # RTM_GETNEIGHTBL, RTM_SETNEIGHTBL
    78: _READ, 79: _WRITE,             # RTM_GETDCB, RTM_SETDCB
    80: _WRITE, 81: _READ, 82: _READ,  # RTM_NEWNETCONF, RTM_DELNETCONF, RTM_GETNETCONF
    88: _WRITE, 89: _READ, 90: _READ,  # RTM_NEWNSID, RTM_DELNSID, RTM_GETNSID
    92: _READ, 94: _READ, 96: _READ,   # RTM_NEWSTATS, RTM_GETSTATS, RTM_NEWCACHEREPORT
}
nlmsg_tcpdiag_perms = {
    18: _READ, 19: _READ, 20: _READ,   # TCPDIAG_GETSOCK, DCCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY
    21: _WRITE,                        # SOCK_DESTROY
}
_TABLES = {SECCLASS_NETLINK_ROUTE_SOCKET: nlmsg_route_perms, SECCLASS_NETLINK_TCPDIAG_SOCKET: nlmsg_tcpdiag_perms}


@notrace
def nlmsg_perm(nlmsg_type: int, table: dict[int, int]) -> int:
    """Raises EINVAL for a message that is not in the table."""
    perm = table.get(nlmsg_type)
    if perm is None:
        raise KernelError(EINVAL)
    return perm


def selinux_nlmsg_lookup(sclass: int, nlmsg_type: int) -> int:
    """The permission that a message needs. Raises ENOENT (messages of this class need none), EINVAL (unknown)."""
    table = _TABLES.get(sclass)
    if table is None:
        raise KernelError(ENOENT)
    return nlmsg_perm(nlmsg_type, table)
