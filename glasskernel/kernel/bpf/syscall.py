"""bpf(2).

Linux: kernel/bpf/syscall.c (5.3). Same: size and tail of the attributes, who may call.
Gaps: BPF_PROG_ATTACH, _DETACH and _QUERY (control groups: EINVAL), BPF_TASK_FD_QUERY, the hooks security_bpf*().
Context: task.
"""
from __future__ import annotations

import struct
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from glasskernel.arch.x86.uaccess import copy_from_user, put_user_u32, strncpy_from_user
from glasskernel.kernel.bpf.btf import __btf_new_fd, btf_get, btf_new_fd, btf_put
from glasskernel.kernel.bpf.inode import bpf_obj_get, bpf_obj_pin
from glasskernel.kernel.bpf.objects import (
    bpf_get_file_flag,
    bpf_map_inc,
    bpf_map_new_fd,
    bpf_map_put_with_uref,
    bpf_prog_inc,
    bpf_prog_new_fd,
    bpf_prog_put,
    bpf_state,
)
from glasskernel.kernel.bpf.syscall_map import (
    map_create,
    map_delete_elem,
    map_freeze,
    map_get_next_key,
    map_lookup_and_delete_elem,
    map_lookup_elem,
    map_update_elem,
)
from glasskernel.kernel.bpf.syscall_prog import (
    bpf_check_uarg_tail_zero,
    bpf_obj_get_info_by_fd,
    bpf_prog_load,
    bpf_prog_test_run,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.lib.errno import E2BIG, EFAULT, EINVAL, ENOENT, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, u32

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel

SIZEOF_BPF_ATTR = 112
(BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_PROG_LOAD,
 BPF_OBJ_PIN, BPF_OBJ_GET, BPF_PROG_ATTACH, BPF_PROG_DETACH, BPF_PROG_TEST_RUN, BPF_PROG_GET_NEXT_ID,
 BPF_MAP_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_QUERY,
 BPF_RAW_TRACEPOINT_OPEN, BPF_BTF_LOAD, BPF_BTF_GET_FD_BY_ID, BPF_TASK_FD_QUERY, BPF_MAP_LOOKUP_AND_DELETE_ELEM,
 BPF_MAP_FREEZE) = range(23)
# What a command reads of the attributes: the rest must be 0 (CHECK_ATTR).
_LAST: Final = {
    BPF_MAP_CREATE: 60, BPF_MAP_LOOKUP_ELEM: 32, BPF_MAP_UPDATE_ELEM: 32, BPF_MAP_DELETE_ELEM: 16,
    BPF_MAP_GET_NEXT_KEY: 24, BPF_PROG_LOAD: 108, BPF_OBJ_PIN: 16, BPF_OBJ_GET: 16, BPF_PROG_TEST_RUN: 64,
    BPF_PROG_GET_NEXT_ID: 8, BPF_MAP_GET_NEXT_ID: 8, BPF_PROG_GET_FD_BY_ID: 4, BPF_MAP_GET_FD_BY_ID: 12,
    BPF_OBJ_GET_INFO_BY_FD: 16, BPF_RAW_TRACEPOINT_OPEN: 12, BPF_BTF_LOAD: 28, BPF_BTF_GET_FD_BY_ID: 4,
    BPF_MAP_LOOKUP_AND_DELETE_ELEM: 24, BPF_MAP_FREEZE: 4}
_MAP_COMMANDS: Final[dict[int, Callable[[bytes], int]]] = {
    BPF_MAP_LOOKUP_ELEM: map_lookup_elem, BPF_MAP_UPDATE_ELEM: map_update_elem,
    BPF_MAP_DELETE_ELEM: map_delete_elem, BPF_MAP_GET_NEXT_KEY: map_get_next_key,
    BPF_MAP_LOOKUP_AND_DELETE_ELEM: map_lookup_and_delete_elem, BPF_MAP_FREEZE: map_freeze}
_PATH_MAX = 4096


def bpf_obj_get_next_id(attr: bytes, uattr: int, table: dict[int, Any]) -> int:
    """BPF_*_GET_NEXT_ID. Raises EINVAL, EPERM, ENOENT."""
    start = struct.unpack_from("<I", attr)[0]
    if start >= 0x7FFF_FFFF:
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    above = [number for number in table if number > start]
    if not above:
        raise KernelError(ENOENT)
    put_user_u32(uattr + 4, min(above))
    return 0


def get_fd_by_id(kernel: Kernel, cmd: int, attr: bytes) -> int:
    """BPF_*_GET_FD_BY_ID. Raises EPERM, ENOENT, EINVAL, EMFILE."""
    number, _next, open_flags = struct.unpack_from("<III", attr)
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    state = bpf_state(kernel)
    table = {BPF_PROG_GET_FD_BY_ID: state.prog_idr, BPF_MAP_GET_FD_BY_ID: state.map_idr}.get(cmd, state.btf_idr)
    flags = bpf_get_file_flag(open_flags)
    thing: Any = table.get(number)                 # type: ignore[attr-defined]
    if thing is None:
        raise KernelError(ENOENT)
    put: Callable[[Any], None]
    new_fd: Callable[[], int]
    if cmd == BPF_PROG_GET_FD_BY_ID:
        bpf_prog_inc(thing)
        put, new_fd = bpf_prog_put, lambda: bpf_prog_new_fd(thing)
    elif cmd == BPF_MAP_GET_FD_BY_ID:
        bpf_map_inc(thing, True)
        put, new_fd = bpf_map_put_with_uref, lambda: bpf_map_new_fd(thing, flags)
    else:
        btf_get(thing)
        put, new_fd = btf_put, lambda: __btf_new_fd(thing)
    try:
        return new_fd()
    except KernelError:
        put(thing)
        raise


def bpf_raw_tracepoint_open(attr: bytes) -> int:
    """BPF_RAW_TRACEPOINT_OPEN. Raises EFAULT, ENOENT, EBADF, EINVAL."""
    address, prog_fd = struct.unpack_from("<QI", attr)
    name = strncpy_from_user(address, 128)
    if name is None:
        raise KernelError(EFAULT)
    fd: int = import_module("glasskernel.kernel.trace.bpf_raw_tp").bpf_raw_tracepoint_open(name, prog_fd)
    return fd


def bpf_btf_load(kernel: Kernel, attr: bytes) -> int:
    """BPF_BTF_LOAD. Raises EPERM, EFAULT, EINVAL, E2BIG, ENOTSUPP."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    address, log_buf, size, log_size, log_level = struct.unpack_from("<QQIII", attr)
    if size > 16 << 20:
        raise KernelError(E2BIG)
    if (log_level or log_buf or log_size) and (log_size < 128 or not log_level or not log_buf):
        raise KernelError(EINVAL)
    return btf_new_fd(kernel, copy_from_user(address, size))


@notrace
def dispatch(kernel: Kernel, cmd: int, attr: bytes, uattr: int) -> int:
    if cmd in _MAP_COMMANDS:
        return _MAP_COMMANDS[cmd](attr)
    if cmd == BPF_MAP_CREATE:
        return map_create(kernel, attr)
    if cmd == BPF_PROG_LOAD:
        return bpf_prog_load(kernel, attr)
    if cmd in (BPF_OBJ_PIN, BPF_OBJ_GET):
        address, fd, file_flags = struct.unpack_from("<QII", attr)
        if (file_flags if cmd == BPF_OBJ_PIN else fd) or file_flags & ~0x18:
            raise KernelError(EINVAL)
        name = strncpy_from_user(address, _PATH_MAX)
        if name is None:
            raise KernelError(EFAULT)
        return bpf_obj_pin(kernel, fd, name) if cmd == BPF_OBJ_PIN else bpf_obj_get(kernel, name, file_flags)
    if cmd == BPF_PROG_TEST_RUN:
        if not capable(CAP_SYS_ADMIN):
            raise KernelError(EPERM)
        return bpf_prog_test_run(attr, uattr)
    if cmd == BPF_PROG_GET_NEXT_ID:
        return bpf_obj_get_next_id(attr, uattr, bpf_state(kernel).prog_idr)
    if cmd == BPF_MAP_GET_NEXT_ID:
        return bpf_obj_get_next_id(attr, uattr, bpf_state(kernel).map_idr)
    if cmd in (BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_BTF_GET_FD_BY_ID):
        return get_fd_by_id(kernel, cmd, attr)
    if cmd == BPF_OBJ_GET_INFO_BY_FD:
        return bpf_obj_get_info_by_fd(attr, uattr)
    if cmd == BPF_RAW_TRACEPOINT_OPEN:
        return bpf_raw_tracepoint_open(attr)
    assert cmd == BPF_BTF_LOAD
    return bpf_btf_load(kernel, attr)


@syscall(gaps="BPF_PROG_ATTACH and _DETACH, BPF_PROG_QUERY, BPF_TASK_FD_QUERY")
def sys_bpf(cmd: int, uattr: UserPtr, size: u32) -> int:
    """bpf(2). Errors: EPERM, E2BIG, EFAULT, EINVAL, and those of the commands."""
    kernel = current().kernel
    if kernel.sysctl.unprivileged_bpf_disabled and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    bpf_check_uarg_tail_zero(uattr, SIZEOF_BPF_ATTR, size)
    attr = copy_from_user(uattr, min(size, SIZEOF_BPF_ATTR)).ljust(SIZEOF_BPF_ATTR, b"\0")
    last = _LAST.get(cmd)
    if last is None or any(attr[last:]):
        raise KernelError(EINVAL)
    bpf_state(kernel)
    return dispatch(kernel, cmd, attr, uattr)


