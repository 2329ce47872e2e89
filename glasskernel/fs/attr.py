"""Changing attributes: owner, mode, size, times.

Linux: fs/attr.c, and file_remove_privs() of fs/inode.c (5.3). Same: who may, which bits go when (S_ISUID, S_ISGID
on chown, write and truncate), RLIMIT_FSIZE with SIGXFSZ.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.fsnotify import IN_ACCESS, IN_ATTRIB, IN_MODIFY, fsnotify_dentry
from glasskernel.fs.inode import current_time, in_group_p, inode_owner_or_capable
from glasskernel.fs.permission import inode_permission
from glasskernel.fs.types import (
    ATTR_ATIME,
    ATTR_ATIME_SET,
    ATTR_CTIME,
    ATTR_FORCE,
    ATTR_GID,
    ATTR_KILL_SGID,
    ATTR_KILL_SUID,
    ATTR_MODE,
    ATTR_MTIME,
    ATTR_MTIME_SET,
    ATTR_SIZE,
    ATTR_TIMES_SET,
    ATTR_TOUCH,
    ATTR_UID,
    MAY_WRITE,
    S_APPEND,
    S_IFMT,
    S_IFREG,
    S_IMMUTABLE,
    S_ISGID,
    S_ISUID,
    S_IXGRP,
    S_SWAPFILE,
    Iattr,
)
from glasskernel.kernel.capability import CAP_CHOWN, CAP_FSETID, capable, capable_wrt_inode_uidgid
from glasskernel.kernel.current import current
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.task import RLIM_INFINITY, RLIMIT_FSIZE
from glasskernel.lib.errno import EFBIG, EPERM, ETXTBSY, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Inode

SIGXFSZ = 25


def chown_ok(inode: Inode, uid: int) -> bool:
    """May the caller make `uid` the owner? Without CAP_CHOWN only to what it is."""
    if current().cred.fsuid == inode.i_uid and uid == inode.i_uid:
        return True
    return capable_wrt_inode_uidgid(inode, CAP_CHOWN)


def chgrp_ok(inode: Inode, gid: int) -> bool:
    """May the caller make `gid` the group? The owner may choose among its own groups."""
    if current().cred.fsuid == inode.i_uid and (in_group_p(gid) or gid == inode.i_gid):
        return True
    return capable_wrt_inode_uidgid(inode, CAP_CHOWN)


def setattr_prepare(dentry: Dentry, attr: Iattr) -> None:
    """Checks a change; may clear S_ISGID in attr.ia_mode. Raises EPERM, EFBIG, ETXTBSY. First thing of ->setattr()."""
    inode = dentry.d_inode
    assert inode is not None
    valid = attr.ia_valid
    if valid & ATTR_SIZE:
        inode_newsize_ok(inode, attr.ia_size)
    if valid & ATTR_FORCE:
        return
    if valid & ATTR_UID and not chown_ok(inode, attr.ia_uid):
        raise KernelError(EPERM)
    if valid & ATTR_GID and not chgrp_ok(inode, attr.ia_gid):
        raise KernelError(EPERM)
    if valid & ATTR_MODE:
        if not inode_owner_or_capable(inode):
            raise KernelError(EPERM)
        gid = attr.ia_gid if valid & ATTR_GID else inode.i_gid
        if not in_group_p(gid) and not capable_wrt_inode_uidgid(inode, CAP_FSETID):
            attr.ia_mode &= ~S_ISGID
    if valid & (ATTR_MTIME_SET | ATTR_ATIME_SET | ATTR_TIMES_SET) and not inode_owner_or_capable(inode):
        raise KernelError(EPERM)


def inode_newsize_ok(inode: Inode, offset: int) -> None:
    """May the file become this long? Raises EFBIG (with SIGXFSZ at RLIMIT_FSIZE), ETXTBSY (swap file)."""
    if inode.i_size < offset:
        task = current()
        limit = task.signal.rlim[RLIMIT_FSIZE][0]
        if limit != RLIM_INFINITY and offset > limit:
            send_sig(SIGXFSZ, task, 0)
            raise KernelError(EFBIG)
        if offset > inode.i_sb.s_maxbytes:
            raise KernelError(EFBIG)
    elif inode.i_flags & S_SWAPFILE:
        raise KernelError(ETXTBSY)


def setattr_copy(inode: Inode, attr: Iattr) -> None:
    """Stores all but the size. ->setattr() calls it after setattr_prepare()."""
    valid = attr.ia_valid
    if valid & ATTR_UID:
        inode.i_uid = attr.ia_uid
    if valid & ATTR_GID:
        inode.i_gid = attr.ia_gid
    if valid & ATTR_ATIME:
        inode.i_atime = attr.ia_atime
    if valid & ATTR_MTIME:
        inode.i_mtime = attr.ia_mtime
    if valid & ATTR_CTIME:
        inode.i_ctime = attr.ia_ctime
    if valid & ATTR_MODE:
        mode = attr.ia_mode
        if not in_group_p(inode.i_gid) and not capable_wrt_inode_uidgid(inode, CAP_FSETID):
            mode &= ~S_ISGID
        inode.i_mode = mode


@may_sleep
def notify_change(dentry: Dentry, attr: Iattr) -> None:
    """Changes attributes through ->setattr(). Locks: the inode's i_rwsem. Raises EPERM, EACCES, EROFS, EFBIG ..."""
    inode = dentry.d_inode
    assert inode is not None
    mode = inode.i_mode
    valid = attr.ia_valid
    if valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_TIMES_SET) and inode.i_flags & (S_IMMUTABLE | S_APPEND):
        raise KernelError(EPERM)
    if valid & ATTR_TOUCH:
        if inode.i_flags & S_IMMUTABLE:
            raise KernelError(EPERM)
        if not inode_owner_or_capable(inode):
            inode_permission(inode, MAY_WRITE)
    now = current_time(inode)
    attr.ia_ctime = now
    if not valid & ATTR_ATIME_SET:
        attr.ia_atime = now
    if not valid & ATTR_MTIME_SET:
        attr.ia_mtime = now
    assert not (valid & (ATTR_KILL_SUID | ATTR_KILL_SGID) and valid & ATTR_MODE)
    if valid & ATTR_KILL_SUID and mode & S_ISUID:
        valid |= ATTR_MODE
        attr.ia_mode = mode & ~S_ISUID
    if valid & ATTR_KILL_SGID and mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP:
        if not valid & ATTR_MODE:
            valid |= ATTR_MODE
            attr.ia_mode = mode
        attr.ia_mode &= ~S_ISGID
    valid &= ~(ATTR_KILL_SUID | ATTR_KILL_SGID)
    if not valid & ~ATTR_CTIME and attr.ia_valid & (ATTR_KILL_SUID | ATTR_KILL_SGID):
        return
    attr.ia_valid = valid
    if inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_inode_setattr(dentry, attr)
    setattr = inode.i_op.setattr
    if setattr is None:
        simple_setattr(dentry, attr)
    else:
        setattr(dentry, attr)
    if inode.i_sb.kernel.vfs.nr_marks:
        fsnotify_change(dentry, valid)


def simple_setattr(dentry: Dentry, attr: Iattr) -> None:
    """->setattr() of file systems in memory: check, set the size without touching data, store."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, attr)
    if attr.ia_valid & ATTR_SIZE:
        inode.i_size = attr.ia_size
    setattr_copy(inode, attr)


@notrace
def fsnotify_change(dentry: Dentry, valid: int) -> None:
    """The events of a change of attributes."""
    mask = 0
    if valid & (ATTR_UID | ATTR_GID | ATTR_MODE):
        mask |= IN_ATTRIB
    if valid & ATTR_SIZE:
        mask |= IN_MODIFY
    if valid & (ATTR_ATIME | ATTR_MTIME) == ATTR_ATIME | ATTR_MTIME:
        mask |= IN_ATTRIB
    elif valid & ATTR_ATIME:
        mask |= IN_ACCESS
    elif valid & ATTR_MTIME:
        mask |= IN_MODIFY
    if mask:
        fsnotify_dentry(dentry, mask)


# ---- set-id bits -------------------------------------------------------------------------------------------
def should_remove_suid(inode: Inode) -> int:
    """ATTR_KILL_* for a file that was written by somebody without CAP_FSETID."""
    mode = inode.i_mode
    kill = 0
    if mode & S_ISUID:
        kill = ATTR_KILL_SUID
    if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP:
        kill |= ATTR_KILL_SGID
    if kill and not capable(CAP_FSETID) and mode & S_IFMT == S_IFREG:
        return kill
    return 0


@may_sleep
def file_remove_privs(file: File) -> None:
    """Before a write: set-id bits go. Locks: the inode's i_rwsem."""
    inode = file.f_inode
    if not inode.i_mode & (S_ISUID | S_ISGID):
        return
    kill = should_remove_suid(inode)
    if kill:
        notify_change(file.f_path.dentry, Iattr(ATTR_FORCE | kill))
