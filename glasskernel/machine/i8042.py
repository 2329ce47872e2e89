"""The keyboard controller of a PC: an Intel 8042 with a keyboard and a PS/2 mouse, at ports 0x60 and 0x64.

Owns: the output buffer and what the two devices have to say. Gaps: translation to scan code set 1 (what is typed is
    sent as it is), the mouse's own settings, repetition of keys, password mode, the A20 gate.
Invariants: the output buffer holds one byte at a time, and the status register says whose; line 1 (keyboard) or 12
    (mouse) is raised when a byte enters it, if the command byte has that line on.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.machine.machine import Machine

KEYBOARD_IRQ, MOUSE_IRQ = 1, 12
STR_OBF, STR_IBF, STR_MUXERR, STR_CMDDAT, STR_KEYLOCK, STR_AUXDATA, STR_TIMEOUT, STR_PARITY = (1 << b for b in range(8))
CTR_KBDINT, CTR_AUXINT, CTR_IGNKEYLOCK, CTR_KBDDIS, CTR_AUXDIS, CTR_XLATE = 1, 2, 8, 16, 32, 64
ACK, RESEND, BAT_OK = 0xFA, 0xFE, 0xAA
CONTROLLER, KEYBOARD, MOUSE = range(3)


class I8042:
    """The controller. Ports: read_data and write_data are 0x60, read_status and write_command 0x64."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.command_byte = CTR_XLATE | CTR_KBDINT | CTR_IGNKEYLOCK
        self._output: int | None = None
        self._source = CONTROLLER
        self._answers: deque[tuple[int, int]] = deque()        # (who, byte): the controller's own
        self._sent = {KEYBOARD: deque[int](), MOUSE: deque[int]()}
        self._last_command = 0                                 # that still wants a byte at port 0x60
        self._parameter = {KEYBOARD: False, MOUSE: False}      # the device's last command wants one

    # ---- ports --------------------------------------------------------------------------------------------------
    def read_status(self) -> int:
        status = STR_KEYLOCK
        if self._output is not None:
            status |= STR_OBF | (STR_AUXDATA if self._source == MOUSE else 0)
        return status

    def read_data(self) -> int:
        """Takes the byte out of the output buffer; the next one enters."""
        value, self._output = self._output or 0, None
        self._fill()
        return value

    def write_command(self, command: int) -> None:
        """A command for the controller itself."""
        self._last_command = 0
        if command == 0x20:
            self._answer(self.command_byte)
        elif command in (0x60, 0xD1, 0xD2, 0xD3, 0xD4):
            self._last_command = command
        elif command == 0xA7:
            self.command_byte |= CTR_AUXDIS
        elif command == 0xA8:
            self.command_byte &= ~CTR_AUXDIS
        elif command == 0xAD:
            self.command_byte |= CTR_KBDDIS
        elif command == 0xAE:
            self.command_byte &= ~CTR_KBDDIS
        elif command in (0xA9, 0xAB):
            self._answer(0)                                    # the interface works
        elif command == 0xAA:
            self.command_byte |= CTR_KBDDIS | CTR_AUXDIS
            self._answer(0x55)                                 # the self-test passed
        self._fill()

    def write_data(self, value: int) -> None:
        """A byte for the command before it, or for the keyboard."""
        command, self._last_command = self._last_command, 0
        if command == 0x60:
            self.command_byte = value
        elif command == 0xD2:
            self._answer(value, KEYBOARD)
        elif command == 0xD3:
            self._answer(value, MOUSE)                         # as if the mouse had sent it
        elif command == 0xD4:
            self._device(MOUSE, value)
        elif command == 0:
            self._device(KEYBOARD, value)
        self._fill()

    # ---- devices ------------------------------------------------------------------------------------------------
    def _device(self, who: int, value: int) -> None:
        """A command for the keyboard or the mouse: acknowledged, and answered."""
        sent = self._sent[who]
        if self._parameter[who]:
            self._parameter[who] = False
            sent.append(ACK)
        elif value == 0xFF:
            sent.extend((ACK, BAT_OK) if who == KEYBOARD else (ACK, BAT_OK, 0))
        elif value == 0xF2:
            sent.extend((ACK, 0xAB, 0x83) if who == KEYBOARD else (ACK, 0))
        elif value == 0xE9 and who == MOUSE:
            sent.extend((ACK, 0, 2, 100))                      # stream mode off, resolution, samples a second
        elif value in (0xED, 0xF3, 0xF0, 0xE8):
            self._parameter[who] = True
            sent.append(ACK)
        else:
            sent.append(ACK if value >= 0xE6 else RESEND)

    def type_keys(self, codes: bytes) -> None:
        """The keyboard sends these bytes: make and break codes of set 1. For whoever builds the machine."""
        self._sent[KEYBOARD].extend(codes)
        self._fill()

    def move_mouse(self, packet: bytes) -> None:
        """The mouse sends these bytes: three for each movement."""
        self._sent[MOUSE].extend(packet)
        self._fill()

    # ---- the buffer ---------------------------------------------------------------------------------------------
    def _answer(self, value: int, who: int = CONTROLLER) -> None:
        self._answers.append((who, value))

    def _fill(self) -> None:
        """The next byte enters the output buffer, if it is free and its sender may send."""
        if self._output is not None:
            return
        if self._answers:
            self._source, self._output = self._answers.popleft()
        elif self._sent[KEYBOARD] and not self.command_byte & CTR_KBDDIS:
            self._source, self._output = KEYBOARD, self._sent[KEYBOARD].popleft()
        elif self._sent[MOUSE] and not self.command_byte & CTR_AUXDIS:
            self._source, self._output = MOUSE, self._sent[MOUSE].popleft()
        else:
            return
        if self._source == MOUSE:
            if self.command_byte & CTR_AUXINT:
                self.machine.post_irq(MOUSE_IRQ)
        elif self.command_byte & CTR_KBDINT:
            self.machine.post_irq(KEYBOARD_IRQ)
