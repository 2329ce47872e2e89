"""SELinux's say about open files and mappings.

Linux: the file part of security/selinux/hooks.c (5.3). Same: a read or write is asked about again only when the label
    of the caller, of the file or the policy is not what it was at open; execmem, execheap, execstack, execmod; ioctl
    numbers.
Owns: FileSecurityStruct. Context: task; may sleep (a label may have to be read).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.ptrace import SP
from glasskernel.fs.ext4.ioctl import FS_IOC_GETFLAGS, FS_IOC_GETVERSION, FS_IOC_SETFLAGS, FS_IOC_SETVERSION
from glasskernel.fs.fcntl import (
    F_GETLK,
    F_GETOWN,
    F_GETOWNER_UIDS,
    F_GETSIG,
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_OFD_SETLKW,
    F_SETLK,
    F_SETLKW,
    F_SETOWN,
    F_SETSIG,
)
from glasskernel.fs.ioctl import FIBMAP, FIGETBSZ, FIOASYNC, FIONBIO, FIONREAD
from glasskernel.fs.types import MAY_APPEND, MAY_WRITE, O_APPEND
from glasskernel.kernel.capability import CAP_SYS_TTY_CONFIG
from glasskernel.kernel.current import register
from glasskernel.kernel.signal_types import SIGIO
from glasskernel.lib.errno import EPERM, KernelError
from glasskernel.lib.types import may_sleep
from glasskernel.mm.types import VM_EXEC, VM_SHARED
from glasskernel.security.lsm_audit import LSM_AUDIT_DATA_FILE, LSM_AUDIT_DATA_IOCTL_OP, CommonAuditData
from glasskernel.security.selinux.av_permissions import (
    FD__USE,
    FILE__EXECMOD,
    FILE__EXECUTE,
    FILE__GETATTR,
    FILE__IOCTL,
    FILE__LOCK,
    FILE__MAP,
    FILE__OPEN,
    FILE__READ,
    FILE__SETATTR,
    FILE__WRITE,
    MEMPROTECT__MMAP_ZERO,
    PROCESS__EXECHEAP,
    PROCESS__EXECMEM,
    PROCESS__EXECSTACK,
)
from glasskernel.security.selinux.avc import avc_has_extended_perms, avc_has_perm, avc_policy_seqno
from glasskernel.security.selinux.flask import SECCLASS_FD, SECCLASS_MEMPROTECT, SECCLASS_PROCESS
from glasskernel.security.selinux.has_perm import (
    SOCKFS_MAGIC,
    cred_has_capability,
    file_has_perm,
    file_mask_to_av,
    file_to_av,
    inode_has_perm,
    selinux_policycap_openperm,
)
from glasskernel.security.selinux.hooks_task import signal_to_av
from glasskernel.security.selinux.inode_label import inode_security
from glasskernel.security.selinux.objsec import (
    FileSecurityStruct,
    cred_sid,
    current_sid,
    selinux_file,
    selinux_state,
    task_sid,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.kernel.task import Cred, TaskStruct
    from glasskernel.mm.types import VmAreaStruct

CONFIG_LSM_MMAP_MIN_ADDR = 65536
PROT_WRITE, PROT_EXEC, MAP_SHARED, MAP_TYPE = 2, 4, 1, 0x0F
F_SETFL, F_GETFL = 4, 3
KDSKBENT, KDSKBSENT = 0x4B47, 0x4B49
_GETATTR_IOCTLS = (FIONREAD, FIBMAP, FIGETBSZ, FS_IOC_GETFLAGS, FS_IOC_GETVERSION)
_DESCRIPTOR_FCNTLS = (F_SETFL, F_SETOWN, F_SETSIG, F_GETFL, F_GETOWN, F_GETSIG, F_GETOWNER_UIDS)
_LOCK_FCNTLS = (F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW)


def selinux_file_alloc_security(file: File) -> None:
    sid = current_sid()
    file.f_security = FileSecurityStruct(sid, sid)


@may_sleep
def selinux_file_permission(file: File, mask: int) -> None:
    """Each read and write. Raises EACCES."""
    if not mask:
        return
    fsec = file.f_security
    isec = inode_security(file.f_inode)
    state = selinux_state()
    if current_sid() == fsec.sid and fsec.isid == isec.sid and fsec.pseqno == avc_policy_seqno(state):
        return                                             # nothing has changed since the check of open(2)
    selinux_revalidate_file_permission(file, mask)


def selinux_revalidate_file_permission(file: File, mask: int) -> None:
    """Asks anew."""
    if file.f_flags & O_APPEND and mask & MAY_WRITE:
        mask |= MAY_APPEND
    file_has_perm(register.task.cred, file, file_mask_to_av(file.f_inode.i_mode, mask))


def selinux_file_open(file: File) -> None:
    """The check of open(2); what it depended on is kept for selinux_file_permission(). Raises EACCES."""
    fsec = selinux_file(file)
    fsec.isid = inode_security(file.f_inode).sid
    fsec.pseqno = avc_policy_seqno(selinux_state())
    av = file_to_av(file)
    if selinux_policycap_openperm() and file.f_inode.i_sb.s_magic != SOCKFS_MAGIC:
        av |= FILE__OPEN
    inode_has_perm(file.f_cred, file.f_inode, av, CommonAuditData(LSM_AUDIT_DATA_FILE, file))


def ioctl_has_perm(cred: Cred, file: File, requested: int, cmd: int) -> None:
    """A command that goes to the file's own ioctl(). Raises EACCES."""
    ssid = cred_sid(cred)
    fsec = selinux_file(file)
    state = selinux_state()
    ad = CommonAuditData(LSM_AUDIT_DATA_IOCTL_OP, file, cmd)
    if ssid != fsec.sid:
        avc_has_perm(state, ssid, fsec.sid, SECCLASS_FD, FD__USE, ad)
    isec = inode_security(file.f_inode)
    avc_has_extended_perms(state, ssid, isec.sid, isec.sclass, requested, cmd >> 8 & 0xFF, cmd & 0xFF, ad)


def selinux_file_ioctl(file: File, cmd: int) -> None:
    cred = register.task.cred
    if cmd in _GETATTR_IOCTLS:
        file_has_perm(cred, file, FILE__GETATTR)
    elif cmd in (FS_IOC_SETFLAGS, FS_IOC_SETVERSION):
        file_has_perm(cred, file, FILE__SETATTR)
    elif cmd in (FIONBIO, FIOASYNC):
        file_has_perm(cred, file, 0)
    elif cmd in (KDSKBENT, KDSKBSENT):
        if not cred_has_capability(cred, CAP_SYS_TTY_CONFIG, True):
            raise KernelError(EPERM)
    else:
        ioctl_has_perm(cred, file, FILE__IOCTL, cmd)


# ---- mappings ------------------------------------------------------------------------------------------------
def file_map_prot_check(file: File | None, prot: int, shared: bool) -> None:
    """May the caller have this mapped with these rights? Raises EACCES."""
    cred = register.task.cred
    if prot & PROT_EXEC and (file is None or (not shared and prot & PROT_WRITE)):
        sid = cred_sid(cred)                               # executable memory that can be written
        avc_has_perm(selinux_state(), sid, sid, SECCLASS_PROCESS, PROCESS__EXECMEM)
    if file is not None:
        av = FILE__READ
        if shared and prot & PROT_WRITE:
            av |= FILE__WRITE
        if prot & PROT_EXEC:
            av |= FILE__EXECUTE
        file_has_perm(cred, file, av)


def selinux_mmap_addr(addr: int) -> None:
    if addr < CONFIG_LSM_MMAP_MIN_ADDR:
        sid = current_sid()
        avc_has_perm(selinux_state(), sid, sid, SECCLASS_MEMPROTECT, MEMPROTECT__MMAP_ZERO)


def selinux_mmap_file(file: File | None, reqprot: int, prot: int, flags: int) -> None:
    """reqprot: what the program asked for; prot: with PROT_EXEC of READ_IMPLIES_EXEC. Raises EACCES."""
    if file is not None:
        inode_has_perm(register.task.cred, file.f_inode, FILE__MAP, CommonAuditData(LSM_AUDIT_DATA_FILE, file))
    if selinux_state().checkreqprot:
        prot = reqprot
    file_map_prot_check(file, prot, flags & MAP_TYPE == MAP_SHARED)


def selinux_file_mprotect(vma: VmAreaStruct, reqprot: int, prot: int) -> None:
    """mprotect(2): what was data must not become code. Raises EACCES."""
    if selinux_state().checkreqprot:
        prot = reqprot
    if prot & PROT_EXEC and not vma.vm_flags & VM_EXEC:
        cred = register.task.cred
        sid = cred_sid(cred)
        mm = vma.vm_mm
        if vma.vm_start >= mm.start_brk and vma.vm_end <= mm.brk:
            avc_has_perm(selinux_state(), sid, sid, SECCLASS_PROCESS, PROCESS__EXECHEAP)
        elif vma.vm_file is None and (vma.vm_start <= mm.start_stack <= vma.vm_end or vma_is_stack_for_current(vma)):
            avc_has_perm(selinux_state(), sid, sid, SECCLASS_PROCESS, PROCESS__EXECSTACK)
        elif vma.vm_file is not None and vma.anon_vma is not None:
            file_has_perm(cred, vma.vm_file, FILE__EXECMOD)
    file_map_prot_check(vma.vm_file, prot, bool(vma.vm_flags & VM_SHARED))


def vma_is_stack_for_current(vma: VmAreaStruct) -> bool:
    """The caller's stack pointer lies in it (mm/util.c)."""
    return bool(vma.vm_start <= register.task.thread.regs[SP] <= vma.vm_end)


# ---- the rest ------------------------------------------------------------------------------------------------
def selinux_file_lock(file: File) -> None:
    file_has_perm(register.task.cred, file, FILE__LOCK)


def selinux_file_fcntl(file: File, cmd: int, arg: int) -> None:
    cred = register.task.cred
    if cmd == F_SETFL and file.f_flags & O_APPEND and not arg & O_APPEND:
        file_has_perm(cred, file, FILE__WRITE)
    elif cmd in _DESCRIPTOR_FCNTLS:
        file_has_perm(cred, file, 0)
    elif cmd in _LOCK_FCNTLS:
        file_has_perm(cred, file, FILE__LOCK)


def selinux_file_set_fowner(file: File) -> None:
    selinux_file(file).fown_sid = current_sid()


def selinux_file_send_sigiotask(task: TaskStruct, file: File, signum: int) -> None:
    """Context: any."""
    state = task.kernel.selinux
    assert state is not None
    avc_has_perm(state, selinux_file(file).fown_sid, task_sid(task), SECCLASS_PROCESS, signal_to_av(signum or SIGIO))


def selinux_file_receive(file: File) -> None:
    file_has_perm(register.task.cred, file, file_to_av(file))


FILE_HOOKS: dict[str, Callable[..., Any]] = {
    "file_alloc_security": selinux_file_alloc_security,
    "file_permission": selinux_file_permission,
    "file_open": selinux_file_open,
    "file_ioctl": selinux_file_ioctl,
    "mmap_addr": selinux_mmap_addr,
    "mmap_file": selinux_mmap_file,
    "file_mprotect": selinux_file_mprotect,
    "file_lock": selinux_file_lock,
    "file_fcntl": selinux_file_fcntl,
    "file_set_fowner": selinux_file_set_fowner,
    "file_send_sigiotask": selinux_file_send_sigiotask,
    "file_receive": selinux_file_receive,
}
