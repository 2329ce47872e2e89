"""Reading directories.

Linux: fs/ext4/dir.c, ext4_htree_fill_tree() in namei.c (5.3). Same: linear directories with positions in bytes, which
    are found again after a change; indexed ones in the order of hashes, with the hash as the position.
Differs: what Linux keeps in a red-black tree an open file keeps in a sorted list.
Locks: the directory's i_rwsem, shared.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.dirent import (
    D_TYPE,
    DIRENT_BLOCK,
    __ext4_check_dir_entry,
    ext4_read_dirblock,
    unpack_dirent,
)
from glasskernel.fs.ext4.errors import EFSBADCRC, EFSCORRUPTED
from glasskernel.fs.ext4.hash import DxHashInfo, ext4fs_dirhash
from glasskernel.fs.ext4.htree import (
    BadDx,
    dx_get_block,
    dx_probe,
    dx_release,
    ext4_htree_next_block,
    is_dx,
    leaf_entries,
)
from glasskernel.fs.ext4.inode_map import hole_length
from glasskernel.fs.ext4.types import EXT4_HTREE_EOF_64BIT, EXT4_I, EXT4_INDEX_FL, EXT4_SB
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import fatal_signal_pending
from glasskernel.lib.errno import EINTR, EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import DirContext, File, Inode

Fname = tuple[int, int, int, int, bytes]   # hash, minor hash, inode, file type, name


@slotted
class DirPrivateInfo:
    """struct dir_private_info: where an open indexed directory is. names: of the leaves read so far, by hash."""

    names: list[Fname] = field(default_factory=list)
    curr_hash: int = 0
    curr_minor_hash: int = 0
    next_hash: int = 0
    last_pos: int = 0
    i_version: int = -1


@notrace
def get_dtype(inode: Inode, file_type: int) -> int:
    if not EXT4_SB(inode.i_sb).s_es.s_feature_incompat & 2 or file_type >= len(D_TYPE):
        return 0
    return D_TYPE[file_type]


@notrace
def hash2pos(major: int, minor: int) -> int:
    return major >> 1 << 32 | minor


@may_sleep
def ext4_readdir(file: File, ctx: DirContext) -> None:
    """->iterate()."""
    inode = file.f_inode
    if is_dx(inode):
        try:
            ext4_dx_readdir(file, ctx)
            return
        except BadDx:
            EXT4_I(inode).i_flags &= ~EXT4_INDEX_FL  # in memory only: read it as a list
    sb = inode.i_sb
    size = sb.s_blocksize
    offset = ctx.pos & size - 1
    version: DirPrivateInfo | None = file.private_data
    if version is None:
        version = file.private_data = DirPrivateInfo(i_version=inode.i_version)
    while ctx.pos < inode.i_size:
        if fatal_signal_pending(current()):
            raise KernelError(EINTR)
        offset = ctx.pos & size - 1
        try:
            bh = ext4_read_dirblock(inode, ctx.pos >> sb.s_blocksize_bits, DIRENT_BLOCK)
        except KernelError as e:
            if e.errno in (EFSBADCRC, EFSCORRUPTED) and ctx.pos >= size:
                block = ctx.pos >> sb.s_blocksize_bits               # said already: go on behind it
                left = (inode.i_size >> sb.s_blocksize_bits) - block
                ctx.pos += size * hole_length(inode, block, left) - offset
                continue
            raise
        try:
            data = bh.b_data
            if version.i_version != inode.i_version:
                # Entries may have moved: find the first one that is not before the position.
                i = 0
                while i < size and i < offset:
                    rlen = unpack_dirent(data, i)[1]
                    if rlen < 12:
                        break
                    i += rlen
                offset = i
                ctx.pos = ctx.pos & ~(size - 1) | offset
                version.i_version = inode.i_version
            while ctx.pos < inode.i_size and offset < size:
                if __ext4_check_dir_entry(inode, bh, data, offset, size, ctx.pos - offset):
                    ctx.pos = (ctx.pos | size - 1) + 1
                    break
                ino, rlen, name_len, file_type = unpack_dirent(data, offset)
                if ino and not ctx.emit(
                    bytes(data[offset + 8 : offset + 8 + name_len]), ino, get_dtype(inode, file_type)
                ):
                    return
                offset += rlen
                ctx.pos += rlen
        finally:
            brelse(bh)


# ---- indexed -----------------------------------------------------------------------------------------------
@may_sleep
def htree_dirblock_to_tree(dir: Inode, block: int, hinfo: DxHashInfo, start_hash: int, start_minor_hash: int,
                           names: list[Fname]) -> int:
    """Adds the entries of a leaf from a hash on. Answers how many."""
    bh = ext4_read_dirblock(dir, block, DIRENT_BLOCK)
    count = 0
    try:
        data = bh.b_data
        for offset, ino, _rlen, name_len, file_type in leaf_entries(dir, data):
            name = bytes(data[offset + 8 : offset + 8 + name_len])
            h = DxHashInfo(hinfo.hash_version, hinfo.seed)
            ext4fs_dirhash(name, h)
            if (h.hash, h.minor_hash) < (start_hash, start_minor_hash):
                continue
            names.append((h.hash, h.minor_hash, ino, file_type, name))
            count += 1
    finally:
        brelse(bh)
    return count


@may_sleep
def ext4_htree_fill_tree(dir: Inode, info: DirPrivateInfo) -> int:
    """Reads the entries from info.curr_hash on, a leaf (and those that share its last hash) at a time. Raises BadDx."""
    sbi = EXT4_SB(dir.i_sb)
    hinfo = DxHashInfo(0, sbi.s_hash_seed, info.curr_hash, info.curr_minor_hash)
    frames = dx_probe(None, dir, hinfo)
    count = 0
    try:
        start_hash, start_minor = info.curr_hash, info.curr_minor_hash
        root = frames[0].data
        if not start_hash and not start_minor:
            info.names.append((0, 0, unpack_dirent(root, 0)[0], 2, b"."))
            count += 1
        if start_hash < 2 or (start_hash == 2 and not start_minor):
            info.names.append((2, 0, unpack_dirent(root, 12)[0], 2, b".."))
            count += 1
        hashval = [0]
        while True:
            block = dx_get_block(frames[-1], frames[-1].at)
            count += htree_dirblock_to_tree(dir, block, hinfo, start_hash, start_minor, info.names)
            hashval[0] = 0xFFFFFFFF
            more = ext4_htree_next_block(dir, 1, frames, hashval)
            info.next_hash = hashval[0]
            if not more or (count and not hashval[0] & 1):
                break
    finally:
        dx_release(frames)
    info.names.sort()
    return count


@may_sleep
def ext4_dx_readdir(file: File, ctx: DirContext) -> None:
    """ext4_readdir() in the order of hashes. Raises BadDx."""
    inode = file.f_inode
    info: DirPrivateInfo | None = file.private_data
    if info is None or info.last_pos != ctx.pos:
        info = file.private_data = DirPrivateInfo()
        info.curr_hash, info.curr_minor_hash = ctx.pos >> 32 << 1, ctx.pos & 0xFFFFFFFF
    if ctx.pos == EXT4_HTREE_EOF_64BIT:
        return
    while True:
        if not info.names or info.i_version != inode.i_version:
            info.names = []
            info.i_version = inode.i_version
            if not ext4_htree_fill_tree(inode, info):
                ctx.pos = EXT4_HTREE_EOF_64BIT
                break
        names = info.names
        while names:
            hash_, minor, ino, file_type, name = names[0]
            info.curr_hash, info.curr_minor_hash = hash_, minor
            ctx.pos = hash2pos(hash_, minor)
            if not ctx.emit(name, ino, get_dtype(inode, file_type)):
                info.last_pos = ctx.pos
                return
            names.pop(0)
            if names:
                ctx.pos = hash2pos(names[0][0], names[0][1])
        if info.next_hash == 0xFFFFFFFF:
            ctx.pos = EXT4_HTREE_EOF_64BIT
            break
        info.curr_hash, info.curr_minor_hash = info.next_hash, 0
        ctx.pos = hash2pos(info.next_hash, 0)
        info.i_version = -1                          # fill again, from the next leaf on
    info.last_pos = ctx.pos


def ext4_release_dir(inode: Inode, file: File) -> None:
    """->release()."""
    file.private_data = None


def ext4_dir_llseek(file: File, offset: int, whence: int) -> int:
    """->llseek(): any position that readdir gave. Raises EINVAL."""
    inode = file.f_inode
    end = EXT4_HTREE_EOF_64BIT if is_dx(inode) else inode.i_size
    if whence == 1:
        offset += file.f_pos
    elif whence == 2:
        offset += end
    elif whence != 0:
        raise KernelError(EINVAL)
    if offset < 0 or offset > max(end, inode.i_sb.s_maxbytes):
        raise KernelError(EINVAL)
    if offset != file.f_pos:
        file.f_pos = offset
        if file.private_data is not None:
            file.private_data.i_version = -1
    return offset


