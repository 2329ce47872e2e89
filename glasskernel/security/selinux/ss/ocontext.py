"""The contexts that a policy gives to objects without labels of their own, and the ranges of transitions.

Linux: ocontext_read(), genfs_read(), range_read() of security/selinux/ss/policydb.c (5.3). Same: formats, checks, the
    order of genfs rules (longest path first, so the first that fits decides).
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.ss.context import NO_RANGE, Context
from glasskernel.security.selinux.ss.isvalid import (
    policydb_class_isvalid,
    policydb_context_isvalid,
    policydb_type_isvalid,
)
from glasskernel.security.selinux.ss.mls import mls_range_isvalid
from glasskernel.security.selinux.ss.symtab import mls_read_range_helper
from glasskernel.security.selinux.types import (
    POLICYDB_VERSION_MLS,
    POLICYDB_VERSION_RANGETRANS,
    SECURITY_FS_USE_MAX,
    SECURITY_FS_USE_MNTPOINT,
)

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policydb import PolicyDb
    from glasskernel.security.selinux.ss.policyfile import PolicyFile

OCON_ISID, OCON_FS, OCON_PORT, OCON_NETIF, OCON_NODE, OCON_FSUSE, OCON_NODE6, OCON_IBPKEY, OCON_IBENDPORT = range(9)
OCON_NUM = 9

_ipv4 = Struct("<4s4s")
_ipv6 = Struct("<16s16s")
_subnet_prefix = Struct("<8s")


@slotted
class Ocontext:
    """struct ocontext: which fields are used depends on the list it is in"""
    context: list[Context]          # a network interface and a file system have two
    name: bytes = b""               # OCON_FS, OCON_NETIF, OCON_FSUSE, OCON_IBENDPORT
    initial_sid: int = 0            # OCON_ISID (sid[0])
    behavior: int = 0               # OCON_FSUSE: SECURITY_FS_USE_*
    protocol: int = 0               # OCON_PORT
    low: int = 0                    # OCON_PORT, OCON_IBPKEY; the port of OCON_IBENDPORT
    high: int = 0
    addr: bytes = b""               # OCON_NODE, OCON_NODE6, in network order; the prefix of OCON_IBPKEY
    mask: bytes = b""


@slotted
class GenfsPath:
    """One path of a file system (struct ocontext in Linux)"""
    name: bytes
    sclass: int                     # of this class only; 0: of all
    context: Context


@slotted
class Genfs:
    """struct genfs"""
    fstype: bytes
    head: list[GenfsPath] = field(default_factory=list)


def context_read_and_validate(p: PolicyDb, fp: PolicyFile) -> Context:
    """A context. Raises EINVAL."""
    user, role, type = fp.u32s(3)
    range = mls_read_range_helper(fp) if p.policyvers >= POLICYDB_VERSION_MLS else NO_RANGE
    context = Context(user, role, type, range if p.mls_enabled else NO_RANGE)
    if not policydb_context_isvalid(p, context):
        fp.bad(" invalid security context")
    return context


@notrace
def _read_one(p: PolicyDb, kind: int, fp: PolicyFile) -> Ocontext:
    """What a context of this list is for, then the context."""
    c = Ocontext([])
    if kind == OCON_ISID:
        c.initial_sid = fp.u32()
    elif kind in (OCON_FS, OCON_NETIF):
        c.name = fp.string(fp.u32())
        c.context.append(context_read_and_validate(p, fp))
    elif kind == OCON_PORT:
        c.protocol, c.low, c.high = fp.u32s(3)
    elif kind == OCON_NODE:
        c.addr, c.mask = fp.unpack(_ipv4)
    elif kind == OCON_NODE6:
        c.addr, c.mask = fp.unpack(_ipv6)
    elif kind == OCON_FSUSE:
        c.behavior, length = fp.u32s(2)
        if c.behavior == SECURITY_FS_USE_MNTPOINT or c.behavior > SECURITY_FS_USE_MAX:
            raise KernelError(EINVAL)
        c.name = fp.string(length)
    elif kind == OCON_IBPKEY:
        (c.addr,) = fp.unpack(_subnet_prefix)
        c.low, c.high = fp.u32s(2)
        if c.low > 0xFFFF or c.high > 0xFFFF:
            raise KernelError(EINVAL)
    else:
        length, c.low = fp.u32s(2)
        c.name = fp.string(length)
        if not 0 < c.low <= 0xFF:
            raise KernelError(EINVAL)
    c.context.append(context_read_and_validate(p, fp))
    return c


def ocontext_read(p: PolicyDb, ocon_num: int, fp: PolicyFile) -> None:
    """All lists. Raises EINVAL."""
    for kind in range(ocon_num):
        for _ in range(fp.u32()):
            p.ocontexts[kind].append(_read_one(p, kind, fp))


def genfs_read(p: PolicyDb, fp: PolicyFile) -> None:
    """The labels of paths. Raises EINVAL."""
    for _ in range(fp.u32()):
        genfs = Genfs(fp.string(fp.u32()))
        if any(other.fstype == genfs.fstype for other in p.genfs):
            fp.bad(f" dup genfs fstype {genfs.fstype.decode('latin-1')}")
        p.genfs.append(genfs)
        for _ in range(fp.u32()):
            name = fp.string(fp.u32())
            path = GenfsPath(name, fp.u32(), context_read_and_validate(p, fp))
            if any(other.name == name and (not path.sclass or not other.sclass or path.sclass == other.sclass)
                   for other in genfs.head):
                fp.bad(f" dup genfs entry ({genfs.fstype.decode('latin-1')},{name.decode('latin-1')})")
            genfs.head.append(path)
        genfs.head.sort(key=lambda path: -len(path.name))
    p.genfs.sort(key=lambda genfs: genfs.fstype)


def range_read(p: PolicyDb, fp: PolicyFile) -> None:
    """The ranges of transitions. Raises EINVAL."""
    if p.policyvers < POLICYDB_VERSION_MLS:
        return
    for _ in range(fp.u32()):
        source_type, target_type = fp.u32s(2)
        target_class = fp.u32() if p.policyvers >= POLICYDB_VERSION_RANGETRANS else p.process_class
        if not (policydb_type_isvalid(p, source_type) and policydb_type_isvalid(p, target_type) and
                policydb_class_isvalid(p, target_class)):
            raise KernelError(EINVAL)
        target_range = mls_read_range_helper(fp)
        if not mls_range_isvalid(p, target_range):
            fp.bad("rangetrans:  invalid range")
        p.range_tr[source_type, target_type, target_class] = target_range
