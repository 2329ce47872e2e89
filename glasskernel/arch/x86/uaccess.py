"""Copies between the kernel and user memory.

Linux: arch/x86/include/asm/uaccess.h, lib/usercopy_64.c, lib/strncpy_from_user.c. Same: a page that is not
there raises a page fault in kernel mode, through the IDT, and the copy goes on or fails with EFAULT.
Differs: Python walks the page tables; mm.tlb_read and mm.tlb_write remember the answers, like a TLB.
Context of every function: task with an mm; may sleep (a fault may read a file).
"""
from __future__ import annotations

import struct

from glasskernel.arch.x86.pgtable import (
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_PRESENT,
    PTE_PSE,
    PTE_USER,
    PTE_WRITE,
    lookup_pte,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EFAULT, KernelError
from glasskernel.lib.types import notrace

TASK_SIZE = 0x7FFF_FFFF_F000
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_ZEROS = bytes(4096)


@notrace
def access_ok(address: int, size: int) -> bool:
    """True if [address, address + size) lies in the user half."""
    return address + size <= TASK_SIZE


@notrace
def user_page(address: int, write: int) -> int:
    """The physical address of the page that holds `address`, faulted in. Raises EFAULT."""
    if not 0 <= address < TASK_SIZE:
        raise KernelError(EFAULT)
    task = current()
    mm = task.mm
    if mm is None:
        raise KernelError(EFAULT)
    kernel = task.kernel
    ram64 = kernel.machine.ram64
    need = PTE_PRESENT | PTE_USER | (PTE_WRITE if write else 0)
    for _ in range(8):                           # a second thread may take the page away again
        slot = lookup_pte(ram64, mm.pgd, address)
        entry = ram64[slot] if slot else 0
        if entry & need == need:
            break
        # error code: write, not user mode; protection fault if something was mapped
        if not kernel.idt_page_fault(address, write << 1 | (entry & PTE_PRESENT)):
            raise KernelError(EFAULT)
    else:
        raise KernelError(EFAULT)
    accessed = entry | PTE_ACCESSED | (PTE_DIRTY if write else 0)
    if accessed != entry:
        ram64[slot] = accessed
    physical = entry & PTE_MASK
    if entry & PTE_PSE:                          # pte_pfn(), inline
        physical |= address & 0x1FF000
    if write:
        if not kernel.mem.note_kernel_write(physical >> 12):
            return physical                      # holds translated code: never cached, so each write is seen
        mm.tlb_write[address >> 12] = physical
    mm.tlb_read[address >> 12] = physical
    return physical


@notrace
def kernel_page(address: int) -> int | None:
    """The physical address of the page behind a vmalloc address, through the running task's page tables.

    None: nothing is mapped there. What its top table has not got yet is faulted in. A kernel thread uses init_mm's.
    Context: any.
    """
    task = current()
    kernel = task.kernel
    ram64 = kernel.machine.ram64
    pgd = kernel.vmalloc.pgd if task.mm is None else task.mm.pgd
    for _ in range(2):
        slot = lookup_pte(ram64, pgd, address & (1 << 48) - 1)
        entry = ram64[slot] if slot else 0
        if entry & PTE_PRESENT:
            return entry & PTE_MASK
        if not kernel.idt_page_fault(address, 0):
            return None
    return None


def copy_from_user(address: int, size: int) -> bytes:
    """`size` bytes from user memory. Raises EFAULT if any of them cannot be read."""
    task = current()
    ram = task.kernel.machine.ram
    offset = address & 0xFFF
    if offset + size <= 4096:
        page = task.mm.tlb_read.get(address >> 12) if task.mm else None
        if page is None:
            if not size:
                return b""
            page = user_page(address, 0)
        return ram[page + offset : page + offset + size].tobytes()
    if not access_ok(address, size):
        raise KernelError(EFAULT)
    parts = []
    while size:
        chunk = min(4096 - offset, size)
        page = user_page(address, 0)
        parts.append(ram[page + offset : page + offset + chunk].tobytes())
        address += chunk
        size -= chunk
        offset = 0
    return b"".join(parts)


def copy_to_user(address: int, data: bytes | bytearray | memoryview) -> None:
    """Stores data in user memory. Raises EFAULT; what lies before the bad page has then been stored."""
    task = current()
    ram = task.kernel.machine.ram
    offset = address & 0xFFF
    size = len(data)
    if offset + size <= 4096:
        page = task.mm.tlb_write.get(address >> 12) if task.mm else None
        if page is None:
            if not size:
                return
            page = user_page(address, 1)
        ram[page + offset : page + offset + size] = data
        return
    if not access_ok(address, size):
        raise KernelError(EFAULT)
    view = memoryview(data)
    done = 0
    while done < size:
        chunk = min(4096 - offset, size - done)
        page = user_page(address + done, 1)
        ram[page + offset : page + offset + chunk] = view[done : done + chunk]
        done += chunk
        offset = 0


def clear_user(address: int, size: int) -> None:
    """Stores zeros. Raises EFAULT."""
    while size:
        chunk = min(4096 - (address & 0xFFF), size)
        copy_to_user(address, _ZEROS[:chunk])
        address += chunk
        size -= chunk


def strncpy_from_user(address: int, limit: int) -> bytes | None:
    """The bytes before the NUL; None if there is no NUL in the first `limit` bytes. Raises EFAULT."""
    ram = current().kernel.machine.ram
    parts = b""
    while limit > 0:
        offset = address & 0xFFF
        chunk = min(4096 - offset, limit)
        page = user_page(address, 0)
        data = ram[page + offset : page + offset + chunk].tobytes()
        end = data.find(0)
        if end >= 0:
            return parts + data[:end]
        parts += data
        address += chunk
        limit -= chunk
    return None


@notrace
def get_user_u64(address: int) -> int:
    """One u64. Raises EFAULT."""
    return int(_U64.unpack(copy_from_user(address, 8))[0])


@notrace
def get_user_u32(address: int) -> int:
    """One u32. Raises EFAULT."""
    return int(_U32.unpack(copy_from_user(address, 4))[0])


@notrace
def put_user_u64(address: int, value: int) -> None:
    """Stores one u64 (a negative value as two's complement). Raises EFAULT."""
    copy_to_user(address, _U64.pack(value & 0xFFFF_FFFF_FFFF_FFFF))


@notrace
def put_user_u32(address: int, value: int) -> None:
    """Stores one u32. Raises EFAULT."""
    copy_to_user(address, _U32.pack(value & 0xFFFF_FFFF))
