"""Why a file cannot be executed, in words: what follows `Exec format error`."""

from __future__ import annotations

import struct
from typing import Final

EM_X86_64: Final = 62
MACHINES: Final = {
    2: "SPARC", 3: "i386", 4: "m68k", 7: "i860", 8: "MIPS", 15: "PA-RISC", 20: "PowerPC", 21: "PowerPC64",
    22: "S390", 40: "ARM", 42: "SuperH", 43: "SPARC V9", 50: "IA-64", EM_X86_64: "x86-64", 183: "AArch64",
    243: "RISC-V", 247: "BPF", 258: "LoongArch",
}  # fmt: skip
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
EHDR_SIZE, PHDR_SIZE = 64, 56
OTHERS: Final = (
    (b"MZ", "a Windows or DOS program"),
    (b"\xca\xfe\xba\xbe", "a Mach-O or Java class file"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"\xce\xfa\xed\xfe", "a macOS program"),
    (b"\0asm", "a WebAssembly module"),
    (b"!<arch>\n", "a static library"),
    (b"\x1f\x8b", "gzip data"),
)


def describe_exec_failure(head: bytes, size: int) -> str:
    """What the kernel had against a file. head: its first bytes (64, if it has them); size: its length."""
    if size == 0:
        return "the file is empty"
    if head.startswith(b"#!"):
        return "a script whose interpreter cannot be run"
    if not head.startswith(b"\x7fELF"):
        for magic, kind in OTHERS:
            if head.startswith(magic):
                return kind
        return "neither an ELF program nor a #! script"
    if len(head) < 20:
        return "truncated ELF header"
    bits = {1: "32-bit ", 2: "64-bit "}.get(head[4], "")
    big = head[5] == 2
    kind, machine = struct.unpack_from(">HH" if big else "<HH", head, 16)
    if head[4] != 2 or big or machine != EM_X86_64:
        name = MACHINES.get(machine, f"machine-{machine}")
        order = "big-endian " if big and machine in (8, 40, 183) else ""
        return f"{bits}{order}{name} ELF; this kernel runs x86-64"
    if kind == ET_REL:
        return "an object file that was not linked"
    if kind == ET_CORE:
        return "a core dump"
    if kind not in (ET_EXEC, ET_DYN) or len(head) < EHDR_SIZE:
        return "corrupt ELF header"
    (phoff,) = struct.unpack_from("<Q", head, 32)
    entry_size, count = struct.unpack_from("<HH", head, 54)
    if entry_size != PHDR_SIZE or count == 0 or phoff + count * PHDR_SIZE > size:
        return "corrupt or truncated ELF program headers"
    return "corrupt ELF, or one whose interpreter cannot be run"
