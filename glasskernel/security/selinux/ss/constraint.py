"""Constraints: conditions on two contexts that a permission needs whatever the rules say.

Linux: security/selinux/ss/constraint.h, constraint_expr_eval() of services.c (5.3). Same: expressions in reverse Polish
    notation on a stack of five.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.ss.context import Context, mls_level_dom

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policydb import PolicyDb

CEXPR_MAXDEPTH = 5

# ConstraintExpr.expr_type
CEXPR_NOT, CEXPR_AND, CEXPR_OR, CEXPR_ATTR, CEXPR_NAMES = 1, 2, 3, 4, 5
# ConstraintExpr.attr
CEXPR_USER = 1
CEXPR_ROLE = 2
CEXPR_TYPE = 4
CEXPR_TARGET = 8                    # of the target; else of the source
CEXPR_XTARGET = 16                  # of the task that relabels (validatetrans)
CEXPR_L1L2 = 32
CEXPR_L1H2 = 64
CEXPR_H1L2 = 128
CEXPR_H1H2 = 256
CEXPR_L1H1 = 512
CEXPR_L2H2 = 1024
# ConstraintExpr.op
CEXPR_EQ, CEXPR_NEQ, CEXPR_DOM, CEXPR_DOMBY, CEXPR_INCOMP = 1, 2, 3, 4, 5


class TypeSet(NamedTuple):
    """struct type_set: the names as the policy's author wrote them; the kernel only keeps them"""
    types: int
    negset: int
    flags: int


class ConstraintExpr(NamedTuple):
    """struct constraint_expr"""
    expr_type: int
    attr: int
    op: int
    names: int                      # ebitmap
    type_names: TypeSet | None


@slotted
class ConstraintNode:
    """struct constraint_node"""
    permissions: int                # 0 of a validatetrans
    expr: list[ConstraintExpr]


@notrace
def _compare_mls(attr: int, op: int, scontext: Context, tcontext: Context) -> bool:
    """One comparison of levels."""
    source, target = scontext.range, tcontext.range
    if attr == CEXPR_L1L2:
        l1, l2 = source.low, target.low
    elif attr == CEXPR_L1H2:
        l1, l2 = source.low, target.high
    elif attr == CEXPR_H1L2:
        l1, l2 = source.high, target.low
    elif attr == CEXPR_H1H2:
        l1, l2 = source.high, target.high
    elif attr == CEXPR_L1H1:
        l1, l2 = source.low, source.high
    else:
        l1, l2 = target.low, target.high
    if op == CEXPR_EQ:
        return l1 == l2
    if op == CEXPR_NEQ:
        return l1 != l2
    if op == CEXPR_DOM:
        return mls_level_dom(l1, l2)
    if op == CEXPR_DOMBY:
        return mls_level_dom(l2, l1)
    return not mls_level_dom(l1, l2) and not mls_level_dom(l2, l1)


@notrace
def _compare(p: PolicyDb, e: ConstraintExpr, scontext: Context, tcontext: Context) -> bool:
    """One comparison of two users, roles, types or levels."""
    if e.attr == CEXPR_USER:
        val1, val2 = scontext.user, tcontext.user
    elif e.attr == CEXPR_TYPE:
        val1, val2 = scontext.type, tcontext.type
    elif e.attr == CEXPR_ROLE:
        val1, val2 = scontext.role, tcontext.role
        if e.op not in (CEXPR_EQ, CEXPR_NEQ):
            r1, r2 = p.role_val_to_struct[val1], p.role_val_to_struct[val2]
            dom = r1 is not None and bool(r1.dominates >> val2 - 1 & 1)
            domby = r2 is not None and bool(r2.dominates >> val1 - 1 & 1)
            if e.op == CEXPR_DOM:
                return dom
            return domby if e.op == CEXPR_DOMBY else not dom and not domby
    else:
        return _compare_mls(e.attr, e.op, scontext, tcontext)
    return val1 == val2 if e.op == CEXPR_EQ else val1 != val2


@notrace
def _is_named(e: ConstraintExpr, scontext: Context, tcontext: Context, xcontext: Context | None) -> bool:
    """Is the user, role or type one of a set?"""
    context: Context | None = scontext
    if e.attr & CEXPR_TARGET:
        context = tcontext
    elif e.attr & CEXPR_XTARGET:
        context = xcontext
    assert context is not None      # policydb_read() refuses CEXPR_XTARGET in a constraint
    if e.attr & CEXPR_USER:
        value = context.user
    else:
        value = context.role if e.attr & CEXPR_ROLE else context.type
    return bool(e.names >> value - 1 & 1) == (e.op == CEXPR_EQ)


def constraint_expr_eval(policydb: PolicyDb, scontext: Context, tcontext: Context, xcontext: Context | None,
                         cexpr: list[ConstraintExpr]) -> bool:
    """Does the condition hold? xcontext: of the task, in a validatetrans."""
    stack: list[bool] = []
    for e in cexpr:
        if e.expr_type == CEXPR_NOT:
            stack[-1] = not stack[-1]
        elif e.expr_type == CEXPR_AND:
            second = stack.pop()
            stack[-1] = stack[-1] and second
        elif e.expr_type == CEXPR_OR:
            second = stack.pop()
            stack[-1] = stack[-1] or second
        elif e.expr_type == CEXPR_ATTR:
            stack.append(_compare(policydb, e, scontext, tcontext))
        else:
            stack.append(_is_named(e, scontext, tcontext, xcontext))
    return stack[0]
