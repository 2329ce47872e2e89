"""Labels of ports, addresses and network interfaces, as the policy says.

Linux: security_port_sid(), security_node_sid(), security_sid_mls_copy() of security/selinux/ss/services.c (5.3). Same:
    the first entry that fits decides; what the policy does not name has an initial SID. Differs: no caches in front
    (netport.c, netnode.c), as an entry is found without a lock. Gaps: InfiniBand, labels of packets of an interface.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EACCES, KernelError
from glasskernel.security.selinux.flask import SECINITSID_NODE, SECINITSID_PORT
from glasskernel.security.selinux.ss.compute import selinux_err
from glasskernel.security.selinux.ss.context_string import context_struct_to_string
from glasskernel.security.selinux.ss.isvalid import policydb_context_isvalid
from glasskernel.security.selinux.ss.ocontext import OCON_NODE, OCON_NODE6, OCON_PORT
from glasskernel.security.selinux.ss.services import context_of
from glasskernel.security.selinux.ss.sidtab import sidtab_context_to_sid

if TYPE_CHECKING:
    from glasskernel.security.selinux.types import SelinuxState


def security_port_sid(state: SelinuxState, protocol: int, port: int) -> int:
    """The SID of a port (IPPROTO_*)."""
    ss = state.ss
    for c in ss.policydb.ocontexts[OCON_PORT]:
        if c.protocol == protocol and c.low <= port <= c.high:
            return sidtab_context_to_sid(ss.sidtab, c.context[0])
    return SECINITSID_PORT


def security_node_sid(state: SelinuxState, addr: bytes) -> int:
    """The SID of an address, 4 or 16 bytes in network order."""
    ss = state.ss
    address = int.from_bytes(addr, "big")
    for c in ss.policydb.ocontexts[OCON_NODE if len(addr) == 4 else OCON_NODE6]:
        if address & int.from_bytes(c.mask, "big") == int.from_bytes(c.addr, "big"):
            return sidtab_context_to_sid(ss.sidtab, c.context[0])
    return SECINITSID_NODE


def security_sid_mls_copy(state: SelinuxState, sid: int, mls_sid: int) -> int:
    """The SID of sid's context with mls_sid's range. Raises EINVAL, EACCES: there is no such context (if enforcing)."""
    ss = state.ss
    if not state.initialized or not ss.policydb.mls_enabled:
        return sid
    context = context_of(state, sid, "security_sid_mls_copy")
    newcon = context._replace(range=context_of(state, mls_sid, "security_sid_mls_copy").range)
    if not policydb_context_isvalid(ss.policydb, newcon):
        selinux_err(ss.policydb, b"op=security_sid_mls_copy invalid_context=%s"
                    % context_struct_to_string(ss.policydb, newcon))
        if state.enforcing:
            raise KernelError(EACCES)
    return sidtab_context_to_sid(ss.sidtab, newcon)
