"""The symbols of a policy: commons, classes, roles, types, users, booleans, sensitivities, categories.

Linux: common_read(), class_read() ... policydb_index() of security/selinux/ss/policydb.c, symtab.c (5.3). Same: the
    format of every version, the order of the checks. Differs: what would be an oops in Linux once a rule is used (a
    hole among the values, a constraint with an unknown operator) is damage here: EINVAL while reading.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from glasskernel.lib.errno import EEXIST, EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.ss.constraint import (
    CEXPR_AND,
    CEXPR_ATTR,
    CEXPR_EQ,
    CEXPR_INCOMP,
    CEXPR_L1L2,
    CEXPR_L2H2,
    CEXPR_MAXDEPTH,
    CEXPR_NAMES,
    CEXPR_NEQ,
    CEXPR_NOT,
    CEXPR_OR,
    CEXPR_ROLE,
    CEXPR_TARGET,
    CEXPR_TYPE,
    CEXPR_USER,
    CEXPR_XTARGET,
    ConstraintExpr,
    ConstraintNode,
    TypeSet,
)
from glasskernel.security.selinux.ss.context import NO_RANGE, MlsLevel, MlsRange
from glasskernel.security.selinux.ss.ebitmap import EBITMAP_MAX_BIT, ebitmap_read
from glasskernel.security.selinux.types import (
    POLICYDB_VERSION_BOUNDARY,
    POLICYDB_VERSION_CONSTRAINT_NAMES,
    POLICYDB_VERSION_DEFAULT_TYPE,
    POLICYDB_VERSION_MLS,
    POLICYDB_VERSION_NEW_OBJECT_DEFAULTS,
    POLICYDB_VERSION_VALIDATETRANS,
)

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policydb import PolicyDb
    from glasskernel.security.selinux.ss.policyfile import PolicyFile

SYM_COMMONS, SYM_CLASSES, SYM_ROLES, SYM_TYPES, SYM_USERS, SYM_BOOLS, SYM_LEVELS, SYM_CATS = range(8)
SYM_NUM = 8

OBJECT_R = b"object_r"              # the role of whatever is no process
OBJECT_R_VAL = 1
TYPEDATUM_PROPERTY_PRIMARY = 1
TYPEDATUM_PROPERTY_ATTRIBUTE = 2
SEL_VEC_MAX = 32                    # permissions of a class

T = TypeVar("T")


@slotted
class Symtab(Generic[T]):
    """struct symtab"""
    nprim: int = 0                  # the largest value
    table: dict[bytes, T] = field(default_factory=dict)


@slotted
class CommonDatum:
    """struct common_datum"""
    value: int
    permissions: Symtab[int]


@slotted
class ClassDatum:
    """struct class_datum"""
    value: int
    permissions: Symtab[int]        # the class's own
    comkey: bytes = b""
    comdatum: CommonDatum | None = None
    constraints: list[ConstraintNode] = field(default_factory=list)
    validatetrans: list[ConstraintNode] = field(default_factory=list)
    # Of a new object (DEFAULT_*), 0: the usual.
    default_user: int = 0
    default_role: int = 0
    default_type: int = 0
    default_range: int = 0


@slotted
class RoleDatum:
    """struct role_datum"""
    value: int
    bounds: int
    dominates: int                  # ebitmap, bit = value - 1
    types: int


@slotted
class TypeDatum:
    """struct type_datum"""
    value: int
    bounds: int
    primary: bool                   # else an alias
    attribute: bool


@slotted
class UserDatum:
    """struct user_datum"""
    value: int
    bounds: int
    roles: int                      # ebitmap, bit = value - 1
    range: MlsRange
    dfltlevel: MlsLevel


@slotted
class CondBoolDatum:
    """struct cond_bool_datum"""
    value: int
    state: bool


@slotted
class LevelDatum:
    """struct level_datum"""
    level: MlsLevel                 # the categories that go with the sensitivity
    isalias: bool


@slotted
class CatDatum:
    """struct cat_datum"""
    value: int
    isalias: bool


def hashtab_insert(table: dict[bytes, T], key: bytes, datum: T) -> None:
    """Errors: EEXIST."""
    if key in table:
        raise KernelError(EEXIST)
    table[key] = datum


@notrace
def _read_permissions(fp: PolicyFile, nprim: int, nel: int) -> Symtab[int]:
    """perm_read() for each permission of a class or common."""
    permissions: Symtab[int] = Symtab(nprim)
    for _ in range(nel):
        length, value = fp.u32s(2)
        key = fp.string(length)
        if not 0 < value <= min(nprim, SEL_VEC_MAX):
            raise KernelError(EINVAL)
        hashtab_insert(permissions.table, key, value)
    return permissions


def common_read(p: PolicyDb, table: dict[bytes, CommonDatum], fp: PolicyFile) -> None:
    length, value, nprim, nel = fp.u32s(4)
    key = fp.string(length)
    hashtab_insert(table, key, CommonDatum(value, _read_permissions(fp, nprim, nel)))


def type_set_read(fp: PolicyFile) -> TypeSet:
    """The names of a constraint as they were written."""
    return TypeSet(ebitmap_read(fp), ebitmap_read(fp), fp.u32())


@notrace
def _check_attr(fp: PolicyFile, attr: int, op: int) -> None:
    """A comparison that constraint_expr_eval() knows."""
    if attr in (CEXPR_USER, CEXPR_TYPE):
        fine = op in (CEXPR_EQ, CEXPR_NEQ)
    else:
        is_level = CEXPR_L1L2 <= attr <= CEXPR_L2H2 and attr & (attr - 1) == 0
        fine = CEXPR_EQ <= op <= CEXPR_INCOMP and (attr == CEXPR_ROLE or is_level)
    if not fine:
        raise KernelError(EINVAL)


@notrace
def _check_names(attr: int, op: int, allowxtarget: bool) -> None:
    """A set of names that constraint_expr_eval() knows."""
    if not allowxtarget and attr & CEXPR_XTARGET:
        raise KernelError(EINVAL)
    what = attr & ~(CEXPR_TARGET | CEXPR_XTARGET)
    if what not in (CEXPR_USER, CEXPR_ROLE, CEXPR_TYPE) or op not in (CEXPR_EQ, CEXPR_NEQ):
        raise KernelError(EINVAL)


def read_cons_helper(p: PolicyDb, ncons: int, allowxtarget: bool, fp: PolicyFile) -> list[ConstraintNode]:
    """Constraints of a class."""
    nodes = []
    for _ in range(ncons):
        permissions, nexpr = fp.u32s(2)
        node = ConstraintNode(permissions, [])
        depth = -1
        for _ in range(nexpr):
            expr_type, attr, op = fp.u32s(3)
            names, type_names = 0, None
            if expr_type == CEXPR_NOT:
                if depth < 0:
                    raise KernelError(EINVAL)
            elif expr_type in (CEXPR_AND, CEXPR_OR):
                if depth < 1:
                    raise KernelError(EINVAL)
                depth -= 1
            elif expr_type in (CEXPR_ATTR, CEXPR_NAMES):
                if depth == CEXPR_MAXDEPTH - 1:
                    raise KernelError(EINVAL)
                depth += 1
                if expr_type == CEXPR_ATTR:
                    _check_attr(fp, attr, op)
                else:
                    _check_names(attr, op, allowxtarget)
                    names = ebitmap_read(fp)
                    if p.policyvers >= POLICYDB_VERSION_CONSTRAINT_NAMES:
                        type_names = type_set_read(fp)
            else:
                raise KernelError(EINVAL)
            node.expr.append(ConstraintExpr(expr_type, attr, op, names, type_names))
        if depth != 0:
            raise KernelError(EINVAL)
        nodes.append(node)
    return nodes


def class_read(p: PolicyDb, table: dict[bytes, ClassDatum], fp: PolicyFile) -> None:
    length, comlength, value, nprim, nel, ncons = fp.u32s(6)
    key = fp.string(length)
    comkey, comdatum = b"", None
    if comlength:
        comkey = fp.string(comlength)
        comdatum = p.p_commons.table.get(comkey)
        if comdatum is None:
            fp.bad(f" unknown common {comkey.decode('latin-1')}")
    cladatum = ClassDatum(value, _read_permissions(fp, nprim, nel), comkey, comdatum)
    cladatum.constraints = read_cons_helper(p, ncons, False, fp)
    if p.policyvers >= POLICYDB_VERSION_VALIDATETRANS:
        cladatum.validatetrans = read_cons_helper(p, fp.u32(), True, fp)
    if p.policyvers >= POLICYDB_VERSION_NEW_OBJECT_DEFAULTS:
        cladatum.default_user, cladatum.default_role, cladatum.default_range = fp.u32s(3)
    if p.policyvers >= POLICYDB_VERSION_DEFAULT_TYPE:
        cladatum.default_type = fp.u32()
    hashtab_insert(table, key, cladatum)


def role_read(p: PolicyDb, table: dict[bytes, RoleDatum], fp: PolicyFile) -> None:
    if p.policyvers >= POLICYDB_VERSION_BOUNDARY:
        length, value, bounds = fp.u32s(3)
    else:
        (length, value), bounds = fp.u32s(2), 0
    key = fp.string(length)
    role = RoleDatum(value, bounds, ebitmap_read(fp), ebitmap_read(fp))
    if key == OBJECT_R and value != OBJECT_R_VAL:
        fp.bad(f"Role {OBJECT_R.decode()} has wrong value {value}")
    hashtab_insert(table, key, role)


def type_read(p: PolicyDb, table: dict[bytes, TypeDatum], fp: PolicyFile) -> None:
    if p.policyvers >= POLICYDB_VERSION_BOUNDARY:
        length, value, prop, bounds = fp.u32s(4)
        datum = TypeDatum(value, bounds, bool(prop & TYPEDATUM_PROPERTY_PRIMARY),
                          bool(prop & TYPEDATUM_PROPERTY_ATTRIBUTE))
    else:
        length, value, primary = fp.u32s(3)
        datum = TypeDatum(value, 0, bool(primary), False)
    hashtab_insert(table, fp.string(length), datum)


def mls_read_level(fp: PolicyFile) -> MlsLevel:
    """A sensitivity with its categories."""
    return MlsLevel(fp.u32(), ebitmap_read(fp))


def mls_read_range_helper(fp: PolicyFile) -> MlsRange:
    """One or two levels. Raises EINVAL."""
    items = fp.u32()
    if not 1 <= items <= 2:
        fp.bad("mls:  range overflow" if items else "mls:  truncated range")
    sens = fp.u32s(items)
    low = MlsLevel(sens[0], ebitmap_read(fp))
    return MlsRange(low, MlsLevel(sens[1], ebitmap_read(fp)) if items > 1 else low)


def user_read(p: PolicyDb, table: dict[bytes, UserDatum], fp: PolicyFile) -> None:
    if p.policyvers >= POLICYDB_VERSION_BOUNDARY:
        length, value, bounds = fp.u32s(3)
    else:
        (length, value), bounds = fp.u32s(2), 0
    key = fp.string(length)
    user = UserDatum(value, bounds, ebitmap_read(fp), NO_RANGE, NO_RANGE.low)
    if p.policyvers >= POLICYDB_VERSION_MLS:
        user.range = mls_read_range_helper(fp)
        user.dfltlevel = mls_read_level(fp)
    hashtab_insert(table, key, user)


def cond_read_bool(p: PolicyDb, table: dict[bytes, CondBoolDatum], fp: PolicyFile) -> None:
    value, state, length = fp.u32s(3)
    if state not in (0, 1):
        raise KernelError(EINVAL)
    hashtab_insert(table, fp.string(length), CondBoolDatum(value, bool(state)))


def sens_read(p: PolicyDb, table: dict[bytes, LevelDatum], fp: PolicyFile) -> None:
    length, isalias = fp.u32s(2)
    key = fp.string(length)
    hashtab_insert(table, key, LevelDatum(mls_read_level(fp), bool(isalias)))


def cat_read(p: PolicyDb, table: dict[bytes, CatDatum], fp: PolicyFile) -> None:
    length, value, isalias = fp.u32s(3)
    if not 0 < value <= min(p.p_cats.nprim, EBITMAP_MAX_BIT):
        raise KernelError(EINVAL)
    hashtab_insert(table, fp.string(length), CatDatum(value, bool(isalias)))


_read_functions: tuple[Callable[[PolicyDb, Any, PolicyFile], None], ...] = (
    common_read, class_read, role_read, type_read, user_read, cond_read_bool, sens_read, cat_read)


@notrace
def symtab_read(p: PolicyDb, sym_num: int, fp: PolicyFile) -> None:
    """All tables. Raises EINVAL, EEXIST."""
    for symtab, read_f in zip(p.symtab[:sym_num], _read_functions, strict=False):
        symtab.nprim, nel = fp.u32s(2)
        for _ in range(nel):
            read_f(p, symtab.table, fp)
