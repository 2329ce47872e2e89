"""A policy in binary form again: what /sys/fs/selinux/policy shows.

Linux: policydb_write() of security/selinux/ss/policydb.c, security_read_policy() of services.c (5.3). Same: the version
    is the one that was loaded, booleans have the values they have now; versions before 20 are refused.
    Differs: symbols and rules stand in the order in which they were read (Linux: of its hash tables), so that an
    unchanged policy is the file, but for the order of paths in genfs.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import pack
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.ss.avtab import avtab_write
from glasskernel.security.selinux.ss.conditional import cond_write_list
from glasskernel.security.selinux.ss.constraint import CEXPR_NAMES, ConstraintNode
from glasskernel.security.selinux.ss.ebitmap import ebitmap_write
from glasskernel.security.selinux.ss.ocontext import (
    OCON_FS,
    OCON_FSUSE,
    OCON_IBENDPORT,
    OCON_IBPKEY,
    OCON_ISID,
    OCON_NETIF,
    OCON_PORT,
    Ocontext,
)
from glasskernel.security.selinux.ss.policydb import (
    POLICYDB_CONFIG_ALLOW_UNKNOWN,
    POLICYDB_CONFIG_MLS,
    POLICYDB_CONFIG_REJECT_UNKNOWN,
    POLICYDB_MAGIC,
    POLICYDB_STRING,
    ocon_num_of,
    sym_num_of,
)
from glasskernel.security.selinux.ss.symtab import TYPEDATUM_PROPERTY_ATTRIBUTE, TYPEDATUM_PROPERTY_PRIMARY
from glasskernel.security.selinux.types import (
    POLICYDB_VERSION_AVTAB,
    POLICYDB_VERSION_BOUNDARY,
    POLICYDB_VERSION_CONSTRAINT_NAMES,
    POLICYDB_VERSION_DEFAULT_TYPE,
    POLICYDB_VERSION_FILENAME_TRANS,
    POLICYDB_VERSION_NEW_OBJECT_DEFAULTS,
    POLICYDB_VERSION_PERMISSIVE,
    POLICYDB_VERSION_POLCAP,
    POLICYDB_VERSION_RANGETRANS,
    POLICYDB_VERSION_ROLETRANS,
)

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.context import Context, MlsLevel, MlsRange
    from glasskernel.security.selinux.ss.policydb import PolicyDb
    from glasskernel.security.selinux.ss.symtab import (
        CatDatum,
        ClassDatum,
        CommonDatum,
        CondBoolDatum,
        LevelDatum,
        RoleDatum,
        Symtab,
        TypeDatum,
        UserDatum,
    )
    from glasskernel.security.selinux.types import SelinuxState


@notrace
def u32s(*numbers: int) -> bytes:
    return pack(f"<{len(numbers)}I", *numbers)


@notrace
def _list(items: Iterable[bytes]) -> bytes:
    """A list with its length."""
    parts = list(items)
    return u32s(len(parts)) + b"".join(parts)


# ---- symbols -----------------------------------------------------------------------------------------------
@notrace
def _permissions(permissions: Symtab[int]) -> bytes:
    return b"".join(u32s(len(name), value) + name for name, value in permissions.table.items())


def common_write(p: PolicyDb, key: bytes, comdatum: CommonDatum) -> bytes:
    perms = comdatum.permissions
    return u32s(len(key), comdatum.value, perms.nprim, len(perms.table)) + key + _permissions(perms)


def write_cons_helper(p: PolicyDb, nodes: list[ConstraintNode]) -> bytes:
    """Constraints, without their number."""
    parts = []
    for node in nodes:
        parts.append(u32s(node.permissions, len(node.expr)))
        for e in node.expr:
            parts.append(u32s(e.expr_type, e.attr, e.op))
            if e.expr_type == CEXPR_NAMES:
                parts.append(ebitmap_write(e.names))
                if p.policyvers >= POLICYDB_VERSION_CONSTRAINT_NAMES and e.type_names is not None:
                    types, negset, flags = e.type_names
                    parts += [ebitmap_write(types), ebitmap_write(negset), u32s(flags)]
    return b"".join(parts)


def class_write(p: PolicyDb, key: bytes, cladatum: ClassDatum) -> bytes:
    perms, comkey = cladatum.permissions, cladatum.comkey
    text = u32s(len(key), len(comkey), cladatum.value, perms.nprim, len(perms.table), len(cladatum.constraints))
    text += key + comkey + _permissions(perms) + write_cons_helper(p, cladatum.constraints)
    text += u32s(len(cladatum.validatetrans)) + write_cons_helper(p, cladatum.validatetrans)
    if p.policyvers >= POLICYDB_VERSION_NEW_OBJECT_DEFAULTS:
        text += u32s(cladatum.default_user, cladatum.default_role, cladatum.default_range)
    return text + (u32s(cladatum.default_type) if p.policyvers >= POLICYDB_VERSION_DEFAULT_TYPE else b"")


@notrace
def _head(p: PolicyDb, key: bytes, value: int, bounds: int) -> bytes:
    """What roles and users begin with."""
    return (u32s(len(key), value, bounds) if p.policyvers >= POLICYDB_VERSION_BOUNDARY else u32s(len(key), value)) + key


def role_write(p: PolicyDb, key: bytes, role: RoleDatum) -> bytes:
    return _head(p, key, role.value, role.bounds) + ebitmap_write(role.dominates) + ebitmap_write(role.types)


def type_write(p: PolicyDb, key: bytes, typdatum: TypeDatum) -> bytes:
    if p.policyvers < POLICYDB_VERSION_BOUNDARY:
        return u32s(len(key), typdatum.value, typdatum.primary) + key
    prop = (TYPEDATUM_PROPERTY_PRIMARY * typdatum.primary) | (TYPEDATUM_PROPERTY_ATTRIBUTE * typdatum.attribute)
    return u32s(len(key), typdatum.value, prop, typdatum.bounds) + key


def mls_write_level(level: MlsLevel) -> bytes:
    return u32s(level.sens) + ebitmap_write(level.cat)


def mls_write_range_helper(r: MlsRange) -> bytes:
    if r.low == r.high:
        return u32s(1, r.low.sens) + ebitmap_write(r.low.cat)
    return u32s(2, r.low.sens, r.high.sens) + ebitmap_write(r.low.cat) + ebitmap_write(r.high.cat)


def user_write(p: PolicyDb, key: bytes, user: UserDatum) -> bytes:
    return (_head(p, key, user.value, user.bounds) + ebitmap_write(user.roles) + mls_write_range_helper(user.range) +
            mls_write_level(user.dfltlevel))


def cond_write_bool(p: PolicyDb, key: bytes, booldatum: CondBoolDatum) -> bytes:
    return u32s(booldatum.value, booldatum.state, len(key)) + key


def sens_write(p: PolicyDb, key: bytes, levdatum: LevelDatum) -> bytes:
    return u32s(len(key), levdatum.isalias) + key + mls_write_level(levdatum.level)


def cat_write(p: PolicyDb, key: bytes, catdatum: CatDatum) -> bytes:
    return u32s(len(key), catdatum.value, catdatum.isalias) + key


_write_functions: tuple[Callable[[PolicyDb, bytes, Any], bytes], ...] = (
    common_write, class_write, role_write, type_write, user_write, cond_write_bool, sens_write, cat_write)


# ---- the rest ----------------------------------------------------------------------------------------------
def role_trans_write(p: PolicyDb) -> bytes:
    has_class = p.policyvers >= POLICYDB_VERSION_ROLETRANS
    return _list(u32s(r.role, r.type, r.new_role) + (u32s(r.tclass) if has_class else b"") for r in p.role_tr)


def role_allow_write(p: PolicyDb) -> bytes:
    return _list(u32s(role, new_role) for role, new_role in p.role_allow)


def filename_trans_write(p: PolicyDb) -> bytes:
    if p.policyvers < POLICYDB_VERSION_FILENAME_TRANS:
        return b""
    return _list(u32s(len(ft.name)) + ft.name + u32s(ft.stype, ft.ttype, ft.tclass, otype)
                 for ft, otype in p.filename_trans.items())


def context_write(c: Context) -> bytes:
    return u32s(c.user, c.role, c.type) + mls_write_range_helper(c.range)


@notrace
def _ocontext(kind: int, c: Ocontext) -> bytes:
    """What one context is for, and the context."""
    if kind == OCON_ISID:
        text = u32s(c.initial_sid)
    elif kind in (OCON_FS, OCON_NETIF):
        text = u32s(len(c.name)) + c.name
    elif kind == OCON_PORT:
        text = u32s(c.protocol, c.low, c.high)
    elif kind == OCON_FSUSE:
        text = u32s(c.behavior, len(c.name)) + c.name
    elif kind == OCON_IBPKEY:
        text = c.addr + u32s(c.low, c.high)
    elif kind == OCON_IBENDPORT:
        text = u32s(len(c.name), c.low) + c.name
    else:
        text = c.addr + c.mask
    return text + b"".join(context_write(context) for context in c.context)


def ocontext_write(p: PolicyDb) -> bytes:
    return b"".join(_list(_ocontext(kind, c) for c in p.ocontexts[kind]) for kind in range(ocon_num_of(p.policyvers)))


def genfs_write(p: PolicyDb) -> bytes:
    return _list(u32s(len(genfs.fstype)) + genfs.fstype + _list(
        u32s(len(c.name)) + c.name + u32s(c.sclass) + context_write(c.context) for c in genfs.head)
        for genfs in p.genfs)


def range_write(p: PolicyDb) -> bytes:
    has_class = p.policyvers >= POLICYDB_VERSION_RANGETRANS
    rules = [rule for rule in p.range_tr.items() if has_class or rule[0][2] == p.process_class]
    return _list(u32s(*key[: 3 if has_class else 2]) + mls_write_range_helper(r) for key, r in rules)


def policydb_write(p: PolicyDb) -> bytes:
    """The whole file. Raises EINVAL."""
    if p.policyvers < POLICYDB_VERSION_AVTAB:
        printk(p.kernel, f"SELinux: refusing to write policy version {p.policyvers}.  Because it is less than version "
               f"{POLICYDB_VERSION_AVTAB}", 3)
        raise KernelError(EINVAL)
    config = (POLICYDB_CONFIG_MLS * p.mls_enabled | POLICYDB_CONFIG_REJECT_UNKNOWN * p.reject_unknown |
              POLICYDB_CONFIG_ALLOW_UNKNOWN * p.allow_unknown)
    sym_num = sym_num_of(p.policyvers)
    parts = [u32s(POLICYDB_MAGIC, len(POLICYDB_STRING)), POLICYDB_STRING,
             u32s(p.policyvers, config, sym_num, ocon_num_of(p.policyvers))]
    if p.policyvers >= POLICYDB_VERSION_POLCAP:
        parts.append(ebitmap_write(p.policycaps))
    if p.policyvers >= POLICYDB_VERSION_PERMISSIVE:
        parts.append(ebitmap_write(p.permissive_map))
    for symtab, write_f in zip(p.symtab[:sym_num], _write_functions, strict=False):
        parts.append(u32s(symtab.nprim, len(symtab.table)))
        parts += [write_f(p, key, datum) for key, datum in symtab.table.items()]
    parts += [avtab_write(p.te_avtab), cond_write_list(p), role_trans_write(p), role_allow_write(p),
              filename_trans_write(p), ocontext_write(p), genfs_write(p), range_write(p)]
    parts += [ebitmap_write(attributes) for attributes in p.type_attr_map[1:]]
    return b"".join(parts)


def security_read_policy(state: SelinuxState) -> bytes:
    """The policy in force. Raises EINVAL without one."""
    if not state.initialized:
        raise KernelError(EINVAL)
    return policydb_write(state.ss.policydb)
