"""The label of an inode: found when it is first needed, from the attribute, the path, or who made it.

Linux: the first part of security/selinux/hooks.c (5.3). Same: the ways of SECURITY_FS_USE_*, inodes that were met
    before there was a policy are labelled afterwards, messages. Differs: nothing runs between two steps that do not
    sleep, so isec->lock is not here; LABEL_PENDING tells whether somebody else set the label while we read the
    attribute.
Owns: InodeSecurityStruct. Context: task; reading an attribute sleeps.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.d_path import dentry_path_raw
from glasskernel.fs.dcache import d_find_alias, d_find_any_alias, dget, dput
from glasskernel.fs.types import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK
from glasskernel.fs.xattr import __vfs_getxattr
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import ECHILD, EINVAL, ENODATA, ENOENT, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.security.selinux.flask import (
    SECCLASS_BLK_FILE,
    SECCLASS_CHR_FILE,
    SECCLASS_DIR,
    SECCLASS_FIFO_FILE,
    SECCLASS_FILE,
    SECCLASS_LNK_FILE,
    SECCLASS_SOCK_FILE,
    SECINITSID_UNLABELED,
)
from glasskernel.security.selinux.objsec import (
    LABEL_INITIALIZED,
    LABEL_INVALID,
    LABEL_PENDING,
    SBLABEL_MNT,
    SE_SBGENFS,
    SE_SBGENFS_XATTR,
    SE_SBINITIALIZED,
    SE_SBPROC,
    InodeSecurityStruct,
    TaskSecurityStruct,
    selinux_inode,
    selinux_superblock,
)
from glasskernel.security.selinux.ss.services import (
    security_context_to_sid_default,
    security_genfs_sid,
    security_transition_sid,
)
from glasskernel.security.selinux.types import (
    SECURITY_FS_USE_MNTPOINT,
    SECURITY_FS_USE_NATIVE,
    SECURITY_FS_USE_TASK,
    SECURITY_FS_USE_TRANS,
    SECURITY_FS_USE_XATTR,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode
    from glasskernel.security.selinux.types import SelinuxState

XATTR_SELINUX_SUFFIX, XATTR_NAME_SELINUX = b"selinux", b"security.selinux"
_CLASS_OF_MODE = {S_IFSOCK: SECCLASS_SOCK_FILE, S_IFLNK: SECCLASS_LNK_FILE, S_IFREG: SECCLASS_FILE,
                  S_IFBLK: SECCLASS_BLK_FILE, S_IFDIR: SECCLASS_DIR, S_IFCHR: SECCLASS_CHR_FILE,
                  S_IFIFO: SECCLASS_FIFO_FILE}


@notrace
def inode_mode_to_security_class(mode: int) -> int:
    """SECCLASS_* of a kind of file."""
    return _CLASS_OF_MODE.get(mode & S_IFMT, SECCLASS_FILE)


@notrace
def selinux_of(inode: Inode) -> SelinuxState:
    """The state of the inode's kernel."""
    state = inode.i_sb.kernel.selinux
    assert state is not None
    return state


@may_sleep
def __inode_security_revalidate(inode: Inode, opt_dentry: Dentry | None, may_sleep: bool = True) -> None:
    """Tries to find the label of an inode that has none yet. Raises ECHILD instead if it may not sleep."""
    if may_sleep:
        cond_resched()                                     # might_sleep_if()
    state = inode.i_sb.kernel.selinux
    if state.initialized and inode.i_security.initialized != LABEL_INITIALIZED:      # type: ignore[union-attr]
        if not may_sleep:
            raise KernelError(ECHILD)
        inode_doinit_with_dentry(inode, opt_dentry)


@notrace
def inode_security_rcu(inode: Inode, rcu: bool) -> InodeSecurityStruct:
    """The inode's label; rcu: for a walk that holds no references. Raises ECHILD."""
    __inode_security_revalidate(inode, None, not rcu)
    return selinux_inode(inode)


@notrace
def inode_security(inode: Inode) -> InodeSecurityStruct:
    """The inode's label."""
    __inode_security_revalidate(inode, None)
    return selinux_inode(inode)


@notrace
def backing_inode_security(dentry: Dentry) -> InodeSecurityStruct:
    """The label of what a dentry names."""
    inode = dentry.d_inode
    assert inode is not None
    __inode_security_revalidate(inode, dentry)
    return selinux_inode(inode)


@may_sleep
def inode_doinit_with_dentry(inode: Inode, opt_dentry: Dentry | None) -> None:
    """Finds the label. It stays open if the file system waits for a policy, or no name of the inode is known."""
    isec = selinux_inode(inode)
    if isec.initialized == LABEL_INITIALIZED:
        return
    if isec.sclass == SECCLASS_FILE:
        isec.sclass = inode_mode_to_security_class(inode.i_mode)
    sbsec = selinux_superblock(inode.i_sb)
    if not sbsec.flags & SE_SBINITIALIZED:
        sbsec.isec_head[inode] = None                      # selinux_complete_init() comes back to it
        return
    isec.initialized = LABEL_PENDING
    try:
        sid = inode_label(inode, isec, opt_dentry)
    except KernelError:
        sid = None
    if isec.initialized == LABEL_PENDING:
        if sid is None:
            isec.initialized = LABEL_INVALID
        else:
            isec.sid = sid
            isec.initialized = LABEL_INITIALIZED


@notrace
def inode_label(inode: Inode, isec: InodeSecurityStruct, opt_dentry: Dentry | None) -> int | None:
    """The switch of inode_doinit_with_dentry(). None: not without a dentry. Raises what reading the attribute does."""
    sbsec = selinux_superblock(inode.i_sb)
    behavior = sbsec.behavior
    if behavior == SECURITY_FS_USE_NATIVE:
        return isec.sid
    if behavior == SECURITY_FS_USE_TASK:
        return isec.task_sid
    if behavior == SECURITY_FS_USE_TRANS:
        return security_transition_sid(selinux_of(inode), isec.task_sid, sbsec.sid, isec.sclass, None)
    if behavior == SECURITY_FS_USE_MNTPOINT:
        return sbsec.mntpoint_sid
    from_xattr = behavior == SECURITY_FS_USE_XATTR
    if from_xattr and inode.i_op.getxattr is None:
        return sbsec.def_sid
    if not from_xattr and (not sbsec.flags & SE_SBGENFS or inode.i_mode & S_IFMT == S_IFLNK):
        return sbsec.sid
    dentry = dget(opt_dentry) if opt_dentry is not None else d_find_alias(inode) or d_find_any_alias(inode)
    if dentry is None:
        return None
    try:
        if from_xattr:
            return inode_doinit_use_xattr(inode, dentry, sbsec.def_sid)
        sid = selinux_genfs_get_sid(dentry, isec.sclass, sbsec.flags)
        if sbsec.flags & SE_SBGENFS_XATTR and inode.i_op.getxattr is not None:
            sid = inode_doinit_use_xattr(inode, dentry, sid)
        return sid
    finally:
        dput(dentry)


@may_sleep
def inode_doinit_use_xattr(inode: Inode, dentry: Dentry, def_sid: int) -> int:
    """The label from security.selinux; without one, def_sid. Raises what the file system does."""
    kernel = inode.i_sb.kernel
    where = f"dev={inode.i_sb.s_id.decode()} ino={inode.i_ino}"
    try:
        context = __vfs_getxattr(dentry, inode, XATTR_NAME_SELINUX)
    except KernelError as error:
        if error.errno in (ENODATA, EOPNOTSUPP):
            return def_sid
        kernel.printk(f"SELinux: inode_doinit_use_xattr:  getxattr returned {error.errno} for {where}", 4)
        raise
    try:
        return security_context_to_sid_default(selinux_of(inode), context, def_sid)
    except KernelError as error:
        text = context.rstrip(b"\0").decode(errors="replace")
        if error.errno == EINVAL:
            kernel.printk(f"SELinux: inode={inode.i_ino} on dev={inode.i_sb.s_id.decode()} was found to have an "
                          f"invalid context={text}.  This indicates you may need to relabel the inode or the "
                          "filesystem in question.", 5)
        else:
            kernel.printk(f"SELinux: inode_doinit_use_xattr:  context_to_sid({text}) returned {error.errno} for "
                          f"{where}", 4)
        return selinux_inode(inode).sid


def selinux_genfs_get_sid(dentry: Dentry, tclass: int, flags: int) -> int:
    """What the policy says about a path in a file system without attributes; /proc/1/net is /net there."""
    path = dentry_path_raw(dentry)
    if flags & SE_SBPROC:
        while path[1:2].isdigit():
            path = b"/" + path[2:]
        path = b"/" + path.lstrip(b"/")
    sb = dentry.d_sb
    state = sb.kernel.selinux
    assert state is not None
    try:
        return security_genfs_sid(state, sb.s_type.name, path, tclass)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return SECINITSID_UNLABELED


def selinux_determine_inode_label(tsec: TaskSecurityStruct, dir: Inode, name: bytes | None, tclass: int) -> int:
    """The label of what tsec's owner is about to make in `dir`: the mount's, the one asked for, or the policy's."""
    sbsec = selinux_superblock(dir.i_sb)
    if sbsec.flags & SE_SBINITIALIZED and sbsec.behavior == SECURITY_FS_USE_MNTPOINT:
        return sbsec.mntpoint_sid
    if sbsec.flags & SBLABEL_MNT and tsec.create_sid:
        return tsec.create_sid
    return security_transition_sid(selinux_of(dir), tsec.sid, inode_security(dir).sid, tclass, name)
