"""The text of a record, and the lines above a trace.

Linux: kernel/trace/trace_output.c, and the header functions of trace.c (5.3). Same: every column, byte for byte.
Differs: functions answer text instead of filling a trace_seq. Gaps: bprint and bputs entries (nothing writes them).
Owns: nothing. Context: task, from the readers in trace_files.py.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.fs.d_path import d_path
from glasskernel.kernel.kallsyms import kallsyms_lookup, sprint_symbol
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.trace.events.ftrace import (
    TRACE_CTX,
    TRACE_FN,
    TRACE_PRINT,
    TRACE_RAW_DATA,
    TRACE_STACK,
    TRACE_USER_STACK,
    TRACE_WAKE,
)
from glasskernel.kernel.trace.ring_buffer import ring_buffer_entries_cpu
from glasskernel.kernel.trace.trace import (
    TRACE_FLAG_HARDIRQ,
    TRACE_FLAG_IRQS_NOSUPPORT,
    TRACE_FLAG_IRQS_OFF,
    TRACE_FLAG_NEED_RESCHED,
    TRACE_FLAG_NMI,
    TRACE_FLAG_PREEMPT_RESCHED,
    TRACE_FLAG_SOFTIRQ,
    TRACE_ITER_ANNOTATE,
    TRACE_ITER_BIN,
    TRACE_ITER_CONTEXT_INFO,
    TRACE_ITER_HEX,
    TRACE_ITER_IRQ_INFO,
    TRACE_ITER_LATENCY_FMT,
    TRACE_ITER_PRINT_PARENT,
    TRACE_ITER_PRINTK_MSGONLY,
    TRACE_ITER_RAW,
    TRACE_ITER_RECORD_TGID,
    TRACE_ITER_SYM_ADDR,
    TRACE_ITER_SYM_OFFSET,
    TRACE_ITER_SYM_USEROBJ,
    TRACE_ITER_VERBOSE,
    TraceEntry,
    TraceIterator,
    trace_find_cmdline,
)
from glasskernel.kernel.trace.trace_iter import trace_find_next_entry
from glasskernel.lib.types import notrace
from glasskernel.mm.mmap import find_vma

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import MmStruct

_TWO_ADDRESSES, _ADDRESS, _U32, _SWITCH = Struct("<QQ"), Struct("<Q"), Struct("<I"), Struct("<IIIBBBB")
_STATES = "RSDTtXZPI"
_TRACE_BLK = 13
_PREEMPT_MARK_THRESH_US = 100


# ---- pieces ------------------------------------------------------------------------------------------------------
@notrace
def seq_print_ip_sym(kernel: Kernel, ip: int, flags: int) -> str:
    """A kernel address as its symbol."""
    if not ip:
        return "0"
    found = kallsyms_lookup(kernel, ip)
    if found is None:
        text = f"0x{ip:x}"
    else:
        text = sprint_symbol(kernel, ip) if flags & TRACE_ITER_SYM_OFFSET else found[0]
    return f"{text} <{ip:016x}>" if flags & TRACE_ITER_SYM_ADDR else text


@notrace
def seq_print_user_ip(kernel: Kernel, mm: MmStruct | None, ip: int, flags: int) -> str:
    """A user address, by the file that is mapped there if mm is known."""
    file = b""
    offset = 0
    if mm is not None:
        vma = find_vma(mm, ip)
        if vma is not None and vma.vm_start <= ip and vma.vm_file is not None:
            file, offset = d_path(vma.vm_file.f_path), ip - vma.vm_start
    text = f"{file.decode('latin-1')}[+0x{offset:x}]" if file else ""
    return f"{text} <{ip:016x}>" if flags & TRACE_ITER_SYM_ADDR or not file else text


@notrace
def trace_print_lat_fmt(entry: TraceEntry) -> str:
    """The four (or five) letters about interrupts and preemption."""
    flags = entry.flags
    hardirq, softirq, nmi = flags & TRACE_FLAG_HARDIRQ, flags & TRACE_FLAG_SOFTIRQ, flags & TRACE_FLAG_NMI
    irqs_off = "d" if flags & TRACE_FLAG_IRQS_OFF else "X" if flags & TRACE_FLAG_IRQS_NOSUPPORT else "."
    resched = flags & (TRACE_FLAG_NEED_RESCHED | TRACE_FLAG_PREEMPT_RESCHED)
    need_resched = "N" if resched == TRACE_FLAG_NEED_RESCHED | TRACE_FLAG_PREEMPT_RESCHED else (
        "n" if resched == TRACE_FLAG_NEED_RESCHED else "p" if resched else ".")
    hardsoft = ("Z" if nmi and hardirq else "z" if nmi else "H" if hardirq and softirq else "h" if hardirq
                else "s" if softirq else ".")
    return irqs_off + need_resched + hardsoft + (f"{entry.preempt_count:x}" if entry.preempt_count else ".")


@notrace
def ns2usecs(ns: int) -> int:
    return (ns + 500) // 1000


@notrace
def trace_print_context(iterator: TraceIterator, entry: TraceEntry) -> str:
    """The columns in front of a record's own text."""
    tr = iterator.tr
    text = f"{trace_find_cmdline(tr.state, entry.pid):>16}-{entry.pid:<5} "
    if tr.trace_flags & TRACE_ITER_RECORD_TGID:
        tgid = tr.state.saved_tgids.get(entry.pid, 0)
        text += f"({tgid:5}) " if tgid else "(-----) "
    text += f"[{iterator.cpu:03}] "
    if tr.trace_flags & TRACE_ITER_IRQ_INFO:
        text += trace_print_lat_fmt(entry)
    if iterator.time_in_ns:
        secs, usecs = divmod(ns2usecs(iterator.ts), 1_000_000)
        return f"{text} {secs:5}.{usecs:06}: "
    return f"{text} {iterator.ts:12}: "


@notrace
def trace_print_lat_context(iterator: TraceIterator, entry: TraceEntry) -> str:
    """The same columns in latency format."""
    tr = iterator.tr
    following = trace_find_next_entry(iterator)
    next_ts = following[2] if following is not None else iterator.ts
    comm = trace_find_cmdline(tr.state, entry.pid)
    verbose = tr.trace_flags & TRACE_ITER_VERBOSE
    if verbose:
        text = f"{comm:>16} {entry.pid:5} {iterator.cpu:3} {entry.flags} {entry.preempt_count:08x} {iterator.idx:08x} "
    else:
        text = f"{comm[:8]:>8}-{entry.pid:<5} {iterator.cpu:3}{trace_print_lat_fmt(entry)}"
    absolute, relative = max(iterator.ts - iterator.buffer.time_start, 0), next_ts - iterator.ts
    if not iterator.time_in_ns:
        return text + (f"[{iterator.ts:016x}] {absolute} (+{relative}): " if verbose else f" {absolute:4}: ")
    absolute, relative = ns2usecs(absolute), ns2usecs(relative)
    if verbose:
        return (text + f"[{ns2usecs(iterator.ts):08x}] {absolute // 1000}.{absolute % 1000:03}ms "
                f"(+{relative // 1000}.{relative % 1000:03}ms): ")
    return text + f" {absolute:4}us{'!' if relative > _PREEMPT_MARK_THRESH_US else '+' if relative > 1 else ' '}: "


# ---- ftrace's own entries ----------------------------------------------------------------------------------------
@notrace
def trace_fn_trace(iterator: TraceIterator, entry: TraceEntry) -> str:
    kernel, flags = iterator.tr.kernel, iterator.tr.trace_flags
    ip, parent = _TWO_ADDRESSES.unpack_from(entry.payload)
    text = seq_print_ip_sym(kernel, ip, flags)
    if flags & TRACE_ITER_PRINT_PARENT and parent:
        text += " <-" + seq_print_ip_sym(kernel, parent, flags)
    return text + "\n"


@notrace
def trace_ctxwake_print(iterator: TraceIterator, entry: TraceEntry) -> str:
    prev_pid, next_pid, next_cpu, prev_prio, prev_state, next_prio, next_state = _SWITCH.unpack_from(entry.payload)
    delim = "==>" if entry.type == TRACE_CTX else "  +"
    states = [_STATES[s.bit_length()] if s.bit_length() < len(_STATES) else "?" for s in (prev_state, next_state)]
    return (f" {prev_pid:5}:{prev_prio:3}:{states[0]} {delim} [{next_cpu:03}] {next_pid:5}:{next_prio:3}:{states[1]} "
            f"{trace_find_cmdline(iterator.tr.state, next_pid)}\n")


@notrace
def trace_stack_print(iterator: TraceIterator, entry: TraceEntry) -> str:
    kernel, flags = iterator.tr.kernel, iterator.tr.trace_flags
    text = "<stack trace>\n"
    for (ip,) in _ADDRESS.iter_unpack(entry.payload[8 : 8 + (len(entry.payload) - 8) // 8 * 8]):
        text += f" => {seq_print_ip_sym(kernel, ip, flags)}\n"
    return text


@notrace
def trace_user_stack_print(iterator: TraceIterator, entry: TraceEntry) -> str:
    kernel, flags = iterator.tr.kernel, iterator.tr.trace_flags
    mm = None
    if flags & TRACE_ITER_SYM_USEROBJ:
        task = find_task_by_vpid(_U32.unpack_from(entry.payload)[0])
        mm = task.mm if task is not None else None
    text = "<user stack trace>\n"
    for (ip,) in _ADDRESS.iter_unpack(entry.payload[8 : 8 + (len(entry.payload) - 8) // 8 * 8]):
        if not ip:
            break
        text += f" => {seq_print_user_ip(kernel, mm, ip, flags)}\n"
    return text


@notrace
def _print_text(entry: TraceEntry) -> str:
    return entry.payload[8:].partition(b"\0")[0].decode("latin-1")


@notrace
def trace_print_print(iterator: TraceIterator, entry: TraceEntry) -> str:
    ip = _ADDRESS.unpack_from(entry.payload)[0]
    return f"{seq_print_ip_sym(iterator.tr.kernel, ip, iterator.tr.trace_flags)}: {_print_text(entry)}"


@notrace
def trace_raw_data(iterator: TraceIterator, entry: TraceEntry) -> str:
    return f"# {_U32.unpack_from(entry.payload)[0]:x} buf:" + "".join(f" {b:02x}" for b in entry.payload[4:]) + "\n"


@notrace
def trace_blk_print(iterator: TraceIterator, entry: TraceEntry) -> str:
    """blk_trace_event_print()"""
    from glasskernel.kernel.trace.blk_tracer import print_one_line  # late: few look at disks

    return print_one_line(iterator, entry, False)


_FUNCS = {TRACE_FN: trace_fn_trace, TRACE_CTX: trace_ctxwake_print, TRACE_WAKE: trace_ctxwake_print,
          TRACE_STACK: trace_stack_print, TRACE_USER_STACK: trace_user_stack_print, TRACE_PRINT: trace_print_print,
          TRACE_RAW_DATA: trace_raw_data, _TRACE_BLK: trace_blk_print}


# ---- a line ------------------------------------------------------------------------------------------------------
@notrace
def trace_event_text(iterator: TraceIterator, entry: TraceEntry) -> str:
    """event->funcs->trace(): a record's own text, with its newline."""
    state = iterator.tr.state
    function = _FUNCS.get(entry.type)
    if function is not None:
        return function(iterator, entry)
    call = state.calls.get(entry.type)
    if call is None:
        return f"Unknown type {entry.type}\n"
    return call.trace(state.kernel, entry.payload) + "\n"


@notrace
def print_trace_line(iterator: TraceIterator) -> str:
    """All of the line of the record that the iterator looks at."""
    entry = iterator.ent
    assert entry is not None
    flags = iterator.tr.trace_flags
    lost = f"CPU:{iterator.cpu} [LOST {iterator.lost_events} EVENTS]\n" if iterator.lost_events else ""
    text = iterator.trace.print_line(iterator, entry)
    if text is not None:
        return lost + text
    if entry.type == TRACE_PRINT and flags & TRACE_ITER_PRINTK_MSGONLY:
        return lost + _print_text(entry)
    if flags & (TRACE_ITER_BIN | TRACE_ITER_HEX | TRACE_ITER_RAW):
        return lost + print_raw_fmt(iterator, entry, flags)
    return lost + print_trace_fmt(iterator, entry)


@notrace
def print_raw_fmt(iterator: TraceIterator, entry: TraceEntry, flags: int) -> str:
    """options/raw, hex and bin: numbers only."""
    numbers = (entry.pid, iterator.cpu, iterator.ts)
    if flags & TRACE_ITER_BIN:
        return b"".join(n.to_bytes(size, "little") for n, size in zip(numbers, (4, 4, 8),
                                                                      strict=True)).decode("latin-1")
    context = flags & TRACE_ITER_CONTEXT_INFO
    if flags & TRACE_ITER_HEX:
        shown = [f"{n:0{2 * size}x} " for n, size in zip(numbers, (4, 4, 8), strict=True)] if context else []
        return "".join(shown) + entry.payload.hex() + "\n"
    text = f"{entry.pid} {iterator.cpu} {iterator.ts} " if context else ""
    if entry.type == TRACE_FN:
        ip, parent = _TWO_ADDRESSES.unpack_from(entry.payload)
        return f"{text}{ip:x} {parent:x}\n"
    if entry.type == TRACE_PRINT:
        return f"{text}# {_ADDRESS.unpack_from(entry.payload)[0]:x} {_print_text(entry)}"
    return f"{text}type: {entry.type}\n"


@notrace
def print_trace_fmt(iterator: TraceIterator, entry: TraceEntry) -> str:
    """The usual line."""
    flags = iterator.tr.trace_flags
    text = test_cpu_buff_start(iterator)
    if flags & TRACE_ITER_CONTEXT_INFO:
        text += trace_print_lat_context(iterator,
                                        entry) if iterator.latency_format else trace_print_context(iterator, entry)
    return text + trace_event_text(iterator, entry)


@notrace
def test_cpu_buff_start(iterator: TraceIterator) -> str:
    """A mark where a CPU's records begin, in a trace that lost some."""
    bit = 1 << iterator.cpu
    if not (iterator.tr.trace_flags & TRACE_ITER_ANNOTATE and iterator.annotate) or iterator.started & bit:
        return ""
    if iterator.skipped.get(iterator.cpu):
        return ""
    iterator.started |= bit
    return f"##### CPU {iterator.cpu} buffer started ####\n" if iterator.idx > 1 else ""


# ---- headers -----------------------------------------------------------------------------------------------------
@notrace
def get_total_entries(iterator: TraceIterator) -> tuple[int, int]:
    """(records written, records still there)"""
    total = entries = 0
    for cpu_buffer in iterator.buffer.buffers:
        count = ring_buffer_entries_cpu(cpu_buffer)
        skipped = iterator.skipped.get(cpu_buffer.cpu, 0)
        if skipped:
            count -= skipped
            total += count
        else:
            total += count + cpu_buffer.overrun
        entries += count
    return total, entries


@notrace
def print_event_info(iterator: TraceIterator) -> str:
    total, entries = get_total_entries(iterator)
    return f"# entries-in-buffer/entries-written: {entries}/{total}   #P:{iterator.buffer.cpus}\n#\n"


@notrace
def print_func_help_header(iterator: TraceIterator, tgid: bool) -> str:
    return (print_event_info(iterator)
            + f"#           TASK-PID   {'TGID     ' if tgid else ''}  CPU#   TIMESTAMP  FUNCTION\n"
            + f"#              | |     {'  |      ' if tgid else ''}    |       |         |\n")


@notrace
def print_func_help_header_irq(iterator: TraceIterator, tgid: bool) -> str:
    space = " " * (10 if tgid else 2)
    return (print_event_info(iterator)
            + f"#                          {space}  _-----=> irqs-off\n"
            + f"#                          {space} / _----=> need-resched\n"
            + f"#                          {space}| / _---=> hardirq/softirq\n"
            + f"#                          {space}|| / _--=> preempt-depth\n"
            + f"#                          {space}||| /     delay\n"
            + f"#           TASK-PID {'   TGID   ' if tgid else '  '}CPU#  ||||    TIMESTAMP  FUNCTION\n"
            + f"#              | |   {'     |    ' if tgid else '  '}  |   ||||       |         |\n")


@notrace
def print_lat_help_header() -> str:
    return ("#                  _------=> CPU#            \n"
            "#                 / _-----=> irqs-off        \n"
            "#                | / _----=> need-resched    \n"
            "#                || / _---=> hardirq/softirq \n"
            "#                ||| / _--=> preempt-depth   \n"
            "#                |||| /     delay            \n"
            "#  cmd     pid   ||||| time  |   caller      \n"
            "#     \\   /      |||||  \\    |   /         \n")


@notrace
def print_trace_header(iterator: TraceIterator) -> str:
    """The head of a latency trace: the worst case and whose it was."""
    tr, data = iterator.tr, iterator.tr.max_data
    total, entries = get_total_entries(iterator)
    line = "#    -----------------\n"
    text = (f"# {iterator.trace.name} latency trace v1.1.5 on 5.3.0-glasskernel\n"
            "# --------------------------------------------------------------------\n"
            f"# latency: {ns2usecs(data.saved_latency)} us, #{entries}/{total}, CPU#{data.cpu} | "
            f"(M:server VP:0, KP:0, SP:0 HP:0 #P:{iterator.buffer.cpus})\n{line}"
            f"#    | task: {data.comm.decode('latin-1')[:16]}-{data.pid} (uid:{data.uid} nice:{data.nice} "
            f"policy:{data.policy} rt_prio:{data.rt_priority})\n{line}")
    if data.critical_start:
        text += (f"#  => started at: {seq_print_ip_sym(tr.kernel, data.critical_start, tr.trace_flags)}\n"
                 f"#  => ended at:   {seq_print_ip_sym(tr.kernel, data.critical_end, tr.trace_flags)}\n#\n")
    return text + "#\n"


@notrace
def trace_default_header(iterator: TraceIterator) -> str:
    """What stands above the records where the tracer has no header of its own."""
    flags = iterator.tr.trace_flags
    if not flags & TRACE_ITER_CONTEXT_INFO:
        return ""
    if iterator.latency_format or flags & TRACE_ITER_LATENCY_FMT:
        if not get_total_entries(iterator)[1]:
            return ""
        return print_trace_header(iterator) + ("" if flags & TRACE_ITER_VERBOSE else print_lat_help_header())
    if flags & TRACE_ITER_VERBOSE:
        return ""
    tgid = bool(flags & TRACE_ITER_RECORD_TGID)
    return print_func_help_header_irq(iterator,
                                      tgid) if flags & TRACE_ITER_IRQ_INFO else print_func_help_header(iterator, tgid)
