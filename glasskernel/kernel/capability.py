"""Capabilities: the privileges of root, one bit each.

Linux: kernel/capability.c, security/commoncap.c (what uid changes and prctl do),
    include/uapi/linux/capability.h.
Same: capget/capset with v1 to v3 headers, rules of the bounding and the ambient set, SECBIT_*, KEEPCAPS.
Differs: a capability set is an int, bit CAP_*. Gaps: user namespaces other than the initial one.
Owns: nothing. Invariants: permitted >= effective; ambient is inside permitted & inheritable.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32
from glasskernel.kernel.cred import commit_creds, prepare_creds
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import find_task_by_vpid, task_pid_vnr
from glasskernel.kernel.task import PF_SUPERPRIV, Cred, TaskStruct
from glasskernel.lib.errno import EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, u32
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode

(CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETGID, CAP_SETUID,
 CAP_SETPCAP, CAP_LINUX_IMMUTABLE, CAP_NET_BIND_SERVICE, CAP_NET_BROADCAST, CAP_NET_ADMIN, CAP_NET_RAW,
 CAP_IPC_LOCK, CAP_IPC_OWNER, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_CHROOT, CAP_SYS_PTRACE, CAP_SYS_PACCT,
 CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_NICE, CAP_SYS_RESOURCE, CAP_SYS_TIME, CAP_SYS_TTY_CONFIG, CAP_MKNOD,
 CAP_LEASE, CAP_AUDIT_WRITE, CAP_AUDIT_CONTROL, CAP_SETFCAP, CAP_MAC_OVERRIDE, CAP_MAC_ADMIN, CAP_SYSLOG,
 CAP_WAKE_ALARM, CAP_BLOCK_SUSPEND, CAP_AUDIT_READ) = range(38)
CAP_LAST_CAP: Final = CAP_AUDIT_READ
CAP_FULL_SET: Final = (1 << CAP_LAST_CAP + 1) - 1

CAP_FS_MASK: Final = (
    1 << CAP_CHOWN | 1 << CAP_MKNOD | 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH | 1 << CAP_FOWNER
    | 1 << CAP_FSETID | 1 << CAP_MAC_OVERRIDE | 1 << CAP_LINUX_IMMUTABLE
)

SECBIT_NOROOT, SECBIT_NOROOT_LOCKED, SECBIT_NO_SETUID_FIXUP, SECBIT_NO_SETUID_FIXUP_LOCKED = 1, 2, 4, 8
SECBIT_KEEP_CAPS, SECBIT_KEEP_CAPS_LOCKED = 16, 32
SECBIT_NO_CAP_AMBIENT_RAISE, SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED = 64, 128
SECURE_ALL_BITS: Final = 0x55
SECURE_ALL_LOCKS: Final = 0xAA

_LINUX_CAPABILITY_VERSION_1: Final = 0x19980330
_LINUX_CAPABILITY_VERSION_2: Final = 0x20071026
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522


@uapi("include/uapi/linux/capability.h", size=8)
class CapUserHeader(Layout):
    version: u32
    pid: int


@uapi("include/uapi/linux/capability.h", size=12)
class CapUserData(Layout):
    effective: u32
    permitted: u32
    inheritable: u32


def ns_capable(_ns: Any, cap: int) -> bool:
    """Has the current task this capability in a user namespace? Notes that privilege was used (PF_SUPERPRIV)."""
    task = current()
    if security_capable(task.cred, cap):
        task.flags |= PF_SUPERPRIV
        return True
    return False


@notrace
def security_capable(cred: Cred, cap: int, audit: bool = True) -> bool:
    """The capabilities themselves, then a security module."""
    if not cap_capable(cred, cap):
        return False
    lsm = current().kernel.lsm
    return lsm is None or lsm.security_capable(cred, cap, audit)


def cap_capable(cred: Cred, cap: int) -> bool:
    """Is it in the effective set? There is one user namespace. (security/commoncap.c)"""
    return bool(cred.cap_effective >> cap & 1)


def capable(cap: int) -> bool:
    """ns_capable() in the initial namespace."""
    return ns_capable(None, cap)


def ns_capable_noaudit(_ns: Any, cap: int) -> bool:
    """ns_capable() that a security module does not record."""
    task = current()
    if security_capable(task.cred, cap, False):
        task.flags |= PF_SUPERPRIV
        return True
    return False


def has_capability(task: TaskStruct, cap: int) -> bool:
    """Has another task this capability?"""
    return security_capable(task.real_cred, cap)


def capable_wrt_inode_uidgid(_inode: Inode, cap: int) -> bool:
    """A capability over a file: its owner must be known in the namespace, which the initial one always does.
    """
    return capable(cap)


# ---- capget, capset ----------------------------------------------------------------------------------------
@notrace
def _read_header(address: int) -> tuple[int, int]:
    """(version, pid). Raises EFAULT."""
    version, pid = CapUserHeader.STRUCT.unpack(copy_from_user(address, 8))
    return version, pid


def cap_validate_magic(header: int) -> int:
    """Checks the version and answers the number of 32-bit words; 0: unknown, the caller's header was
    corrected.
    """
    version, _ = _read_header(header)
    if version == _LINUX_CAPABILITY_VERSION_1:
        return 1
    if version in (_LINUX_CAPABILITY_VERSION_2, _LINUX_CAPABILITY_VERSION_3):
        return 2
    put_user_u32(header, _LINUX_CAPABILITY_VERSION_3)
    return 0


@syscall
def sys_capget(header: UserPtr, dataptr: UserPtr) -> int:
    """capget(2). Errors: EINVAL (version, pid < 0), ESRCH."""
    words = cap_validate_magic(header)
    if not words:
        if not dataptr:
            return 0
        raise KernelError(EINVAL)
    _, pid = _read_header(header)
    if pid < 0:
        raise KernelError(EINVAL)
    task = find_task_by_vpid(pid) if pid else current()
    if task is None:
        raise KernelError(ESRCH)
    cred = task.real_cred
    if task.kernel.lsm is not None:
        task.kernel.lsm.security_capget(task)
    if dataptr:
        data = b""
        for word in range(words):
            shift = 32 * word
            data += CapUserData.STRUCT.pack(
                *(mask >> shift & 0xFFFF_FFFF
                  for mask in (cred.cap_effective, cred.cap_permitted, cred.cap_inheritable))
            )
        copy_to_user(dataptr, data)
    return 0


def cap_capset(new: Cred, old: Cred, effective: int, inheritable: int, permitted: int) -> None:
    """The rules of capset(2). Raises EPERM."""
    if not old.cap_effective >> CAP_SETPCAP & 1 and inheritable & ~(old.cap_inheritable | old.cap_permitted):
        raise KernelError(EPERM)
    if inheritable & ~(old.cap_inheritable | old.cap_bset):
        raise KernelError(EPERM)
    if permitted & ~old.cap_permitted or effective & ~permitted:
        raise KernelError(EPERM)
    new.cap_effective = effective
    new.cap_inheritable = inheritable
    new.cap_permitted = permitted
    new.cap_ambient &= permitted & inheritable


@syscall
def sys_capset(header: UserPtr, data: UserPtr) -> int:
    """capset(2) for the calling thread. Errors: EINVAL, EPERM."""
    words = cap_validate_magic(header)
    if not words:
        raise KernelError(EINVAL)
    _, pid = _read_header(header)
    if pid not in (0, task_pid_vnr(current())):
        raise KernelError(EPERM)
    effective = permitted = inheritable = 0
    raw = copy_from_user(data, 12 * words)
    for word in range(words):
        e, p, i = CapUserData.STRUCT.unpack_from(raw, 12 * word)
        effective |= e << 32 * word
        permitted |= p << 32 * word
        inheritable |= i << 32 * word
    new = prepare_creds()
    full = CAP_FULL_SET
    old = current().cred
    cap_capset(new, old, effective & full, inheritable & full, permitted & full)
    lsm = current().kernel.lsm
    if lsm is not None:
        lsm.security_capset(new, old)
    commit_creds(new)
    return 0


# ---- what uid changes do (security/commoncap.c) ------------------------------------------------------------
LSM_SETID_ID, LSM_SETID_RE, LSM_SETID_RES, LSM_SETID_FS = 1, 2, 4, 8


@notrace
def cap_emulate_setxuid(new: Cred, old: Cred) -> None:
    """Leaving uid 0 drops capabilities, coming to euid 0 raises the permitted ones."""
    if 0 in (old.uid, old.euid, old.suid) and 0 not in (new.uid, new.euid, new.suid):
        if not old.securebits & SECBIT_KEEP_CAPS:
            new.cap_permitted = 0
            new.cap_effective = 0
        new.cap_ambient = 0
    if old.euid == 0 and new.euid != 0:
        new.cap_effective = 0
    if old.euid != 0 and new.euid == 0:
        new.cap_effective = new.cap_permitted


def cap_task_fix_setuid(new: Cred, old: Cred, flags: int) -> None:
    """security_task_fix_setuid(): adjusts the capabilities of `new` to its uids."""
    if old.securebits & SECBIT_NO_SETUID_FIXUP:
        return
    if flags != LSM_SETID_FS:
        cap_emulate_setxuid(new, old)
    elif old.fsuid == 0 and new.fsuid != 0:
        new.cap_effective &= ~CAP_FS_MASK
    elif old.fsuid != 0 and new.fsuid == 0:
        new.cap_effective |= new.cap_permitted & CAP_FS_MASK


# ---- prctl's share -----------------------------------------------------------------------------------------
PR_GET_KEEPCAPS, PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP = 7, 8, 23, 24
PR_GET_SECUREBITS, PR_SET_SECUREBITS, PR_CAP_AMBIENT = 27, 28, 47
PR_CAP_AMBIENT_IS_SET, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_LOWER, PR_CAP_AMBIENT_CLEAR_ALL = 1, 2, 3, 4


def cap_task_prctl(option: int, arg2: int, arg3: int, arg4: int, arg5: int) -> int | None:
    """prctl(2)'s options about capabilities. None: not one of them. Raises EINVAL, EPERM."""
    old = current().cred
    if option == PR_CAPBSET_READ:
        if arg2 > CAP_LAST_CAP:
            raise KernelError(EINVAL)
        return old.cap_bset >> arg2 & 1
    if option == PR_CAPBSET_DROP:
        if not capable(CAP_SETPCAP):
            raise KernelError(EPERM)
        if arg2 > CAP_LAST_CAP:
            raise KernelError(EINVAL)
        new = prepare_creds()
        new.cap_bset &= ~(1 << arg2)
        commit_creds(new)
        return 0
    if option == PR_SET_SECUREBITS:
        locked = (old.securebits & SECURE_ALL_LOCKS) >> 1
        if (
            locked & (old.securebits ^ arg2)
            or old.securebits & SECURE_ALL_LOCKS & ~arg2
            or arg2 & ~(SECURE_ALL_LOCKS | SECURE_ALL_BITS)
            or not capable(CAP_SETPCAP)
        ):
            raise KernelError(EPERM)
        new = prepare_creds()
        new.securebits = arg2
        commit_creds(new)
        return 0
    if option == PR_GET_SECUREBITS:
        return old.securebits
    if option == PR_GET_KEEPCAPS:
        return 1 if old.securebits & SECBIT_KEEP_CAPS else 0
    if option == PR_SET_KEEPCAPS:
        if arg2 > 1:
            raise KernelError(EINVAL)
        if old.securebits & SECBIT_KEEP_CAPS_LOCKED:
            raise KernelError(EPERM)
        new = prepare_creds()
        new.securebits = new.securebits & ~SECBIT_KEEP_CAPS | (SECBIT_KEEP_CAPS if arg2 else 0)
        commit_creds(new)
        return 0
    if option == PR_CAP_AMBIENT:
        return _cap_ambient(old, arg2, arg3, arg4, arg5)
    return None


@notrace
def _cap_ambient(old: Cred, arg2: int, arg3: int, arg4: int, arg5: int) -> int:
    if arg2 == PR_CAP_AMBIENT_CLEAR_ALL:
        if arg3 | arg4 | arg5:
            raise KernelError(EINVAL)
        new = prepare_creds()
        new.cap_ambient = 0
        commit_creds(new)
        return 0
    if arg3 > CAP_LAST_CAP or arg4 | arg5:
        raise KernelError(EINVAL)
    if arg2 == PR_CAP_AMBIENT_IS_SET:
        return old.cap_ambient >> arg3 & 1
    if arg2 not in (PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_LOWER):
        raise KernelError(EINVAL)
    if arg2 == PR_CAP_AMBIENT_RAISE and (
        not old.cap_permitted & old.cap_inheritable & 1 << arg3
        or old.securebits & SECBIT_NO_CAP_AMBIENT_RAISE
    ):
        raise KernelError(EPERM)
    new = prepare_creds()
    if arg2 == PR_CAP_AMBIENT_RAISE:
        new.cap_ambient |= 1 << arg3
    else:
        new.cap_ambient &= ~(1 << arg3)
    commit_creds(new)
    return 0
