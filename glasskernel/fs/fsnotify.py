"""Telling watchers what happens to files.

Linux: fs/notify/fsnotify.c, include/linux/fsnotify.h (5.3). An inode's marks hang off i_fsnotify_marks; nothing
is built or sent while kernel.vfs.nr_marks is 0. Groups (inotify.py, dnotify.py) plug in through Mark.handle_event.
Owns: Inode.i_fsnotify_marks, i_fsnotify_mask, kernel.vfs.nr_marks.
Invariant: i_fsnotify_mask is the union of the masks of i_fsnotify_marks.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.types import FMODE_WRITE, MAY_OPEN, MAY_READ, S_IFDIR, S_IFMT
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Inode, SuperBlock

IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_CLOSE_NOWRITE, IN_OPEN = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
FS_OPEN_PERM, FS_ACCESS_PERM = 0x10000, 0x20000
IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED, IN_ISDIR = 0x2000, 0x4000, 0x8000, 0x40000000
FS_EVENT_ON_CHILD, FS_DN_RENAME = 0x08000000, 0x10000000


@slotted
class FsnotifyMark:
    """struct fsnotify_mark: one group's interest in one inode.

    handle_event(mark, mask, name, cookie); inode_gone(mark): the inode was deleted or unmounted.
    """

    inode: Inode
    mask: int
    handle_event: Callable[[FsnotifyMark, int, bytes, int], None]
    inode_gone: Callable[[FsnotifyMark], None]
    group: Any = None
    wd: int = 0


def fsnotify_add_mark(mark: FsnotifyMark) -> None:
    """Starts to watch."""
    inode = mark.inode
    if inode.i_fsnotify_marks is None:
        inode.i_fsnotify_marks = []
    inode.i_fsnotify_marks.append(mark)
    inode.i_fsnotify_mask |= mark.mask
    inode.i_sb.kernel.vfs.nr_marks += 1


def fsnotify_detach_mark(mark: FsnotifyMark) -> None:
    """Ends a watch."""
    inode = mark.inode
    inode.i_fsnotify_marks.remove(mark)
    fsnotify_recalc_mask(inode)
    inode.i_sb.kernel.vfs.nr_marks -= 1


def fsnotify_recalc_mask(inode: Inode) -> None:
    """After a change of a mark's mask."""
    mask = 0
    for mark in inode.i_fsnotify_marks:
        mask |= mark.mask
    inode.i_fsnotify_mask = mask


def fsnotify(to_tell: Inode, mask: int, name: bytes, cookie: int) -> None:
    """Sends an event to the marks of an inode that ask for it."""
    wanted = mask & ~(IN_ISDIR | FS_EVENT_ON_CHILD)
    if not to_tell.i_fsnotify_mask & wanted:
        return
    for mark in list(to_tell.i_fsnotify_marks):
        if mark.mask & wanted:
            mark.handle_event(mark, mask & ~FS_EVENT_ON_CHILD, name, cookie)


def __fsnotify_parent(dentry: Dentry, mask: int) -> None:
    """Sends an event to the directory that a watched child lies in, with the child's name."""
    parent = dentry.d_parent.d_inode
    if parent is not None and parent.i_fsnotify_mask & mask and dentry.d_parent is not dentry:
        fsnotify(parent, mask | FS_EVENT_ON_CHILD, dentry.d_name, 0)


@notrace
def fsnotify_dentry(dentry: Dentry, mask: int) -> None:
    """An event of an object, to its parent's watchers and its own."""
    inode = dentry.d_inode
    if inode is None or not inode.i_sb.kernel.vfs.nr_marks:
        return
    if inode.i_mode & S_IFMT == S_IFDIR:
        mask |= IN_ISDIR
    __fsnotify_parent(dentry, mask)
    fsnotify(inode, mask, b"", 0)


@notrace
def fsnotify_perm(file: File, mask: int) -> None:
    """Before a file is opened (MAY_OPEN) or read: who watches may forbid it. A security module's machine asks.

    Gaps: fanotify, the only one who watches for these.
    """
    if not mask & (MAY_READ | MAY_OPEN):
        return
    event = FS_OPEN_PERM if mask & MAY_OPEN else FS_ACCESS_PERM
    __fsnotify_parent(file.f_path.dentry, event)
    fsnotify(file.f_inode, event, b"", 0)


@notrace
def fsnotify_open(file: File) -> None:
    """After open(2). Callers test kernel.vfs.nr_marks first."""
    fsnotify_dentry(file.f_path.dentry, IN_OPEN)


@notrace
def fsnotify_close(file: File) -> None:
    """At the last close."""
    fsnotify_dentry(file.f_path.dentry, IN_CLOSE_WRITE if file.f_mode & FMODE_WRITE else IN_CLOSE_NOWRITE)


@notrace
def fsnotify_dirent(dir: Inode, mask: int, dentry: Dentry, is_dir: bool) -> None:
    """A name came (IN_CREATE) or went (IN_DELETE) in a directory."""
    if dir.i_sb.kernel.vfs.nr_marks:
        fsnotify(dir, mask | (IN_ISDIR if is_dir else 0), dentry.d_name, 0)


@notrace
def fsnotify_move(old_dir: Inode, new_dir: Inode, old_name: bytes, moved: Dentry, target: Inode | None) -> None:
    """After rename(2). One cookie joins the two events."""
    vfs = old_dir.i_sb.kernel.vfs
    if not vfs.nr_marks:
        return
    vfs.fsnotify_cookie += 1
    cookie = vfs.fsnotify_cookie
    inode = moved.d_inode
    assert inode is not None
    also = IN_ISDIR if inode.i_mode & S_IFMT == S_IFDIR else 0
    if old_dir is new_dir:
        also |= FS_DN_RENAME           # for fs/dnotify.py
    fsnotify(old_dir, IN_MOVED_FROM | also, old_name, cookie)
    fsnotify(new_dir, IN_MOVED_TO | also, moved.d_name, cookie)
    if target is not None:
        fsnotify_link_count(target)
    fsnotify(inode, IN_MOVE_SELF, b"", 0)


@notrace
def fsnotify_link_count(inode: Inode) -> None:
    """A link of a file was removed."""
    fsnotify(inode, IN_ATTRIB, b"", 0)


@notrace
def fsnotify_inoderemove(inode: Inode) -> None:
    """The last name of the inode is gone and nobody has it open: its watches end."""
    fsnotify(inode, IN_DELETE_SELF, b"", 0)
    fsnotify_inode_delete(inode)


@notrace
def fsnotify_inode_delete(inode: Inode) -> None:
    """Ends every watch of an inode that goes away."""
    for mark in list(inode.i_fsnotify_marks or ()):
        mark.inode_gone(mark)


def fsnotify_sb_delete(sb: SuperBlock) -> None:
    """A file system is unmounted: IN_UNMOUNT to all its watches, which end."""
    for inode in list(sb.s_inode_list):
        if inode.i_fsnotify_marks:
            fsnotify(inode, IN_UNMOUNT, b"", 0)
            fsnotify_inode_delete(inode)
