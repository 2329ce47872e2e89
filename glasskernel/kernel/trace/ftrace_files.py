"""Where the files of function tracing lie in tracefs.

Linux: ftrace_init_tracefs(), ftrace_init_tracefs_toplevel(), init_graph_tracefs() (5.3). Owns: nothing. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.libfs import simple_read_from_buffer
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.tracefs.inode import tracefs_create_dir, tracefs_create_file
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.trace.ftrace_filter import (
    ftrace_avail_fops,
    ftrace_enabled_fops,
    ftrace_filter_fops,
    ftrace_graph_fops,
    ftrace_graph_notrace_fops,
    ftrace_instance,
    ftrace_notrace_fops,
    ftrace_pid_follow_fork,
    ftrace_pid_fops,
)
from glasskernel.kernel.trace.ftrace_profile import ftrace_profile_fops, tracing_stat_fops
from glasskernel.kernel.trace.trace import TRACE_ITER_FUNC_FORK
from glasskernel.kernel.trace.trace_functions_graph import graph_tracer
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.fs.types import Kiocb
    from glasskernel.kernel.trace.trace import TraceArray
    from glasskernel.mm.iov_iter import IovIter


@notrace
def _flag_changed(tr: TraceArray, mask: int, on: bool) -> None:
    if mask == TRACE_ITER_FUNC_FORK:
        ftrace_pid_follow_fork(tr, on)


def ftrace_init_tracefs(tr: TraceArray, d_tracer: TreeNode) -> None:
    """The files that every trace array has."""
    ftrace_instance(tr)
    tr.data.setdefault("flag_listeners", []).append(_flag_changed)
    tracefs_create_file("set_ftrace_filter", 0o644, d_tracer, tr, ftrace_filter_fops)
    tracefs_create_file("set_ftrace_notrace", 0o644, d_tracer, tr, ftrace_notrace_fops)
    tracefs_create_file("set_ftrace_pid", 0o644, d_tracer, tr, ftrace_pid_fops)


def ftrace_init_tracefs_toplevel(tr: TraceArray, d_tracer: TreeNode) -> None:
    """Those that there are once."""
    tracefs_create_file("available_filter_functions", 0o444, d_tracer, tr, ftrace_avail_fops)
    tracefs_create_file("enabled_functions", 0o444, d_tracer, tr, ftrace_enabled_fops)
    tracefs_create_file("set_graph_function", 0o444, d_tracer, tr, ftrace_graph_fops)
    tracefs_create_file("set_graph_notrace", 0o444, d_tracer, tr, ftrace_graph_notrace_fops)
    tracefs_create_file("max_graph_depth", 0o644, d_tracer, tr, graph_depth_fops)
    tracefs_create_file("function_profile_enabled", 0o644, d_tracer, tr, ftrace_profile_fops)
    stat_dir = tracefs_create_dir("trace_stat", d_tracer)
    for cpu in range(len(tr.kernel.machine.cpus)):
        tracefs_create_file(f"function{cpu}", 0o444, stat_dir, cpu, tracing_stat_fops)


def graph_depth_read(iocb: Kiocb, to: IovIter) -> int:
    """max_graph_depth"""
    tracer = graph_tracer(iocb.ki_filp.f_inode.i_private.kernel)
    return simple_read_from_buffer(to, iocb, b"%d\n" % tracer.fgraph_max_depth)


def graph_depth_write(iocb: Kiocb, source: IovIter) -> int:
    """Errors: EINVAL."""
    text = source.copy_from_iter(min(source.count, 64))
    try:
        value = int(text.strip(b" \n\0"), 0)
    except ValueError:
        raise KernelError(EINVAL) from None
    if value < 0:
        raise KernelError(EINVAL)
    graph_tracer(iocb.ki_filp.f_inode.i_private.kernel).fgraph_max_depth = value
    iocb.ki_pos += len(text)
    return len(text)


graph_depth_fops = FileOperations(read_iter=graph_depth_read, write_iter=graph_depth_write, llseek=generic_file_llseek)
