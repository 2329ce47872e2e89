"""The files of groups: tables of the controllers, and of cgroups themselves, as files of kernfs.

Linux: the cgroup_addrm_files() part of kernel/cgroup/cgroup.c (5.3). Same: names, modes, which files the root has, how
    numbers are read and written.
Differs: of a file's kernfs node, priv is (css, cft); files of the core have the group itself for a css.
Owns: nothing. Context: task; cgroup_mutex is held to add and remove, not to read and write.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.kernfs import KernfsOps, __kernfs_create_file, kernfs_find_and_get, kernfs_remove
from glasskernel.fs.seq_file import seq_printf
from glasskernel.kernel.cgroup.types import (
    CFTYPE_NO_PREFIX,
    CFTYPE_NOT_ON_ROOT,
    CFTYPE_ONLY_ON_ROOT,
    CFTYPE_WORLD_WRITABLE,
    CGRP_ROOT_NOPREFIX,
)
from glasskernel.lib.errno import EINVAL, ERANGE, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.kernel.cgroup.types import Cftype, Cgroup, CgroupSubsys


@notrace
def of_css(of: KernfsNode) -> Any:
    """The state whose file it is: in write()."""
    return of.priv[0]


@notrace
def of_cft(of: KernfsNode) -> Cftype:
    cft: Cftype = of.priv[1]
    return cft


@notrace
def seq_css(m: SeqFile) -> Any:
    """The state whose file it is: in seq_show()."""
    return m.private.priv[0]


@notrace
def seq_cft(m: SeqFile) -> Cftype:
    cft: Cftype = m.private.priv[1]
    return cft


@notrace
def cgroup_parse_number(text: bytes, low: int, high: int) -> int:
    """kstrtoull(text, 0), kstrtoll(): one newline may follow. Raises EINVAL, ERANGE."""
    text = text.split(b"\0")[0]
    text = text[:-1] if text.endswith(b"\n") else text
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    base = 10
    if digits[:2].lower() == b"0x":
        base, digits = 16, digits[2:]
    elif digits[:1] == b"0" and len(digits) > 1:
        base = 8
    if not digits.isalnum():
        raise KernelError(EINVAL)
    try:
        value = int(digits, base)
    except ValueError:
        raise KernelError(EINVAL) from None
    if text[:1] == b"-":
        if low == 0:
            raise KernelError(EINVAL)
        value = -value
    if not low <= value <= high:
        raise KernelError(ERANGE)
    return value


def cgroup_seqfile_show(m: SeqFile, v: Any) -> int | None:
    """Reads a file. Errors: the controller's; EINVAL where nothing can be read."""
    css, cft = m.private.priv
    if cft.seq_show is not None:
        answer: int | None = cft.seq_show(m, v)
        return answer
    if cft.read_u64 is not None:
        seq_printf(m, b"%d\n", cft.read_u64(css, cft))
    elif cft.read_s64 is not None:
        seq_printf(m, b"%d\n", cft.read_s64(css, cft))
    else:
        raise KernelError(EINVAL)
    return None


def cgroup_file_write(of: KernfsNode, buf: bytes, off: int) -> int:
    """Writes to a file. Errors: the controller's; EINVAL, ERANGE for what is no number."""
    css, cft = of.priv
    if cft.write is not None:
        cft.write(of, buf)
    elif cft.write_u64 is not None:
        cft.write_u64(css, cft, cgroup_parse_number(buf, 0, (1 << 64) - 1))
    elif cft.write_s64 is not None:
        cft.write_s64(css, cft, cgroup_parse_number(buf, -1 << 63, (1 << 63) - 1))
    else:
        raise KernelError(EINVAL)
    return len(buf)


_ops = {
    (True, True): KernfsOps(cgroup_seqfile_show, cgroup_file_write),
    (True, False): KernfsOps(seq_show=cgroup_seqfile_show),
    (False, True): KernfsOps(write=cgroup_file_write),
}


@notrace
def _readable(cft: Cftype) -> bool:
    return cft.seq_show is not None or cft.read_u64 is not None or cft.read_s64 is not None


@notrace
def _writable(cft: Cftype) -> bool:
    return cft.write is not None or cft.write_u64 is not None or cft.write_s64 is not None


@notrace
def cgroup_file_mode(cft: Cftype) -> int:
    """Readable by all, writable by root, as far as it can be read and written."""
    if cft.mode:
        return cft.mode
    mode = 0o444 if _readable(cft) else 0
    if _writable(cft):
        mode |= 0o222 if cft.flags & CFTYPE_WORLD_WRITABLE else 0o200
    return mode


@notrace
def cgroup_file_name(cgrp: Cgroup, ss: CgroupSubsys | None, cft: Cftype) -> bytes:
    """b"cpuset.cpus", or with noprefix b"cpus"."""
    if ss is None or cft.flags & CFTYPE_NO_PREFIX or cgrp.root.flags & CGRP_ROOT_NOPREFIX:
        return cft.name
    return (ss.legacy_name if cgrp.root.hierarchy_id and ss.legacy_name else ss.name) + b"." + cft.name


@notrace
def _wanted(cgrp: Cgroup, cft: Cftype) -> bool:
    is_root = cgrp.parent is None
    return not ((cft.flags & CFTYPE_NOT_ON_ROOT and is_root) or (cft.flags & CFTYPE_ONLY_ON_ROOT and not is_root))


@notrace
def cgroup_add_files(cgrp: Cgroup, ss: CgroupSubsys | None, css: Any, cfts: Iterable[Cftype]) -> None:
    """The files of a controller, or of the core (ss: None), appear in the group's directory."""
    for cft in cfts:
        if _wanted(cgrp, cft):
            kn = __kernfs_create_file(cgrp.kn, cgroup_file_name(cgrp, ss, cft), cgroup_file_mode(cft), 0,
                                      _ops[_readable(cft), _writable(cft)], (css, cft))
            kn.uid, kn.gid = cgrp.kn.uid, cgrp.kn.gid


@notrace
def cgroup_rm_files(cgrp: Cgroup, ss: CgroupSubsys | None, cfts: Iterable[Cftype]) -> None:
    for cft in cfts:
        kn = kernfs_find_and_get(cgrp.kn, cgroup_file_name(cgrp, ss, cft))
        if kn is not None:
            kernfs_remove(kn)
