"""SELinux's say about file systems and mounts, and how their files are labelled.

Linux: the super block part of security/selinux/hooks.c (5.3). Same: context=, fscontext=, rootcontext=, defcontext= and
    seclabel; which file systems keep labels (SBLABEL_MNT); file systems that were mounted before there was a policy are
    labelled when it comes. Owns: SuperblockSecurityStruct. Context: task; may sleep.
Gaps: shared labels of NFS (sb_clone_mnt_opts), mounts from other user namespaces.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glasskernel.fs.inode import igrab, iput
from glasskernel.fs.super import iterate_supers
from glasskernel.fs.xattr import __vfs_getxattr
from glasskernel.kernel.current import register
from glasskernel.lib.errno import EINVAL, ENODATA, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.security.lsm_audit import LSM_AUDIT_DATA_DENTRY, CommonAuditData
from glasskernel.security.selinux.av_permissions import (
    FILE__MOUNTON,
    FILESYSTEM__ASSOCIATE,
    FILESYSTEM__GETATTR,
    FILESYSTEM__MOUNT,
    FILESYSTEM__RELABELFROM,
    FILESYSTEM__RELABELTO,
    FILESYSTEM__REMOUNT,
    FILESYSTEM__UNMOUNT,
)
from glasskernel.security.selinux.avc import avc_has_perm
from glasskernel.security.selinux.flask import SECCLASS_FILESYSTEM
from glasskernel.security.selinux.has_perm import path_has_perm
from glasskernel.security.selinux.inode_label import XATTR_NAME_SELINUX, inode_doinit_with_dentry
from glasskernel.security.selinux.objsec import (
    CONTEXT_MNT,
    DEFCONTEXT_MNT,
    FSCONTEXT_MNT,
    LABEL_INITIALIZED,
    ROOTCONTEXT_MNT,
    SBLABEL_MNT,
    SE_MNTMASK,
    SE_SBGENFS,
    SE_SBGENFS_XATTR,
    SE_SBINITIALIZED,
    SE_SBPROC,
    SuperblockSecurityStruct,
    cred_sid,
    selinux_inode,
    selinux_state,
    selinux_superblock,
)
from glasskernel.security.selinux.ss.services import security_context_to_sid, security_fs_use, security_sid_to_context
from glasskernel.security.selinux.types import (
    POLICYDB_CAPABILITY_CGROUPSECLABEL,
    SECURITY_FS_USE_MNTPOINT,
    SECURITY_FS_USE_NATIVE,
    SECURITY_FS_USE_NONE,
    SECURITY_FS_USE_TASK,
    SECURITY_FS_USE_TRANS,
    SECURITY_FS_USE_XATTR,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Mount, Path, SuperBlock
    from glasskernel.kernel.task import Cred
    from glasskernel.security.selinux.types import SelinuxState

MntOpts = dict[str, bytes]                         # struct selinux_mnt_opts: by the option's name
MS_REMOUNT = 32
OPTION_FLAGS = {"fscontext": FSCONTEXT_MNT, "context": CONTEXT_MNT, "rootcontext": ROOTCONTEXT_MNT,
                "defcontext": DEFCONTEXT_MNT}
_GENFS = (b"debugfs", b"tracefs", b"pstore")
_GENFS_XATTR = (b"sysfs", b"cgroup", b"cgroup2")
_ALWAYS_LABELLED = (b"sysfs", b"pstore", b"debugfs", b"tracefs", b"rootfs")
_OPTION_WARNING = "SELinux: mount invalid.  Same superblock, different security settings for (dev {}, type {})"


# ---- options ---------------------------------------------------------------------------------------------------
def selinux_sb_eat_lsm_opts(options: bytes) -> tuple[bytes, MntOpts | None]:
    """Takes SELinux's options out of a mount's. A context may have commas if it is in quotes. Raises EINVAL."""
    rest: list[bytes] = []
    found: MntOpts = {}
    for word in split_options(options):
        name, equals, value = word.partition(b"=")
        key = name.decode("latin-1")
        if word == b"seclabel":
            continue                                       # /proc/mounts says it; as an option it says nothing
        if equals and key in OPTION_FLAGS:
            if key in found or (key in ("context", "defcontext") and {"context", "defcontext"} & found.keys()):
                selinux_state().kernel.printk("SELinux: duplicate or incompatible mount options", 4)
                raise KernelError(EINVAL)
            found[key] = value.strip(b'"')
        else:
            rest.append(word)
    return b",".join(rest), found or None


@notrace
def split_options(options: bytes) -> list[bytes]:
    """At commas outside quotes."""
    words, word, quoted = [], bytearray(), False
    for byte in options:
        if byte == 0x22:
            quoted = not quoted
        if byte == 0x2C and not quoted:
            words.append(bytes(word))
            word.clear()
        else:
            word.append(byte)
    words.append(bytes(word))
    return [word for word in words if word]


@notrace
def parse_sid(sb: SuperBlock, context: bytes) -> int:
    """The SID of an option's context. Raises EINVAL."""
    try:
        return security_context_to_sid(selinux_state(), context)
    except KernelError as error:
        sb.kernel.printk(f"SELinux: security_context_str_to_sid({context.decode(errors='replace')}) failed for "
                         f"(dev {sb.s_id.decode()}, type {sb.s_type.name.decode()}) errno=-{error.errno}", 4)
        raise


# ---- super blocks ----------------------------------------------------------------------------------------------
def selinux_sb_alloc_security(sb: SuperBlock) -> None:
    sb.s_security = SuperblockSecurityStruct()


@may_sleep
def selinux_set_mnt_opts(sb: SuperBlock, mnt_opts: MntOpts | None) -> None:
    """How the file system's files are labelled: as the policy says for its type, or as the mount options say.

    Without a policy it stays open until there is one. Raises EINVAL, EACCES.
    """
    state = sb.kernel.selinux
    assert state is not None
    sbsec = selinux_superblock(sb)
    if not state.initialized:
        if mnt_opts is None:
            return                                         # selinux_complete_init() comes back to it
        sb.kernel.printk("SELinux: Unable to set superblock options before the security server is initialized", 4)
        raise KernelError(EINVAL)
    sids = {name: parse_sid(sb, context) for name, context in (mnt_opts or {}).items()}
    if sbsec.flags & SE_SBINITIALIZED:
        check_same_options(sb, sids)
        return
    if sb.s_type.name == b"proc":
        sbsec.flags |= SE_SBPROC | SE_SBGENFS
    if sb.s_type.name in _GENFS:
        sbsec.flags |= SE_SBGENFS
    if sb.s_type.name in _GENFS_XATTR:
        sbsec.flags |= SE_SBGENFS | SE_SBGENFS_XATTR
    if not sbsec.behavior:
        sbsec.behavior, sbsec.sid = security_fs_use(state, sb)
    cred = register.task.cred
    if "fscontext" in sids:
        may_context_mount_sb_relabel(sids["fscontext"], sbsec, cred)
        sbsec.sid = sids["fscontext"]
        sbsec.flags |= FSCONTEXT_MNT
    root = sb.s_root.d_inode
    assert root is not None
    root_isec = selinux_inode(root)
    if "context" in sids:
        sid = sids["context"]
        if "fscontext" in sids:
            may_context_mount_inode_relabel(sid, sbsec, cred)
        else:
            may_context_mount_sb_relabel(sid, sbsec, cred)
            sbsec.sid = sid
        sids.setdefault("rootcontext", sid)
        sbsec.mntpoint_sid = sid
        sbsec.behavior = SECURITY_FS_USE_MNTPOINT
        sbsec.flags |= CONTEXT_MNT
    if "rootcontext" in sids:
        may_context_mount_inode_relabel(sids["rootcontext"], sbsec, cred)
        root_isec.sid = sids["rootcontext"]
        root_isec.initialized = LABEL_INITIALIZED
        if mnt_opts is not None and "rootcontext" in mnt_opts:
            sbsec.flags |= ROOTCONTEXT_MNT
    if "defcontext" in sids:
        if sbsec.behavior not in (SECURITY_FS_USE_XATTR, SECURITY_FS_USE_NATIVE):
            sb.kernel.printk("SELinux: defcontext option is invalid for this filesystem type", 4)
            raise KernelError(EINVAL)
        if sids["defcontext"] != sbsec.def_sid:
            may_context_mount_inode_relabel(sids["defcontext"], sbsec, cred)
        sbsec.def_sid = sids["defcontext"]
        sbsec.flags |= DEFCONTEXT_MNT
    sb_finish_set_opts(sb)


@notrace
def check_same_options(sb: SuperBlock, sids: dict[str, int]) -> None:
    """A second mount of a file system with other labels. Raises EINVAL."""
    sbsec = selinux_superblock(sb)
    root = sb.s_root.d_inode
    assert root is not None
    now = {"fscontext": sbsec.sid, "context": sbsec.mntpoint_sid, "defcontext": sbsec.def_sid,
           "rootcontext": selinux_inode(root).sid}
    for name, flag in OPTION_FLAGS.items():
        if name in sids and not (sbsec.flags & flag and sids[name] == now[name]):
            sb.kernel.printk(_OPTION_WARNING.format(sb.s_id.decode(), sb.s_type.name.decode()), 4)
            raise KernelError(EINVAL)


def may_context_mount_sb_relabel(sid: int, sbsec: SuperblockSecurityStruct, cred: Cred) -> None:
    """May the caller give the file system this label? Raises EACCES."""
    state, own = selinux_state(), cred_sid(cred)
    avc_has_perm(state, own, sbsec.sid, SECCLASS_FILESYSTEM, FILESYSTEM__RELABELFROM)
    avc_has_perm(state, own, sid, SECCLASS_FILESYSTEM, FILESYSTEM__RELABELTO)


def may_context_mount_inode_relabel(sid: int, sbsec: SuperblockSecurityStruct, cred: Cred) -> None:
    """May files with this label be on it? Raises EACCES."""
    state = selinux_state()
    avc_has_perm(state, cred_sid(cred), sbsec.sid, SECCLASS_FILESYSTEM, FILESYSTEM__RELABELFROM)
    avc_has_perm(state, sid, sbsec.sid, SECCLASS_FILESYSTEM, FILESYSTEM__ASSOCIATE)


@notrace
def selinux_is_sblabel_mnt(sb: SuperBlock) -> bool:
    """Can files of it be given a label?"""
    behavior = selinux_superblock(sb).behavior
    if behavior in (SECURITY_FS_USE_XATTR, SECURITY_FS_USE_TRANS, SECURITY_FS_USE_TASK, SECURITY_FS_USE_NATIVE):
        return True
    if behavior in (SECURITY_FS_USE_MNTPOINT, SECURITY_FS_USE_NONE):
        return False
    name = sb.s_type.name
    return name in _ALWAYS_LABELLED or (selinux_state().policycap[POLICYDB_CAPABILITY_CGROUPSECLABEL]
                                        and name in (b"cgroup", b"cgroup2"))


@may_sleep
def sb_finish_set_opts(sb: SuperBlock) -> None:
    """The rule is known: the root and every inode that was met before get labels. Raises EOPNOTSUPP and others."""
    sbsec = selinux_superblock(sb)
    root = sb.s_root
    root_inode = root.d_inode
    assert root_inode is not None
    if sbsec.behavior == SECURITY_FS_USE_XATTR:
        where = f"(dev {sb.s_id.decode()}, type {sb.s_type.name.decode()})"
        if root_inode.i_op.getxattr is None:
            sb.kernel.printk(f"SELinux: {where} has no xattr support", 4)
            raise KernelError(EOPNOTSUPP)
        try:
            __vfs_getxattr(root, root_inode, XATTR_NAME_SELINUX)
        except KernelError as error:
            if error.errno == EOPNOTSUPP:
                sb.kernel.printk(f"SELinux: {where} has no security xattr handler", 4)
            elif error.errno != ENODATA:
                sb.kernel.printk(f"SELinux: {where} getxattr errno {error.errno}", 4)
            if error.errno != ENODATA:
                raise
    sbsec.flags |= SE_SBINITIALIZED
    if selinux_is_sblabel_mnt(sb):
        sbsec.flags |= SBLABEL_MNT
    else:
        sbsec.flags &= ~SBLABEL_MNT
    inode_doinit_with_dentry(root_inode, root)
    while sbsec.isec_head:
        inode = next(iter(sbsec.isec_head))
        del sbsec.isec_head[inode]
        if igrab(inode) is not None:
            inode_doinit_with_dentry(inode, None)
            iput(inode)


@may_sleep
def selinux_sb_remount(sb: SuperBlock, mnt_opts: MntOpts | None) -> None:
    """A remount may repeat the labels, not change them. Raises EINVAL."""
    sbsec = selinux_superblock(sb)
    if not sbsec.flags & SE_SBINITIALIZED or mnt_opts is None:
        return
    try:
        check_same_options(sb, {name: parse_sid(sb, context) for name, context in mnt_opts.items()})
    except KernelError:
        sb.kernel.printk("SELinux: unable to change security options during remount (dev "
                         f"{sb.s_id.decode()}, type={sb.s_type.name.decode()})", 4)
        raise


def selinux_sb_show_options(sb: SuperBlock) -> bytes:
    """/proc/mounts: the labels of the mount, and seclabel."""
    sbsec = selinux_superblock(sb)
    state = selinux_state()
    if not sbsec.flags & SE_SBINITIALIZED or not state.initialized:
        return b""
    root = sb.s_root.d_inode
    assert root is not None
    now = (("context", sbsec.mntpoint_sid), ("fscontext", sbsec.sid), ("defcontext", sbsec.def_sid),
           ("rootcontext", selinux_inode(root).sid))
    text = b""
    for name, sid in now:
        if sbsec.flags & OPTION_FLAGS[name] & SE_MNTMASK:
            context = security_sid_to_context(state, sid)
            text += b",%s=" % name.encode() + (b'"%s"' % context if b"," in context else context)
    return text + (b",seclabel" if sbsec.flags & SBLABEL_MNT else b"")


# ---- permissions -----------------------------------------------------------------------------------------------
def superblock_has_perm(cred: Cred, sb: SuperBlock, perms: int, ad: CommonAuditData | None) -> None:
    """Raises EACCES."""
    avc_has_perm(selinux_state(), cred_sid(cred), selinux_superblock(sb).sid, SECCLASS_FILESYSTEM, perms, ad)


def selinux_sb_kern_mount(sb: SuperBlock) -> None:
    superblock_has_perm(register.task.cred, sb, FILESYSTEM__MOUNT, CommonAuditData(LSM_AUDIT_DATA_DENTRY, sb.s_root))


def selinux_sb_statfs(dentry: Dentry) -> None:
    ad = CommonAuditData(LSM_AUDIT_DATA_DENTRY, dentry.d_sb.s_root)
    superblock_has_perm(register.task.cred, dentry.d_sb, FILESYSTEM__GETATTR, ad)


def selinux_mount(path: Path, flags: int) -> None:
    cred = register.task.cred
    if flags & MS_REMOUNT:
        superblock_has_perm(cred, path.dentry.d_sb, FILESYSTEM__REMOUNT, None)
    else:
        path_has_perm(cred, path, FILE__MOUNTON)


def selinux_umount(mnt: Mount) -> None:
    superblock_has_perm(register.task.cred, mnt.mnt_sb, FILESYSTEM__UNMOUNT, None)


# ---- the first policy ------------------------------------------------------------------------------------------
@may_sleep
def selinux_complete_init(state: SelinuxState) -> None:
    """The first policy is in place: everything that was mounted before gets its labels."""
    state.kernel.printk("SELinux:  Setting up existing superblocks.", 7)
    iterate_supers(state.kernel, delayed_superblock_init)


def delayed_superblock_init(sb: SuperBlock) -> None:
    """One of them. What is wrong with it is in the log."""
    with suppress(KernelError):
        selinux_set_mnt_opts(sb, None)


SUPER_HOOKS: dict[str, Callable[..., Any]] = {
    "sb_alloc_security": selinux_sb_alloc_security,
    "sb_eat_lsm_opts": selinux_sb_eat_lsm_opts,
    "sb_set_mnt_opts": selinux_set_mnt_opts,
    "sb_remount": selinux_sb_remount,
    "sb_kern_mount": selinux_sb_kern_mount,
    "sb_show_options": selinux_sb_show_options,
    "sb_statfs": selinux_sb_statfs,
    "sb_mount": selinux_mount,
    "sb_umount": selinux_umount,
}
