"""Damaged ELF files: every cut and many changed bytes of three small programs, the same on every run."""
import pathlib
import random
import struct

# Leaves 42 if its data and its bss are where they belong, else 43.
SOURCE = """
int data[3000] = {1, 2, 3};
int bss[5000];
void _start(void)
{
    long status = data[1] == 2 && data[2999] == 0 && bss[0] == 0 && bss[4999] == 0 ? 42 : 43;
    bss[4999] = data[2999] = 1;
    __asm__ volatile("syscall" : : "a"(60L), "D"(status));
    __builtin_trap();
}
"""
FLAGS = {
    "static": ("-static", "-nostdlib", "-O1", "-fno-pie", "-no-pie"),
    "static-pie": ("-static-pie", "-nostdlib", "-O1", "-fpie"),
    "dynamic": ("-nostdlib", "-O1", "-fpie", "-pie", "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2"),
}
PHDR = 56


def headers_end(data):
    return 64 + PHDR * struct.unpack_from("<H", data, 56)[0]


def variants(name, data, seed=1):
    """(what was done, bytes) in a fixed order."""
    rng = random.Random(f"{seed}{name}")
    yield "whole", data
    end = headers_end(data)
    for size in (0, 1, 4, 16, 63, 64, 65, 64 + PHDR - 1, 64 + PHDR, end - 1, end, 4095, 4096, 4097,
                 len(data) // 2, len(data) - 1):
        if size < len(data):
            yield f"cut at {size}", data[:size]
    for offset in range(64):
        for value in {data[offset] ^ 1 << rng.randrange(8), rng.randrange(256)} - {data[offset]}:
            yield f"byte {offset} = {value:#x}", data[:offset] + bytes([value]) + data[offset + 1 :]
    for _ in range(120):
        offset = rng.randrange(64, end)
        value = rng.choice([data[offset] ^ 1 << rng.randrange(8), 0, 0xFF, rng.randrange(256)])
        yield f"byte {offset} = {value:#x}", data[:offset] + bytes([value]) + data[offset + 1 :]
    fields = {"type": (0, "<I"), "flags": (4, "<I"), "offset": (8, "<Q"), "vaddr": (16, "<Q"),
              "filesz": (32, "<Q"), "memsz": (40, "<Q"), "align": (48, "<Q")}
    for i in range((end - 64) // PHDR):
        for field, (at, code) in fields.items():
            for value in (0, 1, 0xFFF, 0x7FFF_FFFF_F000, 0xFFFF_FFFF_FFFF_F000, 1 << 40):
                if code == "<Q" or value < 1 << 32:
                    changed = bytearray(data)
                    struct.pack_into(code, changed, 64 + i * PHDR + at, value)
                    if changed != data:
                        yield f"program header {i}: {field} = {value:#x}", bytes(changed)


def write_corpus(directory, build_c, kinds=tuple(FLAGS)):
    """Writes DIR/0000, ... ; answers what each of them is."""
    names = []
    for kind in kinds:
        data = pathlib.Path(build_c(SOURCE, *FLAGS[kind])).read_bytes()
        for what, changed in variants(kind, data):
            path = directory / f"{len(names):04}"
            path.write_bytes(changed)
            path.chmod(0o755)
            names.append(f"{kind}, {what}")
    return names
