"""dnotify: fcntl(F_NOTIFY) signals who has a directory open when something happens in it.

Linux: fs/notify/dnotify/dnotify.c (5.3). Same: one mark for a directory, with all who asked; a request is over after
one event unless it has DN_MULTISHOT, and when its file is closed. Differs: a mark goes with its last request, not with
the close after that.
Owns: FsnotifyMark.group of its marks: a list of DnotifyStruct. Imported by the first F_NOTIFY.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.fcntl_signal import F_OWNER_PID, __f_setown, send_sigio
from glasskernel.fs.fsnotify import (
    FS_DN_RENAME,
    FS_EVENT_ON_CHILD,
    IN_ACCESS,
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    FsnotifyMark,
    fsnotify_add_mark,
    fsnotify_detach_mark,
    fsnotify_recalc_mask,
)
from glasskernel.fs.types import S_IFDIR, S_IFMT
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import task_tgid_vnr
from glasskernel.kernel.signal_types import POLL_MSG
from glasskernel.lib.errno import EINVAL, ENOTDIR, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.kernel.task import FilesStruct

DN_ACCESS, DN_MODIFY, DN_CREATE, DN_DELETE, DN_RENAME, DN_ATTRIB, DN_MULTISHOT = 1, 2, 4, 8, 0x10, 0x20, 0x80000000
FS_DN_MULTISHOT = 0x20000000
CONVERSION = {DN_ACCESS: IN_ACCESS, DN_MODIFY: IN_MODIFY, DN_CREATE: IN_CREATE | IN_MOVED_TO,
              DN_DELETE: IN_DELETE | IN_MOVED_FROM, DN_RENAME: FS_DN_RENAME, DN_ATTRIB: IN_ATTRIB,
              DN_MULTISHOT: FS_DN_MULTISHOT}


@slotted
class DnotifyStruct:
    """struct dnotify_struct: what one process wants to hear through one open file."""

    dn_mask: int
    dn_fd: int
    dn_filp: File
    dn_owner: FilesStruct | None


@notrace
def convert_arg(arg: int) -> int:
    """The events of fsnotify that the flags of fcntl(2) stand for."""
    mask = FS_EVENT_ON_CHILD
    for flag, events in CONVERSION.items():
        if arg & flag:
            mask |= events
    return mask


@notrace
def find_mark(inode: Inode) -> FsnotifyMark | None:
    """fsnotify_find_mark() for dnotify's only group."""
    return next((mark for mark in inode.i_fsnotify_marks or () if mark.handle_event is dnotify_handle_event), None)


def dnotify_recalc_inode_mask(mark: FsnotifyMark) -> None:
    """After a change of the requests; without any, the mark goes."""
    if not mark.group:
        fsnotify_detach_mark(mark)
        return
    mask = 0
    for dn in mark.group:
        mask |= dn.dn_mask & ~FS_DN_MULTISHOT
    mark.mask = mask
    fsnotify_recalc_mask(mark.inode)


def dnotify_handle_event(mark: FsnotifyMark, mask: int, name: bytes, cookie: int) -> None:
    """Something happened in a directory, or to it."""
    for dn in list(mark.group):
        if dn.dn_mask & mask & ~FS_EVENT_ON_CHILD:
            send_sigio(dn.dn_filp, dn.dn_fd, POLL_MSG)
            if not dn.dn_mask & FS_DN_MULTISHOT:
                mark.group.remove(dn)
                dnotify_recalc_inode_mask(mark)


def dnotify_free_mark(mark: FsnotifyMark) -> None:
    """The directory goes away."""
    mark.group.clear()
    dnotify_recalc_inode_mask(mark)


def dnotify_flush(filp: File, owner: FilesStruct | None) -> None:
    """A process closes a file: what it asked for through it is over."""
    mark = find_mark(filp.f_inode)
    if mark is None:
        return
    for dn in mark.group:
        if dn.dn_owner is owner and dn.dn_filp is filp:
            mark.group.remove(dn)
            dnotify_recalc_inode_mask(mark)
            return


def attach_dn(mark: FsnotifyMark, owner: FilesStruct | None, fd: int, filp: File, mask: int) -> None:
    """Adds to what the process asked for through this file, or notes that it asks."""
    for dn in mark.group:
        if dn.dn_owner is owner and dn.dn_filp is filp:
            dn.dn_fd = fd
            dn.dn_mask |= mask
            return
    mark.group.append(DnotifyStruct(mask, fd, filp, owner))


def fcntl_dirnotify(fd: int, filp: File, arg: int) -> None:
    """F_NOTIFY; arg 0 ends it. Raises EINVAL (fs.dir-notify-enable is 0), ENOTDIR."""
    inode = filp.f_inode
    task = current()
    vfs = task.kernel.vfs
    if not vfs.dir_notify_enable:
        raise KernelError(EINVAL)
    if not arg & 0xFFFFFFFF & ~DN_MULTISHOT:
        dnotify_flush(filp, task.files)
        return
    if inode.i_mode & S_IFMT != S_IFDIR:
        raise KernelError(ENOTDIR)
    vfs.dnotify_flush = dnotify_flush
    mark = find_mark(inode)
    if mark is None:
        mark = FsnotifyMark(inode, 0, dnotify_handle_event, dnotify_free_mark, [])
        fsnotify_add_mark(mark)
    if not filp.f_owner[1]:
        __f_setown(filp, (F_OWNER_PID, task_tgid_vnr(task), filp.f_owner[2]))
    attach_dn(mark, task.files, fd, filp, convert_arg(arg))
    dnotify_recalc_inode_mask(mark)
