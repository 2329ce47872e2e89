"""An ELF64 shared object made of bytes: what the linker makes of vdso.lds.S for Linux.

Linux: arch/x86/entry/vdso/vdso.lds.S, vdso-note.S. Same segments (one R X PT_LOAD at 0, dynamic, note,
    eh_frame_hdr), both hash tables, version LINUX_2.6.
Owns: the layout of the image. Nothing here runs after import.
Invariants: file offset = address, for every byte: the image is mapped as it is.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

PAGE_SIZE: Final = 4096
TEXT_OFFSET: Final = 0x600
SONAME: Final = "linux-vdso.so.1"
VERSION: Final = "LINUX_2.6"
LINUX_VERSION_CODE: Final = 5 << 16 | 3 << 8

EHDR_SIZE, PHDR_SIZE, SHDR_SIZE, SYM_SIZE = 64, 56, 64, 24
SHT_PROGBITS, SHT_STRTAB, SHT_HASH, SHT_DYNAMIC, SHT_NOTE, SHT_DYNSYM = 1, 3, 5, 6, 7, 11
SHT_GNU_HASH, SHT_GNU_VERDEF, SHT_GNU_VERSYM = 0x6FFF_FFF6, 0x6FFF_FFFD, 0x6FFF_FFFF
SHF_ALLOC, SHF_EXECINSTR = 2, 4
PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_GNU_EH_FRAME = 1, 2, 4, 0x6474_E550
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME = 4, 5, 6, 10, 11, 14
DT_GNU_HASH, DT_VERSYM, DT_VERDEF, DT_VERDEFNUM = 0x6FFF_FEF5, 0x6FFF_FFF0, 0x6FFF_FFFC, 0x6FFF_FFFD
STB_GLOBAL, STB_WEAK, STT_OBJECT, STT_FUNC, SHN_ABS = 1, 2, 1, 2, 0xFFF1


@slotted
class Section:
    name: str
    kind: int
    flags: int
    align: int
    data: bytes
    link: str = ""
    info: int = 0
    entsize: int = 0
    offset: int = 0


class Strings:
    """A string table under construction."""

    def __init__(self) -> None:
        self.data = b"\0"

    def add(self, text: str) -> int:
        at = len(self.data)
        self.data += text.encode() + b"\0"
        return at


@notrace
def elf_hash(name: str) -> int:
    """The hash of DT_HASH and of version names (System V ABI)."""
    h = 0
    for c in name.encode():
        h = (h << 4) + c
        high = h & 0xF000_0000
        h = (h ^ high >> 24) & ~high
    return h


@notrace
def gnu_hash(name: str) -> int:
    h = 5381
    for c in name.encode():
        h = (h * 33 + c) & 0xFFFF_FFFF
    return h


@notrace
def hash_table(names: list[str]) -> bytes:
    """DT_HASH: one chain for each bucket; symbol 0 ends it. names[i] is symbol i + 1."""
    nbucket = 3
    buckets = [0] * nbucket
    chains = [0] * (len(names) + 1)
    for index, name in enumerate(names, 1):
        b = elf_hash(name) % nbucket
        chains[index], buckets[b] = buckets[b], index
    return struct.pack(f"<{2 + nbucket + len(chains)}I", nbucket, len(chains), *buckets, *chains)


@notrace
def gnu_hash_table(names: list[str]) -> bytes:
    """DT_GNU_HASH with a single bucket, so that the symbols need no order."""
    shift = 6
    bloom = 0
    hashes = [gnu_hash(name) for name in names]
    for h in hashes:
        bloom |= 1 << h % 64 | 1 << (h >> shift) % 64
    chain = [h & ~1 for h in hashes]
    chain[-1] |= 1  # the end of the bucket
    return struct.pack(f"<4IQI{len(chain)}I", 1, 1, 1, shift, bloom, 1, *chain)


@notrace
def version_definitions(strings: Strings, soname: int) -> bytes:
    """DT_VERDEF: the object itself, then LINUX_2.6 (whose index, 2, all symbols carry)."""
    out = b""
    for index, (name, at) in enumerate(((SONAME, soname), (VERSION, strings.add(VERSION))), 1):
        following = 28 if index == 1 else 0
        out += struct.pack("<4H3I", 1, int(index == 1), index, 1, elf_hash(name), 20, following)
        out += struct.pack("<2I", at, 0)
    return out


@notrace
def notes(text: bytes) -> bytes:
    """The kernel's version, as Linux's own vDSO has it, and a build id made from the code.

    8 bytes, as `ld.lld --build-id=fast` makes one: a cryptographic hash would load OpenSSL, 9 ms of every start.
    """
    version = struct.pack("<3I8sI", 6, 4, 0, b"Linux", LINUX_VERSION_CODE)
    return version + struct.pack("<3I4s2I", 4, 8, 3, b"GNU\0", zlib.crc32(text), zlib.adler32(text))


@notrace
def eh_frame(text_size: int, at: int) -> bytes:
    """One CIE and one FDE for all code: the return address is always at [rsp]. at: where the section lies."""
    # Factors 1 and -8, return address in column 16, addresses as pc-relative sdata4.
    cie_body = struct.pack("<IB3s5B", 0, 1, b"zR\0", 1, 0x78, 16, 1, 0x1B)
    cie_body += bytes((0x0C, 7, 8, 0x80 | 16, 1))  # CFA = rsp + 8; return address at CFA - 8
    cie_body += bytes(-(len(cie_body) + 4) % 8)
    cie = struct.pack("<I", len(cie_body)) + cie_body
    pc_field = at + len(cie) + 8
    fde_body = struct.pack("<IiIB", len(cie) + 4, TEXT_OFFSET - pc_field, text_size, 0)
    fde_body += bytes(-(len(fde_body) + 4) % 8)
    return cie + struct.pack("<I", len(fde_body)) + fde_body + bytes(4)


@notrace
def eh_frame_hdr(at: int, frame: int) -> bytes:
    """The unwinder's table, with its one entry. frame: where .eh_frame lies; its CIE takes 24 bytes."""
    entry = TEXT_OFFSET - at, frame + 24 - at
    return struct.pack("<4B4i", 1, 0x1B, 0x03, 0x3B, frame - (at + 4), 1, *entry)


@notrace
def build_image(text: bytes, functions: dict[str, tuple[int, int]]) -> bytes:
    """The finished object. functions: name -> (offset, size), exported as __vdso_NAME and weakly as NAME."""
    strings = Strings()
    soname = strings.add(SONAME)
    names = [prefix + name for name in functions for prefix in ("__vdso_", "")] + [VERSION]
    symbols = bytes(SYM_SIZE)
    text_index = 11  # of .text in the section table below
    for name, (start, size) in functions.items():
        for prefix, bind in (("__vdso_", STB_GLOBAL), ("", STB_WEAK)):
            at = strings.add(prefix + name)
            info, value = bind << 4 | STT_FUNC, TEXT_OFFSET + start
            symbols += struct.pack("<IBBHQQ", at, info, 0, text_index, value, size)
    verdef = version_definitions(strings, soname)
    version_name = strings.data.index(b"\0" + VERSION.encode() + b"\0") + 1
    symbols += struct.pack("<IBBHQQ", version_name, STB_GLOBAL << 4 | STT_OBJECT, 0, SHN_ABS, 0, 0)
    versym = struct.pack(f"<{len(names) + 1}H", 0, *[2] * len(names))

    dynamic_size = 16 * 11
    sections = [
        Section(".hash", SHT_HASH, SHF_ALLOC, 8, hash_table(names), ".dynsym", entsize=4),
        Section(".gnu.hash", SHT_GNU_HASH, SHF_ALLOC, 8, gnu_hash_table(names), ".dynsym"),
        Section(".dynsym", SHT_DYNSYM, SHF_ALLOC, 8, symbols, ".dynstr", 1, SYM_SIZE),
        Section(".dynstr", SHT_STRTAB, SHF_ALLOC, 1, strings.data),
        Section(".gnu.version", SHT_GNU_VERSYM, SHF_ALLOC, 2, versym, ".dynsym", entsize=2),
        Section(".gnu.version_d", SHT_GNU_VERDEF, SHF_ALLOC, 8, verdef, ".dynstr", 2),
        Section(".dynamic", SHT_DYNAMIC, SHF_ALLOC, 8, bytes(dynamic_size), ".dynstr", entsize=16),
        Section(".note", SHT_NOTE, SHF_ALLOC, 4, notes(text)),
        Section(".eh_frame_hdr", SHT_PROGBITS, SHF_ALLOC, 4, bytes(20)),
        Section(".eh_frame", SHT_PROGBITS, SHF_ALLOC, 8, eh_frame(len(text), 0)),
        Section(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, 16, text),
    ]
    assert sections[text_index - 1].name == ".text"
    position = EHDR_SIZE + 4 * PHDR_SIZE
    by_name: dict[str, Section] = {}
    for section in sections:
        position += -position % section.align
        if section.name == ".text":
            assert position <= TEXT_OFFSET, f"the tables end at {position:#x}: move TEXT_OFFSET up"
            position = TEXT_OFFSET
        section.offset = position
        position += len(section.data)
        by_name[section.name] = section

    frame = by_name[".eh_frame"].offset
    by_name[".eh_frame"].data = eh_frame(len(text), frame)
    by_name[".eh_frame_hdr"].data = eh_frame_hdr(by_name[".eh_frame_hdr"].offset, frame)
    entries = (
        (DT_SONAME, soname),
        (DT_HASH, by_name[".hash"].offset),
        (DT_GNU_HASH, by_name[".gnu.hash"].offset),
        (DT_STRTAB, by_name[".dynstr"].offset),
        (DT_SYMTAB, by_name[".dynsym"].offset),
        (DT_STRSZ, len(strings.data)),
        (DT_SYMENT, SYM_SIZE),
        (DT_VERSYM, by_name[".gnu.version"].offset),
        (DT_VERDEF, by_name[".gnu.version_d"].offset),
        (DT_VERDEFNUM, 2),
        (0, 0),
    )
    by_name[".dynamic"].data = b"".join(struct.pack("<2Q", *entry) for entry in entries)
    assert len(by_name[".dynamic"].data) == dynamic_size
    return _write(sections, by_name, position)


@notrace
def _write(sections: list[Section], by_name: dict[str, Section], end_of_text: int) -> bytes:
    section_names = Strings()
    name_at = [section_names.add(section.name) for section in sections]
    shstrtab = Section(".shstrtab", SHT_STRTAB, 0, 1, b"", offset=end_of_text)
    name_at.append(section_names.add(shstrtab.name))
    shstrtab.data = section_names.data
    sections = [*sections, shstrtab]
    shoff = end_of_text + len(shstrtab.data)
    shoff += -shoff % 8
    end = shoff + SHDR_SIZE * (len(sections) + 1)

    image = bytearray(end + -end % PAGE_SIZE)
    ident = b"\x7fELF\2\1\1" + bytes(9)
    header = (3, 62, 1, TEXT_OFFSET, EHDR_SIZE, shoff, 0, EHDR_SIZE, PHDR_SIZE, 4, SHDR_SIZE)
    struct.pack_into("<16s2HI3QI6H", image, 0, ident, *header, len(sections) + 1, len(sections))

    segments = [(PT_LOAD, 5, 0, end_of_text, PAGE_SIZE)]
    for kind, name in ((PT_DYNAMIC, ".dynamic"), (PT_NOTE, ".note"), (PT_GNU_EH_FRAME, ".eh_frame_hdr")):
        segments.append((kind, 4, by_name[name].offset, len(by_name[name].data), by_name[name].align))
    for i, (kind, flags, at, size, align) in enumerate(segments):
        place = EHDR_SIZE + PHDR_SIZE * i
        struct.pack_into("<2I6Q", image, place, kind, flags, at, at, at, size, size, align)

    index = {section.name: i for i, section in enumerate(sections, 1)}
    for i, section in enumerate(sections):
        image[section.offset : section.offset + len(section.data)] = section.data
        address = section.offset if section.flags & SHF_ALLOC else 0
        struct.pack_into(
            "<2I4Q2I2Q", image, shoff + SHDR_SIZE * (i + 1), name_at[i], section.kind, section.flags, address,
            section.offset, len(section.data), index.get(section.link, 0), section.info, section.align,
            section.entsize,
        )  # fmt: skip
    return bytes(image)
