"""A file system that is mounted, and only read when somebody looks into it.

Linux has nothing like it (autofs comes close). Importing ext4 and reading a super block take a tenth of a boot, and
many programs never touch the working directory. So the default machine's fresh disk is mounted on /root without being
read: the mount, its super block, its device and its options are true from the start, its root dentry is that of the
mountpoint. Whoever walks into it, or starts a walk in it, waits for a kernel thread that fills the super block and
gives the mount, and the working directories that are in it, their root. A thread, so that the rights, the root and the
trace of the first comer play no part.
Owns: VfsState.on_demand.  Invariants: no file is ever open and no inode is ever looked at below the mountpoint's dentry
    through such a mount; its disk is untouched until then, and known to be sound (it was just formatted).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.fs.block_dev import blkdev_get_by_path, sb_set_blocksize
from glasskernel.fs.dcache import dget, dput
from glasskernel.fs.fs_struct import set_fs_pwd
from glasskernel.fs.mount import alloc_vfsmnt, path_put
from glasskernel.fs.namei import kern_path
from glasskernel.fs.namespace import do_add_mount
from glasskernel.fs.super import sget
from glasskernel.fs.super_bdev import bdevname, set_bdev_super
from glasskernel.fs.types import (
    FMODE_EXCL,
    FMODE_READ,
    FMODE_WRITE,
    MNT_ON_DEMAND,
    MNT_RELATIME,
    SB_ACTIVE,
    FileSystemType,
    Kstatfs,
    Path,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.pid import for_each_thread
from glasskernel.kernel.sched.completion import Completion, complete_all, wait_for_completion
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Mount, SuperBlock
    from glasskernel.init.kernel import Kernel

FillSuper = Callable[["SuperBlock", bytes, bool], None]


@slotted
class OnDemand:
    """The mount that waits. place: where it is. error: errno of a device that failed."""

    mnt: Mount
    place: bytes
    fill_super: FillSuper
    done: Completion
    started: bool = False
    error: int = 0


@notrace
def _never(_dentry: Dentry) -> Kstatfs:
    raise KernelError(EIO)


_waiting_sops = SuperOperations(statfs=_never)


@notrace
@may_sleep
def kern_mount_on_demand(
    kernel: Kernel, fs_type: FileSystemType, dev_name: bytes, place: bytes, fill: FillSuper
) -> None:
    """Mounts a device that nobody has mounted, read-write. Context: PID 1, at boot. Raises what opening it raises."""
    mode = FMODE_READ | FMODE_WRITE | FMODE_EXCL
    bdev = blkdev_get_by_path(kernel, dev_name, mode, fs_type)
    s = sget(kernel, fs_type, None, lambda new: set_bdev_super(new, bdev), 0)
    s.s_mode = mode
    s.s_id = bdevname(bdev)
    s.s_op = _waiting_sops
    sb_set_blocksize(s, bdev.bd_block_size)
    path = kern_path(kernel, place)
    mnt = alloc_vfsmnt(kernel, dget(path.dentry), dev_name)
    mnt.mnt_sb = s
    do_add_mount(mnt, path, MNT_RELATIME)
    path_put(path)
    mnt.mnt_flags |= MNT_ON_DEMAND
    kernel.vfs.on_demand = OnDemand(mnt, place, fill, Completion())
    kernel.vfs.mount_now = mount_now


@notrace
@may_sleep
def mount_now(mnt: Mount) -> None:
    """Somebody looks into the mount: waits until it can be. Raises EIO."""
    demand: OnDemand | None = mnt.mnt_sb.kernel.vfs.on_demand
    if demand is None or demand.mnt is not mnt:
        return
    if not demand.started:
        demand.started = True
        kthread_run(fill_thread, demand, "mount/" + mnt.mnt_sb.s_id.decode())
    wait_for_completion(demand.done)
    if demand.error:
        raise KernelError(demand.error)


@notrace
@may_sleep
def fill_thread(demand: OnDemand) -> int:
    """The thread."""
    mnt = demand.mnt
    s = mnt.mnt_sb
    kernel = s.kernel
    try:
        demand.fill_super(s, b"", False)
    except KernelError as error:
        demand.error = error.errno
        complete_all(demand.done)
        return 0
    s.s_flags |= SB_ACTIVE
    s.s_bdev.bd_super = s
    if kernel.lsm is not None:
        kernel.lsm.security_sb_set_mnt_opts(s, None)
    before, root = mnt.mnt_root, s.s_root
    mnt.mnt_root = dget(root)
    dput(before)
    for fs in dict.fromkeys(task.fs for task in for_each_thread(kernel) if task.fs is not None):
        if fs.pwd.mnt is mnt:
            fs.pwd = Path(mnt, dget(root))
            dput(before)
    mnt.mnt_flags &= ~MNT_ON_DEMAND
    kernel.vfs.on_demand = None
    complete_all(demand.done)
    return 0


@notrace
def chdir_on_demand(kernel: Kernel, path: bytes) -> bool:
    """Makes the mount the working directory without looking into it. False: it is not there, or does not wait."""
    demand: OnDemand | None = kernel.vfs.on_demand
    if demand is None or path != demand.place:
        return False
    set_fs_pwd(current().fs, Path(demand.mnt, demand.mnt.mnt_root))
    return True
