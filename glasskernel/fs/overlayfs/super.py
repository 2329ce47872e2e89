"""Mounting overlayfs, looking names up in it, and attributes.

Linux: fs/overlayfs/{super.c,namei.c,inode.c} (5.3). Same: lowerdir=A:B,upperdir=,workdir=; statfs is the
    upper layer's; attributes are the real file's, st_dev and st_ino the overlay's.
Differs: see util.py. Gaps: redirect_dir, index, metacopy, nfs_export (EINVAL); O_TMPFILE.
Owns: the super block.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.attr import notify_change, setattr_prepare
from glasskernel.fs.dcache import d_add, d_make_root, d_splice_alias, dget, dput
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.inode import inode_from, inode_lock, inode_unlock
from glasskernel.fs.mount import mntget, mntput, path_put
from glasskernel.fs.namei import kern_path
from glasskernel.fs.overlayfs.copy_up import ovl_copy_up, ovl_copy_up_flags, upper_of
from glasskernel.fs.overlayfs.dir import (
    ovl_create,
    ovl_link,
    ovl_mkdir,
    ovl_mknod,
    ovl_rename,
    ovl_rmdir,
    ovl_symlink,
    ovl_unlink,
)
from glasskernel.fs.overlayfs.file import ovl_file_operations
from glasskernel.fs.overlayfs.readdir import ovl_dir_operations
from glasskernel.fs.overlayfs.util import (
    OVL_FS,
    OVL_I,
    OvlFs,
    lookup_real,
    override_creds,
    ovl_copyattr,
    ovl_dentry_real,
    ovl_evict_inode,
    ovl_get_inode,
    ovl_inode_real,
    ovl_is_opaque,
    ovl_is_whiteout,
    revert_creds,
)
from glasskernel.fs.permission import generic_permission
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.super import mount_nodev
from glasskernel.fs.types import (
    ATTR_FILE,
    ATTR_FORCE,
    ATTR_MODE,
    ATTR_SIZE,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    SB_RDONLY,
    FileOperations,
    FileSystemType,
    InodeOperations,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EINVAL, ENODATA, ENOTDIR, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_ACCOUNT, SLAB_MEM_SPREAD, SLAB_RECLAIM_ACCOUNT
from glasskernel.mm.slub import kmem_cache_free

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Iattr, Inode, Kstat, Kstatfs, Mount, Path, SuperBlock
    from glasskernel.init.kernel import Kernel

OVERLAYFS_SUPER_MAGIC = 0x794C7630


# ---- lookup --------------------------------------------------------------------------------------
@may_sleep
def ovl_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """Asks the layers from the top. Errors: those of the layers."""
    poe = OVL_I(dir)
    name = dentry.d_name
    upper: Dentry | None = None
    lower: list[tuple[int, Dentry]] = []
    opaque = hidden = False
    if poe.upper is not None:
        upper = lookup_real(poe.upper, name)
        inode = upper.d_inode
        if inode is None or ovl_is_whiteout(upper):
            hidden = inode is not None
            dput(upper)
            upper = None
        elif inode.i_mode & S_IFMT != S_IFDIR:
            hidden = True
        else:
            hidden = opaque = ovl_is_opaque(inode)
    if not hidden:
        for layer, lowerdir in poe.lower:
            child = lookup_real(lowerdir, name)
            inode = child.d_inode
            if inode is None:
                dput(child)
                continue
            is_dir = inode.i_mode & S_IFMT == S_IFDIR
            if ovl_is_whiteout(child) or (not is_dir and (upper is not None or lower)):
                dput(child)
                break
            lower.append((layer, child))
            if not is_dir or ovl_is_opaque(inode):
                break
    if upper is None and not lower:
        d_add(dentry, None)
        return None
    return d_splice_alias(ovl_get_inode(dir.i_sb, upper, lower, opaque), dentry)


# ---- attributes ----------------------------------------------------------------------------------
def ovl_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """The real file's attributes with the overlay's numbers."""
    real = ovl_dentry_real(inode)
    realinode = real.d_inode
    assert realinode is not None
    getattr_ = realinode.i_op.getattr
    stat = generic_fillattr(realinode) if getattr_ is None else getattr_(real, realinode)
    stat.dev = inode.i_sb.s_dev
    stat.ino = inode.i_ino
    oi = OVL_I(inode)
    if inode.i_mode & S_IFMT == S_IFDIR and oi.upper is not None and oi.lower:
        stat.nlink = 1                       # merged: find(1) must not count on it
    return stat


def ovl_permission(inode: Inode, mask: int) -> None:
    """By the overlay's own mode and owner, which are the real file's. Errors: EACCES."""
    generic_permission(inode, mask)


@may_sleep
def ovl_setattr(dentry: Dentry, attr: Iattr) -> None:
    """Copies up, then changes the upper file. Errors: EPERM, EROFS, ENOSPC ..."""
    setattr_prepare(dentry, attr)
    inode = dentry.d_inode
    assert inode is not None
    if attr.ia_valid & ATTR_SIZE and attr.ia_size == 0:
        ovl_copy_up_flags(dentry, 0o1000)    # O_TRUNC: its data would be thrown away
    else:
        ovl_copy_up(dentry)
    upper = upper_of(dentry)
    real = upper.d_inode
    assert real is not None
    attr.ia_valid = attr.ia_valid & ~ATTR_FILE | ATTR_FORCE
    attr.ia_file = None
    old = override_creds(inode.i_sb)
    inode_lock(real)
    try:
        if attr.ia_valid & ATTR_MODE:
            attr.ia_mode = attr.ia_mode & 0o7777 | real.i_mode & S_IFMT
        notify_change(upper, attr)
    finally:
        inode_unlock(real)
        revert_creds(old)
    ovl_copyattr(real, inode)


def ovl_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    """The text of the real link."""
    real = ovl_inode_real(inode)
    if real.i_link is not None:
        return real.i_link
    get_link = real.i_op.get_link
    assert get_link is not None
    text = get_link(ovl_dentry_real(inode), real)
    assert isinstance(text, bytes)
    return text


# ---- extended attributes -------------------------------------------------------------------------
@notrace
def _private(name: bytes) -> bool:
    return name.startswith(b"trusted.overlay.")


def ovl_xattr_get(inode: Inode, name: bytes) -> bytes:
    """Errors: EOPNOTSUPP, ENODATA."""
    real = ovl_inode_real(inode)
    if real.i_op.getxattr is None or _private(name):
        raise KernelError(ENODATA if _private(name) else EOPNOTSUPP)
    return real.i_op.getxattr(real, name)


@may_sleep
def ovl_xattr_set(inode: Inode, name: bytes, value: bytes | None, flags: int) -> None:
    """Errors: EOPNOTSUPP, ENODATA, EEXIST ..."""
    if _private(name):
        raise KernelError(EOPNOTSUPP)
    if value is None:
        ovl_xattr_get(inode, name)
    ovl_copy_up(inode.i_dentry[0])
    real = ovl_inode_real(inode)
    if real.i_op.setxattr is None:
        raise KernelError(EOPNOTSUPP)
    real.i_op.setxattr(real, name, value, flags)


def ovl_listxattr(dentry: Dentry) -> list[bytes]:
    """Our own names are not shown."""
    inode = dentry.d_inode
    assert inode is not None
    real = ovl_inode_real(inode)
    if real.i_op.listxattr is None:
        return []
    return [name for name in real.i_op.listxattr(ovl_dentry_real(inode)) if not _private(name)]


# ---- mounting ------------------------------------------------------------------------------------
def ovl_statfs(dentry: Dentry) -> Kstatfs:
    """The upper layer's free space; without one, the first lower layer's."""
    info = OVL_FS(dentry.d_sb)
    layer = info.layers[0] or info.layers[1]
    assert layer is not None
    root = layer[0].mnt_root
    stat = root.d_sb.s_op.statfs(root)
    stat.f_type = OVERLAYFS_SUPER_MAGIC
    return stat


def ovl_show_options(dentry: Dentry) -> bytes:
    return OVL_FS(dentry.d_sb).config


def ovl_put_super(sb: SuperBlock) -> None:
    """Lets the layers go."""
    for layer in OVL_FS(sb).layers:
        if layer is not None:
            dput(layer[1])
            mntput(layer[0])


@notrace
def ovl_parse_opt(data: bytes) -> dict[bytes, bytes]:
    """Errors: EINVAL for an option that is not known, or without lowerdir."""
    options: dict[bytes, bytes] = {}
    for option in data.split(b","):
        key, _, value = option.partition(b"=")
        if not option:
            continue
        if key not in (b"lowerdir", b"upperdir", b"workdir", b"xino", b"index", b"metacopy", b"redirect_dir",
                       b"nfs_export") or (key not in (b"lowerdir", b"upperdir", b"workdir") and value == b"on"):
            raise KernelError(EINVAL)
        options[key] = value
    if not options.get(b"lowerdir") or (b"upperdir" in options and b"workdir" not in options):
        raise KernelError(EINVAL)
    return options


@may_sleep
@notrace
def _layer(kernel: Kernel, name: bytes) -> tuple[Mount, Dentry]:
    """Errors: ENOENT, ENOTDIR."""
    path: Path = kern_path(kernel, name)
    inode = path.dentry.d_inode
    if inode is None or inode.i_mode & S_IFMT != S_IFDIR:
        path_put(path)
        raise KernelError(ENOTDIR)
    layer = (mntget(path.mnt), dget(path.dentry))
    path_put(path)
    return layer


@may_sleep
def ovl_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """Errors: EINVAL for bad options, ENOENT and ENOTDIR for directories."""
    kernel = sb.kernel
    options = ovl_parse_opt(data)
    config = b",lowerdir=" + options[b"lowerdir"]
    upper = None
    if b"upperdir" in options:
        upper = _layer(kernel, options[b"upperdir"])
        config += b",upperdir=%b,workdir=%b" % (options[b"upperdir"], options[b"workdir"])
    else:
        sb.s_flags |= SB_RDONLY
    lower = [_layer(kernel, name) for name in options[b"lowerdir"].split(b":")]
    tables: dict[int, tuple[InodeOperations, FileOperations]] = {
        S_IFDIR: (ovl_dir_inode_operations, ovl_dir_operations),
        S_IFREG: (ovl_file_inode_operations, ovl_file_operations),
        S_IFLNK: (ovl_symlink_inode_operations, FileOperations()),
        S_IFIFO: (ovl_special_inode_operations, FileOperations()),
    }
    sb.s_fs_info = OvlFs([upper, *lower], config, current().cred, tables)
    sb.s_magic = OVERLAYFS_SUPER_MAGIC
    sb.s_op = ovl_super_operations
    root = ovl_get_inode(
        sb, dget(upper[1]) if upper else None, [(i + 1, dget(dentry)) for i, (_, dentry) in enumerate(lower)], False)
    sb.s_root = d_make_root(root)


@may_sleep
def ovl_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return mount_nodev(kernel, fs_type, flags, data, ovl_fill_super)


ovl_dir_inode_operations = InodeOperations(
    lookup=ovl_lookup, mkdir=ovl_mkdir, symlink=ovl_symlink, unlink=ovl_unlink, rmdir=ovl_rmdir, rename=ovl_rename,
    link=ovl_link, setattr=ovl_setattr, create=ovl_create, mknod=ovl_mknod, permission=ovl_permission,
    getattr=ovl_getattr, listxattr=ovl_listxattr, getxattr=ovl_xattr_get, setxattr=ovl_xattr_set,
)
ovl_file_inode_operations = InodeOperations(
    setattr=ovl_setattr, permission=ovl_permission, getattr=ovl_getattr, listxattr=ovl_listxattr,
    getxattr=ovl_xattr_get, setxattr=ovl_xattr_set,
)
ovl_special_inode_operations = InodeOperations(
    setattr=ovl_setattr, permission=ovl_permission, getattr=ovl_getattr, listxattr=ovl_listxattr,
    getxattr=ovl_xattr_get, setxattr=ovl_xattr_set,
)
ovl_symlink_inode_operations = InodeOperations(
    setattr=ovl_setattr, get_link=ovl_get_link, getattr=ovl_getattr, listxattr=ovl_listxattr,
    getxattr=ovl_xattr_get, setxattr=ovl_xattr_set,
)
def ovl_alloc_inode(sb: SuperBlock) -> Inode:
    """->alloc_inode()"""
    return inode_from(sb, sb.kernel.slab.ovl_inode_cachep)


def ovl_free_inode(inode: Inode) -> None:
    """->free_inode()"""
    kmem_cache_free(inode.i_sb.kernel.slab.ovl_inode_cachep, inode.slab_address)


ovl_super_operations = SuperOperations(
    alloc_inode=ovl_alloc_inode, free_inode=ovl_free_inode, statfs=ovl_statfs,
    evict_inode=ovl_evict_inode, put_super=ovl_put_super, show_options=ovl_show_options,
)
ovl_fs_type = FileSystemType(b"overlay", ovl_mount)


def overlayfs_init(kernel: Kernel) -> None:
    """ovl_init(): registers the file system type."""
    kernel.slab.ovl_inode_cachep = kmem_cache_create(
        kernel, b"ovl_inode", 680, 0, SLAB_RECLAIM_ACCOUNT | SLAB_MEM_SPREAD | SLAB_ACCOUNT, ctor=True)
    register_filesystem(kernel, ovl_fs_type)
