"""What programs that trace can see of kernel objects: registers, and memory through bpf_probe_read().

Linux: struct pt_regs, probe_kernel_read() and strncpy_from_unsafe() of mm/maccess.c (5.3). Same: memory that is not
there is EFAULT, at the first byte that is missing.
Differs: an object has an address (see trace_probe_fetch.py), but its bytes are made when they are read: those of the
    fields in LAYOUTS, at the offsets that they have in a 5.3 as distributions configure it. What a run has met (an
    argument of its probe, a pointer that it read) is in BpfRun.objects, and only that can be read.
Gaps: fields that LAYOUTS lacks are EFAULT; addresses that a program kept from an earlier run, too.
Context: any; never sleeps.
"""
from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import kernel_page
from glasskernel.kernel.bpf.core import CTX_ADDRESS
from glasskernel.kernel.bpf.memory import read_kernel
from glasskernel.kernel.current import register
from glasskernel.kernel.trace.trace_probe_fetch import number_of, probe_mem_read
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.mm.vmalloc import is_vmalloc_addr

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfRun

PT_REGS_SIZE = 168
# offsets in struct pt_regs
(PT_R15, PT_R14, PT_R13, PT_R12, PT_BP, PT_BX, PT_R11, PT_R10, PT_R9, PT_R8, PT_AX, PT_CX, PT_DX, PT_SI, PT_DI,
 PT_ORIG_AX, PT_IP, PT_CS, PT_FLAGS, PT_SP, PT_SS) = range(0, PT_REGS_SIZE, 8)
_ARGUMENTS = {PT_DI: 0, PT_SI: 1, PT_DX: 2, PT_CX: 3, PT_R8: 4, PT_R9: 5}
_CONSTANT = {PT_CS: 0x10, PT_SS: 0x18, PT_FLAGS: 0x202, PT_ORIG_AX: U64_MAX}   # __KERNEL_CS, __KERNEL_DS, IF
_HEADS = 0xFFFF_A000_0000_0000           # where the linear buffers of packets seem to lie
_HEAD_STEP = 512
_CTX_SIZE = 4096

Getter = Callable[["BpfRun", Any], Any]  # a number, an object (a pointer to it), or bytes of the field's size


# ---- registers ---------------------------------------------------------------------------------------------------
@slotted
class KernelRegs:
    """struct pt_regs at a place in the kernel: the entry of a function, or its return."""

    frame: FrameType | None
    ip: int
    returned: Any = None

    @notrace
    def word(self, run: BpfRun, offset: int) -> int:
        index = _ARGUMENTS.get(offset)
        if index is not None:
            code = self.frame.f_code if self.frame is not None else None
            if code is None or index >= code.co_argcount:
                return 0
            assert self.frame is not None
            return pointer_to(run, self.frame.f_locals.get(code.co_varnames[index]))
        if offset == PT_AX:
            return pointer_to(run, self.returned)
        return self.ip if offset == PT_IP else _CONSTANT.get(offset, 0)


# ---- pointers ----------------------------------------------------------------------------------------------------
@notrace
def pointer_to(run: BpfRun, thing: Any) -> int:
    """A value as a register holds it; an object can be read from now on in this run."""
    address = number_of(thing)
    if thing is not None and not isinstance(thing, int | float):
        run.objects[address] = thing
    return address


@notrace
def _head(run: BpfRun, skb: Any) -> int:
    address = _HEADS + (pointer_to(run, skb) & 0xFFFF_FFFF) * _HEAD_STEP
    run.objects[address] = skb.head
    return address


LAYOUTS: dict[str, dict[int, tuple[int, Getter]]] = {
    "SkBuff": {                          # offset -> (size, value)
        16: (8, lambda run, skb: skb.dev), 24: (8, lambda run, skb: skb.sk), 32: (8, lambda run, skb: skb.tstamp),
        112: (4, lambda run, skb: skb.len), 116: (4, lambda run, skb: skb.data_len),
        120: (2, lambda run, skb: skb.mac_len), 124: (2, lambda run, skb: skb.queue_mapping),
        140: (4, lambda run, skb: skb.priority), 144: (4, lambda run, skb: skb.skb_iif),
        148: (4, lambda run, skb: skb.hash), 154: (2, lambda run, skb: skb.vlan_tci),
        164: (4, lambda run, skb: skb.mark),
        176: (2, lambda run, skb: skb.protocol.to_bytes(2, "big")),
        178: (2, lambda run, skb: skb.transport_header), 180: (2, lambda run, skb: skb.network_header),
        182: (2, lambda run, skb: skb.mac_header), 184: (4, lambda run, skb: skb.tail),
        188: (4, lambda run, skb: len(skb.head)), 192: (8, _head),
        200: (8, lambda run, skb: _head(run, skb) + skb.data),
        208: (4, lambda run, skb: skb.truesize), 212: (4, lambda run, skb: skb.users),
    },
    "NetDevice": {0: (16, lambda run, dev: dev.name.ljust(16, b"\0"))},
}


@notrace
def _object_bytes(run: BpfRun, thing: Any, offset: int, size: int) -> bytes | None:
    """Bytes of an object; None: not all of them are known."""
    if isinstance(thing, bytes | bytearray | memoryview):
        data = bytes(thing[offset : offset + size])
        if len(data) < size and isinstance(thing, bytes):
            data += b"\0"                # the end of a string
        return data if len(data) == size else None
    fields = LAYOUTS.get(type(thing).__name__, {})
    image = bytearray()
    while len(image) < size:
        at = offset + len(image)
        start = at if at in fields else max((o for o in fields if o < at), default=-1)
        if start < 0 or at >= start + fields[start][0]:
            return None
        width, getter = fields[start]
        value = getter(run, thing)
        if not isinstance(value, bytes):
            value = (pointer_to(run, value) & (1 << 8 * width) - 1).to_bytes(width, "little")
        image += value[at - start :]
    return bytes(image[:size])


# ---- memory ------------------------------------------------------------------------------------------------------
@notrace
def _context_bytes(run: BpfRun, offset: int, size: int) -> bytes | None:
    """The program's context, which strings of a tracepoint's record are relative to."""
    ctx = run.ctx
    raw = getattr(ctx, "raw", None)
    if raw is None:
        words = range(offset & ~7, offset + size, 8)
        data = b"".join(ctx.word(run, word).to_bytes(8, "little") for word in words)[offset & 7 :][:size]
    else:
        data = raw[offset : offset + size]
    return data if len(data) == size else None


@notrace
def probe_kernel_read(run: BpfRun, address: int, size: int) -> bytes | None:
    """Bytes of the kernel's or the program's memory, or of an object. None: EFAULT."""
    address &= U64_MAX
    if CTX_ADDRESS <= address < CTX_ADDRESS + _CTX_SIZE:
        return _context_bytes(run, address - CTX_ADDRESS, size)
    thing = run.objects.get(address)
    if thing is not None:
        return _object_bytes(run, thing, 0, size)
    for base, thing in run.objects.items():
        if base < address < base + (len(thing) if isinstance(thing, bytes | bytearray) else 4096):
            data = _object_bytes(run, thing, address - base, size)
            if data is not None:
                return data
    if is_vmalloc_addr(address):
        try:
            for page in range(address >> 12, (address + size - 1 >> 12) + 1):
                if kernel_page(page << 12) is None:
                    return None
        except KernelError:
            return None
        return read_kernel(run.kernel, address, size)
    data = probe_mem_read(register.task, address, size)
    return data if len(data) == size else None


@notrace
def strncpy_from_unsafe(run: BpfRun, address: int, count: int) -> bytes | None:
    """A string with its 0, at most `count` bytes; cut, it ends with a 0 as well. None: EFAULT."""
    found = bytearray()
    while len(found) < count:
        byte = probe_kernel_read(run, address + len(found), 1)
        if byte is None:
            return None
        found += byte
        if byte == b"\0":
            return bytes(found)
    found[-1:] = b"\0"
    return bytes(found)
