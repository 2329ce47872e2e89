"""Directories of overlayfs: the names of all layers, each once.

Linux: fs/overlayfs/readdir.c (5.3). Same: upper names first, whiteouts and what they hide left out; a
    snapshot that is taken when reading begins.
Owns: file.private_data, the snapshot.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import dput
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file_table import fput
from glasskernel.fs.libfs import dir_emit_dots, generic_read_dir
from glasskernel.fs.overlayfs.util import (
    OVL_FS,
    OVL_I,
    lookup_real,
    override_creds,
    ovl_is_whiteout,
    ovl_map_ino,
    revert_creds,
)
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import DT_CHR, O_DIRECTORY, O_RDONLY, DirContext, FileOperations, Path
from glasskernel.lib.errno import ENOTEMPTY, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Inode

Entry = tuple[bytes, int, int]


@may_sleep
@notrace
def ovl_dir_read(path: Path) -> list[Entry]:
    """Every name of one real directory but "." and ".."."""
    found: list[Entry] = []

    def emit(name: bytes, ino: int, kind: int) -> bool:
        if name not in (b".", b".."):
            found.append((name, ino, kind))
        return True

    file = dentry_open(path, O_RDONLY | O_DIRECTORY)
    try:
        ctx = DirContext(emit)
        while True:
            before = len(found), ctx.pos
            file.f_op.iterate(file, ctx)
            if (len(found), ctx.pos) == before:
                return found
    finally:
        fput(file)


@may_sleep
def ovl_dir_read_merged(inode: Inode) -> list[Entry]:
    """(name, inode number, DT_*) of a directory of the overlay."""
    info = OVL_FS(inode.i_sb)
    oi = OVL_I(inode)
    seen: dict[bytes, None] = {}
    entries: list[Entry] = []
    old = override_creds(inode.i_sb)
    try:
        if oi.upper is not None:
            assert info.upper_mnt is not None
            for name, ino, kind in ovl_dir_read(Path(info.upper_mnt, oi.upper)):
                seen[name] = None
                child = oi.upper.d_subdirs.get(name)
                if kind == DT_CHR:
                    child = lookup_real(oi.upper, name)
                    hidden = ovl_is_whiteout(child)
                    dput(child)
                    if hidden:
                        continue
                origin = info.origins.get(child.d_inode) if child is not None and child.d_inode else None
                entries.append((name, origin or ovl_map_ino(info, 0, ino), kind))
        for layer, dentry in oi.lower:
            mount = info.layers[layer]
            assert mount is not None
            for name, ino, kind in ovl_dir_read(Path(mount[0], dentry)):
                if name not in seen:
                    seen[name] = None
                    entries.append((name, ovl_map_ino(info, layer, ino), kind))
    finally:
        revert_creds(old)
    return entries


@may_sleep
def ovl_iterate(file: File, ctx: DirContext) -> None:
    if ctx.pos == 0 or file.private_data is None:
        file.private_data = ovl_dir_read_merged(file.f_inode)
    if not dir_emit_dots(file, ctx):
        return
    entries: list[Entry] = file.private_data
    while ctx.pos - 2 < len(entries):
        name, ino, kind = entries[ctx.pos - 2]
        if not ctx.emit(name, ino, kind):
            return
        ctx.pos += 1


@may_sleep
def ovl_check_empty_dir(dentry: Dentry) -> list[bytes]:
    """Raises ENOTEMPTY; answers the whiteouts in the upper directory, which must go before it can."""
    inode = dentry.d_inode
    assert inode is not None
    if ovl_dir_read_merged(inode):
        raise KernelError(ENOTEMPTY)
    oi = OVL_I(inode)
    if oi.upper is None:
        return []
    info = OVL_FS(inode.i_sb)
    assert info.upper_mnt is not None
    return [name for name, _, kind in ovl_dir_read(Path(info.upper_mnt, oi.upper)) if kind == DT_CHR]


@notrace
def ovl_dir_fsync(file: File, start: int, end: int, datasync: int) -> None:
    """Nothing of a directory waits to be written."""


ovl_dir_operations = FileOperations(
    read_iter=generic_read_dir, iterate=ovl_iterate, llseek=generic_file_llseek, fsync=ovl_dir_fsync,
)
