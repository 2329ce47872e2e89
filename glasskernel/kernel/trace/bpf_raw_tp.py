"""Raw tracepoints: BPF_RAW_TRACEPOINT_OPEN.

Linux: SYSCALL bpf's bpf_raw_tracepoint_open() of kernel/bpf/syscall.c, bpf_probe_register() and bpf_trace_run*() of
kernel/trace/bpf_trace.c (5.3). Here, because tracepoints are above BPF. Same: a program gets a tracepoint's arguments
as they are, as long as its descriptor is open.
Gaps: programs that write into a tracepoint's buffer. Context: task; runs: any.
"""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from glasskernel.fs.anon_inodes import anon_inode_getfd
from glasskernel.fs.types import O_CLOEXEC, FileOperations
from glasskernel.kernel.bpf.objects import bpf_prog_get_type, bpf_prog_put
from glasskernel.kernel.bpf.types import BPF_PROG_TYPE_RAW_TRACEPOINT, BpfProg
from glasskernel.kernel.current import current
from glasskernel.kernel.trace.bpf_context import RawTracepointArgs
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.errno import ENOENT, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel


@slotted
class BpfRawTracepoint:
    """struct bpf_raw_tracepoint"""

    kernel: Kernel
    name: str
    prog: BpfProg
    probe: Callable[..., None]


def bpf_get_raw_tracepoint(kernel: Kernel, name: str) -> bool:
    """Is there such a tracepoint?"""
    tracing = kernel.tracing or kernel.trace_init()
    return any(call.tracepoint == name for call in tracing.calls.values())


def bpf_probe_register(kernel: Kernel, name: str, prog: BpfProg) -> BpfRawTracepoint:
    @notrace
    def bpf_trace_run(*args: Any) -> None:
        prog.run(RawTracepointArgs(args, sys._getframe(1)))

    tracepoint_probe_register(kernel, name, bpf_trace_run)
    return BpfRawTracepoint(kernel, name, prog, bpf_trace_run)


def bpf_raw_tracepoint_release(inode: Inode, file: File) -> None:
    """->release()"""
    raw_tp: BpfRawTracepoint = file.private_data
    tracepoint_probe_unregister(raw_tp.kernel, raw_tp.name, raw_tp.probe)
    bpf_prog_put(raw_tp.prog)


bpf_raw_tp_fops = FileOperations(release=bpf_raw_tracepoint_release)


@may_sleep
def bpf_raw_tracepoint_open(name: bytes, prog_fd: int) -> int:
    """Attaches a program; answers a descriptor. Raises ENOENT (no such tracepoint), EBADF, EINVAL, EMFILE."""
    kernel = current().kernel
    if not bpf_get_raw_tracepoint(kernel, name.decode("latin-1")):
        raise KernelError(ENOENT)
    prog = bpf_prog_get_type(prog_fd, BPF_PROG_TYPE_RAW_TRACEPOINT)
    raw_tp = bpf_probe_register(kernel, name.decode(), prog)
    try:
        return anon_inode_getfd(b"bpf-raw-tracepoint", bpf_raw_tp_fops, raw_tp, O_CLOEXEC)
    except KernelError:
        tracepoint_probe_unregister(kernel, raw_tp.name, raw_tp.probe)
        bpf_prog_put(prog)
        raise
