"""BSD process accounting: a record of each process that ends, in a file.

Linux: kernel/acct.c, include/uapi/linux/acct.h (5.3, CONFIG_BSD_PROCESS_ACCT_V3). Same: format 3, written by the dying
process with the credentials that the file was opened with, suspended below 2 % of free space and resumed at 4 %.
Differs: one PID namespace. Owns: Kernel.acct. Invariant: while it is on, the file has a reference and stays open.
Context: task.
"""
from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.file_table import fput
from glasskernel.fs.mnt_writers import __mnt_drop_write, __mnt_want_write
from glasskernel.fs.mount import mntput
from glasskernel.fs.namespace import mnt_clone_internal
from glasskernel.fs.open import filp_open
from glasskernel.fs.path_walk import getname
from glasskernel.fs.read_write import kernel_write
from glasskernel.fs.statfs import vfs_statfs
from glasskernel.fs.types import FMODE_CAN_WRITE, O_APPEND, O_LARGEFILE, O_WRONLY, S_IFMT, S_IFREG, File, Mount, Path
from glasskernel.kernel.capability import CAP_SYS_PACCT, capable
from glasskernel.kernel.cred import override_creds, revert_creds
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.cputime import thread_group_cputime
from glasskernel.kernel.task import (
    PF_DUMPCORE,
    PF_FORKNOEXEC,
    PF_SIGNALED,
    PF_SUPERPRIV,
    RLIM_INFINITY,
    RLIMIT_FSIZE,
    TaskStruct,
)
from glasskernel.kernel.time.timekeeping import ktime_get, ktime_get_real
from glasskernel.lib.errno import EACCES, EIO, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

AFORK, ASU, ACORE, AXSIG = 0x01, 0x02, 0x08, 0x10
ACCT_VERSION = 3
AHZ = 100
RESUME, SUSPEND, ACCT_TIMEOUT_S = 4, 2, 30         # percent of free space; how often it is looked at
MANTSIZE, EXPSIZE, MAXFRACT = 13, 3, (1 << 13) - 1
_SECOND_NS = 1_000_000_000
_RECORD = struct.Struct("<BBHIIIIIIfHHHHHHHH16s")   # struct acct_v3: 64 bytes


@slotted
class BsdAcct:
    """struct bsd_acct_struct. needcheck: when free space is to be looked at again (s)."""

    file: File
    mnt: Mount                         # whose end is that of the accounting
    active: bool = True
    needcheck: int = 0


@slotted
class Pacct:
    """struct pacct_struct: what is known before the address space goes."""

    flag: int
    exitcode: int
    mem_kb: int


@syscall
def sys_acct(name: UserPtr) -> int:
    """acct(2). Errors: EPERM, EACCES (not a regular file), EIO, and those of open(2)."""
    if not capable(CAP_SYS_PACCT):
        raise KernelError(EPERM)
    kernel = current().kernel
    if name:
        acct_on(kernel, getname(name))
    elif kernel.acct is not None:
        acct_pin_kill(kernel.acct.mnt)
    return 0


@may_sleep
def acct_pin_kill(mnt: Mount) -> None:
    """Ends the accounting: somebody said so, or the file system is being unmounted."""
    kernel = mnt.mnt_sb.kernel
    old, kernel.acct = kernel.acct, None
    assert old is not None and old.mnt is mnt
    mnt.mnt_pin = None
    fput(old.file)


def acct_on(kernel: Kernel, pathname: bytes) -> None:
    """Begins to write to a file, instead of the one before."""
    file = filp_open(pathname, O_WRONLY | O_APPEND | O_LARGEFILE, 0)
    if file.f_inode.i_mode & S_IFMT != S_IFREG:
        fput(file)
        raise KernelError(EACCES)
    if not file.f_mode & FMODE_CAN_WRITE:
        fput(file)
        raise KernelError(EIO)
    mnt = file.f_path.mnt
    internal = mnt_clone_internal(file.f_path)
    __mnt_want_write(internal)
    file.f_path = Path(internal, file.f_path.dentry)
    if kernel.acct is not None:
        acct_pin_kill(kernel.acct.mnt)
    kernel.acct = BsdAcct(file, mnt)
    mnt.mnt_pin = acct_pin_kill
    __mnt_drop_write(mnt)
    mntput(mnt)


def check_free_space(acct: BsdAcct) -> bool:
    """False while the file system is too full for records."""
    now = ktime_get() // _SECOND_NS
    if now < acct.needcheck:
        return acct.active
    stat = vfs_statfs(acct.file.f_path)
    if acct.active:
        if stat.f_bavail <= stat.f_blocks * SUSPEND // 100:
            acct.active = False
            current().kernel.printk("Process accounting paused")
    elif stat.f_bavail >= stat.f_blocks * RESUME // 100:
        acct.active = True
        current().kernel.printk("Process accounting resumed")
    acct.needcheck = now + ACCT_TIMEOUT_S
    return acct.active


# ---- the end of a process ----------------------------------------------------------------------------------
def acct_collect(exitcode: int, group_dead: bool) -> Pacct:
    """What the record needs of a process that still has its memory."""
    task = current()
    vsize = 0
    if group_dead and task.mm is not None:
        vsize = sum(vma.vm_end - vma.vm_start for vma in task.mm.vmas)
    flag = AFORK if task.flags & PF_FORKNOEXEC else 0
    flag |= ASU if task.flags & PF_SUPERPRIV else 0
    flag |= ACORE if task.flags & PF_DUMPCORE else 0
    flag |= AXSIG if task.flags & PF_SIGNALED else 0
    return Pacct(flag, exitcode, vsize >> 10)


@may_sleep
def acct_process(pacct: Pacct) -> None:
    """The last thread of a process ends: writes its record."""
    acct = current().kernel.acct
    if acct is not None:
        do_acct_process(acct, pacct)


def do_acct_process(acct: BsdAcct, pacct: Pacct) -> None:
    """The file size limit does not count, and a failure is nobody's."""
    task = current()
    limits = task.signal.rlim
    limit, limits[RLIMIT_FSIZE] = limits[RLIMIT_FSIZE], (RLIM_INFINITY, RLIM_INFINITY)
    cred = override_creds(acct.file.f_cred)
    try:
        with suppress(KernelError):
            if check_free_space(acct):
                kernel_write(acct.file, fill_ac(task, pacct), 0)      # O_APPEND: the position does not matter
    finally:
        revert_creds(cred)
        limits[RLIMIT_FSIZE] = limit


def fill_ac(task: TaskStruct, pacct: Pacct) -> bytes:
    """struct acct_v3"""
    elapsed_ns = ktime_get() - task.group_leader.start_time
    sig, cred = task.signal, task.real_cred
    utime, stime, _ = thread_group_cputime(task)
    minflt = sig.min_flt + sum(t.min_flt for t in sig.threads)
    majflt = sig.maj_flt + sum(t.maj_flt for t in sig.threads)
    tty = 0 if sig.tty is None else old_encode_dev(sig.tty.devt)
    return _RECORD.pack(
        pacct.flag, ACCT_VERSION, tty, pacct.exitcode, cred.uid, cred.gid, task.tgid,
        task.group_leader.real_parent.tgid, (ktime_get_real() - elapsed_ns) // _SECOND_NS & 0xFFFF_FFFF,
        float(nsec_to_AHZ(elapsed_ns)), encode_comp_t(nsec_to_AHZ(utime)), encode_comp_t(nsec_to_AHZ(stime)),
        encode_comp_t(pacct.mem_kb), encode_comp_t(0), encode_comp_t(0), encode_comp_t(minflt), encode_comp_t(majflt),
        encode_comp_t(0), task.group_leader.comm)


@notrace
def nsec_to_AHZ(ns: int) -> int:
    return ns // (_SECOND_NS // AHZ)


@notrace
def old_encode_dev(dev: int) -> int:
    """16 bits of a device number."""
    return dev >> 20 << 8 & 0xFF00 | dev & 0xFF


def encode_comp_t(value: int) -> int:
    """A number in 16 bits: 13 of mantissa, 3 of an exponent of 8."""
    exponent = rnd = 0
    while value > MAXFRACT:
        rnd = value & 1 << EXPSIZE - 1
        value >>= EXPSIZE
        exponent += 1
    if rnd:
        value += 1
        if value > MAXFRACT:
            value >>= EXPSIZE
            exponent += 1
    if exponent > (1 << EXPSIZE) - 1:
        return 0xFFFF
    return (exponent << MANTSIZE) + value
