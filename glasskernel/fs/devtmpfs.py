"""devtmpfs: a tmpfs whose device nodes the kernel makes itself.

Linux: drivers/base/devtmpfs.c (5.3). Same: nodes appear with device_add(); one file system, mounted at
    /dev after boot and wherever else it is asked for. Differs: the boot task makes nodes, there is no
    kdevtmpfs thread; links and directories that udev would add (/dev/fd, stdin, stdout, stderr, pts, shm)
    are made by devtmpfs_populate().
Owns: Kernel.devtmpfs, the super block.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_alloc_name, dget, dput
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.super import mount_single
from glasskernel.fs.types import S_IFBLK, S_IFCHR, S_IFDIR, FileSystemType
from glasskernel.lib.errno import ENOENT, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.shmem import shmem_fill_super

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode, SuperBlock
    from glasskernel.init.kernel import Kernel


def devtmpfs_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    shmem_fill_super(sb, b"mode=0755", silent)


def devtmpfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """Every mount shows the same tree."""
    return mount_single(kernel, fs_type, flags, data, devtmpfs_fill_super)


dev_fs_type = FileSystemType(b"devtmpfs", devtmpfs_mount)


@may_sleep
def devtmpfs_init(kernel: Kernel) -> None:
    """Makes the file system; before the first device. Keeps it alive: Kernel.devtmpfs is its super block."""
    register_filesystem(kernel, dev_fs_type)
    kernel.devtmpfs = devtmpfs_mount(kernel, dev_fs_type, 0, b"devtmpfs", b"").d_sb


@notrace
def _lookup(parent: Dentry, name: bytes) -> Dentry:
    """The child, perhaps negative, with a reference."""
    dentry = parent.d_subdirs.get(name)
    if dentry is not None:
        return dget(dentry)
    dentry = d_alloc_name(parent, name)
    inode = parent.d_inode
    assert inode is not None
    inode.i_op.lookup(inode, dentry)
    return dentry


@notrace
def _walk(kernel: Kernel, path: bytes, create: bool) -> tuple[Dentry, Inode, Dentry]:
    """(parent, its inode, last component with a reference); makes directories on the way. Errors: ENOENT."""
    parent: Dentry = kernel.devtmpfs.s_root
    parts = path.split(b"/")
    for name in parts[:-1]:
        dentry = _lookup(parent, name)
        if dentry.d_inode is None:
            if not create:
                dput(dentry)
                raise KernelError(ENOENT)
            dir = parent.d_inode
            assert dir is not None
            dir.i_op.mkdir(dir, dentry, S_IFDIR | 0o755)
        dput(dentry)
        parent = dentry
    dir = parent.d_inode
    assert dir is not None
    return parent, dir, _lookup(parent, parts[-1])


@notrace
def _set_owner(dentry: Dentry, mode: int, uid: int, gid: int) -> None:
    inode = dentry.d_inode
    assert inode is not None
    inode.i_mode = inode.i_mode & ~0o7777 | mode & 0o7777
    inode.i_uid = uid
    inode.i_gid = gid


@may_sleep
def devtmpfs_create_node(kernel: Kernel, name: bytes, mode: int, devt: int, block: bool = False, uid: int = 0,
                         gid: int = 0) -> None:
    """/dev/NAME, which may hold slashes. mode: permission bits. An existing name stays as it is."""
    _, dir, dentry = _walk(kernel, name, True)
    try:
        if dentry.d_inode is None:
            dir.i_op.mknod(dir, dentry, (S_IFBLK if block else S_IFCHR) | mode & 0o7777, devt)
            _set_owner(dentry, mode, uid, gid)
    finally:
        dput(dentry)


@may_sleep
def devtmpfs_delete_node(kernel: Kernel, name: bytes) -> None:
    """Removes the node. A missing one is no error."""
    try:
        _, dir, dentry = _walk(kernel, name, False)
    except KernelError:
        return
    if dentry.d_inode is not None:
        dir.i_op.unlink(dir, dentry)
        parent = dentry.d_parent
        if parent.d_subdirs.get(dentry.d_name) is dentry:
            del parent.d_subdirs[dentry.d_name]
            dentry.d_hashed = False
    dput(dentry)


@notrace
@may_sleep
def devtmpfs_populate(kernel: Kernel) -> None:
    """What udev and systemd make in /dev: links to /proc/self/fd, mountpoints for devpts and tmpfs."""
    for name, text in ((b"fd", b"/proc/self/fd"), (b"stdin", b"/proc/self/fd/0"), (b"stdout", b"/proc/self/fd/1"),
                       (b"stderr", b"/proc/self/fd/2")):
        _, dir, dentry = _walk(kernel, name, True)
        if dentry.d_inode is None:
            dir.i_op.symlink(dir, dentry, text)
        dput(dentry)
    for name in (b"pts", b"shm"):
        _, dir, dentry = _walk(kernel, name, True)
        if dentry.d_inode is None:
            dir.i_op.mkdir(dir, dentry, S_IFDIR | (0o1777 if name == b"shm" else 0o755))
        dput(dentry)
