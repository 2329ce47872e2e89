"""Conditional rules: rules that hold while an expression of booleans is true, others while it is false.

Linux: security/selinux/ss/conditional.c (5.3). Same: expressions in reverse Polish notation on a stack of ten, -1 where
    an expression has no value (all its rules are off), conflicts of type rules. A rule that holds has AVTAB_ENABLED.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.kernel.printk import printk
from glasskernel.lib.slotted import slotted
from glasskernel.security.selinux.ss.avtab import (
    AVTAB_ENABLED,
    AVTAB_TYPE,
    AvtabNode,
    avtab_insert_nonunique,
    avtab_read_item,
    avtab_search_node,
    avtab_write_item,
)

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policydb import PolicyDb
    from glasskernel.security.selinux.ss.policyfile import PolicyFile

COND_EXPR_MAXDEPTH = 10
COND_BOOL, COND_NOT, COND_OR, COND_AND, COND_XOR, COND_EQ, COND_NEQ = 1, 2, 3, 4, 5, 6, 7
COND_LAST = COND_NEQ


class CondExpr(NamedTuple):
    """struct cond_expr"""
    expr_type: int
    bool: int


@slotted
class CondNode:
    """struct cond_node"""
    cur_state: int                  # 1, 0, or -1
    expr: list[CondExpr]
    true_list: list[AvtabNode]
    false_list: list[AvtabNode]


def cond_evaluate_expr(p: PolicyDb, expr: list[CondExpr]) -> int:
    """1, 0, or -1 if the expression has no value."""
    stack: list[bool] = []
    for cur in expr:
        if cur.expr_type == COND_BOOL:
            if len(stack) == COND_EXPR_MAXDEPTH:
                return -1
            stack.append(p.bool_val_to_struct[cur.bool].state)
            continue
        if len(stack) < (1 if cur.expr_type == COND_NOT else 2):
            return -1
        last = stack.pop()
        if cur.expr_type == COND_NOT:
            stack.append(not last)
        elif cur.expr_type == COND_OR:
            stack[-1] |= last
        elif cur.expr_type == COND_AND:
            stack[-1] &= last
        elif cur.expr_type == COND_EQ:
            stack[-1] = stack[-1] == last
        else:                       # COND_XOR, COND_NEQ
            stack[-1] ^= last
    return int(stack[0]) if stack else -1


def evaluate_cond_node(p: PolicyDb, node: CondNode) -> None:
    """Turns the rules of an expression on and off, if its value has changed."""
    new_state = cond_evaluate_expr(p, node.expr)
    if new_state == node.cur_state:
        return
    node.cur_state = new_state
    if new_state == -1:
        printk(p.kernel, "SELinux: expression result was undefined - disabling all rules.", 3)
    for rules, state in ((node.true_list, 1), (node.false_list, 0)):
        for rule in rules:
            if new_state == state:
                rule.specified |= AVTAB_ENABLED
            else:
                rule.specified &= ~AVTAB_ENABLED


def cond_insertf(fp: PolicyFile, p: PolicyDb, node: AvtabNode, other: list[AvtabNode] | None) -> None:
    """A conditional rule; other: what is in the list for the other case. Raises EINVAL: for one pair of types there is
    one type rule, or one in each list."""
    if node.specified & AVTAB_TYPE:
        key = node.source_type, node.target_type, node.target_class, node.specified & AVTAB_TYPE
        if avtab_search_node(p.te_avtab, *key):
            fp.bad("type rule already exists outside of a conditional.")
        twins = avtab_search_node(p.te_cond_avtab, *key)
        if other is None:
            if twins:
                fp.bad("conflicting type rules when adding type rule for true.")
        elif len(twins) > 1:
            fp.bad("too many conflicting type rules.")
        elif twins and not any(rule is twins[0] for rule in other):
            fp.bad("conflicting type rules.")
    avtab_insert_nonunique(p.te_cond_avtab, node)


def cond_read_av_list(p: PolicyDb, fp: PolicyFile, other: list[AvtabNode] | None) -> list[AvtabNode]:
    """The rules of one case."""
    rules: list[AvtabNode] = []

    def insert(node: AvtabNode) -> None:
        cond_insertf(fp, p, node, other)
        rules.append(node)

    for _ in range(fp.u32()):
        avtab_read_item(fp, p, insert)
    return rules


def cond_read_node(p: PolicyDb, fp: PolicyFile) -> CondNode:
    cur_state, length = fp.u32s(2)
    expr = []
    for _ in range(length):
        expr_type, boolean = fp.u32s(2)
        if not 0 < expr_type <= COND_LAST:
            fp.bad("conditional expressions uses unknown operator.")
        if boolean > p.p_bools.nprim or (expr_type == COND_BOOL and boolean == 0):
            fp.bad("conditional expressions uses unknown bool.")
        expr.append(CondExpr(expr_type, boolean))
    true_list = cond_read_av_list(p, fp, None)
    return CondNode(cur_state - (cur_state >> 31 << 32), expr, true_list, cond_read_av_list(p, fp, true_list))


def cond_read_list(p: PolicyDb, fp: PolicyFile) -> None:
    """All expressions with their rules. Raises EINVAL."""
    for _ in range(fp.u32()):
        p.cond_list.append(cond_read_node(p, fp))


def cond_write_list(p: PolicyDb) -> bytes:
    """All expressions as a policy has them."""
    parts = [len(p.cond_list).to_bytes(4, "little")]
    for node in p.cond_list:
        numbers = [node.cur_state & 0xFFFFFFFF, len(node.expr)]
        for cur in node.expr:
            numbers += cur
        parts += [number.to_bytes(4, "little") for number in numbers]
        for rules in (node.true_list, node.false_list):
            parts.append(len(rules).to_bytes(4, "little"))
            parts += [avtab_write_item(rule) for rule in rules]
    return b"".join(parts)
