"""What execve(2) does to capabilities: the rules of root, of set-user-ID programs and of file capabilities.

Linux: security/commoncap.c (5.3), the exec part, and who may set such attributes; the part for setuid(2) and
    prctl(2) is kernel/capability.py.
Same: P'(permitted) = (X & F(permitted)) | (P(inheritable) & F(inheritable)) | P'(ambient), the fixed rights
    of uid 0, ambient capabilities lost at set-id, the downgrade under no_new_privs or a tracer, AT_SECURE.
Differs: a capability set is an int. Gaps: file capabilities of other user namespaces (rootid) count as none.
Owns: nothing. Invariants of the result: effective is inside permitted, ambient inside permitted &
    inheritable.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.kernel.capability import (
    CAP_FULL_SET,
    CAP_SETFCAP,
    CAP_SETUID,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    capable,
    capable_wrt_inode_uidgid,
    has_capability,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EINVAL, EPERM, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.exec import LinuxBinprm
    from glasskernel.fs.types import File, Inode
    from glasskernel.kernel.task import Cred, TaskStruct

MNT_NOSUID = 1                                     # fs/types.py, which lies above
LSM_UNSAFE_SHARE, LSM_UNSAFE_PTRACE, LSM_UNSAFE_NO_NEW_PRIVS = 1, 2, 4      # linux_binprm.unsafe
PER_CLEAR_ON_SETID = 0x0040000 | 0x0100000 | 0x0200000 | 0x0400000
SECBIT_NOROOT, SECBIT_KEEP_CAPS = 1, 16
XATTR_NAME_CAPS = b"security.capability"
VFS_CAP_REVISION_MASK, VFS_CAP_FLAGS_EFFECTIVE = 0xFF000000, 1
_V1, _V2, _V3 = struct.Struct("<III"), struct.Struct("<IIIII"), struct.Struct("<IIIIII")


@notrace
def mnt_may_suid(file: File) -> bool:
    """True if set-id bits and file capabilities count on the mount of `file`."""
    return not file.f_path.mnt.mnt_flags & MNT_NOSUID


def cap_bprm_set_creds(bprm: LinuxBinprm) -> None:
    """Computes the capabilities that bprm.cred will have. bprm.cred holds the new ids already.

    Raises EPERM if a file's capabilities cannot all be given although it has the effective bit.
    """
    task = current()
    old, new = task.cred, bprm.cred
    effective, has_fcap = get_file_caps(bprm)
    effective = handle_privileged_root(bprm, has_fcap, effective)
    gained = new.cap_permitted & ~old.cap_permitted
    if gained:
        bprm.per_clear |= PER_CLEAR_ON_SETID
    is_setid = new.euid != old.uid or new.egid != old.gid
    if (is_setid or gained) and (bprm.unsafe & ~LSM_UNSAFE_PTRACE or not ptracer_capable(task)):
        # Who shares our state, or watches us, must not gain by it.
        if not capable(CAP_SETUID) or bprm.unsafe & LSM_UNSAFE_NO_NEW_PRIVS:
            new.euid = new.uid
            new.egid = new.gid
        new.cap_permitted &= old.cap_permitted
    new.suid = new.fsuid = new.euid
    new.sgid = new.fsgid = new.egid
    if has_fcap or is_setid:
        new.cap_ambient = 0
    new.cap_permitted |= new.cap_ambient
    new.cap_effective = new.cap_permitted if effective else new.cap_ambient
    new.securebits &= ~SECBIT_KEEP_CAPS
    bprm.cap_elevated = bool(is_setid or (new.uid and (effective or new.cap_permitted & ~new.cap_ambient)))


@notrace
def ptracer_capable(task: TaskStruct) -> bool:
    """True if nobody traces the task, or the tracer could have done so anyway."""
    return not task.ptrace or has_capability(task.parent, CAP_SYS_PTRACE)


def handle_privileged_root(bprm: LinuxBinprm, has_fcap: bool, effective: bool) -> bool:
    """Root gets everything in its bounding set; answers whether the effective set is to be raised."""
    old, new = current().cred, bprm.cred
    if new.securebits & SECBIT_NOROOT:
        return effective
    if has_fcap and new.euid == 0 and new.uid != 0:
        return effective     # a set-user-ID-root file with capabilities: only those count
    if new.euid == 0 or new.uid == 0:
        new.cap_permitted = old.cap_bset | old.cap_inheritable
    return effective or new.euid == 0


def get_file_caps(bprm: LinuxBinprm) -> tuple[bool, bool]:
    """Permitted capabilities from the file; answers (raise effective too, the file has capabilities)."""
    new = bprm.cred
    new.cap_permitted = 0
    if not mnt_may_suid(bprm.file):
        return False, False
    caps = get_vfs_caps_from_disk(bprm.file.f_inode)
    if caps is None:
        return False, False
    return bprm_caps_from_vfs_caps(caps, new), True


def get_vfs_caps_from_disk(inode: Inode) -> tuple[int, int, bool] | None:
    """(permitted, inheritable, effective) of security.capability; None if the file has none."""
    getxattr = inode.i_op.getxattr
    if getxattr is None:
        return None
    try:
        data = getxattr(inode, XATTR_NAME_CAPS)
    except KernelError:
        return None
    if len(data) < 4:
        return None
    magic = int.from_bytes(data[:4], "little")
    revision = magic & VFS_CAP_REVISION_MASK
    permitted = inheritable = 0
    if revision == 0x01000000 and len(data) == 12:
        _, permitted, inheritable = _V1.unpack(data)
    elif revision in (0x02000000, 0x03000000) and len(data) == (20 if revision == 0x02000000 else 24):
        words = (_V2 if revision == 0x02000000 else _V3).unpack(data)
        if len(words) == 6 and words[5]:
            return None                            # rootid of another user namespace
        permitted, inheritable = words[1] | words[3] << 32, words[2] | words[4] << 32
    else:
        return None
    return permitted & CAP_FULL_SET, inheritable & CAP_FULL_SET, bool(magic & VFS_CAP_FLAGS_EFFECTIVE)


def bprm_caps_from_vfs_caps(caps: tuple[int, int, bool], new: Cred) -> bool:
    """pP' = (X & fP) | (pI & fI).

    Raises EPERM if a program that does not know capabilities would lack some.
    """
    permitted, inheritable, effective = caps
    new.cap_permitted = (new.cap_bset & permitted) | (new.cap_inheritable & inheritable)
    if effective and permitted & ~new.cap_permitted:
        raise KernelError(EPERM)
    return effective


# ---- attributes --------------------------------------------------------------------------------------
def cap_inode_setxattr(name: bytes) -> None:
    """Attributes of security modules are for administrators. Raises EPERM. security.capability: cap_convert_nscap()."""
    if name.startswith(b"security.") and name != XATTR_NAME_CAPS and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)


def cap_inode_removexattr(inode: Inode, name: bytes) -> None:
    """Raises EPERM."""
    if name == XATTR_NAME_CAPS:
        if not capable_wrt_inode_uidgid(inode, CAP_SETFCAP):
            raise KernelError(EPERM)
    elif name.startswith(b"security.") and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)


def cap_convert_nscap(inode: Inode, value: bytes) -> None:
    """Before setxattr(2) of security.capability. Raises EINVAL (no such structure), EPERM."""
    revision = int.from_bytes(value[:4], "little") & ~VFS_CAP_FLAGS_EFFECTIVE
    if (len(value), revision) not in ((_V2.size, 0x02000000), (_V3.size, 0x03000000)):
        raise KernelError(EINVAL)
    if not capable_wrt_inode_uidgid(inode, CAP_SETFCAP):
        raise KernelError(EPERM)
