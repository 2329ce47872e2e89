"""A network card: an Intel 82540EM, as far as a driver uses it, the cable in it, and faults of the cable on demand.

Knows nothing of Linux. Registers are read and written by their offset in the card's memory window; descriptors and
buffers lie in RAM. At the cable's other end is `peer` (machine/gateway.py's router unless somebody plugs in something
else); tests watch frames (`watch`) and put frames on the cable (`inject`).
The cable: a frame needs 8 ns a byte (1 Gbit/s; with preamble, checksum and gap) at the sender, one after the other in
each direction, and then `latency_ns` to the other end.
Faults (LinkFaults): frames are counted from 1, both directions together, in the order in which they are sent.
Gaps: transmit segmentation, VLANs, wake on LAN, half duplex, jumbo frames.
Invariants: the head register names the first descriptor that belongs to the card; the line (NIC_IRQ) is raised when
    a cause in ICR becomes set that IMS has on.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from glasskernel.lib.checksum import csum_fold, csum_partial, csum_tcpudp_magic
from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.machine.machine import Machine

NIC_IRQ = 19
VENDOR_ID, DEVICE_ID = 0x8086, 0x100E
MAC = bytes.fromhex("525400123456")
# registers
CTRL, STATUS, EERD, ICR, ITR, ICS, IMS, IMC = 0x0000, 0x0008, 0x0014, 0x00C0, 0x00C4, 0x00C8, 0x00D0, 0x00D8
RCTL, TCTL = 0x0100, 0x0400
RDBAL, RDBAH, RDLEN, RDH, RDT = 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
TDBAL, TDBAH, TDLEN, TDH, TDT = 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
CRCERRS, MPC, GPRC, BPRC, MPRC, GPTC = 0x4000, 0x4010, 0x4074, 0x4078, 0x407C, 0x4080
RXCSUM, MTA, RAL, RAH = 0x5000, 0x5200, 0x5400, 0x5404
STATISTICS = (CRCERRS, MPC, GPRC, BPRC, MPRC, GPTC)              # reading one clears it
# their bits
CTRL_RST, CTRL_SLU = 0x04000000, 0x40
STATUS_FD, STATUS_LU, STATUS_SPEED_1000 = 0x1, 0x2, 0x80
ICR_TXDW, ICR_LSC, ICR_RXSEQ, ICR_RXDMT0, ICR_RXO, ICR_RXT0 = 0x1, 0x4, 0x8, 0x10, 0x40, 0x80
RCTL_EN, RCTL_UPE, RCTL_MPE, RCTL_BAM = 0x2, 0x8, 0x10, 0x8000
TCTL_EN = 0x2
RXCSUM_TUOFL = 0x200
RAH_AV = 0x80000000
EERD_START, EERD_DONE = 0x1, 0x10
ITR_NS = 256                                   # the unit of ITR: the least time between two interrupts
# descriptors
DESCRIPTOR = 16
RXD_DD, RXD_EOP, RXD_IXSM, RXD_TCPCS, RXD_IPCS = 0x1, 0x2, 0x4, 0x20, 0x40
RXD_ERR_TCPE = 0x20
TXD_EOP, TXD_RS, TXD_DEXT, TXD_DTYP_D = 0x01000000, 0x08000000, 0x20000000, 0x00100000
TXD_POPTS_TXSM = 0x200
TXD_DD = 0x1
RX_BUFFER = 2048
FCS = 4
WIRE_OVERHEAD = 8 + FCS + 12                   # preamble, checksum, gap
MIN_FRAME = 60


class Peer(Protocol):
    """What is at the other end of the cable."""

    def receive(self, frame: bytes) -> None:
        """A frame, without its checksum. Called between two turns of the machine; answers go to nic.inject()."""


@slotted
class LinkFaults:
    """What goes wrong on the cable. *_every: one frame in so many, by the dice. Nothing by default."""

    lose: list[int] = field(default_factory=list)                 # frame numbers
    duplicate: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)              # a bit that the link's checksum does not notice
    delay: dict[int, int] = field(default_factory=dict)           # frame number -> additional ns
    lose_every: int = 0
    duplicate_every: int = 0
    corrupt_every: int = 0
    reorder_every: int = 0                                        # comes reorder_ns later
    reorder_ns: int = 300_000


class Nic:
    """The card. Registers: read32(), write32()."""

    def __init__(self, machine: Machine, *, mac: bytes = MAC, latency_ns: int = 50_000, seed: int = 0) -> None:
        self.machine = machine
        self.mac = mac
        self.latency_ns = latency_ns
        self.ns_per_byte = 8
        self.faults = LinkFaults()
        self.carrier = True
        self.peer: Peer | None = None
        self.watch: list[Callable[[str, bytes], None]] = []       # ("sent" or "received", frame)
        self.frames = 0                                           # how many entered the cable
        self._dice = random.Random(f"nic {seed}")
        self._registers: dict[int, int] = {}
        self._free_at = {"sent": 0, "received": 0}                # when the cable is free again in that direction
        self._checksum: tuple[int, int] | None = None             # a context: sum from here, store there
        self._next = 0                                            # the transmit descriptor to be read next
        self._frame = bytearray()
        self._resets = 0
        self._last_irq = -(1 << 62)                               # when, and whether the next one has to wait
        self._throttled = False
        self._reset()

    def _reset(self) -> None:
        self._registers = {
            CTRL: 0, RAL: int.from_bytes(self.mac[:4], "little"),
            RAH: int.from_bytes(self.mac[4:], "little") | RAH_AV,
        }
        self._next = 0
        self._frame.clear()
        self._resets += 1

    # ---- registers -------------------------------------------------------------------------------------------
    def read32(self, offset: int) -> int:
        registers = self._registers
        value = registers.get(offset, 0)
        if offset == ICR:
            registers[ICR] = 0
        elif offset == STATUS:
            value = STATUS_FD | STATUS_SPEED_1000 | (STATUS_LU if self._link_is_up() else 0)
        elif offset in STATISTICS:
            registers[offset] = 0
        return value

    def write32(self, offset: int, value: int) -> None:
        registers = self._registers
        if offset == CTRL and value & CTRL_RST:
            self._reset()
        elif offset == IMS:
            registers[IMS] = registers.get(IMS, 0) | value
            self._raise(0)
        elif offset == IMC:
            registers[IMS] = registers.get(IMS, 0) & ~value
        elif offset == ICS:
            self._raise(value)
        elif offset == EERD and value & EERD_START:
            word = value >> 8 & 0xFF
            data = int.from_bytes(self.mac[2 * word : 2 * word + 2], "little") if word < 3 else 0
            registers[EERD] = value | EERD_DONE | data << 16
        else:
            registers[offset] = value
            if offset == TDT:
                self._transmit()
            elif offset == TDH:
                self._next = value

    def _raise(self, causes: int) -> None:
        registers = self._registers
        registers[ICR] = registers.get(ICR, 0) | causes
        if not registers[ICR] & registers.get(IMS, 0) or self._throttled:
            return
        now = self.machine.now()
        earliest = self._last_irq + registers.get(ITR, 0) * ITR_NS
        if now >= earliest:
            self._last_irq = now
            self.machine.post_irq(NIC_IRQ)
        else:
            self._throttled = True
            self.machine.at(earliest, self._throttle_ends)

    def _throttle_ends(self) -> None:
        self._throttled = False
        self._raise(0)

    def _link_is_up(self) -> bool:
        return self.carrier and bool(self._registers[CTRL] & CTRL_SLU)

    # ---- sending -----------------------------------------------------------------------------------------------
    def _transmit(self) -> None:
        """Reads descriptors up to the tail, and puts the frames on the cable."""
        registers = self._registers
        ring = registers.get(TDBAL, 0) | registers.get(TDBAH, 0) << 32
        count = registers.get(TDLEN, 0) // DESCRIPTOR
        if not registers.get(TCTL, 0) & TCTL_EN or not count:
            return
        ram = self.machine.ram
        while self._next != registers[TDT]:
            at = ring + self._next * DESCRIPTOR
            self._next = (self._next + 1) % count
            command = int.from_bytes(ram[at + 8 : at + 12], "little")
            if command & TXD_DEXT and not command & TXD_DTYP_D:              # a context
                self._checksum = (ram[at + 4], ram[at + 5])
                self._descriptor_done(at, command, self.machine.now())
                continue
            address = int.from_bytes(ram[at : at + 8], "little")
            self._frame += ram[address : address + (command & (0xFFFFF if command & TXD_DEXT else 0xFFFF))]
            when = self.machine.now()
            if command & TXD_EOP:
                frame, self._frame = self._frame, bytearray()
                options = int.from_bytes(ram[at + 12 : at + 16], "little")
                if command & TXD_DEXT and options & TXD_POPTS_TXSM and self._checksum is not None:
                    start, store = self._checksum
                    csum = csum_fold(csum_partial(memoryview(frame)[start:])) or 0xFFFF
                    frame[store : store + 2] = csum.to_bytes(2, "big")
                registers[GPTC] = registers.get(GPTC, 0) + 1
                when = self._cable("sent", bytes(frame).ljust(MIN_FRAME, b"\0"))
            self._descriptor_done(at, command, when)

    def _descriptor_done(self, at: int, command: int, when: int) -> None:
        """Its bytes are on the cable at that time: written back then, with an interrupt if it asks for its status."""

        resets = self._resets

        def done() -> None:
            if self._resets != resets:
                return
            registers = self._registers
            registers[TDH] = (registers.get(TDH, 0) + 1) % (registers[TDLEN] // DESCRIPTOR)
            if command & TXD_RS:
                self.machine.ram[at + 12] |= TXD_DD
                self._raise(ICR_TXDW)

        self.machine.at(when, done)

    # ---- the cable -----------------------------------------------------------------------------------------------
    def _cable(self, direction: str, frame: bytes) -> int:
        """A frame is sent; answers when its last byte is. What becomes of it is decided here."""
        self.frames += 1
        number, faults, dice = self.frames, self.faults, self._dice
        begin = max(self.machine.now(), self._free_at[direction])
        sent = self._free_at[direction] = begin + (len(frame) + WIRE_OVERHEAD) * self.ns_per_byte
        if direction == "sent":
            for watcher in self.watch:
                watcher("sent", frame)
        lost = number in faults.lose or (faults.lose_every and not dice.randrange(faults.lose_every))
        if lost or not self.carrier:
            return sent
        if number in faults.corrupt or (faults.corrupt_every and not dice.randrange(faults.corrupt_every)):
            bit = dice.randrange(14 * 8, len(frame) * 8)
            changed = bytearray(frame)
            changed[bit >> 3] ^= 1 << (bit & 7)
            frame = bytes(changed)
        when = sent + self.latency_ns + faults.delay.get(number, 0)
        if faults.reorder_every and not dice.randrange(faults.reorder_every):
            when += faults.reorder_ns
        twice = number in faults.duplicate or (faults.duplicate_every and not dice.randrange(faults.duplicate_every))
        for _ in range(2 if twice else 1):
            self.machine.at(when, lambda: self._arrives(direction, frame))
        return sent

    def _arrives(self, direction: str, frame: bytes) -> None:
        if not self.carrier:
            return
        if direction == "received":
            for watcher in self.watch:
                watcher("received", frame)
            self._receive(frame)
        elif self.peer is not None:
            self.peer.receive(frame)

    def inject(self, frame: bytes) -> None:
        """Whoever is at the other end sends a frame (without checksum; short ones are padded)."""
        self._cable("received", frame.ljust(MIN_FRAME, b"\0"))

    def set_carrier(self, on: bool) -> None:
        """Plugs the cable in, or out."""
        if on != self.carrier:
            self.carrier = on
            self._raise(ICR_LSC)

    # ---- receiving -------------------------------------------------------------------------------------------------
    def _wanted(self, frame: bytes) -> bool:
        """The address filter."""
        registers = self._registers
        control = registers.get(RCTL, 0)
        if not control & RCTL_EN or not self._link_is_up():
            return False
        if frame[:6] == b"\xff" * 6:
            return bool(control & (RCTL_BAM | RCTL_UPE))
        if frame[0] & 1:
            if control & RCTL_MPE:
                return True
            index = (frame[4] >> 4 | frame[5] << 4) & 0xFFF
            return bool(registers.get(MTA + (index >> 5) * 4, 0) >> (index & 31) & 1)
        own = registers[RAL].to_bytes(4, "little") + (registers[RAH] & 0xFFFF).to_bytes(2, "little")
        return bool(control & RCTL_UPE) or frame[:6] == own

    def _receive(self, frame: bytes) -> None:
        """Into the buffer of the next descriptor, if the driver has given one."""
        if not self._wanted(frame):
            return
        registers = self._registers
        ring = registers.get(RDBAL, 0) | registers.get(RDBAH, 0) << 32
        count = registers.get(RDLEN, 0) // DESCRIPTOR
        head = registers.get(RDH, 0)
        if not count or head == registers.get(RDT, 0) or len(frame) + FCS > RX_BUFFER:
            registers[MPC] = registers.get(MPC, 0) + 1
            self._raise(ICR_RXO)
            return
        ram = self.machine.ram
        at = ring + head * DESCRIPTOR
        address = int.from_bytes(ram[at : at + 8], "little")
        ram[address : address + len(frame)] = frame
        status, errors = self._check(frame)
        ram[at + 8 : at + 16] = ((len(frame) + FCS).to_bytes(2, "little") + b"\0\0"
                                 + bytes((status | RXD_DD | RXD_EOP, errors)) + b"\0\0")
        registers[RDH] = (head + 1) % count
        registers[GPRC] = registers.get(GPRC, 0) + 1
        if frame[0] & 1:
            kind = BPRC if frame[:6] == b"\xff" * 6 else MPRC
            registers[kind] = registers.get(kind, 0) + 1
        self._raise(ICR_RXT0)

    def _check(self, frame: bytes) -> tuple[int, int]:
        """Status and error bits of TCP's and UDP's checksums, where the card understands the packet."""
        if not self._registers.get(RXCSUM, 0) & RXCSUM_TUOFL or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4:
            return RXD_IXSM, 0
        header = (frame[14] & 15) * 4
        length = int.from_bytes(frame[16:18], "big") - header
        proto = frame[23]
        if proto not in (6, 17) or int.from_bytes(frame[20:22], "big") & 0x3FFF or length < 8:
            return RXD_IXSM, 0
        segment = memoryview(frame)[14 + header : 14 + header + length]
        if len(segment) != length or (proto == 17 and bytes(segment[6:8]) == b"\0\0"):
            return RXD_IXSM, 0
        saddr, daddr = int.from_bytes(frame[26:30], "big"), int.from_bytes(frame[30:34], "big")
        wrong = csum_tcpudp_magic(saddr, daddr, length, proto, csum_partial(segment))
        return RXD_TCPCS | RXD_IPCS, RXD_ERR_TCPE if wrong else 0
