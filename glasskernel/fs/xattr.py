"""Extended attributes.

Linux: fs/xattr.c (5.3). Same: name spaces and who may use them, sizes, ERANGE and E2BIG.
Gaps: POSIX ACLs (system.posix_acl_*: EOPNOTSUPP).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, strncpy_from_user
from glasskernel.fs.file import fdget
from glasskernel.fs.fsnotify import IN_ATTRIB, fsnotify_dentry
from glasskernel.fs.inode import inode_lock, inode_owner_or_capable, inode_unlock
from glasskernel.fs.mnt_writers import mnt_drop_write, mnt_want_write
from glasskernel.fs.mount import path_put
from glasskernel.fs.path_walk import AT_FDCWD, LOOKUP_FOLLOW, user_path_at
from glasskernel.fs.permission import inode_permission
from glasskernel.fs.types import (
    MAY_READ,
    MAY_WRITE,
    S_APPEND,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    S_IMMUTABLE,
    S_ISVTX,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.lib.errno import E2BIG, EINVAL, ENODATA, EOPNOTSUPP, EPERM, ERANGE, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t
from glasskernel.security.commoncap import (
    XATTR_NAME_CAPS,
    cap_convert_nscap,
    cap_inode_removexattr,
    cap_inode_setxattr,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode, Path

XATTR_CREATE, XATTR_REPLACE = 1, 2
XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_LIST_MAX = 255, 65536, 65536


def xattr_permission(inode: Inode, name: bytes, mask: int) -> None:
    """May the caller read or write this attribute? Raises EPERM, ENODATA, EACCES, EROFS."""
    if mask & MAY_WRITE and inode.i_flags & (S_IMMUTABLE | S_APPEND):
        raise KernelError(EPERM)
    if name.startswith((b"security.", b"system.")):
        return
    if name.startswith(b"trusted."):
        if not capable(CAP_SYS_ADMIN):
            raise KernelError(EPERM if mask & MAY_WRITE else ENODATA)
        return
    if name.startswith(b"user."):
        kind = inode.i_mode & S_IFMT
        if kind != S_IFREG and kind != S_IFDIR:
            raise KernelError(EPERM if mask & MAY_WRITE else ENODATA)
        if kind == S_IFDIR and inode.i_mode & S_ISVTX and mask & MAY_WRITE and not inode_owner_or_capable(inode):
            raise KernelError(EPERM)
    inode_permission(inode, mask)


@notrace
def copy_name(name: UserPtr) -> bytes:
    """An attribute's name. Raises ERANGE (empty or longer than 255), EFAULT."""
    text = strncpy_from_user(name, XATTR_NAME_MAX + 1)
    if not text:
        raise KernelError(ERANGE)
    return text


@may_sleep
def vfs_setxattr(dentry: Dentry, name: bytes, value: bytes | None, flags: int) -> None:
    """Sets an attribute; None removes it. Raises EOPNOTSUPP, EPERM, EEXIST, ENODATA, ENOSPC."""
    inode = dentry.d_inode
    assert inode is not None
    xattr_permission(inode, name, MAY_WRITE)
    lsm = inode.i_sb.kernel.lsm
    inode_lock(inode)
    try:
        if value is None:
            if lsm is None:
                cap_inode_removexattr(inode, name)
            else:
                lsm.security_inode_removexattr(dentry, name)
        elif lsm is None:
            cap_inode_setxattr(name)
        else:
            lsm.security_inode_setxattr(dentry, name, value)
        __vfs_setxattr_noperm(dentry, inode, name, value, flags)
    finally:
        inode_unlock(inode)
    if inode.i_sb.kernel.vfs.nr_marks:
        fsnotify_dentry(dentry, IN_ATTRIB)


@may_sleep
def __vfs_setxattr_noperm(dentry: Dentry, inode: Inode, name: bytes, value: bytes | None, flags: int) -> None:
    """vfs_setxattr() without its checks. A file system without attributes has those of the security module only."""
    lsm = inode.i_sb.kernel.lsm
    setxattr = inode.i_op.setxattr
    if setxattr is not None:
        setxattr(inode, name, value, flags)
        if lsm is not None and value is not None:
            lsm.security_inode_post_setxattr(dentry, name, value)
    elif lsm is None or value is None or not name.startswith(b"security.") \
            or not lsm.security_inode_setsecurity(inode, name[len(b"security."):], value):
        raise KernelError(EOPNOTSUPP)


@may_sleep
def vfs_getxattr(dentry: Dentry, name: bytes) -> bytes:
    """An attribute's value. Raises EOPNOTSUPP, ENODATA."""
    inode = dentry.d_inode
    assert inode is not None
    xattr_permission(inode, name, MAY_READ)
    lsm = inode.i_sb.kernel.lsm
    if lsm is not None:
        lsm.security_inode_getxattr(dentry, name)
        if name.startswith(b"security."):
            value = lsm.security_inode_getsecurity(inode, name[len(b"security."):])
            if value is not None:
                return value
    return __vfs_getxattr(dentry, inode, name)


@may_sleep
def __vfs_getxattr(_dentry: Dentry, inode: Inode, name: bytes) -> bytes:
    """vfs_getxattr() without its checks: what the file system has. Raises EOPNOTSUPP, ENODATA."""
    getxattr = inode.i_op.getxattr
    if getxattr is None:
        raise KernelError(EOPNOTSUPP)
    return getxattr(inode, name)


@may_sleep
def vfs_listxattr(dentry: Dentry) -> list[bytes]:
    """The names of all attributes; a file system without any has none."""
    inode = dentry.d_inode
    assert inode is not None
    listxattr = inode.i_op.listxattr
    lsm = inode.i_sb.kernel.lsm
    if lsm is not None:
        lsm.security_inode_listxattr(dentry)
    if listxattr is not None:
        names = listxattr(dentry)
    else:
        names = lsm.security_inode_listsecurity(inode) if lsm is not None else []
    if not capable(CAP_SYS_ADMIN):
        names = [name for name in names if not name.startswith(b"trusted.")]
    return names


# ---- set ---------------------------------------------------------------------------------------------------
@may_sleep
def setxattr(path: Path, name: UserPtr, value: UserPtr, size: int, flags: int) -> int:
    """setxattr(2) of a path."""
    if flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise KernelError(EINVAL)
    kname = copy_name(name)
    if size > XATTR_SIZE_MAX:
        raise KernelError(E2BIG)
    data = copy_from_user(value, size) if size else b""
    if kname == XATTR_NAME_CAPS and size:
        assert path.dentry.d_inode is not None
        cap_convert_nscap(path.dentry.d_inode, data)
    mnt_want_write(path.mnt)
    try:
        vfs_setxattr(path.dentry, kname, data, flags)
    finally:
        mnt_drop_write(path.mnt)
    return 0


@may_sleep
def path_setxattr(pathname: UserPtr, name: UserPtr, value: UserPtr, size: int, flags: int, lookup: int) -> int:
    """setxattr(2), lsetxattr(2)."""
    path = user_path_at(AT_FDCWD, pathname, lookup)
    try:
        return setxattr(path, name, value, size, flags)
    finally:
        path_put(path)


@syscall
def sys_setxattr(pathname: UserPtr, name: UserPtr, value: UserPtr, size: size_t, flags: int) -> int:
    """setxattr(2). Errors: EOPNOTSUPP, EPERM, EEXIST, ENODATA, ERANGE, E2BIG, EINVAL, EROFS, EFAULT."""
    return path_setxattr(pathname, name, value, size, flags, LOOKUP_FOLLOW)


@syscall
def sys_lsetxattr(pathname: UserPtr, name: UserPtr, value: UserPtr, size: size_t, flags: int) -> int:
    """lsetxattr(2)."""
    return path_setxattr(pathname, name, value, size, flags, 0)


@syscall
def sys_fsetxattr(fd: int, name: UserPtr, value: UserPtr, size: size_t, flags: int) -> int:
    """fsetxattr(2)."""
    return setxattr(fdget(fd).f_path, name, value, size, flags)


# ---- get ---------------------------------------------------------------------------------------------------
@may_sleep
def getxattr(dentry: Dentry, name: UserPtr, value: UserPtr, size: int) -> int:
    """getxattr(2) of a dentry. size 0 only asks for the length. Raises ERANGE (too small)."""
    data = vfs_getxattr(dentry, copy_name(name))
    if size:
        if len(data) > size:
            raise KernelError(ERANGE)
        copy_to_user(value, data)
    return len(data)


@may_sleep
def path_getxattr(pathname: UserPtr, name: UserPtr, value: UserPtr, size: int, lookup: int) -> int:
    """getxattr(2), lgetxattr(2)."""
    path = user_path_at(AT_FDCWD, pathname, lookup)
    try:
        return getxattr(path.dentry, name, value, size)
    finally:
        path_put(path)


@syscall
def sys_getxattr(pathname: UserPtr, name: UserPtr, value: UserPtr, size: size_t) -> int:
    """getxattr(2). Errors: EOPNOTSUPP, ENODATA, ERANGE, EFAULT."""
    return path_getxattr(pathname, name, value, size, LOOKUP_FOLLOW)


@syscall
def sys_lgetxattr(pathname: UserPtr, name: UserPtr, value: UserPtr, size: size_t) -> int:
    """lgetxattr(2)."""
    return path_getxattr(pathname, name, value, size, 0)


@syscall
def sys_fgetxattr(fd: int, name: UserPtr, value: UserPtr, size: size_t) -> int:
    """fgetxattr(2)."""
    return getxattr(fdget(fd).f_path.dentry, name, value, size)


# ---- list --------------------------------------------------------------------------------------------------
@may_sleep
def listxattr(dentry: Dentry, buffer: UserPtr, size: int) -> int:
    """listxattr(2) of a dentry. Raises ERANGE."""
    data = b"".join(name + b"\0" for name in vfs_listxattr(dentry))
    if size:
        if len(data) > size:
            raise KernelError(ERANGE)
        copy_to_user(buffer, data)
    return len(data)


@may_sleep
def path_listxattr(pathname: UserPtr, buffer: UserPtr, size: int, lookup: int) -> int:
    """listxattr(2), llistxattr(2)."""
    path = user_path_at(AT_FDCWD, pathname, lookup)
    try:
        return listxattr(path.dentry, buffer, size)
    finally:
        path_put(path)


@syscall
def sys_listxattr(pathname: UserPtr, list: UserPtr, size: size_t) -> int:
    """listxattr(2)."""
    return path_listxattr(pathname, list, size, LOOKUP_FOLLOW)


@syscall
def sys_llistxattr(pathname: UserPtr, list: UserPtr, size: size_t) -> int:
    """llistxattr(2)."""
    return path_listxattr(pathname, list, size, 0)


@syscall
def sys_flistxattr(fd: int, list: UserPtr, size: size_t) -> int:
    """flistxattr(2)."""
    return listxattr(fdget(fd).f_path.dentry, list, size)


# ---- remove ------------------------------------------------------------------------------------------------
@may_sleep
def removexattr(path: Path, name: UserPtr) -> int:
    """removexattr(2) of a path."""
    kname = copy_name(name)
    mnt_want_write(path.mnt)
    try:
        vfs_setxattr(path.dentry, kname, None, XATTR_REPLACE)
    finally:
        mnt_drop_write(path.mnt)
    return 0


@may_sleep
def path_removexattr(pathname: UserPtr, name: UserPtr, lookup: int) -> int:
    """removexattr(2), lremovexattr(2)."""
    path = user_path_at(AT_FDCWD, pathname, lookup)
    try:
        return removexattr(path, name)
    finally:
        path_put(path)


@syscall
def sys_removexattr(pathname: UserPtr, name: UserPtr) -> int:
    """removexattr(2). Errors: ENODATA, EOPNOTSUPP, EPERM, ERANGE, EROFS."""
    return path_removexattr(pathname, name, LOOKUP_FOLLOW)


@syscall
def sys_lremovexattr(pathname: UserPtr, name: UserPtr) -> int:
    """lremovexattr(2)."""
    return path_removexattr(pathname, name, 0)


@syscall
def sys_fremovexattr(fd: int, name: UserPtr) -> int:
    """fremovexattr(2)."""
    return removexattr(fdget(fd).f_path, name)
