"""A breakpoint is hit: consumers hear of it, and the instruction below it is executed out of line.

Linux: kernel/events/uprobes.c (5.3): the half that runs. Same: the page [uprobes] with a slot for each instruction that
    somebody executes and the trampoline of return probes in slot 0; no signal is delivered in the middle of a step;
    return addresses that a child or a longjmp leaves behind.
Differs: SIGTRAP of a breakpoint that is not ours says so (SI_KERNEL), as since 5.8: else gdb takes it for a signal.
Owns: UprobeTask (task.utask), XolArea (mm.uprobes_state.xol_area).
Invariants: a task between pre_ssout() and handle_singlestep() owns one slot; the trampoline is on a stack only while
    utask.return_instances says what it stands for.
Context: the task itself, in its trap or on its way to user mode.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import IP, SP
from glasskernel.arch.x86.uprobes import (
    RP_CHECK_CALL,
    RP_CHECK_CHAIN_CALL,
    RP_CHECK_RET,
    UPROBE_SWBP_INSN,
    UPROBE_XOL_SLOT_BYTES,
    ArchUprobeTask,
    arch_uprobe_abort_xol,
    arch_uprobe_post_xol,
    arch_uprobe_pre_xol,
    arch_uprobe_skip_sstep,
    arch_uprobe_xol_was_trapped,
    arch_uretprobe_hijack_return_addr,
    arch_uretprobe_is_alive,
    xol_text,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.events.uprobes import Uprobe, UprobesMm, UprobesState, find_active_uprobe, put_uprobe
from glasskernel.kernel.locking.rwsem import down_read, down_write_killable, up_read, up_write
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up
from glasskernel.kernel.signal import __fatal_signal_pending, force_sig, recalc_sigpending, send_sig
from glasskernel.kernel.signal_types import SIGILL, SIGTRAP
from glasskernel.kernel.task import TIF_SIGPENDING, TIF_UPROBE
from glasskernel.kernel.task_work import CallbackHead, task_work_add
from glasskernel.lib.errno import EALREADY, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.mmap import _install_special_mapping, get_unmapped_area
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_HIGHUSER_MOVABLE, alloc_page, get_page, put_page
from glasskernel.mm.types import TASK_SIZE, VM_DONTCOPY, VM_EXEC, VM_IO, VM_MAYEXEC, VmOperations

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import MmStruct, VmAreaStruct, VmFault

UINSNS_PER_PAGE = 4096 // UPROBE_XOL_SLOT_BYTES
MAX_URETPROBE_DEPTH = 64
UTASK_RUNNING, UTASK_SSTEP, UTASK_SSTEP_ACK, UTASK_SSTEP_TRAPPED = range(4)
_CLONE_VFORK = 0x4000


@slotted
class XolArea:
    """struct xol_area. slots: which are taken."""

    vaddr: int
    pfn: int
    slots: list[bool] = field(default_factory=lambda: [True] + [False] * (UINSNS_PER_PAGE - 1))
    wq: WaitQueueHead = field(default_factory=WaitQueueHead)


@slotted
class ReturnInstance:
    """struct return_instance. stack: where sp was when the function began."""

    uprobe: Uprobe
    func: int
    stack: int
    orig_ret_vaddr: int
    chained: bool


@slotted
class UprobeTask:
    """struct uprobe_task. return_instances: the innermost call last."""

    state: int = UTASK_RUNNING
    active_uprobe: Uprobe | None = None
    vaddr: int = 0
    xol_vaddr: int = 0
    autask: ArchUprobeTask = field(default_factory=ArchUprobeTask)
    return_instances: list[ReturnInstance] = field(default_factory=list)
    dup_xol_addr: int = 0


@notrace
def uprobes_init(kernel: Kernel) -> None:
    """kernel.uprobes, for the first who registers."""
    if kernel.uprobes is not None:
        return
    state = UprobesState(kernel)
    state.uprobe_clear_state = uprobe_clear_state
    state.uprobe_copy_process = uprobe_copy_process
    state.uprobe_free_utask = uprobe_free_utask
    state.pre_sstep_notifier = uprobe_pre_sstep_notifier
    state.post_sstep_notifier = uprobe_post_sstep_notifier
    state.notify_resume = uprobe_notify_resume
    state.deny_signal = uprobe_deny_signal
    kernel.uprobes = state


# ---- the page [uprobes] ------------------------------------------------------------------------------------------
def xol_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """special_mapping_fault() of it."""
    area = vma.vm_private_data
    vmf.pfn = area.pfn
    get_page(vma.vm_mm.kernel, area.pfn)
    return 0


@notrace
def _xol_name(_vma: VmAreaStruct) -> bytes:
    return b"[uprobes]"


xol_vmops = VmOperations(fault=xol_fault, name=_xol_name)


@may_sleep
def xol_add_vma(mm: MmStruct, area: XolArea) -> None:
    """Maps it, at the top of the address space if it can be. Raises EALREADY, ENOMEM, EINTR."""
    state = mm.uprobes_state
    assert isinstance(state, UprobesMm)
    down_write_killable(mm.mmap_sem)
    try:
        if state.xol_area is not None:
            raise KernelError(EALREADY)
        if not area.vaddr:
            area.vaddr = get_unmapped_area(None, TASK_SIZE - 4096, 4096, 0, 0)
        _install_special_mapping(mm, area.vaddr, 4096, VM_EXEC | VM_MAYEXEC | VM_DONTCOPY | VM_IO, xol_vmops, area)
        state.xol_area = area
    finally:
        up_write(mm.mmap_sem)


@may_sleep
def __create_xol_area(vaddr: int) -> XolArea | None:
    mm = register.task.mm
    assert mm is not None
    kernel = mm.kernel
    area = XolArea(vaddr, alloc_page(kernel, GFP_HIGHUSER_MOVABLE | __GFP_ZERO))
    kernel.mem.ram[area.pfn << 12] = UPROBE_SWBP_INSN    # the trampoline
    try:
        xol_add_vma(mm, area)
    except KernelError:
        put_page(kernel, area.pfn)
        return None
    return area


@may_sleep
def get_xol_area() -> XolArea | None:
    """The current task's; None: there is no room for it."""
    mm = register.task.mm
    assert mm is not None
    if mm.uprobes_state is None:
        mm.uprobes_state = UprobesMm()
    if mm.uprobes_state.xol_area is None:
        __create_xol_area(0)
    area: XolArea | None = mm.uprobes_state.xol_area
    return area


def uprobe_clear_state(mm: MmStruct) -> None:
    """Nobody uses the address space any more."""
    state = mm.uprobes_state
    if state is not None and state.xol_area is not None:
        put_page(mm.kernel, state.xol_area.pfn)
        state.xol_area = None


@may_sleep
def xol_take_insn_slot(area: XolArea) -> int:
    if all(area.slots):
        wait_event(area.wq, lambda: not all(area.slots))
    slot = area.slots.index(False)
    area.slots[slot] = True
    return area.vaddr + slot * UPROBE_XOL_SLOT_BYTES


@may_sleep
def xol_get_insn_slot(uprobe: Uprobe, kernel: Kernel) -> int:
    """A slot that holds the copy of its instruction; 0: there is none."""
    area = get_xol_area()
    if area is None or uprobe.arch is None:
        return 0
    xol_vaddr = xol_take_insn_slot(area)
    at = (area.pfn << 12) + (xol_vaddr & 0xFFF)
    text = xol_text(uprobe.arch)
    mem = kernel.mem
    if mem.ram[at : at + len(text)] != text:      # arch_uprobe_copy_ixol(); translated code is dropped only if it must
        mem.note_kernel_write(area.pfn)
        mem.ram[at : at + len(text)] = text
    return xol_vaddr


def xol_free_insn_slot(task: TaskStruct) -> None:
    utask, mm = task.utask, task.mm
    if utask is None or not utask.xol_vaddr or mm is None or mm.uprobes_state is None:
        return
    area = mm.uprobes_state.xol_area
    if area is not None and area.vaddr <= utask.xol_vaddr < area.vaddr + 4096:
        area.slots[(utask.xol_vaddr - area.vaddr) // UPROBE_XOL_SLOT_BYTES] = False
        utask.xol_vaddr = 0
        if area.wq.entries:
            wake_up(area.wq)


@notrace
def get_trampoline_vaddr(mm: MmStruct) -> int:
    """Where a return probe lets functions return to; -1: nowhere yet."""
    state = mm.uprobes_state
    return state.xol_area.vaddr if state is not None and state.xol_area is not None else -1


# ---- tasks come and go -------------------------------------------------------------------------------------------
@notrace
def get_utask() -> UprobeTask:
    task = register.task
    if task.utask is None:
        task.utask = UprobeTask()
    utask: UprobeTask = task.utask
    return utask


def free_ret_instance(ri: ReturnInstance) -> None:
    put_uprobe(ri.uprobe)


def uprobe_free_utask(task: TaskStruct) -> None:
    """The task exits, or executes another program."""
    utask = task.utask
    if utask is None:
        return
    if utask.active_uprobe is not None:
        put_uprobe(utask.active_uprobe)
        task.ti_flags &= ~TIF_UPROBE
    for ri in reversed(utask.return_instances):
        free_ret_instance(ri)
    xol_free_insn_slot(task)
    task.utask = None


def uprobe_copy_process(child: TaskStruct, flags: int) -> None:
    """fork(2): a child with a stack of its own returns through the trampoline, too."""
    task = register.task
    utask, mm = task.utask, task.mm
    child.utask = None
    if utask is None or not utask.return_instances or mm is None:
        return
    if child.mm is mm and not flags & _CLONE_VFORK:
        return
    dup_utask(child, utask)
    area = mm.uprobes_state.xol_area if mm.uprobes_state is not None else None
    if child.mm is mm or area is None:
        return
    child.utask.dup_xol_addr = area.vaddr
    task_work_add(child, CallbackHead(dup_xol_work, child), True)


def dup_utask(child: TaskStruct, utask: UprobeTask) -> None:
    child.utask = UprobeTask()
    for ri in utask.return_instances:
        ri.uprobe.ref += 1                        # get_uprobe()
        child.utask.return_instances.append(
            ReturnInstance(ri.uprobe, ri.func, ri.stack, ri.orig_ret_vaddr, ri.chained))


@may_sleep
def dup_xol_work(child: TaskStruct) -> None:
    """The child's own page, at the same address: its mm did not inherit it."""
    if child.exit_state or child.utask is None or child.mm is None:
        return
    if child.mm.uprobes_state is None:
        child.mm.uprobes_state = UprobesMm(None, False, False)
    __create_xol_area(child.utask.dup_xol_addr)


# ---- a hit -------------------------------------------------------------------------------------------------------
def uprobe_pre_sstep_notifier(task: TaskStruct) -> bool:
    """int3: whether it may be ours. Then the way back to user mode looks at it."""
    mm = task.mm
    state = mm.uprobes_state if mm is not None else None
    if state is None:
        return False
    if not state.has_uprobes and not (task.utask is not None and task.utask.return_instances):
        return False
    task.ti_flags |= TIF_UPROBE
    return True


def uprobe_post_sstep_notifier(task: TaskStruct) -> bool:
    """#DB: whether it ends a step of ours."""
    utask = task.utask
    if utask is None or utask.active_uprobe is None:
        return False
    utask.state = UTASK_SSTEP_ACK
    task.ti_flags |= TIF_UPROBE
    return True


@may_sleep
def uprobe_notify_resume(task: TaskStruct) -> None:
    """TIF_UPROBE is set: a breakpoint, or the end of a step."""
    task.ti_flags &= ~TIF_UPROBE
    utask = task.utask
    if utask is not None and utask.active_uprobe is not None:
        handle_singlestep(utask, task)
    else:
        handle_swbp(task)


@may_sleep
def handle_swbp(task: TaskStruct) -> None:
    regs = task.thread.regs
    bp_vaddr = regs[IP] - 1
    assert task.mm is not None
    if bp_vaddr == get_trampoline_vaddr(task.mm):
        handle_trampoline(task)
        return
    uprobe, is_swbp = find_active_uprobe(task, bp_vaddr)
    if uprobe is None:
        if is_swbp:
            force_sig(SIGTRAP)                    # the program's own breakpoint, or a debugger's
        else:
            regs[IP] = bp_vaddr                   # it was taken out just now: the instruction runs
        return
    regs[IP] = bp_vaddr
    if uprobe.arch is None:
        put_uprobe(uprobe)
        return
    get_utask()
    handler_chain(uprobe, task)
    if arch_uprobe_skip_sstep(uprobe.arch, task):
        put_uprobe(uprobe)
        return
    if not pre_ssout(uprobe, task, bp_vaddr):
        put_uprobe(uprobe)


@may_sleep
def handler_chain(uprobe: Uprobe, task: TaskStruct) -> None:
    need_prep = False
    down_read(uprobe.register_rwsem)
    try:
        for consumer in uprobe.consumers:
            if consumer.handler is not None:
                consumer.handler(task)
            if consumer.ret_handler is not None:
                need_prep = True
        if need_prep:
            prepare_uretprobe(uprobe, task)
    finally:
        up_read(uprobe.register_rwsem)


@may_sleep
def pre_ssout(uprobe: Uprobe, task: TaskStruct, bp_vaddr: int) -> bool:
    """Sends the task to the copy of the instruction. False: it cannot; the breakpoint will be hit again."""
    utask = get_utask()
    xol_vaddr = xol_get_insn_slot(uprobe, task.kernel)
    if not xol_vaddr:
        return False
    assert uprobe.arch is not None
    utask.xol_vaddr, utask.vaddr = xol_vaddr, bp_vaddr
    arch_uprobe_pre_xol(uprobe.arch, utask.autask, task, bp_vaddr, xol_vaddr)
    utask.active_uprobe = uprobe
    utask.state = UTASK_SSTEP
    return True


def handle_singlestep(utask: UprobeTask, task: TaskStruct) -> None:
    """The step is done, or a signal ended it."""
    uprobe = utask.active_uprobe
    assert uprobe is not None and uprobe.arch is not None
    if utask.state == UTASK_SSTEP_ACK:
        if arch_uprobe_post_xol(uprobe.arch, utask.autask, task, utask.vaddr, utask.xol_vaddr):
            send_sig(SIGTRAP, task, 0)
    else:
        assert utask.state == UTASK_SSTEP_TRAPPED, utask.state
        arch_uprobe_abort_xol(uprobe.arch, utask.autask, task, utask.vaddr)
    put_uprobe(uprobe)
    utask.active_uprobe = None
    utask.state = UTASK_RUNNING
    xol_free_insn_slot(task)
    recalc_sigpending()


def uprobe_deny_signal(task: TaskStruct) -> bool:
    """Whether signals must wait for the end of a step."""
    utask = task.utask
    if utask is None or utask.active_uprobe is None:
        return False
    if task.ti_flags & TIF_SIGPENDING:
        task.ti_flags &= ~TIF_SIGPENDING
        if __fatal_signal_pending(task) or arch_uprobe_xol_was_trapped(task):
            utask.state = UTASK_SSTEP_TRAPPED
            task.ti_flags |= TIF_UPROBE
    return True


# ---- returns -----------------------------------------------------------------------------------------------------
@may_sleep
def prepare_uretprobe(uprobe: Uprobe, task: TaskStruct) -> None:
    """A function begins: it will return to the trampoline."""
    if get_xol_area() is None:
        return
    utask = get_utask()
    assert task.mm is not None
    if len(utask.return_instances) >= MAX_URETPROBE_DEPTH:
        task.kernel.printk(f"uprobe: omit uretprobe due to nestedness limit pid/tgid={task.pid}/{task.tgid}", 4)
        return
    trampoline = get_trampoline_vaddr(task.mm)
    try:
        orig_ret_vaddr = arch_uretprobe_hijack_return_addr(task, trampoline)
    except KernelError:
        return
    chained = orig_ret_vaddr == trampoline
    cleanup_return_instances(utask, chained, task)
    if chained:                                   # a tail call, or a second consumer's place
        if not utask.return_instances:
            return
        orig_ret_vaddr = utask.return_instances[-1].orig_ret_vaddr
    uprobe.ref += 1
    regs = task.thread.regs
    utask.return_instances.append(ReturnInstance(uprobe, regs[IP], regs[SP], orig_ret_vaddr, chained))


def cleanup_return_instances(utask: UprobeTask, chained: bool, task: TaskStruct) -> None:
    """Frames that were left without a return: longjmp(3), exceptions."""
    check = RP_CHECK_CHAIN_CALL if chained else RP_CHECK_CALL
    instances = utask.return_instances
    while instances and not arch_uretprobe_is_alive(instances[-1].stack, check, task):
        free_ret_instance(instances.pop())


@may_sleep
def handle_uretprobe_chain(ri: ReturnInstance, task: TaskStruct) -> None:
    down_read(ri.uprobe.register_rwsem)
    try:
        for consumer in ri.uprobe.consumers:
            if consumer.ret_handler is not None:
                consumer.ret_handler(ri.func, task)
    finally:
        up_read(ri.uprobe.register_rwsem)


@notrace
def find_next_ret_chain(instances: list[ReturnInstance]) -> int:
    """How many of the innermost instances end with this one return."""
    count = 1
    while instances[-count].chained and count < len(instances):
        count += 1
    return count


@may_sleep
def handle_trampoline(task: TaskStruct) -> None:
    """A function returned: those who wait for it hear of it, and the task goes where it was called from."""
    utask = task.utask
    if utask is None or not utask.return_instances:
        force_sig(SIGILL)
        return
    instances = utask.return_instances
    valid = False
    while not valid and instances:
        count = find_next_ret_chain(instances)
        chain = instances[-count:]
        following = instances[-count - 1] if count < len(instances) else None
        valid = following is None or arch_uretprobe_is_alive(following.stack, RP_CHECK_RET, task)
        task.thread.regs[IP] = chain[-1].orig_ret_vaddr
        for ri in reversed(chain):
            if valid:
                handle_uretprobe_chain(ri, task)
            free_ret_instance(ri)
        del instances[-count:]
