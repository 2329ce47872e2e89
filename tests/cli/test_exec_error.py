"""The words behind `Exec format error`."""

import struct
from pathlib import Path

import pytest

from glasskernel.cli.exec_error import describe_exec_failure as describe


def header(bits=64, machine=62, kind=2, big=False, phoff=64, phnum=1):
    ident = b"\x7fELF" + bytes([bits // 32, 2 if big else 1, 1]) + bytes(9)
    order = ">" if big else "<"
    rest = struct.pack(order + "2HI3QI6H", kind, machine, 1, 0, phoff, 0, 0, 64, 56, phnum, 64, 0, 0)
    return ident + rest


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"", "empty"),
        (b"hello", "neither an ELF program nor a #! script"),
        (b"MZ\x90", "Windows"),
        (b"#!/nope\n", "interpreter"),
        (b"\x7fELF\2\1\1", "truncated"),
        (header(bits=32, machine=40), "32-bit ARM ELF; this kernel runs x86-64"),
        (header(bits=32, machine=3), "32-bit i386 ELF; this kernel runs x86-64"),
        (header(machine=183), "64-bit AArch64 ELF; this kernel runs x86-64"),
        (header(machine=21, big=True), "64-bit PowerPC64 ELF; this kernel runs x86-64"),
        (header(machine=4711), "machine-4711"),
        (header(bits=32), "32-bit x86-64 ELF"),
        (header(kind=1), "not linked"),
        (header(kind=4), "core dump"),
        (header(phoff=1 << 40), "program headers"),
        (header(phnum=0), "program headers"),
    ],
)
def test_description(head, told):
    assert told in describe(head, len(head))


def test_every_prefix_of_a_real_program_has_words():
    program = Path("/bin/true").read_bytes()
    for size in range(120):
        assert describe(program[:size], size)
