"""SELinux's say about names and inodes.

Linux: the inode part of security/selinux/hooks.c (5.3). Same: which permissions each operation needs, in which order
    they are asked, what a denial's record names. Owns: nothing but labels (InodeSecurityStruct). Context: task; may
    sleep.
Gaps: quota, notifysecctx.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.inode import inode_owner_or_capable
from glasskernel.fs.types import (
    ATTR_ATIME_SET,
    ATTR_FILE,
    ATTR_FORCE,
    ATTR_GID,
    ATTR_KILL_SGID,
    ATTR_KILL_SUID,
    ATTR_MODE,
    ATTR_MTIME_SET,
    ATTR_SIZE,
    ATTR_TIMES_SET,
    ATTR_UID,
    MAY_ACCESS,
    MAY_APPEND,
    MAY_EXEC,
    MAY_NOT_BLOCK,
    MAY_READ,
    MAY_WRITE,
    S_IFDIR,
    S_IFMT,
)
from glasskernel.kernel.current import register
from glasskernel.lib.errno import EACCES, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.security.commoncap import cap_inode_removexattr, cap_inode_setxattr
from glasskernel.security.lsm_audit import (
    LSM_AUDIT_DATA_DENTRY,
    LSM_AUDIT_DATA_INODE,
    CommonAuditData,
)
from glasskernel.security.selinux.av_permissions import (
    DIR__ADD_NAME,
    DIR__REMOVE_NAME,
    DIR__REPARENT,
    DIR__RMDIR,
    DIR__SEARCH,
    FILE__AUDIT_ACCESS,
    FILE__CREATE,
    FILE__GETATTR,
    FILE__LINK,
    FILE__OPEN,
    FILE__READ,
    FILE__RELABELFROM,
    FILE__RELABELTO,
    FILE__RENAME,
    FILE__SETATTR,
    FILE__UNLINK,
    FILE__WRITE,
    FILESYSTEM__ASSOCIATE,
)
from glasskernel.security.selinux.avc import (
    avc_audit_required,
    avc_has_perm,
    avc_has_perm_noaudit,
    slow_avc_audit,
)
from glasskernel.security.selinux.flask import (
    SECCLASS_DIR,
    SECCLASS_FILE,
    SECCLASS_FILESYSTEM,
    SECCLASS_LNK_FILE,
)
from glasskernel.security.selinux.has_perm import (
    SOCKFS_MAGIC,
    context_of_caller,
    dentry_has_perm,
    file_mask_to_av,
    has_cap_mac_admin,
    path_has_perm,
    selinux_policycap_openperm,
    set_label,
)
from glasskernel.security.selinux.inode_label import (
    XATTR_NAME_SELINUX,
    XATTR_SELINUX_SUFFIX,
    backing_inode_security,
    inode_doinit_with_dentry,
    inode_mode_to_security_class,
    inode_security,
    inode_security_rcu,
    selinux_determine_inode_label,
)
from glasskernel.security.selinux.objsec import (
    LABEL_INITIALIZED,
    SBLABEL_MNT,
    SE_SBINITIALIZED,
    InodeSecurityStruct,
    copy_tsec,
    current_sid,
    selinux_cred,
    selinux_inode,
    selinux_state,
    selinux_superblock,
)
from glasskernel.security.selinux.ss.services import (
    security_context_to_sid,
    security_context_to_sid_force,
    security_sid_to_context,
    security_sid_to_context_force,
    security_validate_transition,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Iattr, Inode, Path
    from glasskernel.kernel.task import Cred

_ATTRS = ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_ATIME_SET | ATTR_MTIME_SET | ATTR_TIMES_SET
MAY_LINK, MAY_UNLINK, MAY_RMDIR = 0, 1, 2



# ---- labels --------------------------------------------------------------------------------------------------
def selinux_inode_alloc_security(inode: Inode) -> None:
    inode.i_security = InodeSecurityStruct(current_sid())


def selinux_inode_free_security(inode: Inode) -> None:
    """It does not wait for a policy any more."""
    selinux_superblock(inode.i_sb).isec_head.pop(inode, None)


def selinux_d_instantiate(dentry: Dentry, inode: Inode) -> None:
    inode_doinit_with_dentry(inode, dentry)


def selinux_inode_init_security(inode: Inode, dir: Inode, name: bytes | None) -> tuple[bytes, bytes] | None:
    """The label of a new file, and the attribute to store (None: the file system keeps none)."""
    state = selinux_state()
    tsec = selinux_cred(register.task.cred)
    sbsec = selinux_superblock(dir.i_sb)
    sclass = inode_mode_to_security_class(inode.i_mode)
    newsid = selinux_determine_inode_label(tsec, dir, name, sclass)
    if sbsec.flags & SE_SBINITIALIZED:
        isec = selinux_inode(inode)
        isec.sclass = sclass
        isec.sid = newsid
        isec.initialized = LABEL_INITIALIZED
    if not state.initialized or not sbsec.flags & SBLABEL_MNT:
        return None
    return XATTR_SELINUX_SUFFIX, security_sid_to_context_force(state, newsid) + b"\0"


def selinux_dentry_create_files_as(dentry: Dentry, mode: int, old: Cred, new: Cred) -> None:
    dir = dentry.d_parent.d_inode
    assert dir is not None
    sclass = inode_mode_to_security_class(mode)
    create_as(new, selinux_determine_inode_label(selinux_cred(old), dir, dentry.d_name, sclass))


def selinux_inode_copy_up(src: Dentry, new: Cred) -> None:
    create_as(new, backing_inode_security(src).sid)


@notrace
def create_as(new: Cred, sid: int) -> None:
    """What is made with these credentials, which nobody else has, gets a label."""
    tsec = copy_tsec(selinux_cred(new))
    tsec.create_sid = sid
    new.security = tsec


def selinux_inode_copy_up_xattr(name: bytes) -> bool:
    return name == XATTR_NAME_SELINUX


# ---- names ---------------------------------------------------------------------------------------------------
def may_create(dir: Inode, dentry: Dentry, tclass: int) -> None:
    """May the caller make something of this class here? Raises EACCES."""
    state = selinux_state()
    tsec = selinux_cred(register.task.cred)
    sid = tsec.sid
    ad = CommonAuditData(LSM_AUDIT_DATA_DENTRY, dentry)
    avc_has_perm(state, sid, inode_security(dir).sid, SECCLASS_DIR, DIR__ADD_NAME | DIR__SEARCH, ad)
    newsid = selinux_determine_inode_label(tsec, dir, dentry.d_name, tclass)
    avc_has_perm(state, sid, newsid, tclass, FILE__CREATE, ad)
    avc_has_perm(state, newsid, selinux_superblock(dir.i_sb).sid, SECCLASS_FILESYSTEM, FILESYSTEM__ASSOCIATE, ad)


def may_link(dir: Inode, dentry: Dentry, kind: int) -> None:
    """May the caller give `dentry`'s inode a name in `dir`, or take its name away? Raises EACCES."""
    state = selinux_state()
    sid = current_sid()
    ad = CommonAuditData(LSM_AUDIT_DATA_DENTRY, dentry)
    dsec = inode_security(dir)
    isec = backing_inode_security(dentry)
    avc_has_perm(state, sid, dsec.sid, SECCLASS_DIR, DIR__SEARCH | (DIR__REMOVE_NAME if kind else DIR__ADD_NAME), ad)
    avc_has_perm(state, sid, isec.sid, isec.sclass, (FILE__LINK, FILE__UNLINK, DIR__RMDIR)[kind], ad)


@notrace
def may_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry) -> None:
    """Raises EACCES."""
    state = selinux_state()
    sid = current_sid()
    old_dsec = inode_security(old_dir)
    old_isec = backing_inode_security(old_dentry)
    new_dsec = inode_security(new_dir)
    ad = CommonAuditData(LSM_AUDIT_DATA_DENTRY, old_dentry)
    avc_has_perm(state, sid, old_dsec.sid, SECCLASS_DIR, DIR__REMOVE_NAME | DIR__SEARCH, ad)
    avc_has_perm(state, sid, old_isec.sid, old_isec.sclass, FILE__RENAME, ad)
    if old_isec.sclass == SECCLASS_DIR and new_dir is not old_dir:
        avc_has_perm(state, sid, old_isec.sid, old_isec.sclass, DIR__REPARENT, ad)
    ad = CommonAuditData(LSM_AUDIT_DATA_DENTRY, new_dentry)
    there = new_dentry.d_inode
    av = DIR__ADD_NAME | DIR__SEARCH | (DIR__REMOVE_NAME if there is not None else 0)
    avc_has_perm(state, sid, new_dsec.sid, SECCLASS_DIR, av, ad)
    if there is not None:
        new_isec = backing_inode_security(new_dentry)
        is_dir = there.i_mode & S_IFMT == S_IFDIR
        avc_has_perm(state, sid, new_isec.sid, new_isec.sclass, DIR__RMDIR if is_dir else FILE__UNLINK, ad)


def selinux_inode_create(dir: Inode, dentry: Dentry) -> None:
    may_create(dir, dentry, SECCLASS_FILE)


def selinux_inode_link(old_dentry: Dentry, dir: Inode) -> None:
    may_link(dir, old_dentry, MAY_LINK)


def selinux_inode_unlink(dir: Inode, dentry: Dentry) -> None:
    may_link(dir, dentry, MAY_UNLINK)


def selinux_inode_symlink(dir: Inode, dentry: Dentry) -> None:
    may_create(dir, dentry, SECCLASS_LNK_FILE)


def selinux_inode_mkdir(dir: Inode, dentry: Dentry) -> None:
    may_create(dir, dentry, SECCLASS_DIR)


def selinux_inode_rmdir(dir: Inode, dentry: Dentry) -> None:
    may_link(dir, dentry, MAY_RMDIR)


def selinux_inode_mknod(dir: Inode, dentry: Dentry, mode: int) -> None:
    may_create(dir, dentry, inode_mode_to_security_class(mode))


def selinux_inode_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry) -> None:
    may_rename(old_dir, old_dentry, new_dir, new_dentry)


def selinux_inode_readlink(dentry: Dentry) -> None:
    dentry_has_perm(register.task.cred, dentry, FILE__READ)


def selinux_inode_follow_link(dentry: Dentry, inode: Inode) -> None:
    isec = inode_security(inode)
    avc_has_perm(selinux_state(), current_sid(), isec.sid, isec.sclass, FILE__READ,
                 CommonAuditData(LSM_AUDIT_DATA_DENTRY, dentry))


def selinux_inode_permission(inode: Inode, mask: int) -> None:
    """Each step of a walk, and the checks of open(2) and access(2).

    Raises EACCES; with MAY_NOT_BLOCK also ECHILD: the label has to be read first.
    """
    from_access = mask & MAY_ACCESS
    no_block = mask & MAY_NOT_BLOCK
    mask &= MAY_READ | MAY_WRITE | MAY_EXEC | MAY_APPEND
    if not mask:
        return                                             # does it exist?
    perms = file_mask_to_av(inode.i_mode, mask)
    sid = current_sid()
    isec = inode_security_rcu(inode, bool(no_block))
    state = selinux_state()
    avd, refused = avc_has_perm_noaudit(state, sid, isec.sid, isec.sclass, perms)
    if refused or avd[1] or perms & ~avd[0]:
        audited, denied = avc_audit_required(perms, avd, refused, FILE__AUDIT_ACCESS if from_access else 0)
        if audited:
            audit_inode_permission(inode, audited, denied, refused)
        if refused:
            raise KernelError(EACCES)


def audit_inode_permission(inode: Inode, audited: int, denied: int, refused: bool) -> None:
    """The record of selinux_inode_permission()."""
    isec = selinux_inode(inode)
    slow_avc_audit(selinux_state(), current_sid(), isec.sid, isec.sclass, audited, denied, refused,
                   CommonAuditData(LSM_AUDIT_DATA_INODE, inode))


# ---- attributes ----------------------------------------------------------------------------------------------
def selinux_inode_setattr(dentry: Dentry, iattr: Iattr) -> None:
    valid = iattr.ia_valid
    if valid & ATTR_FORCE:                                 # file_remove_privs()
        valid &= ~(ATTR_KILL_SUID | ATTR_KILL_SGID | ATTR_MODE | ATTR_FORCE)
        if not valid:
            return
    cred = register.task.cred
    if valid & _ATTRS:
        dentry_has_perm(cred, dentry, FILE__SETATTR)
        return
    av = FILE__WRITE
    truncates = valid & ATTR_SIZE and not valid & ATTR_FILE
    if truncates and selinux_policycap_openperm() and dentry.d_sb.s_magic != SOCKFS_MAGIC:
        av |= FILE__OPEN
    dentry_has_perm(cred, dentry, av)


def selinux_inode_getattr(path: Path) -> None:
    path_has_perm(register.task.cred, path, FILE__GETATTR)


def selinux_inode_setxattr(dentry: Dentry, name: bytes, value: bytes) -> None:
    """A label may be changed by who may take the old one and give the new one away.

    Raises EACCES, EPERM, EINVAL (no context of the policy), EOPNOTSUPP (the file system keeps no labels).
    """
    if name != XATTR_NAME_SELINUX:
        cap_inode_setxattr(name)
        dentry_has_perm(register.task.cred, dentry, FILE__SETATTR)
        return
    inode = dentry.d_inode
    assert inode is not None
    state = selinux_state()
    sbsec = selinux_superblock(inode.i_sb)
    if not sbsec.flags & SBLABEL_MNT:
        raise KernelError(EOPNOTSUPP)
    if not inode_owner_or_capable(inode):
        raise KernelError(EPERM)
    ad = CommonAuditData(LSM_AUDIT_DATA_DENTRY, dentry)
    sid = current_sid()
    isec = backing_inode_security(dentry)
    avc_has_perm(state, sid, isec.sid, isec.sclass, FILE__RELABELFROM, ad)
    newsid = context_of_caller(value, b"op=setxattr invalid_context=")
    avc_has_perm(state, sid, newsid, isec.sclass, FILE__RELABELTO, ad)
    security_validate_transition(state, isec.sid, newsid, sid, isec.sclass)
    avc_has_perm(state, newsid, sbsec.sid, SECCLASS_FILESYSTEM, FILESYSTEM__ASSOCIATE, ad)


def selinux_inode_post_setxattr(dentry: Dentry, name: bytes, value: bytes) -> None:
    """The attribute is stored: the inode has the label."""
    if name != XATTR_NAME_SELINUX:
        return
    inode = dentry.d_inode
    assert inode is not None
    state = selinux_state()
    try:
        newsid = security_context_to_sid_force(state, value)
    except KernelError as error:
        state.kernel.printk(f"SELinux:  unable to map context to SID for ({inode.i_sb.s_id.decode()}, {inode.i_ino}), "
                            f"rc={error.errno}", 3)
        return
    set_label(inode, newsid)


def selinux_inode_getxattr(dentry: Dentry, _name: bytes) -> None:
    dentry_has_perm(register.task.cred, dentry, FILE__GETATTR)


def selinux_inode_listxattr(dentry: Dentry) -> None:
    dentry_has_perm(register.task.cred, dentry, FILE__GETATTR)


def selinux_inode_removexattr(dentry: Dentry, name: bytes) -> None:
    """Every file has a label: the attribute cannot be removed (EACCES)."""
    if name == XATTR_NAME_SELINUX:
        raise KernelError(EACCES)
    assert dentry.d_inode is not None
    cap_inode_removexattr(dentry.d_inode, name)
    dentry_has_perm(register.task.cred, dentry, FILE__SETATTR)


def selinux_inode_getsecurity(inode: Inode, suffix: bytes) -> bytes | None:
    """security.selinux as it is in memory, with its NUL."""
    if suffix != XATTR_SELINUX_SUFFIX:
        return None
    isec = inode_security(inode)
    state = selinux_state()
    if has_cap_mac_admin(False):
        return security_sid_to_context_force(state, isec.sid) + b"\0"
    return security_sid_to_context(state, isec.sid) + b"\0"


def selinux_inode_setsecurity(inode: Inode, suffix: bytes, value: bytes) -> bool:
    """The label of a file on a file system without attributes (sysfs, pipes). Raises EACCES, EINVAL, EOPNOTSUPP."""
    if suffix != XATTR_SELINUX_SUFFIX:
        return False
    if not selinux_superblock(inode.i_sb).flags & SBLABEL_MNT:
        raise KernelError(EOPNOTSUPP)
    if not value:
        raise KernelError(EACCES)
    set_label(inode, security_context_to_sid(selinux_state(), value))
    return True


def selinux_inode_listsecurity(_inode: Inode) -> bytes:
    return XATTR_NAME_SELINUX


INODE_HOOKS: dict[str, Callable[..., Any]] = {
    "inode_alloc_security": selinux_inode_alloc_security,
    "inode_free_security": selinux_inode_free_security,
    "inode_init_security": selinux_inode_init_security,
    "inode_create": selinux_inode_create,
    "inode_link": selinux_inode_link,
    "inode_unlink": selinux_inode_unlink,
    "inode_symlink": selinux_inode_symlink,
    "inode_mkdir": selinux_inode_mkdir,
    "inode_rmdir": selinux_inode_rmdir,
    "inode_mknod": selinux_inode_mknod,
    "inode_rename": selinux_inode_rename,
    "inode_readlink": selinux_inode_readlink,
    "inode_follow_link": selinux_inode_follow_link,
    "inode_permission": selinux_inode_permission,
    "inode_setattr": selinux_inode_setattr,
    "inode_getattr": selinux_inode_getattr,
    "inode_setxattr": selinux_inode_setxattr,
    "inode_post_setxattr": selinux_inode_post_setxattr,
    "inode_getxattr": selinux_inode_getxattr,
    "inode_listxattr": selinux_inode_listxattr,
    "inode_removexattr": selinux_inode_removexattr,
    "inode_getsecurity": selinux_inode_getsecurity,
    "inode_setsecurity": selinux_inode_setsecurity,
    "inode_listsecurity": selinux_inode_listsecurity,
    "dentry_create_files_as": selinux_dentry_create_files_as,
    "inode_copy_up": selinux_inode_copy_up,
    "inode_copy_up_xattr": selinux_inode_copy_up_xattr,
    "d_instantiate": selinux_d_instantiate,
}
