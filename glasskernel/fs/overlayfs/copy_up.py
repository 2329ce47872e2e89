"""Copying a lower file to the upper layer before it changes.

Linux: fs/overlayfs/copy_up.c (5.3). Same: parents first; data, mode, owner, times, attributes; with
    O_TRUNC no data.
Differs: the copy is made in its place, not in workdir and then renamed: nobody else looks at the layer
    meanwhile, and a copy that fails is removed again.
Owns: nothing. Invariant: when ovl_copy_up() returns, OVL_I(inode).upper is set.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import dput
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file_table import fput
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.overlayfs.util import (
    OVL_FS,
    OVL_I,
    OVL_XATTR_OPAQUE,
    lookup_real,
    override_creds,
    ovl_copyattr,
    ovl_map_ino,
    ovl_path_real,
    revert_creds,
)
from glasskernel.fs.read_write import kernel_read, kernel_write
from glasskernel.fs.types import (
    FMODE_WRITE,
    O_RDONLY,
    O_TRUNC,
    O_WRONLY,
    S_IFCHR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    Path,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched, fatal_signal_pending
from glasskernel.lib.errno import EINTR, EIO, EROFS, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode

_CHUNK = 1 << 17


@may_sleep
def ovl_copy_up(dentry: Dentry) -> None:
    """Makes sure that the file is in the upper layer. Errors: EROFS without one; ENOSPC, EIO ..."""
    ovl_copy_up_flags(dentry, 0)


@may_sleep
def ovl_copy_up_flags(dentry: Dentry, flags: int) -> None:
    """flags: O_TRUNC leaves the data out."""
    inode = dentry.d_inode
    assert inode is not None
    if OVL_I(inode).upper is not None:
        return
    if OVL_FS(inode.i_sb).layers[0] is None:
        raise KernelError(EROFS)
    chain = []
    node = dentry
    while OVL_I(node.d_inode).upper is None:  # type: ignore[arg-type]
        chain.append(node)
        node = node.d_parent
    old = override_creds(inode.i_sb)
    try:
        for node in reversed(chain):
            ovl_copy_up_one(node.d_parent, node, flags if node is dentry else 0)
    finally:
        revert_creds(old)


def ovl_copy_up_one(parent: Dentry, dentry: Dentry, flags: int) -> None:
    """Copies one file or directory into the upper directory of its parent."""
    inode = dentry.d_inode
    parent_inode = parent.d_inode
    assert inode is not None and parent_inode is not None
    oi = OVL_I(inode)
    upperdir = OVL_I(parent_inode).upper
    assert upperdir is not None
    real = oi.lower[0][1].d_inode
    assert real is not None
    dir = upperdir.d_inode
    assert dir is not None
    inode_lock(dir)
    try:
        if oi.upper is not None:                       # somebody else was faster
            return
        upper = lookup_real(upperdir, dentry.d_name)
        if upper.d_inode is not None:
            dput(upper)
            raise KernelError(EIO)
        try:
            if inode.i_security is not None:
                inode.i_sb.kernel.lsm.security_inode_copy_up(dentry, current().cred)
            ovl_create_copy(dir, upper, oi.lower[0][1], real)
            if real.i_mode & S_IFMT == S_IFREG and not flags & O_TRUNC:
                try:
                    ovl_copy_up_data(ovl_path_real(inode), upper, real.i_size, inode)
                except KernelError:
                    dir.i_op.unlink(dir, upper)
                    raise
            ovl_set_attr(upper, real)
            ovl_copy_xattr(oi.lower[0][1], upper)
        except KernelError:
            dput(upper)
            raise
        ovl_inode_update(inode, upper)
    finally:
        inode_unlock(dir)


@notrace
def ovl_create_copy(dir: Inode, upper: Dentry, lower: Dentry, real: Inode) -> None:
    """The empty copy."""
    mode = real.i_mode
    kind = mode & S_IFMT
    if kind == S_IFREG:
        dir.i_op.create(dir, upper, mode)
    elif kind == S_IFDIR:
        dir.i_op.mkdir(dir, upper, mode & 0o1777)
    elif kind == S_IFLNK:
        get_link = real.i_op.get_link
        assert get_link is not None
        text = real.i_link if real.i_link is not None else get_link(lower, real)
        assert isinstance(text, bytes)
        dir.i_op.symlink(dir, upper, text)
    else:
        dir.i_op.mknod(dir, upper, mode, real.i_rdev)


def ovl_copy_up_data(old: Path, upper: Dentry, size: int, inode: Inode) -> None:
    """Copies the bytes. Errors: ENOSPC, EIO, EINTR."""
    upper_mnt = OVL_FS(inode.i_sb).upper_mnt
    assert upper_mnt is not None
    source = dentry_open(old, O_RDONLY)
    try:
        target = dentry_open(Path(upper_mnt, upper), O_WRONLY)
        try:
            pos = 0
            while pos < size:
                data = kernel_read(source, min(_CHUNK, size - pos), pos)
                if not data:
                    break
                written = kernel_write(target, data, pos)
                if written != len(data):
                    raise KernelError(EIO)
                pos += written
                if fatal_signal_pending(current()):
                    raise KernelError(EINTR)
                cond_resched()
        finally:
            fput(target)
    finally:
        fput(source)


def ovl_set_attr(upper: Dentry, real: Inode) -> None:
    """Mode, owner and times of the original."""
    inode = upper.d_inode
    assert inode is not None
    inode.i_mode = real.i_mode
    inode.i_uid = real.i_uid
    inode.i_gid = real.i_gid
    inode.i_atime = real.i_atime
    inode.i_mtime = real.i_mtime


def ovl_copy_xattr(lower: Dentry, upper: Dentry) -> None:
    """Extended attributes, where both layers have them."""
    source, target = lower.d_inode, upper.d_inode
    assert source is not None and target is not None
    if source.i_op.listxattr is None or source.i_op.getxattr is None or target.i_op.setxattr is None:
        return
    lsm = source.i_sb.kernel.lsm
    for name in source.i_op.listxattr(lower):
        if name != OVL_XATTR_OPAQUE and not (lsm is not None and lsm.security_inode_copy_up_xattr(name)):
            target.i_op.setxattr(target, name, source.i_op.getxattr(source, name), 0)


@notrace
def ovl_inode_update(inode: Inode, upper: Dentry) -> None:
    """From now on the upper file is the real one. Takes over the reference."""
    oi = OVL_I(inode)
    info = OVL_FS(inode.i_sb)
    real = upper.d_inode
    assert real is not None
    oi.upper = upper
    origin = oi.lower[0][1].d_inode
    assert origin is not None
    if origin.i_nlink > 1 and origin.i_mode & S_IFMT != S_IFDIR:
        inode.i_ino = ovl_map_ino(info, 0, real.i_ino)         # its other names are other files from now on
    info.origins[real] = inode.i_ino
    if real.i_mode & S_IFMT != S_IFDIR:
        if oi.key is not None and info.inodes.get(oi.key) is inode:
            del info.inodes[oi.key]
        oi.key = real
        info.inodes[real] = inode
    ovl_copyattr(real, inode)


@may_sleep
def ovl_maybe_copy_up(dentry: Dentry, flags: int, mode: int) -> None:
    """Before a file is opened for writing."""
    inode = dentry.d_inode
    assert inode is not None
    if OVL_I(inode).upper is None and (mode & FMODE_WRITE or flags & O_TRUNC) \
            and inode.i_mode & S_IFMT not in (S_IFCHR, S_IFDIR, S_IFLNK):
        ovl_copy_up_flags(dentry, flags)


@notrace
def upper_of(dentry: Dentry) -> Dentry:
    """The upper dentry of what has been copied up, without a reference."""
    inode = dentry.d_inode
    assert inode is not None
    upper = OVL_I(inode).upper
    assert upper is not None
    return upper

