"""hostfs: directories of the host as a file system of the guest. Mounting.

Linux: fs/hostfs/hostfs_kern.c (5.3). Differs: only what the user lent can be mounted (`mount -t hostfs TAG DIR` knows
    tags, not host paths); a policy hides names (policy.py).
Owns: Kernel.hostfs. Invariant: no path leads out of the lent directory (machine/hostdir.py); a symlink's text is
    resolved inside the guest.
Gaps: extended attributes; inotify events for changes made by the host.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_make_root
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.hostfs.dir import hostfs_dir_fops, hostfs_dir_iops, made_inode
from glasskernel.fs.hostfs.node import HostfsSb, HostNode, called, child_path, hostfs_sb, inode_number, set_attributes
from glasskernel.fs.hostfs.policy import EVERYTHING, Policy
from glasskernel.fs.inode import new_inode
from glasskernel.fs.super import mount_nodev
from glasskernel.fs.types import S_IFMT, SB_RDONLY, DentryOperations, FileSystemType, Kstatfs, SuperOperations
from glasskernel.lib.errno import EIO, ENODEV, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.hostdir import HostDir
from glasskernel.mm.backing_dev import super_setup_bdi
from glasskernel.mm.truncate import truncate_inode_pages

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode, SuperBlock
    from glasskernel.init.kernel import Kernel

HOSTFS_SUPER_MAGIC = 0x00C0FFEE


@slotted
class HostfsState:
    """Kernel.hostfs. shares: tag -> what `mount -t hostfs TAG` mounts."""

    shares: dict[bytes, tuple[HostDir, Policy]] = field(default_factory=dict)


@notrace
def hostfs_share(kernel: Kernel, tag: bytes, host: HostDir, policy: Policy = EVERYTHING) -> None:
    """Lends a host directory to the guest under a name. Mounted read-only unless host.writable."""
    kernel.hostfs.shares[tag] = (host, policy)


@notrace
def hostfs_init(kernel: Kernel) -> None:
    """init_hostfs(): registers the file system type."""
    kernel.hostfs = HostfsState()
    register_filesystem(kernel, hostfs_type)


def hostfs_d_revalidate(dentry: Dentry) -> bool:
    """Only in shares for writing: has the host made, removed or replaced this name?"""
    parent = dentry.d_parent.d_inode
    inode = dentry.d_inode
    if parent is None or dentry.d_parent is dentry:
        return True
    try:
        st = hostfs_sb(parent).host.stat(child_path(parent, dentry.d_name))
    except OSError:
        return inode is None
    if inode is None:
        return False
    if inode.i_private.key != (st.st_dev, st.st_ino) or (inode.i_mode ^ st.st_mode) & S_IFMT:
        return False
    called(inode.i_private, parent.i_private, dentry.d_name)
    return True


def hostfs_evict_inode(inode: Inode) -> None:
    """The last reference is gone: the host's descriptor goes too."""
    node: HostNode | None = inode.i_private
    if inode.i_mapping is not None:
        truncate_inode_pages(inode.i_mapping, 0)
    if node is None:
        return
    if node.file is not None:
        node.file.close()
        node.file = None
    info = hostfs_sb(inode)
    if info.inodes.get(node.key) is inode:
        del info.inodes[node.key]


def hostfs_statfs(dentry: Dentry) -> Kstatfs:
    """A share for writing says what the host's file system has free; any other is full."""
    host: HostDir = dentry.d_sb.s_fs_info.host
    try:
        st = host.statvfs()
    except OSError as e:
        raise KernelError(e.errno or EIO) from None
    free = host.writable
    return Kstatfs(HOSTFS_SUPER_MAGIC, st.f_bsize, st.f_blocks, st.f_bfree if free else 0, st.f_bavail if free else 0,
                   st.f_files, st.f_ffree if free else 0, 0, st.f_namemax, st.f_frsize)


def hostfs_fill_sb_common(sb: SuperBlock, host: HostDir, policy: Policy) -> None:
    """Makes sb a view of a host directory."""
    info = sb.s_fs_info = HostfsSb(host, policy)
    sb.s_magic = HOSTFS_SUPER_MAGIC
    sb.s_op = hostfs_sbops
    if host.writable:
        sb.s_d_op = hostfs_dentry_ops
        super_setup_bdi(sb)
    else:
        sb.s_flags |= SB_RDONLY
    if policy.root.made:
        root = made_inode(sb, None, b"", policy.root)
    else:
        st = host.stat(())
        root = new_inode(sb)
        key = (st.st_dev, st.st_ino)
        root.i_ino = inode_number(info, key)
        node = root.i_private = HostNode(None, b"", policy.root, key)
        set_attributes(root, st, host.writable)
        root.i_op = hostfs_dir_iops
        root.i_fop = hostfs_dir_fops
        info.inodes[node.key] = root
    sb.s_root = d_make_root(root)


def hostfs_read_sb(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """Mounts what was lent under the tag `dev_name`. Errors: ENODEV if nothing was."""
    share = kernel.hostfs.shares.get(dev_name)
    if share is None:
        raise KernelError(ENODEV)
    host, policy = share
    return mount_nodev(kernel, fs_type, flags, data, lambda sb, _data, _silent: hostfs_fill_sb_common(sb, host, policy))


hostfs_dentry_ops = DentryOperations(d_revalidate=hostfs_d_revalidate)
hostfs_sbops = SuperOperations(statfs=hostfs_statfs, evict_inode=hostfs_evict_inode)
hostfs_type = FileSystemType(b"hostfs", hostfs_read_sb)
