"""The port: the hardware's side of a terminal, with the bytes that wait for the line discipline.

Linux: struct tty_port and tty_bufhead of include/linux/tty.h, drivers/tty/tty_port.c. Same: input is queued in the
port by the driver and carried to the line discipline by a work item. Differs: one byte string instead of a chain
of buffers; no flags per byte, since no device here reports parity errors or breaks.
Owns: TtyPort. Invariants: 0 <= len(buf) <= mem_limit; itty is the open terminal, or None.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.kernel.workqueue import WorkStruct
from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.drivers.tty.types import TtyLdiscOps, TtyStruct
    from glasskernel.init.kernel import Kernel

TTYB_DEFAULT_MEM_LIMIT: Final = 640 * 1024


@slotted
class TtyPort:
    """struct tty_port. tty: the terminal of drivers that use tty_port_tty_set(); count: their open files."""

    kernel: Kernel
    work: WorkStruct                           # flush_to_ldisc()
    buf: bytearray = field(default_factory=bytearray)
    mem_limit: int = TTYB_DEFAULT_MEM_LIMIT
    itty: TtyStruct | None = None
    tty: TtyStruct | None = None
    count: int = 0


def tty_port_tty_get(port: TtyPort) -> TtyStruct | None:
    return port.tty


def tty_port_tty_set(port: TtyPort, tty: TtyStruct | None) -> None:
    port.tty = tty


def tty_port_default_receive_buf(port: TtyPort, data: bytes) -> int:
    """Hands input to the line discipline; answers how many bytes it took."""
    tty = port.itty
    if tty is None:
        return 0
    disc = tty.ldisc
    if disc is None:
        return 0
    return tty_ldisc_receive_buf(disc, tty, data)


def tty_ldisc_receive_buf(disc: TtyLdiscOps, tty: TtyStruct, data: bytes) -> int:
    """tty_buffer.c: input for a line discipline; answers how many bytes it took."""
    return disc.receive_buf2(tty, data)
