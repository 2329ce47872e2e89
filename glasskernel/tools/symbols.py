"""Function symbols of ELF files: what user addresses are called.

Reads files for lookers-on: nothing of the guest changes, no page is faulted in, no time passes. So a file is read where
it lies: on the host, or, for a file system in memory, in the frames that hold it.
"""
from __future__ import annotations

import io
import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from glasskernel.fs.hostfs.node import HostNode, host_file
from glasskernel.lib.errno import KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode

STB_WEAK, STT_FUNC, STT_GNU_IFUNC = 2, 2, 10
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(slots=True, frozen=True, eq=False)
class Symbol:
    """value: as in the file (an address, or an offset from the load address). size: 0 if the file does not say.

    resolver: the function of a GNU indirect function, which answers where the real one is.
    """

    name: str
    value: int
    size: int
    file: str
    resolver: bool = False


@dataclass(slots=True, eq=False)
class SymbolTable:
    """The functions of one ELF file, by address. segments: (file offset, size, address) of its executable parts."""

    path: str
    functions: list[Symbol] = field(default_factory=list)
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    build_id: bytes = b""
    _values: list[int] = field(default_factory=list)

    def bias(self, start: int, offset: int) -> int | None:
        """What to add to a value when file offset `offset` is mapped at address `start`; None: that is no code."""
        for at, size, address in self.segments:
            if at & ~0xFFF <= offset < at + size:
                return start - (address - at + offset)
        return None

    def find(self, value: int) -> Symbol | None:
        """The function that covers a value."""
        if not self._values:
            self._values = [symbol.value for symbol in self.functions]
        i = bisect_right(self._values, value) - 1
        if i < 0:
            return None
        symbol = self.functions[i]
        return symbol if value < symbol.value + max(symbol.size, 1) else None


def read_inode(inode: Inode) -> bytes:
    """The bytes of a regular file, as far as they can be seen without asking the guest's kernel to read them."""
    if isinstance(inode.i_private, HostNode):
        data = bytearray(inode.i_size)
        try:
            done = host_file(inode).read_into(memoryview(data), 0)
        except (OSError, KernelError):
            return b""
        return bytes(data[:done])
    ram = inode.i_sb.kernel.machine.ram
    data = bytearray(inode.i_size + 4095 & ~4095)
    for index, pfn in inode.i_mapping.pages.items():
        if index << 12 < len(data):
            data[index << 12 : (index + 1) << 12] = ram[pfn << 12 : (pfn + 1) << 12]
    return bytes(data[: inode.i_size])


def _plainness(name: str, info: int) -> tuple[bool, int, bool]:
    """Of several names for one function the one that programmers use: free, not __libc_free; strrchr, not rindex."""
    return info & 15 != STT_GNU_IFUNC, len(name) - len(name.lstrip("_")), info >> 4 == STB_WEAK


def read_symbols(image: bytes, path: str) -> SymbolTable:
    """The table of one file; an empty one for what is no sound ELF file."""
    table = SymbolTable(path)
    try:
        elf = ELFFile(io.BytesIO(image))
        table.segments = [
            (s["p_offset"], s["p_filesz"], s["p_vaddr"]) for s in elf.iter_segments("PT_LOAD") if s["p_flags"] & 1]
        found: dict[int, Symbol] = {}
        infos: dict[int, int] = {}
        for name in (".symtab", ".dynsym"):
            section = elf.get_section_by_name(name)
            if section is None or section["sh_type"] == "SHT_NOBITS":
                continue
            strings = elf.get_section(section["sh_link"]).data()
            for at, info, _other, index, value, size in _SYMBOL.iter_unpack(section.data()):
                kind = info & 15
                if kind in (STT_FUNC, STT_GNU_IFUNC) and index:
                    text = strings[at : strings.index(b"\0", at)].decode(errors="replace")
                    symbol = Symbol(text, value, size, path, kind == STT_GNU_IFUNC)
                    if value not in found or _plainness(text, info) < _plainness(found[value].name, infos[value]):
                        found[value] = symbol
                        infos[value] = info
        table.functions = [found[value] for value in sorted(found)]
        note = elf.get_section_by_name(".note.gnu.build-id")
        if note is not None:
            table.build_id = note.data()[16:]
    except (ELFError, ValueError, struct.error, KeyError, AttributeError):
        return SymbolTable(path)
    return table
