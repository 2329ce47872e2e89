"""The policy: its symbols, rules and contexts, read from the binary form that checkpolicy and secilc write.

Linux: security/selinux/ss/policydb.c (5.3). Same: versions 15 to 31, the order of the sections, what is checked, the
    messages. Symbols are read by symtab.py, contexts of objects by ocontext.py, rules by avtab.py and conditional.py;
    policydb_write.py is the way back.
    Differs: sym_val_to_name, class_val_to_struct ... are indexed by the value, [0] is unused; a constraint with an
    operator that Linux would oops on when it meets it is damage here.
Owns: PolicyDb. Invariant: after policydb_read() every value of a rule, context or symbol is the value of some symbol,
    so the security server looks nothing up that could be missing.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.ss.avtab import Avtab, avtab_read
from glasskernel.security.selinux.ss.conditional import CondNode, cond_read_list
from glasskernel.security.selinux.ss.context import MlsRange
from glasskernel.security.selinux.ss.ebitmap import ebitmap_read
from glasskernel.security.selinux.ss.isvalid import (
    policydb_class_isvalid,
    policydb_role_isvalid,
    policydb_type_isvalid,
)
from glasskernel.security.selinux.ss.ocontext import OCON_NUM, Genfs, Ocontext, genfs_read, ocontext_read, range_read
from glasskernel.security.selinux.ss.symtab import (
    SYM_BOOLS,
    SYM_CATS,
    SYM_CLASSES,
    SYM_COMMONS,
    SYM_LEVELS,
    SYM_NUM,
    SYM_ROLES,
    SYM_TYPES,
    SYM_USERS,
    CatDatum,
    ClassDatum,
    CommonDatum,
    CondBoolDatum,
    LevelDatum,
    RoleDatum,
    Symtab,
    TypeDatum,
    UserDatum,
    symtab_read,
)
from glasskernel.security.selinux.types import (
    POLICYDB_VERSION_AVTAB,
    POLICYDB_VERSION_BOOL,
    POLICYDB_VERSION_FILENAME_TRANS,
    POLICYDB_VERSION_INFINIBAND,
    POLICYDB_VERSION_IPV6,
    POLICYDB_VERSION_MAX,
    POLICYDB_VERSION_MIN,
    POLICYDB_VERSION_MLS,
    POLICYDB_VERSION_PERMISSIVE,
    POLICYDB_VERSION_POLCAP,
    POLICYDB_VERSION_ROLETRANS,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.security.selinux.ss.policyfile import PolicyFile

POLICYDB_MAGIC = 0xF97CFF8C
POLICYDB_STRING = b"SE Linux"
POLICYDB_BOUNDS_MAXDEPTH = 4
VALUE_MAX = 0xFFFF                  # rules have 16 bits for a type or a class
POLICYDB_CONFIG_MLS = 1
POLICYDB_CONFIG_REJECT_UNKNOWN = 2
POLICYDB_CONFIG_ALLOW_UNKNOWN = 4


class RoleTrans(NamedTuple):
    """struct role_trans"""
    role: int
    type: int                       # of the program
    tclass: int
    new_role: int


class FilenameTrans(NamedTuple):
    """struct filename_trans: the key"""
    stype: int
    ttype: int                      # of the directory
    tclass: int
    name: bytes


@slotted
class PolicyDb:
    """struct policydb"""
    kernel: Kernel
    policyvers: int = 0
    len: int = 0                    # bytes of the file it was read from
    mls_enabled: bool = False
    reject_unknown: bool = False
    allow_unknown: bool = False
    policycaps: int = 0             # ebitmap
    permissive_map: int = 0         # ebitmap of types, bit = value
    symtab: list[Symtab[Any]] = field(default_factory=lambda: [Symtab() for _ in range(SYM_NUM)])
    # By value; [0] is unused.
    sym_val_to_name: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(SYM_NUM)])
    class_val_to_struct: list[ClassDatum] = field(default_factory=list)
    role_val_to_struct: list[RoleDatum | None] = field(default_factory=list)
    user_val_to_struct: list[UserDatum | None] = field(default_factory=list)
    type_val_to_struct: list[TypeDatum | None] = field(default_factory=list)
    bool_val_to_struct: list[CondBoolDatum] = field(default_factory=list)
    type_attr_map: list[int] = field(default_factory=list)      # type -> ebitmap of its attributes and itself
    te_avtab: Avtab = field(default_factory=Avtab)
    te_cond_avtab: Avtab = field(default_factory=Avtab)
    cond_list: list[CondNode] = field(default_factory=list)
    role_tr: list[RoleTrans] = field(default_factory=list)
    role_allow: list[tuple[int, int]] = field(default_factory=list)
    filename_trans: dict[FilenameTrans, int] = field(default_factory=dict)
    ocontexts: list[list[Ocontext]] = field(default_factory=lambda: [[] for _ in range(OCON_NUM)])
    genfs: list[Genfs] = field(default_factory=list)
    range_tr: dict[tuple[int, int, int], MlsRange] = field(default_factory=dict)
    process_class: int = 0
    process_trans_perms: int = 0

    @property
    def p_commons(self) -> Symtab[CommonDatum]:
        return self.symtab[SYM_COMMONS]

    @property
    def p_classes(self) -> Symtab[ClassDatum]:
        return self.symtab[SYM_CLASSES]

    @property
    def p_roles(self) -> Symtab[RoleDatum]:
        return self.symtab[SYM_ROLES]

    @property
    def p_types(self) -> Symtab[TypeDatum]:
        return self.symtab[SYM_TYPES]

    @property
    def p_users(self) -> Symtab[UserDatum]:
        return self.symtab[SYM_USERS]

    @property
    def p_bools(self) -> Symtab[CondBoolDatum]:
        return self.symtab[SYM_BOOLS]

    @property
    def p_levels(self) -> Symtab[LevelDatum]:
        return self.symtab[SYM_LEVELS]

    @property
    def p_cats(self) -> Symtab[CatDatum]:
        return self.symtab[SYM_CATS]


@notrace
def sym_num_of(policyvers: int) -> int:
    """How many tables of symbols a policy of this version has."""
    if policyvers < POLICYDB_VERSION_BOOL:
        return SYM_NUM - 3
    return SYM_NUM if policyvers >= POLICYDB_VERSION_MLS else SYM_NUM - 2


@notrace
def ocon_num_of(policyvers: int) -> int:
    """How many lists of contexts a policy of this version has."""
    if policyvers < POLICYDB_VERSION_IPV6:
        return OCON_NUM - 3
    return OCON_NUM if policyvers >= POLICYDB_VERSION_INFINIBAND else OCON_NUM - 2


def string_to_security_class(p: PolicyDb, name: bytes) -> int:
    """The value of a class, 0 for none."""
    cladatum = p.p_classes.table.get(name)
    return cladatum.value if cladatum is not None else 0


def string_to_av_perm(p: PolicyDb, tclass: int, name: bytes) -> int:
    """The bit of a permission, 0 for none."""
    if not tclass or tclass > p.p_classes.nprim:
        return 0
    cladatum = p.class_val_to_struct[tclass]
    value = cladatum.permissions.table.get(name)
    if value is None and cladatum.comdatum is not None:
        value = cladatum.comdatum.permissions.table.get(name)
    return 1 << value - 1 if value is not None else 0


@notrace
def _read_header(p: PolicyDb, fp: PolicyFile) -> None:
    """Is it a policy, and of which version? Raises EINVAL."""
    magic, length = fp.u32s(2)
    if magic != POLICYDB_MAGIC:
        fp.bad(f" policydb magic number 0x{magic:x} does not match expected magic number 0x{POLICYDB_MAGIC:x}")
    if length != len(POLICYDB_STRING):
        fp.bad(f" policydb string length {length} does not match expected length {len(POLICYDB_STRING)}")
    string = fp.string(length)
    if string != POLICYDB_STRING:
        fp.bad(f" policydb string {string.decode('latin-1')} does not match my string {POLICYDB_STRING.decode()}")
    version, config, sym_num, ocon_num = fp.u32s(4)
    if not POLICYDB_VERSION_MIN <= version <= POLICYDB_VERSION_MAX:
        fp.bad(f" policydb version {version} does not match my version range "
               f"{POLICYDB_VERSION_MIN}-{POLICYDB_VERSION_MAX}")
    p.policyvers = version
    if config & POLICYDB_CONFIG_MLS:
        p.mls_enabled = True
        if version < POLICYDB_VERSION_MLS:
            fp.bad(f"security policydb version {version} (MLS) not backwards compatible")
    p.reject_unknown = bool(config & POLICYDB_CONFIG_REJECT_UNKNOWN)
    p.allow_unknown = bool(config & POLICYDB_CONFIG_ALLOW_UNKNOWN)
    if version >= POLICYDB_VERSION_POLCAP:
        p.policycaps = ebitmap_read(fp)
    if version >= POLICYDB_VERSION_PERMISSIVE:
        p.permissive_map = ebitmap_read(fp)
    mine = sym_num_of(version), ocon_num_of(version)
    if (sym_num, ocon_num) != mine:
        fp.bad(f" policydb table sizes ({sym_num},{ocon_num}) do not match mine ({mine[0]},{mine[1]})")


def policydb_index(p: PolicyDb) -> None:
    """Finds symbols by value. Raises EINVAL where a value is none, or belongs to nobody."""
    for sym in (SYM_CLASSES, SYM_BOOLS):
        if len(p.symtab[sym].table) != p.symtab[sym].nprim:
            raise KernelError(EINVAL)           # as no value may come twice, every value has its symbol now
    p.class_val_to_struct = _index(p, SYM_CLASSES)
    p.role_val_to_struct = _index(p, SYM_ROLES)
    p.user_val_to_struct = _index(p, SYM_USERS)
    p.bool_val_to_struct = _index(p, SYM_BOOLS)
    nprim = p.p_types.nprim
    if nprim > VALUE_MAX:
        raise KernelError(EINVAL)
    p.type_val_to_struct = [None] * (nprim + 1)
    names = p.sym_val_to_name[SYM_TYPES] = [b""] * (nprim + 1)
    for name, typdatum in p.p_types.table.items():
        if typdatum.primary:
            if not policydb_type_isvalid(p, typdatum.value) or typdatum.bounds > nprim:
                raise KernelError(EINVAL)
            names[typdatum.value] = name
            p.type_val_to_struct[typdatum.value] = typdatum
    _index_levels(p)


@notrace
def _index(p: PolicyDb, sym: int) -> list[Any]:
    """The symbols of one table by value, None where there is none (class_index() and its like)."""
    symtab = p.symtab[sym]
    if symtab.nprim > VALUE_MAX:
        raise KernelError(EINVAL)
    names = p.sym_val_to_name[sym] = [b""] * (symtab.nprim + 1)
    found: list[Any] = [None] * (symtab.nprim + 1)
    for name, datum in symtab.table.items():
        if not 0 < datum.value <= symtab.nprim or found[datum.value] is not None:
            raise KernelError(EINVAL)
        if getattr(datum, "bounds", 0) > symtab.nprim:
            raise KernelError(EINVAL)
        names[datum.value] = name
        found[datum.value] = datum
    return found


@notrace
def _index_levels(p: PolicyDb) -> None:
    """The names of sensitivities and categories by value (sens_index(), cat_index())."""
    _index_names(p, SYM_LEVELS,
                 {name: datum.level.sens for name, datum in p.p_levels.table.items() if not datum.isalias})
    _index_names(p, SYM_CATS, {name: datum.value for name, datum in p.p_cats.table.items() if not datum.isalias})


@notrace
def _index_names(p: PolicyDb, sym: int, values: dict[bytes, int]) -> None:
    """The name of each value; checkpolicy counts aliases as values, which then have none. Raises EINVAL."""
    nprim = p.symtab[sym].nprim
    if nprim > VALUE_MAX:
        raise KernelError(EINVAL)
    names = p.sym_val_to_name[sym] = [b""] * (nprim + 1)
    for name, value in values.items():
        if not 0 < value <= nprim or names[value]:
            raise KernelError(EINVAL)
        names[value] = name


def filename_trans_read(p: PolicyDb, fp: PolicyFile) -> None:
    """Types of new files by their name. A rule that comes twice counts once."""
    if p.policyvers < POLICYDB_VERSION_FILENAME_TRANS:
        return
    for _ in range(fp.u32()):
        name = fp.string(fp.u32())
        stype, ttype, tclass, otype = fp.u32s(4)
        if not (policydb_type_isvalid(p, otype) and policydb_class_isvalid(p, tclass)):
            raise KernelError(EINVAL)
        p.filename_trans.setdefault(FilenameTrans(stype, ttype, tclass, name), otype)


@notrace
def _read_roles(p: PolicyDb, fp: PolicyFile) -> None:
    """Role transitions, and which role may become which. Raises EINVAL."""
    for _ in range(fp.u32()):
        role, type, new_role = fp.u32s(3)
        tclass = fp.u32() if p.policyvers >= POLICYDB_VERSION_ROLETRANS else p.process_class
        if not (policydb_role_isvalid(p, role) and policydb_type_isvalid(p, type) and
                policydb_class_isvalid(p, tclass) and policydb_role_isvalid(p, new_role)):
            raise KernelError(EINVAL)
        p.role_tr.append(RoleTrans(role, type, tclass, new_role))
    for _ in range(fp.u32()):
        role, new_role = fp.u32s(2)
        if not (policydb_role_isvalid(p, role) and policydb_role_isvalid(p, new_role)):
            raise KernelError(EINVAL)
        p.role_allow.append((role, new_role))


def policydb_read(p: PolicyDb, fp: PolicyFile) -> None:
    """The whole file. Raises EINVAL (EEXIST for a symbol that comes twice)."""
    _read_header(p, fp)
    symtab_read(p, sym_num_of(p.policyvers), fp)
    p.process_class = string_to_security_class(p, b"process")
    if not p.process_class:
        raise KernelError(EINVAL)
    avtab_read(p.te_avtab, fp, p)
    if p.policyvers >= POLICYDB_VERSION_BOOL:
        cond_read_list(p, fp)
    _read_roles(p, fp)
    filename_trans_read(p, fp)
    policydb_index(p)
    p.process_trans_perms = (string_to_av_perm(p, p.process_class, b"transition") |
                             string_to_av_perm(p, p.process_class, b"dyntransition"))
    if not p.process_trans_perms:
        raise KernelError(EINVAL)
    ocontext_read(p, ocon_num_of(p.policyvers), fp)
    genfs_read(p, fp)
    range_read(p, fp)
    p.type_attr_map = [0]
    for type in range(p.p_types.nprim):
        attributes = ebitmap_read(fp) if p.policyvers >= POLICYDB_VERSION_AVTAB else 0
        p.type_attr_map.append(attributes | 1 << type)
    policydb_bounds_sanity_check(p)


@notrace
def _check_bounds(p: PolicyDb, what: str, sym: int, found: Sequence[Any], members: Callable[[Any], int]) -> None:
    """user_bounds_sanity_check() and its like: nobody is bounded by himself, or has what his boss has not."""
    names = p.sym_val_to_name[sym]
    for value, datum in enumerate(found):
        upper, depth = datum, 0
        while upper is not None and upper.bounds:
            depth += 1
            if depth == POLICYDB_BOUNDS_MAXDEPTH:
                fail(p, f"{what} {names[value].decode('latin-1')}: too deep or looped boundary")
            bounds = upper.bounds
            upper = found[bounds]
            if upper is None:
                raise KernelError(EINVAL)
            if members(datum) & ~members(upper):
                fail(p, f"boundary violated policy: {what}={names[value].decode('latin-1')} "
                        f"bounds={names[bounds].decode('latin-1')}")


@notrace
def fail(p: PolicyDb, text: str) -> NoReturn:
    """Says what is wrong with the policy. Raises EINVAL."""
    printk(p.kernel, "SELinux: " + text, 3)
    raise KernelError(EINVAL)


def policydb_bounds_sanity_check(p: PolicyDb) -> None:
    """Whoever is bounded by another has no more than it. Raises EINVAL."""
    _check_bounds(p, "user", SYM_USERS, p.user_val_to_struct, lambda user: int(user.roles))
    _check_bounds(p, "role", SYM_ROLES, p.role_val_to_struct, lambda role: int(role.types))
    _check_bounds(p, "type", SYM_TYPES, p.type_val_to_struct, lambda type: 0)
    for typdatum in p.type_val_to_struct:
        if typdatum is not None and typdatum.bounds:
            upper = p.type_val_to_struct[typdatum.bounds]
            if upper is not None and upper.attribute:
                fail(p, f"type {p.sym_val_to_name[SYM_TYPES][typdatum.value].decode('latin-1')}: bounded by attribute "
                        f"{p.sym_val_to_name[SYM_TYPES][upper.value].decode('latin-1')}")
