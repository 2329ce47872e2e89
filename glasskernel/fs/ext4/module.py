"""ext4 as a module: known from boot on, loaded by the first mount.

Linux: init_ext4_fs() in fs/ext4/super.c (5.3). Differs: the types are registered at boot, as if built in, while
    super.py and all that it needs is only imported when something is mounted: boot stays short.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.proc.generic import proc_mkdir
from glasskernel.fs.super_bdev import kill_block_super, mount_bdev
from glasskernel.fs.types import FS_REQUIRES_DEV, FileSystemType
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_ACCOUNT, SLAB_MEM_SPREAD, SLAB_RECLAIM_ACCOUNT

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, SuperBlock
    from glasskernel.init.kernel import Kernel


@may_sleep
def ext4_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount(). Raises what ext4_fill_super() raises."""
    from glasskernel.fs.ext4.super import ext4_fill_super

    return mount_bdev(kernel, fs_type, flags, dev_name, data, ext4_fill_super)


@notrace
@may_sleep
def ext4_fill_later(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """Fills a super block that was mounted without being read (fs/mount_on_demand.py)."""
    from glasskernel.fs.ext4.super import ext4_fill_super

    ext4_fill_super(sb, data, silent)


ext2_fs_type = FileSystemType(b"ext2", ext4_mount, kill_block_super, FS_REQUIRES_DEV)
ext3_fs_type = FileSystemType(b"ext3", ext4_mount, kill_block_super, FS_REQUIRES_DEV)
ext4_fs_type = FileSystemType(b"ext4", ext4_mount, kill_block_super, FS_REQUIRES_DEV)


@notrace
def init_inodecache(kernel: Kernel) -> None:
    kernel.slab.ext4_inode_cachep = kmem_cache_create(kernel, b"ext4_inode_cache", 1088, 0,
                                                      SLAB_RECLAIM_ACCOUNT | SLAB_MEM_SPREAD | SLAB_ACCOUNT, ctor=True)


def ext4_init_fs(kernel: Kernel) -> None:
    """Registers ext3, ext2 and ext4, in Linux's order. Context: boot."""
    init_inodecache(kernel)
    proc_mkdir(kernel, b"fs/jbd2")                 # jbd2_create_jbd_stats_proc_entry()
    proc_mkdir(kernel, b"fs/ext4")
    register_filesystem(kernel, ext3_fs_type)
    register_filesystem(kernel, ext2_fs_type)
    register_filesystem(kernel, ext4_fs_type)
