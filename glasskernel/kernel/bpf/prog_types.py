"""The tables of program types and map types: which module knows what they may do.

Linux: include/linux/bpf_types.h (5.3). Differs: a module is imported when the first program or map of its type is made.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from glasskernel.kernel.bpf import types as t
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfMapOps, BpfProgType

# type -> (module, name of its BpfProgType). Modules may be of any layer: this is a hook.
BPF_PROG_TYPES: Final[dict[int, tuple[str, str]]] = {
    t.BPF_PROG_TYPE_SOCKET_FILTER: ("net.core.filter_skb", "sk_filter_prog_type"),
    t.BPF_PROG_TYPE_KPROBE: ("kernel.trace.bpf_context", "kprobe_prog_type"),
    t.BPF_PROG_TYPE_TRACEPOINT: ("kernel.trace.bpf_context", "tracepoint_prog_type"),
    t.BPF_PROG_TYPE_XDP: ("net.core.filter_xdp", "xdp_prog_type"),
    t.BPF_PROG_TYPE_PERF_EVENT: ("kernel.trace.bpf_context", "perf_event_prog_type"),
    t.BPF_PROG_TYPE_RAW_TRACEPOINT: ("kernel.trace.bpf_context", "raw_tracepoint_prog_type"),
}

# type -> (module, name of its BpfMapOps)
BPF_MAP_TYPES: Final[dict[int, tuple[str, str]]] = {
    t.BPF_MAP_TYPE_HASH: ("kernel.bpf.hashtab", "htab_map_ops"),
    t.BPF_MAP_TYPE_ARRAY: ("kernel.bpf.arraymap", "array_map_ops"),
    t.BPF_MAP_TYPE_PROG_ARRAY: ("kernel.bpf.arraymap", "prog_array_map_ops"),
    t.BPF_MAP_TYPE_PERF_EVENT_ARRAY: ("kernel.trace.bpf_perf_event_array", "perf_event_array_map_ops"),
    t.BPF_MAP_TYPE_PERCPU_HASH: ("kernel.bpf.hashtab", "htab_percpu_map_ops"),
    t.BPF_MAP_TYPE_PERCPU_ARRAY: ("kernel.bpf.arraymap", "percpu_array_map_ops"),
    t.BPF_MAP_TYPE_STACK_TRACE: ("kernel.trace.stackmap", "stack_trace_map_ops"),
    t.BPF_MAP_TYPE_LRU_HASH: ("kernel.bpf.hashtab", "htab_lru_map_ops"),
    t.BPF_MAP_TYPE_LRU_PERCPU_HASH: ("kernel.bpf.hashtab", "htab_lru_percpu_map_ops"),
    t.BPF_MAP_TYPE_LPM_TRIE: ("kernel.bpf.lpm_trie", "trie_map_ops"),
    t.BPF_MAP_TYPE_ARRAY_OF_MAPS: ("kernel.bpf.arraymap", "array_of_maps_map_ops"),
    t.BPF_MAP_TYPE_HASH_OF_MAPS: ("kernel.bpf.hashtab", "htab_of_maps_map_ops"),
    t.BPF_MAP_TYPE_DEVMAP: ("net.core.devmap", "dev_map_ops"),
    t.BPF_MAP_TYPE_QUEUE: ("kernel.bpf.queue_stack_maps", "queue_map_ops"),
    t.BPF_MAP_TYPE_STACK: ("kernel.bpf.queue_stack_maps", "stack_map_ops"),
}


@notrace
def find_prog_type(type: int) -> BpfProgType:
    """Raises EINVAL for a type that this kernel has not."""
    if type not in BPF_PROG_TYPES:
        raise KernelError(EINVAL)
    module, name = BPF_PROG_TYPES[type]
    return cast("BpfProgType", getattr(import_module(f"glasskernel.{module}"), name))


@notrace
def find_map_ops(type: int) -> BpfMapOps:
    """Raises EINVAL for a type that this kernel has not."""
    if type not in BPF_MAP_TYPES:
        raise KernelError(EINVAL)
    module, name = BPF_MAP_TYPES[type]
    return cast("BpfMapOps", getattr(import_module(f"glasskernel.{module}"), name))
