"""A task's registers as ptrace(2) and core dumps show them: struct user_regs_struct, the FPU's, struct user.

Linux: arch/x86/kernel/ptrace.c, kernel/fpu/regset.c (5.3, 64-bit). Same: order, which bits of the flags may be
    changed, that the tracer's own trap flag is hidden, EIO for selectors and bases that cannot be.
Differs: selectors other than the flat ones (%cs 0x33, %ss 0x2b, the rest 0) do not exist: setting one is EIO.
Gaps: no XSAVE, as the CPU has none: NT_X86_XSTATE is ENODEV.
Context: any; the task is stopped, or the caller itself.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
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
from glasskernel.arch.x86.step import X86_EFLAGS_TF
from glasskernel.kernel.task import TIF_FORCED_TF
from glasskernel.lib.errno import EINVAL, EIO, ENODEV, ENXIO, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import U64_MAX, notrace, to_s64

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

NT_PRSTATUS, NT_PRFPREG, NT_386_IOPERM, NT_X86_XSTATE = 1, 2, 0x201, 0x202
NR_REGS: Final = 27                              # words of struct user_regs_struct
USER_REGS_SIZE: Final = NR_REGS * 8
_USER_CS, _USER_DS = 0x33, 0x2B
_TASK_SIZE_MAX = 0x7FFF_FFFF_F000
_FLAG_MASK = 0x0001_4DD5 | 0x40000               # CF PF AF ZF SF TF DF OF NT RF AC

# struct user_regs_struct, word by word: an index of pt_regs, or one of these
_ORIG_AX, _CS, _FLAGS, _SS, _FS_BASE, _GS_BASE, _DS = range(100, 107)
_ES = _FS = _GS = _DS
_LAYOUT = (R15, R14, R13, R12, BP, BX, R11, R10, R9, R8, AX, CX, DX, SI, DI, _ORIG_AX, IP, _CS, _FLAGS, SP, _SS,
           _FS_BASE, _GS_BASE, _DS, _ES, _FS, _GS)
_WORDS = struct.Struct(f"<{NR_REGS}Q")


@notrace
def get_flags(task: TaskStruct) -> int:
    """RFLAGS without a trap flag that is not the program's."""
    thread = task.thread
    flags = thread.get_eflags()
    if task.ti_flags & TIF_FORCED_TF or thread.debug is not None:
        flags &= ~X86_EFLAGS_TF
    return flags


def set_flags(task: TaskStruct, value: int) -> None:
    thread = task.thread
    if value & X86_EFLAGS_TF:
        task.ti_flags &= ~TIF_FORCED_TF
    elif task.ti_flags & TIF_FORCED_TF or thread.debug is not None:
        value |= X86_EFLAGS_TF
    thread.set_eflags(thread.get_eflags() & ~_FLAG_MASK | value & _FLAG_MASK)


def getreg(task: TaskStruct, word: int) -> int:
    """One word of struct user_regs_struct."""
    what = _LAYOUT[word]
    thread = task.thread
    if what < 100:
        return thread.regs[what]
    if what == _ORIG_AX:
        return thread.orig_ax & U64_MAX
    if what == _FLAGS:
        return get_flags(task)
    if what == _FS_BASE:
        return thread.fs_base
    if what == _GS_BASE:
        return thread.gs_base
    return {_CS: _USER_CS, _SS: _USER_DS}.get(what, 0)


def putreg(task: TaskStruct, word: int, value: int) -> None:
    """Raises EIO for what a user task cannot have."""
    what = _LAYOUT[word]
    thread = task.thread
    if what < 100:
        thread.regs[what] = value
    elif what == _ORIG_AX:
        thread.orig_ax = to_s64(value)
    elif what == _FLAGS:
        set_flags(task, value)
    elif what in (_FS_BASE, _GS_BASE):
        if value >= _TASK_SIZE_MAX:
            raise KernelError(EIO)
        if what == _FS_BASE:
            thread.fs_base = value
        else:
            thread.gs_base = value
    elif value & 0xFFFF != {_CS: _USER_CS, _SS: _USER_DS}.get(what, 0):
        raise KernelError(EIO)


def genregs_get(task: TaskStruct) -> bytes:
    return _WORDS.pack(*[getreg(task, word) for word in range(NR_REGS)])


def genregs_set(task: TaskStruct, data: bytes) -> None:
    """Whole words from the start; there may be fewer than all. Raises EIO."""
    for word, (value,) in enumerate(struct.iter_unpack("<Q", data)):
        putreg(task, word, value)


def xfpregs_get(task: TaskStruct) -> bytes:
    """512 bytes in FXSAVE's layout."""
    return task.thread.get_fxstate()


def xfpregs_set(task: TaskStruct, data: bytes) -> None:
    """Raises EINVAL when reserved bits of MXCSR are set."""
    area = data + task.thread.get_fxstate()[len(data) :]
    if int.from_bytes(area[24:28], "little") & ~0xFFFF:
        raise KernelError(EINVAL)
    task.thread.set_fxstate(area)


@notrace
def _no_ioperm(task: TaskStruct) -> bytes:
    raise KernelError(ENXIO)                     # the task has no I/O permission bitmap


@notrace
def _no_xsave(task: TaskStruct, data: bytes = b"") -> bytes:
    raise KernelError(ENODEV)


@notrace
def _read_only(task: TaskStruct, data: bytes) -> None:
    raise KernelError(EINVAL)


@notrace
def _no_xsave_set(task: TaskStruct, data: bytes) -> None:
    raise KernelError(ENODEV)


@slotted(frozen=True)
class UserRegset:
    """struct user_regset: n slots of `size` bytes. set() gets bytes that may end early."""

    n: int
    size: int
    get: Callable[[TaskStruct], bytes]
    set: Callable[[TaskStruct, bytes], None]


user_x86_64_view: Final = {
    NT_PRSTATUS: UserRegset(NR_REGS, 8, genregs_get, genregs_set),
    NT_PRFPREG: UserRegset(64, 8, xfpregs_get, xfpregs_set),
    NT_X86_XSTATE: UserRegset(64, 8, _no_xsave, _no_xsave_set),
    NT_386_IOPERM: UserRegset(1024, 8, _no_ioperm, _read_only),
}
