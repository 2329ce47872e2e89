"""What the files of overlayfs share: layers, real inodes, and acting on layers with the mounter's rights.

Linux: fs/overlayfs/{ovl_entry.h,util.c,inode.c ovl_get_inode} (5.3).
Same: a whiteout is the character device 0:0; an opaque directory has the attribute
    trusted.overlay.opaque=y; files with several lower links are copied up one by one.
Differs: st_dev and st_ino are the overlay's own and stay when a file is copied up (Linux needs xino for
    that), unless it has several lower links, which become different files.
Owns: OvlFs (sb.s_fs_info), OvlInode (inode.i_private), references on the real dentries in them.
Invariants: upper is set once and stays; an OvlInode has at least one real dentry; i_ino is
    (number in the origin's layer) * layers + layer, with the origin the lowest real inode that was seen.
"""
from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_alloc_parallel, dput
from glasskernel.fs.inode import init_special_inode, new_inode
from glasskernel.fs.types import (
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    Dentry,
    Inode,
    Path,
)
from glasskernel.kernel.capability import CAP_FULL_SET
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import FileOperations, InodeOperations, Mount, SuperBlock
    from glasskernel.kernel.task import Cred

OVL_XATTR_OPAQUE = b"trusted.overlay.opaque"
WHITEOUT_DEV = 0


@slotted
class OvlFs:
    """struct ovl_fs. layers[0] is the upper one (None: read-only overlay), then the lower ones from the top."""

    layers: list[tuple[Mount, Dentry] | None]
    config: bytes                                       # for show_options()
    creator_cred: Cred
    tables: dict[int, tuple[InodeOperations, FileOperations]]
    inodes: dict[Inode, Inode] = field(default_factory=dict)       # real inode (origin) -> ours
    origins: dict[Inode, int] = field(default_factory=dict)        # upper inode of a copy -> our inode number

    @property
    def upper_mnt(self) -> Mount | None:
        layer = self.layers[0]
        return layer[0] if layer is not None else None


@slotted
class OvlInode:
    """struct ovl_inode and ovl_entry. lower: (layer, dentry) from the top; of a directory all that are merged."""

    upper: Dentry | None
    lower: list[tuple[int, Dentry]]
    opaque: bool = False
    key: Inode | None = None                            # under which OvlFs.inodes has it


# ---- access --------------------------------------------------------------------------------------
@notrace
def OVL_FS(sb: SuperBlock) -> OvlFs:
    info: OvlFs = sb.s_fs_info
    return info


@notrace
def OVL_I(inode: Inode) -> OvlInode:
    oi: OvlInode = inode.i_private
    return oi


def ovl_inode_real(inode: Inode) -> Inode:
    """The inode that holds data and attributes now."""
    return ovl_dentry_real(inode).d_inode  # type: ignore[return-value]


@notrace
def ovl_dentry_real(inode: Inode) -> Dentry:
    oi: OvlInode = inode.i_private
    return oi.upper if oi.upper is not None else oi.lower[0][1]


def ovl_path_real(inode: Inode) -> Path:
    """The real file's path."""
    info = OVL_FS(inode.i_sb)
    oi = OVL_I(inode)
    if oi.upper is not None:
        assert info.upper_mnt is not None
        return Path(info.upper_mnt, oi.upper)
    layer, dentry = oi.lower[0]
    mnt = info.layers[layer]
    assert mnt is not None
    return Path(mnt[0], dentry)


@notrace
def ovl_is_whiteout(dentry: Dentry) -> bool:
    inode = dentry.d_inode
    return inode is not None and inode.i_mode & S_IFMT == S_IFCHR and inode.i_rdev == WHITEOUT_DEV


def ovl_is_opaque(inode: Inode) -> bool:
    """An upper directory that hides what is below it."""
    getxattr = inode.i_op.getxattr
    if getxattr is None:
        return False
    try:
        return getxattr(inode, OVL_XATTR_OPAQUE) == b"y"
    except KernelError:
        return False


def ovl_set_opaque(upper: Dentry) -> None:
    """Marks an upper directory. Errors: EOPNOTSUPP if the upper file system has no attributes."""
    inode = upper.d_inode
    assert inode is not None
    if inode.i_op.setxattr is None:
        raise KernelError(EOPNOTSUPP)
    inode.i_op.setxattr(inode, OVL_XATTR_OPAQUE, b"y", 0)


@notrace
def override_creds(sb: SuperBlock, uid: int = 0, gid: int = 0) -> Cred:
    """The current task acts as the mounter; what it makes belongs to uid and gid. Answers what to go back to."""
    task = current()
    old = task.cred
    cred = copy(OVL_FS(sb).creator_cred)
    cred.cap_effective = CAP_FULL_SET
    cred.fsuid = uid
    cred.fsgid = gid
    task.cred = cred
    return old


@notrace
def revert_creds(old: Cred) -> None:
    current().cred = old


# ---- looking into layers -------------------------------------------------------------------------
@may_sleep
@notrace
def lookup_real(base: Dentry, name: bytes) -> Dentry:
    """A child of a real directory with a reference, perhaps negative. No permission is checked. Errors: EIO ..."""
    dentry = base.d_subdirs.get(name)
    if dentry is not None:
        dentry.d_count += 1
        return dentry
    dentry = d_alloc_parallel(base, name)
    inode = base.d_inode
    assert inode is not None
    try:
        alias = inode.i_op.lookup(inode, dentry)
    except KernelError:
        dput(dentry)
        raise
    if alias is not None:
        dput(dentry)
        return alias
    return dentry


# ---- inodes --------------------------------------------------------------------------------------
def ovl_copyattr(real: Inode, inode: Inode) -> None:
    """Takes over what checks look at."""
    inode.i_mode = real.i_mode
    inode.i_uid = real.i_uid
    inode.i_gid = real.i_gid
    inode.i_atime = real.i_atime
    inode.i_mtime = real.i_mtime
    inode.i_ctime = real.i_ctime
    inode.i_size = real.i_size
    inode.i_blocks = real.i_blocks


def ovl_fill_inode(inode: Inode, mode: int, rdev: int) -> None:
    """Operations by file type."""
    kind = mode & S_IFMT
    tables = OVL_FS(inode.i_sb).tables
    if kind in (S_IFDIR, S_IFREG, S_IFLNK):
        inode.i_op, inode.i_fop = tables[kind]
    else:
        init_special_inode(inode, mode, rdev)
        inode.i_op = tables[S_IFIFO][0]


@notrace
def ovl_map_ino(info: OvlFs, layer: int, ino: int) -> int:
    return ino * len(info.layers) + layer


def ovl_get_inode(sb: SuperBlock, upper: Dentry | None, lower: list[tuple[int, Dentry]],
                  opaque: bool) -> Inode:
    """The overlay inode of these real dentries, with a reference. Takes over the references on the dentries."""
    info = OVL_FS(sb)
    real = (upper if upper is not None else lower[0][1]).d_inode
    assert real is not None
    is_dir = real.i_mode & S_IFMT == S_IFDIR
    layer, key = 0, real
    if lower and (is_dir or upper is None):
        layer, origin = lower[-1]
        assert origin.d_inode is not None
        key = origin.d_inode
    several = upper is None and not is_dir and real.i_nlink > 1
    known = None if several else info.inodes.get(key)
    if known is not None and known.i_private.upper is None and upper is not None:
        known = None                                    # a copy whose origin is still in use somewhere
    if known is not None:
        dput(upper)
        for _, dentry in lower:
            dput(dentry)
        known.i_count += 1
        return known
    inode = new_inode(sb)
    inode.i_ino = info.origins.get(real, 0) or ovl_map_ino(info, layer, key.i_ino)
    oi = inode.i_private = OvlInode(upper, lower, opaque)
    inode.i_nlink = real.i_nlink
    ovl_copyattr(real, inode)
    ovl_fill_inode(inode, real.i_mode, real.i_rdev)
    if not several:
        oi.key = key
        info.inodes[key] = inode
    return inode


def ovl_evict_inode(inode: Inode) -> None:
    """Drops the references on the real dentries."""
    oi: OvlInode | None = inode.i_private
    if oi is None:
        return
    info = OVL_FS(inode.i_sb)
    if oi.key is not None and info.inodes.get(oi.key) is inode:
        del info.inodes[oi.key]
    if oi.upper is not None:
        if oi.upper.d_inode is not None and not oi.upper.d_inode.i_nlink:
            info.origins.pop(oi.upper.d_inode, None)
        dput(oi.upper)
    for _, dentry in oi.lower:
        dput(dentry)
    inode.i_private = None
