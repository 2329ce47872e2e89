"""selinuxfs: what programs see of SELinux, and how it is told its policy. Mounted on /sys/fs/selinux.

Linux: security/selinux/selinuxfs.c (5.3). Same: files, modes, inode numbers, what a new policy changes of the tree
    (booleans/, class/, policy_capabilities/). What the files do is in selinuxfs_files.py and selinuxfs_ask.py.
    Gaps: /sys/fs/selinux/disable (CONFIG_SECURITY_SELINUX_DISABLE is not set in 5.3's defaults).
Owns: SelinuxFsInfo (kernel.selinux.fs_info).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.dcache import d_add, d_alloc_name, d_genocide, shrink_dcache_parent
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.inode import current_time, inc_nlink, init_special_inode, new_inode
from glasskernel.fs.libfs import simple_dir_inode_operations, simple_dir_operations, simple_fill_super
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.super import kill_litter_super, mount_single
from glasskernel.fs.sysfs.kobject import kobject_create_and_add
from glasskernel.fs.types import MKDEV, S_IFCHR, S_IFDIR, S_IFREG, FileOperations, FileSystemType, Path
from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.security.selinux import selinuxfs_files as f
from glasskernel.security.selinux.flask import (
    SECCLASS_CHR_FILE,
    SECCLASS_FILE,
    SECINITSID_DEVNULL,
    SECINITSID_NUM,
    SECINITSID_SECURITY,
    initial_sid_to_string,
)
from glasskernel.security.selinux.objsec import LABEL_INITIALIZED, selinux_inode
from glasskernel.security.selinux.selinuxfs_ask import (
    sel_transition_ops,
    sel_write_access,
    sel_write_context,
    sel_write_create,
    sel_write_member,
    sel_write_relabel,
    sel_write_user,
    transaction_ops,
)
from glasskernel.security.selinux.ss.services import security_genfs_sid
from glasskernel.security.selinux.ss.services_load import security_get_bools, security_get_classes
from glasskernel.security.selinux.types import SELINUX_MAGIC, selinux_policycap_names

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.security.selinux.types import SelinuxState

NULL_DEVICE = MKDEV(1, 3)

# Inode numbers: what a directory's files are, and which of them.
SEL_INITCON_INO_OFFSET = 0x01000000
SEL_BOOL_INO_OFFSET = 0x02000000
SEL_CLASS_INO_OFFSET = 0x04000000
SEL_POLICYCAP_INO_OFFSET = 0x08000000
SEL_INO_MASK = 0x00FFFFFF
SEL_VEC_MAX = 32

# Files of the top directory from inode 3 on: (name, operations, mode, i_private).
_selinux_files: tuple[tuple[bytes, FileOperations, int, Any], ...] = (
    (b"load", f.sel_load_ops, 0o600, None),
    (b"enforce", f.sel_enforce_ops, 0o644, None),
    (b"context", transaction_ops, 0o666, sel_write_context),
    (b"access", transaction_ops, 0o666, sel_write_access),
    (b"create", transaction_ops, 0o666, sel_write_create),
    (b"relabel", transaction_ops, 0o666, sel_write_relabel),
    (b"user", transaction_ops, 0o666, sel_write_user),
    (b"policyvers", f.sel_policyvers_ops, 0o444, None),
    (b"commit_pending_bools", f.sel_commit_bools_ops, 0o200, None),
    (b"mls", f.sel_mls_ops, 0o444, None),
    (b"member", transaction_ops, 0o666, sel_write_member),
    (b"checkreqprot", f.sel_checkreqprot_ops, 0o644, None),
    (b"reject_unknown", f.sel_handle_unknown_ops, 0o444, True),
    (b"deny_unknown", f.sel_handle_unknown_ops, 0o444, False),
    (b"status", f.sel_handle_status_ops, 0o444, None),
    (b"policy", f.sel_policy_ops, 0o444, None),
    (b"validatetrans", sel_transition_ops, 0o222, None),
)
_avc_files = (
    (b"cache_threshold", f.sel_avc_cache_threshold_ops, 0o644),
    (b"hash_stats", f.sel_avc_hash_stats_ops, 0o444),
    (b"cache_stats", f.sel_avc_cache_stats_ops, 0o444),
)


@slotted
class SelinuxFsInfo:
    """struct selinux_fs_info"""
    sb: SuperBlock
    make_policy_nodes: Callable[[SelinuxState], None]
    last_ino: int
    bool_dir: Dentry | None = None
    class_dir: Dentry | None = None
    policycap_dir: Dentry | None = None
    bool_pending_names: list[bytes] = field(default_factory=list)
    bool_pending_values: list[bool] = field(default_factory=list)
    policy_opened: bool = False
    selinux_null: Path | None = None           # what a program gets for a descriptor that it may not inherit


# ---- nodes -------------------------------------------------------------------------------------------------
def sel_make_inode(sb: SuperBlock, mode: int) -> Inode:
    """An inode with today's time."""
    inode = new_inode(sb)
    inode.i_mode = mode
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    return inode


@notrace
def _make_file(dir: Dentry, name: bytes, mode: int, fops: FileOperations, ino: int, private: Any = None) -> Inode:
    """A file."""
    dentry = d_alloc_name(dir, name)
    inode = sel_make_inode(dir.d_sb, S_IFREG | mode)
    inode.i_fop, inode.i_ino, inode.i_private = fops, ino, private
    d_add(dentry, inode)
    return inode


def sel_make_dir(dir: Dentry, name: bytes, ino: int) -> Dentry:
    """A directory."""
    dentry = d_alloc_name(dir, name)
    inode = sel_make_inode(dir.d_sb, S_IFDIR | 0o555)
    inode.i_op, inode.i_fop, inode.i_ino = simple_dir_inode_operations, simple_dir_operations, ino
    inc_nlink(inode)
    d_add(dentry, inode)
    assert dir.d_inode is not None
    inc_nlink(dir.d_inode)
    return dentry


@may_sleep
def sel_remove_entries(de: Dentry) -> None:
    """Empties a directory."""
    d_genocide(de)
    shrink_dcache_parent(de)


# ---- what the policy decides -------------------------------------------------------------------------------
@may_sleep
def sel_make_policy_nodes(state: SelinuxState) -> None:
    """A policy was loaded: its booleans, classes and capabilities take the place of those that were there."""
    sel_make_bools(state)
    sel_make_classes(state)
    sel_make_policycap(state)


def sel_make_bools(state: SelinuxState) -> None:
    """booleans/, labelled as the policy says."""
    fsi: SelinuxFsInfo = state.fs_info
    dir = fsi.bool_dir
    assert dir is not None
    sel_remove_entries(dir)
    bools = security_get_bools(state.ss.policydb)
    for i, (name, _) in enumerate(bools):
        inode = _make_file(dir, name, 0o644, f.sel_bool_ops, i | SEL_BOOL_INO_OFFSET, i)
        try:
            sid = security_genfs_sid(state, b"selinuxfs", b"/booleans/" + name, SECCLASS_FILE)
        except KernelError:
            printk(state.kernel, b"SELinux: no sid found, defaulting to security isid for /booleans/" + name, 4)
            sid = SECINITSID_SECURITY
        isec = selinux_inode(inode)
        isec.sid, isec.initialized = sid, LABEL_INITIALIZED
    fsi.bool_pending_names = [name for name, _ in bools]
    fsi.bool_pending_values = [value for _, value in bools]


def sel_make_classes(state: SelinuxState) -> None:
    """class/: a directory for each class with its number and those of its permissions."""
    fsi: SelinuxFsInfo = state.fs_info
    dir = fsi.class_dir
    assert dir is not None
    sel_remove_entries(dir)
    for name, value, permissions in security_get_classes(state.ss.policydb):
        ino = value * (SEL_VEC_MAX + 1) & SEL_INO_MASK | SEL_CLASS_INO_OFFSET
        fsi.last_ino += 2
        class_dir = sel_make_dir(dir, name, fsi.last_ino - 1)
        _make_file(class_dir, b"index", 0o444, f.sel_class_ops, ino, value)
        perms_dir = sel_make_dir(class_dir, b"perms", fsi.last_ino)
        for permission, number in permissions.items():
            _make_file(perms_dir, permission, 0o444, f.sel_perm_ops, ino + number, number)


def sel_make_policycap(state: SelinuxState) -> None:
    """policy_capabilities/: all that the kernel knows."""
    fsi: SelinuxFsInfo = state.fs_info
    dir = fsi.policycap_dir
    assert dir is not None
    sel_remove_entries(dir)
    for i, name in enumerate(selinux_policycap_names):
        _make_file(dir, name.encode(), 0o444, f.sel_policycap_ops, i | SEL_POLICYCAP_INO_OFFSET, i)


# ---- the super block ---------------------------------------------------------------------------------------
def sel_make_avc_files(dir: Dentry, fsi: SelinuxFsInfo) -> None:
    for name, fops, mode in _avc_files:
        fsi.last_ino += 1
        _make_file(dir, name, mode, fops, fsi.last_ino)


def sel_make_initcon_files(dir: Dentry) -> None:
    for sid in range(1, SECINITSID_NUM + 1):
        name = initial_sid_to_string[sid].encode()
        _make_file(dir, name, 0o444, f.sel_initcon_ops, sid | SEL_INITCON_INO_OFFSET, sid)


@may_sleep
def sel_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """The whole tree without a policy."""
    state = sb.kernel.selinux
    assert state is not None
    simple_fill_super(sb, SELINUX_MAGIC, {})
    root = sb.s_root
    for ino, (name, fops, mode, private) in enumerate(_selinux_files, 3):
        _make_file(root, name, mode, fops, ino, private)
    fsi = state.fs_info = SelinuxFsInfo(sb, sel_make_policy_nodes, len(_selinux_files) + 3)
    fsi.bool_dir = _subdirectory(fsi, b"booleans")
    null = d_alloc_name(root, b"null")
    inode = sel_make_inode(sb, S_IFCHR | 0o666)
    fsi.last_ino += 1
    inode.i_ino = fsi.last_ino
    isec = selinux_inode(inode)
    isec.sid, isec.sclass, isec.initialized = SECINITSID_DEVNULL, SECCLASS_CHR_FILE, LABEL_INITIALIZED
    init_special_inode(inode, S_IFCHR | 0o666, NULL_DEVICE)
    d_add(null, inode)
    sel_make_avc_files(_subdirectory(fsi, b"avc"), fsi)
    sel_make_initcon_files(_subdirectory(fsi, b"initial_contexts"))
    fsi.class_dir = _subdirectory(fsi, b"class")
    fsi.policycap_dir = _subdirectory(fsi, b"policy_capabilities")
    if state.initialized:
        sel_make_policy_nodes(state)


@notrace
def _subdirectory(fsi: SelinuxFsInfo, name: bytes) -> Dentry:
    """A directory in the top one."""
    fsi.last_ino += 1
    return sel_make_dir(fsi.sb.s_root, name, fsi.last_ino)


def sel_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return mount_single(kernel, fs_type, flags, data, sel_fill_super)


sel_fs_type = FileSystemType(b"selinuxfs", sel_mount, kill_litter_super)


@may_sleep
def init_sel_fs(kernel: Kernel) -> None:
    """Registers the file system, makes /sys/fs/selinux, and keeps the only super block. Context: boot."""
    kobject_create_and_add(b"selinux", kernel.sysfs.fs_kobj)
    register_filesystem(kernel, sel_fs_type)
    mnt = kern_mount(kernel, sel_fs_type)
    assert kernel.selinux is not None
    kernel.selinux.fs_info.selinux_null = Path(mnt, mnt.mnt_root.d_subdirs[b"null"])
