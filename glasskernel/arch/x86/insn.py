"""How long a 64-bit instruction is, and what it is made of.

Linux: arch/x86/lib/insn.c, lib/x86-opcode-map.txt (5.3). Same: prefixes, REX, VEX, ModRM, SIB, displacement and
    immediate of every instruction that user code may have.
Differs: the opcode tables are a few rules. Gaps: EVEX (the CPU has no AVX-512) is no instruction.
Owns: nothing.
"""
from __future__ import annotations

from glasskernel.lib.errno import ENOEXEC, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

MAX_INSN_SIZE = 15
_LEGACY_PREFIXES = b"\x66\x67\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65"
_INVALID_64 = frozenset(b"\x06\x07\x0e\x16\x17\x1e\x1f\x27\x2f\x37\x3f\x60\x61\x62\x82\x9a\xce\xd4\xd5\xd6\xea")
_NO_MODRM_0F = frozenset(
    [0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, 0x77, 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0x30, 0x38),
     *range(0x80, 0x90), *range(0xC8, 0xD0)])
_IMM8_0F = frozenset((0x0F, 0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6))
_IMM8 = frozenset(
    [0x6A, 0x6B, 0x80, 0x83, 0xA8, 0xC0, 0xC1, 0xC6, 0xCD, 0xEB, *range(0x70, 0x80), *range(0xB0, 0xB8),
     *range(0xE0, 0xE8)])


@slotted
class Insn:
    """struct insn. opcode: its last byte; map: 0 one-byte, 1 0F, 2 0F38, 3 0F3A. modrm: -1: none.

    modrm_at, displacement_at: where these bytes lie; immediate: sign-extended.
    """

    length: int = 0
    prefixes: bytes = b""
    rex: int = 0
    vex: bool = False
    vex_vvvv: int = -1
    map: int = 0
    opcode: int = 0
    modrm: int = -1
    rex_at: int = -1
    modrm_at: int = -1
    displacement_at: int = -1
    displacement: int = 0
    immediate: int = 0

    @property
    def reg(self) -> int:
        return self.modrm >> 3 & 7

    @property
    def rip_relative(self) -> bool:
        return self.modrm >= 0 and self.modrm & 0xC7 == 0x05


@notrace
def _has_modrm(opcode: int) -> bool:
    """Of a one-byte opcode."""
    if opcode < 0x40:
        return opcode & 7 < 4
    return (opcode in (0x63, 0x69, 0x6B, 0xC0, 0xC1, 0xC6, 0xC7, 0xF6, 0xF7, 0xFE, 0xFF)
            or 0x80 <= opcode <= 0x8F or 0xD0 <= opcode <= 0xD3 or 0xD8 <= opcode <= 0xDF)


@notrace
def _immediate_size(insn: Insn) -> int:
    opcode = insn.opcode
    operand16 = b"\x66" in insn.prefixes and not insn.rex & 8
    word = 2 if operand16 else 4
    if insn.map == 3:
        return 1
    if insn.map == 2:
        return 0
    if insn.map == 1:
        return 1 if opcode in _IMM8_0F else 4 if 0x80 <= opcode <= 0x8F else 0
    if opcode < 0x40:
        return {4: 1, 5: word}.get(opcode & 7, 0)
    if opcode in _IMM8:
        return 1
    if opcode in (0x68, 0x69, 0x81, 0xA9, 0xC7):
        return word
    if 0xB8 <= opcode <= 0xBF:
        return 8 if insn.rex & 8 else word
    if 0xA0 <= opcode <= 0xA3:
        return 4 if b"\x67" in insn.prefixes else 8
    if opcode in (0xC2, 0xCA):
        return 2
    if opcode == 0xC8:
        return 3
    if opcode in (0xE8, 0xE9):
        return 4
    if opcode in (0xF6, 0xF7) and insn.reg < 2:
        return 1 if opcode == 0xF6 else word
    return 0


def insn_get_length(code: bytes) -> Insn:
    """The instruction at the beginning of some bytes. Raises ENOEXEC: it is none, or is cut off."""
    insn = Insn()
    try:
        _decode(insn, code)
    except IndexError:
        raise KernelError(ENOEXEC) from None
    if insn.length > min(MAX_INSN_SIZE, len(code)):
        raise KernelError(ENOEXEC)
    return insn


@notrace
def _decode(insn: Insn, code: bytes) -> None:
    at = 0
    while code[at] in _LEGACY_PREFIXES:
        at += 1
    insn.prefixes = code[:at]
    if code[at] & 0xF0 == 0x40:
        insn.rex, insn.rex_at = code[at], at
        at += 1
    if code[at] in (0xC4, 0xC5):
        at = _decode_vex(insn, code, at)
    elif code[at] == 0x0F:
        at += 1
        insn.map = {0x38: 2, 0x3A: 3}.get(code[at], 1)
        at += insn.map > 1
    insn.opcode = code[at]
    at += 1
    if insn.map == 0:
        if insn.opcode in _INVALID_64:
            raise KernelError(ENOEXEC)
        has_modrm = _has_modrm(insn.opcode)
    else:
        has_modrm = insn.map > 1 or insn.opcode not in _NO_MODRM_0F
    if has_modrm:
        insn.modrm, insn.modrm_at = code[at], at
        at += 1
        at = _decode_operand(insn, code, at)
    size = _immediate_size(insn)
    insn.immediate = int.from_bytes(code[at : at + size], "little", signed=True)
    insn.length = at + size


@notrace
def _decode_vex(insn: Insn, code: bytes, at: int) -> int:
    insn.vex = True
    if code[at] == 0xC5:
        insn.map, payload = 1, code[at + 1]
        at += 2
    else:
        insn.map, payload = code[at + 1] & 31, code[at + 2]
        insn.rex = (~code[at + 1] >> 5 & 7) | payload >> 4 & 8
        at += 3
    if not 1 <= insn.map <= 3:
        raise KernelError(ENOEXEC)
    insn.vex_vvvv = ~payload >> 3 & 15
    return at


@notrace
def _decode_operand(insn: Insn, code: bytes, at: int) -> int:
    """SIB and displacement."""
    mode, rm = insn.modrm >> 6, insn.modrm & 7
    if mode == 3:
        return at
    size = (0, 1, 4)[mode]
    if rm == 4:
        if not mode and code[at] & 7 == 5:
            size = 4
        at += 1
    elif rm == 5 and not mode:
        size = 4
    if size:
        insn.displacement_at = at
        insn.displacement = int.from_bytes(code[at : at + size], "little", signed=True)
    return at + size
