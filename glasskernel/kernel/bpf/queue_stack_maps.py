"""Queues and stacks: values without keys.

Linux: kernel/bpf/queue_stack_maps.c (5.3). Same: errors, one ring of values with one free place, BPF_EXIST replaces the
    oldest of a full one. Owns: BpfQueueStack. Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.bpf.arraymap import BPF_F_ACCESS_MASK, KMALLOC_MAX_SIZE, access_flags_ok
from glasskernel.kernel.bpf.memory import (
    bpf_map_area_alloc,
    bpf_map_area_free,
    bpf_map_charge_init,
    read_kernel,
    write_kernel,
)
from glasskernel.kernel.bpf.types import BPF_EXIST, BPF_F_NUMA_NODE, BPF_NOEXIST, BpfMap, BpfMapOps
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.lib.errno import E2BIG, EINVAL, EPERM, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.syscall_map import MapAttr

SIZEOF_BPF_QUEUE_STACK = 256


class BpfQueueStack(BpfMap):
    """struct bpf_queue_stack. head: where the next value goes, tail: the oldest. size: places, one more than values."""

    __slots__ = ("head", "size", "tail")

    def __init__(self, kernel: Kernel, attr: MapAttr) -> None:
        super().__init__(kernel, attr.map_type, 0, attr.value_size, attr.max_entries, attr.flags_to_keep)
        self.size = attr.max_entries + 1
        self.head = self.tail = 0


@notrace
def place(map: BpfQueueStack, number: int) -> int:
    return map.kaddr + SIZEOF_BPF_QUEUE_STACK + number * map.value_size


def queue_stack_map_alloc_check(attr: MapAttr) -> None:
    """->map_alloc_check(). Raises EPERM, EINVAL, E2BIG."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if (not attr.max_entries or attr.key_size or not attr.value_size or not access_flags_ok(attr.map_flags)
            or attr.map_flags & ~(BPF_F_NUMA_NODE | BPF_F_ACCESS_MASK)):
        raise KernelError(EINVAL)
    if attr.value_size > KMALLOC_MAX_SIZE:
        raise KernelError(E2BIG)


def queue_stack_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfQueueStack:
    """->map_alloc(). Raises ENOMEM, E2BIG, EPERM."""
    map = BpfQueueStack(kernel, attr)
    size = SIZEOF_BPF_QUEUE_STACK + map.size * map.value_size
    map.memory_pages, map.user = bpf_map_charge_init(kernel, size)
    map.kaddr = bpf_map_area_alloc(kernel, size)
    return map


def queue_stack_map_free(map: BpfMap) -> None:
    """->map_free()"""
    bpf_map_area_free(map.kernel, map.kaddr)


def __queue_map_get(map: BpfQueueStack, delete: bool) -> bytes | None:
    if map.head == map.tail:
        return None
    value = read_kernel(map.kernel, place(map, map.tail), map.value_size)
    if delete:
        map.tail = (map.tail + 1) % map.size
    return value


def __stack_map_get(map: BpfQueueStack, delete: bool) -> bytes | None:
    if map.head == map.tail:
        return None
    last = (map.head - 1) % map.size
    value = read_kernel(map.kernel, place(map, last), map.value_size)
    if delete:
        map.head = last
    return value


def queue_map_peek_elem(map: BpfQueueStack) -> bytes | None:
    """->map_peek_elem()"""
    return __queue_map_get(map, False)


def queue_map_pop_elem(map: BpfQueueStack) -> bytes | None:
    """->map_pop_elem()"""
    return __queue_map_get(map, True)


def stack_map_peek_elem(map: BpfQueueStack) -> bytes | None:
    """->map_peek_elem()"""
    return __stack_map_get(map, False)


def stack_map_pop_elem(map: BpfQueueStack) -> bytes | None:
    """->map_pop_elem()"""
    return __stack_map_get(map, True)


def queue_stack_map_push_elem(map: BpfQueueStack, value: bytes, flags: int) -> None:
    """->map_push_elem(). Raises EINVAL, E2BIG."""
    if flags & BPF_NOEXIST or flags > BPF_EXIST:
        raise KernelError(EINVAL)
    after = (map.head + 1) % map.size
    if after == map.tail:
        if flags != BPF_EXIST:
            raise KernelError(E2BIG)
        map.tail = (map.tail + 1) % map.size
    write_kernel(map.kernel, place(map, map.head), value)
    map.head = after


def queue_stack_map_no_elem(map: BpfMap, *_arguments: object) -> Any:
    """->map_update_elem(), ->map_delete_elem(), ->map_get_next_key(): there are no keys. Raises EINVAL."""
    raise KernelError(EINVAL)


queue_map_ops = BpfMapOps(
    queue_stack_map_alloc, queue_stack_map_free, queue_stack_map_alloc_check, map_update_elem=queue_stack_map_no_elem,
    map_delete_elem=queue_stack_map_no_elem, map_get_next_key=queue_stack_map_no_elem,
    map_push_elem=queue_stack_map_push_elem, map_pop_elem=queue_map_pop_elem, map_peek_elem=queue_map_peek_elem)
stack_map_ops = BpfMapOps(
    queue_stack_map_alloc, queue_stack_map_free, queue_stack_map_alloc_check, map_update_elem=queue_stack_map_no_elem,
    map_delete_elem=queue_stack_map_no_elem, map_get_next_key=queue_stack_map_no_elem,
    map_push_elem=queue_stack_map_push_elem, map_pop_elem=stack_map_pop_elem, map_peek_elem=stack_map_peek_elem)
