"""ioctl(2): what the VFS answers itself.

Linux: fs/ioctl.c (5.3). FIBMAP and FIEMAP are in fs/fiemap.py. Gaps: reflinks, freezing (EOPNOTSUPP).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user, get_user_u32, put_user_u32
from glasskernel.fs.fiemap import ioctl_fibmap, ioctl_fiemap
from glasskernel.fs.file import fd_shared, fdget, set_close_on_exec
from glasskernel.fs.file_table import fput
from glasskernel.fs.types import FASYNC, O_NONBLOCK, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from glasskernel.lib.errno import ENOIOCTLCMD, ENOTTY, EOPNOTSUPP, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, u32, ulong

if TYPE_CHECKING:
    from glasskernel.fs.types import File

FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC, FIOQSIZE = 0x541B, 0x5421, 0x5450, 0x5451, 0x5452, 0x5460
FIBMAP, FIGETBSZ, FICLONE, FICLONERANGE, FIDEDUPERANGE = 0x1, 0x2, 0x40049409, 0x4020940D, 0xC0189436
FIFREEZE, FITHAW, FS_IOC_FIEMAP = 0xC0045877, 0xC0045878, 0xC020660B


@may_sleep
def vfs_ioctl(filp: File, cmd: int, arg: int) -> int:
    """->unlocked_ioctl(). Raises ENOTTY for a command it does not know."""
    try:
        return filp.f_op.unlocked_ioctl(filp, cmd, arg)
    except KernelError as error:
        if error.errno == ENOIOCTLCMD:
            raise KernelError(ENOTTY) from None
        raise


@notrace
def ioctl_fionbio(filp: File, arg: int) -> None:
    """FIONBIO: O_NONBLOCK on or off."""
    if get_user_u32(arg):
        filp.f_flags |= O_NONBLOCK
    else:
        filp.f_flags &= ~O_NONBLOCK


@notrace
def ioctl_fioasync(fd: int, filp: File, arg: int) -> None:
    """FIOASYNC: FASYNC on or off. Raises ENOTTY where there is no ->fasync()."""
    flag = FASYNC if get_user_u32(arg) else 0
    if (flag ^ filp.f_flags) & FASYNC:
        fasync = filp.f_op.fasync
        if fasync is None:
            raise KernelError(ENOTTY)
        fasync(fd, filp, int(bool(flag)))
    filp.f_flags = filp.f_flags & ~FASYNC | flag


@may_sleep
def file_ioctl(filp: File, cmd: int, arg: int) -> int:
    """Commands of regular files."""
    if cmd == FIBMAP:
        ioctl_fibmap(filp, arg)
        return 0
    if cmd == FIONREAD:
        put_user_u32(arg, (filp.f_inode.i_size - filp.f_pos) & 0xFFFFFFFF)
        return 0
    return vfs_ioctl(filp, cmd, arg)


@may_sleep
def do_vfs_ioctl(filp: File, fd: int, cmd: int, arg: int) -> int:
    """ioctl(2) of an open file."""
    kind = filp.f_inode.i_mode & S_IFMT
    if cmd == FIOCLEX:
        set_close_on_exec(fd, 1)
    elif cmd == FIONCLEX:
        set_close_on_exec(fd, 0)
    elif cmd == FIONBIO:
        ioctl_fionbio(filp, arg)
    elif cmd == FIOASYNC:
        ioctl_fioasync(fd, filp, arg)
    elif cmd == FIOQSIZE:
        if kind not in (S_IFREG, S_IFDIR, S_IFLNK):
            raise KernelError(ENOTTY)
        copy_to_user(arg, filp.f_inode.i_size.to_bytes(8, "little"))
    elif cmd == FIGETBSZ:
        put_user_u32(arg, filp.f_inode.i_sb.s_blocksize)
    elif cmd in (FICLONE, FICLONERANGE, FIDEDUPERANGE, FIFREEZE, FITHAW):
        raise KernelError(EOPNOTSUPP)
    elif cmd == FS_IOC_FIEMAP:
        ioctl_fiemap(filp, arg)
    elif kind == S_IFREG:
        return file_ioctl(filp, cmd, arg)
    else:
        return vfs_ioctl(filp, cmd, arg)
    return 0


@may_sleep
def ksys_ioctl(fd: int, cmd: int, arg: int) -> int:
    """ioctl(2)."""
    filp = fdget(fd)
    if filp.f_security is not None:
        filp.f_inode.i_sb.kernel.lsm.security_file_ioctl(filp, cmd)
    shared = fd_shared(filp)
    try:
        return do_vfs_ioctl(filp, fd, cmd, arg)
    finally:
        if shared:
            fput(filp)


@syscall
def sys_ioctl(fd: u32, cmd: u32, arg: ulong) -> int:
    """ioctl(2). Errors: EBADF, ENOTTY, EFAULT, EINVAL, and the file's own."""
    return ksys_ioctl(fd, cmd, arg)
