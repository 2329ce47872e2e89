"""The flip buffer: how input gets from a driver, in any context, to the line discipline, in a worker.

Linux: drivers/tty/tty_buffer.c (5.3). Same: tty_insert_flip_string(), tty_flip_buffer_push() queues
flush_to_ldisc() on the unbound workqueue; what the discipline does not take stays queued.
Differs: see tty_port.py. Owns: TtyPort.buf.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.tty.tty_port import TtyPort, tty_port_default_receive_buf
from glasskernel.kernel.workqueue import WorkStruct, cancel_work_sync, flush_work, queue_work
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def tty_port_init(kernel: Kernel) -> TtyPort:
    """A new port with an empty buffer. Context: task."""
    port = TtyPort(kernel, WorkStruct(flush_to_ldisc))
    port.work.data = port                      # container_of()
    return port


def tty_buffer_set_limit(port: TtyPort, limit: int) -> None:
    """How many bytes may wait."""
    port.mem_limit = limit


def tty_buffer_space_avail(port: TtyPort) -> int:
    """Bytes that could be inserted now."""
    return port.mem_limit - len(port.buf)


def tty_insert_flip_string_fixed_flag(port: TtyPort, chars: bytes) -> int:
    """Queues bytes; answers how many found room. Context: any."""
    room = port.mem_limit - len(port.buf)
    if len(chars) > room:
        chars = chars[:room]
    port.buf += chars
    return len(chars)


def tty_flip_buffer_push(port: TtyPort) -> None:
    """Lets a worker carry what was queued to the line discipline. Context: any."""
    queue_work(port.kernel.workqueues.system_unbound_wq, port.work)


def flush_to_ldisc(work: WorkStruct) -> None:
    """The work item: hands over until the discipline takes no more. Context: worker."""
    port: TtyPort = work.data
    while port.buf:
        count = receive_buf(port)
        if not count:
            break


@notrace
def receive_buf(port: TtyPort) -> int:
    """static, inlined in Linux"""
    data = bytes(port.buf)
    count = tty_port_default_receive_buf(port, data)
    del port.buf[:count]
    return count


def tty_buffer_flush(port: TtyPort) -> None:
    """Forgets what waits."""
    port.buf.clear()


def tty_buffer_restart_work(port: TtyPort) -> None:
    """The discipline has room again."""
    queue_work(port.kernel.workqueues.system_unbound_wq, port.work)


@may_sleep
def tty_buffer_flush_work(port: TtyPort) -> None:
    """Waits until a queued flush_to_ldisc() is done."""
    flush_work(port.work)


@may_sleep
def tty_buffer_cancel_work(port: TtyPort) -> bool:
    return cancel_work_sync(port.work)
