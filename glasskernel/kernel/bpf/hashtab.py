"""Hash tables: plain, a value for each CPU, least recently used, of maps.

Linux: kernel/bpf/hashtab.c, bpf_lru_list.c (5.3). Same: errors, limits, elements made at once or one by one
    (BPF_F_NO_PREALLOC), values stay where they are while their element lives.
Differs: a Python dict finds the elements, so the order of keys is that of their insertion; an update writes in place;
    one list of used elements for all CPUs, which are given up oldest first unless they were looked at since the
    last search.
Owns: BpfHtab. Context: bpf(2) in a task; lookups and updates by programs: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.arraymap import (
    BPF_F_ACCESS_MASK,
    KMALLOC_MAX_SIZE,
    access_flags_ok,
    bpf_map_fd_get_ptr,
    bpf_map_fd_sys_lookup_elem,
    bpf_map_meta_alloc,
    write_value,
)
from glasskernel.kernel.bpf.memory import (
    bpf_map_area_alloc,
    bpf_map_area_free,
    bpf_map_charge_init,
    read_kernel,
    write_kernel,
)
from glasskernel.kernel.bpf.objects import bpf_map_put
from glasskernel.kernel.bpf.types import (
    BPF_EXIST,
    BPF_F_LOCK,
    BPF_F_NO_COMMON_LRU,
    BPF_F_NO_PREALLOC,
    BPF_F_NUMA_NODE,
    BPF_F_ZERO_SEED,
    BPF_NOEXIST,
    MAX_BPF_STACK,
    BpfMap,
    BpfMapOps,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.lib.errno import E2BIG, EEXIST, EINVAL, ENOENT, ENOTSUPP, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import GFP_ATOMIC, GFP_KERNEL
from glasskernel.mm.slab_common import __kmalloc, kfree, kmalloc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.syscall_map import MapAttr

SIZEOF_BPF_HTAB, SIZEOF_HTAB_ELEM, SIZEOF_BUCKET = 448, 48, 16
_PERCPU = (t.BPF_MAP_TYPE_PERCPU_HASH, t.BPF_MAP_TYPE_LRU_PERCPU_HASH)
_LRU = (t.BPF_MAP_TYPE_LRU_HASH, t.BPF_MAP_TYPE_LRU_PERCPU_HASH)


class BpfHtab(BpfMap):
    """struct bpf_htab. elems: the value's address by key. free: elements that nobody uses (preallocated). inner: maps
    by key. referenced: keys that programs looked at (LRU). value_step: from one CPU's value to the next."""

    __slots__ = ("area", "elem_size", "elems", "free", "inner", "next_keys", "next_of", "prealloc", "referenced",
                 "value_off", "value_step")

    def __init__(self, kernel: Kernel, attr: MapAttr) -> None:
        super().__init__(kernel, attr.map_type, attr.key_size, attr.value_size, attr.max_entries, attr.flags_to_keep)
        self.prealloc = not attr.map_flags & BPF_F_NO_PREALLOC
        copies = len(kernel.machine.cpus) if attr.map_type in _PERCPU else 1
        self.value_step = attr.value_size + 7 & ~7
        self.value_off = SIZEOF_HTAB_ELEM + (attr.key_size + 7 & ~7)
        self.elem_size = self.value_off + self.value_step * copies
        self.area = 0
        self.elems: dict[bytes, int] = {}
        self.free: list[int] = []
        self.inner: dict[bytes, BpfMap] = {}
        self.referenced: dict[bytes, None] = {}
        self.next_of: bytes | None = None          # where next_keys, an iterator over elems, has come to
        self.next_keys: Iterator[bytes] | None = None


# ---- making and freeing ------------------------------------------------------------------------------------------
def htab_map_alloc_check(attr: MapAttr) -> None:
    """->map_alloc_check(). Raises EPERM, EINVAL, ENOTSUPP, E2BIG."""
    flags, lru = attr.map_flags, attr.map_type in _LRU
    if (lru or flags & BPF_F_ZERO_SEED) and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if flags & ~(BPF_F_NO_PREALLOC | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE | BPF_F_ACCESS_MASK | BPF_F_ZERO_SEED) or (
            not access_flags_ok(flags) or (not lru and flags & BPF_F_NO_COMMON_LRU)):
        raise KernelError(EINVAL)
    if lru and flags & BPF_F_NO_PREALLOC:
        raise KernelError(ENOTSUPP)
    if flags & BPF_F_NUMA_NODE and (attr.map_type in _PERCPU or flags & BPF_F_NO_COMMON_LRU):
        raise KernelError(EINVAL)
    if not attr.max_entries or not attr.key_size or not attr.value_size:
        raise KernelError(EINVAL)
    if attr.key_size > MAX_BPF_STACK or attr.value_size >= KMALLOC_MAX_SIZE - MAX_BPF_STACK - SIZEOF_HTAB_ELEM:
        raise KernelError(E2BIG)


def htab_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfHtab:
    """->map_alloc(). Raises E2BIG, EPERM, ENOMEM."""
    htab = BpfHtab(kernel, attr)
    buckets = 1 << (htab.max_entries - 1).bit_length()
    if buckets >= 1 << 28:
        raise KernelError(E2BIG)
    htab.memory_pages, htab.user = bpf_map_charge_init(
        kernel, buckets * SIZEOF_BUCKET + htab.elem_size * htab.max_entries)
    htab.kaddr = kmalloc(kernel, SIZEOF_BPF_HTAB, GFP_KERNEL)
    if htab.prealloc:
        prealloc_init(htab)
    return htab


def prealloc_init(htab: BpfHtab) -> None:
    """All elements at once. Raises ENOMEM."""
    htab.area = bpf_map_area_alloc(htab.kernel, htab.elem_size * htab.max_entries)
    htab.free = [htab.area + number * htab.elem_size for number in range(htab.max_entries)]
    htab.free.reverse()


def htab_map_free(map: BpfHtab) -> None:
    """->map_free()"""
    for inner in map.inner.values():
        bpf_map_put(inner)
    if map.prealloc:
        bpf_map_area_free(map.kernel, map.area)
    else:
        for value in map.elems.values():
            kfree(map.kernel, value - map.value_off)
    kfree(map.kernel, map.kaddr)


# ---- elements ----------------------------------------------------------------------------------------------------
def alloc_htab_elem(htab: BpfHtab, key: bytes) -> int:
    """Room for a new key: the address of its value. Raises E2BIG, ENOMEM."""
    if htab.prealloc:
        if not htab.free:
            raise KernelError(E2BIG)
        element = htab.free.pop()
    else:
        if len(htab.elems) >= htab.max_entries:
            raise KernelError(E2BIG)
        element = __kmalloc(htab.kernel, htab.elem_size, GFP_ATOMIC)
    write_kernel(htab.kernel, element + SIZEOF_HTAB_ELEM, key)
    write_kernel(htab.kernel, element + htab.value_off, bytes(htab.elem_size - htab.value_off))
    htab.elems[key] = element + htab.value_off
    return element + htab.value_off


def free_htab_elem(htab: BpfHtab, key: bytes) -> None:
    element = htab.elems.pop(key) - htab.value_off
    htab.referenced.pop(key, None)
    if htab.prealloc:
        htab.free.append(element)
    else:
        kfree(htab.kernel, element)


def prealloc_lru_pop(htab: BpfHtab) -> None:
    """Makes room: the oldest element that nobody has looked at since this was asked last."""
    if htab.free:
        return
    for key in list(htab.elems):
        if key not in htab.referenced:
            break
        del htab.referenced[key]
        htab.elems[key] = htab.elems.pop(key)      # to the end
    else:
        key = next(iter(htab.elems))
    free_htab_elem(htab, key)


def check_flags(htab: BpfHtab, key: bytes, flags: int) -> int:
    """The value's address; 0: it is new. Raises EINVAL, EEXIST, ENOENT."""
    if flags & ~BPF_F_LOCK > BPF_EXIST or (flags & BPF_F_LOCK and htab.spin_lock_off < 0):
        raise KernelError(EINVAL)
    value = htab.elems.get(key, 0)
    if value and flags & ~BPF_F_LOCK == BPF_NOEXIST:
        raise KernelError(EEXIST)
    if not value and flags & ~BPF_F_LOCK == BPF_EXIST:
        raise KernelError(ENOENT)
    return value


@notrace
def element_for(htab: BpfHtab, key: bytes, flags: int) -> int:
    """Where a value goes. Raises EINVAL, EEXIST, ENOENT, E2BIG, ENOMEM."""
    value = check_flags(htab, key, flags)
    if not value:
        if htab.map_type in _LRU:
            prealloc_lru_pop(htab)
        value = alloc_htab_elem(htab, key)
    return value


def htab_map_lookup_elem(map: BpfHtab, key: bytes) -> int:
    """->map_lookup_elem()"""
    return map.elems.get(key, 0)


def htab_map_update_elem(map: BpfHtab, key: bytes, value: bytes, flags: int) -> None:
    """->map_update_elem()"""
    write_value(map, element_for(map, key, flags), value)


def htab_map_delete_elem(map: BpfHtab, key: bytes) -> None:
    """->map_delete_elem(). Raises ENOENT."""
    if key not in map.elems:
        raise KernelError(ENOENT)
    free_htab_elem(map, key)


def htab_map_get_next_key(map: BpfHtab, key: bytes | None) -> bytes:
    """->map_get_next_key(): the first one if `key` is not there (any more). Raises ENOENT."""
    if key is None or key not in map.elems:
        map.next_keys = iter(map.elems)
    elif key != map.next_of or map.next_keys is None:
        map.next_keys = iter(map.elems)
        for found in map.next_keys:
            if found == key:
                break
    try:
        map.next_of = next(map.next_keys)
    except StopIteration:
        map.next_keys = None
        raise KernelError(ENOENT) from None
    except RuntimeError:                           # elements came or went since
        map.next_of = map.next_keys = None
        return htab_map_get_next_key(map, key)
    return map.next_of


# ---- least recently used -----------------------------------------------------------------------------------------
def htab_lru_map_lookup_elem(map: BpfHtab, key: bytes) -> int:
    """->map_lookup_elem() of a program: that counts as use."""
    value = map.elems.get(key, 0)
    if value:
        map.referenced[key] = None
    return value


def htab_lru_map_lookup_elem_sys(map: BpfHtab, key: bytes) -> bytes | None:
    """->map_lookup_elem_sys_only(): looking from outside does not."""
    value = map.elems.get(key, 0)
    return read_kernel(map.kernel, value, map.value_size) if value else None


def htab_lru_map_update_elem(map: BpfHtab, key: bytes, value: bytes, flags: int) -> None:
    """->map_update_elem()"""
    htab_map_update_elem(map, key, value, flags)
    map.referenced[key] = None


# ---- a value for each CPU ----------------------------------------------------------------------------------------
def htab_percpu_map_lookup_elem(map: BpfHtab, key: bytes) -> int:
    """->map_lookup_elem(): this CPU's value."""
    value = map.elems.get(key, 0)
    cpu: int = map.kernel.machine.this_cpu.id
    return value + map.value_step * cpu if value else 0


def htab_lru_percpu_map_lookup_elem(map: BpfHtab, key: bytes) -> int:
    """->map_lookup_elem()"""
    if key in map.elems:
        map.referenced[key] = None
    return htab_percpu_map_lookup_elem(map, key)


def htab_percpu_map_update_elem(map: BpfHtab, key: bytes, value: bytes, flags: int) -> None:
    """->map_update_elem() of a program: this CPU's value."""
    address = element_for(map, key, flags)
    write_kernel(map.kernel, address + map.value_step * map.kernel.machine.this_cpu.id, value)


def bpf_percpu_hash_copy(map: BpfHtab, key: bytes) -> bytes | None:
    """All CPUs' values, for bpf(2)."""
    value = map.elems.get(key, 0)
    return read_kernel(map.kernel, value, map.elem_size - map.value_off) if value else None


def bpf_percpu_hash_update(map: BpfHtab, key: bytes, value: bytes, flags: int) -> None:
    """All CPUs' values, from bpf(2)."""
    write_kernel(map.kernel, element_for(map, key, flags), value)


# ---- of maps -----------------------------------------------------------------------------------------------------
def fd_htab_map_alloc_check(attr: MapAttr) -> None:
    """->map_alloc_check(). Raises EINVAL."""
    if attr.value_size != 4:
        raise KernelError(EINVAL)
    htab_map_alloc_check(attr)


def htab_of_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfHtab:
    """->map_alloc()"""
    meta = bpf_map_meta_alloc(kernel, attr.inner_map_fd)
    htab = htab_map_alloc(kernel, attr)
    htab.inner_map_meta = meta
    return htab


def htab_of_map_lookup_elem(map: BpfHtab, key: bytes) -> int:
    """->map_lookup_elem() of a program: the map's address."""
    inner = map.inner.get(key)
    return inner.kaddr if inner is not None else 0


def bpf_fd_htab_map_lookup_elem(map: BpfHtab, key: bytes) -> bytes | None:
    """For bpf(2): the map's number."""
    inner = map.inner.get(key)
    return bpf_map_fd_sys_lookup_elem(inner).to_bytes(4, "little") if inner is not None else None


def bpf_fd_htab_map_update_elem(map: BpfHtab, key: bytes, value: bytes, flags: int) -> None:
    """From bpf(2). Raises EBADF, EINVAL, EEXIST, ENOENT, E2BIG."""
    inner = bpf_map_fd_get_ptr(map, int.from_bytes(value, "little"))
    try:
        element_for(map, key, flags)
    except KernelError:
        bpf_map_put(inner)
        raise
    old = map.inner.get(key)
    map.inner[key] = inner
    if old is not None:
        bpf_map_put(old)


def fd_htab_map_delete_elem(map: BpfHtab, key: bytes) -> None:
    """->map_delete_elem(). Raises ENOENT."""
    htab_map_delete_elem(map, key)
    bpf_map_put(map.inner.pop(key))


htab_map_ops = BpfMapOps(
    htab_map_alloc, htab_map_free, htab_map_alloc_check, map_lookup_elem=htab_map_lookup_elem,
    map_update_elem=htab_map_update_elem, map_delete_elem=htab_map_delete_elem,
    map_get_next_key=htab_map_get_next_key)
htab_lru_map_ops = BpfMapOps(
    htab_map_alloc, htab_map_free, htab_map_alloc_check, map_lookup_elem=htab_lru_map_lookup_elem,
    map_copy_value=htab_lru_map_lookup_elem_sys, map_update_elem=htab_lru_map_update_elem,
    map_delete_elem=htab_map_delete_elem, map_get_next_key=htab_map_get_next_key)
htab_percpu_map_ops = BpfMapOps(
    htab_map_alloc, htab_map_free, htab_map_alloc_check, map_lookup_elem=htab_percpu_map_lookup_elem,
    map_copy_value=bpf_percpu_hash_copy, map_update_elem=htab_percpu_map_update_elem,
    map_update_value=bpf_percpu_hash_update, percpu=True, map_delete_elem=htab_map_delete_elem,
    map_get_next_key=htab_map_get_next_key)
htab_lru_percpu_map_ops = BpfMapOps(
    htab_map_alloc, htab_map_free, htab_map_alloc_check, map_lookup_elem=htab_lru_percpu_map_lookup_elem,
    map_copy_value=bpf_percpu_hash_copy, map_update_elem=htab_percpu_map_update_elem,
    map_update_value=bpf_percpu_hash_update, percpu=True, map_delete_elem=htab_map_delete_elem,
    map_get_next_key=htab_map_get_next_key)
htab_of_maps_map_ops = BpfMapOps(
    htab_of_map_alloc, htab_map_free, fd_htab_map_alloc_check, map_lookup_elem=htab_of_map_lookup_elem,
    map_copy_value=bpf_fd_htab_map_lookup_elem, map_update_value=bpf_fd_htab_map_update_elem,
    map_delete_elem=fd_htab_map_delete_elem, map_get_next_key=htab_map_get_next_key,
    map_fd_get_ptr=bpf_map_fd_get_ptr, map_fd_put_ptr=bpf_map_put,
    map_fd_sys_lookup_elem=bpf_map_fd_sys_lookup_elem)
