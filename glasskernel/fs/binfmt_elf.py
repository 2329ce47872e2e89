"""ELF programs: static, position independent, and those with an interpreter (ld.so).

Linux: fs/binfmt_elf.c (5.3), arch/x86/include/asm/elf.h. Same: what is mapped where, bss and brk,
    randomisation (28 bits of mmap, 22 of stack, 32 MB of brk; none with ADDR_NO_RANDOMIZE), the stack that
    the program starts with, its auxiliary vector, and which damage gives which errno (ENOEXEC before the
    point of no return, ELIBBAD for the interpreter's header, EINVAL for addresses out of range).
Differs: the sizes of the argument strings are known (LinuxBinprm), not read from the stack again.
Owns: nothing. Gaps: core dumps, uselib(2), 32-bit programs (ENOEXEC), PT_GNU_PROPERTY.
"""
from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.arch.x86.process import start_thread
from glasskernel.arch.x86.uaccess import clear_user, copy_to_user
from glasskernel.arch.x86.vma import arch_setup_additional_pages
from glasskernel.fs.exec import (
    EXSTACK_DEFAULT,
    EXSTACK_DISABLE_X,
    EXSTACK_ENABLE_X,
    READ_IMPLIES_EXEC,
    LinuxBinfmt,
    LinuxBinprm,
    arch_align_stack,
    finalize_exec,
    flush_old_exec,
    install_exec_creds,
    open_exec,
    register_binfmt,
    setup_arg_pages,
    setup_new_exec,
    would_dump,
)
from glasskernel.fs.file_table import fput
from glasskernel.fs.read_write import kernel_read
from glasskernel.fs.types import _enodev
from glasskernel.kernel.current import current
from glasskernel.kernel.task import PF_RANDOMIZE
from glasskernel.lib.errno import EFAULT, EINVAL, EIO, ELIBBAD, ENOEXEC, ENOMEM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.mmap import (
    MAP_DENYWRITE,
    MAP_FIXED,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    vm_brk_flags,
    vm_mmap,
    vm_munmap,
)
from glasskernel.mm.types import TASK_SIZE, VM_EXEC, MmStruct

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel

ELFMAG = b"\x7fELF"
ET_EXEC, ET_DYN, EM_X86_64 = 2, 3, 62
PT_LOAD, PT_INTERP, PT_GNU_STACK = 1, 3, 0x6474E551
PF_X, PF_W, PF_R = 1, 2, 4
PATH_MAX = 4096
MAP_EXECUTABLE = 0x1000
ELF_ET_DYN_BASE = TASK_SIZE // 3 * 2
ADDR_NO_RANDOMIZE, MMAP_PAGE_ZERO = 0x0040000, 0x0100000
STACK_RND_MASK = 0x3FFFFF
CLOCKS_PER_SEC = 100
ELF_PLATFORM = b"x86_64"
ELF_HWCAP = 0x078BFBFD         # EDX of CPUID leaf 1: the engine's CPU is a Westmere

AT_NULL, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_BASE, AT_FLAGS, AT_ENTRY = 0, 3, 4, 5, 6, 7, 8, 9
AT_UID, AT_EUID, AT_GID, AT_EGID, AT_PLATFORM, AT_HWCAP, AT_CLKTCK = 11, 12, 13, 14, 15, 16, 17
AT_SECURE, AT_RANDOM, AT_HWCAP2, AT_EXECFN, AT_SYSINFO_EHDR = 23, 25, 26, 31, 33

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_U64 = 0xFFFF_FFFF_FFFF_FFFF

Phdr = tuple[int, int, int, int, int, int, int, int]    # type flags offset vaddr paddr filesz memsz align


class Elf64Ehdr:
    """struct elf64_hdr, the fields that count."""

    __slots__ = ("e_entry", "e_machine", "e_phentsize", "e_phnum", "e_phoff", "e_type", "magic")

    def __init__(self, data: bytes) -> None:
        (ident, self.e_type, self.e_machine, _, self.e_entry, self.e_phoff, _, _, _, self.e_phentsize,
         self.e_phnum, _, _, _) = _EHDR.unpack_from(data)
        self.magic = ident[:4]


# ---- headers ----------------------------------------------------------------------------------------
@may_sleep
def load_elf_phdrs(header: Elf64Ehdr, file: File) -> list[Phdr] | None:
    """The program headers; None if there are none, too many, or they cannot be read."""
    size = _PHDR.size * header.e_phnum
    if header.e_phentsize != _PHDR.size or not size or size > 4096 or header.e_phoff >= 1 << 63:
        return None
    try:
        data = kernel_read(file, size, header.e_phoff)
    except KernelError:
        return None
    return list(_PHDR.iter_unpack(data)) if len(data) == size else None


@notrace
def make_prot(p_flags: int) -> int:
    """PROT_* of a segment."""
    return (PROT_READ if p_flags & PF_R else 0) | (PROT_WRITE if p_flags & PF_W else 0) | (
        PROT_EXEC if p_flags & PF_X else 0)


@notrace
def total_mapping_size(phdrs: list[Phdr]) -> int:
    """From the first loadable page to the end of the last loadable byte; 0 if nothing is loadable."""
    loads = [p for p in phdrs if p[0] == PT_LOAD]
    if not loads:
        return 0
    return loads[-1][3] + loads[-1][6] - (loads[0][3] & ~0xFFF) & _U64


# ---- mapping ----------------------------------------------------------------------------------------
@may_sleep
def elf_map(file: File, address: int, phdr: Phdr, prot: int, flags: int, total_size: int) -> int:
    """Maps the file part of a segment; total_size: first find room for the whole image.

    Raises mmap(2)'s errors.
    """
    offset_in_page = phdr[3] & 0xFFF
    size = phdr[5] + offset_in_page
    offset = phdr[2] - offset_in_page
    address &= ~0xFFF
    size = (size + 0xFFF) & ~0xFFF & _U64
    if not size:
        return address
    if offset < 0:
        raise KernelError(EINVAL)
    if total_size:
        total_size = (total_size + 0xFFF) & ~0xFFF
        mapped = vm_mmap(file, address, total_size, prot, flags, offset)
        if total_size > size:
            vm_munmap(mapped + size, total_size - size)
        return mapped
    return vm_mmap(file, address, size, prot, flags, offset)


@may_sleep
def set_brk(start: int, end: int, prot: int) -> None:
    """Anonymous memory for the whole pages of a bss; the break begins behind it. Raises ENOMEM."""
    start = (start + 0xFFF) & ~0xFFF
    end = (end + 0xFFF) & ~0xFFF
    if end > start:
        vm_brk_flags(start, end - start, VM_EXEC if prot & PROT_EXEC else 0)
    mm = current().mm
    assert mm is not None
    mm.start_brk = mm.brk = end


@may_sleep
def padzero(elf_bss: int) -> None:
    """Clears the rest of the page in which the file part ends. Raises EFAULT."""
    used = elf_bss & 0xFFF
    if used:
        clear_user(elf_bss, 4096 - used)


@notrace
def bad_segment(vaddr: int, filesz: int, memsz: int) -> bool:
    """True if the segment does not fit into the user half."""
    return vaddr >= TASK_SIZE or filesz > memsz or memsz > TASK_SIZE or TASK_SIZE - memsz < vaddr


@may_sleep
def load_elf_interp(header: Elf64Ehdr, phdrs: list[Phdr], interpreter: File, no_base: int) -> tuple[int, int]:
    """Maps ld.so: (load address, load bias). Raises ELIBBAD, ENOMEM, EINVAL and mmap(2)'s errors."""
    if (header.e_type not in (ET_EXEC, ET_DYN) or header.e_machine != EM_X86_64
            or interpreter.f_op.mmap is _enodev):
        raise KernelError(ELIBBAD)
    total_size = total_mapping_size(phdrs)
    if not total_size:
        raise KernelError(EINVAL)
    load_addr = 0
    load_addr_set = False
    last_bss = elf_bss = 0
    bss_prot = 0
    for phdr in phdrs:
        if phdr[0] != PT_LOAD:
            continue
        prot = make_prot(phdr[1])
        flags = MAP_PRIVATE | MAP_DENYWRITE
        vaddr = phdr[3]
        if header.e_type == ET_EXEC or load_addr_set:
            flags |= MAP_FIXED
        elif no_base and header.e_type == ET_DYN:
            load_addr = -vaddr
        map_addr = elf_map(interpreter, load_addr + vaddr & _U64, phdr, prot, flags, total_size)
        total_size = 0
        if not load_addr_set and header.e_type == ET_DYN:
            load_addr = map_addr - (vaddr & ~0xFFF)
            load_addr_set = True
        k = load_addr + vaddr & _U64
        if bad_segment(k, phdr[5], phdr[6]):
            raise KernelError(ENOMEM)
        if k + phdr[5] > elf_bss:
            elf_bss = k + phdr[5]
        if k + phdr[6] > last_bss:
            last_bss = k + phdr[6]
            bss_prot = prot
    if last_bss > elf_bss:
        padzero(elf_bss)
    elf_bss = (elf_bss + 0xFFF) & ~0xFFF
    last_bss = (last_bss + 0xFFF) & ~0xFFF
    if last_bss > elf_bss:
        vm_brk_flags(elf_bss, last_bss - elf_bss, VM_EXEC if bss_prot & PROT_EXEC else 0)
    return load_addr, load_addr


# ---- the loader -------------------------------------------------------------------------------------
@may_sleep
def load_elf_binary(bprm: LinuxBinprm) -> None:
    """Starts an ELF program. Raises ENOEXEC if it is none, or not one of ours."""
    header = Elf64Ehdr(bprm.buf)
    if (header.magic != ELFMAG or header.e_type not in (ET_EXEC, ET_DYN) or header.e_machine != EM_X86_64
            or bprm.file.f_op.mmap is _enodev):
        raise KernelError(ENOEXEC)
    phdrs = load_elf_phdrs(header, bprm.file)
    if phdrs is None:
        raise KernelError(ENOEXEC)
    interpreter: File | None = None
    try:
        for phdr in phdrs:
            if phdr[0] == PT_INTERP:
                interpreter = open_interpreter(bprm, phdr)
                break
        load_elf_image(bprm, header, phdrs, interpreter)
    finally:
        if interpreter is not None:
            fput(interpreter)


@notrace
@may_sleep
def open_interpreter(bprm: LinuxBinprm, phdr: Phdr) -> File:
    """PT_INTERP's file. Raises ENOEXEC (no name), EIO, EINVAL, and what opening it does."""
    if phdr[5] > PATH_MAX or phdr[5] < 2:
        raise KernelError(ENOEXEC)
    if phdr[2] >= 1 << 63:
        raise KernelError(EINVAL)
    name = kernel_read(bprm.file, phdr[5], phdr[2])
    if len(name) != phdr[5]:
        raise KernelError(EIO)
    if name[-1]:
        raise KernelError(ENOEXEC)
    interpreter = open_exec(name.split(b"\0", 1)[0])
    would_dump(bprm, interpreter)
    return interpreter


@notrace
@may_sleep
def load_elf_image(bprm: LinuxBinprm, header: Elf64Ehdr, phdrs: list[Phdr], interpreter: File | None) -> None:
    """load_elf_binary() from the check of the interpreter to the start of the program."""
    interp_header: Elf64Ehdr | None = None
    interp_phdrs: list[Phdr] | None = None
    if interpreter is not None:
        data = kernel_read(interpreter, _EHDR.size, 0)
        if len(data) != _EHDR.size:
            raise KernelError(EIO)
        interp_header = Elf64Ehdr(data)
    executable_stack = EXSTACK_DEFAULT
    for phdr in phdrs:
        if phdr[0] == PT_GNU_STACK:
            executable_stack = EXSTACK_ENABLE_X if phdr[1] & PF_X else EXSTACK_DISABLE_X
    if interpreter is not None:
        assert interp_header is not None
        if interp_header.magic != ELFMAG or interp_header.e_machine != EM_X86_64:
            raise KernelError(ELIBBAD)
        interp_phdrs = load_elf_phdrs(interp_header, interpreter)
        if interp_phdrs is None:
            raise KernelError(ELIBBAD)

    flush_old_exec(bprm)
    task = current()
    kernel = bprm.kernel
    mm = task.mm
    assert mm is not None
    task.personality &= ~READ_IMPLIES_EXEC     # set_personality_64bit()
    if executable_stack != EXSTACK_DISABLE_X:
        task.personality |= READ_IMPLIES_EXEC  # elf_read_implies_exec(): an old program, or it asks
    if not task.personality & ADDR_NO_RANDOMIZE and kernel.sysctl.randomize_va_space:
        task.flags |= PF_RANDOMIZE
    setup_new_exec(bprm)
    install_exec_creds(bprm)
    setup_arg_pages(bprm, randomize_stack_top(kernel, TASK_SIZE), executable_stack)

    load_addr = load_bias = 0
    load_addr_set = False
    elf_bss = elf_brk = 0
    bss_prot = 0
    start_code, end_code, start_data, end_data = _U64, 0, 0, 0
    for phdr in phdrs:
        if phdr[0] != PT_LOAD:
            continue
        if elf_brk > elf_bss:
            # A bss with another segment behind it.
            set_brk(elf_bss + load_bias, elf_brk + load_bias, bss_prot)
            used = elf_bss & 0xFFF
            if used:
                with suppress(KernelError):    # read-only: the program gets what it asked for
                    clear_user(elf_bss + load_bias, min(4096 - used, elf_brk - elf_bss))
        prot = make_prot(phdr[1])
        flags = MAP_PRIVATE | MAP_DENYWRITE | MAP_EXECUTABLE
        vaddr = phdr[3]
        total_size = 0
        if header.e_type == ET_EXEC or load_addr_set:
            flags |= MAP_FIXED
        else:
            if interpreter is not None:
                load_bias = ELF_ET_DYN_BASE
                if task.flags & PF_RANDOMIZE:
                    load_bias += mm.mmap_rnd
                flags |= MAP_FIXED
            load_bias = (load_bias - vaddr) & ~0xFFF & _U64
            total_size = total_mapping_size(phdrs)
            if not total_size:
                raise KernelError(EINVAL)
        wanted = load_bias + vaddr & _U64
        mapped = elf_map(bprm.file, wanted, phdr, prot, flags, total_size)
        if mapped >= TASK_SIZE:
            raise KernelError(EINVAL)
        if not load_addr_set:
            load_addr_set = True
            load_addr = vaddr - phdr[2]
            if header.e_type == ET_DYN:
                load_bias = load_bias + mapped - (wanted & ~0xFFF) & _U64
                load_addr += load_bias
            load_addr &= _U64
        if phdr[1] & PF_X and vaddr < start_code:
            start_code = vaddr
        if start_data < vaddr:
            start_data = vaddr
        if bad_segment(vaddr, phdr[5], phdr[6]):
            raise KernelError(EINVAL)
        end = vaddr + phdr[5]
        if end > elf_bss:
            elf_bss = end
        if phdr[1] & PF_X and end_code < end:
            end_code = end
        if end_data < end:
            end_data = end
        end = vaddr + phdr[6]
        if end > elf_brk:
            bss_prot = prot
            elf_brk = end

    e_entry = header.e_entry + load_bias & _U64
    elf_bss += load_bias
    elf_brk += load_bias
    set_brk(elf_bss & _U64, elf_brk & _U64, bss_prot)
    if elf_bss != elf_brk:
        padzero(elf_bss & _U64)

    interp_load_addr = 0
    if interpreter is not None:
        assert interp_header is not None and interp_phdrs is not None
        interp_load_addr, bias = load_elf_interp(interp_header, interp_phdrs, interpreter, load_bias)
        elf_entry = bias + interp_header.e_entry & _U64
    else:
        elf_entry = e_entry
    if elf_entry >= TASK_SIZE:
        raise KernelError(EINVAL)
    mm.binfmt = elf_format
    vdso = arch_setup_additional_pages(kernel, mm)
    create_elf_tables(bprm, header, load_addr, interp_load_addr, e_entry, vdso)
    mm.end_code = end_code + load_bias & _U64
    mm.start_code = start_code + load_bias & _U64
    mm.start_data = start_data + load_bias & _U64
    mm.end_data = end_data + load_bias & _U64
    mm.start_stack = bprm.p
    if task.flags & PF_RANDOMIZE and kernel.sysctl.randomize_va_space > 1:
        if header.e_type == ET_DYN and interpreter is None:
            # Loaded where mappings go: the break needs room that they do not take.
            mm.brk = mm.start_brk = ELF_ET_DYN_BASE
        mm.brk = mm.start_brk = arch_randomize_brk(kernel, mm)
    if task.personality & MMAP_PAGE_ZERO:
        with suppress(KernelError):        # SVr4 programs read address 0: as far as mmap_min_addr allows
            vm_mmap(None, 0, 4096, PROT_READ | PROT_EXEC, MAP_FIXED | MAP_PRIVATE | 0x20, 0)
    finalize_exec(bprm)
    start_thread(task, elf_entry, bprm.p)


# ---- randomisation ----------------------------------------------------------------------------------
@notrace
def _random(kernel: Kernel) -> int:
    return int.from_bytes(kernel.machine.random_bytes(8), "little")


def randomize_stack_top(kernel: Kernel, stack_top: int) -> int:
    """Up to 16 GB below the given top."""
    random = 0
    if current().flags & PF_RANDOMIZE:
        random = (_random(kernel) & STACK_RND_MASK) << 12
    return ((stack_top + 0xFFF) & ~0xFFF) - random


def arch_randomize_brk(kernel: Kernel, mm: MmStruct) -> int:
    """A page within 32 MB behind the break."""
    return randomize_page(kernel, mm.brk, 0x02000000)


def randomize_page(kernel: Kernel, start: int, size: int) -> int:
    """A page-aligned address in [start, start + size)."""
    aligned = (start + 0xFFF) & ~0xFFF
    size -= aligned - start
    pages = min(size, TASK_SIZE - aligned) >> 12
    return aligned + (_random(kernel) % pages << 12) if pages > 0 else aligned


# ---- the stack a program starts with ----------------------------------------------------------------
@may_sleep
def create_elf_tables(
    bprm: LinuxBinprm, header: Elf64Ehdr, load_addr: int, interp_load_addr: int, e_entry: int, vdso: int
) -> None:
    """argc, argv, envp and the auxiliary vector below the strings; bprm.p becomes the stack pointer.

    Raises EFAULT.
    """
    task = current()
    kernel = bprm.kernel
    mm = task.mm
    assert mm is not None
    cred = task.cred
    arg_start = bprm.p
    p = arch_align_stack(kernel, bprm.p)
    p -= len(ELF_PLATFORM) + 1
    u_platform = p
    p -= 16
    u_rand_bytes = p
    auxv = [
        AT_SYSINFO_EHDR, vdso,
        AT_HWCAP, ELF_HWCAP,
        AT_PAGESZ, 4096,
        AT_CLKTCK, CLOCKS_PER_SEC,
        AT_PHDR, load_addr + header.e_phoff & _U64,
        AT_PHENT, _PHDR.size,
        AT_PHNUM, header.e_phnum,
        AT_BASE, interp_load_addr & _U64,
        AT_FLAGS, 0,
        AT_ENTRY, e_entry,
        AT_UID, cred.uid,
        AT_EUID, cred.euid,
        AT_GID, cred.gid,
        AT_EGID, cred.egid,
        AT_SECURE, int(bprm.secureexec),
        AT_RANDOM, u_rand_bytes,
        AT_HWCAP2, 0,
        AT_EXECFN, bprm.exec,
        AT_PLATFORM, u_platform,
        AT_NULL, 0,
    ]
    argc, envc = bprm.argc, bprm.envc
    items = argc + 1 + envc + 1 + 1
    sp = (p - len(auxv) * 8 - items * 8) & ~0xF
    words = [argc]
    address = arg_start
    for size in bprm.arg_sizes:
        words.append(address)
        address += size
    words.append(0)
    mm.arg_end = mm.env_start = address
    for size in bprm.env_sizes:
        words.append(address)
        address += size
    words.append(0)
    mm.env_end = address
    vector = struct.pack(f"<{len(auxv)}Q", *auxv)
    mm.saved_auxv = vector
    copy_to_user(u_rand_bytes, kernel.machine.random_bytes(16) + ELF_PLATFORM + b"\0")
    try:
        copy_to_user(sp, struct.pack(f"<{len(words)}Q", *words) + vector)
    except KernelError:
        raise KernelError(EFAULT) from None
    bprm.p = sp


elf_format = LinuxBinfmt("elf", load_elf_binary)


def init_elf_binfmt(kernel: Kernel) -> None:
    """Registers the format. Context: boot."""
    register_binfmt(kernel, elf_format)
