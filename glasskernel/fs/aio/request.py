"""io_submit(2): reading, writing, storing.

Linux: fs/aio.c (5.3): io_submit_one(), aio_read(), aio_write(), aio_fsync(). Same: direct I/O goes on
    by itself, all other reads and writes are over when io_submit(2) returns; fsync runs in a kworker.
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, get_user_u64, put_user_u32
from glasskernel.block.ioprio import ioprio_check_cap
from glasskernel.fs.aio.complete import aio_get_req, iocb_destroy, iocb_put
from glasskernel.fs.aio.context import ioctx_put, lookup_ioctx
from glasskernel.fs.aio.poll import aio_poll
from glasskernel.fs.aio.types import (
    IOCB_CMD_FDSYNC,
    IOCB_CMD_FSYNC,
    IOCB_CMD_POLL,
    IOCB_CMD_PREAD,
    IOCB_CMD_PREADV,
    IOCB_CMD_PWRITE,
    IOCB_CMD_PWRITEV,
    IOCB_FLAG_IOPRIO,
    IOCB_FLAG_RESFD,
    KIOCB_KEY,
    AioKiocb,
    Iocb,
    Kioctx,
)
from glasskernel.fs.eventfd import eventfd_ctx_fdget
from glasskernel.fs.file import fget
from glasskernel.fs.read_write import copy_iovec, iocb_flags, kiocb_set_rw_flags, rw_verify_area
from glasskernel.fs.sync import vfs_fsync
from glasskernel.fs.types import (
    FMODE_READ,
    FMODE_WRITE,
    IOCB_EVENTFD,
    IOCB_WRITE,
    MAY_READ,
    MAY_WRITE,
    AsyncKiocb,
    File,
    FileOperations,
)
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import EBADF, EFAULT, EINTR, EINVAL, EIOCBQUEUED, KernelError, Restart
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, long, may_sleep, notrace, ulong
from glasskernel.mm.iov_iter import UserIter, import_iovec

if TYPE_CHECKING:
    from collections.abc import Callable

AIO_PLUG_THRESHOLD = 2
MAX_RW_COUNT = 0x7FFF_F000
_NO_FILE_OPERATIONS = FileOperations()


# ---- requests --------------------------------------------------------------------------------------------------
def aio_complete_rw(kiocb: AsyncKiocb, res: int) -> None:
    """ki_complete. Context: any."""
    iocb: AioKiocb = kiocb.private
    iocb.res = res
    iocb_put(iocb)


def aio_prep_rw(req: AioKiocb, iocb: Iocb, file: File) -> AsyncKiocb:
    """Raises EINVAL, EPERM (priority), EOPNOTSUPP (flags)."""
    flags = iocb_flags(file)
    if iocb.aio_flags & IOCB_FLAG_RESFD:
        flags |= IOCB_EVENTFD
    rw = req.rw = AsyncKiocb(file, iocb.aio_offset, flags, aio_complete_rw, req)
    if iocb.aio_flags & IOCB_FLAG_IOPRIO:
        ioprio_check_cap(iocb.aio_reqprio & 0xFFFF)
    kiocb_set_rw_flags(rw, iocb.aio_rw_flags)
    return rw


def aio_setup_rw(iocb: Iocb, vectored: bool) -> UserIter:
    """Raises EFAULT, EINVAL."""
    if vectored:
        return copy_iovec(iocb.aio_buf, iocb.aio_nbytes)
    return import_iovec([(iocb.aio_buf, min(iocb.aio_nbytes, MAX_RW_COUNT))])


@notrace
def _verify_area(mask: int, file: File, pos: int, count: int) -> None:
    """rw_verify_area() for a position that the program gives."""
    if pos < 0:
        raise KernelError(EINVAL)
    rw_verify_area(mask, file, pos, count)


@may_sleep
def aio_rw_done(rw: AsyncKiocb, transfer: Callable[[], int]) -> None:
    """Starts the transfer; one that is over at once completes here, whether it failed or not."""
    try:
        ret = transfer()
    except Restart:
        ret = -EINTR                       # a request is not started again
    except KernelError as e:
        ret = -e.errno
    if ret != -EIOCBQUEUED:
        rw.ki_complete(rw, ret)


@may_sleep
def aio_read(req: AioKiocb, iocb: Iocb, file: File, vectored: bool) -> None:
    """IOCB_CMD_PREAD, IOCB_CMD_PREADV. Raises EBADF, EINVAL, EFAULT."""
    rw = aio_prep_rw(req, iocb, file)
    if not file.f_mode & FMODE_READ:
        raise KernelError(EBADF)
    if file.f_op.read_iter is _NO_FILE_OPERATIONS.read_iter:
        raise KernelError(EINVAL)
    to = aio_setup_rw(iocb, vectored)
    _verify_area(MAY_READ, file, rw.ki_pos, to.count)
    aio_rw_done(rw, lambda: file.f_op.read_iter(rw, to))


@may_sleep
def aio_write(req: AioKiocb, iocb: Iocb, file: File, vectored: bool) -> None:
    """IOCB_CMD_PWRITE, IOCB_CMD_PWRITEV. Raises EBADF, EINVAL, EFAULT."""
    rw = aio_prep_rw(req, iocb, file)
    if not file.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    if file.f_op.write_iter is _NO_FILE_OPERATIONS.write_iter:
        raise KernelError(EINVAL)
    source = aio_setup_rw(iocb, vectored)
    _verify_area(MAY_WRITE, file, rw.ki_pos, source.count)
    rw.ki_flags |= IOCB_WRITE
    aio_rw_done(rw, lambda: file.f_op.write_iter(rw, source))


@may_sleep
def aio_fsync_work(work: WorkStruct) -> None:
    """Context: kworker."""
    req: AioKiocb
    req, datasync = work.data
    assert req.ki_filp is not None
    try:
        vfs_fsync(req.ki_filp, datasync)
    except KernelError as e:
        req.res = -e.errno
    iocb_put(req)


def aio_fsync(req: AioKiocb, iocb: Iocb, file: File, datasync: int) -> None:
    """IOCB_CMD_FSYNC, IOCB_CMD_FDSYNC. Raises EINVAL."""
    if iocb.aio_buf or iocb.aio_offset or iocb.aio_nbytes or iocb.aio_rw_flags:
        raise KernelError(EINVAL)
    if file.f_op.fsync is _NO_FILE_OPERATIONS.fsync:
        raise KernelError(EINVAL)
    schedule_work(WorkStruct(aio_fsync_work, (req, datasync)))


@may_sleep
def __io_submit_one(iocb: Iocb, user_iocb: int, req: AioKiocb) -> None:
    file = req.ki_filp = fget(iocb.aio_fildes)
    if iocb.aio_flags & IOCB_FLAG_RESFD:
        req.ki_eventfd = eventfd_ctx_fdget(iocb.aio_resfd)
    put_user_u32(user_iocb + 8, KIOCB_KEY)
    req.obj = user_iocb
    req.data = iocb.aio_data
    opcode = iocb.aio_lio_opcode
    if opcode in (IOCB_CMD_PREAD, IOCB_CMD_PREADV):
        aio_read(req, iocb, file, opcode == IOCB_CMD_PREADV)
    elif opcode in (IOCB_CMD_PWRITE, IOCB_CMD_PWRITEV):
        aio_write(req, iocb, file, opcode == IOCB_CMD_PWRITEV)
    elif opcode in (IOCB_CMD_FSYNC, IOCB_CMD_FDSYNC):
        aio_fsync(req, iocb, file, int(opcode == IOCB_CMD_FDSYNC))
    elif opcode == IOCB_CMD_POLL:
        aio_poll(req, iocb, file)
    else:
        raise KernelError(EINVAL)


@may_sleep
def io_submit_one(ctx: Kioctx, user_iocb: int) -> None:
    """One request. Raises EFAULT, EINVAL, EAGAIN (no place in the ring), EBADF, EOPNOTSUPP."""
    iocb = Iocb.unpack(copy_from_user(user_iocb, Iocb.SIZE))
    if iocb.aio_reserved2 or iocb.aio_nbytes >> 63:
        raise KernelError(EINVAL)
    req = aio_get_req(ctx)
    try:
        __io_submit_one(iocb, user_iocb, req)
    except KernelError:
        iocb_destroy(req)
        ctx.reqs_available += 1
        raise
    iocb_put(req)


@syscall(gaps="IOCB_FLAG_IOPRIO is checked, but the request has its submitter's priority; RWF_NOWAIT")
def sys_io_submit(ctx_id: ulong, nr: long, iocbpp: UserPtr) -> int:
    """io_submit(2). Errors: EINVAL, EFAULT, EAGAIN, EBADF, EOPNOTSUPP; the number that went, if one did."""
    if nr < 0:
        raise KernelError(EINVAL)
    ctx = lookup_ioctx(ctx_id)
    nr = min(nr, ctx.nr_events)
    kernel = ctx.kernel
    plug = kernel.filemap.blk_start_plug() if nr > AIO_PLUG_THRESHOLD else None
    done = 0
    try:
        for done in range(nr):
            try:
                user_iocb = get_user_u64(iocbpp + done * 8)
            except KernelError:
                raise KernelError(EFAULT) from None
            io_submit_one(ctx, user_iocb)
        done = nr
    except KernelError:
        if not done:
            raise
    finally:
        if plug is not None:
            kernel.filemap.blk_finish_plug(plug)
        ioctx_put(ctx)
    return done
