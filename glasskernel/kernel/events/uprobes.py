"""Breakpoints in the code of programs: at a place of a file, in every process that maps it.

Linux: kernel/events/uprobes.c (5.3): the half that registers. Same: an int3 in a private copy of the page, set when a
    file is mapped and in whoever maps it already, taken out again with the last consumer; an instruction that cannot be
    executed elsewhere is refused.
Differs: kernel.uprobes is made by the first who registers: until then nothing asks. Breakpoints of a file are found by
    its inode in a dict, not in one tree of all.
Owns: UprobesState, Uprobe. uprobes_xol.py has what happens when one is hit.
Invariants: while a uprobe has a consumer, every area that may be executed and maps its place has the breakpoint.
Lock order: uprobe.register_rwsem, then mm.mmap_sem.
Gaps: reference counters (SDT semaphores); filters of consumers.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import PTE_MASK, PTE_PRESENT, lookup_pte
from glasskernel.arch.x86.uprobes import MAX_UINSN_BYTES, UPROBE_SWBP_INSN, ArchUprobe, arch_uprobe_analyze_insn
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.rwsem import RwSemaphore, down_read, down_write, up_read, up_write
from glasskernel.lib.errno import EAGAIN, EINVAL, EIO, ENOTSUPP, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import read_mapping_page
from glasskernel.mm.memory import get_user_pages_remote, set_pte_at
from glasskernel.mm.mmap import mmget, mmput
from glasskernel.mm.page_alloc import GFP_HIGHUSER_MOVABLE, alloc_pages_vma, put_page
from glasskernel.mm.rmap import anon_vma_prepare, mm_counter, page_add_new_anon_rmap, page_remove_rmap
from glasskernel.mm.swap import lru_cache_add_active_or_unevictable
from glasskernel.mm.tlb import ptep_clear_flush
from glasskernel.mm.types import VM_MAYEXEC, VM_MAYSHARE, VM_WRITE

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.events.uprobes_xol import XolArea
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import AddressSpace, MmStruct, VmAreaStruct


@slotted
class UprobeConsumer:
    """struct uprobe_consumer. handler(task), ret_handler(func, task): called in the task that hit it. May sleep."""

    handler: Callable[[TaskStruct], None] | None = None
    ret_handler: Callable[[int, TaskStruct], None] | None = None


@slotted
class Uprobe:
    """struct uprobe. arch: the instruction, once somebody maps it (UPROBE_COPY_INSN)."""

    inode: Inode
    offset: int
    ref: int = 1
    register_rwsem: RwSemaphore = field(default_factory=RwSemaphore)
    consumers: list[UprobeConsumer] = field(default_factory=list)
    arch: ArchUprobe | None = None


@slotted
class UprobesMm:
    """struct uprobes_state of an address space that has breakpoints (MMF_HAS_UPROBES)."""

    xol_area: XolArea | None = None
    has_uprobes: bool = True                      # MMF_HAS_UPROBES
    recalc: bool = False                          # MMF_RECALC_UPROBES


class UprobesState:
    """kernel.uprobes: all breakpoints, and what other rooms call."""

    __slots__ = ("deny_signal", "dup_mmap_sem", "kernel", "notify_resume", "post_sstep_notifier", "pre_sstep_notifier",
                 "probes", "uprobe_clear_state", "uprobe_copy_process", "uprobe_dup_mmap", "uprobe_end_dup_mmap",
                 "uprobe_free_utask", "uprobe_mmap", "uprobe_munmap", "uprobe_start_dup_mmap")

    def __init__(self, kernel: Kernel) -> None:
        """uprobes_xol.uprobes_init() sets its own half of the functions."""
        self.kernel = kernel
        self.probes: dict[Inode, dict[int, Uprobe]] = {}
        self.dup_mmap_sem = RwSemaphore()         # a fork and a registration do not overlap
        self.uprobe_start_dup_mmap: Callable[[UprobesState], None] = uprobe_start_dup_mmap
        self.uprobe_end_dup_mmap: Callable[[UprobesState], None] = uprobe_end_dup_mmap
        self.uprobe_mmap: Callable[[VmAreaStruct], None] = uprobe_mmap
        self.uprobe_munmap: Callable[[VmAreaStruct, int, int], None] = uprobe_munmap
        self.uprobe_dup_mmap: Callable[[MmStruct, MmStruct], None] = uprobe_dup_mmap
        self.uprobe_clear_state: Callable[[MmStruct], None]
        self.uprobe_copy_process: Callable[[TaskStruct, int], None]
        self.uprobe_free_utask: Callable[[TaskStruct], None]
        self.pre_sstep_notifier: Callable[[TaskStruct], bool]
        self.post_sstep_notifier: Callable[[TaskStruct], bool]
        self.notify_resume: Callable[[TaskStruct], None]
        self.deny_signal: Callable[[TaskStruct], bool]


@notrace
def uprobes_state(kernel: Kernel) -> UprobesState:
    assert kernel.uprobes is not None
    return kernel.uprobes


# ---- the breakpoint in one address space -------------------------------------------------------------------------
@notrace
def valid_vma(vma: VmAreaStruct, is_register: bool) -> bool:
    """Code of a file, private to the process."""
    flags = VM_MAYEXEC | VM_MAYSHARE | (VM_WRITE if is_register else 0)
    return vma.vm_file is not None and vma.vm_flags & flags == VM_MAYEXEC


@notrace
def offset_to_vaddr(vma: VmAreaStruct, offset: int) -> int:
    return vma.vm_start + offset - (vma.vm_pgoff << 12)


@notrace
def vaddr_to_offset(vma: VmAreaStruct, vaddr: int) -> int:
    return (vma.vm_pgoff << 12) + vaddr - vma.vm_start


@notrace
def vma_at(mm: MmStruct, vaddr: int) -> VmAreaStruct | None:
    """The area that contains an address, of any address space."""
    vma = mm.vmas.first_ending_after(vaddr)
    return vma if vma is not None and vma.vm_start <= vaddr else None


def __replace_page(vma: VmAreaStruct, address: int, old: int, new: int) -> None:
    """The area maps another frame there, an anonymous one. Raises EAGAIN: it maps not `old` any more."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    slot = lookup_pte(mem.ram64, mm.pgd, address)
    entry = mem.ram64[slot] if slot else 0
    if not slot or not entry & PTE_PRESENT or (entry & PTE_MASK) >> 12 != old:
        raise KernelError(EAGAIN)
    page_add_new_anon_rmap(vma, address, new)
    lru_cache_add_active_or_unevictable(kernel, new, vma)
    ptep_clear_flush(vma, address, slot)
    set_pte_at(vma, slot, new, False)
    mm.rss_stat[mm_counter(mem.flags[old])] -= 1
    page_remove_rmap(kernel, old)
    put_page(kernel, old)


@may_sleep
def uprobe_write_opcode(mm: MmStruct, vaddr: int, opcode: int) -> None:
    """One byte of code becomes another, in this address space only. Locks: mm.mmap_sem held for writing."""
    kernel = mm.kernel
    mem = kernel.mem
    while True:
        old = get_user_pages_remote(mm, vaddr, False, True)
        if (mem.ram[(old << 12) + (vaddr & 0xFFF)] == UPROBE_SWBP_INSN) == (opcode == UPROBE_SWBP_INSN):
            return                                # verify_opcode(): it is there, or was never
        vma = vma_at(mm, vaddr)
        assert vma is not None
        mem.refcount[old] += 1
        try:
            anon_vma_prepare(vma)
            new = alloc_pages_vma(kernel, GFP_HIGHUSER_MOVABLE, 0, vma, vaddr)
            mem.ram[new << 12 : (new + 1) << 12] = mem.ram[old << 12 : (old + 1) << 12]
            mem.ram[(new << 12) + (vaddr & 0xFFF)] = opcode
            try:
                __replace_page(vma, vaddr & ~0xFFF, old, new)
                return
            except KernelError:                   # somebody was faster: again
                put_page(kernel, new)
        finally:
            put_page(kernel, old)


def set_swbp(mm: MmStruct, vaddr: int) -> None:
    uprobe_write_opcode(mm, vaddr, UPROBE_SWBP_INSN)


def set_orig_insn(arch: ArchUprobe, mm: MmStruct, vaddr: int) -> None:
    uprobe_write_opcode(mm, vaddr, arch.insn[0])


@may_sleep
def copy_insn(mapping: AddressSpace, kernel: Kernel, offset: int, size: int) -> bytes:
    """What the file has there: the breakpoint is in copies only. Raises EIO."""
    code = b""
    while size > 0:
        at = offset & 0xFFF
        chunk = min(4096 - at, size)
        pfn = read_mapping_page(mapping, offset >> 12, None)
        code += kernel.mem.ram[(pfn << 12) + at : (pfn << 12) + at + chunk].tobytes()
        put_page(kernel, pfn)
        offset += chunk
        size -= chunk
    return code


@may_sleep
def prepare_uprobe(uprobe: Uprobe, mm: MmStruct, vma: VmAreaStruct) -> ArchUprobe:
    """The instruction, looked at once. Raises ENOTSUPP, ENOEXEC, EIO."""
    if uprobe.arch is None:
        assert vma.vm_file is not None
        mapping = vma.vm_file.f_mapping
        size = min(MAX_UINSN_BYTES, uprobe.inode.i_size - uprobe.offset)
        if size <= 0:
            raise KernelError(EIO)
        code = copy_insn(mapping, mm.kernel, uprobe.offset, size)
        if code[0] == UPROBE_SWBP_INSN:
            raise KernelError(ENOTSUPP)
        uprobe.arch = arch_uprobe_analyze_insn(code)
    return uprobe.arch


@may_sleep
def install_breakpoint(uprobe: Uprobe, mm: MmStruct, vma: VmAreaStruct, vaddr: int) -> None:
    """Locks: mm.mmap_sem held for writing. Raises ENOTSUPP, ENOEXEC, EIO, ENOMEM."""
    prepare_uprobe(uprobe, mm, vma)
    if mm.uprobes_state is None:
        mm.uprobes_state = UprobesMm()
    mm.uprobes_state.has_uprobes = True
    mm.uprobes_state.recalc = False
    set_swbp(mm, vaddr)


@may_sleep
def remove_breakpoint(uprobe: Uprobe, mm: MmStruct, vaddr: int) -> None:
    if mm.uprobes_state is not None and uprobe.arch is not None:
        mm.uprobes_state.recalc = True
        set_orig_insn(uprobe.arch, mm, vaddr)


# ---- the breakpoint of a file ------------------------------------------------------------------------------------
@notrace
def find_uprobe(kernel: Kernel, inode: Inode, offset: int) -> Uprobe | None:
    """With a reference."""
    uprobe = uprobes_state(kernel).probes.get(inode, {}).get(offset)
    if uprobe is not None:
        uprobe.ref += 1
    return uprobe


@notrace
def put_uprobe(uprobe: Uprobe) -> None:
    uprobe.ref -= 1


def alloc_uprobe(kernel: Kernel, inode: Inode, offset: int) -> Uprobe:
    """The one that is there, or a new one; with a reference."""
    found = find_uprobe(kernel, inode, offset)
    if found is None:
        found = Uprobe(inode, offset, 2)          # access and creation
        uprobes_state(kernel).probes.setdefault(inode, {})[offset] = found
    return found


def delete_uprobe(kernel: Kernel, uprobe: Uprobe) -> None:
    probes = uprobes_state(kernel).probes
    of_file = probes[uprobe.inode]
    del of_file[uprobe.offset]
    if not of_file:
        del probes[uprobe.inode]
    put_uprobe(uprobe)


def build_map_info(mapping: AddressSpace, offset: int, is_register: bool) -> list[tuple[MmStruct, int]]:
    """(address space, address) of everybody who maps the place; each with a reference."""
    found = []
    for vma in tuple(mapping.i_mmap):
        if valid_vma(vma, is_register) and vma.vm_pgoff << 12 <= offset < vaddr_to_offset(vma, vma.vm_end):
            if vma.vm_mm.mm_users:                # mmget_not_zero(): it is not being torn down
                mmget(vma.vm_mm)
                found.append((vma.vm_mm, offset_to_vaddr(vma, offset)))
    return found


@may_sleep
def register_for_each_vma(uprobe: Uprobe, mapping: AddressSpace, new: bool) -> None:
    """Sets the breakpoint in all who map it, or takes it out. Raises what install_breakpoint() raises."""
    error: KernelError | None = None
    sem = uprobes_state(register.task.kernel).dup_mmap_sem
    down_write(sem)
    try:
        areas = build_map_info(mapping, uprobe.offset, new)
    finally:
        up_write(sem)
    for mm, vaddr in areas:
        down_write(mm.mmap_sem)
        try:
            vma = vma_at(mm, vaddr)
            if (error is None and vma is not None and valid_vma(vma, new) and vma.vm_file is not None
                    and vma.vm_file.f_mapping is mapping and vaddr_to_offset(vma, vaddr) == uprobe.offset):
                if new:
                    install_breakpoint(uprobe, mm, vma, vaddr)
                else:
                    remove_breakpoint(uprobe, mm, vaddr)
        except KernelError as failure:
            error = KernelError(failure.errno)
        finally:
            up_write(mm.mmap_sem)
            mmput(mm)
    if error is not None and new:
        raise error


@may_sleep
def uprobe_register(kernel: Kernel, inode: Inode, offset: int, consumer: UprobeConsumer) -> None:
    """From now on the consumer hears of everybody who executes the instruction at `offset` of a file.

    Context: task. Raises EINVAL, EIO, ENOTSUPP, ENOEXEC.
    """
    if consumer.handler is None and consumer.ret_handler is None:
        raise KernelError(EINVAL)
    if offset > inode.i_size:
        raise KernelError(EINVAL)
    uprobe = alloc_uprobe(kernel, inode, offset)
    down_write(uprobe.register_rwsem)
    try:
        uprobe.consumers.append(consumer)         # consumer_add()
        try:
            register_for_each_vma(uprobe, inode.i_mapping, True)
        except KernelError:
            __uprobe_unregister(kernel, uprobe, consumer)
            raise
    finally:
        up_write(uprobe.register_rwsem)
        put_uprobe(uprobe)


@may_sleep
def __uprobe_unregister(kernel: Kernel, uprobe: Uprobe, consumer: UprobeConsumer) -> None:
    uprobe.consumers.remove(consumer)             # consumer_del()
    if uprobe.consumers:
        return                                    # others still want it
    register_for_each_vma(uprobe, uprobe.inode.i_mapping, False)
    delete_uprobe(kernel, uprobe)


@may_sleep
def uprobe_unregister(kernel: Kernel, inode: Inode, offset: int, consumer: UprobeConsumer) -> None:
    """It hears no more. Context: task."""
    uprobe = find_uprobe(kernel, inode, offset)
    assert uprobe is not None
    down_write(uprobe.register_rwsem)
    try:
        __uprobe_unregister(kernel, uprobe, consumer)
    finally:
        up_write(uprobe.register_rwsem)
        put_uprobe(uprobe)


# ---- what changes address spaces ---------------------------------------------------------------------------------
@may_sleep
def uprobe_mmap(vma: VmAreaStruct) -> None:
    """An area is new, or has grown. Locks: mm.mmap_sem held for writing."""
    mm = vma.vm_mm
    probes = uprobes_state(mm.kernel).probes
    if not probes or not valid_vma(vma, True):    # no_uprobe_events()
        return
    assert vma.vm_file is not None
    inode = vma.vm_file.f_mapping.host
    if inode is None:
        return
    for offset, uprobe in sorted(probes.get(inode, {}).items()):         # build_probe_list()
        if vma.vm_pgoff << 12 <= offset < vaddr_to_offset(vma, vma.vm_end):
            try:
                install_breakpoint(uprobe, mm, vma, offset_to_vaddr(vma, offset))
            except KernelError:                   # mmap(2) does not fail for it
                continue


def uprobe_munmap(vma: VmAreaStruct, start: int, end: int) -> None:
    """Breakpoints may go: the next hit that finds none counts again."""
    state = vma.vm_mm.uprobes_state
    if state is not None and valid_vma(vma, False):
        state.recalc = True


@may_sleep
def uprobe_start_dup_mmap(state: UprobesState) -> None:
    down_read(state.dup_mmap_sem)


def uprobe_end_dup_mmap(state: UprobesState) -> None:
    up_read(state.dup_mmap_sem)


def uprobe_dup_mmap(oldmm: MmStruct, newmm: MmStruct) -> None:
    """A child has its parent's breakpoints, with its pages."""
    if oldmm.uprobes_state is not None:
        newmm.uprobes_state = UprobesMm(None, oldmm.uprobes_state.has_uprobes, True)


@may_sleep
def find_active_uprobe(task: TaskStruct, bp_vaddr: int) -> tuple[Uprobe | None, bool]:
    """(the uprobe whose breakpoint was hit, whether a breakpoint is there at all)."""
    mm = task.mm
    assert mm is not None
    uprobe, is_swbp = None, False
    down_read(mm.mmap_sem)
    try:
        vma = vma_at(mm, bp_vaddr)
        if vma is None:
            return None, True                     # EFAULT: the signal says so
        if valid_vma(vma, False):
            assert vma.vm_file is not None
            host = vma.vm_file.f_mapping.host
            if host is not None:
                uprobe = find_uprobe(mm.kernel, host, vaddr_to_offset(vma, bp_vaddr))
        if uprobe is None:
            is_swbp = is_trap_at_addr(mm, bp_vaddr)
            if mm.uprobes_state is not None and mm.uprobes_state.recalc:
                mm.uprobes_state.recalc = False
                mmf_recalc_uprobes(mm)
    finally:
        up_read(mm.mmap_sem)
    return uprobe, is_swbp


def mmf_recalc_uprobes(mm: MmStruct) -> None:
    """Whether any area of it can still have a breakpoint."""
    probes = uprobes_state(mm.kernel).probes
    for vma in mm.vmas:
        if valid_vma(vma, False):
            assert vma.vm_file is not None
            host = vma.vm_file.f_mapping.host
            if host is not None and vma_has_uprobes(probes.get(host, {}), vma):
                return
    assert mm.uprobes_state is not None
    mm.uprobes_state.has_uprobes = False


def vma_has_uprobes(probes: dict[int, Uprobe], vma: VmAreaStruct) -> bool:
    end = vaddr_to_offset(vma, vma.vm_end)
    return any(vma.vm_pgoff << 12 <= offset < end for offset in probes)


@may_sleep
def is_trap_at_addr(mm: MmStruct, vaddr: int) -> bool:
    try:
        pfn = get_user_pages_remote(mm, vaddr, False, True)
    except KernelError:
        return True
    return mm.kernel.mem.ram[(pfn << 12) + (vaddr & 0xFFF)] == UPROBE_SWBP_INSN
