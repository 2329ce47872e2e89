"""open(2)'s half of the path walk: the last component may be made, must be checked, and is opened.

Linux: fs/namei.c, from may_open() to do_filp_open() (5.3). Same: order of checks and errors, O_CREAT through a
dangling symlink, O_PATH, O_TMPFILE, O_CREAT|O_DIRECTORY makes a regular file (as 5.3 does).
Gaps: ->atomic_open(), protected_fifos and protected_regular.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_alloc, d_alloc_parallel, d_invalidate, dput
from glasskernel.fs.dentry_open import finish_open, fput_unopened, handle_truncate, vfs_open
from glasskernel.fs.file_table import alloc_empty_file
from glasskernel.fs.fsnotify import IN_CREATE, fsnotify_dirent
from glasskernel.fs.inode import inode_lock, inode_owner_or_capable, inode_unlock
from glasskernel.fs.mnt_writers import mnt_drop_write, mnt_want_write
from glasskernel.fs.mount import path_put
from glasskernel.fs.path_walk import (
    LAST_NORM,
    LOOKUP_CREATE,
    LOOKUP_DIRECTORY,
    LOOKUP_EXCL,
    LOOKUP_FOLLOW,
    LOOKUP_OPEN,
    LOOKUP_PARENT,
    NAME_MAX,
    Nameidata,
    complete_walk,
    hold,
    hold_place,
    link_path_walk,
    lookup_fast,
    lookup_real,
    path_init,
    path_lookupat,
    step_into,
    terminate_walk,
    trailing_symlink,
    walk_component,
)
from glasskernel.fs.permission import inode_permission, may_o_create
from glasskernel.fs.types import (
    FMODE_CREATED,
    I_LINKABLE,
    MAY_EXEC,
    MAY_OPEN,
    MAY_WRITE,
    MNT_NODEV,
    O_ACCMODE,
    O_APPEND,
    O_CREAT,
    O_EXCL,
    O_NOATIME,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    S_APPEND,
    S_DEAD,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    SB_POSIXACL,
    Path,
)
from glasskernel.kernel.current import register
from glasskernel.lib.errno import (
    EACCES,
    EEXIST,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    KernelError,
)
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Mount

O_TMPFILE_BIT = 0o20000000               # __O_TMPFILE
_WANTS_WRITE = O_CREAT | O_TRUNC | O_WRONLY | O_RDWR


@slotted
class OpenFlags:
    """struct open_flags: what open(2) was asked for. build_open_flags() makes it."""

    open_flag: int
    mode: int = 0                      # with S_IFREG when something may be made
    acc_mode: int = 0                  # MAY_*
    intent: int = LOOKUP_OPEN
    lookup_flags: int = LOOKUP_FOLLOW


def may_open_dev(path: Path) -> bool:
    """True unless the mount is nodev."""
    return not path.mnt.mnt_flags & MNT_NODEV


def may_open(path: Path, acc_mode: int, flag: int) -> None:
    """May the caller open this? Raises ELOOP (symlink), EISDIR, EACCES, EPERM."""
    inode = path.dentry.d_inode
    if inode is None:
        raise KernelError(ENOENT)
    kind = inode.i_mode & S_IFMT
    if kind == S_IFREG:
        pass
    elif kind == S_IFLNK:
        raise KernelError(ELOOP)
    elif kind == S_IFDIR:
        if acc_mode & MAY_WRITE:
            raise KernelError(EISDIR)
    elif kind in (S_IFBLK, S_IFCHR):
        if not may_open_dev(path):
            raise KernelError(EACCES)
        flag &= ~O_TRUNC
    elif kind in (S_IFIFO, S_IFSOCK):
        flag &= ~O_TRUNC
    inode_permission(inode, MAY_OPEN | acc_mode)
    if inode.i_flags & S_APPEND:
        if flag & O_ACCMODE != O_RDONLY and not flag & O_APPEND:
            raise KernelError(EPERM)
        if flag & O_TRUNC:
            raise KernelError(EPERM)
    if flag & O_NOATIME and not inode_owner_or_capable(inode):
        raise KernelError(EPERM)


@may_sleep
def lookup_open(nd: Nameidata, file: File, op: OpenFlags, got_write: bool) -> Dentry:
    """The last component, made if need be. Answers a dentry with a reference. Locks: the directory's i_rwsem."""
    dir = nd.dentry
    dir_inode = nd.inode
    if dir_inode.i_flags & S_DEAD:
        raise KernelError(ENOENT)
    open_flag = op.open_flag
    name = nd.last
    if len(name) > NAME_MAX:
        raise KernelError(ENAMETOOLONG)
    file.f_mode &= ~FMODE_CREATED
    while True:
        dentry = d_alloc_parallel(dir, name)
        if not dentry.d_hashed:
            dentry = lookup_real(dir_inode, dentry)
            break
        d_revalidate = dentry.d_op.d_revalidate
        if d_revalidate is None or d_revalidate(dentry):
            break
        d_invalidate(dentry)
        dput(dentry)
    if dentry.d_inode is not None or not open_flag & O_CREAT:
        return dentry
    try:
        if not got_write:
            raise KernelError(EROFS)
        mode = op.mode
        if not dir_inode.i_sb.s_flags & SB_POSIXACL:
            mode &= ~register.task.fs.umask
        may_o_create(dir_inode, dentry)
        dir_inode.i_op.create(dir_inode, dentry, mode)
        file.f_mode |= FMODE_CREATED
        fsnotify_dirent(dir_inode, IN_CREATE, dentry, False)
    except BaseException:
        dput(dentry)
        raise
    return dentry


@may_sleep
def do_last(nd: Nameidata, file: File, op: OpenFlags) -> Dentry | None:
    """The last component of an open. Answers a symlink to follow, or None when `file` is open."""
    open_flag = op.open_flag
    will_truncate = bool(open_flag & O_TRUNC)
    acc_mode = op.acc_mode
    nd.flags = nd.flags & ~LOOKUP_PARENT | op.intent
    created = False
    dentry: Dentry | None
    if nd.last_type != LAST_NORM:
        walk_component(nd, 0)                             # handle_dots()
    else:
        dentry = None
        if not open_flag & O_CREAT:
            if nd.last_slash:
                nd.flags |= LOOKUP_FOLLOW | LOOKUP_DIRECTORY
            dentry = lookup_fast(nd)
            if dentry is not None and dentry.d_inode is None:
                raise KernelError(ENOENT)
        elif nd.last_slash:
            raise KernelError(EISDIR)
        if dentry is None:
            hold_place(nd)
            got_write = False
            if open_flag & _WANTS_WRITE:
                try:
                    mnt_want_write(nd.mnt)
                    got_write = True
                except KernelError:
                    pass                                  # lookup_open() decides whether that matters
            dir = nd.inode
            try:
                inode_lock(dir)
                try:
                    dentry = lookup_open(nd, file, op, got_write)
                finally:
                    inode_unlock(dir)
            finally:
                if got_write:
                    mnt_drop_write(nd.mnt)
            hold(nd, dentry)
            created = bool(file.f_mode & FMODE_CREATED)
            if dentry.d_inode is None:
                raise KernelError(ENOENT)
            if not created and open_flag & (O_EXCL | O_CREAT) == O_EXCL | O_CREAT:
                raise KernelError(EEXIST)
        inode = dentry.d_inode
        assert inode is not None
        if created:
            # no check for write permission, nothing to truncate
            open_flag &= ~O_TRUNC
            will_truncate = False
            acc_mode = 0
            nd.dentry = dentry
            nd.inode = inode
        else:
            link = step_into(nd, dentry, inode, 0)
            if link is not None:
                return link
    inode = nd.inode
    if not created:
        if open_flag & O_CREAT and inode.i_mode & S_IFMT == S_IFDIR:
            raise KernelError(EISDIR)
        if nd.flags & LOOKUP_DIRECTORY and inode.i_mode & S_IFMT != S_IFDIR:
            raise KernelError(ENOTDIR)
        if inode.i_mode & S_IFMT != S_IFREG:
            will_truncate = False
    complete_walk(nd)
    nd.referenced = True                                  # terminate_walk() drops them
    path = Path(nd.mnt, nd.dentry)
    if will_truncate:
        mnt_want_write(nd.mnt)
    try:
        may_open(path, acc_mode, open_flag)
        vfs_open(path, file)
        if will_truncate:
            handle_truncate(file)
    finally:
        if will_truncate:
            mnt_drop_write(path.mnt)
    return None


@may_sleep
def vfs_tmpfile(dentry: Dentry, mode: int, open_flag: int) -> Dentry:
    """An unnamed file in the directory `dentry`. Answers its dentry with a reference. Raises EOPNOTSUPP, EACCES."""
    dir = dentry.d_inode
    assert dir is not None
    inode_permission(dir, MAY_WRITE | MAY_EXEC)
    tmpfile = dir.i_op.tmpfile
    if tmpfile is None:
        raise KernelError(EOPNOTSUPP)
    child = d_alloc(dentry, b"/")
    try:
        tmpfile(dir, child, mode)
        inode = child.d_inode
        if inode is None:
            raise KernelError(ENOENT)
    except BaseException:
        dput(child)
        raise
    if not open_flag & O_EXCL:
        inode.i_state |= I_LINKABLE
    return child


@may_sleep
def do_tmpfile(nd: Nameidata, dfd: int, name: bytes, flags: int, op: OpenFlags, file: File) -> None:
    """open(O_TMPFILE)."""
    path = path_lookupat(nd, dfd, name, flags | LOOKUP_DIRECTORY, None)
    try:
        mnt_want_write(path.mnt)
        try:
            mode = op.mode & ~register.task.fs.umask
            child = vfs_tmpfile(path.dentry, mode, op.open_flag)
            try:
                may_open(Path(path.mnt, child), 0, op.open_flag)     # no permission check: it is ours
                file.f_path = Path(path.mnt, child)
                finish_open(file, child, None)
            finally:
                dput(child)
        finally:
            mnt_drop_write(path.mnt)
    finally:
        path_put(path)


@may_sleep
def do_o_path(nd: Nameidata, dfd: int, name: bytes, flags: int, file: File) -> None:
    """open(O_PATH): only the place, no permission checks on it."""
    path = path_lookupat(nd, dfd, name, flags, None)
    try:
        vfs_open(path, file)
    finally:
        path_put(path)


@may_sleep
def path_openat(dfd: int, name: bytes, op: OpenFlags, flags: int, root: Path | None) -> File:
    """The walk of an open. Answers the open file."""
    nd = Nameidata()
    file = alloc_empty_file(op.open_flag, register.task.cred)
    try:
        if op.open_flag & O_TMPFILE_BIT:
            do_tmpfile(nd, dfd, name, flags, op, file)
        elif op.open_flag & O_PATH:
            do_o_path(nd, dfd, name, flags, file)
        else:
            path_init(nd, dfd, name, flags, root)
            try:
                text = name
                while True:
                    link_path_walk(text, nd)
                    link = do_last(nd, file, op)
                    if link is None:
                        break
                    nd.flags = nd.flags & ~(LOOKUP_OPEN | LOOKUP_CREATE | LOOKUP_EXCL) | LOOKUP_PARENT
                    text = trailing_symlink(nd, link)
            finally:
                terminate_walk(nd)
    except BaseException:
        fput_unopened(file)
        raise
    return file


@may_sleep
def do_filp_open(dfd: int, pathname: bytes, op: OpenFlags) -> File:
    """Opens a path. Raises what open(2) says. The file's reference is the caller's."""
    return path_openat(dfd, pathname, op, op.lookup_flags, None)


@may_sleep
def do_file_open_root(dentry: Dentry, mnt: Mount, name: bytes, op: OpenFlags) -> File:
    """do_filp_open() whose root is a dentry of a mount."""
    if dentry.d_inode is not None and dentry.d_inode.i_mode & S_IFMT == S_IFLNK and op.intent & LOOKUP_OPEN:
        raise KernelError(ELOOP)
    return path_openat(-1, name, op, op.lookup_flags, Path(mnt, dentry))
