"""Which contexts may a user get?

Linux: security_get_user_sids() of security/selinux/ss/services.c, mls_setup_user_range() of mls.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.security.selinux.av_permissions import PROCESS__TRANSITION
from glasskernel.security.selinux.flask import SECCLASS_PROCESS
from glasskernel.security.selinux.ss.context import NO_RANGE, Context, MlsLevel, MlsRange, mls_level_dom
from glasskernel.security.selinux.ss.ebitmap import ebitmap_for_each_positive_bit
from glasskernel.security.selinux.ss.isvalid import policydb_context_isvalid
from glasskernel.security.selinux.ss.services import context_of, security_compute_av
from glasskernel.security.selinux.ss.sidtab import sidtab_context_to_sid

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policydb import PolicyDb
    from glasskernel.security.selinux.ss.symtab import UserDatum
    from glasskernel.security.selinux.types import SelinuxState


@notrace
def mls_level_between(l1: MlsLevel, l2: MlsLevel, l3: MlsLevel) -> bool:
    """l2 <= l1 <= l3"""
    return mls_level_dom(l1, l2) and mls_level_dom(l3, l1)


def mls_setup_user_range(p: PolicyDb, fromcon: Context, user: UserDatum) -> MlsRange | None:
    """The range of a session that a program of fromcon starts for a user; None: there is none."""
    if not p.mls_enabled:
        return NO_RANGE
    fromcon_sen, fromcon_clr = fromcon.range
    user_low, user_clr = user.range
    if mls_level_between(user.dfltlevel, fromcon_sen, fromcon_clr):
        low = user.dfltlevel
    elif mls_level_between(fromcon_sen, user.dfltlevel, user_clr):
        low = fromcon_sen
    elif mls_level_between(fromcon_clr, user_low, user.dfltlevel):
        low = user_low
    else:
        return None
    if mls_level_dom(user_clr, fromcon_clr):
        return MlsRange(low, fromcon_clr)
    return MlsRange(low, user_clr) if mls_level_dom(fromcon_clr, user_clr) else None


@may_sleep
def security_get_user_sids(state: SelinuxState, fromsid: int, username: bytes) -> list[int]:
    """The SIDs of a user to which fromsid may change. Raises EINVAL."""
    if not state.initialized:
        return []
    p = state.ss.policydb
    fromcon = context_of(state, fromsid, "security_get_user_sids")
    user = p.p_users.table.get(username)
    if user is None:
        raise KernelError(EINVAL)
    range = mls_setup_user_range(p, fromcon, user)
    sids = []
    if range is not None:
        for role_bit in ebitmap_for_each_positive_bit(user.roles):
            role = p.role_val_to_struct[role_bit + 1] if role_bit < p.p_roles.nprim else None
            for type_bit in ebitmap_for_each_positive_bit(role.types if role is not None else 0):
                context = Context(user.value, role_bit + 1, type_bit + 1, range)
                if policydb_context_isvalid(p, context):
                    sids.append(sidtab_context_to_sid(state.ss.sidtab, context))
    found = []
    for sid in sids:
        if security_compute_av(state, fromsid, sid, SECCLASS_PROCESS).allowed & PROCESS__TRANSITION:
            found.append(sid)
        cond_resched()
    return found
