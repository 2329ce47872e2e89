"""Classic BPF: small programs that look at data and answer a number. For packet filters and for seccomp.

Linux: include/uapi/linux/bpf_common.h, filter.h, net/core/filter.c (5.3). Linux translates them to eBPF; here they are
interpreted. What a load reads is the caller's: a packet, or struct seccomp_data.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from glasskernel.lib.types import notrace

Instruction = tuple[int, int, int, int]            # code, jt, jf, k
Load = Callable[[int, int], int | None]            # (bytes, offset) -> value; None: outside, the program ends with 0

LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
BPF_MEMWORDS, BPF_MAXINSNS = 16, 4096
LD_W_ABS, LD_H_ABS, LD_B_ABS, LD_W_IND, LD_H_IND, LD_B_IND = 0x20, 0x28, 0x30, 0x40, 0x48, 0x50
LD_W_LEN, LDX_W_LEN, LD_IMM, LDX_IMM, LD_MEM, LDX_MEM, LDX_B_MSH = 0x80, 0x81, 0x00, 0x01, 0x60, 0x61, 0xB1
TAX, TXA, RET_K, RET_A, JA = 0x07, 0x87, 0x06, 0x16, 0x05
STORE_A, STORE_X = 0x02, 0x03
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
COMMON_CODES = frozenset((                         # what every user of these programs allows
    LD_W_ABS, LD_W_LEN, LDX_W_LEN, LD_IMM, LDX_IMM, LD_MEM, LDX_MEM, STORE_A, STORE_X, TAX, TXA, RET_K, RET_A, JA,
    *(ALU | operation | source for operation in range(0, 0x80, 0x10) for source in (0, 8)), 0x84, 0xA4, 0xAC,
    *(JMP | operation | source for operation in (0x10, 0x20, 0x30, 0x40) for source in (0, 8)),
))
PACKET_CODES = COMMON_CODES | {LD_H_ABS, LD_B_ABS, LD_W_IND, LD_H_IND, LD_B_IND, LDX_B_MSH, 0x94, 0x9C}


@notrace
def program_is_safe(program: Sequence[Instruction], allowed: frozenset[int]) -> bool:
    """False for a program that could do harm: unknown code, jumps behind the end, division by 0, no final answer."""
    length = len(program)
    for at, (code, jt, jf, k) in enumerate(program):
        if (code not in allowed
                or (code in (LD_MEM, LDX_MEM, STORE_A, STORE_X) and k >= BPF_MEMWORDS)
                or (code in (0x34, 0x94) and not k) or (code in (0x64, 0x74) and k >= 32)
                or (code == JA and k >= length - at - 1)
                or (code & 7 == JMP and code != JA and (at + jt + 1 >= length or at + jf + 1 >= length))):
            return False
    return bool(program) and program[-1][0] in (RET_K, RET_A)


@notrace
def run_filter(program: Sequence[Instruction], load: Load, data_size: int) -> int:
    """BPF_PROG_RUN: the program's answer."""
    a = x = at = 0
    memory = [0] * BPF_MEMWORDS
    value: int | None
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind = code & 7
        if kind == JMP:
            if code == JA:
                at += k
                continue
            operand = x if code & 8 else k
            operation = code & 0xF0
            taken = (a == operand if operation == 0x10 else a > operand if operation == 0x20
                     else a >= operand if operation == 0x30 else bool(a & operand))
            at += jt if taken else jf
        elif kind == RET:
            return a if code == RET_A else k
        elif kind == ALU:
            operand = x if code & 8 else k
            operation = code & 0xF0
            if operation in (0x30, 0x90) and not operand:
                return 0                           # a division by zero ends the program
            a = _alu(operation, a, operand) & 0xFFFF_FFFF
        elif kind == LD:
            mode = code & 0xE0
            if mode in (0x20, 0x40):               # ABS, IND
                value = load(_SIZES[code & 0x18], k if mode == 0x20 else k + x & 0xFFFF_FFFF)
                if value is None:
                    return 0
                a = value
            else:
                a = k if mode == 0 else memory[k] if mode == 0x60 else data_size
        elif kind == LDX:
            if code == LDX_B_MSH:
                value = load(1, k)
                if value is None:
                    return 0
                x = (value & 0xF) << 2
            else:
                mode = code & 0xE0
                x = k if mode == 0 else memory[k] if mode == 0x60 else data_size
        elif kind in (ST, STX):
            memory[k] = a if kind == ST else x
        elif code == TAX:
            x = a
        else:
            a = x


@notrace
def _alu(operation: int, a: int, operand: int) -> int:
    if operation == 0x00:
        return a + operand
    if operation == 0x10:
        return a - operand
    if operation == 0x20:
        return a * operand
    if operation == 0x30:
        return a // operand
    if operation == 0x40:
        return a | operand
    if operation == 0x50:
        return a & operand
    if operation == 0x60:
        return a << (operand & 31)
    if operation == 0x70:
        return a >> (operand & 31)
    if operation == 0x80:
        return -a
    return a % operand if operation == 0x90 else a ^ operand
