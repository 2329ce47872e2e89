"""The tree of extents of a file: finding, inserting, splitting, merging.

Linux: fs/ext4/extents.c (5.3); removal is extents_remove.py, mapping and conversion extents_map.py.
Same: the root in the inode, up to five levels, unwritten extents by ee_len > 32768, leaves split in the middle of the
    path, checksums in the tail, EFSCORRUPTED with Linux's message for every malformed node.
Differs: a node is a slice of memory (the inode's 60 bytes, or a buffer's block); extents are addressed by position.
Lock order: i_data_sem (write for changes).  Invariant: entries are sorted, do not overlap, and the first key of a node
    is not below its index entry's.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import sb_getblk
from glasskernel.fs.buffer_head import (
    buffer_verified,
    set_buffer_uptodate,
    set_buffer_verified,
)
from glasskernel.fs.buffer_io import bh_submit_read, bh_uptodate_or_lock, brelse, lock_buffer, unlock_buffer
from glasskernel.fs.ext4.balloc import ext4_inode_to_goal_block
from glasskernel.fs.ext4.block_validity import ext4_data_block_valid
from glasskernel.fs.ext4.disk import EXTENT, EXTENT_HEADER, EXTENT_IDX, U16, U32, Memory
from glasskernel.fs.ext4.errors import EFSBADCRC, EFSCORRUPTED, ext4_error_inode
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_handle_dirty_metadata,
    ext4_journal_extend,
    ext4_journal_get_create_access,
    ext4_journal_get_write_access,
    ext4_journal_restart,
)
from glasskernel.fs.ext4.extents_status import ES_HOLE, ES_UNWRITTEN, ES_WRITTEN, ext4_es_cache_extent
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.mballoc import ext4_free_blocks, ext4_new_meta_blocks
from glasskernel.fs.ext4.types import (
    EXT4_EX_FORCE_CACHE,
    EXT4_EX_NOCACHE,
    EXT4_EXT_MAGIC,
    EXT4_FREE_BLOCKS_FORGET,
    EXT4_FREE_BLOCKS_METADATA,
    EXT4_GET_BLOCKS_DELALLOC_RESERVE,
    EXT4_GET_BLOCKS_METADATA_NOFAIL,
    EXT4_GET_BLOCKS_PRE_IO,
    EXT4_I,
    EXT4_SB,
    EXT_INIT_MAX_LEN,
    EXT_MAX_BLOCKS,
    EXT_UNWRITTEN_MAX_LEN,
    ext4_has_metadata_csum,
)
from glasskernel.kernel.locking.rwsem import down_write, up_write
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode

EXT4_MB_USE_RESERVED, EXT4_MB_DELALLOC_RESERVED = 0x2000, 0x400
EXT4_EXT_MAY_ZEROOUT, EXT4_EXT_MARK_UNWRIT1, EXT4_EXT_MARK_UNWRIT2 = 1, 2, 4
EXT4_EXT_DATA_VALID1, EXT4_EXT_DATA_VALID2 = 8, 16
EXT4_MAX_EXTENT_DEPTH = 5


@slotted
class ExtPath:
    """struct ext4_ext_path: one level. p_ext: position of the extent (leaf) or index entry in the node, -1: none."""

    p_hdr: Memory                      # the node
    p_bh: BufferHead | None = None     # None: the root, in the inode
    p_depth: int = 0                   # of this node: 0 is a leaf
    p_block: int = 0                   # of the child (index) or of the data (leaf)
    p_pos: int = -1
    p_maxdepth: int = 0


# ---- nodes -------------------------------------------------------------------------------------------------
@notrace
def eh_entries(node: Memory) -> int:
    return U16.unpack_from(node, 2)[0]  # type: ignore[no-any-return]


@notrace
def eh_max(node: Memory) -> int:
    return U16.unpack_from(node, 4)[0]  # type: ignore[no-any-return]


@notrace
def eh_depth(node: Memory) -> int:
    return U16.unpack_from(node, 6)[0]  # type: ignore[no-any-return]


@notrace
def set_entries(node: Memory, count: int) -> None:
    U16.pack_into(node, 2, count)


@notrace
def get_extent(node: Memory, pos: int) -> tuple[int, int, int, bool]:
    """(first logical block, length, first physical block, unwritten)"""
    block, length, hi, lo = EXTENT.unpack_from(node, 12 + 12 * pos)
    if length > EXT_INIT_MAX_LEN:
        return block, length - EXT_INIT_MAX_LEN, hi << 32 | lo, True
    return block, length, hi << 32 | lo, False


@notrace
def put_extent(node: Memory, pos: int, block: int, length: int, pblk: int, unwritten: bool) -> None:
    assert 0 < length <= (EXT_UNWRITTEN_MAX_LEN if unwritten else EXT_INIT_MAX_LEN)
    EXTENT.pack_into(node, 12 + 12 * pos, block, length + EXT_INIT_MAX_LEN if unwritten else length,
                     pblk >> 32, pblk & 0xFFFFFFFF)


@notrace
def get_index(node: Memory, pos: int) -> tuple[int, int]:
    """(first logical block, block of the child)"""
    block, lo, hi, _ = EXTENT_IDX.unpack_from(node, 12 + 12 * pos)
    return block, hi << 32 | lo


@notrace
def put_index(node: Memory, pos: int, block: int, leaf: int) -> None:
    EXTENT_IDX.pack_into(node, 12 + 12 * pos, block, leaf & 0xFFFFFFFF, leaf >> 32, 0)


@notrace
def key_of(node: Memory, pos: int) -> int:
    return U32.unpack_from(node, 12 + 12 * pos)[0]  # type: ignore[no-any-return]


@notrace
def move_entries(node: Memory, source: int, target: int, count: int) -> None:
    data = bytes(node[12 + 12 * source : 12 + 12 * (source + count)])
    node[12 + 12 * target : 12 + 12 * (target + count)] = data


@notrace
def ext_depth(inode: Inode) -> int:
    return U16.unpack_from(inode.i_private.i_data, 6)[0]  # type: ignore[no-any-return]


@notrace
def ext4_ext_space_block(inode: Inode) -> int:
    return (inode.i_sb.s_blocksize - 12) // 12


ext4_ext_space_block_idx = ext4_ext_space_block
EXT4_ROOT_ENTRIES = 4


# ---- checks ------------------------------------------------------------------------------------------------
@notrace
def ext4_extent_block_csum(inode: Inode, node: Memory) -> int:
    return crc32c(EXT4_I(inode).i_csum_seed, node[: 12 + 12 * eh_max(node)])


def ext4_extent_block_csum_set(inode: Inode, node: Memory) -> None:
    if ext4_has_metadata_csum(inode.i_sb):
        U32.pack_into(node, 12 + 12 * eh_max(node), ext4_extent_block_csum(inode, node))


@notrace
def _header_problem(inode: Inode, node: Memory, depth: int) -> str:
    magic, entries, most, node_depth, _ = EXTENT_HEADER.unpack_from(node, 0)
    if magic != EXT4_EXT_MAGIC:
        return "invalid magic"
    if node_depth != depth:
        return "unexpected eh_depth"
    if not most:
        return "invalid eh_max"
    room = EXT4_ROOT_ENTRIES if len(node) == 60 else ext4_ext_space_block(inode)
    if most > room:
        return "too large eh_max"
    if entries > most:
        return "invalid eh_entries"
    if not ext4_valid_extent_entries(inode, node, depth):
        return "invalid extent entries"
    if depth > 32:
        return "too large eh_depth"
    if len(node) != 60 and ext4_has_metadata_csum(inode.i_sb):
        if U32.unpack_from(node, 12 + 12 * most)[0] != ext4_extent_block_csum(inode, node):
            return "extent tree corrupted"
    return ""


@notrace
def ext4_valid_extent_entries(inode: Inode, node: Memory, depth: int) -> bool:
    entries = eh_entries(node)
    sbi = EXT4_SB(inode.i_sb)
    journal = inode.i_ino == sbi.s_es.s_journal_inum
    previous = -1
    for pos in range(entries):
        if depth:
            _, leaf = get_index(node, pos)
            if not ext4_data_block_valid(sbi, leaf, 1):
                return False
        else:
            block, length, pblk, _ = get_extent(node, pos)
            if not length or block + length > EXT_MAX_BLOCKS + 1 or block <= previous:
                return False
            if not journal and not ext4_data_block_valid(sbi, pblk, length):
                return False
            previous = block + length - 1
    return True


@may_sleep
def __ext4_ext_check(inode: Inode, node: Memory, depth: int, pblk: int) -> None:
    """Raises EFSCORRUPTED, EFSBADCRC, with Linux's message."""
    message = _header_problem(inode, node, depth)
    if message:
        magic, entries, most, node_depth, _ = EXTENT_HEADER.unpack_from(node, 0)
        ext4_error_inode(inode, f"pblk {pblk} bad header/extent: {message} - magic {magic:x}, entries {entries}, "
                         f"max {most}({most}), depth {node_depth}({depth})")
        raise KernelError(EFSBADCRC if message == "extent tree corrupted" else EFSCORRUPTED)


@may_sleep
def ext4_ext_check_inode(inode: Inode) -> None:
    __ext4_ext_check(inode, EXT4_I(inode).i_data, ext_depth(inode), 0)


@may_sleep
def __read_extent_tree_block(inode: Inode, pblk: int, depth: int, flags: int) -> BufferHead:
    """A node below the root, checked, with a reference. Raises EIO, EFSCORRUPTED."""
    bh = sb_getblk(inode.i_sb, pblk)
    if bh is None:
        raise KernelError(ENOMEM)
    try:
        if not bh_uptodate_or_lock(bh):
            probe = inode.i_sb.kernel.tp.ext4_ext_load_extent
            if probe is not None:
                probe(inode, 0, pblk)
            bh_submit_read(bh)
        if not buffer_verified(bh) or flags & EXT4_EX_FORCE_CACHE:
            __ext4_ext_check(inode, bh.b_data, depth, pblk)
            set_buffer_verified(bh)
            if not flags & EXT4_EX_NOCACHE and not depth:
                ext4_cache_extents(inode, bh.b_data)
    except KernelError:
        brelse(bh)
        raise
    return bh


read_extent_tree_block = __read_extent_tree_block


def ext4_cache_extents(inode: Inode, node: Memory) -> None:
    """Notes what a leaf says in the extent status tree."""
    previous = 0
    for pos in range(eh_entries(node)):
        block, length, pblk, unwritten = get_extent(node, pos)
        if previous and previous != block:
            ext4_es_cache_extent(inode, previous, block - previous, 0, ES_HOLE)
        ext4_es_cache_extent(inode, block, length, pblk, ES_UNWRITTEN if unwritten else ES_WRITTEN)
        previous = block + length


# ---- finding -----------------------------------------------------------------------------------------------
@notrace
def ext4_ext_binsearch(node: Memory, block: int) -> int:
    """The last entry whose key is not above `block`; the first one if all are; -1 in an empty node."""
    low, high = 0, eh_entries(node)
    if not high:
        return -1
    while low < high:
        middle = low + high >> 1
        if U32.unpack_from(node, 12 + 12 * middle)[0] <= block:
            low = middle + 1
        else:
            high = middle
    return max(low - 1, 0)


def ext4_ext_drop_refs(path: list[ExtPath]) -> None:
    for level in path:
        if level.p_bh is not None:
            brelse(level.p_bh)
            level.p_bh = None


@may_sleep
def ext4_find_extent(inode: Inode, block: int, flags: int = 0) -> list[ExtPath]:
    """The path from the root to the leaf where `block` is or would be, with references. Raises EIO, EFSCORRUPTED."""
    node: Memory = EXT4_I(inode).i_data
    depth = eh_depth(node)
    if depth > EXT4_MAX_EXTENT_DEPTH:
        ext4_error_inode(inode, f"inode has invalid extent depth: {depth}")
        raise KernelError(EFSCORRUPTED)
    if not flags & EXT4_EX_NOCACHE and not depth:
        ext4_cache_extents(inode, node)
    level = ExtPath(node, None, depth)
    path = [level]
    try:
        while depth:
            level.p_pos = ext4_ext_binsearch(node, block)
            if level.p_pos < 0:
                ext4_error_inode(inode, "empty index node")
                raise KernelError(EFSCORRUPTED)
            level.p_block = get_index(node, level.p_pos)[1]
            depth -= 1
            bh = read_extent_tree_block(inode, level.p_block, depth, flags)
            node = bh.b_data
            level = ExtPath(node, bh, depth)
            path.append(level)
        level.p_pos = ext4_ext_binsearch(node, block)
        if level.p_pos >= 0:
            level.p_block = get_extent(node, level.p_pos)[2]
    except KernelError:
        ext4_ext_drop_refs(path)
        raise
    return path


def ext4_ext_next_allocated_block(path: list[ExtPath]) -> int:
    """The first logical block behind the position of the path that has an extent; EXT_MAX_BLOCKS: none."""
    for level in reversed(path):
        entries = eh_entries(level.p_hdr)
        if level.p_pos + 1 < entries and (level.p_pos >= 0 or level is path[-1]):
            return key_of(level.p_hdr, level.p_pos + 1)
    return EXT_MAX_BLOCKS


def ext4_ext_next_leaf_block(path: list[ExtPath]) -> int:
    """The first key of the leaf behind this one."""
    for level in reversed(path[:-1]):
        if level.p_pos + 1 < eh_entries(level.p_hdr):
            return key_of(level.p_hdr, level.p_pos + 1)
    return EXT_MAX_BLOCKS


def ext4_ext_search_left(path: list[ExtPath], lblk: int) -> tuple[int, int]:
    """(last logical, last physical block) of the extent before lblk; (0, 0): none."""
    leaf = path[-1]
    if leaf.p_pos < 0:
        return 0, 0
    block, length, pblk, _ = get_extent(leaf.p_hdr, leaf.p_pos)
    if lblk < block:
        return 0, 0
    return block + length - 1, pblk + length - 1


@may_sleep
def ext4_ext_search_right(inode: Inode, path: list[ExtPath], lblk: int) -> tuple[int, int]:
    """(first logical, first physical block) of the extent behind lblk; (0, 0): none. Raises EIO, EFSCORRUPTED."""
    leaf = path[-1]
    if leaf.p_pos < 0:
        return 0, 0
    block, length, pblk, _ = get_extent(leaf.p_hdr, leaf.p_pos)
    if lblk < block:
        return block, pblk
    if leaf.p_pos + 1 < eh_entries(leaf.p_hdr):
        block, _, pblk, _ = get_extent(leaf.p_hdr, leaf.p_pos + 1)
        return block, pblk
    for level in reversed(path[:-1]):
        if level.p_pos + 1 < eh_entries(level.p_hdr):
            child = get_index(level.p_hdr, level.p_pos + 1)[1]
            depth = level.p_depth - 1
            while True:
                bh = read_extent_tree_block(inode, child, depth, 0)
                node = bh.b_data
                if not eh_entries(node):
                    brelse(bh)
                    return 0, 0
                if not depth:
                    block, _, pblk, _ = get_extent(node, 0)
                    brelse(bh)
                    return block, pblk
                child = get_index(node, 0)[1]
                depth -= 1
                brelse(bh)
    return 0, 0


# ---- changing a node ---------------------------------------------------------------------------------------
@may_sleep
def ext4_ext_get_access(handle: Handle, inode: Inode, level: ExtPath) -> None:
    """The node is about to be changed; the root lies in the inode, which ext4_ext_dirty() stores."""
    if level.p_bh is not None:
        ext4_journal_get_write_access(handle, level.p_bh)


@may_sleep
def __ext4_ext_dirty(handle: Handle, inode: Inode, level: ExtPath) -> None:
    if level.p_bh is not None:
        ext4_extent_block_csum_set(inode, level.p_bh.b_data)
        ext4_handle_dirty_metadata(handle, inode, level.p_bh)
    else:
        ext4_mark_inode_dirty(handle, inode)


ext4_ext_dirty = __ext4_ext_dirty


@may_sleep
def ext4_ext_tree_init(handle: Handle, inode: Inode) -> None:
    """An empty tree in a new inode."""
    data = EXT4_I(inode).i_data
    data[:] = bytes(60)
    EXTENT_HEADER.pack_into(data, 0, EXT4_EXT_MAGIC, 0, EXT4_ROOT_ENTRIES, 0, 0)
    ext4_mark_inode_dirty(handle, inode)


@may_sleep
def ext4_ext_truncate_extend_restart(handle: Handle, inode: Inode, needed: int) -> bool:
    """Makes sure of credits. True: the transaction was restarted, i_data_sem was dropped meanwhile."""
    if getattr(handle, "h_transaction", None) is None or handle.h_buffer_credits >= needed:
        return False
    if ext4_journal_extend(handle, needed - handle.h_buffer_credits):
        return False
    ei = EXT4_I(inode)
    up_write(ei.i_data_sem)
    try:
        ext4_journal_restart(handle, needed)
    finally:
        down_write(ei.i_data_sem)
    return True


@may_sleep
def ext4_ext_correct_indexes(handle: Handle, inode: Inode, path: list[ExtPath]) -> None:
    """The first key of a leaf changed: index entries above follow."""
    leaf = path[-1]
    if len(path) == 1 or leaf.p_pos != 0:
        return
    border = key_of(leaf.p_hdr, 0)
    for level in reversed(path[:-1]):
        ext4_ext_get_access(handle, inode, level)
        U32.pack_into(level.p_hdr, 12 + 12 * level.p_pos, border)
        ext4_ext_dirty(handle, inode, level)
        if level.p_pos:
            break


# ---- growing -----------------------------------------------------------------------------------------------
@may_sleep
def ext4_ext_find_goal(inode: Inode, path: list[ExtPath], block: int) -> int:
    """Where the block should lie: behind its neighbour, or in the inode's group."""
    leaf = path[-1]
    if leaf.p_pos >= 0:
        ext_block, _, pblk, _ = get_extent(leaf.p_hdr, leaf.p_pos)
        if block > ext_block:
            return pblk + block - ext_block
        return max(pblk - (ext_block - block), 1)
    if leaf.p_bh is not None:
        return leaf.p_bh.b_blocknr
    return ext4_inode_to_goal_block(inode.i_sb, EXT4_I(inode), EXT4_I(inode).i_reserved_data_blocks > 0)


@may_sleep
def ext4_ext_new_meta_block(handle: Handle, inode: Inode, path: list[ExtPath], block: int, flags: int) -> int:
    goal = ext4_ext_find_goal(inode, path, block)
    return ext4_new_meta_blocks(handle, inode, goal, flags)[0]


@may_sleep
def ext4_ext_insert_index(handle: Handle, inode: Inode, level: ExtPath, logical: int, ptr: int) -> None:
    """A new child behind the position of the level. Raises EFSCORRUPTED."""
    ext4_ext_get_access(handle, inode, level)
    node = level.p_hdr
    entries = eh_entries(node)
    if entries >= eh_max(node) or (level.p_pos >= 0 and key_of(node, level.p_pos) == logical):
        ext4_error_inode(inode, f"logical {logical} == ei_block {logical}!")
        raise KernelError(EFSCORRUPTED)
    pos = level.p_pos
    pos = pos + 1 if logical > key_of(node, pos) else pos
    move_entries(node, pos, pos + 1, entries - pos)
    put_index(node, pos, logical, ptr)
    set_entries(node, entries + 1)
    ext4_ext_dirty(handle, inode, level)


@notrace
@may_sleep
def _new_node(handle: Handle, inode: Inode, newblock: int, depth: int, entries: bytes) -> BufferHead:
    bh = sb_getblk(inode.i_sb, newblock)
    if bh is None:
        raise KernelError(ENOMEM)
    lock_buffer(bh)
    try:
        ext4_journal_get_create_access(handle, bh)
        data = bh.b_data
        data[:] = bytes(len(data))
        EXTENT_HEADER.pack_into(data, 0, EXT4_EXT_MAGIC, len(entries) // 12, ext4_ext_space_block(inode), depth, 0)
        data[12 : 12 + len(entries)] = entries
        ext4_extent_block_csum_set(inode, data)
        set_buffer_uptodate(bh)
        set_buffer_verified(bh)
    finally:
        unlock_buffer(bh)
    ext4_handle_dirty_metadata(handle, inode, bh)
    return bh


@may_sleep
def ext4_ext_split(handle: Handle, inode: Inode, flags: int, path: list[ExtPath], newext_block: int, at: int) -> None:
    """The leaf is full: from level `at` down a second branch is made, and what lies behind the path moves there.

    Raises ENOSPC, EIO, EFSCORRUPTED; blocks taken meanwhile are given back.
    """
    leaf = path[-1]
    if leaf.p_pos + 1 < eh_entries(leaf.p_hdr):
        border = key_of(leaf.p_hdr, leaf.p_pos + 1)
    else:
        border = newext_block
    depth = len(path) - 1
    blocks: list[int] = []
    try:
        for _ in range(depth - at):
            blocks.append(ext4_ext_new_meta_block(handle, inode, path, newext_block, flags))
        child = 0
        for offset, newblock in enumerate(blocks):
            level = path[depth - offset]
            node = level.p_hdr
            entries = eh_entries(node)
            moved = bytes(node[12 + 12 * (level.p_pos + 1) : 12 + 12 * entries])
            count = len(moved) // 12
            if offset:
                moved = EXTENT_IDX.pack(border, child & 0xFFFFFFFF, child >> 32, 0) + moved
            brelse(_new_node(handle, inode, newblock, offset, moved))
            if count:
                ext4_ext_get_access(handle, inode, level)
                set_entries(node, entries - count)
                ext4_ext_dirty(handle, inode, level)
            child = newblock
        ext4_ext_insert_index(handle, inode, path[at], border, child)
    except KernelError:
        for block in blocks:
            ext4_free_blocks(handle, inode, None, block, 1, EXT4_FREE_BLOCKS_METADATA)
        raise


@may_sleep
def ext4_ext_grow_indepth(handle: Handle, inode: Inode, flags: int) -> None:
    """The root is full: it moves to a block, and becomes an index with one entry. Raises ENOSPC, EIO."""
    ei = EXT4_I(inode)
    root = ei.i_data
    depth = eh_depth(root)
    first = get_index(root, 0)[1] if depth else 0
    goal = first or ext4_inode_to_goal_block(inode.i_sb, ei, ei.i_reserved_data_blocks > 0)
    newblock = ext4_new_meta_blocks(handle, inode, goal, flags)[0]
    entries = eh_entries(root)
    brelse(_new_node(handle, inode, newblock, depth, bytes(root[12 : 12 + 12 * entries])))
    key = key_of(root, 0) if entries else 0
    root[12:] = bytes(48)
    EXTENT_HEADER.pack_into(root, 0, EXT4_EXT_MAGIC, 1, EXT4_ROOT_ENTRIES, depth + 1, 0)
    put_index(root, 0, key, newblock)
    ext4_mark_inode_dirty(handle, inode)


@may_sleep
def ext4_ext_create_new_leaf(handle: Handle, inode: Inode, mb_flags: int, gb_flags: int, path: list[ExtPath],
                             newext_block: int) -> list[ExtPath]:
    """Room for one more extent: splits where an index has room, or grows. Answers the new path (the old one is
    gone).
    """
    while True:
        depth = len(path) - 1
        at = depth
        while at > 0 and eh_entries(path[at].p_hdr) >= eh_max(path[at].p_hdr):
            at -= 1
        try:
            if eh_entries(path[at].p_hdr) < eh_max(path[at].p_hdr):
                ext4_ext_split(handle, inode, mb_flags, path, newext_block, at)
                return ext4_find_extent_again(inode, newext_block, path, gb_flags)
            ext4_ext_grow_indepth(handle, inode, mb_flags)
        except KernelError:
            ext4_ext_drop_refs(path)
            raise
        path = ext4_find_extent_again(inode, newext_block, path, gb_flags)
        if depth and eh_entries(path[-1].p_hdr) < eh_max(path[-1].p_hdr):
            return path
        if not depth and eh_entries(path[-1].p_hdr) < eh_max(path[-1].p_hdr):
            return path


@notrace
@may_sleep
def ext4_find_extent_again(inode: Inode, block: int, path: list[ExtPath], flags: int) -> list[ExtPath]:
    ext4_ext_drop_refs(path)
    return ext4_find_extent(inode, block, flags & (EXT4_EX_NOCACHE | EXT4_EX_FORCE_CACHE))


# ---- merging -----------------------------------------------------------------------------------------------
def ext4_can_extents_be_merged(first: tuple[int, int, int, bool], second: tuple[int, int, int, bool]) -> bool:
    if first[3] != second[3] or first[0] + first[1] != second[0] or first[2] + first[1] != second[2]:
        return False
    return first[1] + second[1] <= (EXT_UNWRITTEN_MAX_LEN if first[3] else EXT_INIT_MAX_LEN)


def ext4_ext_try_to_merge_right(inode: Inode, path: list[ExtPath], pos: int) -> bool:
    """Merges the extents behind `pos` into it while they fit."""
    node = path[-1].p_hdr
    merged = False
    while pos + 1 < eh_entries(node):
        first, second = get_extent(node, pos), get_extent(node, pos + 1)
        if not ext4_can_extents_be_merged(first, second):
            break
        put_extent(node, pos, first[0], first[1] + second[1], first[2], first[3])
        entries = eh_entries(node)
        move_entries(node, pos + 2, pos + 1, entries - pos - 2)
        set_entries(node, entries - 1)
        merged = True
    return merged


@may_sleep
def ext4_ext_try_to_merge_up(handle: Handle, inode: Inode, path: list[ExtPath]) -> None:
    """A tree of one leaf that fits into the inode goes there, and its block is free."""
    if len(path) != 2 or eh_entries(path[0].p_hdr) != 1 or eh_entries(path[1].p_hdr) > EXT4_ROOT_ENTRIES:
        return
    if not ext4_journal_extend(handle, 2):
        return
    leaf = path[1]
    bh = leaf.p_bh
    assert bh is not None
    block = get_index(path[0].p_hdr, 0)[1]
    entries = eh_entries(leaf.p_hdr)
    root = path[0].p_hdr
    root[12 : 12 + 12 * entries] = bytes(leaf.p_hdr[12 : 12 + 12 * entries])
    EXTENT_HEADER.pack_into(root, 0, EXT4_EXT_MAGIC, entries, EXT4_ROOT_ENTRIES, 0, 0)
    path[0].p_depth = 0
    path[0].p_pos = leaf.p_pos
    path[0].p_block = leaf.p_block
    del path[1]
    brelse(bh)
    ext4_free_blocks(handle, inode, None, block, 1, EXT4_FREE_BLOCKS_METADATA | EXT4_FREE_BLOCKS_FORGET)


@may_sleep
def ext4_ext_try_to_merge(handle: Handle, inode: Inode, path: list[ExtPath], pos: int) -> None:
    if pos > 0 and ext4_ext_try_to_merge_right(inode, path, pos - 1):
        path[-1].p_pos = pos - 1
    else:
        ext4_ext_try_to_merge_right(inode, path, pos)
    ext4_ext_try_to_merge_up(handle, inode, path)


# ---- inserting ---------------------------------------------------------------------------------------------
@may_sleep
def ext4_ext_insert_extent(handle: Handle, inode: Inode, path: list[ExtPath], block: int, length: int, pblk: int,
                           unwritten: bool, gb_flags: int = 0) -> list[ExtPath]:
    """Adds an extent that overlaps none. Answers the path, which may be another one. Raises ENOSPC, EIO,
    EFSCORRUPTED.
    """
    mb_flags = EXT4_MB_DELALLOC_RESERVED if gb_flags & EXT4_GET_BLOCKS_DELALLOC_RESERVE else 0
    new = (block, length, pblk, unwritten)
    leaf = path[-1]
    if leaf.p_pos >= 0 and not gb_flags & EXT4_GET_BLOCKS_PRE_IO:
        entries = eh_entries(leaf.p_hdr)
        # Linux looks at the neighbour the new extent would touch.
        pos = leaf.p_pos
        ext = get_extent(leaf.p_hdr, pos)
        if ext[0] < block and pos + 1 < entries and ext[0] + ext[1] < block:
            pos += 1
            ext = get_extent(leaf.p_hdr, pos)
        elif pos and block + length < ext[0]:
            pos -= 1
            ext = get_extent(leaf.p_hdr, pos)
        for merged, keep in (((ext[0], ext[1] + length, ext[2], ext[3]), ext4_can_extents_be_merged(ext, new)),
                             ((block, ext[1] + length, pblk, ext[3]), ext4_can_extents_be_merged(new, ext))):
            if keep:
                ext4_ext_get_access(handle, inode, leaf)
                put_extent(leaf.p_hdr, pos, *merged)
                leaf.p_pos = pos
                return _inserted(handle, inode, path, gb_flags)
    if eh_entries(leaf.p_hdr) >= eh_max(leaf.p_hdr):
        fits = False
        following = ext4_ext_next_leaf_block(path) if leaf.p_pos >= 0 and block > key_of(
            leaf.p_hdr, eh_entries(leaf.p_hdr) - 1) else EXT_MAX_BLOCKS
        if following != EXT_MAX_BLOCKS:
            npath = ext4_find_extent(inode, following, gb_flags & EXT4_EX_NOCACHE)
            if eh_entries(npath[-1].p_hdr) < eh_max(npath[-1].p_hdr):
                ext4_ext_drop_refs(path)
                path, fits = npath, True
            else:
                ext4_ext_drop_refs(npath)
        if not fits:
            if gb_flags & EXT4_GET_BLOCKS_METADATA_NOFAIL:
                mb_flags |= EXT4_MB_USE_RESERVED
            path = ext4_ext_create_new_leaf(handle, inode, mb_flags, gb_flags, path, block)
        leaf = path[-1]
    ext4_ext_get_access(handle, inode, leaf)
    node = leaf.p_hdr
    entries = eh_entries(node)
    pos = leaf.p_pos
    pos = 0 if pos < 0 else pos + 1 if block > key_of(node, pos) else pos
    move_entries(node, pos, pos + 1, entries - pos)
    set_entries(node, entries + 1)
    put_extent(node, pos, block, length, pblk, unwritten)
    leaf.p_pos = pos
    leaf.p_block = pblk
    return _inserted(handle, inode, path, gb_flags)


@notrace
@may_sleep
def _inserted(handle: Handle, inode: Inode, path: list[ExtPath], gb_flags: int) -> list[ExtPath]:
    if not gb_flags & EXT4_GET_BLOCKS_PRE_IO:
        ext4_ext_try_to_merge(handle, inode, path, path[-1].p_pos)
    ext4_ext_correct_indexes(handle, inode, path)
    ext4_ext_dirty(handle, inode, path[-1])
    return path
