"""The tables of operations that ext4_iget() hands out.

Linux: ext4_file_operations, ext4_file_inode_operations ... at the ends of fs/ext4/{file,dir,namei,symlink}.c (5.3).
Together here, since they name functions that themselves make inodes (no import cycles).
"""
from __future__ import annotations

from glasskernel.fs.ext4.acl import ext4_permission
from glasskernel.fs.ext4.dir import ext4_dir_llseek, ext4_readdir, ext4_release_dir
from glasskernel.fs.ext4.fallocate import ext4_fallocate
from glasskernel.fs.ext4.file import (
    ext4_file_mmap,
    ext4_file_open,
    ext4_file_read_iter,
    ext4_file_write_iter,
    ext4_llseek,
    ext4_release_file,
)
from glasskernel.fs.ext4.fsync import ext4_sync_file
from glasskernel.fs.ext4.inode import ext4_file_getattr, ext4_getattr, ext4_setattr
from glasskernel.fs.ext4.ioctl import ext4_fiemap, ext4_ioctl
from glasskernel.fs.ext4.namei import (
    ext4_create,
    ext4_link,
    ext4_lookup,
    ext4_mkdir,
    ext4_mknod,
    ext4_rmdir,
    ext4_tmpfile,
    ext4_unlink,
)
from glasskernel.fs.ext4.namei_rename import ext4_rename2
from glasskernel.fs.ext4.symlink import ext4_symlink, page_get_link, simple_get_link
from glasskernel.fs.ext4.xattr_handlers import ext4_getxattr, ext4_listxattr, ext4_setxattr
from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.types import FileOperations, InodeOperations
from glasskernel.lib.slotted import slotted


@slotted(frozen=True)
class Ext4Tables:
    """What an inode of each kind gets."""

    file_fops: FileOperations
    file_iops: InodeOperations
    dir_fops: FileOperations
    dir_iops: InodeOperations
    special_iops: InodeOperations
    symlink_iops: InodeOperations
    fast_symlink_iops: InodeOperations


ext4_tables = Ext4Tables(
    file_fops=FileOperations(
        llseek=ext4_llseek,
        iter=True, read_iter=ext4_file_read_iter,
        write_iter=ext4_file_write_iter,
        unlocked_ioctl=ext4_ioctl,
        mmap=ext4_file_mmap,
        open=ext4_file_open,
        release=ext4_release_file,
        fsync=ext4_sync_file,
        fallocate=ext4_fallocate,
    ),
    file_iops=InodeOperations(
        setattr=ext4_setattr,
        getattr=ext4_file_getattr,
        listxattr=ext4_listxattr,
        getxattr=ext4_getxattr,
        setxattr=ext4_setxattr,
        permission=ext4_permission,
        fiemap=ext4_fiemap,
    ),
    dir_fops=FileOperations(
        llseek=ext4_dir_llseek,
        read_iter=generic_read_dir,
        iterate=ext4_readdir,
        unlocked_ioctl=ext4_ioctl,
        fsync=ext4_sync_file,
        release=ext4_release_dir,
    ),
    dir_iops=InodeOperations(
        create=ext4_create,
        lookup=ext4_lookup,
        link=ext4_link,
        unlink=ext4_unlink,
        symlink=ext4_symlink,
        mkdir=ext4_mkdir,
        rmdir=ext4_rmdir,
        mknod=ext4_mknod,
        tmpfile=ext4_tmpfile,
        rename=ext4_rename2,
        setattr=ext4_setattr,
        getattr=ext4_getattr,
        listxattr=ext4_listxattr,
        getxattr=ext4_getxattr,
        setxattr=ext4_setxattr,
        permission=ext4_permission,
        fiemap=ext4_fiemap,
    ),
    special_iops=InodeOperations(
        setattr=ext4_setattr,
        getattr=ext4_getattr,
        listxattr=ext4_listxattr,
        getxattr=ext4_getxattr,
        setxattr=ext4_setxattr,
        permission=ext4_permission,
    ),
    symlink_iops=InodeOperations(
        get_link=page_get_link,
        setattr=ext4_setattr,
        getattr=ext4_getattr,
        listxattr=ext4_listxattr,
        getxattr=ext4_getxattr,
        setxattr=ext4_setxattr,
    ),
    fast_symlink_iops=InodeOperations(
        get_link=simple_get_link,
        setattr=ext4_setattr,
        getattr=ext4_getattr,
        listxattr=ext4_listxattr,
        getxattr=ext4_getxattr,
        setxattr=ext4_setxattr,
    ),
)
