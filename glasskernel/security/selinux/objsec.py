"""What SELinux keeps with tasks, files, inodes, sockets ...: labels as SIDs.

Linux: security/selinux/include/objsec.h (5.3). Same: fields. Differs: blobs are objects that hang off `security`,
    `i_security`, `f_security`, `s_security`, `sk_security`; backward pointers that nobody needs are left out.
Owns: those attributes. Invariants: with SELinux on, every super block, inode, file, credential set and socket that
    was made after selinux_init() has its blob; a TaskSecurityStruct belongs to one Cred.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.flask import SECCLASS_FILE, SECINITSID_FILE, SECINITSID_UNLABELED

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, SuperBlock
    from glasskernel.kernel.task import Cred, TaskStruct
    from glasskernel.security.selinux.types import SelinuxState

# InodeSecurityStruct.initialized
LABEL_INVALID, LABEL_INITIALIZED, LABEL_PENDING = 0, 1, 2
# SuperblockSecurityStruct.flags
CONTEXT_MNT, FSCONTEXT_MNT, ROOTCONTEXT_MNT, DEFCONTEXT_MNT, SBLABEL_MNT = 0x01, 0x02, 0x04, 0x08, 0x10
SE_MNTMASK = 0x0F
SE_SBINITIALIZED, SE_SBPROC, SE_SBGENFS, SE_SBGENFS_XATTR = 0x0100, 0x0200, 0x0400, 0x0800
# SkSecurityStruct.nlbl_state is not here: there is no NetLabel


@slotted
class TaskSecurityStruct:
    """struct task_security_struct: what a set of credentials stands for."""

    osid: int                          # before the last execve(2)
    sid: int
    exec_sid: int = 0                  # of the next program; 0: what the policy says, like the others
    create_sid: int = 0                # of new files
    keycreate_sid: int = 0
    sockcreate_sid: int = 0


@slotted
class InodeSecurityStruct:
    """struct inode_security_struct"""

    task_sid: int                      # who made it
    sid: int = SECINITSID_UNLABELED
    sclass: int = SECCLASS_FILE
    initialized: int = LABEL_INVALID


@slotted
class FileSecurityStruct:
    """struct file_security_struct"""

    sid: int                           # who opened it
    fown_sid: int                      # who asked for SIGIO
    isid: int = 0                      # the inode's label when it was opened
    pseqno: int = 0                    # the policy that allowed it


@slotted
class SuperblockSecurityStruct:
    """struct superblock_security_struct. isec_head: inodes that were met before the label's rule was known."""

    sid: int = SECINITSID_UNLABELED    # of the file system itself
    def_sid: int = SECINITSID_FILE     # of files without a label
    mntpoint_sid: int = SECINITSID_UNLABELED           # of all files: context=
    behavior: int = 0                  # SECURITY_FS_USE_*
    flags: int = 0                     # SE_SB*, *_MNT
    isec_head: dict[Inode, None] = field(default_factory=dict)


@slotted
class IpcSecurityStruct:
    """struct ipc_security_struct"""

    sclass: int
    sid: int


@slotted
class MsgSecurityStruct:
    """struct msg_security_struct"""

    sid: int = SECINITSID_UNLABELED


@slotted
class SkSecurityStruct:
    """struct sk_security_struct"""

    sid: int = SECINITSID_UNLABELED
    peer_sid: int = SECINITSID_UNLABELED
    sclass: int = 0


@slotted
class KeySecurityStruct:
    """struct key_security_struct"""

    sid: int


@notrace
def copy_tsec(old: TaskSecurityStruct) -> TaskSecurityStruct:
    """A copy for another set of credentials."""
    return TaskSecurityStruct(old.osid, old.sid, old.exec_sid, old.create_sid, old.keycreate_sid, old.sockcreate_sid)


@notrace
def selinux_cred(cred: Cred) -> TaskSecurityStruct:
    blob: TaskSecurityStruct = cred.security
    return blob


@notrace
def selinux_file(file: File) -> FileSecurityStruct:
    blob: FileSecurityStruct = file.f_security
    return blob


@notrace
def selinux_inode(inode: Inode) -> InodeSecurityStruct:
    blob: InodeSecurityStruct = inode.i_security
    return blob


@notrace
def selinux_superblock(sb: SuperBlock) -> SuperblockSecurityStruct:
    blob: SuperblockSecurityStruct = sb.s_security
    return blob


@notrace
def selinux_ipc(perm: Any) -> IpcSecurityStruct:
    blob: IpcSecurityStruct = perm.security
    return blob


@notrace
def selinux_sock(sk: Any) -> SkSecurityStruct:
    blob: SkSecurityStruct = sk.sk_security
    return blob


@notrace
def cred_sid(cred: Cred) -> int:
    """The label of a set of credentials."""
    sid: int = cred.security.sid
    return sid


@notrace
def current_sid() -> int:
    """The caller's label."""
    sid: int = register.task.cred.security.sid
    return sid


@notrace
def task_sid(task: TaskStruct) -> int:
    """The label that others see of a task."""
    sid: int = task.real_cred.security.sid
    return sid


@notrace
def selinux_state() -> SelinuxState:
    """The running kernel's. There with SELinux only."""
    state = register.task.kernel.selinux
    assert state is not None
    return state
