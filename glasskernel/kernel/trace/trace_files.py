"""The files of tracefs that are a number, a word or a short text, and where all files are made.

Linux: kernel/trace/trace.c (5.3): tracer_init_tracefs(), init_tracer_tracefs(), tracing_init_tracefs_percpu().
    Same: names, modes, texts, errors; which files instances have.
Differs: per_cpu/, options/ and events/ are filled when somebody looks into them.
Owns: the directories of tracefs. Context: task. Gaps: stack_trace, hwlat files, trace_stat (function_profile is
    ftrace's).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.tracefs.inode import (
    tracefs_create_dir,
    tracefs_create_file,
    tracefs_create_instance_dir,
    tracefs_remove_recursive,
)
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.trace.ftrace import ftrace_init
from glasskernel.kernel.trace.ftrace_probes import ftrace_destroy_function_files
from glasskernel.kernel.trace.ring_buffer import (
    RING_BUFFER_ALL_CPUS,
    ring_buffer_entries_cpu,
    ring_buffer_oldest_event_ts,
    ring_buffer_size,
)
from glasskernel.kernel.trace.trace import (
    TOP_LEVEL_TRACE_FLAGS,
    TRACE_BUF_SIZE_DEFAULT,
    TRACE_CLOCKS,
    TRACE_ITER_STOP_ON_FREE,
    TRACE_OPTIONS,
    TraceArray,
    Tracer,
    TraceState,
    __set_tracer_option,
    new_trace_array,
    set_tracer_flag,
    trace_ok_for_array,
    trace_set_options,
    tracer_tracing_off,
    tracer_tracing_on,
    tracing_resize_ring_buffer,
    tracing_set_clock,
    tracing_set_tracer,
)
from glasskernel.kernel.trace.trace_clock import trace_clock_peek
from glasskernel.kernel.trace.trace_events_files import event_trace_add_tracer, event_trace_del_tracer
from glasskernel.kernel.trace.trace_marker import mark_fops, mark_raw_fops
from glasskernel.kernel.trace.trace_output import ns2usecs
from glasskernel.kernel.trace.trace_pipe import (
    TraceFile,
    parse_number,
    snapshot_fops,
    snapshot_raw_fops,
    tracing_buffers_fops,
    tracing_fops,
    tracing_pipe_fops,
)
from glasskernel.kernel.trace.trace_readme import README
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.kernel.trace.tracepoint_strings import printk_formats
from glasskernel.lib.errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.mm.iov_iter import IovIter

@notrace
def word_of(data: bytes) -> str:
    """What was written, without white space at its end."""
    return data.partition(b"\0")[0].rstrip().decode("latin-1")


# ---- words and numbers -------------------------------------------------------------------------------------------
@notrace
def _tracing_on_store(tr: TraceArray, data: bytes) -> None:
    on = bool(parse_number(data))
    if on == (not tr.buffer.off):
        return
    if on:
        tracer_tracing_on(tr)
        tr.current_trace.start(tr)
    else:
        tracer_tracing_off(tr)
        tr.current_trace.stop(tr)


@notrace
def _available_tracers(tr: TraceArray) -> str:
    return " ".join(t.name for t in tr.state.tracers if trace_ok_for_array(t, tr)) + "\n"


@notrace
def _trace_clock_show(tr: TraceArray) -> str:
    return " ".join(f"[{name}]" if n == tr.clock_id else name for n, (name, _, _) in enumerate(TRACE_CLOCKS)) + "\n"


@notrace
def _trace_options_show(tr: TraceArray) -> str:
    lines = [name if tr.trace_flags & 1 << bit else "no" + name for bit, name in enumerate(TRACE_OPTIONS)]
    flags = tr.current_trace.flags
    lines += [name if flags.val & bit else "no" + name for name, bit in flags.opts]
    return "\n".join(lines) + "\n"


@notrace
def _trace_options_store(tr: TraceArray, data: bytes) -> None:
    if len(data) >= 64:
        raise KernelError(EINVAL)
    trace_set_options(tr, word_of(data))


@notrace
def _cpumask_show(tr: TraceArray) -> str:
    digits = -(-tr.buffer.cpus // 4)
    text = f"{tr.tracing_cpumask:0{digits}x}"
    groups: list[str] = []
    while text:
        groups.insert(0, text[-8:])
        text = text[:-8]
    return ",".join(groups) + "\n"


@notrace
def _cpumask_store(tr: TraceArray, data: bytes) -> None:
    try:
        mask = int(word_of(data).replace(",", ""), 16)
    except ValueError:
        raise KernelError(EINVAL) from None
    mask &= (1 << tr.buffer.cpus) - 1
    for cpu in range(tr.buffer.cpus):
        before, after = tr.tracing_cpumask >> cpu & 1, mask >> cpu & 1
        for buffer in (tr.buffer, tr.max_buffer):
            buffer.buffers[cpu].record_disabled += before - after
    tr.tracing_cpumask = mask


@notrace
def _size_kb(tr: TraceArray, cpu: int) -> str:
    sizes = [ring_buffer_size(b) >> 10 for b in tr.buffer.buffers]
    if cpu != RING_BUFFER_ALL_CPUS:
        sizes = [sizes[cpu]]
    if any(size != sizes[0] for size in sizes):
        return "X\n"
    if not tr.expanded:
        return f"{sizes[0]} (expanded: {TRACE_BUF_SIZE_DEFAULT >> 10})\n"
    return f"{sizes[0]}\n"


@notrace
def _size_store(where: TraceFile, data: bytes) -> None:
    value = parse_number(data)
    if not value:
        raise KernelError(EINVAL)
    tracing_resize_ring_buffer(where.tr, value << 10, where.cpu)


@notrace
def _total_size(tr: TraceArray) -> str:
    size = sum(ring_buffer_size(b) >> 10 for b in tr.buffer.buffers)
    expanded = TRACE_BUF_SIZE_DEFAULT * tr.buffer.cpus >> 10
    return f"{size}\n" if tr.expanded else f"{size} (expanded: {expanded})\n"


@notrace
def _buffer_percent_store(tr: TraceArray, data: bytes) -> None:
    value = parse_number(data)
    if value > 100:
        raise KernelError(EINVAL)
    tr.buffer_percent = value or 1


@notrace
def _stats(where: TraceFile) -> str:
    """per_cpu/cpuN/stats"""
    tr, b = where.tr, where.tr.buffer.buffers[where.cpu]
    text = (f"entries: {ring_buffer_entries_cpu(b)}\noverrun: {b.overrun}\ncommit overrun: {b.commit_overrun}\n"
            f"bytes: {b.entries_bytes - b.read_bytes}\n")
    oldest, now = ring_buffer_oldest_event_ts(b), trace_clock_peek(tr.kernel, where.cpu)
    if TRACE_CLOCKS[tr.clock_id][2]:
        for name, stamp in (("oldest event ts", oldest), ("now ts", max(now,
                                                                        tr.kernel.machine.cpus[where.cpu].clock_ns))):
            secs, usecs = divmod(ns2usecs(stamp), 1_000_000)
            text += f"{name}: {secs:5}.{usecs:06}\n"
    else:
        text += f"oldest event ts: {oldest}\nnow ts: {tr.state.counter}\n"
    return text + f"dropped events: {b.dropped_events}\nread events: {b.read}\n"


@notrace
def _thresh_show(state: TraceState) -> str:
    return f"{ns2usecs(state.tracing_thresh)}\n"


@notrace
def _thresh_store(state: TraceState, data: bytes) -> None:
    state.tracing_thresh = parse_number(data) * 1000
    state.global_trace.current_trace.update_thresh(state.global_trace)


@notrace
def _max_latency_store(tr: TraceArray, data: bytes) -> None:
    tr.max_latency = parse_number(data) * 1000


@notrace
def _cmdlines_size_store(state: TraceState, data: bytes) -> None:
    value = parse_number(data)
    if not value or value > 32768:
        raise KernelError(EINVAL)
    state.saved_cmdlines_size = value
    while len(state.saved_cmdlines) > value:
        del state.saved_cmdlines[next(iter(state.saved_cmdlines))]


@notrace
def _saved_cmdlines(state: TraceState) -> str:
    return "".join(f"{pid} {comm.decode('latin-1')}\n" for pid, comm in state.saved_cmdlines.items())


@notrace
def _saved_tgids(state: TraceState) -> str:
    return "".join(f"{pid} {tgid}\n" for pid, tgid in sorted(state.saved_tgids.items()))


@notrace
def _error_log_show(tr: TraceArray) -> str:
    return "".join(str(error) for error in tr.state.error_log)


@notrace
def _free_buffer_release(inode: Inode, file: File) -> None:
    """tracing_free_buffer_release(): closing the file gives the memory back."""
    tr = inode.i_private
    if tr.trace_flags & TRACE_ITER_STOP_ON_FREE:
        tracer_tracing_off(tr)
    tracing_resize_ring_buffer(tr, 1, RING_BUFFER_ALL_CPUS)


@notrace
def _swallow(iocb: Kiocb, source: IovIter) -> int:
    return len(source.copy_from_iter(source.count))


# ---- options -----------------------------------------------------------------------------------------------------
@notrace
def _option_store(where: tuple[TraceArray, int], data: bytes) -> None:
    tr, mask = where
    value = parse_number(data)
    if value not in (0, 1):
        raise KernelError(EINVAL)
    set_tracer_flag(tr, mask, bool(value))


@notrace
def _tracer_option_store(where: tuple[TraceArray, Tracer, int], data: bytes) -> None:
    tr, tracer, bit = where
    value = parse_number(data)
    if value not in (0, 1):
        raise KernelError(EINVAL)
    if bool(tracer.flags.val & bit) != bool(value):
        __set_tracer_option(tr, tracer, bit, bool(value))


option_fops = text_file(lambda w: f"{int(bool(w[0].trace_flags & w[1]))}\n", _option_store)
tracer_option_fops = text_file(lambda w: f"{int(bool(w[1].flags.val & w[2]))}\n", _tracer_option_store)


@notrace
def create_trace_options_dir(tr: TraceArray, node: TreeNode) -> None:
    """options/: one file for every bit of trace_flags and every option of every tracer."""
    for bit, name in enumerate(TRACE_OPTIONS):
        if not tr.name or not TOP_LEVEL_TRACE_FLAGS & 1 << bit:
            tracefs_create_file(name, 0o644, node, (tr, 1 << bit), option_fops)
    for tracer in reversed(tr.state.tracers):
        if trace_ok_for_array(tracer, tr):
            for name, bit in tracer.flags.opts:
                if name.encode() not in (node.children or {}):
                    tracefs_create_file(name, 0o644, node, (tr, tracer, bit), tracer_option_fops)


# ---- where the files are made ------------------------------------------------------------------------------------
trace_options_fops = text_file(_trace_options_show, _trace_options_store)
buffer_size_fops = text_file(lambda where: _size_kb(where.tr, where.cpu), _size_store)
set_tracer_fops = text_file(lambda tr: tr.current_trace.name + "\n", lambda tr, data: tracing_set_tracer(tr,
                                                                                                         word_of(data)))
rb_simple_fops = text_file(lambda tr: f"{int(not tr.buffer.off)}\n", _tracing_on_store)
trace_clock_fops = text_file(_trace_clock_show, lambda tr, data: tracing_set_clock(tr, word_of(data).lstrip()))
tracing_cpumask_fops = text_file(_cpumask_show, _cpumask_store)
buffer_percent_fops = text_file(lambda tr: f"{tr.buffer_percent}\n", _buffer_percent_store)
max_lat_fops = text_file(lambda tr: f"{ns2usecs(tr.max_latency)}\n", _max_latency_store)
error_log_fops = text_file(_error_log_show, lambda _tr, _data: None, lambda tr: tr.state.error_log.clear())
stats_fops = text_file(_stats)
free_buffer_fops = FileOperations(write_iter=_swallow, release=_free_buffer_release)


@notrace
def tracing_init_tracefs_percpu(tr: TraceArray, node: TreeNode) -> None:
    """per_cpu/"""
    for cpu in range(tr.buffer.cpus):
        where = TraceFile(tr, cpu)
        directory = tracefs_create_dir(f"cpu{cpu}", node)
        for name, mode, fops in (
            ("trace_pipe", 0o444, tracing_pipe_fops), ("trace", 0o644, tracing_fops),
            ("trace_pipe_raw", 0o444, tracing_buffers_fops), ("stats", 0o444, stats_fops),
            ("buffer_size_kb", 0o444, buffer_size_fops), ("snapshot", 0o644, snapshot_fops),
            ("snapshot_raw", 0o444, snapshot_raw_fops),
        ):
            tracefs_create_file(name, mode, directory, where, fops)


@notrace
def init_tracer_tracefs(tr: TraceArray, node: TreeNode) -> None:
    """The files that every trace array has."""
    tr.dir = node
    everywhere = TraceFile(tr)
    for name, mode, data, fops in (
        ("available_tracers", 0o444, tr, text_file(_available_tracers)), ("current_tracer", 0o644, tr, set_tracer_fops),
        ("tracing_cpumask", 0o644, tr, tracing_cpumask_fops), ("trace_options", 0o644, tr, trace_options_fops),
        ("trace", 0o644, everywhere, tracing_fops), ("trace_pipe", 0o444, everywhere, tracing_pipe_fops),
        ("buffer_size_kb", 0o644, everywhere, buffer_size_fops), ("buffer_total_size_kb", 0o444, tr,
                                                                  text_file(_total_size)),
        ("free_buffer", 0o200, tr, free_buffer_fops), ("trace_marker", 0o220, tr, mark_fops),
        ("trace_marker_raw", 0o220, tr, mark_raw_fops), ("trace_clock", 0o644, tr, trace_clock_fops),
        ("tracing_on", 0o644, tr, rb_simple_fops),
        ("timestamp_mode", 0o444, tr, text_file(lambda _tr: "[delta] absolute\n")),
        ("buffer_percent", 0o444, tr, buffer_percent_fops), ("tracing_max_latency", 0o644, tr, max_lat_fops),
        ("snapshot", 0o644, everywhere, snapshot_fops), ("error_log", 0o644, tr, error_log_fops),
    ):
        tracefs_create_file(name, mode, node, data, fops)
    tracefs_create_dir("options", node, lambda options: create_trace_options_dir(tr, options))
    tracefs_create_dir("per_cpu", node, lambda per_cpu: tracing_init_tracefs_percpu(tr, per_cpu))
    event_trace_add_tracer(tr, node)
    for toplevel, create in tr.state.tracefs_inits:
        if not toplevel or not tr.name:
            create(tr, node)


@notrace
def init_tracer_tracefs_toplevel(state: TraceState, root: TreeNode) -> None:
    """Everything in /sys/kernel/tracing."""
    init_tracer_tracefs(state.global_trace, root)
    for name, mode, data, fops in (
        ("tracing_thresh", 0o644, state, text_file(_thresh_show, _thresh_store)),
        ("README", 0o444, state, text_file(lambda _state: README)),
        ("saved_cmdlines", 0o444, state, text_file(_saved_cmdlines)),
        ("saved_cmdlines_size", 0o644, state, text_file(lambda s: f"{s.saved_cmdlines_size}\n", _cmdlines_size_store)),
        ("saved_tgids", 0o444, state, text_file(_saved_tgids)),
        ("printk_formats", 0o444, state, text_file(lambda _state: printk_formats())),
        ("dyn_ftrace_total_info", 0o444, state, text_file(lambda s: f"{len(ftrace_init(s.kernel).records)} \n")),
    ):
        tracefs_create_file(name, mode, root, data, fops)
    create_trace_instances(state, root)


# ---- instances ---------------------------------------------------------------------------------------------------
@notrace
def create_trace_instances(state: TraceState, root: TreeNode) -> None:
    """instances/"""

    def instance_mkdir(name: str) -> None:
        tr = new_trace_array(state, name)
        try:
            init_tracer_tracefs(tr, tracefs_create_dir(name, node))
        except KernelError:
            state.trace_arrays.remove(tr)
            raise KernelError(EEXIST) from None

    def instance_rmdir(name: str) -> None:
        tr = next((t for t in state.trace_arrays if t.name == name), None)
        if tr is None:
            raise KernelError(ENODEV)
        instance_remove(tr)

    node = tracefs_create_instance_dir("instances", root, instance_mkdir, instance_rmdir)


@notrace
def instance_remove(tr: TraceArray) -> None:
    """__remove_instance(). Errors: EBUSY (files of it are open), ENOENT."""
    if not tr.name or tr.dir is None:
        raise KernelError(ENOENT)
    if tr.ref or tr.trace_ref:
        raise KernelError(EBUSY)
    tracing_set_tracer(tr, "nop")
    ftrace_destroy_function_files(tr)
    event_trace_del_tracer(tr)
    tracefs_remove_recursive(tr.dir)
    tr.state.trace_arrays.remove(tr)
