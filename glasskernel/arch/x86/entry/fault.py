"""Page faults: from the CPU's error code to the memory map, or to a signal.

Linux: arch/x86/mm/fault.c (5.3). Same: the checks and their order, si_code, the error-code bits.
Differs: a fault of the kernel itself comes from uaccess (user memory, or a page of the vmalloc area that a probe
    reads), which asks by a return value.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.entry.vsyscall_64 import emulate_vsyscall
from glasskernel.arch.x86.pgtable import PTE_PRESENT, lookup_pte
from glasskernel.kernel.current import current, register
from glasskernel.kernel.locking.rwsem import down_read, down_read_trylock, up_read
from glasskernel.kernel.sched.core import fatal_signal_pending
from glasskernel.kernel.sched.preempt import might_resched
from glasskernel.kernel.signal import force_sig_fault
from glasskernel.kernel.signal_types import BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGSEGV
from glasskernel.kernel.task import PF_KTHREAD
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.memory import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_INSTRUCTION,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    handle_mm_fault,
)
from glasskernel.mm.mmap import expand_stack, find_vma
from glasskernel.mm.types import (
    VM_EXEC,
    VM_FAULT_ERROR,
    VM_FAULT_MAJOR,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_GROWSDOWN,
    VM_READ,
    VM_WRITE,
    VSYSCALL_ADDR,
    VmAreaStruct,
)
from glasskernel.mm.vmalloc import is_vmalloc_addr

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

# Error-code bits (arch/x86/include/asm/traps.h)
X86_PF_PROT, X86_PF_WRITE, X86_PF_USER, X86_PF_RSVD, X86_PF_INSTR = 0x1, 0x2, 0x4, 0x8, 0x10
_TASK_SIZE = 0x7FFF_FFFF_F000
PERF_COUNT_SW_PAGE_FAULTS, PERF_COUNT_SW_PAGE_FAULTS_MIN, PERF_COUNT_SW_PAGE_FAULTS_MAJ = 2, 5, 6


def do_page_fault(task: TaskStruct, error_code: int, address: int) -> bool:
    """A page fault of user code, or of the kernel's access to user memory. Answers as do_user_addr_fault()."""
    if error_code & X86_PF_USER:
        probe = task.kernel.tp.page_fault_user
        if probe is not None:
            probe(address, task.thread.regs, error_code)
    else:
        probe = task.kernel.tp.page_fault_kernel
        if probe is not None:
            probe(address, None, error_code)
    return __do_page_fault(task, error_code, address)


def __do_page_fault(task: TaskStruct, error_code: int, address: int) -> bool:
    if address >= _TASK_SIZE:
        return do_kern_addr_fault(task, error_code, address)
    return do_user_addr_fault(task, error_code, address)


@notrace
def idt_page_fault(address: int, error_code: int) -> bool:
    """A page fault of the kernel, of uaccess nearly always. True: the page is there now. False: the access fails."""
    task = current()
    if (task.mm is None or task.flags & PF_KTHREAD) and address < _TASK_SIZE:
        return False
    return do_page_fault(task, error_code, address)


def do_kern_addr_fault(task: TaskStruct, error_code: int, address: int) -> bool:
    """User code touched a kernel address, or the kernel one that this process's tables do not have yet."""
    if not error_code & (X86_PF_RSVD | X86_PF_USER | X86_PF_PROT) and vmalloc_fault(task, address):
        return True
    if error_code & X86_PF_INSTR and address & ~0xFFF == VSYSCALL_ADDR and emulate_vsyscall(task, address):
        return True
    return bad_area_nosemaphore(task, error_code, address)


def vmalloc_fault(task: TaskStruct, address: int) -> bool:
    """The first use of a part of the vmalloc area by a process: its top table gets init_mm's entry. False: not mapped.

    Only the top level is copied: the tables below are the same ones for all. Context: any.
    """
    if not is_vmalloc_addr(address):
        return False
    kernel = task.kernel
    ram64, init = kernel.mem.ram64, kernel.vmalloc.pgd
    pgd = init if task.mm is None else task.mm.pgd
    index = address >> 39 & 511
    reference = ram64[(init >> 3) + index]
    if not reference & PTE_PRESENT:
        return False
    if not ram64[(pgd >> 3) + index] & PTE_PRESENT:
        ram64[(pgd >> 3) + index] = reference
    slot = lookup_pte(ram64, pgd, address & (1 << 48) - 1)
    return bool(slot and ram64[slot] & PTE_PRESENT)


def do_user_addr_fault(task: TaskStruct, error_code: int, address: int) -> bool:
    """The usual case. Answers whether the access may be tried again."""
    mm = task.mm
    assert mm is not None
    flags = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE
    if error_code & X86_PF_USER:
        flags |= FAULT_FLAG_USER
    if error_code & X86_PF_WRITE:
        flags |= FAULT_FLAG_WRITE
    if error_code & X86_PF_INSTR:
        flags |= FAULT_FLAG_INSTRUCTION
    perf = task.kernel.perf
    if perf is not None:
        perf.sw_event(PERF_COUNT_SW_PAGE_FAULTS, bool(error_code & X86_PF_USER), address)
    sem = mm.mmap_sem
    if not down_read_trylock(sem):
        down_read(sem)
    elif register.preempt_points:
        might_resched()                              # which down_read() would have done
    major = 0
    while True:
        vma = find_vma(mm, address)
        if vma is None:
            return bad_area(task, error_code, address, SEGV_MAPERR)
        if vma.vm_start > address:
            if not vma.vm_flags & VM_GROWSDOWN:
                return bad_area(task, error_code, address, SEGV_MAPERR)
            try:
                expand_stack(vma, address)
            except KernelError:
                return bad_area(task, error_code, address, SEGV_MAPERR)
        if access_error(error_code, vma):
            return bad_area(task, error_code, address, SEGV_ACCERR)
        fault = handle_mm_fault(vma, address, flags)
        major |= fault & VM_FAULT_MAJOR
        if not fault & VM_FAULT_RETRY:
            break
        # mmap_sem is not held any more: the area may be another by now. Once, and not if it is all over.
        if not flags & FAULT_FLAG_ALLOW_RETRY or fatal_signal_pending(task):
            return bool(flags & FAULT_FLAG_USER)
        flags = flags & ~FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_TRIED
        down_read(sem)
    up_read(sem)
    if fault & VM_FAULT_ERROR:
        return mm_fault_error(task, error_code, address, fault)
    if major:
        task.maj_flt += 1
    else:
        task.min_flt += 1
    if perf is not None:
        major = PERF_COUNT_SW_PAGE_FAULTS_MAJ if fault & VM_FAULT_MAJOR else PERF_COUNT_SW_PAGE_FAULTS_MIN
        perf.sw_event(major, bool(error_code & X86_PF_USER), address)
    return True


@notrace
def access_error(error_code: int, vma: VmAreaStruct) -> bool:
    """The area's rights do not allow this access."""
    if error_code & X86_PF_WRITE:
        return not vma.vm_flags & VM_WRITE
    if error_code & X86_PF_INSTR:
        return not vma.vm_flags & VM_EXEC
    # A read of a page that is present failed on its protection: only PROT_NONE and kernel pages do that.
    return not vma.vm_flags & (VM_READ | VM_EXEC | VM_WRITE)


def bad_area(task: TaskStruct, error_code: int, address: int, si_code: int) -> bool:
    assert task.mm is not None
    up_read(task.mm.mmap_sem)
    return __bad_area_nosemaphore(task, error_code, address, si_code)


def bad_area_nosemaphore(task: TaskStruct, error_code: int, address: int) -> bool:
    """Nothing is mapped there, and no lock is held."""
    return __bad_area_nosemaphore(task, error_code, address, SEGV_MAPERR)


def __bad_area_nosemaphore(task: TaskStruct, error_code: int, address: int, si_code: int) -> bool:
    """SIGSEGV for user code; the kernel's own access just fails."""
    if error_code & X86_PF_USER:
        thread = task.thread
        # Kernel addresses look alike from outside: what is mapped there is not told.
        thread.error_code = error_code | (X86_PF_PROT if address >= _TASK_SIZE else 0)
        thread.trap_nr = 14
        thread.cr2 = address
        force_sig_fault(SIGSEGV, si_code, address, task)
    return False


def mm_fault_error(task: TaskStruct, error_code: int, address: int, fault: int) -> bool:
    if fault & VM_FAULT_OOM:
        if not error_code & X86_PF_USER:
            return False                             # no_context(): the copy fails
        pagefault_out_of_memory(task)
        return True
    if fault & VM_FAULT_SIGBUS:
        if error_code & X86_PF_USER:
            thread = task.thread
            thread.trap_nr, thread.error_code, thread.cr2 = 14, error_code, address
            force_sig_fault(SIGBUS, BUS_ADRERR, address, task)
        return False
    return bad_area_nosemaphore(task, error_code, address)


def pagefault_out_of_memory(task: TaskStruct) -> None:
    """A fault got no memory: if nobody is at it, somebody has to end, perhaps this task (mm/oom_kill.c)."""
    mem = task.kernel.mem
    if not mem.oom_lock:
        mem.oom_lock = True
        try:
            task.kernel.out_of_memory(0, 0, None)
        finally:
            mem.oom_lock = False
