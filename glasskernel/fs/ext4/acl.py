"""POSIX access control lists.

Linux: fs/ext4/acl.c, and the parts of fs/posix_acl.c that it needs (5.3). Same: ext4's packed format on disk, the
    format of system.posix_acl_* for user space, equivalence with the mode, inheritance, permission checks.
Differs: 5.3 checks ACLs inside generic_permission(); here ->permission does, since our VFS has no get_acl.
Owns: Ext4InodeInfo.i_acl, i_default_acl.
"""
from __future__ import annotations

from struct import pack, unpack_from
from typing import TYPE_CHECKING, Any

from glasskernel.fs.ext4.errors import EFSCORRUPTED
from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_DATA_TRANS_BLOCKS,
    Handle,
    ext4_journal_start,
    ext4_journal_stop,
)
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.types import EXT4_HT_XATTR, EXT4_I, EXT4_MOUNT_POSIX_ACL, EXT4_SB, test_opt
from glasskernel.fs.ext4.xattr import (
    EXT4_XATTR_INDEX_POSIX_ACL_ACCESS,
    EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT,
    ext4_xattr_get,
    ext4_xattr_set_handle,
)
from glasskernel.fs.fs_struct import current_umask
from glasskernel.fs.inode import current_time, in_group_p, inode_owner_or_capable
from glasskernel.fs.permission import generic_permission
from glasskernel.fs.types import MAY_EXEC, MAY_READ, MAY_WRITE, S_IFDIR, S_IFLNK, S_IFMT, S_ISGID
from glasskernel.kernel.capability import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FSETID,
    capable_wrt_inode_uidgid,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EACCES, EINVAL, ENODATA, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode

ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 1, 2, 4, 8, 0x10, 0x20
ACL_TYPE_ACCESS, ACL_TYPE_DEFAULT = 0x8000, 0x4000
UNDEFINED_ID = 0xFFFFFFFF
AclEntry = tuple[int, int, int]            # tag, permission bits, id
Acl = list[AclEntry]
_INDEX = {ACL_TYPE_ACCESS: EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, ACL_TYPE_DEFAULT: EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT}


# ---- formats -----------------------------------------------------------------------------------------------
def ext4_acl_from_disk(value: bytes) -> Acl | None:
    """Raises EFSCORRUPTED."""
    if len(value) < 4 or unpack_from("<I", value)[0] != 1:
        raise KernelError(EFSCORRUPTED)
    acl: Acl = []
    at = 4
    while at + 4 <= len(value):
        tag, perm = unpack_from("<HH", value, at)
        at += 4
        ident = UNDEFINED_ID
        if tag in (ACL_USER, ACL_GROUP):
            if at + 4 > len(value):
                raise KernelError(EFSCORRUPTED)
            ident = unpack_from("<I", value, at)[0]
            at += 4
        elif tag not in (ACL_USER_OBJ, ACL_GROUP_OBJ, ACL_MASK, ACL_OTHER):
            raise KernelError(EFSCORRUPTED)
        acl.append((tag, perm, ident))
    if at != len(value):
        raise KernelError(EFSCORRUPTED)
    return acl or None


def ext4_acl_to_disk(acl: Acl) -> bytes:
    return pack("<I", 1) + b"".join(
        pack("<HHI", *entry) if entry[0] in (ACL_USER, ACL_GROUP) else pack("<HH", entry[0], entry[1]) for entry in acl)


def posix_acl_from_xattr(value: bytes) -> Acl | None:
    """The format of system.posix_acl_*. Raises EINVAL, EOPNOTSUPP (another version)."""
    if len(value) < 4 or (len(value) - 4) % 8:
        raise KernelError(EINVAL)
    if unpack_from("<I", value)[0] != 2:
        raise KernelError(EOPNOTSUPP)
    acl: Acl = []
    for at in range(4, len(value), 8):
        tag, perm, ident = unpack_from("<HHI", value, at)
        if tag not in (ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER):
            raise KernelError(EINVAL)
        acl.append((tag, perm, ident if tag in (ACL_USER, ACL_GROUP) else UNDEFINED_ID))
    return acl or None


def posix_acl_to_xattr(acl: Acl) -> bytes:
    return pack("<I", 2) + b"".join(pack("<HHI", *entry) for entry in acl)


def posix_acl_valid(acl: Acl) -> None:
    """Order, completeness, a mask where named entries are. Raises EINVAL."""
    order = [ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER]
    tags = [tag for tag, _, _ in acl]
    if tags != sorted(tags, key=order.index) or any(perm & ~7 for _, perm, _ in acl):
        raise KernelError(EINVAL)
    for tag in (ACL_USER_OBJ, ACL_GROUP_OBJ, ACL_OTHER):
        if tags.count(tag) != 1:
            raise KernelError(EINVAL)
    if tags.count(ACL_MASK) > 1 or ((ACL_USER in tags or ACL_GROUP in tags) and ACL_MASK not in tags):
        raise KernelError(EINVAL)


def posix_acl_equiv_mode(acl: Acl, mode: int) -> tuple[int, bool]:
    """(mode with the ACL's bits, True if the ACL says more than a mode can)."""
    bits = 0
    more = False
    for tag, perm, _ in acl:
        if tag == ACL_USER_OBJ:
            bits |= perm << 6
        elif tag == ACL_GROUP_OBJ:
            bits |= perm << 3
        elif tag == ACL_OTHER:
            bits |= perm
        elif tag == ACL_MASK:
            bits = bits & ~0o070 | perm << 3
            more = True
        else:
            more = True
    return mode & ~0o777 | bits, more


# ---- get and set -------------------------------------------------------------------------------------------
@may_sleep
def ext4_get_acl(inode: Inode, type: int) -> Acl | None:
    """->get_acl(): the ACL, from the attribute. Raises EIO, EFSCORRUPTED."""
    try:
        acl = ext4_acl_from_disk(ext4_xattr_get(inode, _INDEX[type], b""))
    except KernelError as e:
        if e.errno != ENODATA:
            raise
        acl = None
    set_cached_acl(inode, type, acl)
    return acl


def get_cached_acl(inode: Inode, type: int) -> Any:
    """The ACL if it was read before, None: there is none; False: nobody knows."""
    ei = EXT4_I(inode)
    return ei.i_acl if type == ACL_TYPE_ACCESS else ei.i_default_acl


@may_sleep
def get_acl(inode: Inode, type: int) -> Acl | None:
    """The ACL, from the cache or from the file system. Raises EIO, EFSCORRUPTED."""
    if not test_opt(EXT4_SB(inode.i_sb), EXT4_MOUNT_POSIX_ACL) or inode.i_mode & S_IFMT == S_IFLNK:
        return None
    acl = get_cached_acl(inode, type)
    return ext4_get_acl(inode, type) if acl is False else acl


@notrace
def set_cached_acl(inode: Inode, type: int, acl: Acl | None) -> None:
    ei = EXT4_I(inode)
    if type == ACL_TYPE_ACCESS:
        ei.i_acl = acl
    else:
        ei.i_default_acl = acl


@may_sleep
def __ext4_set_acl(handle: Handle, inode: Inode, type: int, acl: Acl | None, xattr_flags: int) -> None:
    """Raises EACCES (a default ACL of a file), ENOSPC, EIO."""
    if type == ACL_TYPE_DEFAULT and inode.i_mode & S_IFMT != S_IFDIR:
        if acl is not None:
            raise KernelError(EACCES)
        return
    value = ext4_acl_to_disk(acl) if acl is not None else None
    try:
        ext4_xattr_set_handle(handle, inode, _INDEX[type], b"", value, xattr_flags)
    except KernelError as e:
        if value is not None or e.errno != ENODATA:
            raise
    set_cached_acl(inode, type, acl)


@may_sleep
def ext4_set_acl(inode: Inode, acl: Acl | None, type: int) -> None:
    """Sets an ACL; one that a mode can express becomes the mode. Raises ENOSPC, EIO, EACCES."""
    handle = ext4_journal_start(inode, EXT4_HT_XATTR, EXT4_DATA_TRANS_BLOCKS(inode.i_sb) + 6)
    try:
        mode = inode.i_mode
        if type == ACL_TYPE_ACCESS and acl is not None:
            mode, more = posix_acl_equiv_mode(acl, mode)
            if not more:
                acl = None
            if not in_group_p(inode.i_gid) and not capable_wrt_inode_uidgid(inode, CAP_FSETID):
                mode &= ~S_ISGID
        __ext4_set_acl(handle, inode, type, acl, 0)
        if mode != inode.i_mode:
            inode.i_mode = mode
            inode.i_ctime = current_time(inode)
            ext4_mark_inode_dirty(handle, inode)
    finally:
        ext4_journal_stop(handle)


@may_sleep
def posix_acl_xattr_get(inode: Inode, type: int) -> bytes:
    """Raises ENODATA, EOPNOTSUPP."""
    if not test_opt(EXT4_SB(inode.i_sb), EXT4_MOUNT_POSIX_ACL) or inode.i_mode & S_IFMT == S_IFLNK:
        raise KernelError(EOPNOTSUPP)
    acl = get_acl(inode, type)
    if acl is None:
        raise KernelError(ENODATA)
    return posix_acl_to_xattr(acl)


@may_sleep
def posix_acl_xattr_set(inode: Inode, type: int, value: bytes | None) -> None:
    """Raises EPERM, EINVAL, EOPNOTSUPP, EACCES, ENOSPC."""
    if not test_opt(EXT4_SB(inode.i_sb), EXT4_MOUNT_POSIX_ACL) or inode.i_mode & S_IFMT == S_IFLNK:
        raise KernelError(EOPNOTSUPP)
    if type == ACL_TYPE_DEFAULT and inode.i_mode & S_IFMT != S_IFDIR:
        if value is not None:
            raise KernelError(EACCES)
        return
    if not inode_owner_or_capable(inode):
        raise KernelError(EPERM)
    acl = posix_acl_from_xattr(value) if value else None
    if acl is not None:
        posix_acl_valid(acl)
    ext4_set_acl(inode, acl, type)


@may_sleep
def posix_acl_chmod(inode: Inode, mode: int) -> None:
    """The ACL follows a chmod(2)."""
    acl = get_acl(inode, ACL_TYPE_ACCESS)
    if acl is None:
        return
    has_mask = any(tag == ACL_MASK for tag, _, _ in acl)
    changed: Acl = []
    for tag, perm, ident in acl:
        if tag == ACL_USER_OBJ:
            perm = mode >> 6 & 7
        elif tag == ACL_MASK or (tag == ACL_GROUP_OBJ and not has_mask):
            perm = mode >> 3 & 7
        elif tag == ACL_OTHER:
            perm = mode & 7
        changed.append((tag, perm, ident))
    ext4_set_acl(inode, changed, ACL_TYPE_ACCESS)


@may_sleep
def ext4_init_acl(handle: Handle, inode: Inode, dir: Inode) -> None:
    """A new inode: the directory's default ACL, or the umask. Raises ENOSPC, EIO."""
    inode.i_mode, default, acl = posix_acl_create(dir, inode.i_mode)
    set_cached_acl(inode, ACL_TYPE_DEFAULT, None)
    set_cached_acl(inode, ACL_TYPE_ACCESS, None)
    if default is not None:
        __ext4_set_acl(handle, inode, ACL_TYPE_DEFAULT, default, 1)
    if acl is not None:
        __ext4_set_acl(handle, inode, ACL_TYPE_ACCESS, acl, 1)


def posix_acl_create_masq(acl: Acl, mode: int) -> tuple[Acl, int, bool]:
    """A default ACL and the mode of an open(2), each cut down by the other: (ACL, mode, the mode is not enough)."""
    has_mask = any(tag == ACL_MASK for tag, _, _ in acl)
    cut: Acl = []
    for tag, perm, ident in acl:
        if tag == ACL_USER_OBJ:
            perm &= mode >> 6 & 7
        elif tag == ACL_MASK or (tag == ACL_GROUP_OBJ and not has_mask):
            perm &= mode >> 3 & 7
        elif tag == ACL_OTHER:
            perm &= mode & 7
        cut.append((tag, perm, ident))
    mode, more = posix_acl_equiv_mode(cut, mode)
    return cut, mode, more


@may_sleep
def posix_acl_create(dir: Inode, mode: int) -> tuple[int, Acl | None, Acl | None]:
    """(mode, default ACL, ACL) of something new in a directory. Raises EIO, EFSCORRUPTED."""
    if mode & S_IFMT == S_IFLNK or not test_opt(EXT4_SB(dir.i_sb), EXT4_MOUNT_POSIX_ACL):
        return mode, None, None                      # the caller has applied the umask
    default = get_acl(dir, ACL_TYPE_DEFAULT)
    if default is None:
        return mode & ~current_umask(), None, None
    acl, mode, more = posix_acl_create_masq(default, mode)
    return mode, default if mode & S_IFMT == S_IFDIR else None, acl if more else None


# ---- permission --------------------------------------------------------------------------------------------
def posix_acl_permission(inode: Inode, acl: Acl, want: int) -> bool:
    """May the caller do MAY_READ|WRITE|EXEC bits `want`?"""
    cred = current().cred
    mask = next((perm for tag, perm, _ in acl if tag == ACL_MASK), 7)
    found = False
    for tag, perm, ident in acl:
        if tag == ACL_USER_OBJ:
            if inode.i_uid == cred.fsuid:
                return not want & ~perm
        elif tag == ACL_USER:
            if ident == cred.fsuid:
                return not want & ~(perm & mask)
        elif tag in (ACL_GROUP_OBJ, ACL_GROUP):
            if in_group_p(inode.i_gid if tag == ACL_GROUP_OBJ else ident):
                found = True
                if not want & ~perm:
                    return not want & ~(perm & mask)
        elif tag == ACL_OTHER:
            return not found and not want & ~perm
    return False


@notrace
def ext4_permission(inode: Inode, mask: int) -> None:
    """->permission(): generic_permission() where an ACL has more to say than the mode. Raises EACCES."""
    if not inode.i_mode & 0o070 or current().cred.fsuid == inode.i_uid:
        generic_permission(inode, mask)
        return
    acl = get_acl(inode, ACL_TYPE_ACCESS)
    if acl is None:
        generic_permission(inode, mask)
        return
    if posix_acl_permission(inode, acl, mask & 7):
        return
    if inode.i_mode & S_IFMT == S_IFDIR:
        if not mask & MAY_WRITE and capable_wrt_inode_uidgid(inode, CAP_DAC_READ_SEARCH):
            return
        if capable_wrt_inode_uidgid(inode, CAP_DAC_OVERRIDE):
            return
        raise KernelError(EACCES)
    if mask & 7 == MAY_READ and capable_wrt_inode_uidgid(inode, CAP_DAC_READ_SEARCH):
        return
    if (not mask & MAY_EXEC or inode.i_mode & 0o111) and capable_wrt_inode_uidgid(inode, CAP_DAC_OVERRIDE):
        return
    raise KernelError(EACCES)
