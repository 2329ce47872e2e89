"""Does a policy have it? Values of symbols, and contexts made of them.

Linux: policydb_class_isvalid() ... policydb_context_isvalid() of security/selinux/ss/policydb.c (5.3). Differs: a type
    that has a value but no name (an attribute, before version 24) makes no context; Linux would print a NULL.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.security.selinux.ss.mls import mls_context_isvalid
from glasskernel.security.selinux.ss.symtab import OBJECT_R_VAL

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.context import Context
    from glasskernel.security.selinux.ss.policydb import PolicyDb


def policydb_class_isvalid(p: PolicyDb, value: int) -> bool:
    return 0 < value <= p.p_classes.nprim


def policydb_role_isvalid(p: PolicyDb, value: int) -> bool:
    return 0 < value <= p.p_roles.nprim


def policydb_type_isvalid(p: PolicyDb, value: int) -> bool:
    return 0 < value <= p.p_types.nprim


def policydb_context_isvalid(p: PolicyDb, c: Context) -> bool:
    """May this user have this role, the role this type, and the user this range?"""
    if not (0 < c.role <= p.p_roles.nprim and 0 < c.user <= p.p_users.nprim and 0 < c.type <= p.p_types.nprim):
        return False
    role, user = p.role_val_to_struct[c.role], p.user_val_to_struct[c.user]
    if role is None or user is None or p.type_val_to_struct[c.type] is None:
        return False
    if c.role != OBJECT_R_VAL and not (role.types >> c.type - 1 & 1 and user.roles >> c.role - 1 & 1):
        return False
    return mls_context_isvalid(p, c)
