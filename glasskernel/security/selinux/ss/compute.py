"""What the rules say of two contexts: permissions, and the context of a new object.

Linux: context_struct_compute_av(), type_attribute_bounds_av(), security_compute_sid() ... of
    security/selinux/ss/services.c (5.3). Same: rules of all attributes of both types, then constraints, role changes,
    bounds. Classes and permissions are the policy's here.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.kernel.audit import AUDIT_SELINUX_ERR, audit_log_end, audit_log_format, audit_log_start
from glasskernel.kernel.printk import printk
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.ss.avtab import (
    AVTAB_ALLOWED,
    AVTAB_AUDITALLOW,
    AVTAB_AUDITDENY,
    AVTAB_ENABLED,
    AVTAB_MEMBER,
    AVTAB_TRANSITION,
    AVTAB_XPERMS,
    AVTAB_XPERMS_ALLOWED,
    AVTAB_XPERMS_AUDITALLOW,
    AVTAB_XPERMS_DONTAUDIT,
    AVTAB_XPERMS_IOCTLDRIVER,
    AVTAB_XPERMS_IOCTLFUNCTION,
    AvtabNode,
    avtab_search_node,
)
from glasskernel.security.selinux.ss.constraint import constraint_expr_eval
from glasskernel.security.selinux.ss.context import Context
from glasskernel.security.selinux.ss.context_string import context_struct_to_string
from glasskernel.security.selinux.ss.ebitmap import ebitmap_for_each_positive_bit
from glasskernel.security.selinux.ss.mls import mls_compute_sid
from glasskernel.security.selinux.ss.policydb import FilenameTrans
from glasskernel.security.selinux.ss.symtab import OBJECT_R_VAL, SYM_CLASSES
from glasskernel.security.selinux.types import ExtendedPermsDecision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.security.selinux.ss.avtab import Avtab
    from glasskernel.security.selinux.ss.policydb import PolicyDb

ALL_PERMISSIONS = 0xFFFFFFFF
ALL_XPERMS = (1 << 256) - 1
DEFAULT_SOURCE, DEFAULT_TARGET = 1, 2       # ClassDatum.default_user, _role, _type


class AccessVector(NamedTuple):
    """The part of struct av_decision that rules decide."""
    allowed: int
    auditallow: int
    auditdeny: int


@notrace
def selinux_err(p: PolicyDb, text: bytes) -> None:
    """A record that something is wrong between the policy and who uses it."""
    ab = audit_log_start(p.kernel, AUDIT_SELINUX_ERR)
    audit_log_format(ab, text)
    audit_log_end(ab)


@notrace
def rules_between(h: Avtab, p: PolicyDb, scontext: Context, tcontext: Context, tclass: int) -> Iterator[AvtabNode]:
    """The rules of one table from any attribute of the source to any of the target."""
    targets_of = h.htable
    tattr = [bit + 1 for bit in ebitmap_for_each_positive_bit(p.type_attr_map[tcontext.type])]
    key = tclass << 16
    for bit in ebitmap_for_each_positive_bit(p.type_attr_map[scontext.type]):
        rules_of = targets_of.get(key | bit + 1)
        if rules_of is not None:
            for target in tattr:
                if target in rules_of:
                    yield from rules_of[target]


def context_struct_compute_av(p: PolicyDb, scontext: Context, tcontext: Context, tclass: int) -> AccessVector:
    """What a source may do to a target."""
    allowed = auditallow = 0
    auditdeny = ALL_PERMISSIONS
    if not 0 < tclass <= p.p_classes.nprim:
        printk(p.kernel, f"SELinux:  Invalid class {tclass}", 4)
        return AccessVector(0, 0, auditdeny)
    for h, enabled in ((p.te_avtab, 0), (p.te_cond_avtab, AVTAB_ENABLED)):
        for rule in rules_between(h, p, scontext, tcontext, tclass):
            kind = rule.specified ^ enabled
            if kind == AVTAB_ALLOWED:
                allowed |= rule.data
            elif kind == AVTAB_AUDITALLOW:
                auditallow |= rule.data
            elif kind == AVTAB_AUDITDENY:
                auditdeny &= rule.data
    tclass_datum = p.class_val_to_struct[tclass]
    for constraint in tclass_datum.constraints:
        if constraint.permissions & allowed and not constraint_expr_eval(p, scontext, tcontext, None, constraint.expr):
            allowed &= ~constraint.permissions
    if tclass == p.process_class and allowed & p.process_trans_perms and scontext.role != tcontext.role:
        if (scontext.role, tcontext.role) not in p.role_allow:
            allowed &= ~p.process_trans_perms
    allowed = type_attribute_bounds_av(p, scontext, tcontext, tclass, allowed)
    return AccessVector(allowed, auditallow, auditdeny)


def type_attribute_bounds_av(p: PolicyDb, scontext: Context, tcontext: Context, tclass: int, allowed: int) -> int:
    """Of `allowed`, what the type that bounds the source's may do too."""
    source, target = p.type_val_to_struct[scontext.type], p.type_val_to_struct[tcontext.type]
    if source is None or not source.bounds:
        return allowed
    lo_scontext = scontext._replace(type=source.bounds)
    lo_tcontext = tcontext if target is None or not target.bounds else tcontext._replace(type=target.bounds)
    masked = allowed & ~context_struct_compute_av(p, lo_scontext, lo_tcontext, tclass).allowed
    if masked:
        security_dump_masked_av(p, scontext, tcontext, tclass, masked, b"bounds")
    return allowed & ~masked


def security_dump_masked_av(p: PolicyDb, scontext: Context, tcontext: Context, tclass: int, permissions: int,
                            reason: bytes) -> None:
    """A record of permissions that a rule gave and a bound took."""
    tclass_datum = p.class_val_to_struct[tclass]
    tables = [tclass_datum.permissions.table]
    if tclass_datum.comdatum is not None:
        tables.append(tclass_datum.comdatum.permissions.table)
    names = [name for table in tables for name, value in table.items() if permissions >> value - 1 & 1]
    selinux_err(p, b"op=security_compute_av reason=%s scontext=%s tcontext=%s tclass=%s perms=%s" % (
        reason, context_struct_to_string(p, scontext), context_struct_to_string(p, tcontext),
        p.sym_val_to_name[SYM_CLASSES][tclass], b",".join(names)))


def services_compute_xperms_decision(p: PolicyDb, scontext: Context, tcontext: Context, tclass: int,
                                     driver: int) -> ExtendedPermsDecision:
    """Which functions of an ioctl driver the rules name. Without any rule for the two types and the class: all."""
    found = {AVTAB_XPERMS_ALLOWED: 0, AVTAB_XPERMS_AUDITALLOW: 0, AVTAB_XPERMS_DONTAUDIT: 0}
    any_rule = False
    for h, enabled in ((p.te_avtab, 0), (p.te_cond_avtab, AVTAB_ENABLED)):
        for rule in rules_between(h, p, scontext, tcontext, tclass):
            xperms = rule.xperms
            if xperms is None or rule.specified & AVTAB_ENABLED != enabled:
                continue
            any_rule = True
            kind = rule.specified & AVTAB_XPERMS
            if xperms.specified == AVTAB_XPERMS_IOCTLFUNCTION and xperms.driver == driver:
                found[kind] |= xperms.perms
            elif xperms.specified == AVTAB_XPERMS_IOCTLDRIVER and xperms.perms >> driver & 1:
                found[kind] = ALL_XPERMS
    if not any_rule:
        return ExtendedPermsDecision(driver, ALL_XPERMS, ALL_XPERMS, 0)
    return ExtendedPermsDecision(driver, *found.values())


@notrace
def _default_of(default: int, source: int, target: int, usual: int) -> int:
    """A user, role or type as the class wants it."""
    if default == DEFAULT_SOURCE:
        return source
    return target if default == DEFAULT_TARGET else usual


def filename_compute_type(p: PolicyDb, stype: int, ttype: int, tclass: int, objname: bytes, type: int) -> int:
    """The type of a new file of this name; `type`, if no rule names it."""
    return p.filename_trans.get(FilenameTrans(stype, ttype, tclass, objname), type)


@notrace
def compute_new_context(p: PolicyDb, scontext: Context, tcontext: Context, tclass: int, specified: int,
                        objname: bytes | None, sock: bool) -> Context:
    """The context of an object that a source makes in, or relabels from, a target; not checked.

    specified: AVTAB_TRANSITION, AVTAB_MEMBER or AVTAB_CHANGE. sock: the class is one of sockets.
    """
    cladatum = p.class_val_to_struct[tclass] if 0 < tclass <= p.p_classes.nprim else None
    like_source = tclass == p.process_class or sock
    user, role, type = scontext.user, OBJECT_R_VAL, tcontext.type
    if like_source:
        role, type = scontext.role, scontext.type
    if specified == AVTAB_MEMBER:
        user = tcontext.user
    if cladatum is not None:
        if cladatum.default_user == DEFAULT_TARGET:
            user = tcontext.user
        role = _default_of(cladatum.default_role, scontext.role, tcontext.role, role)
        type = _default_of(cladatum.default_type, scontext.type, tcontext.type, type)
    rules = avtab_search_node(p.te_avtab, scontext.type, tcontext.type, tclass, specified)
    if not rules:
        conditional = avtab_search_node(p.te_cond_avtab, scontext.type, tcontext.type, tclass, specified)
        rules = [rule for rule in conditional if rule.specified & AVTAB_ENABLED]
    if rules:
        type = rules[0].data
    if objname is not None:
        type = filename_compute_type(p, scontext.type, tcontext.type, tclass, objname, type)
    if specified == AVTAB_TRANSITION:
        for role_tr in p.role_tr:
            if (role_tr.role, role_tr.type, role_tr.tclass) == (scontext.role, tcontext.type, tclass):
                role = role_tr.new_role
                break
    return Context(user, role, type, mls_compute_sid(p, scontext, tcontext, tclass, specified, sock))
