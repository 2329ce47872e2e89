"""/proc/PID/mounts, mountinfo and mountstats.

Linux: fs/proc_namespace.c (5.3). Same: columns, escapes, order; poll(2) tells of changes (POLLERR | POLLPRI).
Owns: nothing. Invariant: a mount that the reader's root does not reach is left out.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.d_path import __d_path, dentry_path
from glasskernel.fs.proc.internal import proc_task
from glasskernel.fs.seq_file import (
    SEQ_SKIP,
    SeqFile,
    SeqOperations,
    mangle_path,
    seq_lseek,
    seq_open,
    seq_puts,
    seq_read,
)
from glasskernel.fs.types import (
    MAJOR,
    MINOR,
    MNT_NOATIME,
    MNT_NODEV,
    MNT_NODIRATIME,
    MNT_NOEXEC,
    MNT_NOSUID,
    MNT_READONLY,
    MNT_RELATIME,
    POLLERR,
    POLLIN,
    POLLPRI,
    POLLRDNORM,
    SB_DIRSYNC,
    SB_LAZYTIME,
    SB_MANDLOCK,
    SB_RDONLY,
    SB_SYNCHRONOUS,
    FileOperations,
    Path,
)
from glasskernel.lib.errno import EINVAL, ENOENT, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, MntNamespace, Mount, PollTable, SuperBlock


@slotted
class ProcMounts:
    """struct proc_mounts: m.private"""

    ns: MntNamespace
    root: Path
    show: Callable[[SeqFile, Mount], int | None]
    event: int


@notrace
def mangle(m: SeqFile, text: bytes) -> None:
    seq_puts(m, mangle_path(text, b" \t\n\\#"))


@notrace
def show_sb_opts(sb: SuperBlock) -> bytes:
    flags = sb.s_flags
    text = b"".join(name for bit, name in (
        (SB_SYNCHRONOUS, b",sync"), (SB_DIRSYNC, b",dirsync"), (SB_MANDLOCK, b",mand"),
        (SB_LAZYTIME, b",lazytime")) if flags & bit)
    lsm = sb.kernel.lsm
    return text if lsm is None else text + lsm.security_sb_show_options(sb)


@notrace
def show_mnt_opts(mnt: Mount) -> bytes:
    flags = mnt.mnt_flags
    return b"".join(name for bit, name in (
        (MNT_NOSUID, b",nosuid"), (MNT_NODEV, b",nodev"), (MNT_NOEXEC, b",noexec"), (MNT_NOATIME, b",noatime"),
        (MNT_NODIRATIME, b",nodiratime"), (MNT_RELATIME, b",relatime")) if flags & bit)


@notrace
def show_type(m: SeqFile, sb: SuperBlock) -> None:
    mangle(m, sb.s_type.name)
    if sb.s_subtype:
        seq_puts(m, b".")
        mangle(m, sb.s_subtype)


@notrace
def _mount_point(m: SeqFile, mnt: Mount) -> bytes | None:
    p: ProcMounts = m.private
    text = __d_path(Path(mnt, mnt.mnt_root), p.root)
    return None if text is None else mangle_path(text, b" \t\n\\")


def show_vfsmnt(m: SeqFile, mnt: Mount) -> int | None:
    """A line of /proc/mounts."""
    sb = mnt.mnt_sb
    where = _mount_point(m, mnt)
    if where is None:
        return SEQ_SKIP
    mangle(m, mnt.mnt_devname or b"none")
    seq_puts(m, b" %b " % where)
    show_type(m, sb)
    readonly = mnt.mnt_flags & MNT_READONLY or sb.s_flags & SB_RDONLY
    seq_puts(m, b" ro" if readonly else b" rw")
    seq_puts(m, show_sb_opts(sb) + show_mnt_opts(mnt) + sb.s_op.show_options(mnt.mnt_root) + b" 0 0\n")
    return None


def show_mountinfo(m: SeqFile, mnt: Mount) -> int | None:
    """A line of /proc/PID/mountinfo, proc(5)."""
    sb = mnt.mnt_sb
    where = _mount_point(m, mnt)
    if where is None:
        return SEQ_SKIP
    parent = mnt.mnt_parent if mnt.mnt_parent is not None else mnt
    seq_puts(m, b"%d %d %d:%d " % (mnt.mnt_id, parent.mnt_id, MAJOR(sb.s_dev), MINOR(sb.s_dev)))
    show_path = sb.s_op.show_path
    path = dentry_path(mnt.mnt_root) if show_path is None else show_path(mnt.mnt_root)
    seq_puts(m, mangle_path(path, b" \t\n\\"))
    seq_puts(m, b" %b" % where)
    seq_puts(m, b" ro" if mnt.mnt_flags & MNT_READONLY else b" rw")
    seq_puts(m, show_mnt_opts(mnt))
    if mnt.mnt_group_id and mnt.mnt_master is None:
        seq_puts(m, b" shared:%d" % mnt.mnt_group_id)
    elif mnt.mnt_master is not None:
        if mnt.mnt_group_id:
            seq_puts(m, b" shared:%d" % mnt.mnt_group_id)
        seq_puts(m, b" master:%d" % mnt.mnt_master.mnt_group_id)
    if mnt.mnt_flags & 0x2000:
        seq_puts(m, b" unbindable")
    seq_puts(m, b" - ")
    show_type(m, sb)
    seq_puts(m, b" ")
    mangle(m, mnt.mnt_devname or b"none")
    seq_puts(m, b" ro" if sb.s_flags & SB_RDONLY else b" rw")
    seq_puts(m, show_sb_opts(sb) + sb.s_op.show_options(mnt.mnt_root) + b"\n")
    return None


def show_vfsstat(m: SeqFile, mnt: Mount) -> int | None:
    """A line of /proc/PID/mountstats."""
    where = _mount_point(m, mnt)
    if where is None:
        return SEQ_SKIP
    seq_puts(m, b"device " if mnt.mnt_devname else b"no device")
    if mnt.mnt_devname:
        mangle(m, mnt.mnt_devname)
    seq_puts(m, b" mounted on %b with fstype " % where)
    show_type(m, mnt.mnt_sb)
    seq_puts(m, b"\n")
    return None


# ---- the list ------------------------------------------------------------------------------------
@notrace
def _nth(m: SeqFile) -> Any:
    """Mounts are numbered by their place in the namespace; the hidden rootfs below / is left out by show()."""
    mounts = list(m.private.ns.mounts.values())
    return mounts[m.index] if m.index < len(mounts) else None


def m_start(m: SeqFile) -> Any:
    return _nth(m)


def m_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return _nth(m)


def m_show(m: SeqFile, v: Any) -> int | None:
    p: ProcMounts = m.private
    return p.show(m, v)


mounts_op = SeqOperations(m_start, m_next, m_show)


def mounts_open_common(inode: Inode, file: File, show: Callable[[SeqFile, Mount], int | None]) -> None:
    """Errors: EINVAL for a process without namespaces, ENOENT without a root."""
    task = proc_task(inode)
    if task.nsproxy is None or task.nsproxy.mnt_ns is None:
        raise KernelError(EINVAL)
    if task.fs is None:
        raise KernelError(ENOENT)
    ns = task.nsproxy.mnt_ns
    root = task.fs.root
    seq_open(file, mounts_op).private = ProcMounts(ns, Path(root.mnt, root.dentry), show, ns.event)


def mounts_open(inode: Inode, file: File) -> None:
    mounts_open_common(inode, file, show_vfsmnt)


def mountinfo_open(inode: Inode, file: File) -> None:
    mounts_open_common(inode, file, show_mountinfo)


def mountstats_open(inode: Inode, file: File) -> None:
    mounts_open_common(inode, file, show_vfsstat)


def mounts_poll(file: File, table: PollTable) -> int:
    """Always readable; POLLERR and POLLPRI once after something was mounted or unmounted."""
    p: ProcMounts = file.private_data.private
    mask = POLLIN | POLLRDNORM
    if table.queue is not None and p.ns.poll is not None:
        table.queue(file, p.ns.poll)
    if p.event != p.ns.event:
        p.event = p.ns.event
        mask |= POLLERR | POLLPRI
    return mask


def mounts_release(inode: Inode, file: File) -> None:
    file.private_data = None


proc_mounts_operations = FileOperations(
    open=mounts_open, read_iter=seq_read, llseek=seq_lseek, release=mounts_release, poll=mounts_poll,
)
proc_mountinfo_operations = FileOperations(
    open=mountinfo_open, read_iter=seq_read, llseek=seq_lseek, release=mounts_release, poll=mounts_poll,
)
proc_mountstats_operations = FileOperations(
    open=mountstats_open, read_iter=seq_read, llseek=seq_lseek, release=mounts_release,
)
