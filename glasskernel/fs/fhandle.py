"""File handles: not there.

Linux: fs/fhandle.c (5.3). Gaps: all of it. Programs (systemd, tar, find) take EOPNOTSUPP as "this file system
cannot", which is what Linux answers for file systems without export operations.
"""
from __future__ import annotations

from glasskernel.fs.mount import path_put
from glasskernel.fs.path_walk import AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, LOOKUP_EMPTY, LOOKUP_FOLLOW, user_path_at
from glasskernel.kernel.capability import CAP_DAC_READ_SEARCH, capable
from glasskernel.lib.errno import EINVAL, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr


@syscall(gaps="no file system has handles")
def sys_name_to_handle_at(dfd: int, name: UserPtr, handle: UserPtr, mnt_id: UserPtr, flag: int) -> int:
    """name_to_handle_at(2). Errors: EOPNOTSUPP, and those of the walk."""
    if flag & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        raise KernelError(EINVAL)
    lookup = (LOOKUP_FOLLOW if flag & AT_SYMLINK_FOLLOW else 0) | (LOOKUP_EMPTY if flag & AT_EMPTY_PATH else 0)
    path_put(user_path_at(dfd, name, lookup))
    raise KernelError(EOPNOTSUPP)


@syscall(gaps="no file system has handles")
def sys_open_by_handle_at(mountdirfd: int, handle: UserPtr, flags: int) -> int:
    """open_by_handle_at(2). Errors: EPERM, EOPNOTSUPP."""
    if not capable(CAP_DAC_READ_SEARCH):
        raise KernelError(EPERM)
    raise KernelError(EOPNOTSUPP)
