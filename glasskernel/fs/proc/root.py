"""The file system type proc: its root directory, mount options, and the boot of everything in /proc.

Linux: fs/proc/root.c, fs/proc/inode.c (5.3). Same: entries first, then processes; hidepid and gid; a
    super block for each PID namespace. Differs: numbers inside files are those of the reader's namespace (Linux: the
    mount's).
Owns: Kernel.proc.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_make_root
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.inode import inode_from
from glasskernel.fs.libfs import generic_read_dir, simple_statfs
from glasskernel.fs.proc.generic import (
    proc_get_inode,
    proc_lookup_de,
    proc_mkdir,
    proc_readdir_de,
)
from glasskernel.fs.proc.internal import (
    HIDEPID_OFF,
    PROC_ROOT_INO,
    PROC_SUPER_MAGIC,
    ProcDirEntry,
    ProcFsInfo,
    ProcState,
    filled_proc,
)
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.super import mount_keyed
from glasskernel.fs.types import (
    S_IFDIR,
    SB_NODEV,
    SB_NOEXEC,
    SB_NOSUID,
    FileOperations,
    FileSystemType,
    InodeOperations,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import put_pid_ns
from glasskernel.lib.errno import EINVAL, ENOENT, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_ACCOUNT, SLAB_MEM_SPREAD, SLAB_RECLAIM_ACCOUNT
from glasskernel.mm.slub import kmem_cache_free

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Inode, Kstat, SuperBlock
    from glasskernel.init.kernel import Kernel


def proc_root_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """A process if the name is a number, else an entry. Errors: ENOENT."""
    try:
        return filled_proc(dir.i_sb.kernel).pid_lookup(dir, dentry)
    except KernelError as e:
        if e.errno != ENOENT:
            raise
    return proc_lookup_de(dir, dentry, dir.i_private)


def proc_root_readdir(file: File, ctx: DirContext) -> None:
    """Entries first (positions below 256), then processes by number."""
    state = filled_proc(file.f_inode.i_sb.kernel)
    if ctx.pos < 256:
        if not proc_readdir_de(file, ctx, file.f_inode.i_private):
            return
        ctx.pos = 256
    state.pid_readdir(file, ctx)


def proc_root_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """The link count says how many processes there are."""
    kernel = inode.i_sb.kernel
    state = filled_proc(kernel)
    inode.i_nlink = inode.i_private.nlink + state.tgid_count(kernel)
    return generic_fillattr(inode)


@notrace
def proc_parse_options(info: ProcFsInfo, data: bytes) -> None:
    """hidepid=0..2, gid=N. Errors: EINVAL."""
    for option in data.split(b","):
        key, _, value = option.partition(b"=")
        if not option:
            continue
        if not value.isdigit() or key not in (b"gid", b"hidepid"):
            raise KernelError(EINVAL)
        if key == b"gid":
            info.pid_gid = int(value)
        elif int(value) > 2:
            raise KernelError(EINVAL)
        else:
            info.hide_pid = int(value)


def proc_show_options(dentry: Dentry) -> bytes:
    info: ProcFsInfo = dentry.d_sb.s_fs_info
    text = b",gid=%d" % info.pid_gid if info.pid_gid else b""
    if info.hide_pid != HIDEPID_OFF:
        text += b",hidepid=%d" % info.hide_pid
    return text


@notrace
def proc_put_super(sb: SuperBlock) -> None:
    """The last mount is gone."""
    sb.kernel.proc.pid_mounts.remove(sb)
    put_pid_ns(sb.s_fs_info.pid_ns)


def proc_reconfigure(sb: SuperBlock, flags: int, data: bytes) -> int:
    """mount -o remount. Errors: EINVAL."""
    proc_parse_options(sb.s_fs_info, data)
    return flags


def proc_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    info: ProcFsInfo = sb.s_fs_info
    proc_parse_options(info, data)
    sb.s_flags |= SB_NOSUID | SB_NOEXEC | SB_NODEV
    sb.s_blocksize = 1024
    sb.s_magic = PROC_SUPER_MAGIC
    sb.s_op = proc_sops
    state: ProcState = sb.kernel.proc
    sb.s_root = d_make_root(proc_get_inode(sb, state.root))
    state.pid_mounts.append(sb)
    if info.pid_ns is not None:
        info.pid_ns.count += 1


def proc_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """One super block for each PID namespace; options count when it is made."""
    ns = current().thread_pid.ns
    infos = [sb.s_fs_info for sb in kernel.proc.pid_mounts if sb.s_fs_info.pid_ns is ns]
    return mount_keyed(kernel, fs_type, flags, data, infos[0] if infos else ProcFsInfo(pid_ns=ns), proc_fill_super)


proc_root_inode_operations = InodeOperations(lookup=proc_root_lookup, getattr=proc_root_getattr)
proc_root_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_root_readdir, llseek=generic_file_llseek,
)
def proc_alloc_inode(sb: SuperBlock) -> Inode:
    """->alloc_inode()"""
    return inode_from(sb, sb.kernel.slab.proc_inode_cachep)


def proc_free_inode(inode: Inode) -> None:
    """->free_inode()"""
    kmem_cache_free(inode.i_sb.kernel.slab.proc_inode_cachep, inode.slab_address)


@notrace
def proc_init_kmemcache(kernel: Kernel) -> None:
    kernel.slab.proc_inode_cachep = kmem_cache_create(kernel, b"proc_inode_cache", 656, 0,
                                                      SLAB_RECLAIM_ACCOUNT | SLAB_MEM_SPREAD | SLAB_ACCOUNT, ctor=True)


proc_sops = SuperOperations(
    alloc_inode=proc_alloc_inode, free_inode=proc_free_inode, statfs=simple_statfs,
    show_options=proc_show_options, remount_fs=proc_reconfigure,
    put_super=proc_put_super,
)
proc_fs_type = FileSystemType(b"proc", proc_mount)


def proc_root_init(kernel: Kernel) -> None:
    """Makes /proc. What drivers and file systems add is there at once, the rest when somebody looks (init/proc.py)."""
    proc_init_kmemcache(kernel)
    root = ProcDirEntry(b"/proc", S_IFDIR | 0o555, PROC_ROOT_INO, nlink=2, subdir={})
    root.proc_iops = proc_root_inode_operations
    root.proc_dir_ops = proc_root_operations
    kernel.proc = ProcState(root)
    proc_mkdir(kernel, b"fs")
    proc_mkdir(kernel, b"driver")
    register_filesystem(kernel, proc_fs_type)
