"""Super blocks: mounted file systems.

Linux: fs/super.c, fs/fs_context.c, fs/libfs.c init_pseudo() (5.3). Same: the legacy ->mount() way, mount_nodev,
mount_single, kill_anon_super, kill_litter_super, anonymous device numbers.
Differs: no fs_context; s_active counts mounts and other holders, there is no separate s_count.
Owns: kernel.vfs.super_blocks, anon_devs. Gaps: freezing, quota, s_umount as a lock.
Invariant: a super block is in the list from sget() until generic_shutdown_super().
"""
from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from glasskernel.fs.dcache import (
    d_genocide,
    d_make_root,
    dget,
    dput,
    nr_unused_dentries,
    prune_dcache_sb,
    sb_has_root,
    shrink_dcache_for_umount,
    shrink_dcache_sb,
)
from glasskernel.fs.fs_writeback import WB_REASON_SYNC, sync_inodes_sb, writeback_inodes_sb
from glasskernel.fs.fsnotify import fsnotify_sb_delete
from glasskernel.fs.inode import evict, evict_inodes, inode_unused, new_inode, prune_icache_sb
from glasskernel.fs.types import (
    FS_BINARY_MOUNTDATA,
    MKDEV,
    S_IFDIR,
    SB_ACTIVE,
    SB_BORN,
    SB_KERNMOUNT,
    SB_NOUSER,
    SB_RDONLY,
    DentryOperations,
    SuperBlock,
    SuperOperations,
    _nothing,
)
from glasskernel.kernel.workqueue import destroy_workqueue
from glasskernel.lib.errno import EBUSY, EINVAL, EMFILE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import bdi_put
from glasskernel.mm.page_alloc import __GFP_FS
from glasskernel.mm.shrinker import (
    SHRINK_STOP,
    ShrinkControl,
    Shrinker,
    register_shrinker_prepared,
    unregister_shrinker,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.types import Dentry, FileSystemType
    from glasskernel.init.kernel import Kernel

    FillSuper = Callable[[SuperBlock, bytes, bool], None]      # (sb, data, silent): sets s_op, s_root; raises


def get_anon_bdev(kernel: Kernel) -> int:
    """The lowest free device number with major 0. Raises EMFILE."""
    used = kernel.vfs.anon_devs
    minor = 1
    while minor in used:
        minor += 1
    if minor >= 1 << 20:
        raise KernelError(EMFILE)
    used[minor] = None
    return MKDEV(0, minor)


def free_anon_bdev(kernel: Kernel, dev: int) -> None:
    """Gives an anonymous device number back."""
    del kernel.vfs.anon_devs[dev & 0xFFFFF]


def alloc_super(kernel: Kernel, fs_type: FileSystemType, flags: int) -> SuperBlock:
    """A super block with nothing in it."""
    sb = SuperBlock(kernel, fs_type)
    sb.s_flags = flags
    sb.s_id = fs_type.name
    if kernel.lsm is not None:
        kernel.lsm.security_sb_alloc(sb)
    return sb


def sget(kernel: Kernel, fs_type: FileSystemType, test: Callable[[SuperBlock], bool] | None,
         set: Callable[[SuperBlock], None], flags: int) -> SuperBlock:
    """The existing super block that `test` accepts, with one more s_active, or a new one for which `set` ran.

    The caller tells the two apart by s_root (None: new, fill it).
    """
    if test is not None:
        for old in kernel.vfs.super_blocks:
            if old.s_type is fs_type and test(old):
                old.s_active += 1
                return old
    sb = alloc_super(kernel, fs_type, flags)
    set(sb)
    kernel.vfs.super_blocks[sb] = None
    sb.s_shrink = Shrinker(partial(super_cache_count, sb), partial(super_cache_scan, sb), 1024)
    register_shrinker_prepared(kernel, sb.s_shrink)
    return sb


def super_cache_count(sb: SuperBlock, sc: ShrinkControl) -> int:
    """How many dentries and inodes of a file system could go."""
    if not sb_has_root(sb) or not sb.s_flags & SB_ACTIVE:
        return 0
    total_objects = nr_unused_dentries(sb) + nr_unused_inodes(sb)
    return total_objects * sb.kernel.sysctl.vfs_cache_pressure // 100          # vfs_pressure_ratio()


@notrace
def nr_unused_inodes(sb: SuperBlock) -> int:
    """How many inodes prune_icache_sb() could free."""
    return 0 if sb.s_bdev is None else sum([inode_unused(inode) for inode in sb.s_inode_list])


@may_sleep
def super_cache_scan(sb: SuperBlock, sc: ShrinkControl) -> int:
    """Frees some of them: dentries first, for inodes are used by dentries; of each kind its share."""
    if not sc.gfp_mask & __GFP_FS or not sb_has_root(sb) or not sb.s_flags & SB_ACTIVE:
        return SHRINK_STOP
    dentries, inodes = nr_unused_dentries(sb), nr_unused_inodes(sb)
    total = dentries + inodes + 1
    freed = prune_dcache_sb(sb, sc.nr_to_scan * dentries // total + 1)
    return freed + prune_icache_sb(sb, sc.nr_to_scan * inodes // total + 1)


def set_anon_super(sb: SuperBlock) -> None:
    """sget()'s `set` for file systems without a device."""
    sb.s_dev = get_anon_bdev(sb.kernel)


@may_sleep
def deactivate_super(sb: SuperBlock) -> None:
    """Drops one s_active; the last one shuts the file system down."""
    sb.s_active -= 1
    if not sb.s_active:
        deactivate_locked_super(sb)


@may_sleep
def deactivate_locked_super(sb: SuperBlock) -> None:
    """Shuts a file system down through its type's ->kill_sb()."""
    if sb.s_shrink is not None:
        unregister_shrinker(sb.kernel, sb.s_shrink)
        sb.s_shrink = None
    kill_sb = sb.s_type.kill_sb
    if kill_sb is _nothing:
        kill_anon_super(sb)
    else:
        kill_sb(sb)
    sb.kernel.vfs.super_blocks.pop(sb, None)


@may_sleep
def generic_shutdown_super(sb: SuperBlock) -> None:
    """Drops dentries, writes everything back, drops inodes, then ->put_super()."""
    if sb_has_root(sb):
        shrink_dcache_for_umount(sb)
        with suppress(KernelError):                # it was told to who waited for it
            sync_filesystem(sb)
        sb.s_flags &= ~SB_ACTIVE
        if sb.kernel.vfs.nr_marks:
            fsnotify_sb_delete(sb)
        evict_inodes(sb)
        sb.s_op.put_super(sb)
        if sb.s_bdev is not None and sb.s_inode_list:
            sb.kernel.printk(f"VFS: Busy inodes after unmount of {sb.s_id.decode(errors='replace')}. "
                             "Self-destruct in 5 seconds.  Have a nice day...", 0)
        for inode in list(sb.s_inode_list):        # still used: a leak, or a file that outlives its mount
            evict(inode)
        if sb.s_dio_done_wq is not None:
            destroy_workqueue(sb.s_dio_done_wq)
            sb.s_dio_done_wq = None
    sb.kernel.vfs.super_blocks.pop(sb, None)
    bdi = sb.s_bdi
    if bdi is not None:
        sb.s_bdi = None
        if sb.s_bdev is None:                      # super_setup_bdi(); a device's own is the device's
            bdi_put(bdi)


@may_sleep
def kill_anon_super(sb: SuperBlock) -> None:
    """->kill_sb() of a file system without a device."""
    dev = sb.s_dev
    generic_shutdown_super(sb)
    free_anon_bdev(sb.kernel, dev)


@may_sleep
def kill_litter_super(sb: SuperBlock) -> None:
    """->kill_sb() of a file system whose dentries are its directory entries (tmpfs, ramfs)."""
    if sb_has_root(sb):
        d_genocide(sb.s_root)
    kill_anon_super(sb)


@may_sleep
def mount_nodev(kernel: Kernel, fs_type: FileSystemType, flags: int, data: bytes, fill_super: FillSuper) -> Dentry:
    """A new super block for each mount. Answers its root, with a reference; what fill_super raises goes on."""
    sb = sget(kernel, fs_type, None, set_anon_super, flags)
    try:
        fill_super(sb, data, False)
    except KernelError:
        deactivate_super(sb)
        raise
    sb.s_flags |= SB_ACTIVE
    return dget(sb.s_root)


@may_sleep
def mount_single(kernel: Kernel, fs_type: FileSystemType, flags: int, data: bytes, fill_super: FillSuper) -> Dentry:
    """One super block for all mounts of the type; a second mount remounts it."""
    sb = sget(kernel, fs_type, lambda _sb: True, set_anon_super, flags)
    if not sb_has_root(sb):
        try:
            fill_super(sb, data, False)
        except KernelError:
            deactivate_super(sb)
            raise
        sb.s_flags |= SB_ACTIVE
    else:
        reconfigure_single(sb, flags, data)
    return dget(sb.s_root)


@notrace
def mount_keyed(kernel: Kernel, fs_type: FileSystemType, flags: int, data: bytes, key: object,
                fill_super: FillSuper) -> Dentry:
    """One super block for all mounts of the type with an equal s_fs_info key (vfs_get_super(vfs_get_keyed_super)).

    fill_super must leave s_fs_info == key.
    """
    sb = sget(kernel, fs_type, lambda old: bool(old.s_fs_info == key), set_anon_super, flags)
    if not sb_has_root(sb):
        sb.s_fs_info = key
        try:
            fill_super(sb, data, False)
        except KernelError:
            deactivate_super(sb)
            raise
        sb.s_flags |= SB_ACTIVE
    return dget(sb.s_root)


def reconfigure_single(sb: SuperBlock, flags: int, data: bytes) -> None:
    """The options of a later mount of a mount_single() file system."""
    remount_fs = sb.s_op.remount_fs
    if remount_fs is not None:
        remount_fs(sb, sb.s_flags & SB_RDONLY | flags & ~SB_RDONLY, data)


@may_sleep
def vfs_get_tree(kernel: Kernel, fs_type: FileSystemType, flags: int, name: bytes, data: bytes) -> Dentry:
    """Asks the file system for the root of a tree to mount: a dentry with a reference, its sb with one s_active.

    Errors: what ->mount() raises (ENODEV, EINVAL for options ...).
    """
    lsm = kernel.lsm
    mnt_opts = None
    if lsm is not None and not fs_type.fs_flags & FS_BINARY_MOUNTDATA:
        data, mnt_opts = lsm.security_sb_eat_lsm_opts(data)
    root = legacy_get_tree(kernel, fs_type, flags, name, data)
    root.d_sb.s_flags |= SB_BORN
    if lsm is not None:
        try:
            lsm.security_sb_set_mnt_opts(root.d_sb, mnt_opts)
        except KernelError:
            dput(root)
            deactivate_super(root.d_sb)
            raise
    return root


def legacy_get_tree(kernel: Kernel, fs_type: FileSystemType, flags: int, name: bytes, data: bytes) -> Dentry:
    """Calls ->mount()."""
    return fs_type.mount(kernel, fs_type, flags, name, data)


get_tree = vfs_get_tree


@may_sleep
def reconfigure_super(sb: SuperBlock, flags: int, data: bytes, force: bool = False) -> None:
    """Changes options and SB_RDONLY of a mounted file system. Raises EBUSY while files are open for writing."""
    mask = SB_RDONLY | 16 | 64 | 128 | 1 << 25            # what a remount may change
    lsm = sb.kernel.lsm
    if lsm is not None:
        data, mnt_opts = lsm.security_sb_eat_lsm_opts(data)
        lsm.security_sb_remount(sb, mnt_opts)
    remount_ro = bool(flags & SB_RDONLY and not sb.s_flags & SB_RDONLY)
    if remount_ro:
        shrink_dcache_sb(sb)
        if not force and sb_has_writers(sb):
            raise KernelError(EBUSY)
        sync_filesystem(sb)
    remount_fs = sb.s_op.remount_fs
    if remount_fs is not None:
        flags = remount_fs(sb, flags, data)
    elif data:
        raise KernelError(EINVAL)
    sb.s_flags = sb.s_flags & ~mask | flags & mask


@notrace
def sb_has_writers(sb: SuperBlock) -> bool:
    """True if some mount of the file system is being written through, or an unlinked file is still open."""
    return any(m.mnt_sb is sb and m.mnt_writers for m in sb.kernel.vfs.mounts.values())


@notrace
def init_pseudo(kernel: Kernel, fs_type: FileSystemType, magic: int, s_op: SuperOperations,
                d_op: DentryOperations | None = None, flags: int = 0) -> Dentry:
    """->mount() of a file system that only the kernel mounts: pipefs, sockfs, anon_inodefs."""

    def pseudo_fs_fill_super(sb: SuperBlock, _data: bytes, _silent: bool) -> None:
        sb.s_maxbytes = (1 << 63) - 1
        sb.s_magic = magic
        sb.s_op = s_op
        root = new_inode(sb)
        root.i_ino = 1
        root.i_mode = S_IFDIR | 0o600
        sb.s_root = d_make_root(root)
        if d_op is not None:
            sb.s_d_op = d_op

    return mount_nodev(kernel, fs_type, SB_KERNMOUNT | SB_NOUSER | flags, b"", pseudo_fs_fill_super)


@may_sleep
def __sync_filesystem(sb: SuperBlock, wait: int) -> None:
    if wait:
        sync_inodes_sb(sb)
    else:
        writeback_inodes_sb(sb, WB_REASON_SYNC)
    sb.s_op.sync_fs(sb, wait)
    if sb.s_bdev is not None:
        sb.kernel.vfs.sync_blockdev(sb.s_bdev, wait)


@may_sleep
def sync_filesystem(sb: SuperBlock) -> None:
    """Writes everything of one file system: first started, then waited for. Raises EIO."""
    if sb.s_flags & SB_RDONLY:
        return
    __sync_filesystem(sb, 0)
    __sync_filesystem(sb, 1)


def iterate_supers(kernel: Kernel, f: Callable[[SuperBlock], None]) -> None:
    """Calls f for every live super block."""
    for sb in list(kernel.vfs.super_blocks):
        if sb_has_root(sb):
            f(sb)


def user_get_super(kernel: Kernel, dev: int) -> SuperBlock | None:
    """The super block with device number `dev` (ustat)."""
    for sb in kernel.vfs.super_blocks:
        if sb.s_dev == dev and sb_has_root(sb):
            return sb
    return None
