"""bpf_check(): what surrounds the walk through all paths.

Linux: kernel/bpf/verifier.c: replace_map_fd_with_map_ptr(), check_btf_info(), bpf_check() (5.3). Same: order of the
    steps, words, which maps go with which programs. Differs: an instruction keeps its descriptor; the map is noted
    beside it.
Context: task.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.arraymap import bpf_prog_array_compatible
from glasskernel.kernel.bpf.btf import BTF_KIND_FUNC, btf_get_by_fd
from glasskernel.kernel.bpf.core import bpf_prog_calc_tag, bpf_prog_translate
from glasskernel.kernel.bpf.insn import (
    BPF_LD_IMM64,
    BPF_LDX,
    BPF_MEM,
    BPF_PSEUDO_MAP_FD,
    BPF_PSEUDO_MAP_VALUE,
    BPF_STX,
    BPF_XADD,
)
from glasskernel.kernel.bpf.objects import __bpf_map_get, bpf_map_inc, bpf_map_put
from glasskernel.kernel.bpf.verifier import (
    check_cfg,
    check_max_stack_depth,
    check_subprogs,
    do_check,
    print_verification_stats,
)
from glasskernel.kernel.bpf.verifier_env import BpfVerifierLog, VerifierEnv, log_error
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.lib.errno import E2BIG, EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfMap, BpfProg

BPF_F_STRICT_ALIGNMENT, BPF_F_ANY_ALIGNMENT = 1, 2
MAX_USED_MAPS = 64
NS_PER_VERIFIED_INSN = 100                         # what Linux takes for one, about
MAX_FUNCINFO_REC_SIZE = 252
_TRACING = (t.BPF_PROG_TYPE_KPROBE, t.BPF_PROG_TYPE_TRACEPOINT, t.BPF_PROG_TYPE_PERF_EVENT,
            t.BPF_PROG_TYPE_RAW_TRACEPOINT)
_HASHES = (t.BPF_MAP_TYPE_HASH, t.BPF_MAP_TYPE_PERCPU_HASH, t.BPF_MAP_TYPE_HASH_OF_MAPS)
_WIDTHS = (0x00, 0x08, 0x10, 0x18)
# Codes that exist: arithmetic, jumps, memory.
_OPERATIONS = (*range(0x00, 0x80, 0x10), 0x90, 0xA0, 0xB0, 0xC0)
OPCODES = frozenset((
    *(kind | operation | source for kind in (4, 7) for operation in _OPERATIONS for source in (0, 8)),
    0x84, 0x87, 0xD4, 0xDC,
    *(kind | operation | source for kind in (5, 6) for operation in (*range(0x10, 0x80, 0x10), *range(0xA0, 0xE0, 0x10))
      for source in (0, 8)), 0x05, 0x85, 0x95,
    *(kind | BPF_MEM | width for kind in (1, 2, 3) for width in _WIDTHS), 0xC3, 0xDB, 0x18,
    *(mode | width for mode in (0x20, 0x40) for width in _WIDTHS[:3])))


# ---- maps --------------------------------------------------------------------------------------------------------
def check_map_prog_compatibility(env: VerifierEnv, map: BpfMap) -> None:
    """Raises EINVAL."""
    type = env.prog.type
    if type == t.BPF_PROG_TYPE_PERF_EVENT:
        inner = map.inner_map_meta
        if map.map_type in _HASHES and map.map_flags & t.BPF_F_NO_PREALLOC:
            env.refuse("perf_event programs can only use preallocated hash map\n", EINVAL)
        if inner is not None and inner.map_type in _HASHES and inner.map_flags & t.BPF_F_NO_PREALLOC:
            env.refuse("perf_event programs can only use preallocated inner hash map\n", EINVAL)
    if map.spin_lock_off >= 0 and type in _TRACING:
        env.refuse("tracing progs cannot use bpf_spin_lock yet\n", EINVAL)
    if map.spin_lock_off >= 0 and type == t.BPF_PROG_TYPE_SOCKET_FILTER:
        env.refuse("socket filter progs cannot use bpf_spin_lock yet\n", EINVAL)


@notrace
def _use_map(env: VerifierEnv, fd: int) -> BpfMap:
    """The map behind a descriptor; the program holds it. Raises EBADF, EINVAL, E2BIG."""
    try:
        file = fget(fd)
    except KernelError:
        env.verbose(f"fd {fd} is not pointing to valid bpf_map\n")
        raise
    try:
        map = __bpf_map_get(file)
        check_map_prog_compatibility(env, map)
        if map not in env.used_maps:
            if len(env.used_maps) >= MAX_USED_MAPS:
                raise KernelError(E2BIG)
            env.used_maps.append(bpf_map_inc(map, False))
        return map
    except KernelError:
        if not hasattr(file.private_data, "map_type"):
            env.verbose(f"fd {fd} is not pointing to valid bpf_map\n")
        raise
    finally:
        fput(file)


def replace_map_fd_with_map_ptr(env: VerifierEnv) -> None:
    """Raises EINVAL, EBADF, E2BIG, ENOTSUPP."""
    insns = env.insns
    at = 0
    while at < len(insns):
        code, _dst, src, _off, imm = insns[at]
        mode = code & 0xE0
        if code & 7 == BPF_LDX and (mode != BPF_MEM or imm):
            env.refuse("BPF_LDX uses reserved fields\n", EINVAL)
        if code & 7 == BPF_STX and (mode not in (BPF_MEM, BPF_XADD) or imm):
            env.refuse("BPF_STX uses reserved fields\n", EINVAL)
        if code == BPF_LD_IMM64:
            if at == len(insns) - 1 or insns[at + 1][:4] != (0, 0, 0, 0):
                env.refuse("invalid bpf_ld_imm64 insn\n", EINVAL)
            second = insns[at + 1][4]
            if src:
                if src not in (BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE) or (src == BPF_PSEUDO_MAP_FD and second):
                    env.refuse("unrecognized bpf_ld_imm64 insn\n", EINVAL)
                aux = env.aux[at]
                aux.map = _use_map(env, imm)
                if src == BPF_PSEUDO_MAP_VALUE:
                    aux.map_off = direct_value(env, aux.map, second & 0xFFFF_FFFF)
            at += 1
        elif code not in OPCODES:
            env.refuse(f"unknown opcode {code:02x}\n", EINVAL)
        at += 1


@notrace
def direct_value(env: VerifierEnv, map: BpfMap, off: int) -> int:
    """An offset into a map's value, in an instruction. Raises EINVAL, ENOTSUPP."""
    if off >= 1 << 29:
        env.refuse(f"direct value offset of {off} is not allowed\n", EINVAL)
    if map.ops.map_direct_value_addr is None:
        env.refuse("no direct value access support for this map type\n", EINVAL)
    try:
        map.ops.map_direct_value_addr(map, off)
    except KernelError:
        env.verbose(f"invalid access to map value pointer, value_size={map.value_size} off={off}\n")
        raise
    return off


# ---- types of the source -----------------------------------------------------------------------------------------
@notrace
def _records(prog_name: str, env: VerifierEnv, address: int, count: int, rec_size: int, low: int) -> list[bytes]:
    """Records of the user's: of `low` bytes that are known, and zeros behind. Raises EINVAL, EFAULT, E2BIG."""
    if not low <= rec_size <= MAX_FUNCINFO_REC_SIZE or rec_size & 3:
        env.refuse(f"invalid {prog_name} rec size {rec_size}\n", EINVAL)
    records = []
    for number in range(count):
        data = copy_from_user(address + number * rec_size, rec_size)
        if any(data[low:]):
            env.refuse(f"nonzero tailing record in {prog_name}", E2BIG)
        records.append(data[:low])
    return records


def check_btf_func(env: VerifierEnv, address: int, count: int, rec_size: int) -> None:
    """Each function of the program has a type. Raises EINVAL, E2BIG, EFAULT."""
    if not count:
        return
    btf = env.prog.btf
    assert btf is not None
    if count != len(env.subprogs):
        env.refuse("number of funcs in func_info doesn't match number of subprogs\n", EINVAL)
    records = _records("func info", env, address, count, rec_size, 8)
    for info, record in zip(env.subprogs, records, strict=True):
        insn_off, type_id = struct.unpack("<II", record)
        if insn_off != info.start:
            env.refuse("func_info BTF section doesn't match subprog layout in BPF program\n", EINVAL)
        if not 0 < type_id < len(btf.types) or btf.types[type_id].kind != BTF_KIND_FUNC:
            env.refuse(f"invalid type id {type_id} in func info", EINVAL)
    env.prog.func_info, env.prog.func_info_rec_size = b"".join(records), 8


def check_btf_line(env: VerifierEnv, address: int, count: int, rec_size: int) -> None:
    """Source lines, for the log. Raises EINVAL, E2BIG, EFAULT."""
    if not count:
        return
    btf = env.prog.btf
    assert btf is not None
    records = _records("linfo", env, address, count, rec_size, 16)
    before = -1
    for number, record in enumerate(records):
        insn_off, file_off, line_off, _where = struct.unpack("<4I", record)
        if insn_off <= before or insn_off >= len(env.insns) or not env.insns[insn_off][0]:
            env.refuse(f"Invalid line_info[{number}].insn_off:{insn_off} (prev_offset:{max(before, 0)} "
                       f"prog->len:{len(env.insns)})\n", EINVAL)
        if max(line_off, file_off) >= len(btf.strings):
            env.refuse(f"Invalid line_info[{number}].line_off or .file_name_off\n", EINVAL)
        text = btf.strings[line_off : btf.strings.index(b"\0", line_off)]
        env.linfo_at[insn_off] = text.decode(errors="replace").strip()
        before = insn_off
    if any(info.start not in env.linfo_at for info in env.subprogs):
        env.refuse("missing bpf_line_info for func#0\n", EINVAL)
    env.prog.line_info, env.prog.line_info_rec_size = b"".join(records), 16


# ---- the whole ---------------------------------------------------------------------------------------------------
class CheckAttr:
    """The part of union bpf_attr that bpf_check() reads."""

    __slots__ = ("func_info", "func_info_cnt", "func_info_rec_size", "line_info", "line_info_cnt",
                 "line_info_rec_size", "log_buf", "log_level", "log_size", "prog_btf_fd", "prog_flags")

    def __init__(self, attr: bytes) -> None:
        self.log_level, self.log_size, self.log_buf = struct.unpack_from("<IIQ", attr, 24)
        self.prog_flags = struct.unpack_from("<I", attr, 44)[0]
        (self.prog_btf_fd, self.func_info_rec_size, self.func_info, self.func_info_cnt, self.line_info_rec_size,
         self.line_info, self.line_info_cnt) = struct.unpack_from("<IIQIIQI", attr, 72)


def check_btf_info(env: VerifierEnv, attr: CheckAttr) -> None:
    """Raises EBADF, EINVAL, E2BIG, EFAULT."""
    if attr.func_info_cnt or attr.line_info_cnt:
        env.prog.btf = btf_get_by_fd(attr.prog_btf_fd)
        check_btf_func(env, attr.func_info, attr.func_info_cnt, attr.func_info_rec_size)
        check_btf_line(env, attr.line_info, attr.line_info_cnt, attr.line_info_rec_size)


def bpf_check_tail_call(prog: BpfProg) -> None:
    """Raises EINVAL: an array of programs of another type."""
    for map in prog.used_maps:
        if map.map_type == t.BPF_MAP_TYPE_PROG_ARRAY and not bpf_prog_array_compatible(map, prog):
            raise KernelError(EINVAL)


def bpf_check(prog: BpfProg, attr: CheckAttr) -> None:
    """Verifies a program and makes it ready to run. Raises what is wrong with it; ENOSPC: the log did not fit."""
    log = BpfVerifierLog(attr.log_level, attr.log_buf, attr.log_size)
    env = VerifierEnv(prog, log)
    env.allow_ptr_leaks = capable(CAP_SYS_ADMIN)
    env.strict_alignment = bool(attr.prog_flags & BPF_F_STRICT_ALIGNMENT)
    frames = 1
    try:
        replace_map_fd_with_map_ptr(env)
        check_subprogs(env)
        check_btf_info(env, attr)
        check_cfg(env)
        try:
            do_check(env)
            frames = check_max_stack_depth(env)
        finally:
            print_verification_stats(env)
            prog.kernel.machine.charge(env.insn_processed * NS_PER_VERIFIED_INSN)
        errno = log_error(log)
        if errno:
            raise KernelError(errno)
    except KernelError:
        for map in env.used_maps:
            bpf_map_put(map)
        errno = log_error(log)
        if errno:
            raise KernelError(errno) from None
        raise
    prog.used_maps = env.used_maps
    prog.map_insns = {at: aux.map for at, aux in enumerate(env.aux) if aux.map is not None}
    bpf_prog_calc_tag(prog)
    bpf_prog_translate(env, frames)
    bpf_check_tail_call(prog)
