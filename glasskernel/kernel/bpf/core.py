"""Running programs: a verified program becomes one Python function per subprogram.

Linux: kernel/bpf/core.c (___bpf_prog_run, bpf_prog_calc_tag), and what verifier.c rewrites (5.3). Same: what each
    instruction computes, division by zero (0; a remainder: the dividend), tags, tail calls (32 in a row at most).
Differs: translated, not interpreted: basic blocks become `if pc == N` inside a loop. How memory is reached was decided
    by the verifier for each instruction. A 32-bit remainder by zero truncates, as since Linux 5.11.
Invariants: registers are Python ints of 64 bits, unsigned. The verifier has seen every instruction that is translated.
"""
from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import (
    BPF_ABS,
    BPF_ADD,
    BPF_ALU64,
    BPF_AND,
    BPF_ARSH,
    BPF_CALL,
    BPF_DIV,
    BPF_END,
    BPF_EXIT,
    BPF_FUNC,
    BPF_IMM,
    BPF_JA,
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    BPF_JLE,
    BPF_JLT,
    BPF_JMP,
    BPF_JMP32,
    BPF_JNE,
    BPF_JSET,
    BPF_JSGE,
    BPF_JSGT,
    BPF_JSLE,
    BPF_JSLT,
    BPF_LD,
    BPF_LD_IMM64,
    BPF_LDX,
    BPF_LSH,
    BPF_MOD,
    BPF_MOV,
    BPF_MUL,
    BPF_NEG,
    BPF_OR,
    BPF_PSEUDO_CALL,
    BPF_RSH,
    BPF_ST,
    BPF_STX,
    BPF_SUB,
    BPF_TO_BE,
    BPF_X,
    BPF_XADD,
    BPF_XOR,
    SIZES,
    encode,
)
from glasskernel.kernel.bpf.memory import STACK_BASE, forget_pages, read_kernel, write_kernel
from glasskernel.kernel.bpf.objects import bpf_state
from glasskernel.kernel.bpf.types import BPF_READ, BPF_WRITE, MAX_BPF_STACK, BpfRun
from glasskernel.kernel.bpf.verifier_state import PACKET_POINTERS, SOCKET_POINTERS
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.mm.vmalloc import vfree, vmalloc

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.kernel.bpf.types import BpfFuncProto, BpfMap, BpfProg, Insn
    from glasskernel.kernel.bpf.verifier_env import VerifierEnv

NS_PER_INSN = 3                                    # about what the interpreter of Linux needs
MAX_TAIL_CALL_CNT = 32
CTX_ADDRESS = 0xFFFF_FE00_0001_0000                # where a program believes its context to be
OBJECT_ADDRESS = 0xFFFF_FE00_0002_0000             # ... and sockets
_M, _M32, _S, _S32 = "0xffffffffffffffff", "0xffffffff", "0x8000000000000000", "0x80000000"
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SIMPLE = {BPF_ADD: "+", BPF_SUB: "-", BPF_MUL: "*", BPF_OR: "|", BPF_AND: "&", BPF_XOR: "^"}
_COMPARE = {BPF_JEQ: "==", BPF_JNE: "!=", BPF_JGT: ">", BPF_JGE: ">=", BPF_JLT: "<", BPF_JLE: "<=", BPF_JSGT: ">",
            BPF_JSGE: ">=", BPF_JSLT: "<", BPF_JSLE: "<="}
_SIGNED = (BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE)
_FEW_BLOCKS = 4


# ---- what translated programs call -------------------------------------------------------------------------------
@notrace
def load_kernel(run: BpfRun, address: int, size: int) -> int:
    return int.from_bytes(read_kernel(run.kernel, address, size), "little")


@notrace
def store_kernel(run: BpfRun, address: int, size: int, value: int) -> None:
    write_kernel(run.kernel, address, value.to_bytes(size, "little"))


@notrace
def load_any(run: BpfRun, address: int, size: int) -> int:
    return int.from_bytes(run.read(address, size), "little")


@notrace
def store_any(run: BpfRun, address: int, size: int, value: int) -> None:
    run.write(address, value.to_bytes(size, "little"))


@notrace
def swap_bytes(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


@notrace
def remember_object(run: BpfRun, thing: Any) -> int:
    """The address of an object that a helper answers; 0 for None."""
    if thing is None:
        return 0
    address = OBJECT_ADDRESS + len(run.objects) * 64
    run.objects[address] = thing
    return address


@notrace
def tail_call_target(run: BpfRun, array: BpfMap, index: int) -> Callable[[BpfRun], int] | None:
    """BPF_JMP | BPF_TAIL_CALL: the program that takes over; None: the caller goes on."""
    index &= 0xFFFF_FFFF
    if index >= array.max_entries or run.tail_calls > MAX_TAIL_CALL_CNT:
        return None
    run.tail_calls += 1
    prog: BpfProg | None = array.ptrs[index]       # type: ignore[attr-defined]
    if prog is None:
        return None
    run.prog = prog
    if len(run.stack) < prog.stack_size:
        run.stack = bytearray(prog.stack_size)
    return prog.bpf_func


# ---- one instruction ---------------------------------------------------------------------------------------------
class Translator:
    """Makes Python text of instructions. names: what the text refers to."""

    __slots__ = ("env", "lines", "names", "prog", "starts")

    def __init__(self, env: VerifierEnv) -> None:
        self.env = env
        self.prog = env.prog
        self.starts = [info.start for info in env.subprogs]
        self.lines: list[str] = []
        machine = env.prog.kernel.machine
        self.names: dict[str, Any] = {
            "load": load_kernel, "store": store_kernel, "load_any": load_any, "store_any": store_any,
            "swap": swap_bytes, "obj": remember_object, "tail": tail_call_target, "charge": machine.charge,
            "maps": bpf_state(env.prog.kernel).map_at, "packet": env.prog.prog_type.verifier_ops.packet,
            "ld_abs": env.prog.prog_type.verifier_ops.gen_ld_abs,
        }
        for size, code in _CODES.items():
            self.names[f"get{size}"] = struct.Struct("<" + code).unpack_from
            self.names[f"put{size}"] = struct.Struct("<" + code).pack_into

    @notrace
    def name(self, prefix: str, thing: Any) -> str:
        text = f"{prefix}{len(self.names)}"
        self.names[text] = thing
        return text

    @notrace
    def alu(self, insn: Insn) -> str:
        code, dst, src, _off, imm = insn
        wide = code & 7 == BPF_ALU64
        mask, sign, bits = (_M, _S, 63) if wide else (_M32, _S32, 31)
        operation = code & 0xF0
        a = f"r{dst}"
        b = f"r{src}" if code & BPF_X else f"{imm & (U64_MAX if wide else 0xFFFF_FFFF):#x}"
        low_a, low_b = (a, b) if wide else (f"({a} & {_M32})", f"({b} & {_M32})" if code & BPF_X else b)
        if operation == BPF_END:
            part = f"{a} & {(1 << imm) - 1:#x}"
            return f"{a} = swap({part}, {imm // 8})" if code & BPF_TO_BE else f"{a} = {part}"
        if operation == BPF_MOV:
            return f"{a} = {low_b}"
        if operation == BPF_NEG:
            return f"{a} = -{a} & {mask}"
        if operation in _SIMPLE:
            return f"{a} = ({a} {_SIMPLE[operation]} {b}) & {mask}"
        if operation == BPF_DIV:
            return f"{a} = {low_a} // {low_b} if {low_b} else 0"
        if operation == BPF_MOD:
            return f"{a} = {low_a} % {low_b} if {low_b} else {low_a}"
        count = f"({b} & {bits})"
        if operation == BPF_LSH:
            return f"{a} = {a} << {count} & {mask}"
        if operation == BPF_RSH:
            return f"{a} = {low_a} >> {count}"
        assert operation == BPF_ARSH
        return f"{a} = (({low_a} ^ {sign}) - {sign} >> {count}) & {mask}"

    @notrace
    def address(self, regno: int, off: int, base: str = "") -> str:
        """register + off, or how far that is from a base."""
        text = f"r{regno} {off:+d}" if off else f"r{regno}"
        return f"{text} - {base}" if base else text

    @notrace
    def load(self, at: int) -> str:
        code, dst, src, off, _imm = self.prog.insns[at]
        size = SIZES[code & 0x18]
        kind = self.env.aux[at].ptr_type
        if kind == t.PTR_TO_STACK:
            return f"r{dst} = get{size}(stk, {self.address(src, off, hex(STACK_BASE))})[0]"
        if kind == t.PTR_TO_CTX or kind in SOCKET_POINTERS:
            return self.field(at, kind, size)
        if kind in PACKET_POINTERS:
            return f"r{dst} = get{size}(run.pkt, {self.address(src, off, 'run.pkt_base')})[0]"
        function = "load" if kind == t.PTR_TO_MAP_VALUE else "load_any"
        return f"r{dst} = {function}(run, {self.address(src, off)}, {size})"

    @notrace
    def field(self, at: int, kind: int, size: int) -> str:
        """convert_ctx_accesses(): a field of the context or of a socket, or a part of one."""
        _code, dst, src, off, _imm = self.prog.insns[at]
        ops = self.prog.prog_type.verifier_ops
        field_size = self.env.aux[at].ctx_field_size
        shift = ""
        if field_size > size:
            inside = off & field_size - 1
            shift = f" >> {inside * 8} & {(1 << size * 8) - 1:#x}"
            off, size = off - inside, field_size
        if kind == t.PTR_TO_CTX:
            assert ops.convert_ctx_access is not None
            function = self.name("field", ops.convert_ctx_access(BPF_READ, off, size, self.prog))
            return f"r{dst} = {function}(run){shift}"
        assert ops.convert_sock_access is not None
        function = self.name("field", ops.convert_sock_access(kind, off, size))
        return f"r{dst} = {function}(run.objects[r{src}]){shift}"

    @notrace
    def store(self, at: int) -> list[str]:
        code, dst, src, off, imm = self.prog.insns[at]
        size = SIZES[code & 0x18]
        kind = self.env.aux[at].ptr_type
        mask = (1 << size * 8) - 1
        value = f"{imm & mask:#x}" if code & 7 == BPF_ST else f"r{src}" if size == 8 else f"r{src} & {mask:#x}"
        add = code & 7 == BPF_STX and code & 0xE0 == BPF_XADD
        if kind == t.PTR_TO_CTX:
            ops = self.prog.prog_type.verifier_ops
            assert ops.convert_ctx_access is not None
            return [f"{self.name('field', ops.convert_ctx_access(BPF_WRITE, off, size, self.prog))}(run, {value})"]
        if kind == t.PTR_TO_STACK or kind in PACKET_POINTERS:
            memory, base = ("stk", hex(STACK_BASE)) if kind == t.PTR_TO_STACK else ("run.pkt", "run.pkt_base")
            where = self.address(dst, off, base)
            if add:
                value = f"get{size}({memory}, {where})[0] + r{src} & {mask:#x}"
            return [f"put{size}({memory}, {where}, {value})"]
        load, store = ("load", "store") if kind == t.PTR_TO_MAP_VALUE else ("load_any", "store_any")
        where = self.address(dst, off)
        if add:
            value = f"{load}(run, {where}, {size}) + r{src} & {mask:#x}"
        return [f"{store}(run, {where}, {size}, {value})"]

    @notrace
    def condition(self, insn: Insn) -> str:
        code, dst, src, _off, imm = insn
        small = code & 7 == BPF_JMP32
        operation = code & 0xF0
        a = f"(r{dst} & {_M32})" if small else f"r{dst}"
        number = imm & (0xFFFF_FFFF if small else U64_MAX)
        b = (f"(r{src} & {_M32})" if small else f"r{src}") if code & BPF_X else hex(number)
        if operation == BPF_JSET:
            return f"{a} & {b}"
        if operation in _SIGNED:
            sign = _S32 if small else _S
            b = f"({b} ^ {sign})" if code & BPF_X else hex(number ^ int(sign, 16))
            a = f"({a} ^ {sign})"
        return f"{a} {_COMPARE[operation]} {b}"

    @notrace
    def call(self, at: int) -> list[str]:
        _code, _dst, src, _off, imm = self.prog.insns[at]
        if src == BPF_PSEUDO_CALL:
            return [f"r0 = bpf_func_{at + imm + 1}(run, r1, r2, r3, r4, r5, r10 + {MAX_BPF_STACK})"]
        if imm == BPF_FUNC["tail_call"]:
            return ["t = tail(run, maps[r2], r3)", f"if t is not None: charge(n * {NS_PER_INSN}); return t(run)"]
        proto = self.env.aux[at].proto
        assert proto is not None
        text = f"{self.name('helper', proto.func)}({', '.join(['run', *self.arguments(proto)])})"
        if proto.ret_type == t.RET_VOID:
            lines = [text]
        elif proto.ret_type in (t.RET_PTR_TO_SOCKET_OR_NULL, t.RET_PTR_TO_SOCK_COMMON_OR_NULL,
                                t.RET_PTR_TO_TCP_SOCK_OR_NULL):
            lines = [f"r0 = obj(run, {text})"]
        else:
            lines = [f"r0 = {text} & {_M}"]
        if proto.changes_pkt_data and self.names["packet"] is not None:
            lines.append("run.pkt, run.pkt_base = packet(run.ctx)")
        return lines

    @notrace
    def arguments(self, proto: BpfFuncProto) -> list[str]:
        """Each register as BpfFuncProto says."""
        texts = []
        for number, kind in enumerate(proto.args, 1):
            reg = f"r{number}"
            if kind == t.ARG_PTR_TO_CTX:
                reg = "run.ctx"
            elif kind == t.ARG_CONST_MAP_PTR:
                reg = f"maps[{reg}]"
            elif kind == t.ARG_PTR_TO_MAP_KEY:
                reg = f"run.read({reg}, maps[r1].key_size)"
            elif kind == t.ARG_PTR_TO_MAP_VALUE:
                reg = f"run.read({reg}, maps[r1].value_size)"
            elif kind == t.ARG_PTR_TO_MAP_VALUE_OR_NULL:
                reg = f"(run.read({reg}, maps[r1].value_size) if {reg} else None)"
            elif kind == t.ARG_PTR_TO_MEM:
                reg = f"run.read({reg}, r{number + 1})"
            elif kind == t.ARG_PTR_TO_MEM_OR_NULL:
                reg = f"(run.read({reg}, r{number + 1}) if {reg} else None)"
            elif kind in (t.ARG_PTR_TO_SOCK_COMMON, t.ARG_PTR_TO_SOCKET):
                reg = f"run.object_of({reg})"
            texts.append(reg)
        return texts

    # ---- blocks ----------------------------------------------------------------------------------------------
    @notrace
    def plain(self, at: int) -> list[str]:
        """An instruction that goes on to the next one."""
        insn = self.prog.insns[at]
        code, dst, src, _off, imm = insn
        kind = code & 7
        if kind == BPF_LDX:
            return [self.load(at)]
        if kind in (BPF_ST, BPF_STX):
            return self.store(at)
        if kind == BPF_LD:
            if code & 0xE0 == BPF_IMM:
                aux = self.env.aux[at]
                value = imm & 0xFFFF_FFFF | (self.prog.insns[at + 1][4] & 0xFFFF_FFFF) << 32
                if aux.map is not None:
                    value = aux.map.kaddr
                    if aux.map_off >= 0:
                        assert aux.map.ops.map_direct_value_addr is not None
                        value = aux.map.ops.map_direct_value_addr(aux.map, aux.map_off) + aux.map_off
                return [f"r{dst} = {value:#x}"]
            where = str(imm) if code & 0xE0 == BPF_ABS else f"(r{src} + {imm} + {_S32} & {_M32}) - {_S32}"
            return [f"r0 = ld_abs(run, {where}, {SIZES[code & 0x18]})",
                    f"if r0 is None: charge(n * {NS_PER_INSN}); return 0"]
        if kind in (BPF_JMP, BPF_JMP32):
            return self.call(at)
        return [self.alu(insn)]

    @notrace
    def function(self, start: int, end: int) -> None:
        """One subprogram."""
        insns, aux = self.prog.insns, self.env.aux
        leaders = {start}
        for at in range(start, end):
            code, _dst, _src, off, _imm = insns[at]
            if aux[at].seen and code & 7 in (BPF_JMP, BPF_JMP32) and code & 0xF0 not in (BPF_CALL, BPF_EXIT):
                leaders.update((at + 1, at + off + 1))
        blocks = [at for at in sorted(leaders) if at < end and aux[at].seen]
        number = {at: index for index, at in enumerate(blocks)}
        bodies = []
        for index, first in enumerate(blocks):
            following = blocks[index + 1] if index + 1 < len(blocks) else end
            bodies.append(self.block(first, min(following, end), number))
        if start:
            self.lines.append(f"def bpf_func_{start}(run, r1, r2, r3, r4, r5, r10):")
            self.lines.append("    r0 = r6 = r7 = r8 = r9 = n = 0")
        else:
            self.lines += ["def bpf_prog(run):", "    r0 = r2 = r3 = r4 = r5 = r6 = r7 = r8 = r9 = n = 0",
                           f"    r1 = {CTX_ADDRESS:#x}", f"    r10 = {STACK_BASE + MAX_BPF_STACK:#x}"]
            if self.names["packet"] is not None:
                self.lines.append("    run.pkt, run.pkt_base = packet(run.ctx)")
        self.lines.append("    stk = run.stack")
        if len(blocks) == 1 and not any("pc = " in line for line in bodies[0]):
            self.lines += ["    " + line for line in bodies[0]]
            return
        self.lines += ["    pc = 0", "    while True:"]
        self.group(bodies, 0, len(bodies), "        ")

    @notrace
    def group(self, bodies: list[list[str]], low: int, high: int, indent: str) -> None:
        """The blocks low to high - 1, found in few steps, in their order: falling through is free."""
        if high - low <= _FEW_BLOCKS:
            for index in range(low, high):
                self.lines.append(f"{indent}if pc == {index}:")
                self.lines += [f"{indent}    {line}" for line in bodies[index]]
            return
        middle = (low + high) // 2
        self.lines.append(f"{indent}if pc < {middle}:")
        self.group(bodies, low, middle, indent + "    ")
        self.lines.append(f"{indent}if pc >= {middle}:")
        self.group(bodies, middle, high, indent + "    ")

    @notrace
    def block(self, first: int, end: int, number: dict[int, int]) -> list[str]:
        insns = self.prog.insns
        lines: list[str] = []
        at, count = first, 0
        while True:
            code, _dst, _src, off, _imm = insn = insns[at]
            count += 1
            jump = code & 7 in (BPF_JMP, BPF_JMP32) and code & 0xF0 != BPF_CALL
            if jump and code & 0xF0 == BPF_EXIT:
                tail = [f"charge(n * {NS_PER_INSN})", "return r0"]
            elif jump:
                target = number.get(at + off + 1)
                onward = number.get(at + 1)
                if code & 0xF0 == BPF_JA or onward is None:
                    tail = self.go(target, number[first])
                elif target is None:
                    tail = self.go(onward, number[first])
                else:
                    tail = [f"pc = {target} if {self.condition(insn)} else {onward}"]
                    if target <= number[first]:
                        tail.append(f"if pc == {target}: continue")
            else:
                lines += self.plain(at)
                at += 2 if code == BPF_LD_IMM64 else 1
                if at < end:
                    continue
                tail = self.go(number.get(at), number[first])
            return [f"n += {count}", *lines, *tail]

    @notrace
    def go(self, target: int | None, here: int) -> list[str]:
        assert target is not None
        return [f"pc = {target}", *(["continue"] if target <= here else [])]


@notrace
def bpf_prog_translate(env: VerifierEnv, nr_frames: int) -> None:
    """Linux: bpf_prog_select_runtime(). Sets prog.bpf_func."""
    prog = env.prog
    translator = Translator(env)
    for start, end in zip(translator.starts, [*translator.starts[1:], len(prog.insns)], strict=True):
        if env.aux[start].seen:
            translator.function(start, end)
    exec(compile("\n".join(translator.lines), f"<bpf {prog.tag.hex()}>", "exec"), translator.names)
    prog.bpf_func = translator.names["bpf_prog"]
    prog.stack_size = MAX_BPF_STACK * nr_frames


# ---- tags --------------------------------------------------------------------------------------------------------
def bpf_prog_calc_tag(prog: BpfProg) -> bytes:
    """SHA-1 of the instructions as they were loaded, without the numbers of maps' descriptors. Raises ENOMEM."""
    plain, second = [], False
    for code, dst, src, off, imm in prog.insns:
        hide = second or (code == BPF_LD_IMM64 and src in (1, 2))
        plain.append((code, dst, src, off, 0 if hide else imm))
        second = code == BPF_LD_IMM64 and src in (1, 2)
    data = encode(plain)
    raw = vmalloc(prog.kernel, len(data) + 9 + 63 & ~63)
    write_kernel(prog.kernel, raw, data)
    prog.tag = hashlib.sha1(read_kernel(prog.kernel, raw, len(data)), usedforsecurity=False).digest()[:8]
    forget_pages(prog.kernel, raw)
    vfree(prog.kernel, raw)
    return prog.tag
