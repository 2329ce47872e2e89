"""The vDSO and its data page in every process.

Linux: arch/x86/entry/vdso/vma.c, arch/x86/entry/vsyscall/vsyscall_gtod.c. Same: [vvar] lies right below [vdso], both
above the stack at random. The image's frames are shared by all processes; update_vsyscall() writes the data page.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.vdso import VDSO_IMAGE, vvar_pack
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_write_killable, up_write
from glasskernel.kernel.task import PF_RANDOMIZE
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.memory import note_executable
from glasskernel.mm.mmap import _install_special_mapping, get_unmapped_area
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_KERNEL, PG_reserved, alloc_page, get_page
from glasskernel.mm.types import (
    TASK_SIZE,
    VM_DONTDUMP,
    VM_EXEC,
    VM_FAULT_SIGBUS,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VSYSCALL_ADDR,
    MmStruct,
    VmAreaStruct,
    VmFault,
    VmOperations,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

_VVAR_SIZE = 4096


@notrace
def init_vdso(kernel: Kernel) -> None:
    """Puts the image and an empty data page into frames (init_vdso_image)."""
    pages = (len(VDSO_IMAGE) + 4095) >> 12
    image = VDSO_IMAGE.ljust(pages << 12, b"\0")
    ram = kernel.mem.ram
    for i in range(pages + 1):
        pfn = alloc_page(kernel, GFP_KERNEL | __GFP_ZERO)
        kernel.mem.flags[pfn] |= PG_reserved
        kernel.vdso_pfns.append(pfn)
        if i:
            ram[pfn << 12 : (pfn + 1) << 12] = image[(i - 1) << 12 : i << 12]
            note_executable(kernel, pfn)
    kernel.time.update_vsyscall = update_vsyscall
    update_vsyscall(kernel)


def update_vsyscall(kernel: Kernel) -> None:
    """The wall clock was set: user space must see it."""
    pfn = kernel.vdso_pfns[0]
    time = kernel.time
    data = vvar_pack(kernel.realtime_offset(), time.tai_offset * 1_000_000_000,
                     minuteswest=time.tz_minuteswest, dsttime=time.tz_dsttime)
    kernel.mem.ram[pfn << 12 : (pfn << 12) + len(data)] = data


@notrace
def special_mapping_name(vma: VmAreaStruct) -> bytes:
    return bytes(vma.vm_private_data)


def special_mapping_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """The frame for a page of [vvar] (frame 0) or [vdso] (the others)."""
    kernel = vma.vm_mm.kernel
    index = (vmf.address - vma.vm_start) >> 12
    if vma.vm_private_data == b"[vdso]":
        index += 1
    if index >= len(kernel.vdso_pfns):
        return VM_FAULT_SIGBUS
    vmf.pfn = kernel.vdso_pfns[index]
    get_page(kernel, vmf.pfn)
    return 0


special_mapping_vmops = VmOperations(fault=special_mapping_fault, name=special_mapping_name)


def arch_setup_additional_pages(kernel: Kernel, mm: MmStruct) -> int:
    """Maps the vDSO; answers the address of its ELF header, for AT_SYSINFO_EHDR. Raises ENOMEM."""
    return map_vdso_randomized(kernel, mm)


def map_vdso_randomized(kernel: Kernel, mm: MmStruct) -> int:
    """Somewhere above the stack."""
    size = _VVAR_SIZE + (len(kernel.vdso_pfns) - 1 << 12)
    return map_vdso(mm, size, vdso_addr(kernel, mm, size) if current().flags & PF_RANDOMIZE else 0)


@notrace
def vdso_addr(kernel: Kernel, mm: MmStruct, size: int) -> int:
    """Where it would like to be; 0: anywhere."""
    slack = (TASK_SIZE - size - mm.start_stack) >> 12
    if slack <= 1:
        return 0
    offset = int.from_bytes(kernel.machine.random_bytes(4), "little") % min(slack, 1 << 20)
    return (mm.start_stack + 4095 & ~4095) + (offset << 12)


def map_vdso(mm: MmStruct, size: int, address: int) -> int:
    """Maps its data and its code. Raises ENOMEM."""
    down_write_killable(mm.mmap_sem)
    try:
        base = get_unmapped_area(None, address, size, 0, 0)
        _install_special_mapping(mm, base + _VVAR_SIZE, size - _VVAR_SIZE,
                                 VM_READ | VM_EXEC | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC,
                                 special_mapping_vmops, b"[vdso]")
        _install_special_mapping(mm, base, _VVAR_SIZE, VM_READ | VM_MAYREAD | VM_DONTDUMP,
                                 special_mapping_vmops, b"[vvar]")
    except KernelError:
        mm.vdso = 0
        raise
    finally:
        up_write(mm.mmap_sem)
    mm.vdso = base + _VVAR_SIZE
    return mm.vdso


def gate_vma_name(vma: VmAreaStruct) -> bytes:
    return b"[vsyscall]"


gate_vma_ops = VmOperations(name=gate_vma_name)


def get_gate_vma(mm: MmStruct) -> VmAreaStruct:
    """The area of the vsyscall page, which is in no process's list (vsyscall_64.c). It may be executed, not read."""
    return VmAreaStruct(mm, VSYSCALL_ADDR, VSYSCALL_ADDR + 0x1000, VM_EXEC, vm_ops=gate_vma_ops)
