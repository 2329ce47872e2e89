"""Removing extents: truncate, punch, and the blocks of the tree itself.

Linux: ext4_ext_remove_space() and what it calls in fs/ext4/extents.c (5.3).
Same: from right to left, a restart of the transaction when credits run out, empty leaves and indexes go at once.
Differs: the path is looked up again for each leaf instead of being walked with a stack.
Locks: i_data_sem for writing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.disk import U16, U32
from glasskernel.fs.ext4.errors import EFSCORRUPTED, ext4_error_inode
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_should_journal_data,
)
from glasskernel.fs.ext4.extents import (
    EXT4_EXT_MARK_UNWRIT1,
    EXT4_EXT_MARK_UNWRIT2,
    EXT4_EXT_MAY_ZEROOUT,
    EXT4_ROOT_ENTRIES,
    ExtPath,
    eh_entries,
    ext4_ext_correct_indexes,
    ext4_ext_dirty,
    ext4_ext_drop_refs,
    ext4_ext_get_access,
    ext4_ext_truncate_extend_restart,
    ext4_find_extent,
    ext_depth,
    get_extent,
    key_of,
    move_entries,
    put_extent,
    set_entries,
)
from glasskernel.fs.ext4.extents_split import ext4_split_extent_at
from glasskernel.fs.ext4.extents_status import ext4_es_remove_extent
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.mballoc import ext4_free_blocks
from glasskernel.fs.ext4.types import (
    EXT4_EX_NOCACHE,
    EXT4_FREE_BLOCKS_FORGET,
    EXT4_FREE_BLOCKS_METADATA,
    EXT4_GET_BLOCKS_METADATA_NOFAIL,
    EXT4_GET_BLOCKS_PRE_IO,
    EXT4_HT_TRUNCATE,
    EXT4_I,
    EXT4_SB,
    EXT_MAX_BLOCKS,
)
from glasskernel.fs.types import S_IFDIR, S_IFLNK, S_IFMT
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode


@may_sleep
def ext4_remove_blocks(handle: Handle, inode: Inode, ex: tuple[int, int, int, bool], start: int, to: int) -> None:
    """Frees the blocks of logical start..to of an extent."""
    probe = inode.i_sb.kernel.tp.ext4_remove_blocks
    if probe is not None:
        probe(inode, ex, start, to, None)
    flags = 0
    if inode.i_mode & S_IFMT in (S_IFDIR, S_IFLNK):
        flags = EXT4_FREE_BLOCKS_METADATA | EXT4_FREE_BLOCKS_FORGET
    elif ext4_should_journal_data(inode):
        flags = EXT4_FREE_BLOCKS_FORGET
    ext4_free_blocks(handle, inode, None, ex[2] + start - ex[0], to - start + 1, flags)


@may_sleep
def ext4_ext_rm_idx(handle: Handle, inode: Inode, path: list[ExtPath], depth: int) -> None:
    """The child of path[depth - 1] at its position is empty: its block is freed, and parents that become empty too."""
    level = path[depth - 1]
    child = path[depth].p_bh
    ext4_ext_get_access(handle, inode, level)
    node = level.p_hdr
    entries = eh_entries(node)
    pos = level.p_pos
    move_entries(node, pos + 1, pos, entries - pos - 1)
    set_entries(node, entries - 1)
    ext4_ext_dirty(handle, inode, level)
    assert child is not None
    block = child.b_blocknr
    probe = inode.i_sb.kernel.tp.ext4_ext_rm_idx
    if probe is not None:
        probe(inode, block)
    ext4_free_blocks(handle, inode, None, block, 1, EXT4_FREE_BLOCKS_METADATA | EXT4_FREE_BLOCKS_FORGET)
    if not entries - 1:
        if depth > 1:
            ext4_ext_rm_idx(handle, inode, path, depth - 1)
        return
    while not pos and depth > 1:                     # the first key changed: parents follow
        key = key_of(path[depth - 1].p_hdr, 0)
        depth -= 1
        upper = path[depth - 1]
        ext4_ext_get_access(handle, inode, upper)
        U32.pack_into(upper.p_hdr, 12 + 12 * upper.p_pos, key)
        ext4_ext_dirty(handle, inode, upper)
        pos = upper.p_pos


@may_sleep
def ext4_ext_rm_leaf(handle: Handle, inode: Inode, path: list[ExtPath], start: int, end: int) -> bool:
    """Removes blocks start..end from one leaf, the last extent first. True: the transaction was restarted, look
    again.
    """
    leaf = path[-1]
    node = leaf.p_hdr
    depth = len(path) - 1
    probe = inode.i_sb.kernel.tp.ext4_ext_rm_leaf
    if probe is not None:
        probe(inode, start, None, None)
    pos = leaf.p_pos
    while pos >= 0:
        ex = get_extent(node, pos)
        ex_end = ex[0] + ex[1] - 1
        if ex_end < start:
            break
        if ex[0] > end:
            pos -= 1
            continue
        a, b = max(ex[0], start), min(ex_end, end)
        if b != ex_end:
            ext4_error_inode(inode, f"can not handle truncate {start}:{end} on extent {ex[0]}:{ex_end}")
            raise KernelError(EFSCORRUPTED)
        credits = 7 + 2 * (ex[1] // EXT4_SB(inode.i_sb).s_blocks_per_group)
        if not pos:
            credits += depth + 1
        if ext4_ext_truncate_extend_restart(handle, inode, credits + 2):
            return True
        ext4_ext_get_access(handle, inode, leaf)
        ext4_remove_blocks(handle, inode, ex, a, b)
        if a == ex[0]:
            entries = eh_entries(node)
            move_entries(node, pos + 1, pos, entries - pos - 1)
            set_entries(node, entries - 1)
        else:
            put_extent(node, pos, ex[0], a - ex[0], ex[2], ex[3])
        ext4_ext_dirty(handle, inode, leaf)
        leaf.p_pos = pos
        if a == ex[0] and not pos and eh_entries(node):
            ext4_ext_correct_indexes(handle, inode, path)
        pos -= 1
    if not eh_entries(node) and depth:
        ext4_ext_rm_idx(handle, inode, path, depth)
    return False


@may_sleep
def ext4_ext_remove_space(inode: Inode, start: int, end: int) -> None:
    """Removes logical blocks start..end. Locks: i_data_sem for writing. Raises EIO, EFSCORRUPTED, ENOSPC (a split)."""
    probe = inode.i_sb.kernel.tp.ext4_ext_remove_space
    if probe is not None:
        probe(inode, start, end, ext_depth(inode))
    handle = ext4_journal_start(inode, EXT4_HT_TRUNCATE, ext_depth(inode) + 1 + 8)
    try:
        if end < EXT_MAX_BLOCKS - 1:
            _split_at_end(handle, inode, end)
        last = end
        while True:
            path = ext4_find_extent(inode, last, EXT4_EX_NOCACHE)
            try:
                leaf = path[-1]
                if leaf.p_pos < 0:
                    break
                first = key_of(leaf.p_hdr, 0)
                if len(path) > 1:                    # the index entry may be lower than the leaf's first extent
                    first = min(first, key_of(path[-2].p_hdr, path[-2].p_pos))
                leftmost = not any(level.p_pos for level in path[:-1])
                if ext4_ext_rm_leaf(handle, inode, path, start, end):
                    continue
            finally:
                ext4_ext_drop_refs(path)
            if first <= start or leftmost:
                break
            last = first - 1
        root = EXT4_I(inode).i_data
        probe = inode.i_sb.kernel.tp.ext4_ext_remove_space_done
        if probe is not None:
            probe(inode, start, end, ext_depth(inode), None, eh_entries(root))
        if not eh_entries(root):
            U16.pack_into(root, 6, 0)
            U16.pack_into(root, 4, EXT4_ROOT_ENTRIES)
        ext4_mark_inode_dirty(handle, inode)
    finally:
        ext4_journal_stop(handle)


@notrace
@may_sleep
def _split_at_end(handle: Handle, inode: Inode, end: int) -> None:
    """An extent that reaches behind `end` is cut in two, so that whole extents can go."""
    path = ext4_find_extent(inode, end, EXT4_EX_NOCACHE)
    try:
        leaf = path[-1]
        if leaf.p_pos < 0:
            return
        block, length, _, unwritten = get_extent(leaf.p_hdr, leaf.p_pos)
        if block <= end < block + length - 1:
            split_flag = EXT4_EXT_MARK_UNWRIT1 | EXT4_EXT_MARK_UNWRIT2 if unwritten else 0
            credits = 8 + 2 * len(path)
            if ext4_ext_truncate_extend_restart(handle, inode, credits):
                ext4_ext_drop_refs(path)
                path = ext4_find_extent(inode, end, EXT4_EX_NOCACHE)
            path = ext4_split_extent_at(handle, inode, path, end + 1, split_flag & ~EXT4_EXT_MAY_ZEROOUT,
                                        EXT4_GET_BLOCKS_PRE_IO | EXT4_GET_BLOCKS_METADATA_NOFAIL | EXT4_EX_NOCACHE)
    finally:
        ext4_ext_drop_refs(path)


@may_sleep
def ext4_ext_truncate(handle: Handle, inode: Inode) -> None:
    """Frees what lies behind i_size. Locks: i_data_sem for writing."""
    sb = inode.i_sb
    ei = EXT4_I(inode)
    ei.i_disksize = inode.i_size
    ext4_mark_inode_dirty(handle, inode)
    last_block = inode.i_size + sb.s_blocksize - 1 >> sb.s_blocksize_bits
    ext4_es_remove_extent(inode, last_block, EXT_MAX_BLOCKS - last_block)
    ext4_ext_remove_space(inode, last_block, EXT_MAX_BLOCKS - 1)
