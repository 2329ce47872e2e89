"""Who may write through a mount: counted, so that a remount to read-only can be refused.

Linux: fs/namespace.c (__mnt_want_write ... mnt_drop_write_file). A file of its own because inodes (touch_atime)
need it and everything else of namespace.py stands above inodes.
Owns: Mount.mnt_writers. Invariant: one drop for each successful want.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import FMODE_WRITER, MNT_READONLY, SB_RDONLY
from glasskernel.lib.errno import EROFS, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Mount


@notrace
def __mnt_is_readonly(mnt: Mount) -> bool:
    return bool(mnt.mnt_flags & MNT_READONLY or mnt.mnt_sb.s_flags & SB_RDONLY)


def __mnt_want_write(mnt: Mount) -> None:
    """Counts one writer of the mount. Raises EROFS. Context: any."""
    if mnt.mnt_flags & MNT_READONLY or mnt.mnt_sb.s_flags & SB_RDONLY:
        raise KernelError(EROFS)
    mnt.mnt_writers += 1


def __mnt_drop_write(mnt: Mount) -> None:
    """Ends what __mnt_want_write() began."""
    mnt.mnt_writers -= 1


def mnt_want_write(mnt: Mount) -> None:
    """Asks to change something below the mount, until mnt_drop_write(). Raises EROFS. Context: task."""
    __mnt_want_write(mnt)


def mnt_drop_write(mnt: Mount) -> None:
    """Ends what mnt_want_write() began."""
    mnt.mnt_writers -= 1


def mnt_want_write_file(file: File) -> None:
    """mnt_want_write() for an open file: free when the file is itself a writer. Raises EROFS."""
    if not file.f_mode & FMODE_WRITER:
        __mnt_want_write(file.f_path.mnt)


def mnt_drop_write_file(file: File) -> None:
    """Ends what mnt_want_write_file() began."""
    if not file.f_mode & FMODE_WRITER:
        file.f_path.mnt.mnt_writers -= 1
