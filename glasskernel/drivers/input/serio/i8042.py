"""The keyboard controller's driver.

Linux: drivers/input/serio/i8042.c (5.3). Same: the controller is flushed, tested and set up with the commands and in
    the order of i8042_probe(); a mouse port is believed in when a byte comes back through the loop as the mouse's, and
    it can be switched off and on; bytes go to who drives the device on a port, until then they are counted only.
Differs: probed when somebody touches the machine's keyboard first, not at boot (drivers/pnp.py).
Owns: Kernel.i8042. Gaps: the input layer: there is no atkbd or psmouse, so what is typed reaches nobody (the console
    reads the host's terminal); multiplexed ports, quirks of laptops, suspend, the panic blink.
Invariant: ctr is what the controller's command byte is.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED, IRQ_NONE
from glasskernel.lib.errno import EIO, ENODEV, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.i8042 import (
    CTR_AUXDIS,
    CTR_AUXINT,
    CTR_IGNKEYLOCK,
    CTR_KBDDIS,
    CTR_KBDINT,
    I8042,
    STR_AUXDATA,
    STR_KEYLOCK,
    STR_OBF,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel

# command | bytes to send << 12 | bytes to receive << 8, as i8042.h has them
I8042_CMD_CTL_RCTR, I8042_CMD_CTL_WCTR, I8042_CMD_CTL_TEST = 0x0120, 0x1060, 0x01AA
I8042_CMD_KBD_DISABLE, I8042_CMD_KBD_ENABLE = 0x00AD, 0x00AE
I8042_CMD_AUX_DISABLE, I8042_CMD_AUX_ENABLE, I8042_CMD_AUX_LOOP = 0x00A7, 0x00A8, 0x11D3
I8042_RET_CTL_TEST: Final = 0x55
I8042_BUFFER_SIZE: Final = 16
I8042_CTL_TIMEOUT: Final = 10000
I8042_KBD_PORT_NO, I8042_AUX_PORT_NO = 0, 1


@slotted
class I8042Port:
    """struct i8042_port. driver(byte): who reads the device; None: nobody does. received: bytes so far."""

    irq: int
    name: str
    exists: bool = False
    driver: Callable[[int], None] | None = None
    received: int = 0


@slotted
class I8042State:
    """Kernel.i8042: the module's variables."""

    kernel: Kernel
    hardware: I8042
    ctr: int = 0                                # the command byte
    initial_ctr: int = 0                        # as the firmware left it
    ports: list[I8042Port] = field(
        default_factory=lambda: [I8042Port(1, "i8042 KBD port"), I8042Port(12, "i8042 AUX port")])


# ---- talking to it -----------------------------------------------------------------------------------------------
def i8042_wait_read(state: I8042State) -> None:
    """Until there is a byte. Raises EIO. The controller is never slow here: it is asked once."""
    if not state.hardware.read_status() & STR_OBF:
        raise KernelError(EIO)


def i8042_flush(state: I8042State) -> int:
    """Throws away what is in the buffer; answers how much it was. Raises ENODEV: nothing but bytes, no controller."""
    for count in range(I8042_BUFFER_SIZE):
        if not state.hardware.read_status() & STR_OBF:
            return count
        state.hardware.read_data()
    raise KernelError(ENODEV)


def i8042_command(state: I8042State, param: int, command: int) -> int:
    """A command, a byte for it if it takes one; answers the byte that comes back, if one does. Raises EIO."""
    state.hardware.write_command(command & 0xFF)
    if command >> 12 & 0xF:
        state.hardware.write_data(param & 0xFF)
    if not command >> 8 & 0xF:
        return 0
    i8042_wait_read(state)
    aux = state.hardware.read_status() & STR_AUXDATA
    value = state.hardware.read_data()
    if command == I8042_CMD_AUX_LOOP and not aux:
        raise KernelError(EIO)                  # the keyboard's: there is no mouse port
    return value


# ---- setting it up -----------------------------------------------------------------------------------------------
def i8042_probe(state: I8042State) -> None:
    """Finds the ports and turns their lines on. Raises ENODEV, EIO."""
    i8042_controller_check(state)
    i8042_controller_selftest(state)
    i8042_controller_init(state)
    if i8042_check_aux(state):
        i8042_setup_aux(state)
    i8042_setup_kbd(state)
    i8042_register_ports(state)


def i8042_controller_check(state: I8042State) -> None:
    i8042_flush(state)


def i8042_controller_selftest(state: I8042State) -> None:
    if i8042_command(state, 0, I8042_CMD_CTL_TEST) != I8042_RET_CTL_TEST:
        raise KernelError(EIO)


def i8042_controller_init(state: I8042State) -> None:
    """Reads the command byte, and disables the keyboard and its line until the driver is ready."""
    state.ctr = state.initial_ctr = i8042_command(state, 0, I8042_CMD_CTL_RCTR)
    state.ctr = (state.ctr | CTR_KBDDIS) & ~CTR_KBDINT
    if not state.hardware.read_status() & STR_KEYLOCK and not state.ctr & CTR_IGNKEYLOCK:
        state.kernel.printk("i8042: Warning: Keylock active", 4)
    write_ctr(state)
    i8042_flush(state)


@notrace
def write_ctr(state: I8042State) -> None:
    i8042_command(state, state.ctr, I8042_CMD_CTL_WCTR)


def i8042_check_aux(state: I8042State) -> bool:
    """Is there a second port? What is sent through the loop comes back as the mouse's, and raises line 12."""
    i8042_flush(state)
    try:
        if i8042_command(state, 0x5A, I8042_CMD_AUX_LOOP) != 0x5A:
            return False
    except KernelError:
        return False
    i8042_toggle_aux(state, False)
    if not state.ctr & CTR_AUXDIS:
        return False
    i8042_toggle_aux(state, True)
    return not state.ctr & CTR_AUXDIS


def i8042_toggle_aux(state: I8042State, on: bool) -> None:
    i8042_command(state, 0, I8042_CMD_AUX_ENABLE if on else I8042_CMD_AUX_DISABLE)
    state.ctr = i8042_command(state, 0, I8042_CMD_CTL_RCTR)


def i8042_setup_aux(state: I8042State) -> None:
    state.ports[I8042_AUX_PORT_NO].exists = True
    i8042_enable_aux_port(state)


def i8042_setup_kbd(state: I8042State) -> None:
    state.ports[I8042_KBD_PORT_NO].exists = True
    i8042_enable_kbd_port(state)


def i8042_enable_aux_port(state: I8042State) -> None:
    state.ctr = (state.ctr & ~CTR_AUXDIS) | CTR_AUXINT
    write_ctr(state)


def i8042_enable_kbd_port(state: I8042State) -> None:
    state.ctr = (state.ctr & ~CTR_KBDDIS) | CTR_KBDINT
    write_ctr(state)


def i8042_register_ports(state: I8042State) -> None:
    for port in state.ports:
        if port.exists:
            state.kernel.printk(f"serio: {port.name} at 0x60,0x64 irq {port.irq}")


# ---- interrupts --------------------------------------------------------------------------------------------------
def i8042_interrupt(irq: int, dev_id: Any) -> int:
    """A byte came: for its port's driver."""
    state: I8042State = dev_id
    status = state.hardware.read_status()
    if not status & STR_OBF:
        return IRQ_NONE
    data = state.hardware.read_data()
    port = state.ports[I8042_AUX_PORT_NO if status & STR_AUXDATA else I8042_KBD_PORT_NO]
    port.received += 1
    if port.driver is not None:
        port.driver(data)                       # serio_interrupt()
    return IRQ_HANDLED


@notrace
def i8042_create(kernel: Kernel) -> I8042State:
    """The driver's state for the machine's controller, which it has probed."""
    state = I8042State(kernel, I8042(kernel.machine))
    i8042_probe(state)
    return state
