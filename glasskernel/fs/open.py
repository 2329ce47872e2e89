"""open(2), close(2), truncate(2), access(2), chdir(2), chmod(2), chown(2).

Linux: fs/open.c (5.3). What opens a dentry is dentry_open.py. Same: unknown O_* flags are ignored by open and
openat and EINVAL in openat2, access(2) checks the real ids, chown drops set-id bits.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.fs.attr import notify_change
from glasskernel.fs.dentry_open import (
    allow_write_access,
    dentry_open,
    deny_write_access,
    do_truncate,
    generic_file_open,
    get_write_access,
    nonseekable_open,
    stream_open,
)
from glasskernel.fs.file import (
    __close_fd,
    close_fd,
    fd_install,
    fdget,
    fdget_raw,
    filp_close,
    get_unused_fd_flags,
    put_unused_fd,
)
from glasskernel.fs.file_table import fput, get_file, put_write_access
from glasskernel.fs.fs_struct import set_fs_pwd, set_fs_root
from glasskernel.fs.fsnotify import IN_MODIFY, fsnotify_dentry, fsnotify_open
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.mnt_writers import (
    __mnt_is_readonly,
    mnt_drop_write,
    mnt_drop_write_file,
    mnt_want_write,
    mnt_want_write_file,
)
from glasskernel.fs.mount import path_put
from glasskernel.fs.namei_open import OpenFlags, do_filp_open
from glasskernel.fs.path_walk import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    LOOKUP_BENEATH,
    LOOKUP_CACHED,
    LOOKUP_CREATE,
    LOOKUP_DIRECTORY,
    LOOKUP_EMPTY,
    LOOKUP_EXCL,
    LOOKUP_FOLLOW,
    LOOKUP_IN_ROOT,
    LOOKUP_NO_MAGICLINKS,
    LOOKUP_NO_SYMLINKS,
    LOOKUP_NO_XDEV,
    LOOKUP_OPEN,
    filename_lookup,
    getname,
    user_path_at,
)
from glasskernel.fs.permission import inode_permission
from glasskernel.fs.types import (
    ATTR_CTIME,
    ATTR_GID,
    ATTR_KILL_SGID,
    ATTR_KILL_SUID,
    ATTR_MODE,
    ATTR_MTIME,
    ATTR_UID,
    FASYNC,
    FMODE_WRITE,
    MAY_ACCESS,
    MAY_APPEND,
    MAY_CHDIR,
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    MNT_NOEXEC,
    O_ACCMODE,
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECT,
    O_DIRECTORY,
    O_DSYNC,
    O_EXCL,
    O_LARGEFILE,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_SYNC,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    S_APPEND,
    S_IALLUGO,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_IMMUTABLE,
    S_SWAPFILE,
    Iattr,
)
from glasskernel.kernel.capability import CAP_SYS_CHROOT, capable
from glasskernel.kernel.cred import prepare_creds
from glasskernel.kernel.current import current, register
from glasskernel.lib.errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBADF,
    EFBIG,
    EINTR,
    EINVAL,
    EISDIR,
    ENODEV,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESPIPE,
    ETXTBSY,
    KernelError,
    Restart,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, long, may_sleep, notrace, s64, size_t, to_s32, u16, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Path

__all__ = ["allow_write_access", "build_open_flags", "chdir_kernel", "chroot_kernel", "close_fd", "dentry_open",
           "deny_write_access", "do_sys_open", "do_truncate", "filp_close", "filp_open", "fput",
           "generic_file_open", "get_file", "get_write_access", "nonseekable_open", "put_write_access",
           "stream_open", "vfs_truncate"]

O_SYNC_BIT, O_TMPFILE_BIT, FMODE_EXEC_FLAG = 0o4000000, 0o20000000, 0x20
VALID_OPEN_FLAGS = (
    O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | FASYNC | O_DIRECT
    | O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE)
O_PATH_FLAGS = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC
RESOLVE = {0x01: LOOKUP_NO_XDEV, 0x02: LOOKUP_NO_MAGICLINKS, 0x04: LOOKUP_NO_SYMLINKS | LOOKUP_NO_MAGICLINKS,
           0x08: LOOKUP_BENEATH, 0x10: LOOKUP_IN_ROOT, 0x20: LOOKUP_CACHED}
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE = 0x01, 0x02, 0x08
FALLOC_FL_ZERO_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE = 0x10, 0x20, 0x40
_ACC_MODE = (MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE, MAY_READ | MAY_WRITE)


# ---- open --------------------------------------------------------------------------------------------------
@notrace
def build_open_flags(flags: int, mode: int) -> OpenFlags:
    """What O_* flags mean for the walk. Raises EINVAL."""
    flags &= VALID_OPEN_FLAGS
    mode = mode & S_IALLUGO | S_IFREG if flags & (O_CREAT | O_TMPFILE_BIT) else 0
    if flags & O_SYNC_BIT:
        flags |= O_DSYNC
    acc_mode = _ACC_MODE[flags & O_ACCMODE]
    if flags & O_TMPFILE_BIT:
        if flags & (O_TMPFILE | O_CREAT) != O_TMPFILE:
            raise KernelError(EINVAL)
        if not acc_mode & MAY_WRITE:
            raise KernelError(EINVAL)
    elif flags & O_PATH:
        flags &= O_PATH_FLAGS
        acc_mode = 0
    op = OpenFlags(flags, mode)
    if flags & O_TRUNC:
        acc_mode |= MAY_WRITE
    if flags & O_APPEND:
        acc_mode |= MAY_APPEND
    op.acc_mode = acc_mode
    op.intent = 0 if flags & O_PATH else LOOKUP_OPEN
    if flags & O_CREAT:
        op.intent |= LOOKUP_CREATE
        if flags & O_EXCL:
            op.intent |= LOOKUP_EXCL
            flags |= O_NOFOLLOW
    lookup_flags = 0
    if flags & O_DIRECTORY:
        lookup_flags = LOOKUP_DIRECTORY
    if not flags & O_NOFOLLOW:
        lookup_flags |= LOOKUP_FOLLOW
    op.lookup_flags = lookup_flags
    return op


@may_sleep
def do_sys_open(dfd: int, filename: UserPtr, flags: int, mode: int) -> int:
    """openat(2)."""
    op = build_open_flags(flags, mode)
    return open_and_install(dfd, filename, op, flags)


@may_sleep
@notrace
def open_and_install(dfd: int, filename: UserPtr, op: OpenFlags, flags: int) -> int:
    """The half of an open that knows descriptors."""
    name = getname(filename)
    fd = get_unused_fd_flags(flags)
    try:
        file = do_filp_open(dfd, name, op)
    except BaseException:
        put_unused_fd(fd)
        raise
    if register.task.kernel.vfs.nr_marks:
        fsnotify_open(file)
    fd_install(fd, file)
    return fd


@syscall
def sys_open(filename: UserPtr, flags: int, mode: u16) -> int:
    """open(2). Errors: ENOENT, EEXIST, EISDIR, ENOTDIR, EACCES, ELOOP, EMFILE, ENFILE, ENXIO, EROFS, ETXTBSY ..."""
    return do_sys_open(AT_FDCWD, filename, flags | O_LARGEFILE, mode)


@syscall
def sys_openat(dfd: int, filename: UserPtr, flags: int, mode: u16) -> int:
    """openat(2)."""
    return do_sys_open(dfd, filename, flags | O_LARGEFILE, mode)


@syscall
def sys_creat(pathname: UserPtr, mode: u16) -> int:
    """creat(2)."""
    return do_sys_open(AT_FDCWD, pathname, O_CREAT | O_WRONLY | O_TRUNC | O_LARGEFILE, mode)


@syscall
def sys_openat2(dfd: int, filename: UserPtr, how: UserPtr, usize: size_t) -> int:
    """openat2(2), newer than 5.3. Errors: EINVAL, E2BIG, EXDEV, ELOOP, EAGAIN and those of openat(2)."""
    if usize < 24:
        raise KernelError(EINVAL)
    if usize > 4096:
        raise KernelError(E2BIG)
    data = copy_from_user(how, usize)
    if any(data[24:]):
        raise KernelError(E2BIG)
    flags, mode, resolve = struct.unpack_from("<QQQ", data)
    if flags & ~VALID_OPEN_FLAGS or resolve & ~0x3F or resolve & 0x18 == 0x18:
        raise KernelError(EINVAL)
    if flags & (O_CREAT | O_TMPFILE_BIT):
        if mode & ~S_IALLUGO:
            raise KernelError(EINVAL)
    elif mode:
        raise KernelError(EINVAL)
    if flags & O_PATH and flags & ~O_PATH_FLAGS:
        raise KernelError(EINVAL)
    if resolve & 0x20 and flags & (O_TRUNC | O_CREAT | O_TMPFILE_BIT):
        raise KernelError(EAGAIN)
    op = build_open_flags(flags | O_LARGEFILE if not flags & O_PATH else flags, mode)
    for bit, lookup in RESOLVE.items():
        if resolve & bit:
            op.lookup_flags |= lookup
    return open_and_install(dfd, filename, op, flags)


@may_sleep
def filp_open(filename: bytes, flags: int, mode: int) -> File:
    """open(2) with a name of the kernel's; the reference is the caller's."""
    return do_filp_open(AT_FDCWD, filename, build_open_flags(flags, mode))


@syscall
def sys_close(fd: u32) -> int:
    """close(2). Errors: EBADF, and what ->flush() says (never restarted: the descriptor is gone)."""
    try:
        __close_fd(register.task.files, fd)
    except Restart:
        raise KernelError(EINTR) from None
    return 0


# ---- truncate ----------------------------------------------------------------------------------------------
@may_sleep
def vfs_truncate(path: Path, length: int) -> None:
    """truncate(2) of a path. Raises EISDIR, EINVAL (no regular file), EACCES, EROFS, EPERM, ETXTBSY."""
    inode = path.dentry.d_inode
    assert inode is not None
    if inode.i_mode & S_IFMT == S_IFDIR:
        raise KernelError(EISDIR)
    if inode.i_mode & S_IFMT != S_IFREG:
        raise KernelError(EINVAL)
    mnt_want_write(path.mnt)
    try:
        inode_permission(inode, MAY_WRITE)
        if inode.i_flags & S_APPEND:
            raise KernelError(EPERM)
        get_write_access(inode)
        try:
            do_truncate(path.dentry, length, 0, None)
        finally:
            put_write_access(inode)
    finally:
        mnt_drop_write(path.mnt)


@syscall
def sys_truncate(path: UserPtr, length: long) -> int:
    """truncate(2). Errors: EINVAL (negative, no regular file), EISDIR, EACCES, EROFS, EFBIG, ENOENT, ETXTBSY."""
    if length < 0:
        raise KernelError(EINVAL)
    where = user_path_at(AT_FDCWD, path, LOOKUP_FOLLOW)
    try:
        vfs_truncate(where, length)
    finally:
        path_put(where)
    return 0


@may_sleep
def do_sys_ftruncate(fd: int, length: int) -> int:
    """ftruncate(2)."""
    if length < 0:
        raise KernelError(EINVAL)
    file = fdget(fd)
    dentry = file.f_path.dentry
    inode = file.f_inode
    if inode.i_mode & S_IFMT != S_IFREG or not file.f_mode & FMODE_WRITE:
        raise KernelError(EINVAL)
    if inode.i_flags & S_APPEND:
        raise KernelError(EPERM)
    do_truncate(dentry, length, ATTR_MTIME | ATTR_CTIME, file)
    return 0


@syscall
def sys_ftruncate(fd: u32, length: s64) -> int:
    """ftruncate(2). Errors: EBADF, EINVAL, EPERM, EFBIG."""
    return do_sys_ftruncate(fd, length)


@may_sleep
def vfs_fallocate(file: File, mode: int, offset: int, length: int) -> None:
    """fallocate(2) of an open file. Raises EINVAL, EOPNOTSUPP, EBADF, ESPIPE, EISDIR, ENODEV, EFBIG, ENOSPC."""
    if offset < 0 or length <= 0:
        raise KernelError(EINVAL)
    if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE
                | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE):
        raise KernelError(EOPNOTSUPP)
    if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) == FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE:
        raise KernelError(EOPNOTSUPP)
    if mode & FALLOC_FL_PUNCH_HOLE and not mode & FALLOC_FL_KEEP_SIZE:
        raise KernelError(EOPNOTSUPP)
    if mode & FALLOC_FL_COLLAPSE_RANGE and mode & ~FALLOC_FL_COLLAPSE_RANGE:
        raise KernelError(EINVAL)
    if mode & FALLOC_FL_INSERT_RANGE and mode & ~FALLOC_FL_INSERT_RANGE:
        raise KernelError(EINVAL)
    if not file.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    inode = file.f_inode
    if mode & ~FALLOC_FL_KEEP_SIZE and inode.i_flags & S_APPEND:
        raise KernelError(EPERM)
    if inode.i_flags & S_IMMUTABLE:
        raise KernelError(EPERM)
    if inode.i_flags & S_SWAPFILE:
        raise KernelError(ETXTBSY)
    kind = inode.i_mode & S_IFMT
    if kind == S_IFIFO:
        raise KernelError(ESPIPE)
    if kind == S_IFDIR:
        raise KernelError(EISDIR)
    if kind != S_IFREG and kind != S_IFBLK:
        raise KernelError(ENODEV)
    if file.f_security is not None:
        inode.i_sb.kernel.lsm.security_file_permission(file, MAY_WRITE)
    if offset + length > inode.i_sb.s_maxbytes:
        raise KernelError(EFBIG)
    file.f_op.fallocate(file, mode, offset, length)
    if inode.i_sb.kernel.vfs.nr_marks:
        fsnotify_dentry(file.f_path.dentry, IN_MODIFY)


@syscall
def sys_fallocate(fd: int, mode: int, offset: s64, len: s64) -> int:
    """fallocate(2)."""
    vfs_fallocate(fdget(fd), mode, offset, len)
    return 0


# ---- access ------------------------------------------------------------------------------------------------
@may_sleep
def do_faccessat(dfd: int, filename: UserPtr, mode: int, flags: int) -> int:
    """faccessat2(2). Errors: EINVAL, EACCES, EROFS, ENOENT ..."""
    if mode & ~7 or flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise KernelError(EINVAL)
    lookup_flags = 0 if flags & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW
    if flags & AT_EMPTY_PATH:
        lookup_flags |= LOOKUP_EMPTY
    task = register.task
    old = task.cred
    if not flags & AT_EACCESS and (old.uid != old.fsuid or old.gid != old.fsgid
                                   or (old.uid and old.cap_effective)
                                   or (not old.uid and old.cap_effective != old.cap_permitted)):
        # override_creds(): the real ids, and the capabilities they would have
        cred = prepare_creds()
        cred.fsuid = cred.uid
        cred.fsgid = cred.gid
        cred.cap_effective = 0 if cred.uid else cred.cap_permitted
        task.cred = cred
    try:
        path = user_path_at(dfd, filename, lookup_flags)
        try:
            inode = path.dentry.d_inode
            assert inode is not None
            if mode & MAY_EXEC and inode.i_mode & S_IFMT == S_IFREG and path_noexec(path):
                raise KernelError(EACCES)
            inode_permission(inode, mode | MAY_ACCESS)
            if mode & MAY_WRITE and inode.i_mode & S_IFMT not in (S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK) \
                    and __mnt_is_readonly(path.mnt):
                raise KernelError(EROFS)
        finally:
            path_put(path)
    finally:
        task.cred = old
    return 0


@notrace
def path_noexec(path: Path) -> bool:
    """True if nothing may be executed through this mount."""
    return bool(path.mnt.mnt_flags & MNT_NOEXEC)


@syscall
def sys_faccessat(dfd: int, filename: UserPtr, mode: int) -> int:
    """faccessat(2)."""
    return do_faccessat(dfd, filename, mode, 0)


@syscall
def sys_faccessat2(dfd: int, filename: UserPtr, mode: int, flags: int) -> int:
    """faccessat2(2), newer than 5.3."""
    return do_faccessat(dfd, filename, mode, flags)


@syscall
def sys_access(filename: UserPtr, mode: int) -> int:
    """access(2)."""
    return do_faccessat(AT_FDCWD, filename, mode, 0)


# ---- directories of the task -------------------------------------------------------------------------------
@notrace
def _chdir(path: Path) -> None:
    try:
        assert path.dentry.d_inode is not None
        inode_permission(path.dentry.d_inode, MAY_EXEC | MAY_CHDIR)
        set_fs_pwd(current().fs, path)
    finally:
        path_put(path)


@syscall
def sys_chdir(filename: UserPtr) -> int:
    """chdir(2)."""
    _chdir(user_path_at(AT_FDCWD, filename, LOOKUP_FOLLOW | LOOKUP_DIRECTORY))
    return 0


@notrace
@may_sleep
def chdir_kernel(path: bytes) -> None:
    """chdir(2) with a name of the kernel's."""
    _chdir(filename_lookup(AT_FDCWD, path, LOOKUP_FOLLOW | LOOKUP_DIRECTORY))


@syscall
def sys_fchdir(fd: u32) -> int:
    """fchdir(2). Errors: EBADF, ENOTDIR, EACCES."""
    file = fdget_raw(fd)
    path = file.f_path
    inode = path.dentry.d_inode
    assert inode is not None
    if inode.i_mode & S_IFMT != S_IFDIR:
        raise KernelError(ENOTDIR)
    inode_permission(inode, MAY_EXEC | MAY_CHDIR)
    set_fs_pwd(current().fs, path)
    return 0


@notrace
def _chroot(path: Path) -> None:
    try:
        assert path.dentry.d_inode is not None
        inode_permission(path.dentry.d_inode, MAY_EXEC | MAY_CHDIR)
        if not capable(CAP_SYS_CHROOT):
            raise KernelError(EPERM)
        set_fs_root(current().fs, path)
    finally:
        path_put(path)


@syscall
def sys_chroot(filename: UserPtr) -> int:
    """chroot(2). Errors: EPERM, ENOTDIR, ENOENT, EACCES."""
    _chroot(user_path_at(AT_FDCWD, filename, LOOKUP_FOLLOW | LOOKUP_DIRECTORY))
    return 0


@notrace
@may_sleep
def chroot_kernel(path: bytes) -> None:
    """chroot(2) with a name of the kernel's."""
    _chroot(filename_lookup(AT_FDCWD, path, LOOKUP_FOLLOW | LOOKUP_DIRECTORY))


# ---- mode and owner ----------------------------------------------------------------------------------------
@may_sleep
def chmod_common(path: Path, mode: int) -> None:
    """chmod(2) of a path. Raises EPERM, EROFS."""
    inode = path.dentry.d_inode
    assert inode is not None
    mnt_want_write(path.mnt)
    try:
        inode_lock(inode)
        try:
            notify_change(path.dentry, Iattr(
                ATTR_MODE | ATTR_CTIME, mode & S_IALLUGO | inode.i_mode & ~S_IALLUGO))
        finally:
            inode_unlock(inode)
    finally:
        mnt_drop_write(path.mnt)


@syscall
def sys_fchmod(fd: u32, mode: u16) -> int:
    """fchmod(2)."""
    chmod_common(fdget(fd).f_path, mode)
    return 0


@may_sleep
def do_fchmodat(dfd: int, filename: UserPtr, mode: int, lookup_flags: int) -> int:
    """fchmodat(2)."""
    path = user_path_at(dfd, filename, lookup_flags)
    try:
        chmod_common(path, mode)
    finally:
        path_put(path)
    return 0


@syscall
def sys_fchmodat(dfd: int, filename: UserPtr, mode: u16) -> int:
    """fchmodat(2), the call without flags."""
    return do_fchmodat(dfd, filename, mode, LOOKUP_FOLLOW)


@syscall
def sys_fchmodat2(dfd: int, filename: UserPtr, mode: u16, flags: u32) -> int:
    """fchmodat2(2), newer than 5.3. Errors: EOPNOTSUPP for a symlink."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise KernelError(EINVAL)
    lookup = (0 if flags & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW) | (LOOKUP_EMPTY if flags & AT_EMPTY_PATH else 0)
    path = user_path_at(dfd, filename, lookup)
    try:
        inode = path.dentry.d_inode
        assert inode is not None
        if inode.i_mode & S_IFMT == 0o120000:
            raise KernelError(EOPNOTSUPP)
        chmod_common(path, mode)
    finally:
        path_put(path)
    return 0


@syscall
def sys_chmod(filename: UserPtr, mode: u16) -> int:
    """chmod(2)."""
    return do_fchmodat(AT_FDCWD, filename, mode, LOOKUP_FOLLOW)


@may_sleep
def chown_common(path: Path, user: int, group: int) -> None:
    """chown(2) of a path; -1 leaves an id. Raises EPERM, EROFS. Locks: none; the mount's writer is the caller's."""
    inode = path.dentry.d_inode
    assert inode is not None
    valid = ATTR_CTIME
    attr = Iattr(0)
    if user != -1:
        valid |= ATTR_UID
        attr.ia_uid = user & 0xFFFFFFFF
    if group != -1:
        valid |= ATTR_GID
        attr.ia_gid = group & 0xFFFFFFFF
    if inode.i_mode & S_IFMT != S_IFDIR:
        valid |= ATTR_KILL_SUID | ATTR_KILL_SGID
    attr.ia_valid = valid
    inode_lock(inode)
    try:
        notify_change(path.dentry, attr)
    finally:
        inode_unlock(inode)


@may_sleep
def do_fchownat(dfd: int, filename: UserPtr, user: int, group: int, flag: int) -> int:
    """fchownat(2). Errors: EINVAL, EPERM, EROFS, ENOENT ..."""
    if flag & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise KernelError(EINVAL)
    lookup_flags = 0 if flag & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW
    if flag & AT_EMPTY_PATH:
        lookup_flags |= LOOKUP_EMPTY
    path = user_path_at(dfd, filename, lookup_flags)
    try:
        mnt_want_write(path.mnt)
        try:
            chown_common(path, user, group)
        finally:
            mnt_drop_write(path.mnt)
    finally:
        path_put(path)
    return 0


@syscall
def sys_fchownat(dfd: int, filename: UserPtr, user: u32, group: u32, flag: int) -> int:
    """fchownat(2)."""
    return do_fchownat(dfd, filename, to_s32(user), to_s32(group), flag)


@syscall
def sys_chown(filename: UserPtr, user: u32, group: u32) -> int:
    """chown(2)."""
    return do_fchownat(AT_FDCWD, filename, to_s32(user), to_s32(group), 0)


@syscall
def sys_lchown(filename: UserPtr, user: u32, group: u32) -> int:
    """lchown(2)."""
    return do_fchownat(AT_FDCWD, filename, to_s32(user), to_s32(group), AT_SYMLINK_NOFOLLOW)


@syscall
def sys_fchown(fd: u32, user: u32, group: u32) -> int:
    """fchown(2)."""
    file = fdget(fd)
    mnt_want_write_file(file)
    try:
        chown_common(file.f_path, to_s32(user), to_s32(group))
    finally:
        mnt_drop_write_file(file)
    return 0


@syscall
def sys_umask(mask: int) -> int:
    """umask(2): sets the mask, answers the old one."""
    fs = current().fs
    old = fs.umask
    fs.umask = mask & 0o777
    return old
