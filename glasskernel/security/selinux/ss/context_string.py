"""Contexts and their text, `user:role:type[:range]`.

Linux: context_struct_to_string(), string_to_context_struct() of security/selinux/ss/services.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.security.selinux.ss.context import NO_RANGE, Context
from glasskernel.security.selinux.ss.isvalid import policydb_context_isvalid
from glasskernel.security.selinux.ss.mls import mls_context_to_sid, mls_sid_to_context
from glasskernel.security.selinux.ss.symtab import SYM_ROLES, SYM_TYPES, SYM_USERS

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.context import MlsRange
    from glasskernel.security.selinux.ss.policydb import PolicyDb


def context_struct_to_string(p: PolicyDb, context: Context | bytes) -> bytes:
    """The text of a context; one that the policy does not know is its text."""
    if isinstance(context, bytes):
        return context
    names = p.sym_val_to_name
    return b"%s:%s:%s%s" % (names[SYM_USERS][context.user], names[SYM_ROLES][context.role],
                            names[SYM_TYPES][context.type], mls_sid_to_context(p, context))


def string_to_context_struct(pol: PolicyDb, scontext: bytes, default: MlsRange | None) -> Context:
    """The context of a text. default: the range where the text has none (None: that is an error). Raises EINVAL."""
    user_name, first, rest = scontext.partition(b":")
    role_name, second, rest = rest.partition(b":")
    type_name, third, mls = rest.partition(b":")
    user = pol.p_users.table.get(user_name)
    role = pol.p_roles.table.get(role_name)
    type = pol.p_types.table.get(type_name)
    if not first or not second or user is None or role is None or type is None or type.attribute:
        raise KernelError(EINVAL)
    context = Context(user.value, role.value, type.value, NO_RANGE)
    context = context._replace(range=mls_context_to_sid(pol, mls if third else None, default))
    if not policydb_context_isvalid(pol, context):
        raise KernelError(EINVAL)
    return context
