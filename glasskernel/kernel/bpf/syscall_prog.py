"""bpf(2): programs.

Linux: kernel/bpf/syscall.c (5.3). Same: order of the checks, limits without CAP_SYS_ADMIN, what the info tells; the
    instructions lie in vmalloc'ed memory of the kernel. Context: task.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32, strncpy_from_user
from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.btf import Btf, btf_fops
from glasskernel.kernel.bpf.insn import decode, encode
from glasskernel.kernel.bpf.memory import bpf_charge_memlock, write_kernel
from glasskernel.kernel.bpf.objects import (
    __bpf_map_get,
    __bpf_prog_put_rcu,
    bpf_map_fops,
    bpf_prog_alloc_id,
    bpf_prog_fops,
    bpf_prog_free,
    bpf_prog_get,
    bpf_prog_new_fd,
    bpf_prog_put,
)
from glasskernel.kernel.bpf.prog_types import find_prog_type
from glasskernel.kernel.bpf.syscall_map import bpf_obj_name_cpy
from glasskernel.kernel.bpf.types import BpfMap, BpfProg
from glasskernel.kernel.bpf.verifier_load import CheckAttr, bpf_check
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.time.timekeeping import ktime_get_boottime
from glasskernel.lib.errno import E2BIG, EFAULT, EINVAL, ENOSPC, ENOTSUPP, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_KERNEL
from glasskernel.mm.vmalloc import __vmalloc_node_flags, return_address

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

BPF_MAXINSNS = 4096
SIZEOF_BPF_PROG = 56
_FLAGS = 0x3                                       # BPF_F_STRICT_ALIGNMENT, BPF_F_ANY_ALIGNMENT
_UNPRIVILEGED = (t.BPF_PROG_TYPE_SOCKET_FILTER, t.BPF_PROG_TYPE_CGROUP_SKB)
_GPL = (b"GPL", b"GPL v2", b"GPL and additional rights", b"Dual BSD/GPL", b"Dual MIT/GPL", b"Dual MPL/GPL")
_TEST = struct.Struct("<4IQQ4IQQ")
_PROG_INFO = struct.Struct("<II8sIIQQQIIQ16sIIQQIIQQIIQIIQQIIIIQQQ")
_MAP_INFO = struct.Struct("<6I16sIIQQIII4x")


# ---- loading -----------------------------------------------------------------------------------------------------
def license_is_gpl_compatible(text: bytes) -> bool:
    return text in _GPL


def bpf_prog_alloc(prog: BpfProg, count: int) -> None:
    """Memory for the instructions. Raises ENOMEM."""
    size = SIZEOF_BPF_PROG + count * 8 + 4095 & ~4095
    prog.kaddr = __vmalloc_node_flags(prog.kernel, size, -1, GFP_KERNEL | __GFP_ZERO, return_address())
    prog.memory_pages = size >> 12


def bpf_prog_charge_memlock(prog: BpfProg) -> None:
    """Raises EPERM."""
    prog.user = current().cred.uid
    bpf_charge_memlock(prog.kernel, prog.user, prog.memory_pages)


def bpf_prog_load(kernel: Kernel, attr: bytes) -> int:
    """BPF_PROG_LOAD. Raises EINVAL, EFAULT, E2BIG, EPERM, ENOMEM, EACCES, and what the verifier says."""
    type, count, insns, license = struct.unpack_from("<IIQQ", attr)
    flags = struct.unpack_from("<I", attr, 44)[0]
    name = attr[48:64]
    ifindex, attach_type = struct.unpack_from("<II", attr, 64)
    if flags & ~_FLAGS:
        raise KernelError(EINVAL)
    text = strncpy_from_user(license, 127)
    if text is None:
        raise KernelError(EFAULT)
    admin = capable(CAP_SYS_ADMIN)
    if not count or count > (1_000_000 if admin else BPF_MAXINSNS):
        raise KernelError(E2BIG)
    if type not in _UNPRIVILEGED and not admin:
        raise KernelError(EPERM)
    if ifindex:
        raise KernelError(EINVAL)
    prog = BpfProg(kernel, type, [])
    prog.expected_attach_type = attach_type
    bpf_prog_alloc(prog, count)
    try:
        bpf_prog_charge_memlock(prog)
    except KernelError:
        bpf_prog_free(prog)
        raise
    try:
        data = copy_from_user(insns, count * 8)
        prog.insns = decode(data)
        write_kernel(kernel, prog.kaddr + SIZEOF_BPF_PROG, data)
        prog.gpl_compatible = license_is_gpl_compatible(text)
        prog.prog_type = find_prog_type(type)
        prog.load_time = ktime_get_boottime()
        prog.uid = current().cred.uid
        prog.name = bpf_obj_name_cpy(name)
        bpf_check(prog, CheckAttr(attr))
    except KernelError:
        __bpf_prog_put_rcu(prog)                   # nobody has seen it
        raise
    bpf_prog_alloc_id(prog)
    try:
        return bpf_prog_new_fd(prog)
    except KernelError:
        bpf_prog_put(prog)
        raise


# ---- trying it ---------------------------------------------------------------------------------------------------
def bpf_prog_test_run(attr: bytes, uattr: int) -> int:
    """BPF_PROG_TEST_RUN. Raises EBADF, EINVAL, ENOTSUPP, ENOSPC, EFAULT."""
    (fd, _retval, size_in, size_out, data_in, data_out, repeat, _duration, ctx_size_in, ctx_size_out, ctx_in,
     ctx_out) = _TEST.unpack_from(attr)
    if bool(ctx_size_in) != bool(ctx_in) or bool(ctx_size_out) != bool(ctx_out):
        raise KernelError(EINVAL)
    prog = bpf_prog_get(fd)
    try:
        run = prog.prog_type.prog_ops.test_run
        if run is None:
            raise KernelError(ENOTSUPP)
        data = copy_from_user(data_in, size_in) if size_in else b""
        context = copy_from_user(ctx_in, ctx_size_in) if ctx_in else None
        retval, result, context_out, duration = run(prog, data, max(repeat, 1), context)
        answer_buffer(uattr + 12, data_out, size_out, result)
        if context_out is not None and ctx_out:
            answer_buffer(uattr + 44, ctx_out, ctx_size_out, context_out)
        put_user_u32(uattr + 4, retval)
        put_user_u32(uattr + 36, duration)
        return 0
    finally:
        bpf_prog_put(prog)


@notrace
def answer_buffer(usize: int, buffer: int, room: int, data: bytes) -> None:
    """bpf_test_finish(): a buffer without a size is believed to be large enough. Raises EFAULT, ENOSPC."""
    if buffer:
        copy_to_user(buffer, data[: room or len(data)])
    put_user_u32(usize, len(data))
    if buffer and room and len(data) > room:
        raise KernelError(ENOSPC)


# ---- telling about it --------------------------------------------------------------------------------------------
def bpf_obj_get_info_by_fd(attr: bytes, uattr: int) -> int:
    """BPF_OBJ_GET_INFO_BY_FD. Raises EBADF, EINVAL, EFAULT, E2BIG."""
    fd, length, info = struct.unpack_from("<IIQ", attr)
    file = fget(fd)
    try:
        if file.f_op is bpf_prog_fops:
            used = bpf_prog_get_info(file.private_data, info, length)
        elif file.f_op is bpf_map_fops:
            used = bpf_map_get_info(__bpf_map_get(file), info, length)
        elif file.f_op is btf_fops:
            used = btf_get_info(file.private_data, info, length)
        else:
            raise KernelError(EINVAL)
    finally:
        fput(file)
    put_user_u32(uattr + 4, used)
    return 0


@notrace
def bpf_check_uarg_tail_zero(address: int, known: int, length: int) -> None:
    """What a newer program says more must be 0. Raises E2BIG, EFAULT."""
    if length > 4096 or (length > known and any(copy_from_user(address + known, length - known))):
        raise KernelError(E2BIG)


@notrace
def xlated(prog: BpfProg) -> bytes:
    """bpf_insn_prepare_dump(): instructions with numbers of maps instead of descriptors."""
    return encode([(code, dst, src, off, prog.map_insns[at].id if at in prog.map_insns else imm)
                   for at, (code, dst, src, off, imm) in enumerate(prog.insns)])


def bpf_prog_get_info(prog: BpfProg, uinfo: int, length: int) -> int:
    """struct bpf_prog_info; arrays go where the user's own struct points."""
    bpf_check_uarg_tail_zero(uinfo, _PROG_INFO.size, length)
    length = min(length, _PROG_INFO.size)
    asked = _PROG_INFO.unpack(copy_from_user(uinfo, length).ljust(_PROG_INFO.size, b"\0"))
    xlated_len, xlated_insns, nr_maps, map_ids = asked[4], asked[6], asked[9], asked[10]
    if nr_maps and map_ids:
        ids = struct.pack(f"<{len(prog.used_maps)}I", *[map.id for map in prog.used_maps])
        copy_to_user(map_ids, ids[: nr_maps * 4])
    data = xlated(prog) if capable(CAP_SYS_ADMIN) else b""
    if xlated_len and xlated_insns and data:
        copy_to_user(xlated_insns, data[:xlated_len])
    func_rec, func_info, nr_func, nr_line, line_info = asked[21:26]
    line_rec = asked[28]
    funcs = _answer_records(prog.func_info, prog.func_info_rec_size, nr_func, func_rec, func_info)
    lines = _answer_records(prog.line_info, prog.line_info_rec_size, nr_line, line_rec, line_info)
    nr_tags, tags = asked[30], asked[31]
    if nr_tags and tags:
        copy_to_user(tags, prog.tag)
    packed = _PROG_INFO.pack(
        prog.type, prog.id, prog.tag, 0, len(data), 0, xlated_insns, prog.load_time, prog.uid,
        len(prog.used_maps), map_ids, prog.name, 0, int(prog.gpl_compatible), 0, 0, 0, 0, 0, 0,
        prog.btf.id if prog.btf is not None else 0, prog.func_info_rec_size, func_info, funcs, lines, line_info, 0, 0,
        prog.line_info_rec_size, 0, 1, tags, prog.run_time_ns, prog.run_cnt)
    copy_to_user(uinfo, packed[:length])
    return length


@notrace
def _answer_records(data: bytes, size: int, room: int, user_size: int, address: int) -> int:
    """Records of func_info or line_info; how many there are. Raises EINVAL: of another size."""
    count = len(data) // size if size else 0
    if room and count and address:
        if user_size != size:
            raise KernelError(EINVAL)
        copy_to_user(address, data[: room * size])
    return count


def bpf_map_get_info(map: BpfMap, uinfo: int, length: int) -> int:
    """struct bpf_map_info."""
    bpf_check_uarg_tail_zero(uinfo, _MAP_INFO.size, length)
    length = min(length, _MAP_INFO.size)
    packed = _MAP_INFO.pack(map.map_type, map.id, map.key_size, map.value_size, map.max_entries, map.map_flags,
                            map.name, 0, 0, 0, 0, map.btf.id if map.btf is not None else 0, map.btf_key_type_id,
                            map.btf_value_type_id)
    copy_to_user(uinfo, packed[:length])
    return length


def btf_get_info(btf: Btf, uinfo: int, length: int) -> int:
    """struct bpf_btf_info."""
    bpf_check_uarg_tail_zero(uinfo, 16, length)
    length = min(length, 16)
    where, room, _id = struct.unpack("<QII", copy_from_user(uinfo, length).ljust(16, b"\0"))
    copy_to_user(where, btf.data[:room])
    copy_to_user(uinfo, struct.pack("<QII", where, len(btf.data), btf.id)[:length])
    return length
