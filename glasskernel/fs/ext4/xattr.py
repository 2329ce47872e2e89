"""Extended attributes: in the inode behind i_extra_isize, and in one block that inodes may share.

Linux: fs/ext4/xattr.c (5.3). Same: layout, order and hashes of entries, ENOSPC when neither place has room, blocks with
    equal contents shared up to 1024 times, checksums.
Differs: a place is decoded into a list of entries, changed, and written back as a whole.
Gaps: the feature ea_inode (values of their own inode).
Locks: xattr_sem.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import sb_bread, sb_getblk
from glasskernel.fs.buffer_head import buffer_verified, set_buffer_uptodate, set_buffer_verified
from glasskernel.fs.buffer_io import brelse, lock_buffer, unlock_buffer
from glasskernel.fs.ext4.balloc import ext4_group_first_block_no
from glasskernel.fs.ext4.disk import U32, XATTR_ENTRY, Memory, XattrHeader
from glasskernel.fs.ext4.errors import EFSBADCRC, EFSCORRUPTED, ext4_error_inode
from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_DATA_TRANS_BLOCKS,
    Handle,
    ext4_handle_dirty_metadata,
    ext4_handle_dirty_super,
    ext4_handle_sync,
    ext4_journal_get_create_access,
    ext4_journal_get_write_access,
    ext4_journal_start,
    ext4_journal_stop,
)
from glasskernel.fs.ext4.inode_loc import (
    Ext4Iloc,
    ext4_get_inode_loc,
    ext4_mark_iloc_dirty,
    ext4_reserve_inode_write,
)
from glasskernel.fs.ext4.mballoc import ext4_free_blocks, ext4_new_meta_blocks
from glasskernel.fs.ext4.types import (
    COMPAT_EXT_ATTR,
    EXT4_FREE_BLOCKS_FORGET,
    EXT4_FREE_BLOCKS_METADATA,
    EXT4_HT_XATTR,
    EXT4_I,
    EXT4_MOUNT_NO_MBCACHE,
    EXT4_SB,
    EXT4_STATE_NEW,
    EXT4_STATE_XATTR,
    ext4_has_metadata_csum,
    test_opt,
)
from glasskernel.fs.inode import current_time
from glasskernel.fs.types import S_SYNC
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EEXIST, EIO, ENODATA, ENOMEM, ENOSPC, ERANGE, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode

EXT4_XATTR_MAGIC, EXT4_XATTR_REFCOUNT_MAX = 0xEA020000, 1024
XATTR_CREATE, XATTR_REPLACE = 1, 2
EXT4_XATTR_INDEX_USER, EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT = 1, 2, 3
EXT4_XATTR_INDEX_TRUSTED, EXT4_XATTR_INDEX_SECURITY, EXT4_XATTR_INDEX_SYSTEM = 4, 6, 7
Entry = tuple[int, bytes, bytes]           # name index, name without its prefix, value


@notrace
def XATTR_SIZE(size: int) -> int:
    return size + 3 & ~3


# ---- layout ------------------------------------------------------------------------------------------------
@notrace
def decode(memory: Memory, first: int, end: int, base: int) -> list[Entry] | None:
    """The entries from offset `first` on; values are relative to `base` and lie before `end`. None: malformed."""
    found: list[Entry] = []
    at = first
    while at + 4 <= end and U32.unpack_from(memory, at)[0]:
        if at + 16 > end:
            return None
        name_len, index, offset, inum, size, _ = XATTR_ENTRY.unpack_from(memory, at)
        start = base + offset
        if at + 16 + name_len > end or inum or (size and start + size > end):
            return None
        found.append((index, bytes(memory[at + 16 : at + 16 + name_len]), bytes(memory[start : start + size])))
        at += 16 + XATTR_SIZE(name_len)
    if at + 4 > end:
        return None
    return found


@notrace
def space_needed(entries: list[Entry]) -> int:
    """Bytes of the entries, their values and the terminating zero."""
    return 4 + sum(16 + XATTR_SIZE(len(name)) + XATTR_SIZE(len(value)) for _, name, value in entries)


@notrace
def encode(entries: list[Entry], memory: Memory, first: int, end: int, base: int, hashed: bool) -> None:
    """Writes entries from `first` up and values from `end` down; what lies between is zeroed."""
    memory[first:end] = bytes(end - first)
    at, top = first, end
    for index, name, value in entries:
        size = len(value)
        if size:
            top -= XATTR_SIZE(size)
            memory[top : top + size] = value
        hash_ = ext4_xattr_hash_entry(name, value) if hashed else 0
        XATTR_ENTRY.pack_into(memory, at, len(name), index, top - base if size else 0, 0, size, hash_)
        memory[at + 16 : at + 16 + len(name)] = name
        at += 16 + XATTR_SIZE(len(name))


def ext4_xattr_hash_entry(name: bytes, value: bytes) -> int:
    hash_ = 0
    for byte in name:
        hash_ = (hash_ << 5 ^ hash_ >> 27 ^ (byte - 256 if byte > 127 else byte)) & 0xFFFFFFFF
    padded = value.ljust(XATTR_SIZE(len(value)), b"\0")
    for i in range(0, len(padded), 4):
        hash_ = (hash_ << 16 ^ hash_ >> 16 ^ int.from_bytes(padded[i : i + 4], "little")) & 0xFFFFFFFF
    return hash_


def ext4_xattr_rehash(data: Memory, entries: list[Entry]) -> None:
    """h_hash of a block."""
    hash_ = 0
    for _, name, value in entries:
        entry = ext4_xattr_hash_entry(name, value)
        if not entry:
            hash_ = 0
            break
        hash_ = (hash_ << 16 ^ hash_ >> 16 ^ entry) & 0xFFFFFFFF
    XattrHeader(data).h_hash = hash_


@notrace
def ext4_xattr_block_csum(inode: Inode, block_nr: int, data: Memory) -> int:
    csum = crc32c(EXT4_SB(inode.i_sb).s_csum_seed, block_nr.to_bytes(8, "little"))
    return crc32c(csum, bytes(data[:16]) + bytes(4) + bytes(data[20:]))


@notrace
def ext4_xattr_block_csum_set(inode: Inode, bh: BufferHead) -> None:
    if ext4_has_metadata_csum(inode.i_sb):
        XattrHeader(bh.b_data).h_checksum = ext4_xattr_block_csum(inode, bh.b_blocknr, bh.b_data)


# ---- the two places ----------------------------------------------------------------------------------------
@may_sleep
def __ext4_xattr_check_block(inode: Inode, bh: BufferHead, function: str) -> None:
    """Raises EFSCORRUPTED, EFSBADCRC."""
    if buffer_verified(bh):
        return
    data = bh.b_data
    header = XattrHeader(data)
    if header.h_magic != EXT4_XATTR_MAGIC or header.h_blocks != 1 or decode(data, 32, len(data), 0) is None:
        ext4_error_inode(inode, "corrupted xattr block", bh.b_blocknr)
        raise KernelError(EFSCORRUPTED)
    if ext4_has_metadata_csum(inode.i_sb) and header.h_checksum != ext4_xattr_block_csum(inode, bh.b_blocknr, data):
        ext4_error_inode(inode, "corrupted xattr block", bh.b_blocknr)
        raise KernelError(EFSBADCRC)
    set_buffer_verified(bh)


@notrace
@may_sleep
def read_block(inode: Inode) -> BufferHead | None:
    """The attribute block with a reference. Raises EIO, EFSCORRUPTED, EFSBADCRC."""
    block = EXT4_I(inode).i_file_acl
    if not block:
        return None
    bh = sb_bread(inode.i_sb, block)
    if bh is None:
        raise KernelError(EIO)
    try:
        __ext4_xattr_check_block(inode, bh, "ext4_xattr_block_get")
    except KernelError:
        brelse(bh)
        raise
    return bh


@notrace
@may_sleep
def block_entries(inode: Inode) -> list[Entry]:
    bh = read_block(inode)
    if bh is None:
        return []
    found = decode(bh.b_data, 32, bh.b_size, 0)
    brelse(bh)
    return found or []


@notrace
def ibody_area(inode: Inode, iloc: Ext4Iloc) -> tuple[int, int]:
    """(offset of the magic number, end of the inode) in the table block."""
    return iloc.offset + 128 + EXT4_I(inode).i_extra_isize, iloc.offset + EXT4_SB(inode.i_sb).s_inode_size


@notrace
@may_sleep
def ibody_entries(inode: Inode, iloc: Ext4Iloc | None = None) -> list[Entry]:
    """Raises EIO, EFSCORRUPTED."""
    if not EXT4_I(inode).i_state_flags & EXT4_STATE_XATTR:
        return []
    mine = ext4_get_inode_loc(inode) if iloc is None else iloc
    try:
        start, end = ibody_area(inode, mine)
        found = decode(mine.bh.b_data, start + 4, end, start + 4)
    finally:
        if iloc is None:
            brelse(mine.bh)
    if found is None:
        ext4_error_inode(inode, "corrupted in-inode xattr")
        raise KernelError(EFSCORRUPTED)
    return found


# ---- get and list ------------------------------------------------------------------------------------------
@may_sleep
def ext4_xattr_ibody_get(inode: Inode, name_index: int, name: bytes) -> bytes | None:
    return next((value for index, each, value in ibody_entries(inode) if index == name_index and each == name), None)


@may_sleep
def ext4_xattr_block_get(inode: Inode, name_index: int, name: bytes) -> bytes | None:
    return next((value for index, each, value in block_entries(inode) if index == name_index and each == name), None)


@may_sleep
def ext4_xattr_get(inode: Inode, name_index: int, name: bytes) -> bytes:
    """An attribute's value. Raises ENODATA, ERANGE, EIO, EFSCORRUPTED."""
    if len(name) > 255:
        raise KernelError(ERANGE)
    ei = EXT4_I(inode)
    down_read(ei.xattr_sem)
    try:
        value = ext4_xattr_ibody_get(inode, name_index, name)
        if value is None:
            value = ext4_xattr_block_get(inode, name_index, name)
    finally:
        up_read(ei.xattr_sem)
    if value is None:
        raise KernelError(ENODATA)
    return value


@may_sleep
def ext4_xattr_list_entries(inode: Inode) -> list[tuple[int, bytes]]:
    """(name index, name) of every attribute."""
    ei = EXT4_I(inode)
    down_read(ei.xattr_sem)
    try:
        return [(index, name) for index, name, _ in ibody_entries(inode) + block_entries(inode)]
    finally:
        up_read(ei.xattr_sem)


# ---- set ---------------------------------------------------------------------------------------------------
@notrace
def _with(entries: list[Entry], index: int, name: bytes, value: bytes | None) -> list[Entry]:
    """The entries with one changed in place, added at the end, or removed."""
    found = []
    done = value is None
    for entry in entries:
        if entry[0] == index and entry[1] == name:
            if value is not None:
                found.append((index, name, value))
                done = True
        else:
            found.append(entry)
    if not done and value is not None:
        found.append((index, name, value))
    return found


@may_sleep
def ext4_xattr_ibody_set(handle: Handle, inode: Inode, iloc: Ext4Iloc, entries: list[Entry]) -> bool:
    """Writes the attributes of the inode itself. False: no room."""
    ei = EXT4_I(inode)
    start, end = ibody_area(inode, iloc)
    if not ei.i_extra_isize or start + 4 + space_needed(entries) > end:
        return not entries
    data = iloc.bh.b_data
    if entries:
        U32.pack_into(data, start, EXT4_XATTR_MAGIC)
        encode(entries, data, start + 4, end, start + 4, False)
        ei.i_state_flags |= EXT4_STATE_XATTR
    else:
        data[start:end] = bytes(end - start)
        ei.i_state_flags &= ~EXT4_STATE_XATTR
    return True


@may_sleep
def ext4_xattr_release_block(handle: Handle, inode: Inode, bh: BufferHead) -> None:
    """One user of a block less; the last one frees it."""
    ext4_journal_get_write_access(handle, bh)
    header = XattrHeader(bh.b_data)
    cache = EXT4_SB(inode.i_sb).s_ea_block_cache
    if header.h_refcount <= 1:
        candidates = cache.get(header.h_hash)
        if candidates and bh.b_blocknr in candidates:
            candidates.remove(bh.b_blocknr)
        ext4_free_blocks(handle, inode, None, bh.b_blocknr, 1, EXT4_FREE_BLOCKS_METADATA | EXT4_FREE_BLOCKS_FORGET)
    else:
        header.h_refcount -= 1
        ext4_xattr_block_csum_set(inode, bh)
        ext4_handle_dirty_metadata(handle, inode, bh)
        inode.i_blocks = (inode.i_blocks - (inode.i_sb.s_blocksize >> 9)) & 0xFFFF_FFFF_FFFF_FFFF


@notrace
@may_sleep
def ext4_xattr_block_cache_find(inode: Inode, image: bytes) -> BufferHead | None:
    """A block with the same attributes that has room for one more user, with a reference."""
    sbi = EXT4_SB(inode.i_sb)
    if test_opt(sbi, EXT4_MOUNT_NO_MBCACHE):
        return None
    for block in sbi.s_ea_block_cache.get(XattrHeader(bytearray(image[:32])).h_hash, []):
        bh = sb_bread(inode.i_sb, block)
        if bh is None:
            continue
        header = XattrHeader(bh.b_data)
        if (header.h_magic == EXT4_XATTR_MAGIC and header.h_refcount < EXT4_XATTR_REFCOUNT_MAX
                and bytes(bh.b_data[32:]) == image[32:]):
            return bh
        brelse(bh)
    return None


@may_sleep
def ext4_xattr_block_set(handle: Handle, inode: Inode, entries: list[Entry]) -> None:
    """Writes the attributes that live in a block: in place, in a shared one, or in a new one. Raises ENOSPC, EIO."""
    ei = EXT4_I(inode)
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    blocksize = sb.s_blocksize
    old = read_block(inode)
    try:
        if not entries:
            if old is not None:
                ext4_xattr_release_block(handle, inode, old)
                ei.i_file_acl = 0
            return
        if 32 + space_needed(entries) > blocksize:
            raise KernelError(ENOSPC)
        entries = sorted(entries, key=lambda entry: (entry[0], len(entry[1]), entry[1]))
        image = bytearray(blocksize)
        header = XattrHeader(image)
        header.h_magic, header.h_refcount, header.h_blocks = EXT4_XATTR_MAGIC, 1, 1
        encode(entries, image, 32, blocksize, 0, True)
        ext4_xattr_rehash(image, entries)
        if old is not None and bytes(old.b_data[32:]) == image[32:]:
            return
        if old is not None and XattrHeader(old.b_data).h_refcount == 1:
            ext4_journal_get_write_access(handle, old)
            candidates = sbi.s_ea_block_cache.get(XattrHeader(old.b_data).h_hash)
            if candidates and old.b_blocknr in candidates:
                candidates.remove(old.b_blocknr)
            old.b_data[:] = image
            _store(handle, inode, old)
            return
        shared = ext4_xattr_block_cache_find(inode, bytes(image))
        if shared is not None:
            ext4_journal_get_write_access(handle, shared)
            XattrHeader(shared.b_data).h_refcount += 1
            ext4_xattr_block_csum_set(inode, shared)
            ext4_handle_dirty_metadata(handle, inode, shared)
            inode.i_blocks = (inode.i_blocks + (blocksize >> 9)) & 0xFFFF_FFFF_FFFF_FFFF
            block = shared.b_blocknr
            brelse(shared)
        else:
            goal = ext4_group_first_block_no(sb, ei.i_block_group)
            block, _ = ext4_new_meta_blocks(handle, inode, goal, 0)
            bh = sb_getblk(sb, block)
            if bh is None:
                raise KernelError(ENOMEM)
            lock_buffer(bh)
            try:
                ext4_journal_get_create_access(handle, bh)
                bh.b_data[:] = image
                set_buffer_uptodate(bh)
                set_buffer_verified(bh)
            finally:
                unlock_buffer(bh)
            _store(handle, inode, bh)
            brelse(bh)
        ei.i_file_acl = block
        if old is not None:
            ext4_xattr_release_block(handle, inode, old)
    finally:
        brelse(old)


@notrace
@may_sleep
def _store(handle: Handle, inode: Inode, bh: BufferHead) -> None:
    ext4_xattr_block_csum_set(inode, bh)
    ext4_handle_dirty_metadata(handle, inode, bh)
    blocks = EXT4_SB(inode.i_sb).s_ea_block_cache.setdefault(XattrHeader(bh.b_data).h_hash, [])
    if bh.b_blocknr not in blocks:
        blocks.append(bh.b_blocknr)


@may_sleep
def ext4_xattr_set_handle(handle: Handle, inode: Inode, name_index: int, name: bytes, value: bytes | None,
                          flags: int) -> None:
    """Sets or (value None) removes an attribute. Raises ERANGE, ENODATA, EEXIST, ENOSPC, EIO, EFSCORRUPTED."""
    if len(name) > 255:
        raise KernelError(ERANGE)
    ei = EXT4_I(inode)
    sbi = EXT4_SB(inode.i_sb)
    down_write(ei.xattr_sem)
    try:
        iloc = ext4_reserve_inode_write(handle, inode)
        stored = False
        try:
            if ei.i_state_flags & EXT4_STATE_NEW:
                raw = iloc.bh.b_data
                raw[iloc.offset : iloc.offset + sbi.s_inode_size] = bytes(sbi.s_inode_size)
                ei.i_state_flags &= ~EXT4_STATE_NEW
            body, block = ibody_entries(inode, iloc), block_entries(inode)
            in_body = any(index == name_index and each == name for index, each, _ in body)
            in_block = any(index == name_index and each == name for index, each, _ in block)
            if not in_body and not in_block:
                if flags & XATTR_REPLACE:
                    raise KernelError(ENODATA)
                if value is None:
                    return
            elif flags & XATTR_CREATE:
                raise KernelError(EEXIST)
            if value is None:
                if in_body:
                    ext4_xattr_ibody_set(handle, inode, iloc, _with(body, name_index, name, None))
                else:
                    ext4_xattr_block_set(handle, inode, _with(block, name_index, name, None))
            elif ext4_xattr_ibody_set(handle, inode, iloc, _with(body, name_index, name, value)):
                if in_block:
                    ext4_xattr_block_set(handle, inode, _with(block, name_index, name, None))
            else:
                ext4_xattr_block_set(handle, inode, _with(block, name_index, name, value))
                if in_body:
                    ext4_xattr_ibody_set(handle, inode, iloc, _with(body, name_index, name, None))
            if not sbi.s_xattr_feature:
                ext4_xattr_update_super_block(handle, inode)
            inode.i_ctime = current_time(inode)
            stored = True
            ext4_mark_iloc_dirty(handle, inode, iloc)
            if inode.i_flags & S_SYNC:
                ext4_handle_sync(handle)
        finally:
            if not stored:
                brelse(iloc.bh)
    finally:
        up_write(ei.xattr_sem)


@may_sleep
def ext4_xattr_update_super_block(handle: Handle, inode: Inode) -> None:
    """The first attribute: the feature ext_attr."""
    sbi = EXT4_SB(inode.i_sb)
    sbi.s_xattr_feature = True
    if sbi.s_es.s_feature_compat & COMPAT_EXT_ATTR:
        return
    ext4_journal_get_write_access(handle, sbi.s_sbh)
    sbi.s_es.s_feature_compat |= COMPAT_EXT_ATTR
    ext4_handle_dirty_super(handle, inode.i_sb)


def __ext4_xattr_set_credits() -> int:
    """Credits for one attribute: inode, old and new block, and bitmap and descriptor of both (no ea_inode here)."""
    return 7


@may_sleep
def ext4_xattr_set(inode: Inode, name_index: int, name: bytes, value: bytes | None, flags: int) -> None:
    """The same in a handle of its own."""
    handle = ext4_journal_start(inode, EXT4_HT_XATTR, EXT4_DATA_TRANS_BLOCKS(inode.i_sb) + 6)
    try:
        ext4_xattr_set_handle(handle, inode, name_index, name, value, flags)
    finally:
        ext4_journal_stop(handle)


@may_sleep
def ext4_xattr_delete_inode(handle: Handle, inode: Inode) -> None:
    """A deleted inode's block goes, or has a user less. Raises EIO, EFSCORRUPTED."""
    ei = EXT4_I(inode)
    if not ei.i_file_acl:
        return
    bh = read_block(inode)
    assert bh is not None
    try:
        ext4_xattr_release_block(handle, inode, bh)
    finally:
        brelse(bh)
    ei.i_file_acl = 0
