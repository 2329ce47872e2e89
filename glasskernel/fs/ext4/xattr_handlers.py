"""Name spaces of extended attributes.

Linux: fs/ext4/xattr_user.c, xattr_trusted.c, xattr_security.c, ext4_listxattr() (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.acl import ACL_TYPE_ACCESS, ACL_TYPE_DEFAULT, posix_acl_xattr_get, posix_acl_xattr_set
from glasskernel.fs.ext4.types import EXT4_MOUNT_POSIX_ACL, EXT4_MOUNT_XATTR_USER, EXT4_SB, test_opt
from glasskernel.fs.ext4.xattr import (
    EXT4_XATTR_INDEX_POSIX_ACL_ACCESS,
    EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT,
    EXT4_XATTR_INDEX_SECURITY,
    EXT4_XATTR_INDEX_TRUSTED,
    EXT4_XATTR_INDEX_USER,
    ext4_xattr_get,
    ext4_xattr_list_entries,
    ext4_xattr_set,
)
from glasskernel.lib.errno import EINVAL, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode

PREFIXES = ((EXT4_XATTR_INDEX_USER, b"user."), (EXT4_XATTR_INDEX_TRUSTED, b"trusted."),
            (EXT4_XATTR_INDEX_SECURITY, b"security."))
ACL_NAMES = {b"system.posix_acl_access": ACL_TYPE_ACCESS, b"system.posix_acl_default": ACL_TYPE_DEFAULT}


@notrace
def xattr_resolve_name(inode: Inode, name: bytes) -> tuple[int, bytes]:
    """(name index, the rest). Raises EOPNOTSUPP, EINVAL (nothing behind the prefix)."""
    for index, prefix in PREFIXES:
        if name.startswith(prefix):
            if index == EXT4_XATTR_INDEX_USER and not test_opt(EXT4_SB(inode.i_sb), EXT4_MOUNT_XATTR_USER):
                raise KernelError(EOPNOTSUPP)
            if len(name) == len(prefix):
                raise KernelError(EINVAL)
            return index, name[len(prefix) :]
    raise KernelError(EOPNOTSUPP)


@notrace
@may_sleep
def ext4_getxattr(inode: Inode, name: bytes) -> bytes:
    acl = ACL_NAMES.get(name)
    if acl is not None:
        return posix_acl_xattr_get(inode, acl)
    return ext4_xattr_get(inode, *xattr_resolve_name(inode, name))


@notrace
@may_sleep
def ext4_setxattr(inode: Inode, name: bytes, value: bytes | None, flags: int) -> None:
    acl = ACL_NAMES.get(name)
    if acl is not None:
        posix_acl_xattr_set(inode, acl, value)
        return
    index, rest = xattr_resolve_name(inode, name)
    ext4_xattr_set(inode, index, rest, value, flags)


@may_sleep
def ext4_listxattr(dentry: Dentry) -> list[bytes]:
    """->listxattr()."""
    inode = dentry.d_inode
    assert inode is not None
    sbi = EXT4_SB(inode.i_sb)
    prefixes = dict(PREFIXES)
    names = []
    for index, name in ext4_xattr_list_entries(inode):
        if index == EXT4_XATTR_INDEX_USER and not test_opt(sbi, EXT4_MOUNT_XATTR_USER):
            continue
        if index in (EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT):
            if test_opt(sbi, EXT4_MOUNT_POSIX_ACL):
                names.append(b"system.posix_acl_access" if index == 2 else b"system.posix_acl_default")
        elif index in prefixes:
            names.append(prefixes[index] + name)
    return names
