"""The text of a path: dentry and mount back to bytes.

Linux: fs/d_path.c (5.3). Same: "(deleted)", "(unreachable)", names of anonymous files by ->d_dname().
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.fs.types import Path
from glasskernel.kernel.current import current
from glasskernel.lib.errno import ENOENT, ERANGE, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, ulong

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry


def prepend_path(path: Path, root: Path | None) -> tuple[bytes, int]:
    """(text, 0) of `path` below `root`; 1: ended at another root, 2: in a detached mount, 3: escaped its mount."""
    mnt, dentry = path.mnt, path.dentry
    root_mnt, root_dentry = (root.mnt, root.dentry) if root is not None else (None, None)
    parts = []
    error = 0
    while dentry is not root_dentry or mnt is not root_mnt:
        if dentry is mnt.mnt_root or dentry.d_parent is dentry:
            if dentry is not mnt.mnt_root:
                error = 3
                break
            parent = mnt.mnt_parent
            if parent is not mnt:
                dentry = mnt.mnt_mountpoint
                mnt = parent
                continue
            error = 1 if mnt.mnt_ns is not None else 2
            break
        parts.append(dentry.d_name)
        dentry = dentry.d_parent
    parts.reverse()
    return b"/" + b"/".join(parts), error


@notrace
def d_unlinked(dentry: Dentry) -> bool:
    """True if the name is gone: the dentry is unhashed and not a root."""
    return not dentry.d_hashed and dentry.d_parent is not dentry


def d_path(path: Path) -> bytes:
    """What /proc/PID/fd and maps show: the path from the caller's root, " (deleted)" behind it when unlinked."""
    dentry = path.dentry
    d_dname = dentry.d_op.d_dname
    if d_dname is not None and (dentry.d_parent is not dentry or dentry is not path.mnt.mnt_root):
        return d_dname(dentry)
    text = prepend_path(path, current().fs.root)[0]
    return text + b" (deleted)" if d_unlinked(dentry) else text


def __d_path(path: Path, root: Path) -> bytes | None:
    """The path below `root`, or None if it does not lie there."""
    text, error = prepend_path(path, root)
    return None if error else text


def d_absolute_path(path: Path) -> bytes:
    """The path from the root of its mount namespace."""
    return prepend_path(path, None)[0]


def dynamic_dname(dentry: Dentry, kind: bytes) -> bytes:
    """The usual ->d_dname(): "pipe:[12]"."""
    inode = dentry.d_inode
    assert inode is not None
    return b"%s:[%d]" % (kind, inode.i_ino)


def simple_dname(dentry: Dentry) -> bytes:
    """->d_dname() of shared memory: "/name (deleted)"."""
    return b"/%s (deleted)" % dentry.d_name


def dentry_path_raw(dentry: Dentry) -> bytes:
    """The path inside the dentry's file system."""
    parts = []
    while dentry.d_parent is not dentry:
        parts.append(dentry.d_name)
        dentry = dentry.d_parent
    parts.reverse()
    return b"/" + b"/".join(parts)


def dentry_path(dentry: Dentry) -> bytes:
    """dentry_path_raw() with "//deleted" behind an unlinked name, as /proc/PID/mountinfo shows it."""
    text = dentry_path_raw(dentry)
    return text + b"//deleted" if d_unlinked(dentry) else text


@syscall
def sys_getcwd(buf: UserPtr, size: ulong) -> int:
    """getcwd(2). Errors: ENOENT (removed), ERANGE, EFAULT. Answers the length with the NUL."""
    fs = current().fs
    if d_unlinked(fs.pwd.dentry):
        raise KernelError(ENOENT)
    text, error = prepend_path(fs.pwd, fs.root)
    if error:
        text = b"(unreachable)" + text
    text += b"\0"
    if len(text) > 4096 or len(text) > size:
        raise KernelError(ERANGE)
    copy_to_user(buf, text)
    return len(text)
