"""A file system of one file on a block device. Block 0: b"TINY" and the size of "file"; its block n is n + 1."""
from glasskernel.fs.block_dev import sb_set_blocksize
from glasskernel.fs.buffer import (
    BufferHead,
    block_write_begin,
    block_write_full_page,
    brelse,
    generic_block_bmap,
    generic_write_end,
    map_bh,
    mark_buffer_dirty,
    sb_bread,
)
from glasskernel.fs.buffer_head import BH_New, BH_Uptodate
from glasskernel.fs.dcache import d_add, d_alloc_name, d_make_root
from glasskernel.fs.direct_io import blockdev_direct_IO
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.fs_writeback import mark_inode_dirty, sync_inode_metadata
from glasskernel.fs.inode import insert_inode_hash, new_inode
from glasskernel.fs.libfs import simple_dir_inode_operations, simple_dir_operations, simple_statfs
from glasskernel.fs.mpage import mpage_readpage, mpage_readpages, mpage_writepages
from glasskernel.fs.super_bdev import kill_block_super, mount_bdev
from glasskernel.fs.types import (
    S_IFDIR,
    S_IFREG,
    FileOperations,
    FileSystemType,
    InodeOperations,
    SuperOperations,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.mm import filemap
from glasskernel.mm.truncate import truncate_setsize
from glasskernel.mm.types import AddressSpaceOperations

set_page_dirty_buffers = vars(__import__("glasskernel.fs.buffer_page", fromlist=["x"]))["__set_page_dirty_buffers"]


def tiny_get_block(inode, iblock, bh: BufferHead, create):
    if iblock << inode.i_blkbits < inode.i_private["allocated"]:
        map_bh(bh, inode.i_sb, iblock + 1)
    elif create:
        map_bh(bh, inode.i_sb, iblock + 1)
        bh.b_state |= BH_New
        inode.i_private["allocated"] = (iblock + 1) << inode.i_blkbits


def tiny_readpage(file, mapping, index, pfn):
    mpage_readpage(mapping, index, pfn, tiny_get_block)


def tiny_readpages(file, mapping, pages):
    mpage_readpages(mapping, pages, tiny_get_block)


def tiny_writepage(mapping, index, pfn, wbc):
    block_write_full_page(mapping, index, pfn, tiny_get_block, wbc)
    return 0


def tiny_writepages(mapping, wbc):
    mpage_writepages(mapping, wbc, tiny_get_block)


def tiny_write_begin(file, mapping, pos, length):
    return block_write_begin(mapping, pos, length, tiny_get_block)


def tiny_direct_IO(iocb, to):
    return blockdev_direct_IO(iocb, iocb.ki_filp.f_mapping.host, to, tiny_get_block)


def tiny_bmap(mapping, block):
    return generic_block_bmap(mapping, block, tiny_get_block)


def tiny_fsync(file, start, end, datasync):
    filemap.file_write_and_wait_range(file, start, end)
    sync_inode_metadata(file.f_inode, 1)


def tiny_setattr(dentry, attr):
    if attr.ia_valid & 8:
        truncate_setsize(dentry.d_inode, attr.ia_size)
        mark_inode_dirty(dentry.d_inode)


def tiny_write_inode(inode, wbc):
    bh = sb_bread(inode.i_sb, 0)
    assert bh is not None
    bh.b_data[4:12] = inode.i_size.to_bytes(8, "little")
    mark_buffer_dirty(bh)
    brelse(bh)


aops = AddressSpaceOperations(
    readpage=tiny_readpage, readpages=tiny_readpages, writepage=tiny_writepage, writepages=tiny_writepages,
    write_begin=tiny_write_begin, write_end=generic_write_end, direct_IO=tiny_direct_IO, bmap=tiny_bmap,
    set_page_dirty=set_page_dirty_buffers)
fops = FileOperations(
    llseek=__import__("glasskernel.fs.read_write", fromlist=["x"]).generic_file_llseek,
    read_iter=filemap.generic_file_read_iter, write_iter=filemap.generic_file_write_iter,
    mmap=filemap.generic_file_mmap, fsync=tiny_fsync)
sops = SuperOperations(statfs=simple_statfs, write_inode=tiny_write_inode)


def tiny_fill_super(sb, data, silent):
    sb_set_blocksize(sb, 1024)
    bh = sb_bread(sb, 0)
    if bh is None or bytes(bh.b_data[:4]) != b"TINY":
        brelse(bh)
        raise KernelError(EINVAL)
    size = int.from_bytes(bh.b_data[4:12], "little")
    assert bh.b_state & BH_Uptodate
    brelse(bh)
    sb.s_op = sops
    root = new_inode(sb)
    root.i_ino, root.i_mode, root.i_nlink = 1, S_IFDIR | 0o755, 2
    root.i_op, root.i_fop = simple_dir_inode_operations, simple_dir_operations
    insert_inode_hash(root)
    sb.s_root = d_make_root(root)
    inode = new_inode(sb)
    inode.i_ino, inode.i_mode, inode.i_size = 2, S_IFREG | 0o644, size
    inode.i_op, inode.i_fop, inode.i_blkbits = InodeOperations(setattr=tiny_setattr), fops, 10
    inode.i_data.a_ops = aops
    inode.i_private = {"allocated": -(-size // 1024) * 1024}
    insert_inode_hash(inode)
    d_add(d_alloc_name(sb.s_root, b"file"), inode)


def tiny_mount(kernel, fs_type, flags, dev_name, data):
    return mount_bdev(kernel, fs_type, flags, dev_name, data, tiny_fill_super)


def tiny_init(kernel):
    register_filesystem(kernel, FileSystemType(b"tiny", tiny_mount, kill_block_super, 1))
