"""devpts: a directory with one node for each open pseudo terminal, and a ptmx that makes more.

Linux: fs/devpts/inode.c (5.3), and path_pts() of fs/namei.c. Same: every mount is an instance with numbers of its
own; options uid, gid, mode, ptmxmode, max; /dev/ptmx uses the instance mounted on "pts" beside it, NAME/ptmx its
own. Owns: PtsFsInfo.
Invariants: allocated numbers are those of masters that are open; the node of a number is there until its master is
    closed.
"""
from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from glasskernel.fs.dcache import d_add, d_alloc_name, d_drop, d_make_root, dget, dput
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.inode import drop_nlink, init_special_inode, new_inode
from glasskernel.fs.libfs import simple_dir_inode_operations, simple_dir_operations, simple_statfs
from glasskernel.fs.mount import lookup_mnt, mntget, mntput, path_get, path_put
from glasskernel.fs.super import deactivate_super, kill_litter_super, mount_nodev
from glasskernel.fs.types import (
    MKDEV,
    S_IFCHR,
    S_IFDIR,
    Dentry,
    FileSystemType,
    Path,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EINVAL, ENODEV, ENOENT, ENOSPC, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Mount, SuperBlock
    from glasskernel.init.kernel import Kernel

DEVPTS_SUPER_MAGIC: Final = 0x1CD1
NR_UNIX98_PTY_MAX: Final = 1 << 20
PTMX_MINOR: Final = 2
TTYAUX_MAJOR: Final = 5
UNIX98_PTY_SLAVE_MAJOR: Final = 136


@slotted
class PtsMountOpts:
    """struct pts_mount_opts. uid, gid: None: the opener's."""

    uid: int | None = None
    gid: int | None = None
    mode: int = 0o600
    ptmxmode: int = 0
    max: int = NR_UNIX98_PTY_MAX


@slotted
class PtsFsInfo:
    """struct pts_fs_info: one instance. free: numbers given back (a heap); below next_index all others are taken."""

    sb: SuperBlock
    opts: PtsMountOpts = field(default_factory=PtsMountOpts)
    ptmx_dentry: Dentry = None  # type: ignore[assignment]
    free: list[int] = field(default_factory=list)
    next_index: int = 0


@notrace
def parse_mount_options(data: bytes, opts: PtsMountOpts) -> None:
    """uid=N,gid=N,mode=O,ptmxmode=O,max=N,newinstance. Errors: EINVAL."""
    for option in data.split(b","):
        if not option or option == b"newinstance":
            continue
        key, _, value = option.partition(b"=")
        octal = key in (b"mode", b"ptmxmode")
        try:
            number = int(value, 8 if octal else 10)
        except ValueError:
            raise KernelError(EINVAL) from None
        if number < 0:
            raise KernelError(EINVAL)
        if key == b"uid":
            opts.uid = number
        elif key == b"gid":
            opts.gid = number
        elif key == b"mode":
            opts.mode = number & 0o7777
        elif key == b"ptmxmode":
            opts.ptmxmode = number & 0o7777
        elif key == b"max" and number <= NR_UNIX98_PTY_MAX:
            opts.max = number
        else:
            raise KernelError(EINVAL)


@notrace
def mknod_ptmx(sb: SuperBlock) -> None:
    """The instance's own ptmx."""
    fsi: PtsFsInfo = sb.s_fs_info
    inode = new_inode(sb)
    inode.i_ino = 2
    inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
    init_special_inode(inode, S_IFCHR | fsi.opts.ptmxmode, MKDEV(TTYAUX_MAJOR, PTMX_MINOR))
    inode.i_uid = current().cred.fsuid
    inode.i_gid = current().cred.fsgid
    dentry = d_alloc_name(sb.s_root, b"ptmx")
    d_add(dentry, inode)
    fsi.ptmx_dentry = dentry


def devpts_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """A new instance. Errors: EINVAL."""
    sb.s_blocksize = 1024
    sb.s_magic = DEVPTS_SUPER_MAGIC
    sb.s_op = devpts_sops
    fsi = sb.s_fs_info = PtsFsInfo(sb)
    parse_mount_options(data, fsi.opts)
    inode = new_inode(sb)
    inode.i_ino = 1
    inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
    inode.i_mode = S_IFDIR | 0o755
    inode.i_op = simple_dir_inode_operations
    inode.i_fop = simple_dir_operations
    inode.i_nlink = 2
    sb.s_root = d_make_root(inode)
    mknod_ptmx(sb)


def devpts_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """Every mount is an instance of its own."""
    return mount_nodev(kernel, fs_type, flags, data, devpts_fill_super)


def devpts_remount(sb: SuperBlock, flags: int, data: bytes) -> int:
    """mount -o remount. Errors: EINVAL."""
    fsi: PtsFsInfo = sb.s_fs_info
    parse_mount_options(data, fsi.opts)
    inode = fsi.ptmx_dentry.d_inode
    if inode is not None:
        inode.i_mode = S_IFCHR | fsi.opts.ptmxmode
    return flags


def devpts_show_options(dentry: Dentry) -> bytes:
    """",gid=5,mode=620,ptmxmode=666" """
    opts: PtsMountOpts = dentry.d_sb.s_fs_info.opts
    text = b""
    if opts.uid is not None:
        text += b",uid=%d" % opts.uid
    if opts.gid is not None:
        text += b",gid=%d" % opts.gid
    text += b",mode=%03o,ptmxmode=%03o" % (opts.mode, opts.ptmxmode)
    if opts.max < NR_UNIX98_PTY_MAX:
        text += b",max=%d" % opts.max
    return text


def devpts_kill_sb(sb: SuperBlock) -> None:
    kill_litter_super(sb)


devpts_sops = SuperOperations(statfs=simple_statfs, show_options=devpts_show_options, remount_fs=devpts_remount)
devpts_fs_type = FileSystemType(b"devpts", devpts_mount, devpts_kill_sb)


# ---- for the pty driver -----------------------------------------------------------------------------------------
def path_pts(path: Path) -> None:
    """Turns the path of a ptmx into that of the devpts mounted on "pts" beside it. Errors: ENOENT."""
    child = path.dentry.d_parent.d_subdirs.get(b"pts")
    if child is None or child.d_inode is None:
        raise KernelError(ENOENT)
    dget(child)
    dput(path.dentry)
    path.dentry = child
    while True:
        mounted = lookup_mnt(path)
        if mounted is None:
            return
        mntput(path.mnt)
        dput(path.dentry)
        path.mnt = mounted
        path.dentry = dget(mounted.mnt_root)


@notrace
def _instance(file: File) -> Path:
    """Where the devpts of an open ptmx is mounted; a path with references. Errors: ENODEV, ENOENT."""
    path = Path(file.f_path.mnt, file.f_path.dentry)
    path_get(path)
    try:
        if path.mnt.mnt_sb.s_magic != DEVPTS_SUPER_MAGIC:
            path_pts(path)
            if path.mnt.mnt_sb.s_magic != DEVPTS_SUPER_MAGIC:
                raise KernelError(ENODEV)
    except KernelError:
        path_put(path)
        raise
    return path


@may_sleep
def devpts_mntget(file: File, fsi: PtsFsInfo) -> Mount:
    """A mount of the instance near the master's ptmx, with a reference. Errors: ENODEV, ENOENT."""
    path = _instance(file)
    try:
        if path.mnt.mnt_sb.s_fs_info is not fsi:
            raise KernelError(ENODEV)
        return mntget(path.mnt)
    finally:
        path_put(path)


@may_sleep
def devpts_acquire(file: File) -> PtsFsInfo:
    """The instance that belongs to an open ptmx; it stays until devpts_release(). Errors: ENODEV, ENOENT."""
    path = _instance(file)
    sb = path.mnt.mnt_sb
    sb.s_active += 1
    path_put(path)
    fsi: PtsFsInfo = sb.s_fs_info
    return fsi


@may_sleep
def devpts_release(fsi: PtsFsInfo) -> None:
    deactivate_super(fsi.sb)


def devpts_new_index(fsi: PtsFsInfo) -> int:
    """The lowest free number. Errors: ENOSPC."""
    if fsi.free:
        return heapq.heappop(fsi.free)
    if fsi.next_index >= fsi.opts.max:
        raise KernelError(ENOSPC)
    fsi.next_index += 1
    return fsi.next_index - 1


def devpts_kill_index(fsi: PtsFsInfo, idx: int) -> None:
    """The number is free again."""
    heapq.heappush(fsi.free, idx)


def devpts_pty_new(fsi: PtsFsInfo, index: int, priv: Any) -> Dentry:
    """The node of a slave; answers its dentry, with a reference. priv: what devpts_get_priv() will answer."""
    sb = fsi.sb
    opts = fsi.opts
    cred = current().cred
    inode: Inode = new_inode(sb)
    inode.i_ino = index + 3
    inode.i_uid = cred.fsuid if opts.uid is None else opts.uid
    inode.i_gid = cred.fsgid if opts.gid is None else opts.gid
    inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
    init_special_inode(inode, S_IFCHR | opts.mode, MKDEV(UNIX98_PTY_SLAVE_MAJOR, index))
    dentry = d_alloc_name(sb.s_root, b"%d" % index)
    dentry.d_fsdata = priv
    d_add(dentry, inode)
    return dentry


def devpts_get_priv(dentry: Dentry) -> Any:
    """The terminal behind a node; None if it is not one of devpts, or the master is closed."""
    if dentry.d_sb.s_magic != DEVPTS_SUPER_MAGIC:
        return None
    return dentry.d_fsdata


def devpts_pty_kill(dentry: Dentry) -> None:
    """The master was closed: the name goes. Takes the reference of devpts_pty_new()."""
    dentry.d_fsdata = None
    assert dentry.d_inode is not None
    drop_nlink(dentry.d_inode)
    d_drop(dentry)
    dput(dentry)


def init_devpts_fs(kernel: Kernel) -> None:
    """Registers the file system."""
    register_filesystem(kernel, devpts_fs_type)
