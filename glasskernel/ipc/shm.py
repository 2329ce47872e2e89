"""System V shared memory.

Linux: ipc/shm.c (5.3). Same: a segment is a file of tmpfs called SYSV<key>; attached areas count, the last
    detachment of a segment that was removed frees it; SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC, SHM_LOCK.
Owns: ShmidKernel.
Invariants: shm_nattch is the number of areas with shm_vm_ops of the segment (and of shmat() calls under way).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.fs.file_table import alloc_file_clone, fput
from glasskernel.fs.types import O_RDONLY, O_RDWR, FileOperations
from glasskernel.ipc.util import (
    IPC_INFO,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    S_IRUGO,
    S_IWUGO,
    KernIpcPerm,
    highest,
    ipc_addid,
    ipc_obtain_object_check,
    ipc_obtain_object_idr,
    ipc_rmid,
    ipc_state,
    ipc_update_perm,
    ipcctl_obtain_check,
    ipcget_public,
    ipcperms,
    kernel_to_ipc64_perm,
    new_perm,
    seconds,
)
from glasskernel.kernel.capability import CAP_IPC_LOCK, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_write, up_write
from glasskernel.kernel.task import RLIMIT_MEMLOCK
from glasskernel.lib.errno import EINVAL, ENOSPC, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import filemap_map_pages
from glasskernel.mm.mmap import (
    HUGE_PAGE,
    MAP_FIXED,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    do_mmap,
    do_munmap,
    rlimit,
)
from glasskernel.mm.shmem import shmem_fault, shmem_file_setup, shmem_get_policy, shmem_set_policy
from glasskernel.mm.types import TASK_SIZE, VM_HUGETLB, VM_NORESERVE, VmOperations

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.ipc.util import IpcState
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.lib.types import UserPtr, s32, size_t
    from glasskernel.mm.mempolicy import Mempolicy
    from glasskernel.mm.types import MmStruct, VmAreaStruct, VmFault

SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC = 0o10000, 0o20000, 0o40000, 0o100000
SHM_HUGE_SHIFT, SHM_HUGE_MASK, HUGETLB_SHMFS_INODE = 26, 0x3F, 1
SHM_HUGETLB, SHM_NORESERVE, SHM_DEST, SHM_LOCKED = 0o4000, 0o10000, 0o1000, 0o2000
SHM_LOCK, SHM_UNLOCK, SHM_STAT, SHM_INFO, SHM_STAT_ANY = range(11, 16)
SHMMIN, SHMLBA, PAGE_SIZE = 1, 4096, 4096


@slotted
class ShmidKernel(KernIpcPerm):
    """struct shmid_kernel. segsz: bytes. creator: None once it has ended."""

    file: File = None  # type: ignore[assignment]
    segsz: int = 0
    nattch: int = 0
    atime: int = 0
    dtime: int = 0
    ctime: int = 0
    cprid: int = 0
    lprid: int = 0
    creator: TaskStruct | None = None


# ---- attached areas ---------------------------------------------------------------------------------------------
@notrace
def _segment(vma: VmAreaStruct) -> ShmidKernel:
    assert vma.vm_file is not None
    segment: ShmidKernel = vma.vm_file.private_data
    return segment


def __shm_open(segment: ShmidKernel) -> None:
    segment.atime = seconds()
    segment.lprid = current().tgid
    segment.nattch += 1


def shm_open(vma: VmAreaStruct) -> None:
    """An area was copied (fork) or split."""
    __shm_open(_segment(vma))


def shm_close(vma: VmAreaStruct) -> None:
    """An area is gone."""
    shm_detached(vma.vm_mm.kernel.ipc, _segment(vma))


@notrace
def shm_detached(state: IpcState, segment: ShmidKernel) -> None:
    segment.lprid = current().tgid
    segment.dtime = seconds()
    segment.nattch -= 1
    if shm_may_destroy(state, segment):
        shm_destroy(state, segment)


def shm_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    return shmem_fault(vma, vmf)


def shm_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap of an attached segment: the file's own, then areas are counted."""
    segment: ShmidKernel = file.private_data
    __shm_open(segment)
    segment.file.f_op.mmap(segment.file, vma)
    vma.vm_ops = shm_huge_vm_ops if vma.vm_flags & VM_HUGETLB else shm_vm_ops


def shm_get_unmapped_area(file: File, address: int, length: int, pgoff: int, flags: int) -> int:
    """->get_unmapped_area() of a segment of huge pages."""
    segment: ShmidKernel = file.private_data
    assert segment.file.f_op.get_unmapped_area is not None
    return segment.file.f_op.get_unmapped_area(segment.file, address, length, pgoff, flags)


def shm_split(vma: VmAreaStruct, address: int) -> None:
    """->split() of a segment of huge pages. Raises EINVAL."""
    if address & HUGE_PAGE - 1:
        raise KernelError(EINVAL)


def shm_release(inode: Inode, file: File) -> None:
    """The last area that was attached by one shmat() is gone."""
    file.private_data = None


def shm_set_policy(vma: VmAreaStruct, policy: Mempolicy | None) -> None:
    """->set_policy(): the segment's."""
    shmem_set_policy(vma, policy)


def shm_get_policy(vma: VmAreaStruct, address: int) -> Mempolicy | None:
    """->get_policy()"""
    return shmem_get_policy(vma, address)


shm_vm_ops = VmOperations(fault=shm_fault, map_pages=filemap_map_pages, open=shm_open, close=shm_close,
                          set_policy=shm_set_policy, get_policy=shm_get_policy)
shm_huge_vm_ops = VmOperations(open=shm_open, close=shm_close, split=shm_split)
shm_file_operations = FileOperations(mmap=shm_mmap, release=shm_release)
shm_file_operations_huge = FileOperations(mmap=shm_mmap, release=shm_release, get_unmapped_area=shm_get_unmapped_area)


def shm_may_destroy(state: IpcState, segment: ShmidKernel) -> bool:
    return segment.nattch == 0 and (bool(state.shm_rmid_forced) or bool(segment.mode & SHM_DEST))


def shm_destroy(state: IpcState, segment: ShmidKernel) -> None:
    """Frees a segment that nobody can reach any more."""
    state.shm_tot -= segment.segsz + PAGE_SIZE - 1 >> 12
    ipc_rmid(state.shm, segment)
    segment.creator = None
    fput(segment.file)


def exit_shm(task: TaskStruct) -> None:
    """exit(2): with kernel.shm_rmid_forced, what the task made goes with it unless somebody is attached."""
    state = task.kernel.ipc
    for segment in list(state.shm.objects.values()):
        if segment.creator is task:
            segment.creator = None
            if state.shm_rmid_forced and shm_may_destroy(state, segment):
                shm_destroy(state, segment)


# ---- the system calls ---------------------------------------------------------------------------------------------
@syscall
def sys_shmget(key: s32, size: size_t, shmflg: int) -> int:
    """shmget(2). Errors: EACCES, EEXIST, EINVAL, ENFILE, ENOENT, ENOSPC, EPERM."""
    state = ipc_state()
    segment: ShmidKernel | None = ipcget_public(state.shm, key, shmflg)
    if segment is None:
        return newseg(state, key, size, shmflg)
    if segment.segsz < size:
        raise KernelError(EINVAL)
    ipcperms(segment, shmflg)
    if segment.security is not None:
        current().kernel.lsm.security_shm_associate(segment, shmflg)
    return segment.id


@may_sleep
def newseg(state: IpcState, key: int, size: int, shmflg: int) -> int:
    """A new segment. Raises EINVAL, ENFILE, ENOSPC."""
    pages = size + PAGE_SIZE - 1 >> 12
    if not SHMMIN <= size <= state.shm_max or pages << 12 < size:
        raise KernelError(EINVAL)
    if state.shm_tot + pages > state.shm_all:
        raise KernelError(ENOSPC)
    name = b"SYSV%08x" % (key & 0xFFFF_FFFF)
    task = current()
    acctflag = VM_NORESERVE if shmflg & SHM_NORESERVE else 0
    if shmflg & SHM_HUGETLB:
        file = task.kernel.hugetlb_file_setup(name, size + HUGE_PAGE - 1 & -HUGE_PAGE, acctflag, HUGETLB_SHMFS_INODE,
                                              shmflg >> SHM_HUGE_SHIFT & SHM_HUGE_MASK)
    else:
        file = shmem_file_setup(task.kernel, name, size, acctflag)
    segment = ShmidKernel(
        *new_perm(key, shmflg), file=file, segsz=size, ctime=seconds(), cprid=task.tgid, creator=task)
    try:
        if task.kernel.lsm is not None:
            task.kernel.lsm.security_shm_alloc(segment)
        ipc_addid(state.shm, segment, state.shm_mni)
    except KernelError:
        fput(file)
        raise
    file.f_inode.i_ino = segment.id              # proc-ps tools show it as the area's inode
    state.shm_tot += pages
    return segment.id


@syscall
def sys_shmat(shmid: int, shmaddr: UserPtr, shmflg: int) -> int:
    """shmat(2). Errors: EACCES, EIDRM, EINVAL, ENOMEM."""
    return do_shmat(shmid, shmaddr, shmflg)


@may_sleep
def do_shmat(shmid: int, shmaddr: int, shmflg: int) -> int:
    """Maps a segment; the address."""
    state = ipc_state()
    if shmid < 0:
        raise KernelError(EINVAL)
    flags = MAP_SHARED
    if shmaddr:
        if shmaddr & SHMLBA - 1:
            if not shmflg & SHM_RND:
                raise KernelError(EINVAL)
            shmaddr &= ~(SHMLBA - 1)
            if not shmaddr and shmflg & SHM_REMAP:
                raise KernelError(EINVAL)
        flags |= MAP_FIXED
    elif shmflg & SHM_REMAP:
        raise KernelError(EINVAL)
    prot, access, mode = (PROT_READ, S_IRUGO, O_RDONLY) if shmflg & SHM_RDONLY else (
        PROT_READ | PROT_WRITE, S_IRUGO | S_IWUGO, O_RDWR)
    if shmflg & SHM_EXEC:
        prot |= PROT_EXEC
        access |= 0o111
    segment: ShmidKernel = ipc_obtain_object_check(state.shm, shmid)
    ipcperms(segment, access)
    if segment.security is not None:
        current().kernel.lsm.security_shm_shmat(segment, shmflg)
    size = segment.file.f_inode.i_size               # whole huge pages, where these back it
    huge = segment.file.f_op.get_unmapped_area is not None
    file = alloc_file_clone(segment.file, mode, shm_file_operations_huge if huge else shm_file_operations)
    file.private_data = segment
    segment.nattch += 1                          # must not be destroyed meanwhile
    mm = current().mm
    assert mm is not None
    try:
        if segment.security is not None:
            mm.kernel.lsm.security_mmap_file(file, prot, flags)
    except KernelError:
        segment.nattch -= 1
        fput(file)
        raise
    down_write(mm.mmap_sem)
    try:
        if shmaddr and not shmflg & SHM_REMAP:
            if shmaddr + size > TASK_SIZE or mm.vmas.overlapping(shmaddr, shmaddr + size):
                raise KernelError(EINVAL)
        return do_mmap(file, shmaddr, size, prot, flags, 0)
    finally:
        up_write(mm.mmap_sem)
        segment.nattch -= 1
        if shm_may_destroy(state, segment):
            shm_destroy(state, segment)
        fput(file)


@syscall
def sys_shmdt(shmaddr: UserPtr) -> int:
    """shmdt(2): every part of the segment that was attached at this address. Errors: EINVAL."""
    if shmaddr & 0xFFF:
        raise KernelError(EINVAL)
    mm = current().mm
    assert mm is not None
    down_write(mm.mmap_sem)
    try:
        ksys_shmdt(mm, shmaddr)
    finally:
        up_write(mm.mmap_sem)
    return 0


def ksys_shmdt(mm: MmStruct, shmaddr: int) -> None:
    file: File | None = None
    for vma in mm.vmas.values():
        if vma.vm_ops not in (shm_vm_ops, shm_huge_vm_ops) or vma.vm_start - (vma.vm_pgoff << 12) != shmaddr:
            continue
        if file is None:
            file = vma.vm_file
        if vma.vm_file is file:
            do_munmap(mm, vma.vm_start, vma.vm_end - vma.vm_start)
    if file is None:
        raise KernelError(EINVAL)


@syscall
def sys_shmctl(shmid: int, cmd: int, buf: UserPtr) -> int:
    """shmctl(2). Errors: EACCES, EFAULT, EIDRM, EINVAL, ENOMEM, EPERM."""
    state = ipc_state()
    if cmd < 0 or shmid < 0:
        raise KernelError(EINVAL)
    lsm = current().kernel.lsm
    if lsm is not None and cmd in (IPC_INFO, SHM_INFO):
        lsm.security_shm_shmctl(None, cmd)
    if cmd == IPC_INFO:
        limits = (state.shm_max, SHMMIN, state.shm_mni, state.shm_mni, state.shm_all)
        copy_to_user(buf, struct.pack("<9Q", *limits, 0, 0, 0, 0))
        return highest(state.shm)
    if cmd == SHM_INFO:
        resident = sum(shm_add_rss_swap(segment) for segment in state.shm.objects.values())
        copy_to_user(buf, struct.pack("<i4x5Q", len(state.shm.objects), state.shm_tot, resident, 0, 0, 0))
        return highest(state.shm)
    if cmd in (IPC_STAT, SHM_STAT, SHM_STAT_ANY):
        return shmctl_stat(state, shmid, cmd, buf)
    if cmd in (IPC_RMID, IPC_SET):
        return shmctl_down(state, shmid, cmd, buf)
    if cmd in (SHM_LOCK, SHM_UNLOCK):
        return shmctl_do_lock(state, shmid, cmd)
    raise KernelError(EINVAL)


def shmctl_stat(state: IpcState, shmid: int, cmd: int, buf: int) -> int:
    """struct shmid64_ds"""
    segment: ShmidKernel = (ipc_obtain_object_check if cmd == IPC_STAT else ipc_obtain_object_idr)(state.shm, shmid)
    if cmd != SHM_STAT_ANY:
        ipcperms(segment, S_IRUGO)
    if segment.security is not None:
        current().kernel.lsm.security_shm_shmctl(segment, cmd)
    copy_to_user(buf, kernel_to_ipc64_perm(segment) + struct.pack(
        "<4Q2i3Q", segment.segsz, segment.atime, segment.dtime, segment.ctime, segment.cprid, segment.lprid,
        segment.nattch, 0, 0))
    return 0 if cmd == IPC_STAT else segment.id


def shmctl_down(state: IpcState, shmid: int, cmd: int, buf: int) -> int:
    """IPC_RMID and IPC_SET"""
    data = copy_from_user(buf, 48) if cmd == IPC_SET else b""
    segment: ShmidKernel = ipcctl_obtain_check(state.shm, shmid)
    if segment.security is not None:
        current().kernel.lsm.security_shm_shmctl(segment, cmd)
    if cmd == IPC_SET:
        ipc_update_perm(data, segment)
        segment.ctime = seconds()
    else:
        do_shm_rmid(state, segment)
    return 0


def do_shm_rmid(state: IpcState, segment: ShmidKernel) -> None:
    """Gone at once, or when the last area is: until then nobody finds it by its key."""
    if segment.nattch:
        segment.mode |= SHM_DEST
        segment.key = 0
    else:
        shm_destroy(state, segment)


def shmctl_do_lock(state: IpcState, shmid: int, cmd: int) -> int:
    """SHM_LOCK, SHM_UNLOCK"""
    segment: ShmidKernel = ipc_obtain_object_check(state.shm, shmid)
    if not capable(CAP_IPC_LOCK):
        if current().cred.euid not in (segment.uid, segment.cuid):
            raise KernelError(EPERM)
        if cmd == SHM_LOCK and not rlimit(RLIMIT_MEMLOCK):
            raise KernelError(EPERM)
    if segment.security is not None:
        current().kernel.lsm.security_shm_shmctl(segment, cmd)
    if segment.file.f_op.get_unmapped_area is not None:      # huge pages are never swapped
        return 0
    if cmd == SHM_LOCK:
        segment.mode |= SHM_LOCKED
    else:
        segment.mode &= ~SHM_LOCKED
    return 0


@notrace
def shm_add_rss_swap(segment: ShmidKernel) -> int:
    """Pages of a segment that are in memory, in those of 4096 bytes."""
    pages = len(segment.file.f_mapping.pages)
    return pages * (HUGE_PAGE >> 12) if segment.file.f_op.get_unmapped_area is not None else pages


@notrace
def sysvipc_shm_lines(state: IpcState) -> list[bytes]:
    """/proc/sysvipc/shm"""
    lines = [b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime"
             b"      dtime      ctime                   rss                  swap\n"]
    for s in sorted(state.shm.objects.values(), key=lambda s: int(s.id)):
        lines.append(b"%10d %10d  %4o %21u %5u %5u  %5u %5u %5u %5u %5u %10u %10u %10u %21u %21u\n" % (
            s.key, s.id, s.mode, s.segsz, s.cprid, s.lprid, s.nattch, s.uid, s.gid, s.cuid, s.cgid, s.atime, s.dtime,
            s.ctime, shm_add_rss_swap(s) << 12, 0))
    return lines
