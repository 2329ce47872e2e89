"""bpf(2): maps.

Linux: kernel/bpf/syscall.c (5.3). Same: errors and their order, access by a descriptor's mode, frozen maps, values of
    all CPUs. Context: task.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.fs.types import FMODE_READ, FMODE_WRITE
from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.btf import BTF_KIND_INT, btf_find_spin_lock, btf_get_by_fd, btf_type_id_size
from glasskernel.kernel.bpf.memory import read_kernel
from glasskernel.kernel.bpf.objects import (
    __bpf_map_get,
    bpf_get_file_flag,
    bpf_map_alloc_id,
    bpf_map_free_deferred,
    bpf_map_new_fd,
    bpf_map_put_with_uref,
    map_get_sys_perms,
)
from glasskernel.kernel.bpf.prog_types import find_map_ops
from glasskernel.kernel.bpf.types import (
    BPF_F_LOCK,
    BPF_F_NUMA_NODE,
    BPF_F_RDONLY,
    BPF_F_WRONLY,
    BPF_OBJ_NAME_LEN,
    BpfMap,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.lib.errno import EBUSY, EINVAL, ENOENT, ENOTSUPP, EPERM, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.btf import Btf

_CREATE = struct.Struct("<7I16s4I")
_ELEM = struct.Struct("<I4xQQQ")
_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")
_QUEUES = (t.BPF_MAP_TYPE_QUEUE, t.BPF_MAP_TYPE_STACK)
_FD_MAPS = (t.BPF_MAP_TYPE_PROG_ARRAY, t.BPF_MAP_TYPE_PERF_EVENT_ARRAY, t.BPF_MAP_TYPE_CGROUP_ARRAY,
            t.BPF_MAP_TYPE_ARRAY_OF_MAPS, t.BPF_MAP_TYPE_HASH_OF_MAPS)


class MapAttr:
    """The part of union bpf_attr for BPF_MAP_CREATE. flags_to_keep: bpf_map_flags_retain_permanent()."""

    __slots__ = ("btf_fd", "btf_key_type_id", "btf_value_type_id", "flags_to_keep", "inner_map_fd", "key_size",
                 "map_flags", "map_ifindex", "map_name", "map_type", "max_entries", "numa_node", "value_size")
    key_size: int
    value_size: int

    def __init__(self, attr: bytes) -> None:
        (self.map_type, self.key_size, self.value_size, self.max_entries, self.map_flags, self.inner_map_fd,
         self.numa_node, self.map_name, self.map_ifindex, self.btf_fd, self.btf_key_type_id,
         self.btf_value_type_id) = _CREATE.unpack_from(attr)
        self.flags_to_keep = self.map_flags & ~(BPF_F_RDONLY | BPF_F_WRONLY)


def bpf_obj_name_cpy(name: bytes) -> bytes:
    """A name of an object: letters, digits, `_` and `.`, with a 0 behind it. Raises EINVAL."""
    text = name.split(b"\0", 1)[0]
    if len(text) >= BPF_OBJ_NAME_LEN or any(byte not in _NAME for byte in text):
        raise KernelError(EINVAL)
    return text


def map_check_btf(map: BpfMap, btf: Btf, key_id: int, value_id: int) -> None:
    """Types of keys and values fit the map's sizes. Raises EINVAL, ENOTSUPP."""
    if key_id:
        kind, size = btf_type_id_size(btf, key_id)
        if size != map.key_size:
            raise KernelError(EINVAL)
        if map.map_type in (t.BPF_MAP_TYPE_ARRAY, t.BPF_MAP_TYPE_PERCPU_ARRAY) and kind != BTF_KIND_INT:
            raise KernelError(EINVAL)
    elif map.map_type != t.BPF_MAP_TYPE_ARRAY or map.max_entries != 1:
        raise KernelError(EINVAL)                  # only global variables have no key
    if map.map_type in _FD_MAPS:
        raise KernelError(ENOTSUPP)                # map_check_no_btf()
    _kind, size = btf_type_id_size(btf, value_id)
    if size != map.value_size:
        raise KernelError(EINVAL)
    map.spin_lock_off = btf_find_spin_lock(btf, value_id)
    if map.spin_lock_off >= 0 and map.map_type not in (
            t.BPF_MAP_TYPE_HASH, t.BPF_MAP_TYPE_ARRAY, t.BPF_MAP_TYPE_CGROUP_STORAGE, t.BPF_MAP_TYPE_SK_STORAGE):
        raise KernelError(ENOTSUPP)
    if map.ops.map_check_btf is not None:
        map.ops.map_check_btf(map, btf, key_id, value_id)


def find_and_alloc_map(kernel: Kernel, attr: MapAttr) -> BpfMap:
    """A map of the type. Raises EINVAL, and what the type's rules are."""
    ops = find_map_ops(attr.map_type)
    if ops.map_alloc_check is not None:
        ops.map_alloc_check(attr)
    if attr.map_ifindex:
        raise KernelError(EINVAL)
    map = ops.map_alloc(kernel, attr)
    map.ops = ops
    return map


def map_create(kernel: Kernel, data: bytes) -> int:
    """BPF_MAP_CREATE. Raises EINVAL, E2BIG, ENOMEM, EPERM, EMFILE."""
    attr = MapAttr(data)
    f_flags = bpf_get_file_flag(attr.map_flags)
    if attr.map_flags & BPF_F_NUMA_NODE and attr.numa_node:
        raise KernelError(EINVAL)                  # only node 0 is online
    map = find_and_alloc_map(kernel, attr)
    try:
        map.name = bpf_obj_name_cpy(attr.map_name)
        if attr.btf_key_type_id or attr.btf_value_type_id:
            if not attr.btf_value_type_id:
                raise KernelError(EINVAL)
            map.btf = btf_get_by_fd(attr.btf_fd)
            map.btf_key_type_id, map.btf_value_type_id = attr.btf_key_type_id, attr.btf_value_type_id
            map_check_btf(map, map.btf, attr.btf_key_type_id, attr.btf_value_type_id)
    except KernelError:
        bpf_map_free_deferred(map)
        raise
    bpf_map_alloc_id(map)
    try:
        return bpf_map_new_fd(map, f_flags)
    except KernelError:
        bpf_map_put_with_uref(map)
        raise


# ---- elements ----------------------------------------------------------------------------------------------------
@notrace
def user_value_size(map: BpfMap) -> int:
    """What a value of bpf(2) is long."""
    if map.ops.percpu:
        return (map.value_size + 7 & ~7) * len(map.kernel.machine.cpus)
    return 4 if map.map_type in _FD_MAPS else map.value_size


@notrace
def usable_map(file: File, needs: int) -> BpfMap:
    """The map behind a descriptor that may be used like this. Raises EINVAL, EPERM."""
    map = __bpf_map_get(file)
    if not map_get_sys_perms(map, file) & needs:
        raise KernelError(EPERM)
    return map


@notrace
def __bpf_copy_key(map: BpfMap, ukey: int) -> bytes:
    """The key; maps without keys take a NULL only. Raises EINVAL, EFAULT."""
    if map.key_size:
        return copy_from_user(ukey, map.key_size)
    if ukey:
        raise KernelError(EINVAL)
    return b""


def bpf_map_copy_value(map: BpfMap, key: bytes) -> bytes:
    """A value for bpf(2). Raises ENOENT, ENOTSUPP."""
    ops = map.ops
    if map.map_type in _QUEUES:
        data = ops.map_peek_elem(map)
    elif ops.map_copy_value is not None:
        data = ops.map_copy_value(map, key)
    else:
        address = ops.map_lookup_elem(map, key)
        data = read_kernel(map.kernel, address, map.value_size) if address else None
    if data is None:
        raise KernelError(ENOENT)
    if map.spin_lock_off >= 0:
        data = data[: map.spin_lock_off] + bytes(4) + data[map.spin_lock_off + 4 :]
    return data


def map_lookup_elem(attr: bytes) -> int:
    """BPF_MAP_LOOKUP_ELEM. Raises EINVAL, EBADF, EPERM, EFAULT, ENOENT."""
    ufd, ukey, uvalue, flags = _ELEM.unpack_from(attr)
    if flags & ~BPF_F_LOCK:
        raise KernelError(EINVAL)
    file = fget(ufd)
    try:
        map = usable_map(file, FMODE_READ)
        if flags & BPF_F_LOCK and map.spin_lock_off < 0:
            raise KernelError(EINVAL)
        copy_to_user(uvalue, bpf_map_copy_value(map, __bpf_copy_key(map, ukey)))
    finally:
        fput(file)
    return 0


def map_update_elem(attr: bytes) -> int:
    """BPF_MAP_UPDATE_ELEM. Raises EINVAL, EBADF, EPERM, EFAULT, E2BIG, EEXIST, ENOENT, ENOMEM."""
    ufd, ukey, uvalue, flags = _ELEM.unpack_from(attr)
    file = fget(ufd)
    try:
        map = usable_map(file, FMODE_WRITE)
        if flags & BPF_F_LOCK and map.spin_lock_off < 0:
            raise KernelError(EINVAL)
        key = __bpf_copy_key(map, ukey)
        value = copy_from_user(uvalue, user_value_size(map))
        if map.map_type in _QUEUES:
            map.ops.map_push_elem(map, value, flags)
        elif map.ops.map_update_value is not None:
            map.ops.map_update_value(map, key, value, flags)
        else:
            map.ops.map_update_elem(map, key, value, flags)
    finally:
        fput(file)
    return 0


def map_delete_elem(attr: bytes) -> int:
    """BPF_MAP_DELETE_ELEM. Raises EBADF, EINVAL, EPERM, EFAULT, ENOENT."""
    ufd, ukey, _value, _flags = _ELEM.unpack_from(attr)
    file = fget(ufd)
    try:
        map = usable_map(file, FMODE_WRITE)
        map.ops.map_delete_elem(map, __bpf_copy_key(map, ukey))
    finally:
        fput(file)
    return 0


def map_get_next_key(attr: bytes) -> int:
    """BPF_MAP_GET_NEXT_KEY. Raises EBADF, EINVAL, EPERM, EFAULT, ENOENT."""
    ufd, ukey, unext, _flags = _ELEM.unpack_from(attr)
    file = fget(ufd)
    try:
        map = usable_map(file, FMODE_READ)
        key = __bpf_copy_key(map, ukey) if ukey else None
        copy_to_user(unext, map.ops.map_get_next_key(map, key))
    finally:
        fput(file)
    return 0


def map_lookup_and_delete_elem(attr: bytes) -> int:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM: queues and stacks only. Raises EBADF, EINVAL, EPERM, EFAULT, ENOENT, ENOTSUPP."""
    ufd, ukey, uvalue, _flags = _ELEM.unpack_from(attr)
    file = fget(ufd)
    try:
        map = usable_map(file, FMODE_WRITE)
        __bpf_copy_key(map, ukey)
        if map.map_type not in _QUEUES:
            raise KernelError(ENOTSUPP)
        value = map.ops.map_pop_elem(map)
        if value is None:
            raise KernelError(ENOENT)
        copy_to_user(uvalue, value)
    finally:
        fput(file)
    return 0


def map_freeze(attr: bytes) -> int:
    """BPF_MAP_FREEZE: bpf(2) may not change the map any more. Raises EBADF, EINVAL, EBUSY, EPERM."""
    file = fget(struct.unpack_from("<I", attr)[0])
    try:
        map = __bpf_map_get(file)
        if map.frozen:
            raise KernelError(EBUSY)
        if not capable(CAP_SYS_ADMIN):
            raise KernelError(EPERM)
        map.frozen = True
    finally:
        fput(file)
    return 0
