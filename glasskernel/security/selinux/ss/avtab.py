"""The rules: what a type may do to another, and which type a new object gets.

Linux: security/selinux/ss/avtab.c (5.3). Same: both formats (one row for all kinds before version 20, a row a kind
    since), what is damage. Differs: rules are found by source and class, then by target: compute_av asks for all the
    attributes of two types, and most sources have rules for few targets of a class.
Owns: Avtab. Invariant: `nodes` has the order of the policy, `htable` finds the same objects.
"""
from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EEXIST, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.types import POLICYDB_VERSION_AVTAB, POLICYDB_VERSION_XPERMS_IOCTL

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policydb import PolicyDb
    from glasskernel.security.selinux.ss.policyfile import PolicyFile

AVTAB_ALLOWED = 0x0001
AVTAB_AUDITALLOW = 0x0002
AVTAB_AUDITDENY = 0x0004
AVTAB_AV = AVTAB_ALLOWED | AVTAB_AUDITALLOW | AVTAB_AUDITDENY
AVTAB_TRANSITION = 0x0010
AVTAB_MEMBER = 0x0020
AVTAB_CHANGE = 0x0040
AVTAB_TYPE = AVTAB_TRANSITION | AVTAB_MEMBER | AVTAB_CHANGE
AVTAB_XPERMS_ALLOWED = 0x0100
AVTAB_XPERMS_AUDITALLOW = 0x0200
AVTAB_XPERMS_DONTAUDIT = 0x0400
AVTAB_XPERMS = AVTAB_XPERMS_ALLOWED | AVTAB_XPERMS_AUDITALLOW | AVTAB_XPERMS_DONTAUDIT
AVTAB_ENABLED_OLD = 0x80000000      # of a conditional rule before version 20
AVTAB_ENABLED = 0x8000
spec_order = (AVTAB_ALLOWED, AVTAB_AUDITDENY, AVTAB_AUDITALLOW, AVTAB_TRANSITION, AVTAB_CHANGE, AVTAB_MEMBER)

AVTAB_XPERMS_IOCTLFUNCTION = 1      # one driver, a set of functions
AVTAB_XPERMS_IOCTLDRIVER = 2        # a set of drivers, all their functions

_key = Struct("<4H")
_key_and_datum = Struct("<4HI")
_xperms = Struct("<BB32s")


@slotted
class ExtendedPerms:
    """struct avtab_extended_perms"""
    specified: int                  # AVTAB_XPERMS_IOCTL*
    driver: int
    perms: int                      # 256 bits


@slotted
class AvtabNode:
    """struct avtab_node: one rule"""
    source_type: int
    target_type: int
    target_class: int
    specified: int                  # AVTAB_*; of a conditional rule with AVTAB_ENABLED while it holds
    data: int                       # permissions, or a type
    xperms: ExtendedPerms | None = None


@slotted
class Avtab:
    """struct avtab"""
    nodes: list[AvtabNode] = field(default_factory=list)
    # class << 16 | source -> target -> rules
    htable: dict[int, dict[int, list[AvtabNode]]] = field(default_factory=dict)


def avtab_search_node(h: Avtab, source_type: int, target_type: int, target_class: int,
                      specified: int) -> list[AvtabNode]:
    """The rules of some kinds for two types; conditional ones whether they hold or not."""
    rules = h.htable.get(target_class << 16 | source_type, {}).get(target_type, ())
    return [node for node in rules if node.specified & specified]


def avtab_insert_nonunique(h: Avtab, node: AvtabNode) -> None:
    """A conditional rule: there may be others like it."""
    h.nodes.append(node)
    targets = h.htable.setdefault(node.target_class << 16 | node.source_type, {})
    targets.setdefault(node.target_type, []).append(node)


def avtab_insert(h: Avtab, node: AvtabNode) -> None:
    """Errors: EEXIST; rules of extended permissions may be many."""
    if not node.specified & AVTAB_XPERMS:
        rules = h.htable.get(node.target_class << 16 | node.source_type, {}).get(node.target_type, ())
        for rule in rules:
            if rule.specified & node.specified & ~AVTAB_ENABLED:
                raise KernelError(EEXIST)
    avtab_insert_nonunique(h, node)


def avtab_read_item(fp: PolicyFile, pol: PolicyDb, insertf: Callable[[AvtabNode], None]) -> None:
    """One row of the policy, which before version 20 is several rules. Raises EINVAL."""
    if pol.policyvers < POLICYDB_VERSION_AVTAB:
        _read_old_item(fp, pol, insertf)
        return
    source, target, tclass, specified = fp.unpack(_key)
    kind = specified & ~AVTAB_ENABLED
    if kind not in spec_order and kind not in (AVTAB_XPERMS_ALLOWED, AVTAB_XPERMS_AUDITALLOW, AVTAB_XPERMS_DONTAUDIT):
        fp.bad(" avtab:  more than one specifier")
    if kind & AVTAB_XPERMS:
        if pol.policyvers < POLICYDB_VERSION_XPERMS_IOCTL:
            fp.bad(f" avtab:  policy version {pol.policyvers} does not support extended permissions rules and one was "
                   "specified")
        form, driver, perms = fp.unpack(_xperms)
        node = AvtabNode(source, target, tclass, specified, 0,
                         ExtendedPerms(form, driver, int.from_bytes(perms, "little")))
    else:
        node = AvtabNode(source, target, tclass, specified, fp.u32())
    _check(fp, pol, node)
    insertf(node)


@notrace
def _check(fp: PolicyFile, pol: PolicyDb, node: AvtabNode) -> None:
    """All that a rule names exists. Raises EINVAL."""
    nprim = pol.p_types.nprim
    if not (0 < node.source_type <= nprim and 0 < node.target_type <= nprim and
            0 < node.target_class <= pol.p_classes.nprim):
        fp.bad("avtab: invalid type or class")
    if node.specified & AVTAB_TYPE and not 0 < node.data <= nprim:
        fp.bad("avtab: invalid type")


@notrace
def _read_old_item(fp: PolicyFile, pol: PolicyDb, insertf: Callable[[AvtabNode], None]) -> None:
    """A row of versions 15 to 19: two types, a class, which kinds, then a number for each kind."""
    count = fp.u32()
    if not 5 <= count <= 7:
        fp.bad("avtab: entry overflow" if count > 7 else "avtab: truncated entry")
    source, target, tclass, kinds, *data = fp.u32s(count)
    if source >> 16 or target >> 16 or tclass >> 16:
        fp.bad("avtab: truncated source type, target type or class")
    if not kinds & (AVTAB_AV | AVTAB_TYPE):
        fp.bad("avtab: null entry")
    if kinds & AVTAB_AV and kinds & AVTAB_TYPE:
        fp.bad("avtab: entry has both access vectors and types")
    enabled = AVTAB_ENABLED if kinds & AVTAB_ENABLED_OLD else 0
    wanted = [kind for kind in spec_order if kinds & kind]
    if len(wanted) != len(data):
        fp.bad(f"avtab: entry only had {count} items, expected {len(wanted) + 4}")
    for kind, datum in zip(wanted, data, strict=True):
        node = AvtabNode(source, target, tclass, kind | enabled, datum)
        _check(fp, pol, node)
        insertf(node)


def avtab_read(a: Avtab, fp: PolicyFile, pol: PolicyDb) -> None:
    """The unconditional rules. Raises EINVAL."""
    nel = fp.u32()
    if nel == 0:
        fp.bad("avtab: table is empty")
    try:
        for _ in range(nel):
            avtab_read_item(fp, pol, lambda node: avtab_insert(a, node))
    except KernelError as error:
        if error.errno == EEXIST:
            fp.bad("avtab: duplicate entry")
        raise


def avtab_write(a: Avtab) -> bytes:
    """The rules as a policy has them."""
    return len(a.nodes).to_bytes(4, "little") + b"".join(avtab_write_item(node) for node in a.nodes)


def avtab_write_item(node: AvtabNode) -> bytes:
    """One rule, as policies have it since version 20."""
    key = node.source_type, node.target_type, node.target_class, node.specified
    if node.xperms is not None:
        xperms = node.xperms
        return _key.pack(*key) + _xperms.pack(xperms.specified, xperms.driver, xperms.perms.to_bytes(32, "little"))
    return _key_and_datum.pack(*key, node.data)
