"""The tracer "blk": the records of blktrace in the trace buffer, and /sys/block/NAME/trace.

Linux: the second half of kernel/trace/blktrace.c (5.3). Same: the record (struct blk_io_trace behind the common
    fields), a line in the layout of a trace and, with options/blk_classic, in blktrace's own; the attributes enable,
    act_mask, pid, start_lba and end_lba of a disk and of a partition; what a disk records goes to the tracer while it
    is on, and to blktrace(8) otherwise.
Differs: records are made by blktrace.py's probes. Owns: kernel.block.blk_tr, the array that the tracer writes to.
Gaps: blk_cgroup and blk_cgname (our bios know no cgroup).
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import HdStruct
from glasskernel.kernel.trace.blktrace import (
    BLK_TC_AHEAD,
    BLK_TC_DISCARD,
    BLK_TC_FLUSH,
    BLK_TC_FUA,
    BLK_TC_META,
    BLK_TC_PC,
    BLK_TC_SHIFT,
    BLK_TC_SYNC,
    BLK_TC_WRITE,
    BLK_TN_MESSAGE,
    BlkTrace,
    Blktrace_setup,
    blk_register_tracepoints,
    blk_trace_cleanup,
    blk_trace_setup_lba,
)
from glasskernel.kernel.trace.trace import (
    TRACE_ITER_CONTEXT_INFO,
    TRACE_ITER_VERBOSE,
    Tracer,
    TracerFlags,
    register_tracer,
    trace_find_cmdline,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace import TraceArray, TraceEntry, TraceIterator

TRACE_BLK = 13
TRACE_BLK_OPT_CLASSIC = 1
IO_TRACE = Struct("<QQIIIIIHH")                  # struct blk_io_trace from `time` on: what is behind the common fields
_U64, _REMAP = Struct(">Q"), Struct(">IIQ")
# The names of act_mask's bits, from bit 0 on.
_MASKS = (b"read", b"write", b"flush", b"sync", b"queue", b"requeue", b"issue", b"complete", b"fs", b"pc", b"notify",
          b"ahead", b"meta", b"discard", b"drv_data", b"fua")


class BlkRecord:
    """A record, taken apart."""

    __slots__ = ("action", "bytes", "comm", "device", "error", "pdu", "pid", "sector")

    def __init__(self, iterator: TraceIterator, entry: TraceEntry) -> None:
        _, self.sector, self.bytes, self.action, self.pid, self.device, _, error, size = IO_TRACE.unpack_from(
            entry.payload)
        self.error = error - 0x10000 if error & 0x8000 else error
        self.pdu = entry.payload[IO_TRACE.size : IO_TRACE.size + size]
        self.comm = trace_find_cmdline(iterator.tr.state, entry.pid)


# ---- a line --------------------------------------------------------------------------------------------------------
@notrace
def fill_rwbs(record: BlkRecord) -> str:
    """The letters of what is wanted."""
    if record.action == BLK_TN_MESSAGE:
        return "N"
    flags = record.action >> BLK_TC_SHIFT
    text = "F" if flags & BLK_TC_FLUSH else ""
    if flags & BLK_TC_DISCARD:
        text += "D"
    elif flags & BLK_TC_WRITE:
        text += "W"
    else:
        text += "R" if record.bytes else "N"
    for bit, letter in ((BLK_TC_FUA, "F"), (BLK_TC_AHEAD, "A"), (BLK_TC_SYNC, "S"), (BLK_TC_META, "M")):
        if flags & bit:
            text += letter
    return text


@notrace
def blk_log_generic(record: BlkRecord) -> str:
    if record.action >> BLK_TC_SHIFT & BLK_TC_PC:
        return f"{record.bytes} [{record.comm}]"
    sectors = record.bytes >> 9
    return f"{record.sector} + {sectors} [{record.comm}]" if sectors else f"[{record.comm}]"


@notrace
def blk_log_with_error(record: BlkRecord) -> str:
    sectors = record.bytes >> 9
    return f"{record.sector} + {sectors} [{record.error}]" if sectors else f"{record.sector} [{record.error}]"


@notrace
def blk_log_plug(record: BlkRecord) -> str:
    return f"[{record.comm}]"


@notrace
def blk_log_unplug(record: BlkRecord) -> str:
    return f"[{record.comm}] {_U64.unpack(record.pdu)[0]}"


@notrace
def blk_log_split(record: BlkRecord) -> str:
    return f"{record.sector} / {_U64.unpack(record.pdu)[0]} [{record.comm}]"


@notrace
def blk_log_remap(record: BlkRecord) -> str:
    device, _, sector = _REMAP.unpack(record.pdu)
    return f"{record.sector} + {record.bytes >> 9} <- ({device >> 20},{device & 0xFFFFF}) {sector}"


_ACTIONS = {
    1: ("Q", "queue", blk_log_generic), 2: ("M", "backmerge", blk_log_generic),
    3: ("F", "frontmerge", blk_log_generic), 4: ("G", "getrq", blk_log_generic), 5: ("S", "sleeprq", blk_log_generic),
    6: ("R", "requeue", blk_log_with_error), 7: ("D", "issue", blk_log_generic),
    8: ("C", "complete", blk_log_with_error), 9: ("P", "plug", blk_log_plug), 10: ("U", "unplug_io", blk_log_unplug),
    11: ("UT", "unplug_timer", blk_log_unplug), 12: ("I", "insert", blk_log_generic), 13: ("X", "split", blk_log_split),
    14: ("B", "bounce", blk_log_generic), 15: ("A", "remap", blk_log_remap),
}


@notrace
def print_one_line(iterator: TraceIterator, entry: TraceEntry, classic: bool) -> str:
    """Device, action, letters, and what the action has to say."""
    record = BlkRecord(iterator, entry)
    long = bool(iterator.tr.trace_flags & TRACE_ITER_VERBOSE)
    if record.action == BLK_TN_MESSAGE:
        action, text = "message" if long else "m", record.pdu.decode("latin-1")
    else:
        what = record.action & 0xFFFF
        if what not in _ACTIONS:
            return f"Unknown action {what:x}\n"
        short, name, log = _ACTIONS[what]
        action, text = name if long else short, log(record)
    head = f"{record.device >> 20:3d},{record.device & 0xFFFFF:<3d} "
    if classic:
        seconds, rest = divmod(iterator.ts, 1_000_000_000)
        head += f"{iterator.cpu:2d} {seconds:5d}.{rest:09d} {entry.pid:5d} "
    return f"{head}{action:>2} {fill_rwbs(record):>3} {text}\n"


# ---- the tracer ----------------------------------------------------------------------------------------------------
@notrace
def _classic(tr: TraceArray) -> bool:
    return bool(next(t for t in tr.state.tracers if t.name == "blk").flags.val & TRACE_BLK_OPT_CLASSIC)


def blk_tracer_print_header(iterator: TraceIterator) -> str:
    if not _classic(iterator.tr):
        return ""
    return "# DEV   CPU TIMESTAMP     PID ACT FLG\n#  |     |     |           |   |   |\n"


def blk_tracer_print_line(iterator: TraceIterator, entry: TraceEntry) -> str | None:
    return print_one_line(iterator, entry, True) if entry.type == TRACE_BLK and _classic(iterator.tr) else None


def blk_tracer_init(tr: TraceArray) -> None:
    blk_tracer_start(tr)


def blk_tracer_start(tr: TraceArray) -> None:
    """From now on disks that are traced write to this array."""
    tr.kernel.block.blk_tr = tr


def blk_tracer_stop(tr: TraceArray) -> None:
    tr.kernel.block.blk_tr = None


def blk_tracer_reset(tr: TraceArray) -> None:
    blk_tracer_stop(tr)


def blk_tracer_set_flag(tr: TraceArray, bit: int, on: bool) -> None:
    """options/blk_classic: its line says itself when and who."""
    if bit == TRACE_BLK_OPT_CLASSIC:
        if on:
            tr.trace_flags &= ~TRACE_ITER_CONTEXT_INFO
        else:
            tr.trace_flags |= TRACE_ITER_CONTEXT_INFO


def init_blk_tracer(kernel: Kernel) -> None:
    """Makes the tracer known. Once a kernel, from trace_init()."""
    register_tracer(kernel, Tracer(
        "blk", init=blk_tracer_init, reset=blk_tracer_reset, start=blk_tracer_start, stop=blk_tracer_stop,
        print_header=blk_tracer_print_header, print_line=blk_tracer_print_line, set_flag=blk_tracer_set_flag,
        flags=TracerFlags((("blk_classic", TRACE_BLK_OPT_CLASSIC),))))


# ---- /sys/block/NAME/trace -----------------------------------------------------------------------------------------
def blk_trace_mask2str(mask: int) -> bytes:
    return b",".join(name for bit, name in enumerate(_MASKS) if mask >> bit & 1)


def blk_trace_str2mask(text: bytes) -> int:
    """Raises EINVAL for a word that names no action."""
    mask = 0
    for word in text.strip().split(b","):
        if word:
            if word.lower() not in _MASKS:
                raise KernelError(EINVAL)
            mask |= 1 << _MASKS.index(word.lower())
    return mask


def sysfs_blk_trace_attr_show(part: HdStruct, name: str) -> bytes:
    """One of the attributes. `disabled`: nothing is traced there."""
    assert part.disk is not None
    bt: BlkTrace | None = part.disk.queue.blk_trace
    if name == "enable":
        return b"%d\n" % (bt is not None)
    if bt is None:
        return b"disabled\n"
    if name == "act_mask":
        return blk_trace_mask2str(bt.act_mask) + b"\n"
    return b"%d\n" % getattr(bt, name)


@may_sleep
def sysfs_blk_trace_attr_store(part: HdStruct, name: str, text: bytes) -> None:
    """Setting one of the others switches tracing on, too. Raises EINVAL."""
    assert part.disk is not None
    queue = part.disk.queue
    try:
        value = int(text.strip(), 0)
        if value < 0:
            raise KernelError(EINVAL)
    except ValueError:
        if name != "act_mask":
            raise KernelError(EINVAL) from None
        value = blk_trace_str2mask(text)
    if name == "enable":
        if bool(value) == (queue.blk_trace is not None):
            return
        if value:
            blk_trace_setup_queue(part)
        else:
            blk_trace_remove_queue(part)
        return
    if queue.blk_trace is None:
        blk_trace_setup_queue(part)
    setattr(queue.blk_trace, name, value)


@may_sleep
def blk_trace_setup_queue(part: HdStruct) -> None:
    """Tracing of a disk or of a partition, for the tracer: without blktrace(8)'s files."""
    assert part.disk is not None
    queue = part.disk.queue
    kernel = queue.kernel
    start, end = blk_trace_setup_lba(part, 0, 0)
    bt = BlkTrace(kernel, part.devt, None, 0xFFFF, start, end, 0, trace_state=Blktrace_setup)
    bt.sequence = [0] * len(kernel.machine.cpus)
    if not any(disk.queue.blk_trace is not None for disk in kernel.block.disks):
        blk_register_tracepoints(kernel)
    queue.blk_trace = bt


@may_sleep
def blk_trace_remove_queue(part: HdStruct) -> None:
    """Raises EINVAL."""
    assert part.disk is not None
    queue = part.disk.queue
    bt: BlkTrace | None = queue.blk_trace
    if bt is None:
        raise KernelError(EINVAL)
    queue.blk_trace = None
    blk_trace_cleanup(bt)


@notrace
@may_sleep
def blk_trace_attr(part: HdStruct, name: str, text: bytes | None) -> bytes:
    """For block/genhd_register.py: reads an attribute, or writes `text` to it."""
    if text is None:
        return sysfs_blk_trace_attr_show(part, name)
    sysfs_blk_trace_attr_store(part, name, text)
    return b""

