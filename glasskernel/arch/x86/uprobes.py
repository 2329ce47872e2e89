"""Which instructions may bear a breakpoint, and how the one below it is executed all the same.

Linux: arch/x86/kernel/uprobes.c (5.3). Same: branches, calls and pushes are emulated; anything else is executed in a
    copy, in another place, and what depends on the place is mended: the instruction pointer, the return address of a
    call, %rip-relative operands (through a register that the instruction has not).
Owns: nothing. Context: task, on its way to user mode.
Differs: pushf pushes the program's own trap flag (Linux: the one of the step).
Gaps: 32-bit code.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.insn import Insn, insn_get_length
from glasskernel.arch.x86.ptrace import BX, DI, IP, SI, SP
from glasskernel.arch.x86.step import X86_EFLAGS_TF
from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.lib.errno import ENOTSUPP, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

UPROBE_SWBP_INSN = 0xCC
MAX_UINSN_BYTES = 16
UPROBE_XOL_SLOT_BYTES = 128
UPROBE_TRAP_NR = -1                # thread.trap_nr while the copy runs: any exception changes it
UPROBE_FIX_IP, UPROBE_FIX_CALL, UPROBE_FIX_SETF, UPROBE_FIX_PUSHF = 1, 2, 4, 8
RP_CHECK_CALL, RP_CHECK_CHAIN_CALL, RP_CHECK_RET = range(3)

_BAD_PREFIXES = b"\x26\x2e\x36\x3e\xf0"
_BAD = frozenset([*range(0x6C, 0x70), 0xCC, 0xCD, 0xCF, *range(0xE4, 0xE8), *range(0xEC, 0xF0), 0xF1, 0xF4, 0xFA, 0xFB])
_BAD_0F = frozenset((0x00, 0x01, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x30, 0x34, 0x35, 0x37, 0x78, 0x79, 0xAE))
_CF, _PF, _ZF, _SF, _OF = 0x1, 0x4, 0x40, 0x80, 0x800
_NOP = b"\x90"


@slotted
class ArchUprobe:
    """struct arch_uprobe. ixol: what is executed out of line. kind: default, branch or push (->ops)."""

    insn: bytes
    ixol: bytes
    ilen: int
    kind: str = "default"
    opcode: int = 0                               # of a branch: its last byte
    offs: int = 0                                 # where a branch goes, from its end
    register: int = 0                             # what is pushed
    scratch: int = -1                             # which register stands for %rip
    fixups: int = 0


@slotted
class ArchUprobeTask:
    """struct arch_uprobe_task: what must come back afterwards."""

    saved_scratch_register: int = 0
    saved_trap_nr: int = 0
    saved_tf: bool = False


# ---- looking at an instruction -----------------------------------------------------------------------------------
def arch_uprobe_analyze_insn(code: bytes) -> ArchUprobe:
    """What to do with the instruction at the beginning of `code`. Raises ENOEXEC, ENOTSUPP."""
    insn = uprobe_init_insn(code)
    body = code[: insn.length]
    probe = ArchUprobe(body, body, insn.length)
    if branch_setup_xol_ops(probe, insn) or push_setup_xol_ops(probe, insn):
        return probe
    probe.fixups = UPROBE_FIX_IP
    if insn.map == 0 and not insn.vex:
        if insn.opcode == 0x9D:                   # popf
            probe.fixups |= UPROBE_FIX_SETF
        elif insn.opcode == 0x9C:                 # pushf
            probe.fixups |= UPROBE_FIX_PUSHF
        elif insn.opcode in (0xC2, 0xC3, 0xCA, 0xCB):
            probe.fixups = 0                      # it knows where it goes
        elif insn.opcode == 0xFF and insn.reg in (2, 3):
            probe.fixups = UPROBE_FIX_CALL
        elif insn.opcode == 0xFF and insn.reg in (4, 5):
            probe.fixups = 0
    riprel_analyze(probe, insn)
    return probe


def uprobe_init_insn(code: bytes) -> Insn:
    insn = insn_get_length(code)
    if any(prefix in _BAD_PREFIXES for prefix in insn.prefixes):
        raise KernelError(ENOTSUPP)
    if not insn.vex and (insn.opcode in _BAD if insn.map == 0 else insn.map == 1 and insn.opcode in _BAD_0F):
        raise KernelError(ENOTSUPP)
    return insn


def branch_setup_xol_ops(probe: ArchUprobe, insn: Insn) -> bool:
    """jmp, call, jcc and nop (a jump to what follows). Raises ENOTSUPP: with 16-bit operands."""
    if insn.vex:
        return False
    opcode = insn.opcode
    if insn.map == 1:
        if opcode & 0xF0 != 0x80:
            return False
        opcode -= 0x10                            # jcc with a long offset
    elif insn.map or not (opcode in (0x90, 0xE8, 0xE9, 0xEB) or opcode & 0xF0 == 0x70):
        return False
    if opcode == 0x90 and insn.rex & 1:           # xchg %r8, %rax
        return False
    if b"\x66" in insn.prefixes:
        raise KernelError(ENOTSUPP)
    probe.kind, probe.opcode, probe.offs = "branch", opcode, insn.immediate
    return True


def push_setup_xol_ops(probe: ArchUprobe, insn: Insn) -> bool:
    """push of a register."""
    if insn.vex or insn.map or not 0x50 <= insn.opcode <= 0x57 or insn.prefixes or insn.rex not in (0, 0x41):
        return False
    probe.kind, probe.register = "push", insn.opcode - 0x50 + (8 if insn.rex else 0)
    return True


def riprel_analyze(probe: ArchUprobe, insn: Insn) -> None:
    """An operand relative to %rip becomes one relative to a register that holds what %rip would."""
    if not insn.rip_relative:
        return
    copy = bytearray(probe.insn)
    if insn.rex_at >= 0:
        copy[insn.rex_at] &= 0xFE
    elif insn.vex and copy[len(insn.prefixes)] == 0xC4:
        copy[len(insn.prefixes) + 1] |= 0x60
    reg = insn.reg
    used = (reg, insn.vex_vvvv)
    base = SI if SI not in used else DI if DI not in used else BX
    copy[insn.modrm_at] = 0x80 | reg << 3 | base
    probe.ixol, probe.scratch = bytes(copy), base


# ---- instead of executing it -------------------------------------------------------------------------------------
def arch_uprobe_skip_sstep(probe: ArchUprobe, task: TaskStruct) -> bool:
    """Whether the instruction was emulated."""
    regs = task.thread.regs
    if probe.kind == "branch":
        return branch_emulate_op(probe, task)
    if probe.kind == "push":
        value = regs[probe.register]
        if not emulate_push_stack(task, value):
            return False
        regs[IP] = regs[IP] + probe.ilen & U64_MAX
        return True
    return False


def branch_emulate_op(probe: ArchUprobe, task: TaskStruct) -> bool:
    regs = task.thread.regs
    new_ip = regs[IP] + probe.ilen
    offs = probe.offs
    if probe.opcode == 0xE8:
        if not emulate_push_stack(task, new_ip):
            return False                          # the copy is executed: it faults as the instruction would
    elif probe.opcode & 0xF0 == 0x70 and not check_jmp_cond(probe.opcode, task.thread.get_eflags()):
        offs = 0
    regs[IP] = new_ip + offs & U64_MAX
    return True


@notrace
def check_jmp_cond(opcode: int, flags: int) -> bool:
    """Whether a jcc jumps."""
    less = bool(flags & _SF) != bool(flags & _OF)
    condition = (
        flags & _OF, flags & _CF, flags & _ZF, flags & (_CF | _ZF), flags & _SF, flags & _PF, less, less or flags & _ZF,
    )[opcode >> 1 & 7]
    return bool(condition) != bool(opcode & 1)


def emulate_push_stack(task: TaskStruct, value: int) -> bool:
    """False: the stack cannot be written."""
    sp = task.thread.regs[SP] - 8 & U64_MAX
    try:
        copy_to_user(sp, (value & U64_MAX).to_bytes(8, "little"))
    except KernelError:
        return False
    task.thread.regs[SP] = sp
    return True


# ---- executing its copy ------------------------------------------------------------------------------------------
def arch_uprobe_pre_xol(probe: ArchUprobe, autask: ArchUprobeTask, task: TaskStruct, vaddr: int,
                        xol_vaddr: int) -> None:
    """The task goes to the copy, for one step."""
    thread = task.thread
    regs = thread.regs
    if probe.scratch >= 0:                        # riprel_pre_xol()
        autask.saved_scratch_register = regs[probe.scratch]
        regs[probe.scratch] = vaddr + probe.ilen
    regs[IP] = xol_vaddr
    autask.saved_trap_nr = thread.trap_nr
    thread.trap_nr = UPROBE_TRAP_NR
    flags = thread.get_eflags()
    autask.saved_tf = bool(flags & X86_EFLAGS_TF)
    thread.set_eflags(flags | X86_EFLAGS_TF)


@notrace
def xol_text(probe: ArchUprobe) -> bytes:
    """What lies in the slot: an instruction that the kernel emulates (rdtsc) steps over one nop, too."""
    return probe.ixol + _NOP


def arch_uprobe_post_xol(probe: ArchUprobe, autask: ArchUprobeTask, task: TaskStruct, vaddr: int,
                         xol_vaddr: int) -> bool:
    """The step is done. Answers whether the program steps itself and wants its SIGTRAP."""
    thread = task.thread
    regs = thread.regs
    thread.trap_nr = autask.saved_trap_nr
    send_sigtrap = True
    if not default_post_xol_op(probe, autask, task, vaddr, xol_vaddr):
        regs[IP] = vaddr                          # once more, from the beginning
        send_sigtrap = False
    if probe.fixups & UPROBE_FIX_PUSHF and not autask.saved_tf:
        clear_pushed_tf(regs[SP])
    if autask.saved_tf:
        return send_sigtrap
    if not probe.fixups & UPROBE_FIX_SETF:
        thread.set_eflags(thread.get_eflags() & ~X86_EFLAGS_TF)
    return False


@notrace
def clear_pushed_tf(sp: int) -> None:
    try:
        flags = int.from_bytes(copy_from_user(sp, 2), "little")
        copy_to_user(sp, (flags & ~X86_EFLAGS_TF).to_bytes(2, "little"))
    except KernelError:
        pass                                      # it was written a moment ago: another thread unmapped it


def default_post_xol_op(probe: ArchUprobe, autask: ArchUprobeTask, task: TaskStruct, vaddr: int,
                        xol_vaddr: int) -> bool:
    """False: the instruction must be executed again."""
    regs = task.thread.regs
    if probe.scratch >= 0:                        # riprel_post_xol()
        regs[probe.scratch] = autask.saved_scratch_register
    if probe.fixups & UPROBE_FIX_IP:
        ip = regs[IP]
        if ip == xol_vaddr + probe.ilen + len(_NOP):
            ip -= len(_NOP)
        regs[IP] = ip + vaddr - xol_vaddr & U64_MAX
    elif probe.fixups & UPROBE_FIX_CALL:
        regs[SP] = regs[SP] + 8 & U64_MAX         # pop the return address into the slot
        if not emulate_push_stack(task, vaddr + probe.ilen):
            return False
    elif probe.kind == "branch":                  # branch_post_xol_op(): the emulation failed, the call did not
        regs[SP] = regs[SP] + 8 & U64_MAX
        return False
    elif probe.kind == "push":
        regs[IP] = vaddr + probe.ilen
    return True


def arch_uprobe_abort_xol(probe: ArchUprobe, autask: ArchUprobeTask, task: TaskStruct, vaddr: int) -> None:
    """The copy faulted, and the task gets a signal: it is at the instruction itself."""
    thread = task.thread
    if probe.scratch >= 0:
        thread.regs[probe.scratch] = autask.saved_scratch_register
    thread.trap_nr = autask.saved_trap_nr
    thread.regs[IP] = vaddr
    if not autask.saved_tf:
        thread.set_eflags(thread.get_eflags() & ~X86_EFLAGS_TF)


@notrace
def arch_uprobe_xol_was_trapped(task: TaskStruct) -> bool:
    return bool(task.thread.trap_nr != UPROBE_TRAP_NR)


# ---- return probes -----------------------------------------------------------------------------------------------
def arch_uretprobe_hijack_return_addr(task: TaskStruct, trampoline_vaddr: int) -> int:
    """The function that begins will return to the trampoline; the address where it would. Raises EFAULT."""
    sp = task.thread.regs[SP]
    address = int.from_bytes(copy_from_user(sp, 8), "little")
    if address != trampoline_vaddr:
        copy_to_user(sp, trampoline_vaddr.to_bytes(8, "little"))
    return address


@notrace
def arch_uretprobe_is_alive(stack: int, check: int, task: TaskStruct) -> bool:
    """Whether the frame at `stack` is still there."""
    sp = task.thread.regs[SP]
    return bool(sp < stack if check == RP_CHECK_CALL else sp <= stack)     # a call has just pushed its return address
