"""Supplementary groups.

Linux: kernel/groups.c. Same: sorted, at most NGROUPS_MAX. Differs: a tuple in the credentials.
"""
from __future__ import annotations

import struct
from bisect import bisect_left

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.capability import CAP_SETGID, capable
from glasskernel.kernel.cred import commit_creds, prepare_creds
from glasskernel.kernel.current import current
from glasskernel.kernel.task import Cred
from glasskernel.lib.errno import EINVAL, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr

NGROUPS_MAX = 65536


def groups_search(groups: tuple[int, ...], gid: int) -> bool:
    """True if gid is in a sorted tuple of groups."""
    i = bisect_left(groups, gid)
    return i < len(groups) and groups[i] == gid


def in_group_p(gid: int) -> bool:
    """Is the current task, for file access, in this group?"""
    cred = current().cred
    return gid == cred.fsgid or groups_search(cred.groups, gid)


def in_egroup_p(gid: int) -> bool:
    """Is the current task's effective group, or a supplementary one, this?"""
    cred = current().cred
    return gid == cred.egid or groups_search(cred.groups, gid)


def set_groups(new: Cred, groups: list[int]) -> None:
    """Gives credentials under preparation their groups."""
    new.groups = tuple(sorted(groups))


@syscall
def sys_getgroups(gidsetsize: int, grouplist: UserPtr) -> int:
    """getgroups(2). Errors: EINVAL (too small or negative), EFAULT."""
    groups = current().cred.groups
    if gidsetsize < 0:
        raise KernelError(EINVAL)
    if gidsetsize:
        if len(groups) > gidsetsize:
            raise KernelError(EINVAL)
        copy_to_user(grouplist, struct.pack(f"<{len(groups)}I", *groups))
    return len(groups)


@syscall
def sys_setgroups(gidsetsize: int, grouplist: UserPtr) -> int:
    """setgroups(2). Errors: EPERM without CAP_SETGID, EINVAL, EFAULT."""
    if not capable(CAP_SETGID):
        raise KernelError(EPERM)
    count = gidsetsize & 0xFFFF_FFFF
    if count > NGROUPS_MAX:
        raise KernelError(EINVAL)
    groups = struct.unpack(f"<{count}I", copy_from_user(grouplist, 4 * count))
    if 0xFFFF_FFFF in groups:
        raise KernelError(EINVAL)
    new = prepare_creds()
    set_groups(new, list(groups))
    commit_creds(new)
    return 0
