"""Arrays: of values, of values for each CPU, of programs, of maps.

Linux: kernel/bpf/arraymap.c, map_in_map.c (5.3). Same: errors, what can be deleted, one area of memory for all values,
    what a map inside a map must look like. Owns: BpfArray. Context: bpf(2) in a task; what programs call: any.
Gaps: BPF_MAP_TYPE_CGROUP_ARRAY.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.memory import (
    bpf_map_area_alloc,
    bpf_map_area_free,
    bpf_map_charge_init,
    read_kernel,
    write_kernel,
)
from glasskernel.kernel.bpf.objects import (
    bpf_map_get_with_uref,
    bpf_map_put,
    bpf_map_put_uref,
    bpf_prog_get,
    bpf_prog_put,
)
from glasskernel.kernel.bpf.types import (
    BPF_ANY,
    BPF_EXIST,
    BPF_F_LOCK,
    BPF_F_NUMA_NODE,
    BPF_F_RDONLY,
    BPF_F_RDONLY_PROG,
    BPF_F_WRONLY,
    BPF_F_WRONLY_PROG,
    BPF_NOEXIST,
    BpfMap,
    BpfMapOps,
    BpfProg,
    not_supported,
)
from glasskernel.lib.errno import E2BIG, EEXIST, EINVAL, ENOENT, ENOTSUPP, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.syscall_map import MapAttr

KMALLOC_MAX_SIZE = 4 << 20
SIZEOF_BPF_ARRAY = 208                             # struct bpf_array up to its values
BPF_F_ACCESS_MASK = BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG


class BpfArray(BpfMap):
    """struct bpf_array. value: address of the first element; ptrs: objects of an array of objects."""

    __slots__ = ("elem_size", "ptrs", "value")

    def __init__(self, kernel: Kernel, attr: MapAttr) -> None:
        super().__init__(kernel, attr.map_type, attr.key_size, attr.value_size, attr.max_entries, attr.flags_to_keep)
        self.elem_size = attr.value_size + 7 & ~7
        self.value = 0
        self.ptrs: list[Any] = []


@notrace
def access_flags_ok(flags: int) -> bool:
    """bpf_map_flags_access_ok()"""
    return flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG) != BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG


@notrace
def index_of(key: bytes) -> int:
    return int.from_bytes(key, "little")


# ---- values ------------------------------------------------------------------------------------------------------
def array_map_alloc_check(attr: MapAttr) -> None:
    """->map_alloc_check(). Raises EINVAL, E2BIG."""
    if (not attr.max_entries or attr.key_size != 4 or not attr.value_size
            or attr.map_flags & ~(BPF_F_NUMA_NODE | BPF_F_ACCESS_MASK) or not access_flags_ok(attr.map_flags)
            or (attr.map_type == t.BPF_MAP_TYPE_PERCPU_ARRAY and attr.map_flags & BPF_F_NUMA_NODE)):
        raise KernelError(EINVAL)
    if attr.value_size > KMALLOC_MAX_SIZE:
        raise KernelError(E2BIG)


def array_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfArray:
    """->map_alloc(). Raises ENOMEM, E2BIG, EPERM."""
    array = BpfArray(kernel, attr)
    copies = len(kernel.machine.cpus) if attr.map_type == t.BPF_MAP_TYPE_PERCPU_ARRAY else 1
    size = SIZEOF_BPF_ARRAY + array.max_entries * array.elem_size * copies
    array.memory_pages, array.user = bpf_map_charge_init(kernel, size)
    array.kaddr = bpf_map_area_alloc(kernel, size)
    array.value = array.kaddr + SIZEOF_BPF_ARRAY
    return array


def array_map_free(map: BpfMap) -> None:
    """->map_free()"""
    bpf_map_area_free(map.kernel, map.kaddr)


def array_map_lookup_elem(map: BpfArray, key: bytes) -> int:
    """->map_lookup_elem()"""
    index = index_of(key)
    return map.value + map.elem_size * index if index < map.max_entries else 0


@notrace
def check_array_update(map: BpfMap, key: bytes, flags: int) -> int:
    """The index. Raises EINVAL, E2BIG, EEXIST."""
    if flags & ~BPF_F_LOCK > BPF_EXIST or (flags & BPF_F_LOCK and map.spin_lock_off < 0):
        raise KernelError(EINVAL)
    index = index_of(key)
    if index >= map.max_entries:
        raise KernelError(E2BIG)
    if flags & BPF_NOEXIST:
        raise KernelError(EEXIST)
    return index


@notrace
def write_value(map: BpfMap, address: int, value: bytes) -> None:
    """A new value; a spin lock in it keeps its own."""
    lock = map.spin_lock_off
    if lock < 0:
        write_kernel(map.kernel, address, value)
    else:
        write_kernel(map.kernel, address, value[:lock])
        write_kernel(map.kernel, address + lock + 4, value[lock + 4 :])


def array_map_update_elem(map: BpfArray, key: bytes, value: bytes, flags: int) -> None:
    """->map_update_elem(). Raises EINVAL, E2BIG, EEXIST."""
    write_value(map, map.value + map.elem_size * check_array_update(map, key, flags), value)


def array_map_delete_elem(map: BpfMap, key: bytes) -> None:
    """->map_delete_elem(): an array's elements are always there."""
    raise KernelError(EINVAL)


def array_map_get_next_key(map: BpfMap, key: bytes | None) -> bytes:
    """->map_get_next_key(). Raises ENOENT."""
    index = index_of(key) if key is not None else map.max_entries
    if index == map.max_entries - 1:
        raise KernelError(ENOENT)
    return (0 if index >= map.max_entries else index + 1).to_bytes(4, "little")


def array_map_direct_value_addr(map: BpfArray, off: int) -> int:
    """->map_direct_value_addr(). Raises ENOTSUPP, EINVAL."""
    if map.max_entries != 1:
        raise KernelError(ENOTSUPP)
    if off >= map.value_size:
        raise KernelError(EINVAL)
    return map.value


array_map_ops = BpfMapOps(
    array_map_alloc, array_map_free, array_map_alloc_check, map_lookup_elem=array_map_lookup_elem,
    map_update_elem=array_map_update_elem, map_delete_elem=array_map_delete_elem,
    map_get_next_key=array_map_get_next_key, map_direct_value_addr=array_map_direct_value_addr)


# ---- a value for each CPU ----------------------------------------------------------------------------------------
def percpu_array_map_lookup_elem(map: BpfArray, key: bytes) -> int:
    """->map_lookup_elem(): this CPU's value."""
    index = index_of(key)
    if index >= map.max_entries:
        return 0
    cpu: int = map.kernel.machine.this_cpu.id
    return percpu_value(map, index, cpu)


@notrace
def percpu_value(map: BpfArray, index: int, cpu: int) -> int:
    return map.value + map.elem_size * (cpu * map.max_entries + index)


def percpu_array_map_update_elem(map: BpfArray, key: bytes, value: bytes, flags: int) -> None:
    """A program's: this CPU's value."""
    index = check_array_update(map, key, flags)
    write_kernel(map.kernel, percpu_value(map, index, map.kernel.machine.this_cpu.id), value)


def bpf_percpu_array_copy(map: BpfArray, key: bytes) -> bytes | None:
    """All CPUs' values, for bpf(2)."""
    index = index_of(key)
    if index >= map.max_entries:
        return None
    return b"".join([read_kernel(map.kernel, percpu_value(map, index, cpu.id), map.elem_size)
                     for cpu in map.kernel.machine.cpus])


def bpf_percpu_array_update(map: BpfArray, key: bytes, value: bytes, flags: int) -> None:
    """All CPUs' values, from bpf(2). Raises EINVAL, E2BIG, EEXIST."""
    index = check_array_update(map, key, flags)
    for cpu in map.kernel.machine.cpus:
        part = value[cpu.id * map.elem_size : (cpu.id + 1) * map.elem_size]
        write_kernel(map.kernel, percpu_value(map, index, cpu.id), part)


percpu_array_map_ops = BpfMapOps(
    array_map_alloc, array_map_free, array_map_alloc_check, map_lookup_elem=percpu_array_map_lookup_elem,
    map_copy_value=bpf_percpu_array_copy, map_update_elem=percpu_array_map_update_elem,
    map_update_value=bpf_percpu_array_update, percpu=True, map_delete_elem=array_map_delete_elem,
    map_get_next_key=array_map_get_next_key)


# ---- arrays of objects -------------------------------------------------------------------------------------------
def fd_array_map_alloc_check(attr: MapAttr) -> None:
    """->map_alloc_check(). Raises EINVAL."""
    if attr.value_size != 4 or attr.map_flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG):
        raise KernelError(EINVAL)
    array_map_alloc_check(attr)


def fd_array_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfArray:
    array = array_map_alloc(kernel, attr)
    array.ptrs = [None] * array.max_entries
    return array


def fd_array_map_free(map: BpfArray) -> None:
    """->map_free()"""
    bpf_fd_array_map_clear(map)
    array_map_free(map)


def bpf_fd_array_map_lookup_elem(map: BpfArray, key: bytes) -> bytes | None:
    """What bpf(2) answers: the object's number. Raises ENOTSUPP."""
    if map.ops.map_fd_sys_lookup_elem is None:
        raise KernelError(ENOTSUPP)
    index = index_of(key)
    thing = map.ptrs[index] if index < map.max_entries else None
    return None if thing is None else map.ops.map_fd_sys_lookup_elem(thing).to_bytes(4, "little")


def bpf_fd_array_map_update_elem(map: BpfArray, key: bytes, value: bytes, flags: int) -> None:
    """Raises EINVAL, E2BIG, EBADF."""
    if flags != BPF_ANY:
        raise KernelError(EINVAL)
    index = index_of(key)
    if index >= map.max_entries:
        raise KernelError(E2BIG)
    assert map.ops.map_fd_get_ptr is not None
    new = map.ops.map_fd_get_ptr(map, int.from_bytes(value, "little"))
    old, map.ptrs[index] = map.ptrs[index], new
    put_object(map, old)


def fd_array_map_delete_elem(map: BpfArray, key: bytes) -> None:
    """->map_delete_elem(). Raises E2BIG, ENOENT."""
    index = index_of(key)
    if index >= map.max_entries:
        raise KernelError(E2BIG)
    old, map.ptrs[index] = map.ptrs[index], None
    if old is None:
        raise KernelError(ENOENT)
    put_object(map, old)


@notrace
def put_object(map: BpfMap, thing: Any) -> None:
    if thing is not None and map.ops.map_fd_put_ptr is not None:
        map.ops.map_fd_put_ptr(thing)


def bpf_fd_array_map_clear(map: BpfArray) -> None:
    """->map_release(): nobody can reach the map any more but the programs it holds."""
    for index, thing in enumerate(map.ptrs):
        map.ptrs[index] = None
        put_object(map, thing)


def prog_fd_array_get_ptr(map: BpfArray, fd: int) -> BpfProg:
    """->map_fd_get_ptr(). Raises EBADF, EINVAL."""
    prog = bpf_prog_get(fd)
    if not bpf_prog_array_compatible(map, prog):
        bpf_prog_put(prog)
        raise KernelError(EINVAL)
    return prog


def bpf_prog_array_compatible(map: BpfMap, prog: BpfProg) -> bool:
    """The first program that uses an array, or is in it, decides its type."""
    if not map.owner_prog_type:
        map.owner_prog_type = prog.type
    return map.owner_prog_type == prog.type


def prog_fd_array_sys_lookup_elem(prog: BpfProg) -> int:
    """->map_fd_sys_lookup_elem()"""
    return prog.id


prog_array_map_ops = BpfMapOps(
    fd_array_map_alloc, fd_array_map_free, fd_array_map_alloc_check, map_copy_value=bpf_fd_array_map_lookup_elem,
    map_update_elem=not_supported, map_update_value=bpf_fd_array_map_update_elem,
    map_delete_elem=fd_array_map_delete_elem, map_get_next_key=array_map_get_next_key,
    map_fd_get_ptr=prog_fd_array_get_ptr, map_fd_put_ptr=bpf_prog_put,
    map_fd_sys_lookup_elem=prog_fd_array_sys_lookup_elem, map_release=bpf_fd_array_map_clear)


# ---- maps in maps ------------------------------------------------------------------------------------------------
def bpf_map_meta_alloc(kernel: Kernel, inner_map_ufd: int) -> BpfMap:
    """What all maps inside must look like. Raises EBADF, EINVAL, ENOTSUPP."""
    inner = bpf_map_get_with_uref(inner_map_ufd)
    try:
        if inner.map_type in (t.BPF_MAP_TYPE_PROG_ARRAY, t.BPF_MAP_TYPE_CGROUP_STORAGE,
                              t.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE) or inner.spin_lock_off >= 0:
            raise KernelError(ENOTSUPP)
        if inner.inner_map_meta is not None:
            raise KernelError(EINVAL)
        meta = BpfMap(kernel, inner.map_type, inner.key_size, inner.value_size, inner.max_entries, inner.map_flags)
        meta.ops = inner.ops
        return meta
    finally:
        bpf_map_put_uref(inner)
        bpf_map_put(inner)


def bpf_map_meta_equal(meta: BpfMap, map: BpfMap) -> bool:
    return (meta.map_type == map.map_type and meta.key_size == map.key_size and meta.value_size == map.value_size
            and meta.map_flags == map.map_flags and meta.max_entries == map.max_entries)


def bpf_map_fd_get_ptr(map: BpfMap, fd: int) -> BpfMap:
    """->map_fd_get_ptr(). Raises EBADF, EINVAL."""
    inner = bpf_map_get_with_uref(fd)
    bpf_map_put_uref(inner)
    assert map.inner_map_meta is not None
    if not bpf_map_meta_equal(map.inner_map_meta, inner):
        bpf_map_put(inner)
        raise KernelError(EINVAL)
    return inner


def bpf_map_fd_sys_lookup_elem(inner: BpfMap) -> int:
    """->map_fd_sys_lookup_elem()"""
    return inner.id


def array_of_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfArray:
    """->map_alloc()"""
    meta = bpf_map_meta_alloc(kernel, attr.inner_map_fd)
    array = fd_array_map_alloc(kernel, attr)
    array.inner_map_meta = meta
    return array


def array_of_map_lookup_elem(map: BpfArray, key: bytes) -> int:
    """->map_lookup_elem(): a program's: the map's address."""
    index = index_of(key)
    inner = map.ptrs[index] if index < map.max_entries else None
    return inner.kaddr if inner is not None else 0


array_of_maps_map_ops = BpfMapOps(
    array_of_map_alloc, fd_array_map_free, fd_array_map_alloc_check, map_lookup_elem=array_of_map_lookup_elem,
    map_copy_value=bpf_fd_array_map_lookup_elem, map_update_value=bpf_fd_array_map_update_elem,
    map_delete_elem=fd_array_map_delete_elem, map_get_next_key=array_map_get_next_key,
    map_fd_get_ptr=bpf_map_fd_get_ptr, map_fd_put_ptr=bpf_map_put,
    map_fd_sys_lookup_elem=bpf_map_fd_sys_lookup_elem)
