"""Open files: making, sharing and releasing struct file.

Linux: fs/file_table.c (5.3). Same: ENFILE at file-max, order of what __fput() does.
Differs: the last fput() releases at once; Linux defers to task_work_run() on the way to user mode.
Owns: File.f_count, kernel.vfs.nr_files.
Invariant: f_count is descriptors + whoever else keeps the file (mmap, a call under way, SCM_RIGHTS).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.d_path import simple_dname
from glasskernel.fs.dcache import d_alloc_pseudo, d_instantiate, dput
from glasskernel.fs.fsnotify import fsnotify_close
from glasskernel.fs.locks import locks_remove_file
from glasskernel.fs.mnt_writers import __mnt_drop_write
from glasskernel.fs.mount import mntget, mntput, path_get, path_put
from glasskernel.fs.types import (
    FASYNC,
    FMODE_CAN_READ,
    FMODE_CAN_WRITE,
    FMODE_EXEC,
    FMODE_OPENED,
    FMODE_READ,
    FMODE_WRITE,
    FMODE_WRITER,
    DentryOperations,
    File,
    Path,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.cred import get_cred, put_cred
from glasskernel.kernel.current import current, register
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.softirq import in_interrupt
from glasskernel.kernel.task import PF_KTHREAD
from glasskernel.kernel.task_work import CallbackHead, task_work_add
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import ENFILE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_KERNEL
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_HWCACHE_ALIGN
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free

if TYPE_CHECKING:
    from glasskernel.fs.types import FileOperations, Inode, Mount
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import Cred


anon_ops = DentryOperations(d_dname=simple_dname)


def alloc_empty_file(flags: int, cred: Cred) -> File:
    """A file that is not open yet. Raises ENFILE when file-max is reached and the caller is not privileged."""
    kernel = current().kernel
    vfs = kernel.vfs
    if vfs.nr_files >= vfs.max_files and not capable(CAP_SYS_ADMIN):
        raise KernelError(ENFILE)
    file = __alloc_file(kernel, flags, cred)
    vfs.nr_files += 1
    return file


def __alloc_file(kernel: Kernel, flags: int, cred: Cred) -> File:
    """The structure, and its hold on the credentials."""
    address = kmem_cache_alloc(kernel.slab.filp_cachep, GFP_KERNEL | __GFP_ZERO)
    # open_fmode(): O_RDONLY, O_WRONLY, O_RDWR, 3 -> FMODE_READ, FMODE_WRITE, both, none
    file = File(None, None, None, flags, (flags + 1) & 3, cred)  # type: ignore[arg-type]
    file.slab_address = address
    get_cred(cred)
    lsm = kernel.lsm
    if lsm is not None:
        lsm.security_file_alloc(file)
    return file


@notrace
def file_free(file: File) -> None:
    """One struct file less. Its memory goes after a grace period: __fget() of another task may be looking at it."""
    current().kernel.vfs.nr_files -= 1
    call_rcu(file, file_free_rcu)


def file_free_rcu(file: File) -> None:
    """Nobody looks at the file any more. Context: softirq."""
    put_cred(file.f_cred)
    kmem_cache_free(current().kernel.slab.filp_cachep, file.slab_address)


def alloc_file(path: Path, flags: int, fop: FileOperations) -> File:
    """An open file for `path`, whose references it takes over. Raises ENFILE."""
    file = alloc_empty_file(flags, current().cred)
    inode = path.dentry.d_inode
    assert inode is not None
    file.f_path = path
    file.f_inode = inode
    file.f_mapping = inode.i_mapping
    mode = file.f_mode
    if mode & FMODE_READ:
        mode |= FMODE_CAN_READ
    if mode & FMODE_WRITE:
        mode |= FMODE_CAN_WRITE
    file.f_mode = mode | FMODE_OPENED
    file.f_op = fop
    return file


def alloc_file_pseudo(inode: Inode, mnt: Mount, name: bytes, flags: int, fops: FileOperations) -> File:
    """An open file for an inode without a name. Takes over the reference on the inode unless it raises ENFILE."""
    dentry = d_alloc_pseudo(mnt.mnt_sb, name)
    if mnt.mnt_sb.s_d_op is None:
        dentry.d_op = anon_ops
    path = Path(mntget(mnt), dentry)
    d_instantiate(dentry, inode)
    try:
        return alloc_file(path, flags, fops)
    except KernelError:
        inode.i_count += 1
        path_put(path)
        raise


def alloc_file_clone(base: File, flags: int, fops: FileOperations) -> File:
    """A second open of the same object (the write end of a pipe). Raises ENFILE."""
    file = alloc_file(Path(base.f_path.mnt, base.f_path.dentry), flags, fops)
    path_get(file.f_path)
    file.f_mapping = base.f_mapping
    return file


@notrace
def get_file(file: File) -> File:
    """One more reference; answers the file."""
    file.f_count += 1
    return file


@may_sleep
def fput(file: File) -> None:
    """Drops a reference; the last one closes the file, on the way back to user mode. Context: task."""
    fput_many(file, 1)


@may_sleep
def fput_many(file: File, refs: int) -> None:
    """fput() for some references. A kernel thread, which never sees user mode, closes at once (not delayed_fput())."""
    file.f_count -= refs
    if not file.f_count:
        task = register.task
        if in_interrupt():                         # the end of asynchronous I/O: ->release() may sleep
            schedule_work(WorkStruct(delayed_fput, file))
            return
        if task.flags & PF_KTHREAD or not task.pid or not task_work_add(task, CallbackHead(____fput, file), True):
            __fput(file)


@may_sleep
def delayed_fput(work: WorkStruct) -> None:
    __fput(work.data)


def ____fput(file: File) -> None:
    __fput(file)


@may_sleep
def __fput(file: File) -> None:
    """Releases an open file: watchers, locks, ->release(), then the dentry and the mount."""
    path = file.f_path
    inode = file.f_inode
    if not file.f_mode & FMODE_OPENED:
        file_free(file)
        return
    if inode.i_sb.kernel.vfs.nr_marks:
        fsnotify_close(file)
    for epi in list(file.f_ep_links):
        epi.file_gone(epi)              # eventpoll_release_file()
    locks_remove_file(file)
    fops = file.f_op
    if file.f_flags & FASYNC and fops.fasync is not None:
        fops.fasync(-1, file, 0)
    try:
        fops.release(inode, file)
    finally:
        if file.f_mode & FMODE_WRITER:
            put_write_access(inode)
            __mnt_drop_write(path.mnt)
        if file.f_mode & FMODE_EXEC:        # opened by execve(2): writers may come again (allow_write_access)
            inode.i_writecount += 1
        dput(path.dentry)
        mntput(path.mnt)
        file_free(file)


@notrace
def get_max_files(kernel: Kernel) -> int:
    """/proc/sys/fs/file-max."""
    return kernel.vfs.max_files


@notrace
def put_write_access(inode: Inode) -> None:
    """Ends get_write_access()."""
    inode.i_writecount -= 1


def files_init(kernel: Kernel) -> None:
    """file-max: one file for each 10 KB of memory, at least 8192."""
    kernel.vfs.max_files = max(len(kernel.machine.ram) // 10240, 8192)
    kernel.slab.filp_cachep = kmem_cache_create(kernel, b"filp", 256, 0, SLAB_HWCACHE_ALIGN)

