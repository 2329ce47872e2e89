"""The vDSO image: as an ELF file, and its functions run by the host's own CPU."""

import ctypes
import errno
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from glasskernel.arch.x86.vdso import VDSO_IMAGE, VDSO_SYMBOLS, vvar_pack

GIGA = 10**9
REALTIME, MONOTONIC, RAW, BOOTTIME, TAI = 0, 1, 4, 7, 11
COARSE_AND_CPU = (2, 3, 5, 6)
OFFSETS = {REALTIME: 1_700_000_000 * GIGA + 123, MONOTONIC: 5 * GIGA, RAW: 3, BOOTTIME: 7 * GIGA}
OFFSETS[TAI] = OFFSETS[REALTIME] + 37 * GIGA


@pytest.fixture(scope="module")
def elf():
    return ELFFile(io.BytesIO(VDSO_IMAGE))


def test_exports_what_linux_exports(elf):
    table = elf.get_section_by_name(".dynsym").iter_symbols()
    symbols = {s.name: s for s in table if s["st_shndx"] != "SHN_UNDEF"}
    base = ["clock_gettime", "gettimeofday", "time", "getcpu", "clock_getres"]
    assert set(symbols) == {*base, *("__vdso_" + name for name in base), "LINUX_2.6"}
    for name in base:
        strong, weak = symbols["__vdso_" + name], symbols[name]
        assert (strong["st_info"]["bind"], weak["st_info"]["bind"]) == ("STB_GLOBAL", "STB_WEAK")
        assert strong["st_value"] == weak["st_value"] == VDSO_SYMBOLS[name] == VDSO_SYMBOLS["__vdso_" + name]


def test_is_mapped_as_it_is_in_the_file(elf):
    assert len(VDSO_IMAGE) % 4096 == 0
    (load,) = (s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD")
    assert (load["p_offset"], load["p_vaddr"], load["p_flags"]) == (0, 0, 5)
    dynamic = {tag.entry.d_tag: tag for tag in elf.get_section_by_name(".dynamic").iter_tags()}
    assert dynamic["DT_SONAME"].soname == "linux-vdso.so.1"


def test_unwind_information_covers_all_code(elf):
    text = elf.get_section_by_name(".text")
    cie, fde = [e for e in elf.get_dwarf_info().EH_CFI_entries() if type(e).__name__ != "ZERO"]
    assert fde["initial_location"] == text["sh_addr"]
    assert fde["address_range"] == text["sh_size"]
    row = fde.get_decoded().table[0]
    assert (row["cfa"].reg, row["cfa"].offset, row[16].arg) == (7, 8, -8)


@pytest.mark.skipif(not shutil.which("objdump"), reason="needs binutils")
def test_assembly_beside_the_bytes_is_what_they_say(tmp_path):
    from glasskernel.arch.x86.vdso import CODE

    (tmp_path / "vdso.so").write_bytes(VDSO_IMAGE)
    command = ["objdump", "-d", "-M", "intel", "--no-show-raw-insn", tmp_path / "vdso.so"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    real = [line.split("\t")[1].split()[0] for line in shown.splitlines() if "\t" in line]
    written = [
        line.partition("|")[2].partition("#")[0].split(": ")[-1].split()[0]
        for listing in CODE.values()
        for line in listing.strip().splitlines()
    ]
    same = {"je": "jz", "jae": "jnc"}
    assert [same.get(name, name) for name in real if name != "int3"] == written


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The output lines of vdso_host.c, by first word."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("vdso")
    source = Path(__file__).with_name("vdso_host.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-o", folder / "host", source], check=True)
    (folder / "image").write_bytes(VDSO_IMAGE)
    offsets = [OFFSETS[REALTIME], 37 * GIGA, OFFSETS[MONOTONIC], OFFSETS[BOOTTIME], OFFSETS[RAW], -60, 1]
    (folder / "vvar").write_bytes(vvar_pack(*offsets).ljust(4096, b"\0"))
    command = [folder / "host", folder / "image", folder / "vvar"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    table = {}
    for line in done.stdout.splitlines():
        word, *numbers = line.split()
        table.setdefault(word, []).append([int(n) for n in numbers])
    return table


@pytest.mark.parametrize("clock", OFFSETS)
def test_clock_is_tsc_plus_offset(answers, clock):
    (row,) = [r for r in answers["clock"] if r[0] == clock]
    _, status, sec, nsec, before, after, res_status, res_sec, res_nsec = row
    assert status == res_status == 0
    assert 0 <= nsec < GIGA
    assert before <= sec * GIGA + nsec - OFFSETS[clock] <= after
    assert (res_sec, res_nsec) == (0, 1)


@pytest.mark.parametrize("clock", COARSE_AND_CPU)
def test_other_clocks_come_from_the_kernel(answers, clock):
    (row,) = [r for r in answers["clock"] if r[0] == clock]
    _, status, sec, nsec, *_, res_status, _, res_nsec = row
    assert status == res_status == 0
    assert 0 <= nsec < GIGA and res_nsec > 0
    # The host's TSC has nothing to do with the clocks of its kernel: ours would have added the offset 0.
    assert sec >= 0


def test_unknown_clocks_are_refused_by_the_kernel(answers):
    refused = [r[1] for r in answers["clock"] if r[0] in (12, 13)]
    assert refused == [-errno.EINVAL] * 2
    assert [r[0] for r in answers["wide"]] == [0]


def test_gettimeofday_and_time_agree(answers):
    ((status, sec, usec, west, dst, before, after),) = answers["gettimeofday"]
    assert (status, west, dst) == (0, -60, 1)
    # Microseconds are rounded down.
    assert before - 1000 <= sec * GIGA + usec * 1000 - OFFSETS[REALTIME] <= after
    ((returned, stored),) = answers["time"]
    assert returned == stored and 0 <= returned - sec <= 1


def test_null_arguments_are_allowed_where_linux_allows_them(answers):
    assert answers["null"] == [[0, 1, 0, 0]]
    assert answers["getcpu"] == [[0, 1]]


def test_vvar_wraps_negative_offsets():
    words = (ctypes.c_uint64 * 12).from_buffer_copy(vvar_pack(-1))
    assert words[0] == words[11] == 2**64 - 1
