"""Contexts of asynchronous I/O: their ring of events in user memory, their life.

Linux: fs/aio.c (5.3): ioctx_alloc() and around. Same: the ring is a file of the pseudo file system "aio", mapped
    shared into the process; who knows struct aio_ring reads events without a system call. aio-nr and aio-max-nr.
Differs: one counter of free places instead of one per CPU.
Owns: kernel.aio_mnt, mm.ioctx_table, every Kioctx. Gaps: page migration.
Invariants: reqs_available + requests under way + events in the ring (as far as we looked) is nr_events - 1.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import get_user_u32, get_user_u64, put_user_u64
from glasskernel.fs.aio.types import (
    AIO_EVENT_SIZE,
    AIO_RING_COMPAT_FEATURES,
    AIO_RING_ID,
    AIO_RING_INCOMPAT_FEATURES,
    AIO_RING_MAGIC,
    AIO_RING_SIZE,
    AioRing,
    CtxRqWait,
    Kioctx,
)
from glasskernel.fs.file_table import alloc_file_pseudo, fput
from glasskernel.fs.inode import iput
from glasskernel.fs.libfs import alloc_anon_inode, simple_super_operations
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.super import init_pseudo, kill_anon_super
from glasskernel.fs.types import O_RDWR, FileOperations, FileSystemType
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_write_killable, up_write
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion
from glasskernel.kernel.sched.wait import wake_up_all
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import EAGAIN, EINTR, EINVAL, ENOMEM, KernelError, Restart
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, u32
from glasskernel.mm.filemap import filemap_fault, filemap_map_pages, filemap_page_mkwrite
from glasskernel.mm.mmap import MAP_SHARED, PROT_READ, PROT_WRITE, do_mmap, vm_munmap
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_HIGHUSER_MOVABLE, put_page
from glasskernel.mm.pagemap import SetPageUptodate, find_or_create_page, unlock_page
from glasskernel.mm.truncate import truncate_setsize
from glasskernel.mm.types import VM_DONTEXPAND, VmOperations

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import MmStruct, VmAreaStruct

AIO_RING_FS_MAGIC = 0x47494157


# ---- the ring's file -----------------------------------------------------------------------------------------
def aio_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return init_pseudo(kernel, fs_type, AIO_RING_FS_MAGIC, simple_super_operations)


aio_fs = FileSystemType(b"aio", aio_mount, kill_anon_super)


def aio_setup(kernel: Kernel) -> None:
    """The first io_setup(2) of this kernel."""
    kernel.aio_mnt = kern_mount(kernel, aio_fs)
    kernel.exit_aio = exit_aio


aio_ring_vm_ops = VmOperations(fault=filemap_fault, map_pages=filemap_map_pages, page_mkwrite=filemap_page_mkwrite)


def aio_ring_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap()"""
    vma.vm_flags |= VM_DONTEXPAND
    vma.vm_ops = aio_ring_vm_ops


aio_ring_fops = FileOperations(mmap=aio_ring_mmap)


def aio_private_file(ctx: Kioctx, nr_pages: int) -> File:
    """Raises ENFILE."""
    mnt = ctx.kernel.aio_mnt
    assert mnt is not None
    inode = alloc_anon_inode(mnt.mnt_sb)
    inode.i_size = nr_pages << 12
    try:
        return alloc_file_pseudo(inode, mnt, b"[aio]", O_RDWR, aio_ring_fops)
    except KernelError:
        iput(inode)
        raise


@may_sleep
def aio_free_ring(ctx: Kioctx) -> None:
    for pfn in ctx.ring_pages:
        put_page(ctx.kernel, pfn)
    ctx.ring_pages = []
    put_aio_ring_file(ctx)


@may_sleep
def put_aio_ring_file(ctx: Kioctx) -> None:
    file, ctx.aio_ring_file = ctx.aio_ring_file, None
    if file is not None:
        truncate_setsize(file.f_inode, 0)          # a child of fork(2) may have it mapped still
        fput(file)


@may_sleep
def aio_setup_ring(ctx: Kioctx, nr_events: int) -> None:
    """Room for nr_events and two more, in whole pages. Raises ENOMEM, EINTR, EAGAIN, ENFILE."""
    mm = ctx.mm
    kernel = ctx.kernel
    nr_pages = (AIO_RING_SIZE + AIO_EVENT_SIZE * (nr_events + 2) + 4095) >> 12
    file = ctx.aio_ring_file = aio_private_file(ctx, nr_pages)
    ctx.nr_events = ((nr_pages << 12) - AIO_RING_SIZE) // AIO_EVENT_SIZE
    try:
        for index in range(nr_pages):
            pfn = find_or_create_page(file.f_inode.i_mapping, index, GFP_HIGHUSER_MOVABLE | __GFP_ZERO)
            SetPageUptodate(kernel, pfn)
            unlock_page(kernel, pfn)
            ctx.ring_pages.append(pfn)
        try:
            down_write_killable(mm.mmap_sem)
        except Restart:
            raise KernelError(EINTR) from None
        try:
            ctx.mmap_base = do_mmap(file, 0, nr_pages << 12, PROT_READ | PROT_WRITE, MAP_SHARED, 0)
        except KernelError:
            raise KernelError(ENOMEM) from None
        finally:
            up_write(mm.mmap_sem)
    except KernelError:
        aio_free_ring(ctx)
        raise
    ctx.mmap_size = nr_pages << 12
    ctx.user_id = ctx.mmap_base
    ring = AioRing(id=0xFFFFFFFF, nr=ctx.nr_events, magic=AIO_RING_MAGIC, compat_features=AIO_RING_COMPAT_FEATURES,
                   incompat_features=AIO_RING_INCOMPAT_FEATURES, header_length=AIO_RING_SIZE)
    start = ctx.ring_pages[0] << 12
    kernel.machine.ram[start : start + AIO_RING_SIZE] = ring.pack()


# ---- life ----------------------------------------------------------------------------------------------------
@may_sleep
def ioctx_add_table(ctx: Kioctx, mm: MmStruct) -> None:
    """Gives the context a number, which the ring shows."""
    table = mm.ioctx_table
    if table is None:
        table = mm.ioctx_table = []
    if None in table:
        ctx.id = table.index(None)
        table[ctx.id] = ctx
    else:
        ctx.id = len(table)
        table.append(ctx)
    start = (ctx.ring_pages[0] << 12) + AIO_RING_ID
    ctx.kernel.machine.ram[start : start + 4] = ctx.id.to_bytes(4, "little")


@may_sleep
def ioctx_alloc(nr_events: int) -> Kioctx:
    """A context with a reference for the caller. Raises EINVAL, EAGAIN (aio-max-nr), ENOMEM."""
    mm = current().mm
    assert mm is not None
    kernel = mm.kernel
    sysctl = kernel.sysctl
    max_reqs = nr_events
    nr_events = max(nr_events, len(kernel.machine.cpus) * 4) * 2
    if nr_events > 0x10000000 // AIO_EVENT_SIZE:
        raise KernelError(EINVAL)
    if max_reqs > sysctl.aio_max_nr:
        raise KernelError(EAGAIN)
    ctx = Kioctx(kernel, mm, max_reqs)
    aio_setup_ring(ctx, nr_events)
    ctx.reqs_available = ctx.nr_events - 1
    if sysctl.aio_nr + max_reqs > sysctl.aio_max_nr:
        vm_munmap(ctx.mmap_base, ctx.mmap_size)
        aio_free_ring(ctx)
        raise KernelError(EAGAIN)
    sysctl.aio_nr += max_reqs
    ctx.users += 1
    ioctx_add_table(ctx, mm)
    return ctx


@notrace
def ioctx_put(ctx: Kioctx) -> None:
    """percpu_ref_put(&ctx->users)"""
    ctx.users -= 1
    if not ctx.users:
        free_ioctx_users(ctx)


def free_ioctx_users(ctx: Kioctx) -> None:
    """Nobody submits any more: what can be cancelled is. Context: any."""
    for req in tuple(ctx.active_reqs):
        assert req.ki_cancel is not None
        req.ki_cancel(req)
        ctx.active_reqs.pop(req, None)
    ioctx_put_req(ctx)


@notrace
def ioctx_put_req(ctx: Kioctx) -> None:
    """percpu_ref_put(&ctx->reqs). Context: any."""
    ctx.reqs -= 1
    if not ctx.reqs:
        free_ioctx_reqs(ctx)


def free_ioctx_reqs(ctx: Kioctx) -> None:
    """Every request is over."""
    wait = ctx.rq_wait
    if wait is not None:
        wait.count -= 1
        if not wait.count:
            complete(wait.comp)
    schedule_work(WorkStruct(free_ioctx, ctx))


@may_sleep
def free_ioctx(work: WorkStruct) -> None:
    """The memory. Context: kworker."""
    aio_free_ring(work.data)


@may_sleep
def kill_ioctx(mm: MmStruct, ctx: Kioctx, wait: CtxRqWait | None) -> None:
    """Takes a context away from its process. Raises EINVAL if somebody does that already."""
    if ctx.dead:
        raise KernelError(EINVAL)
    ctx.dead = True
    table = mm.ioctx_table
    assert table is not None and table[ctx.id] is ctx
    table[ctx.id] = None
    wake_up_all(ctx.wait)
    ctx.kernel.sysctl.aio_nr -= ctx.max_reqs
    if ctx.mmap_size:
        vm_munmap(ctx.mmap_base, ctx.mmap_size)
    ctx.rq_wait = wait
    ioctx_put(ctx)


@may_sleep
def exit_aio(mm: MmStruct) -> None:
    """The last user of an address space goes: waits for its requests. The rings are unmapped with the rest."""
    table = mm.ioctx_table
    assert table is not None
    contexts = [ctx for ctx in table if ctx is not None]
    if contexts:
        wait = CtxRqWait(Completion(), len(contexts))
        for ctx in contexts:
            ctx.mmap_size = 0
            kill_ioctx(mm, ctx, wait)
        wait_for_completion(wait.comp)
    mm.ioctx_table = None


@may_sleep
def lookup_ioctx(ctx_id: int) -> Kioctx:
    """The caller's context, with a reference. Raises EINVAL."""
    mm = current().mm
    assert mm is not None
    try:
        number = get_user_u32(ctx_id + AIO_RING_ID)
    except KernelError:
        raise KernelError(EINVAL) from None
    table = mm.ioctx_table
    if table is None or number >= len(table):
        raise KernelError(EINVAL)
    ctx: Kioctx | None = table[number]
    if ctx is None or ctx.user_id != ctx_id:
        raise KernelError(EINVAL)
    ctx.users += 1
    return ctx


@syscall
def sys_io_setup(nr_events: u32, ctxp: UserPtr) -> int:
    """io_setup(2). Errors: EFAULT, EINVAL, EAGAIN (aio-max-nr), ENOMEM."""
    kernel = current().kernel
    if get_user_u64(ctxp) or not nr_events:
        raise KernelError(EINVAL)
    if kernel.aio_mnt is None:
        aio_setup(kernel)
    ctx = ioctx_alloc(nr_events)
    try:
        put_user_u64(ctxp, ctx.user_id)
    except KernelError:
        kill_ioctx(ctx.mm, ctx, None)
        raise
    finally:
        ioctx_put(ctx)
    return 0
