"""Maps of perf events: where programs put records, and whose counts they read.

Linux: perf_event_array_map_ops of kernel/bpf/arraymap.c (5.3). Here, because perf is above BPF. Same: values are
descriptors, which bpf(2) cannot read back.
Differs: entries leave with the map's last descriptor; in Linux each with the descriptor that it was put in through.
Owns: an entry: the event's file, a reference. Context: task; lookups: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.kernel.bpf.arraymap import (
    array_map_get_next_key,
    bpf_fd_array_map_clear,
    bpf_fd_array_map_lookup_elem,
    bpf_fd_array_map_update_elem,
    fd_array_map_alloc,
    fd_array_map_alloc_check,
    fd_array_map_delete_elem,
    fd_array_map_free,
)
from glasskernel.kernel.bpf.types import BpfMap, BpfMapOps, not_supported
from glasskernel.kernel.events.file import perf_fops
from glasskernel.kernel.events.types import INHERIT
from glasskernel.lib.errno import EBADF, EINVAL, KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import File


def perf_event_fd_array_get_ptr(map: BpfMap, fd: int) -> File:
    """->map_fd_get_ptr(): the event of a descriptor. Raises EBADF, EINVAL (inherited ones)."""
    file = fget(fd)
    if file.f_op is not perf_fops:
        fput(file)
        raise KernelError(EBADF)
    if file.private_data.attr.flags & INHERIT:
        fput(file)
        raise KernelError(EINVAL)
    return file


def perf_event_fd_array_put_ptr(entry: File) -> None:
    """->map_fd_put_ptr()"""
    fput(entry)


perf_event_array_map_ops = BpfMapOps(
    fd_array_map_alloc, fd_array_map_free, fd_array_map_alloc_check, map_copy_value=bpf_fd_array_map_lookup_elem,
    map_update_elem=not_supported, map_update_value=bpf_fd_array_map_update_elem,
    map_delete_elem=fd_array_map_delete_elem, map_get_next_key=array_map_get_next_key,
    map_fd_get_ptr=perf_event_fd_array_get_ptr, map_fd_put_ptr=perf_event_fd_array_put_ptr,
    map_release=bpf_fd_array_map_clear)
