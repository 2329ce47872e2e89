"""What io_setup(2) and io_submit(2) are about.

Linux: include/uapi/linux/aio_abi.h, struct kioctx and aio_kiocb of fs/aio.c (5.3).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.fs.types import AsyncKiocb
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import s16, s32, s64, u16, u32, u64
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.fs.eventfd import EventfdCtx
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.completion import Completion
    from glasskernel.kernel.sched.wait import WaitQueueEntry
    from glasskernel.kernel.workqueue import WorkStruct
    from glasskernel.mm.types import MmStruct

KIOCB_KEY = 0
IOCB_CMD_PREAD, IOCB_CMD_PWRITE, IOCB_CMD_FSYNC, IOCB_CMD_FDSYNC = 0, 1, 2, 3
IOCB_CMD_POLL, IOCB_CMD_NOOP, IOCB_CMD_PREADV, IOCB_CMD_PWRITEV = 5, 6, 7, 8
IOCB_FLAG_RESFD, IOCB_FLAG_IOPRIO = 1, 2

AIO_RING_MAGIC, AIO_RING_COMPAT_FEATURES, AIO_RING_INCOMPAT_FEATURES = 0xA10A10A1, 1, 0
AIO_RING_ID, AIO_RING_HEAD, AIO_RING_TAIL = 0, 8, 12          # where struct aio_ring has them
AIO_RING_SIZE = 32
AIO_EVENT_SIZE = 32
AIO_EVENTS_PER_PAGE = 4096 // AIO_EVENT_SIZE
AIO_EVENTS_FIRST_PAGE = (4096 - AIO_RING_SIZE) // AIO_EVENT_SIZE
AIO_EVENTS_OFFSET = AIO_EVENTS_PER_PAGE - AIO_EVENTS_FIRST_PAGE


@uapi("include/uapi/linux/aio_abi.h", size=64)
class Iocb(Layout):
    """struct iocb"""

    aio_data: u64
    aio_key: u32
    aio_rw_flags: s32
    aio_lio_opcode: u16
    aio_reqprio: s16
    aio_fildes: u32
    aio_buf: u64
    aio_nbytes: u64
    aio_offset: s64
    aio_reserved2: u64
    aio_flags: u32
    aio_resfd: u32


@uapi("fs/aio.c", size=32)
class AioRing(Layout):
    """struct aio_ring: the first bytes of the ring; the events follow."""

    id: u32
    nr: u32
    head: u32
    tail: u32
    magic: u32
    compat_features: u32
    incompat_features: u32
    header_length: u32


@uapi("include/uapi/linux/aio_abi.h", size=32)
class IoEvent(Layout):
    """struct io_event"""

    data: u64
    obj: u64
    res: s64
    res2: s64


@slotted
class Kioctx:
    """struct kioctx: what io_setup(2) made.

    users: the table's hold and the calls under way; reqs: requests that are not over, and one while users are left.
    reqs_available: free places of the ring; completed_events: places that the program may have emptied.
    """

    kernel: Kernel
    mm: MmStruct
    max_reqs: int
    id: int = 0
    user_id: int = 0                   # aio_context_t: where the ring is mapped
    mmap_base: int = 0
    mmap_size: int = 0
    nr_events: int = 0
    aio_ring_file: File | None = None
    ring_pages: list[int] = field(default_factory=list)
    users: int = 1
    reqs: int = 1
    dead: bool = False
    reqs_available: int = 0
    completed_events: int = 0
    tail: int = 0
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    active_reqs: dict[AioKiocb, None] = field(default_factory=dict)          # those that io_cancel(2) can end
    rq_wait: CtxRqWait | None = None


@slotted
class CtxRqWait:
    """struct ctx_rq_wait: who waits for all requests of some contexts. count: contexts."""

    comp: Completion
    count: int


@slotted
class PollIocb:
    """struct poll_iocb"""

    file: File
    events: int
    wait: WaitQueueEntry = None  # type: ignore[assignment]
    work: WorkStruct = None  # type: ignore[assignment]
    head: WaitQueueHead | None = None
    done: bool = False
    cancelled: bool = False


@slotted
class AioKiocb:
    """struct aio_kiocb: one request. ki_refcnt: the submitter's and the completion's."""

    ki_ctx: Kioctx
    ki_refcnt: int = 2
    ki_filp: File | None = None
    rw: AsyncKiocb | None = None
    poll: PollIocb | None = None
    ki_cancel: Callable[[AioKiocb], None] | None = None
    data: int = 0                      # ki_res: the event, as it will be told
    obj: int = 0
    res: int = 0
    res2: int = 0
    ki_eventfd: EventfdCtx | None = None
