"""Signal frames: how a handler starts, and how its return brings the interrupted state back.

Linux: arch/x86/kernel/signal.c, kernel/fpu/signal.c (5.3, 64-bit). Same: the layout of rt_sigframe to the
    byte, the red zone, alignment, alternate stacks, which flags and registers sigreturn restores, when a call
    restarts.
Differs: no XSAVE (the engine's CPU has none): fpstate is the 512 bytes of FXSAVE with sw_reserved zero, and
    uc_flags has no UC_FP_XSTATE. Gaps: 32-bit and x32 frames; segment registers are saved but not restored.
Context: the current task on its way to user mode.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.ptrace import (
    AX,
    BP,
    BX,
    CX,
    DI,
    DX,
    IP,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    SI,
    SP,
)
from glasskernel.arch.x86.regset import get_flags
from glasskernel.arch.x86.step import X86_EFLAGS_TF, user_disable_single_step
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.arch.x86.uaccess import access_ok, copy_from_user, copy_to_user
from glasskernel.kernel.current import current
from glasskernel.kernel.ptrace_stop import ptrace_notify
from glasskernel.kernel.rseq import rseq_signal_deliver
from glasskernel.kernel.signal import (
    __on_sig_stack,
    __set_current_blocked,
    force_sig,
    force_sigsegv,
    on_sig_stack,
    restore_saved_sigmask,
    sas_ss_flags,
    sas_ss_reset,
    set_current_blocked,
    sigmask_to_save,
)
from glasskernel.kernel.signal_delivery import KSignal, get_signal
from glasskernel.kernel.signal_syscalls import pack_stack_t, restore_altstack
from glasskernel.kernel.signal_types import (
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESTART,
    SA_RESTORER,
    SIG_KERNEL_ONLY_MASK,
    SIGSEGV,
    SIGTRAP,
    SS_AUTODISARM,
    sigmask,
)
from glasskernel.kernel.task import TIF_SINGLESTEP
from glasskernel.lib.errno import (
    EINTR,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    KernelError,
)
from glasskernel.lib.syscalls import Registers, syscall
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

__USER_CS, __USER_DS = 0x33, 0x2B
UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS = 2, 4
X86_EFLAGS_DF, X86_EFLAGS_RF = 0x400, 0x10000
FIX_EFLAGS: Final = 0x40000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1 | 0x10000

_FRAME_SIZE: Final = 440                         # pretcode 8, ucontext 304, siginfo 128
_FPSTATE_SIZE: Final = 512
_SIGCONTEXT_OFFSET: Final = 48                   # in the frame: pretcode, uc_flags, uc_link, uc_stack
_UC_OFFSET, _UC_STACK_OFFSET, _SIGMASK_OFFSET, _INFO_OFFSET = 8, 24, 304, 312
_HEAD = struct.Struct("<QQQ")                    # pretcode, uc_flags, uc_link
_SIGCONTEXT = struct.Struct("<18QHHHHQQQQQ64s")
_SIGMASK = struct.Struct("<Q")
# the order of struct sigcontext
_SIGCONTEXT_REGS = (R8, R9, R10, R11, R12, R13, R14, R15, DI, SI, BP, BX, DX, AX, CX, SP, IP)
# FXSAVE area after FNINIT and with MXCSR at its reset value: what a handler starts with
_INIT_FPSTATE = struct.pack("<HHHHQQII", 0x37F, 0, 0, 0, 0, 0, 0x1F80, 0xFFFF).ljust(512, b"\0")

_RESTART_ERRORS = {
    -e & U64_MAX: e for e in (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK)
}
_NR_RESTART_SYSCALL: Final = SYSCALL_NUMBERS["restart_syscall"]


def do_signal(task: TaskStruct) -> None:
    """Delivers one signal to a handler, or, when there is none, restarts the interrupted call."""
    ksig = get_signal()
    if ksig is not None:
        handle_signal(ksig, task)
        return
    thread = task.thread
    if thread.orig_ax != -1:
        regs = thread.regs
        errno = _RESTART_ERRORS.get(regs[AX])
        if errno is not None:
            regs[AX] = _NR_RESTART_SYSCALL if errno == ERESTART_RESTARTBLOCK else thread.orig_ax & U64_MAX
            regs[IP] = regs[IP] - 2 & U64_MAX    # back to the SYSCALL instruction
            thread.orig_ax = -1
    restore_saved_sigmask()


def handle_signal(ksig: KSignal, task: TaskStruct) -> None:
    """Prepares the interrupted call for its restart or EINTR, then the handler's frame."""
    thread = task.thread
    regs = thread.regs
    if thread.orig_ax != -1:
        errno = _RESTART_ERRORS.get(regs[AX])
        if errno is not None:
            if errno == ERESTARTNOINTR or (errno == ERESTARTSYS and ksig.ka.flags & SA_RESTART):
                regs[AX] = thread.orig_ax & U64_MAX
                regs[IP] = regs[IP] - 2 & U64_MAX
            else:
                regs[AX] = -EINTR & U64_MAX
        thread.orig_ax = -1
    stepping = bool(task.ti_flags & TIF_SINGLESTEP)
    if stepping:
        user_disable_single_step(task)           # the frame shall not remember the tracer's trap flag
    failed = False
    try:
        setup_rt_frame(ksig, task)
    except KernelError:
        failed = True
    else:
        # The handler starts with clear direction, trap and resume flags and a fresh FPU.
        thread.set_eflags(thread.get_eflags() & ~(X86_EFLAGS_DF | X86_EFLAGS_RF | X86_EFLAGS_TF))
        thread.set_fxstate(_INIT_FPSTATE)
        if thread.debug is not None:
            thread.set_eflags(thread.get_eflags() | X86_EFLAGS_TF)
    signal_setup_done(failed, ksig, task, stepping)


def signal_setup_done(failed: bool, ksig: KSignal, task: TaskStruct, stepping: bool) -> None:
    """The frame stands (or not: SIGSEGV): blocks the signal, and the handler's mask, while the handler runs.
    """
    if failed:
        force_sigsegv(ksig.sig)
        return
    task.restore_sigmask = False
    blocked = task.blocked | ksig.ka.mask
    if not ksig.ka.flags & SA_NODEFER:
        blocked |= sigmask(ksig.sig)
    __set_current_blocked(blocked & ~SIG_KERNEL_ONLY_MASK)
    if stepping:
        ptrace_notify(SIGTRAP)                   # tracehook_signal_handler(): at the handler's first instruction


def get_sigframe(ksig: KSignal, task: TaskStruct) -> tuple[int, int]:
    """Where the frame goes, and where its FPU state.

    Raises EFAULT when it would leave the alternate stack.
    """
    sp = task.thread.regs[SP]
    onsigstack = on_sig_stack(sp)
    entering = False
    sp -= 128                                    # the red zone belongs to the interrupted function
    if ksig.ka.flags & SA_ONSTACK and sas_ss_flags(sp) == 0:
        sp = task.sas_ss_sp + task.sas_ss_size
        entering = True
    fpstate = (sp - _FPSTATE_SIZE) & ~63
    frame = ((fpstate - _FRAME_SIZE) & ~15) - 8
    if (onsigstack or entering) and not __on_sig_stack(frame):
        raise KernelError(14)
    return frame, fpstate


def setup_rt_frame(ksig: KSignal, task: TaskStruct) -> None:
    """Writes the frame on the user stack and points the registers at the handler. Raises EFAULT."""
    rseq_signal_deliver(task)
    __setup_rt_frame(ksig, task)


@notrace
def __setup_rt_frame(ksig: KSignal, task: TaskStruct) -> None:
    thread = task.thread
    regs = thread.regs
    ka = ksig.ka
    frame, fpstate = get_sigframe(ksig, task)
    if frame < 0 or not access_ok(frame, fpstate + _FPSTATE_SIZE - frame):
        raise KernelError(14)
    if not ka.flags & SA_RESTORER:
        # there is no vDSO return stub on 64-bit: the program must bring one
        raise KernelError(14)
    fxstate = thread.get_fxstate()
    sigcontext = _SIGCONTEXT.pack(
        *[regs[i] for i in _SIGCONTEXT_REGS], get_flags(task), __USER_CS, 0, 0, __USER_DS,
        thread.error_code, thread.trap_nr, task.blocked, thread.cr2, fpstate, b"",
    )
    image = b"".join((
        _HEAD.pack(ka.restorer, UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS, 0),
        pack_stack_t(task.sas_ss_sp, task.sas_ss_flags, task.sas_ss_size),
        sigcontext,
        _SIGMASK.pack(sigmask_to_save()),
        ksig.info.pack(),
        bytes(fpstate - frame - _FRAME_SIZE),    # padding between the frame and its FPU state
        fxstate[:464],
        bytes(48),                               # sw_reserved: no extended state
    ))
    copy_to_user(frame, image)
    if task.sas_ss_flags & SS_AUTODISARM:
        sas_ss_reset(task)
    regs[DI] = ksig.sig
    regs[AX] = 0                                 # for handlers without a prototype: no vector arguments
    regs[SI] = frame + _INFO_OFFSET
    regs[DX] = frame + _UC_OFFSET
    regs[IP] = ka.handler
    regs[SP] = frame


def restore_sigcontext(task: TaskStruct, context: bytes) -> None:
    """Loads the registers and the FPU from a sigcontext. Raises EFAULT, EINVAL (bad FPU state)."""
    thread = task.thread
    regs = thread.regs
    words = _SIGCONTEXT.unpack(context)
    fpstate = words[26]
    state = None
    if fpstate:
        if not access_ok(fpstate, _FPSTATE_SIZE):
            raise KernelError(14)
        state = copy_from_user(fpstate, _FPSTATE_SIZE)
    for index, value in zip(_SIGCONTEXT_REGS, words):
        regs[index] = value
    flags = words[17]
    if thread.debug is not None:
        flags |= X86_EFLAGS_TF
    thread.set_eflags(thread.get_eflags() & ~FIX_EFLAGS | flags & FIX_EFLAGS)
    thread.orig_ax = -1                          # no system call to restart
    if state is None:
        thread.set_fxstate(_INIT_FPSTATE)
    else:
        # MXCSR's reserved bits would fault; Linux masks them the same way
        mxcsr = int.from_bytes(state[24:28], "little") & 0xFFFF
        thread.set_fxstate(state[:24] + mxcsr.to_bytes(4, "little") + state[28:])


@syscall(raw=True)
def sys_rt_sigreturn(regs: Registers) -> int:
    """rt_sigreturn(2): the end of a handler. A frame that cannot be read: SIGSEGV."""
    task = current()
    frame = regs[SP] - 8                         # the return popped pretcode
    try:
        if frame < 0 or not access_ok(frame, _FRAME_SIZE):
            raise KernelError(14)
        image = copy_from_user(frame + _UC_OFFSET, _INFO_OFFSET - _UC_OFFSET)
        set_current_blocked(int(_SIGMASK.unpack_from(image, _SIGMASK_OFFSET - _UC_OFFSET)[0]))
        start = _SIGCONTEXT_OFFSET - _UC_OFFSET
        restore_sigcontext(task, image[start : start + 256])
        restore_altstack(frame + _UC_STACK_OFFSET)
    except KernelError:
        force_sig(SIGSEGV)
        return 0
    return regs[AX]
