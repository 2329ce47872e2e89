"""What the three System V facilities share: keys, identifiers, permissions.

Linux: ipc/util.c, include/uapi/linux/ipc.h (5.3). Same: an identifier is sequence number * 32768 + index, the lowest
    free index is taken, the sequence number grows when indexes wrap, permissions are those of a file without x bits.
Owns: IpcState (kernel.ipc). Gaps: CLONE_NEWIPC: there is one namespace; checkpoint's *_next_id.
Invariants: an object is in ids.objects exactly while its `deleted` is False.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from glasskernel.kernel.capability import CAP_IPC_OWNER, CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.groups import in_group_p
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EACCES, EEXIST, EIDRM, EINVAL, ENOENT, ENOSPC, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.lib.types import s32, u16, u32

IPC_PRIVATE = 0
IPC_CREAT, IPC_EXCL, IPC_NOWAIT = 0o1000, 0o2000, 0o4000
IPC_RMID, IPC_SET, IPC_STAT, IPC_INFO = 0, 1, 2, 3
IPCMNI = 32768
S_IRUGO, S_IWUGO, S_IRWXUGO = 0o444, 0o222, 0o777


@uapi("include/uapi/asm-generic/ipcbuf.h", size=48)
class Ipc64Perm(Layout):
    """struct ipc64_perm"""

    key: s32
    uid: u32
    gid: u32
    cuid: u32
    cgid: u32
    mode: u32
    seq: u16
    pad2: u16
    pad3: u32
    unused: Annotated[tuple[int, ...], "u64[2]"]


@slotted
class KernIpcPerm:
    """struct kern_ipc_perm: the head of every object."""

    key: int
    mode: int
    uid: int
    gid: int
    cuid: int
    cgid: int
    id: int = -1
    seq: int = 0
    deleted: bool = False
    security: Any = None                           # the security module's


P = TypeVar("P", bound=KernIpcPerm)


@slotted
class IpcIds(Generic[P]):
    """struct ipc_ids. objects: by index."""

    objects: dict[int, P] = field(default_factory=dict)
    seq: int = 0
    last_idx: int = -1


@slotted
class IpcState:
    """kernel.ipc: struct ipc_namespace, and the limits that sysctls change (include/uapi/linux/{sem,shm,msg}.h)."""

    sem: IpcIds[Any] = field(default_factory=IpcIds)
    shm: IpcIds[Any] = field(default_factory=IpcIds)
    msg: IpcIds[Any] = field(default_factory=IpcIds)
    sem_msl: int = 32000
    sem_mns: int = 1024000000
    sem_opm: int = 500
    sem_mni: int = 32000
    used_sems: int = 0
    shm_max: int = (1 << 64) - 1 - (1 << 24)       # bytes
    shm_all: int = (1 << 64) - 1 - (1 << 24)       # pages
    shm_mni: int = 4096
    shm_tot: int = 0                               # pages
    shm_rmid_forced: int = 0
    msg_max: int = 8192
    msg_mnb: int = 16384
    msg_mni: int = 32000
    msg_bytes: int = 0
    msg_hdrs: int = 0
    mq_mnt: Any = None                             # Mount of mqueue (ipc/mqueue_fs.py)
    mq_queues_count: int = 0
    mq_queues_max: int = 256
    mq_msg_max: int = 10
    mq_msgsize_max: int = 8192
    mq_msg_default: int = 10
    mq_msgsize_default: int = 8192


@notrace
def new_perm(key: int, flags: int) -> tuple[int, int, int, int, int, int]:
    """The first fields of a new object: key, mode, uid, gid, cuid, cgid."""
    cred = current().cred
    uid, gid = cred.euid, cred.egid
    return key, flags & S_IRWXUGO, uid, gid, uid, gid


def ipc_addid(ids: IpcIds[P], new: P, limit: int) -> int:
    """Gives a new object its identifier. Raises ENOSPC."""
    if len(ids.objects) >= min(limit, IPCMNI):
        raise KernelError(ENOSPC)
    index = 0
    while index in ids.objects:
        index += 1
    if index <= ids.last_idx:
        ids.seq = (ids.seq + 1) % (0x7FFF_FFFF // IPCMNI)
    ids.last_idx = index
    ids.objects[index] = new
    new.seq = ids.seq
    new.id = ids.seq * IPCMNI + index
    return new.id


def ipc_rmid(ids: IpcIds[P], perm: P) -> None:
    """Takes an object out of the table."""
    del ids.objects[perm.id % IPCMNI]
    perm.deleted = True


def ipc_findkey(ids: IpcIds[P], key: int) -> P | None:
    """The object with a key."""
    return next((perm for perm in ids.objects.values() if perm.key == key), None) if key != IPC_PRIVATE else None


def ipc_obtain_object_idr(ids: IpcIds[P], id: int) -> P:
    """By index, whatever the sequence number. Raises EINVAL."""
    perm = ids.objects.get(id % IPCMNI) if id >= 0 else None
    if perm is None:
        raise KernelError(EINVAL)
    return perm


def ipc_obtain_object_check(ids: IpcIds[P], id: int) -> P:
    """By identifier. Raises EINVAL, EIDRM (it was another object's)."""
    perm = ipc_obtain_object_idr(ids, id)
    if perm.id != id:
        raise KernelError(EIDRM)
    return perm


def ipcperms(perm: KernIpcPerm, flag: int) -> None:
    """Raises EACCES unless the caller has the permissions in flag (as in the mode of a file)."""
    cred = current().cred
    requested = (flag >> 6) | (flag >> 3) | flag
    granted = perm.mode
    if cred.euid in (perm.cuid, perm.uid):
        granted >>= 6
    elif in_group_p(perm.cgid) or in_group_p(perm.gid):
        granted >>= 3
    if requested & ~granted & 0o007 and not capable(CAP_IPC_OWNER):
        raise KernelError(EACCES)
    if perm.security is not None:
        current().kernel.lsm.security_ipc_permission(perm, flag)


def ipcctl_obtain_check(ids: IpcIds[P], id: int) -> P:
    """For IPC_SET and IPC_RMID: the owner's, the creator's or an administrator's. Raises EINVAL, EIDRM, EPERM."""
    perm = ipc_obtain_object_check(ids, id)
    if current().cred.euid not in (perm.cuid, perm.uid) and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    return perm


def ipcget_public(ids: IpcIds[P], key: int, flags: int) -> P | None:
    """The object that *get() asks for; None: it is to be made. Raises ENOENT, EEXIST."""
    perm = ipc_findkey(ids, key)
    if perm is None:
        if key != IPC_PRIVATE and not flags & IPC_CREAT:
            raise KernelError(ENOENT)
        return None
    if flags & IPC_CREAT and flags & IPC_EXCL:
        raise KernelError(EEXIST)
    return perm


def kernel_to_ipc64_perm(perm: KernIpcPerm) -> bytes:
    return Ipc64Perm(
        key=perm.key, uid=perm.uid, gid=perm.gid, cuid=perm.cuid, cgid=perm.cgid, mode=perm.mode, seq=perm.seq,
        unused=(0, 0),
    ).pack()


def ipc_update_perm(data: bytes, perm: KernIpcPerm) -> None:
    """IPC_SET: owner and mode."""
    new = Ipc64Perm.unpack(data)
    if new.uid == 0xFFFF_FFFF or new.gid == 0xFFFF_FFFF:
        raise KernelError(EINVAL)
    perm.uid, perm.gid = new.uid, new.gid
    perm.mode = perm.mode & ~S_IRWXUGO | new.mode & S_IRWXUGO


@notrace
def seconds() -> int:
    """ktime_get_real_seconds()"""
    return ktime_get_real() // 1_000_000_000


@notrace
def highest(ids: IpcIds[P]) -> int:
    """ipc_get_maxidx(), 0 for none: what IPC_INFO and friends answer."""
    return max(ids.objects, default=0)


@notrace
def ipc_state() -> IpcState:
    """The namespace of the running task."""
    return current().kernel.ipc


def ipc_init(kernel: Kernel) -> None:
    """Makes kernel.ipc. Context: boot."""
    kernel.ipc = IpcState()
