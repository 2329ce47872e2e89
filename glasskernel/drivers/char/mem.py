"""/dev/null, zero, full, random, urandom and kmsg: character devices with major 1.

Linux: drivers/char/mem.c (5.3). Same: minors, modes, errors. Differs: no /dev/mem, /dev/kmem and
    /dev/port: the kernel's memory is Python.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import class_create, device_create
from glasskernel.drivers.char.random import random_fops, urandom_fops
from glasskernel.fs.char_dev import register_chrdev
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import MINOR, MKDEV, FileOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.printk import (
    devkmsg_llseek,
    devkmsg_open,
    devkmsg_poll,
    devkmsg_read,
    devkmsg_release,
    devkmsg_write,
)
from glasskernel.kernel.sched.core import cond_resched, signal_pending
from glasskernel.lib.errno import ENOSPC, ENXIO, KernelError, Restart
from glasskernel.lib.slotted import slotted
from glasskernel.mm.shmem import shmem_zero_setup
from glasskernel.mm.types import VM_SHARED

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import VmAreaStruct

MEM_MAJOR = 1


def null_lseek(file: File, offset: int, whence: int) -> int:
    """Always at the start."""
    file.f_pos = 0
    return 0


def read_null(iocb: Kiocb, to: IovIter) -> int:
    return 0


def write_null(iocb: Kiocb, source: IovIter) -> int:
    """Everything is taken; the memory is not even looked at."""
    count = source.count
    source.count = 0
    return count


def read_iter_zero(iocb: Kiocb, to: IovIter) -> int:
    """Zeros, page by page. A signal ends it after the first page."""
    done = 0
    task = current()
    while to.count:
        chunk = to.count if to.count < 4096 else 4096
        try:
            copied = to.zero(chunk)
        except KernelError:
            if not done:
                raise
            break
        done += copied
        if copied < chunk:
            break
        if signal_pending(task):
            if not done:
                raise Restart
            break
        cond_resched()
    return done


def write_full(iocb: Kiocb, source: IovIter) -> int:
    """The disk is always full."""
    raise KernelError(ENOSPC)


def mmap_zero(file: File, vma: VmAreaStruct) -> None:
    """Private: anonymous memory. Shared: like a nameless tmpfs file."""
    if vma.vm_flags & VM_SHARED:
        shmem_zero_setup(vma)
        return
    vma.vm_ops = None


def memory_open(inode: Inode, file: File) -> None:
    """Puts the minor's own table into the file. Errors: ENXIO for a minor without one."""
    device = devlist.get(MINOR(inode.i_rdev))
    if device is None:
        raise KernelError(ENXIO)
    file.f_op = device.fops
    device.fops.open(inode, file)


@slotted(frozen=True)
class Memdev:
    """struct memdev"""

    name: bytes
    mode: int
    fops: FileOperations


memory_fops = FileOperations(open=memory_open, llseek=noop_llseek)
null_fops = FileOperations(llseek=null_lseek, read_iter=read_null, write_iter=write_null)
zero_fops = FileOperations(llseek=null_lseek, read_iter=read_iter_zero, write_iter=write_null, mmap=mmap_zero)
full_fops = FileOperations(llseek=null_lseek, read_iter=read_iter_zero, write_iter=write_full)
kmsg_fops = FileOperations(
    open=devkmsg_open, iter=True, read_iter=devkmsg_read, write_iter=devkmsg_write, llseek=devkmsg_llseek,
    poll=devkmsg_poll, release=devkmsg_release,
)

devlist: dict[int, Memdev] = {
    3: Memdev(b"null", 0o666, null_fops),
    5: Memdev(b"zero", 0o666, zero_fops),
    7: Memdev(b"full", 0o666, full_fops),
    8: Memdev(b"random", 0o666, random_fops),
    9: Memdev(b"urandom", 0o666, urandom_fops),
    11: Memdev(b"kmsg", 0o644, kmsg_fops),
}


def chr_dev_init(kernel: Kernel) -> None:
    """Registers the major and makes the devices, with their nodes in devtmpfs."""
    register_chrdev(kernel, MEM_MAJOR, b"mem", memory_fops)
    mem_class = class_create(kernel, b"mem")
    for minor, device in devlist.items():
        device_create(kernel, mem_class, None, MKDEV(MEM_MAJOR, minor), device.name, device.mode)
