"""The questions that hooks are made of: may these credentials do that to an inode, an open file, with a capability?

Linux: inode_has_perm() ... cred_has_capability() of security/selinux/hooks.c (5.3). Same: what is asked, what the
    record of a denial names. Owns: nothing. Context: task; may sleep (a label may have to be read).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import (
    FMODE_READ,
    FMODE_WRITE,
    MAY_APPEND,
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    O_APPEND,
    S_IFDIR,
    S_IFMT,
)
from glasskernel.kernel.audit import (
    AUDIT_SELINUX_ERR,
    audit_log_end,
    audit_log_format,
    audit_log_start,
    audit_log_untrustedstring,
)
from glasskernel.kernel.capability import CAP_MAC_ADMIN, cap_capable
from glasskernel.kernel.current import register
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.security.lsm_audit import (
    LSM_AUDIT_DATA_CAP,
    LSM_AUDIT_DATA_DENTRY,
    LSM_AUDIT_DATA_FILE,
    LSM_AUDIT_DATA_PATH,
    CommonAuditData,
)
from glasskernel.security.selinux.av_permissions import (
    DIR__SEARCH,
    FD__USE,
    FILE__APPEND,
    FILE__EXECUTE,
    FILE__IOCTL,
    FILE__READ,
    FILE__WRITE,
)
from glasskernel.security.selinux.avc import avc_audit, avc_has_perm, avc_has_perm_noaudit
from glasskernel.security.selinux.flask import SECCLASS_CAPABILITY, SECCLASS_CAPABILITY2, SECCLASS_FD
from glasskernel.security.selinux.inode_label import __inode_security_revalidate, inode_mode_to_security_class
from glasskernel.security.selinux.objsec import (
    LABEL_INITIALIZED,
    cred_sid,
    selinux_file,
    selinux_inode,
    selinux_state,
)
from glasskernel.security.selinux.ss.services import security_context_to_sid, security_context_to_sid_force
from glasskernel.security.selinux.types import POLICYDB_CAPABILITY_OPENPERM

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Inode, Path
    from glasskernel.kernel.task import Cred

SOCKFS_MAGIC = 0x534F434B


def inode_has_perm(cred: Cred, inode: Inode, perms: int, adp: CommonAuditData | None) -> None:
    """May `cred` do this to an inode whose label is known? Raises EACCES."""
    isec = selinux_inode(inode)
    avc_has_perm(selinux_state(), cred_sid(cred), isec.sid, isec.sclass, perms, adp)


def dentry_has_perm(cred: Cred, dentry: Dentry, av: int) -> None:
    """inode_has_perm() of what a dentry names."""
    inode = dentry.d_inode
    assert inode is not None
    __inode_security_revalidate(inode, dentry)
    inode_has_perm(cred, inode, av, CommonAuditData(LSM_AUDIT_DATA_DENTRY, dentry))


def path_has_perm(cred: Cred, path: Path, av: int) -> None:
    """inode_has_perm() of a path, which a record shows in full."""
    inode = path.dentry.d_inode
    assert inode is not None
    __inode_security_revalidate(inode, path.dentry)
    inode_has_perm(cred, inode, av, CommonAuditData(LSM_AUDIT_DATA_PATH, path))


def file_has_perm(cred: Cred, file: File, av: int) -> None:
    """May `cred` use the descriptor, and do this to what it is open on (0: nothing more)? Raises EACCES."""
    ad = CommonAuditData(LSM_AUDIT_DATA_FILE, file)
    sid, fsid = cred_sid(cred), selinux_file(file).sid
    if sid != fsid:
        avc_has_perm(selinux_state(), sid, fsid, SECCLASS_FD, FD__USE, ad)
    if av:
        inode_has_perm(cred, file.f_inode, av, ad)


@notrace
def file_mask_to_av(mode: int, mask: int) -> int:
    """Permissions of MAY_*."""
    av = 0
    if mode & S_IFMT != S_IFDIR:
        if mask & MAY_EXEC:
            av |= FILE__EXECUTE
        if mask & MAY_READ:
            av |= FILE__READ
        if mask & MAY_APPEND:
            av |= FILE__APPEND
        elif mask & MAY_WRITE:
            av |= FILE__WRITE
        return av
    if mask & MAY_EXEC:
        av |= DIR__SEARCH
    if mask & MAY_WRITE:
        av |= FILE__WRITE                                  # DIR__WRITE and DIR__READ have the same bits
    if mask & MAY_READ:
        av |= FILE__READ
    return av


@notrace
def file_to_av(file: File) -> int:
    """Permissions that an open file stands for."""
    av = 0
    if file.f_mode & FMODE_READ:
        av |= FILE__READ
    if file.f_mode & FMODE_WRITE:
        av |= FILE__APPEND if file.f_flags & O_APPEND else FILE__WRITE
    return av or FILE__IOCTL                               # opened with flags 3: for ioctl(2) only


@notrace
def selinux_policycap_openperm() -> bool:
    """The policy knows the permission `open`."""
    return selinux_state().policycap[POLICYDB_CAPABILITY_OPENPERM]


def cred_has_capability(cred: Cred, cap: int, audit: bool) -> bool:
    """Does the policy let `cred` use a capability? A refusal is recorded only if audit."""
    sclass = SECCLASS_CAPABILITY2 if cap >= 32 else SECCLASS_CAPABILITY
    av = 1 << (cap & 31)
    sid = cred_sid(cred)
    state = selinux_state()
    avd, refused = avc_has_perm_noaudit(state, sid, sid, sclass, av)
    if audit:
        avc_audit(state, sid, sid, sclass, av, avd, refused, CommonAuditData(LSM_AUDIT_DATA_CAP, cap))
    return not refused


def has_cap_mac_admin(audit: bool) -> bool:
    """May the caller see and set contexts that the policy does not know?"""
    cred = register.task.cred
    return cap_capable(cred, CAP_MAC_ADMIN) and cred_has_capability(cred, CAP_MAC_ADMIN, audit)


@notrace
def context_of_caller(value: bytes, op: bytes) -> int:
    """The SID of a context that a program gives; with CAP_MAC_ADMIN also of one that the policy does not know.

    Raises EINVAL, and records it.
    """
    state = selinux_state()
    try:
        return security_context_to_sid(state, value)
    except KernelError as error:
        if error.errno != EINVAL:
            raise
    if not has_cap_mac_admin(True):
        ab = audit_log_start(state.kernel, AUDIT_SELINUX_ERR)
        audit_log_format(ab, op)
        audit_log_untrustedstring(ab, value[:-1] if value[-1:] == b"\0" else value)
        audit_log_end(ab)
        raise KernelError(EINVAL)
    return security_context_to_sid_force(state, value)


@notrace
def set_label(inode: Inode, sid: int) -> None:
    isec = selinux_inode(inode)
    isec.sclass = inode_mode_to_security_class(inode.i_mode)
    isec.sid = sid
    isec.initialized = LABEL_INITIALIZED
