"""hvc0: the terminal at the machine's console line, and /dev/console.

Linux: drivers/tty/hvc/hvc_console.c, hvc_irq.c (5.3). Same: one interrupt for input, size and hangup; hvc_poll()
moves input to the flip buffer; output is buffered per write and pushed. Differs: the line takes everything at once
(it blocks the host instead of the guest), so there is no khvcd thread and no write timeout.
hvc_claim() has no counterpart: it tells the machine that the guest uses the line as a terminal (it reads, or
changes settings). Until then the host's terminal keeps its own mode and its input (machine/console.py).
Owns: HvcStruct. Invariants: outbuf is empty whenever no hvc_write() ... hvc_flush_chars() is under way;
    a signal from the host goes to the foreground group, or to kernel.tty.program without one.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.tty.tty_buffer import (
    tty_buffer_space_avail,
    tty_flip_buffer_push,
    tty_insert_flip_string_fixed_flag,
    tty_port_init,
)
from glasskernel.drivers.tty.tty_hangup import tty_hangup
from glasskernel.drivers.tty.tty_io import tty_do_resize, tty_register_driver, tty_standard_install
from glasskernel.drivers.tty.tty_port import TtyPort, tty_port_tty_get, tty_port_tty_set
from glasskernel.drivers.tty.types import (
    HVC_MAJOR,
    IUTF8,
    TTY_DRIVER_REAL_RAW,
    TTY_DRIVER_RESET_TERMIOS,
    TTY_DRIVER_TYPE_SYSTEM,
    TTY_THROTTLED,
    Ktermios,
    TtyDriver,
    TtyOperations,
    TtyStruct,
    tty_std_termios,
    winsize,
)
from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED
from glasskernel.kernel.irq.manage import request_irq
from glasskernel.kernel.signal import kill_pgrp
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.console import IRQ, Console

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel

OUTBUF_SIZE = 16384


@slotted
class HvcStruct:
    """struct hvc_struct"""

    kernel: Kernel
    line: Console
    port: TtyPort
    outbuf: bytearray = field(default_factory=bytearray)
    tty_resize: WorkStruct = None  # type: ignore[assignment]
    hung_up: bool = False


# ---- output -----------------------------------------------------------------------------------------------------
def hvc_push(hp: HvcStruct) -> None:
    """Sends the buffer."""
    if hp.outbuf:
        data = bytes(hp.outbuf)
        hp.outbuf.clear()
        hp.line.transmit(data)


def hvc_write(tty: TtyStruct, data: bytes) -> int:
    """tty_operations.write"""
    hp: HvcStruct = tty.driver_data
    if tty.stopped:
        return 0
    hp.outbuf += data
    if len(hp.outbuf) >= OUTBUF_SIZE:
        hvc_push(hp)
    elif not tty.termios.c_oflag & 1:          # raw output has no flush_chars() behind it
        hvc_push(hp)
    return len(data)


def hvc_write_room(tty: TtyStruct) -> int:
    """tty_operations.write_room"""
    return 0 if tty.stopped else OUTBUF_SIZE


@notrace
def hvc_flush_chars(tty: TtyStruct) -> None:
    """tty_operations.flush_chars: a write(2) or a block of echoes is complete."""
    hvc_push(tty.driver_data)


def hvc_chars_in_buffer(tty: TtyStruct) -> int:
    """tty_operations.chars_in_buffer"""
    hp: HvcStruct = tty.driver_data
    return len(hp.outbuf)


@notrace
def hvc_start(tty: TtyStruct) -> None:
    """tty_operations.start: what waited can go."""
    hvc_push(tty.driver_data)


# ---- input ------------------------------------------------------------------------------------------------------
def hvc_handle_interrupt(_irq: int, dev: HvcStruct) -> int:
    """The line has input, a new size, or is gone; or a host signal came. Context: irq."""
    if hvc_poll(dev):
        hvc_kick(dev)
    return IRQ_HANDLED


def hvc_kick(hp: HvcStruct) -> None:
    """More input waits than the flip buffer takes: look again soon."""
    hp.line.machine.post_irq(IRQ)


def hvc_poll(hp: HvcStruct) -> int:
    return __hvc_poll(hp, False)


def __hvc_poll(hp: HvcStruct, _may_sleep: bool) -> int:
    """Moves what the line has to where it belongs; nonzero: not all of it."""
    line = hp.line
    for sig in line.take_signals():
        host_signal(hp.kernel, sig)
    tty = tty_port_tty_get(hp.port)
    if tty is None:
        return 0
    if (tty.winsize.ws_row, tty.winsize.ws_col) != (line.rows, line.cols):
        schedule_work(hp.tty_resize)
    if tty.flags & TTY_THROTTLED:
        return 0
    while line.received:
        room = tty_buffer_space_avail(hp.port)
        if room <= 0:
            break
        tty_insert_flip_string_fixed_flag(hp.port, line.receive(room))
        tty_flip_buffer_push(hp.port)
    if line.hung_up and not line.received and not hp.hung_up:
        hp.hung_up = True
        tty_hangup(tty)
    return 0


@notrace
def host_signal(kernel: Kernel, sig: int) -> None:
    """A signal that the host's process got: for the foreground, as if the kernel's keyboard had sent it."""
    state = kernel.tty
    pgrp = state.program
    if state.console is not None:
        driver, index = state.console
        tty = driver.ttys.get(index)
        if tty is not None and tty.pgrp is not None:
            pgrp = tty.pgrp
    if pgrp is not None:
        kill_pgrp(pgrp, sig, 1)


def hvc_set_winsz(work: WorkStruct) -> None:
    """The work item of a new window size."""
    hp: HvcStruct = work.data
    tty = tty_port_tty_get(hp.port)
    if tty is not None:
        tty_do_resize(tty, winsize(hp.line.rows, hp.line.cols))


@notrace
def hvc_claim(tty: TtyStruct) -> None:
    """tty_operations.claim"""
    hp: HvcStruct = tty.driver_data
    hp.line.claim()


@notrace
def hvc_set_termios(tty: TtyStruct, _old: Ktermios) -> None:
    """tty_operations.set_termios"""
    hvc_claim(tty)


def hvc_unthrottle(tty: TtyStruct) -> None:
    """tty_operations.unthrottle"""
    hp: HvcStruct = tty.driver_data
    if hp.line.received:
        hvc_kick(hp)


# ---- open, close ------------------------------------------------------------------------------------------------
def hvc_install(driver: TtyDriver, tty: TtyStruct) -> None:
    """tty_operations.install"""
    hp: HvcStruct = driver.kernel.tty.hvc
    tty.driver_data = hp
    tty.port = hp.port
    tty.winsize = winsize(hp.line.rows, hp.line.cols)
    if hp.line.utf8:
        driver.init_termios.c_iflag |= IUTF8
    tty_standard_install(driver, tty)


def hvc_open(tty: TtyStruct, _file: File) -> None:
    """tty_operations.open"""
    hp: HvcStruct = tty.driver_data
    hp.port.count += 1
    if hp.port.count > 1:
        return
    tty_port_tty_set(hp.port, tty)
    if hp.line.received:
        hvc_kick(hp)


def hvc_close(tty: TtyStruct, _file: File) -> None:
    """tty_operations.close"""
    hp: HvcStruct = tty.driver_data
    if not hp.port.count:
        return
    hp.port.count -= 1
    if not hp.port.count:
        tty_port_tty_set(hp.port, None)
        hvc_push(hp)


def hvc_hangup(tty: TtyStruct) -> None:
    """tty_operations.hangup"""
    hp: HvcStruct = tty.driver_data
    hp.port.count = 0
    tty_port_tty_set(hp.port, None)
    hp.outbuf.clear()


def hvc_console_print(kernel: Kernel, data: bytes) -> None:
    """Kernel messages for the console. Context: any."""
    kernel.tty.hvc.line.transmit(data.replace(b"\n", b"\r\n"))


hvc_ops = TtyOperations(
    write=hvc_write, write_room=hvc_write_room, install=hvc_install, open=hvc_open, close=hvc_close,
    flush_chars=hvc_flush_chars, chars_in_buffer=hvc_chars_in_buffer, set_termios=hvc_set_termios,
    unthrottle=hvc_unthrottle, start=hvc_start, hangup=hvc_hangup, claim=hvc_claim)


def hvc_init(kernel: Kernel) -> None:
    """Registers hvc0 at kernel.machine.console as /dev/hvc0 and /dev/console."""
    line: Console = kernel.machine.console
    hp = HvcStruct(kernel, line, tty_port_init(kernel))
    hp.tty_resize = WorkStruct(hvc_set_winsz, hp)
    kernel.tty.hvc = hp
    driver = TtyDriver(
        driver_name=b"hvc", name=b"hvc", major=HVC_MAJOR, minor_start=0, num=1, type=TTY_DRIVER_TYPE_SYSTEM,
        subtype=0, ops=hvc_ops, kernel=kernel, flags=TTY_DRIVER_RESET_TERMIOS | TTY_DRIVER_REAL_RAW,
        init_termios=tty_std_termios())
    tty_register_driver(driver)
    kernel.tty.console = (driver, 0)
    request_irq(kernel, IRQ, hvc_handle_interrupt, 0, "hvc_console", hp)
